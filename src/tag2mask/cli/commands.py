"""The commands of ``tag2mask``, in the order of a run. This module does not import torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes:
        summary: one line.
        function: `module:name` below `tag2mask.cli`; its parameters are the command's arguments and options.
        examples: three command lines.
        sections: the sections of settings, or single settings, that it reads; None: all.
        run: the argument with the run folder, whose settings are the defaults; empty if the run folder is ``--out``.
        writes: `run` if ``--out`` is the run folder, `result` if it is another path, empty without ``--out``.
        preset: the defaults without ``--config`` and without a run folder.
    """

    summary: str
    function: str
    examples: tuple[str, ...]
    sections: tuple[str, ...] | None = ()
    run: str = "run"
    writes: str = ""
    preset: str = "own"

    def reads(self, setting: str) -> bool:
        """Whether the command reads a section of settings, or a setting such as `train.steps`."""
        section = setting.partition(".")[0]
        return self.sections is None or section in self.sections or setting in self.sections


RECORDS = ("train.checkpoint_every", "train.log_every", "train.tensorboard")
"""The settings of the section `train` that all training stages read."""

COMMANDS = {
    "tags": Command(
        "Suggest tags for untagged images with CLIP.",
        "data:tags",
        (
            "tags images --classes cat,dog,horse",
            "tags images --classes classes.txt --table tags.csv --threshold 0.6",
            "tags images --classes cat,dog --seeds.model models/clip",
        ),
        ("data", "seeds"),
        run="",
    ),
    "masks": Command(
        "Make masks of images by the names of classes with CLIPSeg, SAM 3 or TIPSv2; no tags, no training.",
        "run:masks",
        (
            "masks images --classes cat,dog --out runs/words",
            "masks images --classes classes.txt --model facebook/sam3 --out runs/sam3",
            "masks images --classes cat,dog --out runs/words --refine.method crf",
        ),
        (
            *("data", "refine", "evaluate", "report"),
            *("seeds.model", "seeds.prompts", "seeds.batch_size", "seeds.precision"),
        ),
        run="",
        writes="run",
        preset="words",
    ),
    "doctor": Command(
        "Check this machine: versions, devices, memory, weights, and the requirements of each stage.",
        "doctor:doctor",
        ("doctor", "doctor --config voc", "doctor --json --out runs/mine"),
        None,
        run="",
    ),
    "check": Command(
        "Check a data set and list its problems.",
        "data:check",
        ("check images", "check images --data.tags tags.csv --json", "check images --with runs/mine"),
        ("data", "network.output_stride", "train", "cams", "pot"),
        run="",
    ),
    "seeds": Command(
        "Make base CAMs from the class names with CLIP, or import base CAMs.",
        "stages:seeds",
        (
            "seeds images --out runs/mine",
            "seeds --out runs/mine --from-npy clip-es",
            "seeds --out runs/mine --to-npy npy",
        ),
        None,
        run="",
        writes="run",
    ),
    "train": Command(
        "Train the POT network on images and tags.",
        "stages:train",
        (
            "train images --out runs/mine",
            "train VOC2012 --out runs/voc --config voc",
            "train --out runs/mine --restart train --train.epochs 20",
        ),
        None,
        run="",
        writes="run",
    ),
    "cams": Command(
        "Make class activation maps with the trained network.",
        "stages:cams",
        (
            "cams runs/mine",
            "cams runs/mine --cams.kinds '[classifier,pot]'",
            "cams runs/mine --restart cams --pot.num_prototypes 5",
        ),
        ("data", "cams", "pot", "external"),
    ),
    "edges": Command(
        "Train the edge network of IRN's random walk on confident labels from the CAMs.",
        "stages:edges",
        ("edges runs/mine", "edges runs/mine --shard 1/4", "edges runs/mine --restart edges --edges.epochs 5"),
        ("data", "network", "refine", "edges", *RECORDS),
    ),
    "refine": Command(
        "Make pseudo masks from class activation maps.",
        "stages:refine",
        (
            "refine runs/mine",
            "refine runs/mine --refine.method irn+crf",
            "refine runs/mine --restart refine --refine.method argmax",
        ),
        ("data", "seeds.prompts", "seeds.precision", "cams", "refine"),
    ),
    "segment": Command(
        "Train a segmentation network on the masks, and predict the splits to evaluate.",
        "stages:segment",
        (
            "segment runs/mine",
            "segment runs/voc --config deeplab-largefov",
            "segment runs/mine --restart segment --segment.epochs 30",
        ),
        ("data", "refine", "segment", "predict", "evaluate", *RECORDS),
    ),
    "confidence": Command(
        "Estimate the IoU of each mask without ground truth, and rank the images, least certain first.",
        "stages:confidence",
        ("confidence runs/mine", "confidence runs/mine --shard 1/4", "confidence runs/mine --restart confidence"),
        ("data", "refine", "segment", "predict"),
    ),
    "predict": Command(
        "Make masks of images with a trained segmentation network; no tags needed.",
        "data:predict",
        (
            "predict runs/mine images --out masks",
            "predict runs/mine 'images/**/*.jpg' --out masks --overlays",
            "predict network.onnx images --out masks --predict.scales '[0.75,1.0,1.25]'",
        ),
        ("data", "predict"),
        writes="result",
    ),
    "export": Command(
        "Export masks, or a trained network, for other tools.",
        "exchange:export",
        (
            "export coco runs/mine --out exported",
            "export cvat runs/mine/predictions/val --out exported --ignore-label background",
            "export onnx runs/mine --out network.onnx",
        ),
        ("data",),
        writes="result",
    ),
    "import": Command(
        "Import masks that were corrected in another tool.",
        "exchange:import_corrections",
        (
            "import cvat job.zip runs/mine",
            "import labelstudio export.json runs/mine",
            "import masks folder runs/mine --overwrite",
        ),
        ("data",),
    ),
    "evaluate": Command(
        "Measure masks or CAMs against ground truth.",
        "stages:evaluate",
        (
            "evaluate runs/mine",
            "evaluate runs/mine --compare runs/other",
            "evaluate masks --data.root VOC2012 --data.split val",
        ),
        ("data", "seeds", "cams", "refine", "evaluate"),
    ),
    "compare": Command(
        "Compare two ways of making masks on the same images, and list the images where they differ first.",
        "exchange:compare",
        (
            "compare runs/mine masks",
            "compare runs/mine runs/other --out differences.csv",
            "compare runs/mine runs/mine/predictions/val --data.split val",
        ),
        ("data",),
        run="",
        writes="result",
    ),
    "report": Command(
        "Write the report of a run as one HTML page.",
        "stages:report",
        ("report runs/mine", "report runs/mine --report.images 100", "report runs/mine --data.masks truth"),
        ("data", "evaluate", "report"),
    ),
    "review": Command(
        "Accept, reject and correct masks and tags on a local page in the browser.",
        "review:review",
        ("review runs/mine", "review runs/mine --open", "review runs/mine --assist facebook/sam2.1-hiera-tiny"),
        ("data",),
    ),
    "run": Command(
        "Run all stages that are not done yet.",
        "run:run",
        (
            "run images --out runs/mine",
            "run VOC2012 --out runs/voc --config voc",
            "run images --out runs/mine --segment.enabled true --repeats 3",
        ),
        None,
        run="",
        writes="run",
    ),
    "demo": Command(
        "Run all stages on generated scenes.",
        "run:demo",
        ("demo", "demo --quick", "demo --out runs/demo --scenes.size 96"),
        None,
        run="",
        writes="run",
        preset="demo",
    ),
    "completion": Command(
        "Print a script that completes commands, options and settings in a shell.",
        "completion:completion",
        ("completion bash", "completion zsh", "completion tcsh"),
        run="",
    ),
}
"""All commands by name."""


def overview() -> str:
    """The text of ``tag2mask --help``."""
    commands = [f"  {name:12}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "tag2mask: pixel masks and a segmentation network from images and their tags.",
            "",
            "usage: tag2mask COMMAND [ARGUMENT …] [--config PRESET_OR_FILE] [--section.name VALUE …]",
            "",
            *commands,
            "",
            "`tag2mask COMMAND --help` shows examples and the main settings; `--help-all` shows all settings.",
            "Your own images: `tag2mask run FOLDER --out RUN`. To try it: `tag2mask demo --quick`.",
        ]
    )
