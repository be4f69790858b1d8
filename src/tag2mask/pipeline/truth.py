"""The ground truth of photographs: masks that are there, and masks that are painted when they are first needed."""

from collections.abc import Sequence

from rich.console import Console

from tag2mask.data.painting import Painting, paint_masks
from tag2mask.data.photo import Photo, Photos
from tag2mask.data.photos import PhotoSet
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
        photos = photos.of(photos.photos.with_masks(photos.painting.folder))
    return photos.of(photos.photos.where(lambda photo: photo.mask is not None))


def with_painted_truth(config: Config, photos: PhotoSet, console: Console) -> PhotoSet:
    """All the photographs, with masks painted where they can be and are missing; of a shard, its own.

    This process alone does so, whatever others do.

    Raises:
        UsageError: masks cannot be painted.
    """
    if photos.painting is None:
        return photos
    _paint(config, photos.painting, _of_shard(config, photos), photos.classes, console)
    return photos.of(photos.photos.with_masks(photos.painting.folder, existing=config.shard is not None))


def _of_shard(config: Config, photos: PhotoSet) -> Photos:
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


def truth_plan(photos: PhotoSet) -> str:
    """How many photographs have a mask, and how many would get one; nothing is painted."""
    there = sum(photo.mask is not None for photo in photos.photos)
    lacking = len(photos.photos) - there
    return f"{there} with truth" + (f", {lacking} to paint" if photos.painting is not None and lacking else "")
