"""Every command of docs/inspection.md runs as it is printed, on small generated data."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from run_tiny import BACKBONE, TINY
from tag2mask.cli import main
from tag2mask.cli.commands import COMMANDS
from tag2mask.data import write_mask
from tag2mask.data.images import write_jpeg

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

import defects
import picture

PAGE = Path(__file__).parents[1] / "docs/inspection.md"
SMALL = {
    **{name: value for name, value in TINY.items() if name != "--report.images"},
    "--network.out_indices": "null",
    "--network.output_stride": "16",
    "--segment.network.backbone": BACKBONE,
    "--segment.network.weights": "none",
    "--segment.steps": "2",
    "--segment.batch_size": "4",
    "--segment.augment.crop": "64",
    "--segment.augment.long_side": "[64,80]",
}
SCRIPTS = {"experiments/defects.py": defects.main, "experiments/picture.py": picture.main}


def commands() -> Iterator[list[str]]:
    """The commands of the page, in order."""
    for block in re.findall(r"^```console\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        yield from (shlex.split(line) for line in block.replace("\\\n", " ").splitlines())


def draw(file: Path, defect: defects.Defect | None) -> np.ndarray:
    """Write a plate, and return where its defect is."""
    image, inside = defects.draw_plate(np.random.default_rng(len(str(file))), 96, defect)
    write_jpeg(file, image, quality=90)
    return inside


def table(root: Path, *tags: str, masks: bool = False) -> None:
    """Plates in two folders and both splits, with the tags of the page."""
    lines = ["image,tags,split"]
    for index in range(12):
        name, tag = f"{'ab'[index % 2]}/plate-{index}.jpg", ("", *tags)[index % (len(tags) + 1)]
        inside = draw(root / name, defects.pit if tag else None)
        lines.append(f"{name},{tag},{'val' if index % 2 else 'train'}")
        if masks:
            write_mask((root / "masks" / name).with_suffix(".png"), inside.astype(np.uint8) * (index % 3))
    (root / "tags.csv").write_text("\n".join(lines) + "\n")


def test_the_commands_of_the_page_run(pretrained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, defect in (("good", None), ("crack", defects.scratch), ("pit", defects.pit)):
        for index in range(4):
            draw(Path(f"parts/{folder}/{'x' * index}.jpg"), defect)
    table(Path("tiles"), "break", "crack", masks=True)
    table(Path("tissue"), "tumour;stroma", "stroma")
    table(Path("fields"), "weeds", "weeds;lodging")
    draw(Path("new-flight/one.jpg"), None)
    run = set()
    for program, verb, *words in commands():
        words = [BACKBONE if word == "NET" else word for word in words]
        if program == "python":
            small = ["--good", "6", "--defects", "5", "--size", "96"] if verb == "experiments/defects.py" else []
            monkeypatch.setattr(sys, "argv", [verb, *words, *small])
            SCRIPTS[verb]()
        elif verb != "review":  # it waits for a browser
            read = {name: value for name, value in SMALL.items() if "." not in name or COMMANDS[verb].reads(name[2:])}
            if "frozen" in words:
                read |= {"--network.backbone": pretrained, "--network.weights": "imagenet"}
            assert main([verb, *words, *(word for pair in read.items() for word in pair)]) == 0, words
        run.add(verb)
    assert run >= {"check", "run", "cams", "refine", "segment", "predict", "evaluate", *SCRIPTS}
    assert {path.name for path in Path("runs/anomaly/cams").iterdir()} == {"classifier", "anomaly", "stage.json"}
    assert Path("masks/one.png").is_file() and Path("defects.png").is_file()
