"""The check of one image, its mask and its correction, decoded completely; and warnings about kinds of pixels."""

from collections import defaultdict
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
from tag2mask.data.problems import ImageError, Problem, ProblemKind, error, warning
from tag2mask.data.readers.scan import Listing
from tag2mask.data.settings import DataSettings
from tag2mask.data.validation.near_duplicates import Hash, difference_hash

SMALL_SIDE = 32  # pixels; an image with a shorter side is reported: it leaves 2 cells at stride 16; ours
LARGE_SHARE = 0.5  # an image with more than this share of `data.pixel_limit` is reported; ours

BYTES_PER_PIXEL = 24
"""Memory that reading an image takes: several copies of 8-bit RGB, and 32-bit colours. Counted, not measured."""

MEMORY_SHARE = 0.25  # an image that takes more than this share of the machine's memory is reported; ours
WHITE = 65535  # the 16-bit value that becomes white
DARK = WHITE // 8  # an image whose values do not exceed this becomes nearly black; ours
RANGES = (255, 1023, 4095, 16383)  # the greatest values of 8, 10, 12 and 14 bits

NoticeKind = Literal["range", "bands", "alpha", "pages"]


@dataclass(frozen=True, slots=True)
class PixelNotice:
    """An unusual property of the pixels of one image.

    ``kind``: ``range``: more than 8 bits, read without `data.intensity`; ``bands``: bands that are not read;
    ``alpha``: partly transparent on more than half of its pixels; ``pages``: more than one page or frame.
    """

    kind: NoticeKind
    value: int = 0  # of ``range`` the greatest pixel value, of ``bands`` the number of bands that are not read; else 0


@dataclass(frozen=True)
class ImageResult:
    """The result of checking an image."""

    size: tuple[int, int] | None  # (H, W); None if it could not be opened
    hash: Hash | None  # its difference hash; None if it could not be opened, or is plain
    problems: list[Problem]  # of the image, its mask and its correction
    notices: list[PixelNotice] = field(default_factory=list)  # for `pixel_warnings`


def check_image(found: Survey, item: ImageItem, settings: DataSettings, most: int) -> ImageResult:
    """Decode an image, its mask and its correction completely; an image of more than ``most`` pixels is reported."""
    result = _open_item(found.listing, item, settings, most)
    result.problems.extend(mask_problems(found.listing, item, result.size, settings, found.images))
    result.problems.extend(_correction_problems(found.images, item, result.size, settings))
    return result


def _open_item(listing: Listing, item: ImageItem, settings: DataSettings, most: int) -> ImageResult:
    subject = listing.shown(item.path)
    try:
        image, notices = read_with_notices(item.path, settings)
    except ImageError as reason:
        return ImageResult(None, None, [error(reason.kind, subject, reason.reason)])
    height, width, _ = image.shape
    problems = []
    if min(height, width) < SMALL_SIDE:
        message = f"{width} × {height} pixels are very few; below {SMALL_SIDE} there is little to learn from"
        problems.append(warning("small-image", subject, message))
    if height * width > most:
        message = f"{width} × {height} pixels take about {height * width * BYTES_PER_PIXEL / 1e9:.1f} GB to be read"
        remedy = "shrink it, a longer side of 2000 pixels is plenty; or use fewer --workers"
        problems.append(warning("large-image", subject, f"{message}; {remedy}"))
    return ImageResult((height, width), difference_hash(image), problems, notices)


def most_pixels(pixel_limit: int) -> int:
    """The number of pixels above which an image is reported as large, on this machine."""
    total, _ = memory()
    fitting = pixel_limit if total is None else int(MEMORY_SHARE * total / BYTES_PER_PIXEL)
    return min(int(LARGE_SHARE * pixel_limit), fitting)


def read_with_notices(path: Path, settings: DataSettings) -> tuple[npt.NDArray[np.uint8], list[PixelNotice]]:
    """Read an image as `read_image` does: RGB, uint8 (H, W, 3), and notices about its pixels.

    Raises:
        ImageError: as `read_image`.
    """
    notices = []
    with opened(path, pixel_limit=settings.pixel_limit) as image:
        if bands := dropped_bands(image):
            notices.append(PixelNotice("bands", bands))
        kind = deep_kind(image)
        if settings.intensity is not None and kind is not None:
            pixels = read_rgb(path, image, settings.intensity)
        else:
            decoded = decode(path, image)
            pixels = np.array(to_rgb(path, decoded))
            if kind == "grey":
                notices.append(PixelNotice("range", int(np.asarray(decoded).max())))
            elif kind == "colour":
                notices.append(PixelNotice("range", _greatest(path, decoded)))
            if _is_partly_transparent(decoded):
                notices.append(PixelNotice("alpha"))
        paged = image.format in PAGED
    if paged:
        with opened(path, pixel_limit=settings.pixel_limit) as image:
            notices += [PixelNotice("pages")] * has_more_pages(image)
    return pixels, notices


def pixel_warnings(noticed: Iterable[tuple[str, Sequence[PixelNotice]]], root: str, count: int) -> Iterator[Problem]:
    """At most one warning per kind of notice.

    Args:
        noticed: images, as messages show them, with their notices.
        root: the subject of the warnings.
        count: the number of images opened.
    """
    found: dict[NoticeKind, list[tuple[str, int]]] = defaultdict(list)
    for name, notices in noticed:
        for notice in notices:
            found[notice.kind].append((name, notice.value))

    def about(kind: ProblemKind, images: list[tuple[str, int]], text: str, remedy: str) -> Problem:
        named = first_five(name for name, _ in images)
        return warning(kind, root, f"{len(images)} of {count} images {text}: {named}; {remedy}")

    if dark := [(name, value) for name, value in found["range"] if value <= DARK]:
        greatest, overall = (max(value for _, value in images) for images in (dark, found["range"]))
        if overall <= DARK:
            limit = next(limit for limit in RANGES if overall <= limit)
            remedy = f'say which values are black and white with --data.intensity "[0, {limit}]"'
        else:
            remedy = f"values of other images go up to {overall}, so no range fits all; convert these to 8 bits"
        text = f"have more than 8 bits and values up to {greatest} of {WHITE} only, so they come out nearly black"
        yield about("small-range", dark, text, remedy)
    if bands := found["bands"]:
        text = f"have bands beyond colour and declared alpha (up to {max(value for _, value in bands)}), not read"
        remedy = "if they matter, save three bands that show the classes as RGB; declare alpha with ExtraSamples"
        yield about("extra-bands", bands, text, remedy)
    if alpha := found["alpha"]:
        text = "are partly transparent on more than half of their pixels, and laid over white"
        yield about("extra-bands", alpha, text, "if the fourth band is infrared and not alpha, remove it")
    if pages := found["pages"]:
        text = "have several pages or frames, and only the first is read"
        yield about("several-pages", pages, text, "save each page that matters as an image of its own")


def sample_warnings(paths: Sequence[Path], settings: DataSettings) -> list[Problem]:
    """The warnings of `pixel_warnings` about a few images, which are decoded here; unreadable ones are skipped."""
    noticed = []
    for path in paths:
        try:
            noticed.append((shown_below(path, settings.root), read_with_notices(path, settings)[1]))
        except ImageError:
            continue
    return list(pixel_warnings(noticed, str(settings.root or settings.tags or "data"), len(noticed)))


def _greatest(path: Path, image: Image.Image) -> int:
    """The greatest value of a decoded image of 16-bit colour; bright values are rounded up to whole bytes."""
    high = int(np.asarray(image)[..., :3].max())
    if high > DARK >> 8:
        return high << 8 | 255
    with opened(path, pixel_limit=image.width * image.height) as again:
        return int(deep_colour(path, again)[..., :3].max())


def _is_partly_transparent(image: Image.Image) -> bool:
    """Whether more than half of the pixels have an alpha between 1 and 254."""
    if image.getbands()[-1] not in ("A", "a"):
        return False
    counts = image.getchannel(image.getbands()[-1]).histogram()
    return 2 * sum(counts[1:255]) > sum(counts)


def mask_problems(
    listing: Listing, item: ImageItem, size: tuple[int, int] | None, settings: DataSettings, images: ImageSet
) -> Iterator[Problem]:
    """Problems of the mask of an image of (H, W) pixels, or of the size of the annotation that it is made from."""
    annotated = None if listing.rasterisation is None else listing.rasterisation.sizes.get(item.id)
    path, shown = item.truth, listing.shown(item.path)
    if path is None and annotated is None:
        return
    turn = 1 if size is None else turned_size(item.path, whole=True)[0]
    unclear = size is not None and turn > 1 and (turn <= 4 or size[0] == size[1])
    exif = f"EXIF turns the image (orientation {turn})"
    if path is None:
        if size is not None and annotated is not None and annotated != size:
            message = f"the image is {size[1]} × {size[0]} pixels, its annotation {annotated[1]} × {annotated[0]}"
            remedy = "its mask would not fit; use the image that was annotated"
            turned = f"{exif}, so annotate the upright one, or remove the orientation"
            yield error("mask-size", shown, f"{message}; {turned if turn > 4 else remedy}")
        elif unclear:
            message = f"{exif}, and the size of its annotation cannot tell whether the upright one was annotated"
            remedy = "lay the painted mask over the upright image; if it does not fit, remove the EXIF orientation"
            yield warning("mask-turn", shown, f"{message}; {remedy}")
        return
    subject = listing.shown(path)
    try:
        if images.classes:
            images.read_truth(item, size=size)
        else:
            read_mask(path, size=size, pixel_limit=settings.pixel_limit)
    except ImageError as reason:
        turned = f"; {exif}, so turn the mask likewise" if turn > 4 and reason.kind == "mask-size" else ""
        yield error(reason.kind, subject, reason.reason + turned)
        return
    if unclear:
        message = f"EXIF turns the image {shown} (orientation {turn}), and the mask's size"
        remedy = "lay it over the upright image, and turn it if it does not fit"
        yield warning("mask-turn", subject, f"{message} cannot tell whether it was drawn on the upright one; {remedy}")


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
    """``name (orientation 6)`` of each image that EXIF turns, unless its annotation has the size of the upright image.

    Only headers are read: unreadable images, and PNGs with EXIF after their pixels, are not found. ``sizes`` are (H, W)
    of annotations by ID.
    """
    found = []
    for item in items:
        turn, size = turned_size(item.path)
        is_upright = turn > 4 and size[0] != size[1] and sizes.get(item.id) == size
        if turn in range(2, 9) and not is_upright:
            found.append(f"{item.path.name} (orientation {turn})")
    return found
