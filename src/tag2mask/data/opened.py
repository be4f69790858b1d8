"""One photograph and its mask, opened to the last pixel: what is wrong with them, and what there is to see."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tag2mask.data.decoding import ImageError, file_orientation, turned_size
from tag2mask.data.images import read_mask
from tag2mask.data.likeness import Hash, difference_hash
from tag2mask.data.listing import Listing
from tag2mask.data.photo import Photo
from tag2mask.data.photos import PhotoSet
from tag2mask.data.pixel_kinds import Notice, look
from tag2mask.data.problems import Problem, error, warning
from tag2mask.data.settings import DataSettings
from tag2mask.hardware import memory

SMALL_SIDE = 32
"""A shorter side below this many pixels is reported: it leaves 2 cells at stride 16; ours."""

LARGE_SHARE = 0.5
"""An image with more than this share of `data.pixel_limit` is reported; ours."""

BYTES_A_PIXEL = 24
"""What a photograph takes while it is read: 8-bit RGB a few times, and 32-bit colours. Counted, not measured."""

MEMORY_SHARE = 0.25
"""An image that would take more than this share of the machine's memory to read is reported; ours."""


@dataclass(frozen=True)
class Seen:
    """What opening a photograph showed.

    Attributes:
        size: (H, W); None if it could not be opened.
        look: its hash; None likewise.
        problems: what is wrong with it.
        notices: what `pixel_warnings` counts over the whole set.
    """

    size: tuple[int, int] | None
    look: Hash | None
    problems: list[Problem]
    notices: list[Notice] = field(default_factory=list)


def open_photo(listing: Listing, photo: Photo, settings: DataSettings, most: int) -> Seen:
    """Open the image of a photograph to the last pixel; more than ``most`` pixels are reported."""
    subject = listing.shown(photo.path)
    try:
        image, notices = look(photo.path, settings)
    except ImageError as reason:
        return Seen(None, None, [error(reason.kind, subject, reason.reason)])
    height, width, _ = image.shape
    problems = []
    if min(height, width) < SMALL_SIDE:
        message = f"{width} × {height} pixels are very few; below {SMALL_SIDE} there is little to learn from"
        problems.append(warning("small-image", subject, message))
    if height * width > most:
        message = f"{width} × {height} pixels take about {height * width * BYTES_A_PIXEL / 1e9:.1f} GB to be read"
        remedy = "shrink it, a longer side of 2000 pixels is plenty; or use fewer --workers"
        problems.append(warning("large-image", subject, f"{message}; {remedy}"))
    return Seen((height, width), difference_hash(image), problems, notices)


def most_pixels(pixel_limit: int) -> int:
    """Above how many pixels an image is reported as enormous, on this machine."""
    total, _ = memory()
    fitting = pixel_limit if total is None else int(MEMORY_SHARE * total / BYTES_A_PIXEL)
    return min(int(LARGE_SHARE * pixel_limit), fitting)


def mask_problems(
    listing: Listing, photo: Photo, size: tuple[int, int] | None, settings: DataSettings, photos: PhotoSet
) -> Iterator[Problem]:
    """What is wrong with the mask of a photograph of (H, W) pixels, or with the annotation that it is painted from."""
    annotated = listing.painting.sizes.get(photo.id) if listing.painting is not None else None
    if photo.mask is None and annotated is None:
        return
    turn = 1 if size is None else file_orientation(photo.path)
    unclear = size is not None and turn > 1 and (turn <= 4 or size[0] == size[1])
    if photo.mask is None:
        yield from _annotation_problems(listing.shown(photo.path), size, annotated, turn, unclear)
        return
    subject = listing.shown(photo.mask)
    try:
        if photos.classes:
            photos.read_truth(photo, size=size, pixel_limit=settings.pixel_limit)
        else:
            read_mask(photo.mask, size=size, pixel_limit=settings.pixel_limit)
    except ImageError as reason:
        exif = f"; EXIF turns the photograph (orientation {turn}), so turn the mask likewise" if turn > 4 else ""
        yield error(reason.kind, subject, reason.reason + exif * (reason.kind == "mask-size"))
        return
    if unclear:
        message = f"EXIF turns the photograph {listing.shown(photo.path)} (orientation {turn}), and the mask's size"
        remedy = "lay it over the upright photograph, and turn it if it does not fit"
        yield warning("mask-turn", subject, f"{message} cannot tell whether it was drawn on the upright one; {remedy}")


def _annotation_problems(
    subject: str, size: tuple[int, int] | None, annotated: tuple[int, int] | None, turn: int, unclear: bool
) -> Iterator[Problem]:
    """What is wrong with the annotation of a photograph that has no mask yet."""
    if size is not None and annotated is not None and annotated != size:
        message = f"the photograph is {size[1]} × {size[0]} pixels, its annotation {annotated[1]} × {annotated[0]}"
        remedy = "its mask would not fit; use the photograph that was annotated"
        exif = f"EXIF turns the photograph (orientation {turn}), so annotate the upright one, or remove the orientation"
        yield error("mask-size", subject, f"{message}; {exif if turn > 4 else remedy}")
    elif unclear:
        message = f"EXIF turns the photograph (orientation {turn}), and the size of its annotation cannot tell whether"
        remedy = "lay the painted mask over the upright photograph; if it does not fit, remove the EXIF orientation"
        yield warning("mask-turn", subject, f"{message} the upright one was annotated; {remedy}")


def turned_photographs(photos: Iterable[Photo], sizes: Mapping[str, tuple[int, int]]) -> list[str]:
    """The photographs that EXIF turns, unless their annotation's size shows that it is of the upright photograph.

    Args:
        photos: whose headers are read; one that cannot be read is left out, and a PNG's EXIF behind its pixels is
            not found.
        sizes: (H, W) of annotations by ID.

    Returns:
        ``name (orientation 6)`` of each.
    """
    found = []
    for photo in photos:
        turn, size = turned_size(photo.path)
        shown = turn > 4 and size[0] != size[1] and sizes.get(photo.id) == size
        if turn in range(2, 9) and not shown:
            found.append(f"{photo.path.name} (orientation {turn})")
    return found
