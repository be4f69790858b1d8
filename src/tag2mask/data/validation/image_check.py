"""The check of one image, its mask and its correction, opened to the last pixel; and warnings about kinds of pixels."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from tag2mask.core.errors import first_five
from tag2mask.core.hardware import memory
from tag2mask.data.dataset import ImageSet, Survey
from tag2mask.data.decoding import PAGED, decode, dropped_bands, has_more_pages, opened, turned_size
from tag2mask.data.file_names import shown_below
from tag2mask.data.images import read_mask
from tag2mask.data.manifest import ImageItem
from tag2mask.data.pixel_formats import deep_colour, deep_kind, read_rgb, to_rgb
from tag2mask.data.problems import ImageError, Problem, error, warning
from tag2mask.data.readers.scan import Listing
from tag2mask.data.settings import DataSettings
from tag2mask.data.validation.near_duplicates import Hash, difference_hash

SMALL_SIDE = 32  # a shorter side below this many pixels is reported: it leaves 2 cells at stride 16; ours
LARGE_SHARE = 0.5  # an image with more than this share of `data.pixel_limit` is reported; ours

BYTES_PER_PIXEL = 24
"""Memory that reading an image takes: 8-bit RGB a few times, and 32-bit colours. Counted, not measured."""

MEMORY_SHARE = 0.25  # an image that would take more than this share of the machine's memory to read is reported; ours
WHITE = 65535  # the value of 16 bits that becomes white
DARK = WHITE // 8  # an image whose values go up to this at most comes out nearly black; ours

RANGES = (255, 1023, 4095, 16383)  # the greatest values of 8, 10, 12 and 14 bits

NoticeKind = Literal["range", "bands", "alpha", "pages"]


@dataclass(frozen=True, slots=True)
class Notice:
    """A property of the pixels of one image that people may not expect.

    Attributes:
        kind: ``range``: more than 8 bits, read without `data.intensity`; ``bands``: bands that are not read;
            ``alpha``: partly transparent on more than half of its pixels; ``pages``: more than one page or frame.
        value: of ``range`` the greatest pixel value, of ``bands`` how many are not read; else 0.
    """

    kind: NoticeKind
    value: int = 0


@dataclass(frozen=True)
class Seen:
    """What opening an image showed.

    Attributes:
        size: (H, W); None if it could not be opened.
        look: its difference hash; None if it could not be opened, or is plain.
        problems: what is wrong with it.
        notices: what `pixel_warnings` counts over the whole set.
    """

    size: tuple[int, int] | None
    look: Hash | None
    problems: list[Problem]
    notices: list[Notice] = field(default_factory=list)


def check_image(found: Survey, item: ImageItem, settings: DataSettings, most: int) -> Seen:
    """Open an image, its mask and its correction to the last pixel; more than ``most`` pixels are reported."""
    listing, items = found.listing, found.images
    seen = _open_item(listing, item, settings, most)
    seen.problems.extend(mask_problems(listing, item, seen.size, settings, items))
    seen.problems.extend(_correction_problems(items, item, seen.size, settings))
    return seen


def _open_item(listing: Listing, item: ImageItem, settings: DataSettings, most: int) -> Seen:
    subject = listing.shown(item.path)
    try:
        image, notices = look(item.path, settings)
    except ImageError as reason:
        return Seen(None, None, [error(reason.kind, subject, reason.reason)])
    height, width, _ = image.shape
    problems = []
    if min(height, width) < SMALL_SIDE:
        message = f"{width} × {height} pixels are very few; below {SMALL_SIDE} there is little to learn from"
        problems.append(warning("small-image", subject, message))
    if height * width > most:
        message = f"{width} × {height} pixels take about {height * width * BYTES_PER_PIXEL / 1e9:.1f} GB to be read"
        remedy = "shrink it, a longer side of 2000 pixels is plenty; or use fewer --workers"
        problems.append(warning("large-image", subject, f"{message}; {remedy}"))
    return Seen((height, width), difference_hash(image), problems, notices)


def most_pixels(pixel_limit: int) -> int:
    """Above how many pixels an image is reported as large, on this machine."""
    total, _ = memory()
    fitting = pixel_limit if total is None else int(MEMORY_SHARE * total / BYTES_PER_PIXEL)
    return min(int(LARGE_SHARE * pixel_limit), fitting)


def look(path: Path, settings: DataSettings) -> tuple[npt.NDArray[np.uint8], list[Notice]]:
    """Read an image as `read_image` does, with notices about its pixels.

    Returns:
        RGB, uint8 (H, W, 3), and the notices.

    Raises:
        ImageError: as `read_image`.
    """
    notices = []
    with opened(path, pixel_limit=settings.pixel_limit) as image:
        if bands := dropped_bands(image):
            notices.append(Notice("bands", bands))
        kind = deep_kind(image)
        if settings.intensity is not None and kind is not None:
            pixels = read_rgb(path, image, settings.intensity)
        else:
            decoded = decode(path, image)
            pixels = np.array(to_rgb(path, decoded))
            if kind == "grey":
                notices.append(Notice("range", int(np.asarray(decoded).max())))
            elif kind == "colour":
                notices.append(Notice("range", _greatest(path, decoded)))
            if _is_partly_clear(decoded):
                notices.append(Notice("alpha"))
        paged = image.format in PAGED
    if paged:
        with opened(path, pixel_limit=settings.pixel_limit) as image:
            notices += [Notice("pages")] * has_more_pages(image)
    return pixels, notices


def pixel_warnings(noticed: Iterable[tuple[str, Sequence[Notice]]], root: str, count: int) -> Iterator[Problem]:
    """One warning for each kind of notice, whatever the number of images.

    Args:
        noticed: images, as they are shown, with their notices.
        root: the subject of the warnings.
        count: how many images were opened.
    """
    found: dict[NoticeKind, list[tuple[str, int]]] = {}
    for name, notices in noticed:
        for notice in notices:
            found.setdefault(notice.kind, []).append((name, notice.value))

    def said(images: Sequence[tuple[str, int]], what: str, remedy: str) -> str:
        return f"{len(images)} of {count} images {what}: {first_five(name for name, _ in images)}; {remedy}"

    if dark := [(name, value) for name, value in found.get("range", ()) if value <= DARK]:
        greatest, overall = (max(value for _, value in images) for images in (dark, found["range"]))
        what = f"have more than 8 bits and values up to {greatest} of {WHITE} only, so they come out nearly black"
        if overall <= DARK:
            limit = next(limit for limit in RANGES if overall <= limit)
            remedy = f'say which values are black and white with --data.intensity "[0, {limit}]"'
        else:
            remedy = f"values of other images go up to {overall}, so no range fits all; convert these to 8 bits"
        yield warning("small-range", root, said(dark, what, remedy))
    if bands := found.get("bands"):
        what = f"have bands beyond colour and declared alpha (up to {max(value for _, value in bands)}), not read"
        remedy = "if they matter, save three bands that show the classes as RGB; declare alpha with ExtraSamples"
        yield warning("extra-bands", root, said(bands, what, remedy))
    if alpha := found.get("alpha"):
        what = "are partly transparent on more than half of their pixels, and laid over white"
        yield warning("extra-bands", root, said(alpha, what, "if the fourth band is infrared and not alpha, remove it"))
    if pages := found.get("pages"):
        what = "have several pages or frames, and only the first is read"
        yield warning("several-pages", root, said(pages, what, "save each page that matters as an image of its own"))


def first_look(paths: Sequence[Path], settings: DataSettings) -> list[Problem]:
    """The warnings of `pixel_warnings` about a few images, for commands that open none beforehand.

    Args:
        paths: a few, since they are decoded here; those that cannot be read are left out.
        settings: the root that names are relative to, `pixel_limit` and `intensity`.
    """
    noticed = []
    for path in paths:
        try:
            noticed.append((shown_below(path, settings.root), look(path, settings)[1]))
        except ImageError:
            continue
    return list(pixel_warnings(noticed, str(settings.root or settings.tags or "data"), len(noticed)))


def _greatest(path: Path, image: Image.Image) -> int:
    """The greatest colour value of a decoded image of 16-bit colour; what is bright is rounded up to whole bytes."""
    high = int(np.asarray(image)[..., :3].max())
    if high > DARK >> 8:
        return high << 8 | 255
    with opened(path, pixel_limit=image.width * image.height) as again:
        return int(deep_colour(path, again)[..., :3].max())


def _is_partly_clear(image: Image.Image) -> bool:
    """Whether more than half of the pixels of a decoded image have an alpha between none and all."""
    if image.getbands()[-1] not in ("A", "a"):
        return False
    counts = image.getchannel(image.getbands()[-1]).histogram()
    return 2 * sum(counts[1:255]) > sum(counts)


def mask_problems(
    listing: Listing, item: ImageItem, size: tuple[int, int] | None, settings: DataSettings, images: ImageSet
) -> Iterator[Problem]:
    """What is wrong with the mask of an image of (H, W) pixels, or with the annotation that it is painted from."""
    annotated = listing.painting.sizes.get(item.id) if listing.painting is not None else None
    if item.mask is None and annotated is None:
        return
    turn = 1 if size is None else turned_size(item.path, whole=True)[0]
    unclear = size is not None and turn > 1 and (turn <= 4 or size[0] == size[1])
    if item.mask is None:
        yield from _annotation_problems(listing.shown(item.path), size, annotated, turn, unclear)
        return
    subject = listing.shown(item.mask)
    try:
        if images.classes:
            images.read_truth(item, size=size)
        else:
            read_mask(item.mask, size=size, pixel_limit=settings.pixel_limit)
    except ImageError as reason:
        exif = f"; EXIF turns the image (orientation {turn}), so turn the mask likewise" if turn > 4 else ""
        yield error(reason.kind, subject, reason.reason + exif * (reason.kind == "mask-size"))
        return
    if unclear:
        message = f"EXIF turns the image {listing.shown(item.path)} (orientation {turn}), and the mask's size"
        remedy = "lay it over the upright image, and turn it if it does not fit"
        yield warning("mask-turn", subject, f"{message} cannot tell whether it was drawn on the upright one; {remedy}")


def _annotation_problems(
    subject: str, size: tuple[int, int] | None, annotated: tuple[int, int] | None, turn: int, unclear: bool
) -> Iterator[Problem]:
    """What is wrong with the annotation of an image that has no mask yet."""
    if size is not None and annotated is not None and annotated != size:
        message = f"the image is {size[1]} × {size[0]} pixels, its annotation {annotated[1]} × {annotated[0]}"
        remedy = "its mask would not fit; use the image that was annotated"
        exif = f"EXIF turns the image (orientation {turn}), so annotate the upright one, or remove the orientation"
        yield error("mask-size", subject, f"{message}; {exif if turn > 4 else remedy}")
    elif unclear:
        message = f"EXIF turns the image (orientation {turn}), and the size of its annotation cannot tell whether"
        remedy = "lay the painted mask over the upright image; if it does not fit, remove the EXIF orientation"
        yield warning("mask-turn", subject, f"{message} the upright one was annotated; {remedy}")


def _correction_problems(
    images: ImageSet, item: ImageItem, size: tuple[int, int] | None, settings: DataSettings
) -> Iterator[Problem]:
    """What is wrong with the decision about an image of (H, W) pixels, or with its mask."""
    corrections = images.corrections
    if item.id in corrections.damaged:
        yield error("bad-correction", f"{corrections.folder}/{item.id}", corrections.damaged[item.id])
        return
    path = corrections.mask(item.id)
    if path is None:
        return
    try:
        read_mask(path, size=size, classes=len(images.classes) or None, pixel_limit=settings.pixel_limit)
    except ImageError as reason:
        yield error(reason.kind, str(path), reason.reason)


def turned_images(items: Iterable[ImageItem], sizes: Mapping[str, tuple[int, int]]) -> list[str]:
    """The images that EXIF turns, unless their annotation's size shows that it is of the upright image.

    Args:
        photos: whose headers are read; one that cannot be read is left out, and a PNG's EXIF behind its pixels is
            not found.
        sizes: (H, W) of annotations by ID.

    Returns:
        ``name (orientation 6)`` of each.
    """
    found = []
    for item in items:
        turn, size = turned_size(item.path)
        shown = turn > 4 and size[0] != size[1] and sizes.get(item.id) == size
        if turn in range(2, 9) and not shown:
            found.append(f"{item.path.name} (orientation {turn})")
    return found
