"""The ground truth of photographs: masks that are there, and masks that are painted when they are first needed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tag2mask.data.painting import Painting, paint_masks
from tag2mask.data.photos import Photo, PhotoSet
from tag2mask.distributed import is_main, wait
from tag2mask.pipeline.config import Config
from tag2mask.pipeline.progress import progress_bar
from tag2mask.pipeline.reading import reading_workers


def with_truth(config: Config, photos: PhotoSet, console: Console) -> PhotoSet:
    """The photographs that have a ground-truth mask, which is painted first where it can be.

    Of several processes, which must all call this, the main one paints and the others wait for it. A command with a
    shard paints the masks of that shard; the others are there when their commands are through.

    Raises:
        UsageError: masks cannot be painted.
    """
    # Not by what is lacking: masks come while some processes still look for them and others have done so.
    if photos.painting is not None:
        if is_main():
            _paint(config, photos.painting, _of_shard(config, photos), photos.classes, console)
        wait()
        photos = _with_masks(photos, photos.painting.folder, photos.photos)
    return replace(photos, photos=tuple(photo for photo in photos.photos if photo.mask is not None))


def with_painted_truth(config: Config, photos: PhotoSet, console: Console) -> PhotoSet:
    """All the photographs, with masks painted where they can be and are missing; of a shard, its own.

    This process alone does so, whatever others do.

    Raises:
        UsageError: masks cannot be painted.
    """
    if photos.painting is None:
        return photos
    mine = _of_shard(config, photos)
    _paint(config, photos.painting, mine, photos.classes, console)
    return _with_masks(photos, photos.painting.folder, mine)


def _of_shard(config: Config, photos: PhotoSet) -> Sequence[Photo]:
    """The photographs that `evaluate` measures in this command's shard; all without one."""
    number, shards = config.shard_of()
    return photos.photos[number - 1 :: shards]


def _paint(
    config: Config, painting: Painting, photos: Sequence[Photo], classes: tuple[str, ...], console: Console
) -> None:
    """Paint the masks that photographs lack."""
    lacking = {photo.id for photo in photos if photo.mask is None}
    if not lacking:
        return
    with progress_bar(console, f"paint ground truth into {painting.folder}", len(lacking)) as advance:
        paint_masks(
            painting,
            lacking,
            classes,
            workers=reading_workers(config),
            pixel_limit=config.data.pixel_limit,
            on_mask=advance,
        )


def _with_masks(photos: PhotoSet, folder: Path, painted: Sequence[Photo]) -> PhotoSet:
    """The photographs, with the masks of those that are painted."""
    ids = {photo.id for photo in painted if photo.mask is None}
    masked = (replace(photo, mask=folder / f"{photo.id}.png") if photo.id in ids else photo for photo in photos.photos)
    return replace(photos, photos=tuple(masked))


def truth_plan(photos: PhotoSet) -> str:
    """How many photographs have a mask, and how many would get one; nothing is painted."""
    there = sum(photo.mask is not None for photo in photos.photos)
    lacking = len(photos.photos) - there
    return f"{there} with truth" + (f", {lacking} to paint" if photos.painting is not None and lacking else "")
