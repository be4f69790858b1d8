"""The ground truth of photographs: masks that are there, and masks that are painted when they are first needed."""

from rich.console import Console

from tag2mask.data.painting import paint_masks
from tag2mask.data.photos import PhotoSet
from tag2mask.pipeline.config import Config
from tag2mask.pipeline.progress import progress_bar
from tag2mask.pipeline.reading import reading_workers


def with_truth(config: Config, photos: PhotoSet, console: Console) -> PhotoSet:
    """The photographs that have a ground-truth mask, which is painted first where it can be.

    Raises:
        UsageError: masks cannot be painted.
    """
    photos = with_painted_truth(config, photos, console)
    return photos.of(photos.photos.where(lambda photo: photo.mask is not None))


def with_painted_truth(config: Config, photos: PhotoSet, console: Console) -> PhotoSet:
    """All the photographs, with masks painted where they can be and are missing.

    Raises:
        UsageError: masks cannot be painted.
    """
    painting = photos.painting
    lacking = {photo.id for photo in photos.photos if photo.mask is None}
    if painting is None or not lacking:
        return photos
    with progress_bar(console, f"paint ground truth into {painting.folder}", len(lacking)) as advance:
        paint_masks(
            painting,
            lacking,
            photos.classes,
            workers=reading_workers(config),
            pixel_limit=config.data.pixel_limit,
            on_mask=advance,
        )
    return photos.of(photos.photos.with_masks(painting.folder))


def truth_plan(photos: PhotoSet) -> str:
    """How many photographs have a mask, and how many would get one; nothing is painted."""
    there = sum(photo.mask is not None for photo in photos.photos)
    lacking = len(photos.photos) - there
    return f"{there} with truth" + (f", {lacking} to paint" if photos.painting is not None and lacking else "")
