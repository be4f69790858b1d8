"""What is wrong with decisions about masks and tags, for the check of a data set."""

from collections.abc import Iterator
from dataclasses import replace

from tag2mask.data.decided import UNRECORDED, Decided
from tag2mask.data.decoding import ImageError
from tag2mask.data.images import read_mask
from tag2mask.data.photo import Photo, Photos
from tag2mask.data.photos import survey
from tag2mask.data.problems import Problem, error, warning
from tag2mask.data.settings import DataSettings


def correction_problems(
    decided: Decided, photo: Photo, size: tuple[int, int] | None, settings: DataSettings, classes: int
) -> Iterator[Problem]:
    """What is wrong with the decision about a photograph of (H, W) pixels: it is damaged, or its mask is no mask."""
    if photo.id in decided.damaged:
        yield error("bad-correction", f"{decided.folder}/{photo.id}", decided.damaged[photo.id])
        return
    path = decided.mask(photo.id)
    if path is None:
        return
    try:
        read_mask(path, size=size, classes=classes or None, pixel_limit=settings.pixel_limit)
    except ImageError as reason:
        yield error(reason.kind, str(path), reason.reason)


def stray_corrections(decided: Decided, photos: Photos, settings: DataSettings) -> Iterator[Problem]:
    """Decisions about what is no photograph of the data set, in any split, and masks of nobody knows which classes."""
    stray = {*decided.ids()}
    if stray:
        stray -= {photo.id for photo in photos if photo.id in stray}
    if stray and settings.split is not None:
        everywhere = survey(replace(settings, split=None, corrections=None)).photos.photos
        stray -= {photo.id for photo in everywhere if photo.id in stray}
    if decided.unrecorded:
        yield warning("bad-corrections", str(decided.folder), UNRECORDED)
    for photo_id in sorted(stray):
        message = f"there is no photograph {photo_id}, so what was decided about it has no effect"
        yield warning("stray-correction", f"{decided.folder}/{photo_id}", f"{message}; is it renamed, or left out?")


def correction_notes(decided: Decided) -> Iterator[str]:
    """How many decisions there are."""
    if decided.folder is not None:
        yield f"decisions in {decided.folder}: {decided.sentence() or 'none'}"
