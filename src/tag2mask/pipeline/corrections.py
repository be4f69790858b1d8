"""What people decided, in a run: where it is kept, and how the stages take it in."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import yaml

from tag2mask.data.final_masks import FinalMasks
from tag2mask.data.photos import PhotoSet
from tag2mask.data.settings import DataSettings
from tag2mask.errors import UsageError
from tag2mask.files import read_json, write_json
from tag2mask.pipeline.config import Config, absolute
from tag2mask.pipeline.lock import held, is_held_here
from tag2mask.pipeline.progress import StageResult
from tag2mask.pipeline.run_folder import RunFolder

OWN = "corrections"
"""The folder of a run for what is decided about its masks; no stage deletes or overwrites it."""

TAGS = "train/learnt_from.json"
"""The tags that people had decided when training began."""


def corrections_folder(config: Config, run: RunFolder) -> Path:
    """Where a review of a run keeps its decisions: `data.corrections`, or the run's own folder; need not be there."""
    return config.data.corrections or run / OWN


def record_corrections(run: RunFolder, folder: Path) -> None:
    """Have every later command over a run read a folder of decisions: its config.yaml says so from now on.

    Makes the folder. Where config.yaml has it already, nothing is written, and so no lock is needed; else the run's
    lock is taken for that moment, unless this process holds it.

    Args:
        run: the run.
        folder: of the decisions.

    Raises:
        UsageError: it is no run, or another command works there.
    """
    if not (run / "config.yaml").is_file():
        raise UsageError(f"{run.path} is no run folder: it has no config.yaml")
    folder = folder.absolute()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; corrections are a folder of ID.png and ID.json")
    folder.mkdir(parents=True, exist_ok=True)
    if remembered_corrections(run.path) == folder:
        return
    with nullcontext() if is_held_here(run.path) else held(run.path, "review"):
        run.record_setting("data", "corrections", str(folder))


def remember_corrections(config: Config, run: RunFolder) -> None:
    """Have later commands read the folder that this one was given, or none; the caller holds the run's lock."""
    folder = absolute(config).data.corrections
    if remembered_corrections(run.path) != folder:
        run.record_setting("data", "corrections", None if folder is None else str(folder))


def remembered_corrections(out: Path) -> Path | None:
    """The folder of decisions that a run's config.yaml names; None where there is no such file, or it names none."""
    try:
        data = (yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8")) or {}).get("data")
    except (OSError, ValueError, yaml.YAMLError, AttributeError):  # whoever reads the settings says what is wrong
        return None
    folder = data.get("corrections") if isinstance(data, dict) else None
    return Path(folder) if isinstance(folder, str) else None


def data_of(config: Config, run: Path | None) -> DataSettings:
    """The settings of the data; without the run's own folder of decisions as long as it is not there."""
    folder = config.data.corrections
    if folder is None or run is None or folder.absolute() != (run / OWN).absolute() or folder.exists():
        return config.data
    return replace(config.data, corrections=None)


def without_damaged(photos: PhotoSet, result: StageResult) -> PhotoSet:
    """The photographs without those about which a decision is damaged; they have failed."""
    damaged = photos.decided.damaged
    if not damaged:
        return photos
    kept = photos.photos.where(lambda photo: photo.id not in damaged)
    if len(kept) < len(photos.photos):
        result.failed.update({photo.id: damaged[photo.id] for photo in photos.photos if photo.id in damaged})
    return photos.of(kept)


def final_masks(run: RunFolder, photos: PhotoSet, *, at_random: bool = False) -> FinalMasks:
    """The masks of a run that count, people's among them."""
    return FinalMasks(run.folder("masks", at_random=at_random), photos.decided)


def record_tags(run: RunFolder, photos: PhotoSet) -> None:
    """Note, where a training begins, which tags people had decided by then."""
    decided = _decided_tags(photos)
    if decided and not (run / "train/state.pt").is_file():
        write_json(run / TAGS, {"tags": {photo_id: list(tags) for photo_id, tags in decided.items()}})


def newer_tags(run: RunFolder, photos: PhotoSet) -> int:
    """Of how many photographs somebody decided the tags, or took that back, since the network was trained."""
    known = read_json(run / TAGS)["tags"] if (run / TAGS).is_file() else {}
    now = _decided_tags(photos)
    return sum(now.get(photo_id) != _tuple(known.get(photo_id)) for photo_id in {*known, *now})


def _decided_tags(photos: PhotoSet) -> dict[str, tuple[int, ...]]:
    """The tags that people decided, of these photographs."""
    tags = photos.decided.tags
    return {photo.id: photo.tags for photo in photos.photos if photo.id in tags} if tags else {}


def _tuple(values: list[int] | None) -> tuple[int, ...] | None:
    return None if values is None else tuple(values)
