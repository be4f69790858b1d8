"""The verbs of the command line: thin, each a few lines over the pipeline."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path

from tag2mask.cli.console import errors, output, print_json
from tag2mask.cli.doctor import DESCRIPTION, doctor
from tag2mask.cli.request import Request, Verb
from tag2mask.cli.stages import do_stages, do_under_lock, finish
from tag2mask.errors import UsageError
from tag2mask.pipeline.config import presets
from tag2mask.pipeline.progress import StageResult
from tag2mask.pipeline.run_folder import RunFolder


def _alone(action: Callable[[Request], int]) -> Callable[[Request], int]:
    """What one process does: of several the main one refuses it, and the others end without a word."""

    @wraps(action)
    def refusing(request: Request) -> int:
        from tag2mask.distributed import is_main, process_count

        if process_count() == 1:
            return action(request)
        if not is_main():
            return 0
        instead = "; several commands share the photographs with --shard i/n" if request.verb == "predict" else ""
        what = f"{request.verb} FOLDER" if request.verb == "evaluate" else request.verb
        raise UsageError(f"{what} is for one process; torchrun goes with the stages of a run{instead}")

    return refusing


def _one_stage(request: Request) -> int:
    """`train`, `cams`, `edges`, `refine`, `confidence`."""
    return do_stages(request, [request.verb])


def _segment(request: Request) -> int:
    """`segment`: the network, and what it says of the splits that are measured."""
    return do_stages(request, ["segment", "predictions"])


def _seeds(request: Request) -> int:
    """`seeds`: base CAMs made or imported, and exported where asked."""
    from tag2mask.pipeline.seeds import export_npy

    source, target = request.options["from_npy"], request.options["to_npy"]
    if source is not None:
        seeds = replace(request.config.seeds, from_npy=Path(source))
        request = replace(request, config=replace(request.config, seeds=seeds))
    return do_stages(request, ["seeds"], *([] if target is None else [partial(export_npy, folder=Path(target))]))


def _run(request: Request) -> int:
    """`run`: every stage, once or with several seeds."""
    from tag2mask.cli.repeats import repeat
    from tag2mask.pipeline.stages import stages_of

    def do(request: Request) -> int:
        return do_stages(request, stages_of(request.config))

    return do(request) if request.options["repeats"] is None else repeat(request, do)


@_alone
def _demo(request: Request) -> int:
    """`demo`: `run` on generated scenes."""
    from tag2mask.pipeline.demo import FOLDER, prepare_demo
    from tag2mask.pipeline.stages import stages_of

    if request.options["dry_run"]:
        scenes, stages = request.config.scenes, ", ".join(stages_of(request.config))
        output().print(f"would paint {scenes.train + scenes.val} scenes, then do {stages}", highlight=False)
        return 0
    request = replace(request, config=replace(request.config, out=request.config.out or FOLDER))
    run = request.run_folder()
    with request.lock():
        request = replace(request, config=prepare_demo(request.config, errors()))
        return do_under_lock(request, run, stages_of(request.config))


def _evaluate(request: Request) -> int:
    """`evaluate`: a folder of masks or CAMs, or all that a run made, against the ground truth."""
    from tag2mask.pipeline.evaluate import compare_runs

    against = request.options["against"]
    if request.options["folder"] is None:
        if against is None:
            return do_stages(request, ["evaluate"])
        other = RunFolder(Path(against)).metrics()  # before anything is measured
        return do_stages(request, ["evaluate"], partial(compare_runs, other=other))
    if against is not None:
        raise UsageError("evaluate --against compares two runs; it goes with --out RUN, not with a folder")
    return _evaluate_folder(request)


@_alone
def _evaluate_folder(request: Request) -> int:
    """`evaluate FOLDER`: that folder alone."""
    from tag2mask.pipeline.evaluate_folder import evaluate_folder

    folder = Path(request.options["folder"])
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder of masks or CAMs")
    figures = evaluate_folder(request.config, folder, errors())
    if request.options["as_json"]:
        print_json(figures.to_json())
    else:
        output().print(figures.render(str(folder)))
    return 0


def _report(request: Request) -> int:
    """`report`: the page of a run."""
    path = Path(request.options["run"])
    if not (path / "config.yaml").is_file():
        raise UsageError(f"{path} is no run folder: it has no config.yaml")
    again = request.again(["--config", str(path / "config.yaml")], ["--out", str(path)])
    return 0 if again is None else do_stages(again, ["report"])


def _doctor(request: Request) -> int:
    """`doctor`, which the command line does before it comes here."""
    return doctor(request.words)


@_alone
def _check(request: Request) -> int:
    """`check`: is the data sound?"""
    from tag2mask.cli.check import check

    return check(request)


@_alone
def _tags(request: Request) -> int:
    """`tags`: suggestions for photographs without tags."""
    from tag2mask.pipeline.tags import suggest_tags

    options = request.options
    try:
        threshold = float(options["threshold"] or 0.5)
    except ValueError as error:
        raise UsageError(f"--threshold should be a number, received {options['threshold']!r}") from error
    place, table = Path(options["photos"]), Path(options["table"] or "suggested-tags.csv")
    if options["dry_run"]:
        said = f"would write {table} for the photographs below {place}"
        output().print(said, highlight=False, markup=False, soft_wrap=True)
        return 0
    return finish(request, [suggest_tags(request.config, place, options["classes"], table, threshold, errors())])


@_alone
def _predict(request: Request) -> int:
    """`predict`: masks of photographs by a trained segmentation network."""
    from tag2mask.pipeline.predict import Predict

    options = request.options
    if options["model"] is None:
        raise UsageError("predict needs --model PATH, a segmentation network or the run that trained it")
    stage = Predict(options["photos"], Path(options["model"]), overlays=options["overlays"], again=options["again"])
    config = request.config
    run = request.run_folder()
    photos = stage.photos(config, run)
    if options["dry_run"]:
        plan = stage.plan(config, run, photos)
        output().print(f"predict: {plan.work}", highlight=False, markup=False, soft_wrap=True)
        return 0
    stage.require(config, run, photos)
    with request.lock():
        return finish(request, [stage.do(config, run, errors())])


@_alone
def _export(request: Request) -> int:
    """`export`: a network or masks in the format of other tools."""
    from tag2mask.cli.exchange import export, refuse_options
    from tag2mask.export import export_onnx, require_onnx
    from tag2mask.predictor import load_segmenter, network_file

    options = request.options
    if options["format"] != "onnx":
        return finish(request, export(request))
    refuse_options(request, "onnx", {"model"})
    if options["model"] is None or request.config.out is None:
        raise UsageError("export onnx needs --model PATH, a segmentation network, and --out FILE.onnx")
    model, target = network_file(Path(options["model"])), request.config.out
    if not model.is_file():
        raise UsageError(f"--model {model} does not exist; give the .safetensors of a segmentation network")
    if target.suffix != ".onnx" or target.is_dir():
        raise UsageError(f"--out {target} should name a file with the suffix .onnx")
    require_onnx()
    if options["dry_run"]:
        output().print(f"would write {model} as {target}", highlight=False, markup=False, soft_wrap=True)
        return 0
    result = StageResult("export", done=1)
    result.notes.append(export_onnx(load_segmenter(model), target).sentence())
    return finish(request, [result])


@_alone
def _import(request: Request) -> int:
    """`import`: corrected masks from another tool, as a folder of masks."""
    from tag2mask.cli.exchange import corrections

    return finish(request, corrections(request))


@_alone
def _review(request: Request) -> int:
    """`review`: the page where masks and tags are corrected."""
    from tag2mask.cli.review import review

    return review(request)


VERBS = {
    "tags": Verb(
        "Suggest tags for photographs that have none, for review.",
        _tags,
        ("photos", "the folder with the photographs"),
        values=(
            ("--classes", "NAMES", "what they may hold: names with commas, or a file"),
            ("--table", "FILE", "the table to write; suggested-tags.csv if not given"),
            ("--threshold", "SCORE", "from which score on a class is suggested; 0.5 if not given"),
        ),
    ),
    "doctor": Verb(DESCRIPTION, _doctor),
    "check": Verb(
        "Is the data sound? Lists everything that is wrong with it.",
        _check,
        ("data_folder", "photographs, or a tags table"),
        values=(
            ("--with", "RUN", "list the tags that the trained network of a run doubts, and the time by its records"),
        ),
    ),
    "seeds": Verb(
        "Make base CAMs from text with CLIP, or import them.",
        _seeds,
        values=(
            ("--from-npy", "DIR", "take base CAMs from CLIP-ES's files ID.npy instead of making them"),
            ("--to-npy", "DIR", "write the base CAMs as CLIP-ES's files as well"),
        ),
        restarts=True,
    ),
    "train": Verb("Train the POT network from photographs and tags.", _one_stage, restarts=True),
    "cams": Verb("Make class activation maps with the trained network.", _one_stage, restarts=True),
    "edges": Verb(
        "Train the edge network that IRN's random walk follows, on sure labels of the CAMs.", _one_stage, restarts=True
    ),
    "refine": Verb("Make masks from class activation maps.", _one_stage, restarts=True),
    "segment": Verb(
        "Train a segmentation network on the masks, and predict the splits that are measured.", _segment, restarts=True
    ),
    "confidence": Verb(
        "Say how sure each mask is, without truth, and which photographs to look at first.", _one_stage, restarts=True
    ),
    "predict": Verb(
        "Label photographs with a trained segmentation network; needs no tags.",
        _predict,
        ("photos", "a folder, an image, or a quoted pattern such as 'photos/**/*.jpg'"),
        (
            ("--overlays", "also write each mask over its photograph, as overlays/ID.jpg"),
            ("--again", "delete the masks that are there and make them all again"),
        ),
        (("--model", "PATH", "the network: a .safetensors file, or the folder of the run that trained it"),),
    ),
    "export": Verb(
        "Write a trained network, or masks, for other tools.",
        _export,
        ("format", "onnx (a network), or voc, coco, yolo, cvat, labelstudio, fiftyone, shards (masks)"),
        (
            ("--polygons", "coco: outlines instead of run lengths; holes are lost"),
            ("--again", "replace an earlier export in --out"),
        ),
        (
            ("--model", "PATH", "onnx: a .safetensors file, or the folder of the run that trained the network"),
            ("--masks", "PATH", "the masks: a run, its predictions/SPLIT, or any folder of ID.png"),
            (
                "--images",
                "HOW",
                "the photographs: none, copy, link or symlink; yolo, fiftyone: symlink, else none",
            ),
            ("--pieces", "KIND", "coco: an annotation for each of the components (default) or classes of a mask"),
            ("--least-pixels", "N", "coco, yolo: leave out smaller pieces; 16 for yolo, else 1"),
            (
                "--ignored",
                "LABEL",
                "cvat, labelstudio: the label of 255, or background; ignored if not given",
            ),
            ("--per-shard", "N", "shards: samples in a tar; 1000 if not given"),
            ("--store", "URL", "shards: where the tars go, as s3://bucket/masks; into --out if not given"),
            ("--url", "PREFIX", "labelstudio: stands before the photograph's name; /data/local-files/?d= if not given"),
        ),
    ),
    "import": Verb(
        "Write masks that were corrected in another tool as a folder of masks.",
        _import,
        ("format", "cvat, labelstudio, or masks (a folder of ID.png)"),
        (("--again", "replace an earlier import in --out"),),
        (
            ("--run", "PATH", "the run whose classes and photographs they are of"),
            ("--ignored", "LABEL", "the label that is 255; ignored if not given"),
        ),
        ("file", "what the tool exported: a zip, a JSON file, or a folder"),
    ),
    "evaluate": Verb(
        "Measure masks or CAMs against ground truth.",
        _evaluate,
        ("folder", "masks (.png) or CAM files (.npz); without it, all that the run in --out made"),
        values=(("--against", "RUN", "put the segmentation network beside that of another run, class by class"),),
        restarts=True,
    ),
    "report": Verb("Write the page of a run.", _report, ("run", "the run folder"), restarts=True),
    "review": Verb(
        "Serve a page on this machine where masks and tags are accepted, rejected and corrected.",
        _review,
        ("run", "the run folder"),
        (("--open", "open the page in the browser"),),
        (
            ("--host", "HOST", "127.0.0.1 if not given; or ::1, or localhost, and no other"),
            ("--port", "N", "the first free one from 8765 on if not given"),
        ),
    ),
    "run": Verb(
        "Do every stage, skipping what is done.",
        _run,
        values=(("--repeats", "N", "N runs with seeds from --seed on, in RUN/seed-S, and the spread of figures"),),
        restarts=True,
    ),
    "demo": Verb(
        "See the method at work on generated scenes.",
        _demo,
        None,
        (("--quick", "a tiny demo, in under a minute"),),
        restarts=True,
    ),
}
"""Every verb, in the order of a run."""


def overview() -> str:
    """What ``tag2mask --help`` says."""
    verbs = [f"  {name:12}{verb.description}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "tag2mask: photographs and their tags in, pixel masks out.",
            "",
            "usage: tag2mask VERB [--config PRESET_OR_FILE] [--section.name VALUE …]",
            "",
            *verbs,
            "",
            f"`tag2mask VERB --help` lists the settings of a verb. Presets: {', '.join(presets())}.",
        ]
    )
