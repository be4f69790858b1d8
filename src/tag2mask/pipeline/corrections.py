"""What people decided, in a run: where it is kept, and how the stages take it in."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from tag2mask.data.decided import Decided, FinalMasks, read_decided
from tag2mask.data.photos import PhotoSet
from tag2mask.data.problems import Problem
from tag2mask.data.settings import DataSettings
from tag2mask.errors import Tag2maskError
from tag2mask.files import read_json, write_json
from tag2mask.pipeline.config import Config, absolute
from tag2mask.pipeline.progress import StageResult
from tag2mask.pipeline.run_folder import RunFolder

OWN = "corrections"
"""The folder of a run for what is decided about its masks; where it is there, it counts, and no stage changes it."""

TAGS = "train/learnt_from.json"
"""The tags that people had decided when training began."""


def corrections_folder(config: Config, run: RunFolder) -> Path:
    """Where a review of a run keeps its decisions: `data.corrections`, else the run's own folder; need not be there."""
    return config.data.corrections or run / OWN


def with_remembered(config: Config, given: Path | None) -> Config:
    """The settings with the folder of decisions that the run in `out` remembers.

    Args:
        config: of a command that names no such folder itself.
        given: the folder where nothing is there yet that could remember one.
    """
    known = config.out is not None and (config.out / "config.yaml").is_file()
    folder = remembered_corrections(config.out) if known and config.out is not None else given
    return replace(config, data=replace(config.data, corrections=folder))


def remember_corrections(config: Config, run: RunFolder) -> None:
    """Have later commands read the folder that this one was given, or none; the caller holds the run's lock.

    The run's own is not remembered: it counts by itself, wherever the run is moved or copied to.
    """
    folder = absolute(config).data.corrections
    if folder is not None and is_own(folder, run.path):
        folder = None
    if remembered_corrections(run.path) != folder:
        run.record_setting("data", "corrections", None if folder is None else str(folder))


def remembered_corrections(out: Path) -> Path | None:
    """The folder of decisions that a run's config.yaml names; None where there is no such file, or it names none."""
    return corrections_in(out / "config.yaml")


def corrections_in(file: Path) -> Path | None:
    """The folder of decisions that a file of settings names; None where it names none, or cannot be read."""
    try:
        data = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("data")
    except (OSError, ValueError, yaml.YAMLError, AttributeError, RecursionError):  # who reads the settings says so
        return None
    folder = data.get("corrections") if isinstance(data, dict) else None
    return Path(folder) if isinstance(folder, str) else None


def is_own(folder: Path, run: Path) -> bool:
    """Whether a folder is the one inside a run."""
    return folder.absolute() == (run / OWN).absolute()


def data_of(config: Config, run: Path | None) -> DataSettings:
    """The settings of the data with the folder of decisions that counts: `data.corrections`, else the run's own."""
    folder = config.data.corrections
    if run is None or not (folder is None or is_own(folder, run)):
        return config.data
    own = run / OWN
    return replace(config.data, corrections=own if own.exists() else None)


def read_together(folder: Path | None, classes: Sequence[str]) -> tuple[Decided, list[Problem]]:
    """As `read_decided`, but once for all processes, which must all call this: a review may go on meanwhile."""
    from tag2mask.distributed import gathered, is_main  # takes a second, and every command reads this file

    return gathered(read_decided(folder, classes) if is_main() else (Decided(), []))[0]


def without_damaged(photos: PhotoSet, result: StageResult) -> PhotoSet:
    """The photographs without those about which a decision is damaged; they have failed.

    What deals photographs to batches or shards takes all of them, so that the others stay where they are, and leaves
    the damaged ones out of that.
    """
    damaged = photos.decided.damaged
    if not damaged:
        return photos
    result.failed.update({photo.id: damaged[photo.id] for photo in photos.photos if photo.id in damaged})
    return photos.of(photos.photos.where(lambda photo: photo.id not in damaged))


def final_masks(run: RunFolder, photos: PhotoSet) -> FinalMasks:
    """The masks of a run that count, people's among them."""
    return FinalMasks(run / "masks", photos.decided)


def record_tags(run: RunFolder, photos: PhotoSet) -> None:
    """Note, where a training begins, which tags people had decided by then."""
    if (run / "train/state.pt").is_file():
        return
    decided = _decided_tags(photos)
    if decided:
        write_json(run / TAGS, {"tags": {photo_id: list(tags) for photo_id, tags in decided.items()}})
    else:
        (run / TAGS).unlink(missing_ok=True)


def newer_tags(run: RunFolder, photos: PhotoSet) -> int:
    """Of how many photographs somebody decided the tags, or took that back, since the network was trained.

    Raises:
        Tag2maskError: the record of that time is damaged.
    """
    known, now = _known_tags(run / TAGS), _decided_tags(photos)
    return sum(now.get(photo_id) != known.get(photo_id) for photo_id in {*known, *now})


def _known_tags(path: Path) -> dict[str, tuple[int, ...]]:
    """The tags that were noted."""
    if not path.is_file():
        return {}
    try:
        return {photo_id: tuple(int(tag) for tag in tags) for photo_id, tags in read_json(path)["tags"].items()}
    except (Tag2maskError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Tag2maskError(
            f"{path} is damaged: it does not say which tags people had decided; --restart train learns anew"
        ) from error


def _decided_tags(photos: PhotoSet) -> dict[str, tuple[int, ...]]:
    """The tags that people decided, of these photographs."""
    tags = photos.decided.tags
    return {photo.id: photo.tags for photo in photos.photos if photo.id in tags} if tags else {}
