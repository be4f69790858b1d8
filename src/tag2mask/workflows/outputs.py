"""The files that a user takes from a run or from `predict`, and the commands that come next."""

from collections.abc import Mapping
from pathlib import Path
from shlex import quote

from tag2mask.data.classes import CLASS_IDS
from tag2mask.prediction.predictor import SEGMENT_NETWORK
from tag2mask.report.summary import next_steps
from tag2mask.workflows.overlays import OVERLAYS
from tag2mask.workflows.predict import RECORD

_OF_RUN = {
    "masks": "masks",
    "class ids": f"masks/{CLASS_IDS}",
    "overlays": OVERLAYS,
    "network": SEGMENT_NETWORK,
    "report": "report.html",
}
_OF_PREDICT = {"masks": ".", "class ids": CLASS_IDS, "overlays": OVERLAYS, "shares of classes": RECORD}


def output_paths(folder: Path) -> dict[str, Path]:
    """The outputs that exist in a run folder, or in an output folder of `predict`, by what they are."""
    known = _OF_PREDICT if _is_of_predict(folder) else _OF_RUN
    return {name: folder / place for name, place in known.items() if (folder / place).exists()}


def summary(folder: Path, paths: Mapping[str, Path]) -> list[str]:
    """Outputs, by what they are, and the next steps as lines of text."""
    commands = next_steps(folder)
    if _is_of_predict(folder):
        export = f"tag2mask export coco {quote(str(folder))} --out {quote(f'{folder}-coco')}"
        commands = {export: "masks for other tools"}
    width, wide = max(map(len, ("next", *paths))), max(map(len, commands))
    lines = [f"{name:{width}}  {path}" for name, path in paths.items()]
    for number, (command, purpose) in enumerate(commands.items()):
        lines.append(f"{'' if number else 'next':{width}}  {command:{wide}}  {purpose}")
    return lines


def _is_of_predict(folder: Path) -> bool:
    return (folder / "predict/stage.json").is_file()
