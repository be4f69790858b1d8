"""The files that a user takes from a run or from `predict`, and the commands that come next."""

from pathlib import Path
from shlex import quote

from tag2mask.data.classes import CLASS_IDS
from tag2mask.prediction.predictor import SEGMENT_NETWORK
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
    known = _OF_PREDICT if (folder / RECORD).is_file() else _OF_RUN
    return {name: folder / place for name, place in known.items() if (folder / place).exists()}


def next_steps(folder: Path) -> dict[str, str]:
    """What to do with a finished run, or with masks by `predict`: commands, and the purpose of each."""
    named = quote(str(folder))
    export = {f"tag2mask export coco {named} --out FOLDER": "masks for other tools"}
    if (folder / RECORD).is_file():
        return export
    steps = {f"tag2mask review {named}": "accept or correct masks, least certain first"}
    if (folder / SEGMENT_NETWORK).is_file():
        steps[f"tag2mask predict {named} IMAGES --out FOLDER"] = "masks of images without tags"
    else:
        steps[f"tag2mask segment {named}"] = "train a network that needs no tags"
    return steps | export


def summary(folder: Path) -> list[str]:
    """The outputs and the next steps as lines of text."""
    paths, commands = output_paths(folder), next_steps(folder)
    width, wide = max(map(len, ("next", *paths))), max(map(len, commands))
    lines = [f"{name:{width}}  {path}" for name, path in paths.items()]
    for number, (command, purpose) in enumerate(commands.items()):
        lines.append(f"{'' if number else 'next':{width}}  {command:{wide}}  {purpose}")
    return lines
