"""Command lines of a tiny run, for tests of the stages."""

import json
from pathlib import Path

import pytest

from tag2mask.cli import main
from tag2mask.cli.commands import COMMANDS
from tag2mask.data import DataSettings
from tag2mask.runs.config import Config
from tag2mask.runs.run_folder import RunFolder

Capture = pytest.CaptureFixture[str]
"""What a command printed, as the fixture `capsys` gives it."""

BACKBONE = str(Path(__file__).parent / "tiny_backbone")
"""A ResNet of four narrow blocks: what the stages do with each other needs no more."""

TINY = {
    "--network.backbone": BACKBONE,
    "--network.weights": "none",
    "--train.steps": "4",
    "--train.epochs": "6",
    "--train.batch_size": "4",
    "--train.checkpoint_every": "2",
    "--train.log_every": "1",
    "--train.augment.crop": "64",
    "--train.augment.long_side": "[64,80]",
    "--cams.scales": "[1.0]",
    "--cams.long_side": "null",
    "--cams.batch_size": "3",
    "--cams.precision": "fp32",
    "--predict.precision": "fp32",
    "--refine.method": "argmax",
    "--refine.long_side": "1024",
    "--workers": "0",
    "--device": "cpu",
    "--report.images": "3",
}

TINY_WORDS = [word for pair in TINY.items() for word in pair]


def words(verb: str, scenes: Path, out: Path, **changes: str) -> list[str]:
    """The words of a command over generated scenes.

    Args:
        verb: the command.
        scenes: the data.
        out: the run folder.
        changes: settings, a double underscore for each dot; those that the command does not read are left out.
    """
    command = COMMANDS[verb]
    settings = {"--data.root": str(scenes), "--data.masks": str(scenes / "masks"), "--data.split": "train", **TINY}
    settings |= {f"--{name.replace('__', '.')}": value for name, value in changes.items()}
    read = {name: value for name, value in settings.items() if "." not in name or command.reads(name[2:])}
    place = [str(out)] if command.run else ["--out", str(out)]
    return [verb, *place, *(word for pair in read.items() for word in pair)]


def run(verb: str, scenes: Path, out: Path, **changes: str) -> int:
    """Run a command in this process; its exit code."""
    return main(words(verb, scenes, out, **changes))


def empty_run(out: Path, root: Path, **settings: str) -> Path:
    """A run folder over a data set in which no stage was done; settings of `data`."""
    RunFolder(out).record_config(Config(data=DataSettings(root=root, **settings)))
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def figures(out: Path) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """The figures that a run measured."""
    return json.loads((out / "metrics.json").read_text())
