"""Pixels that are read, but not as people may expect: few of many bits, more bands than colours, several pages."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from tag2mask.data.decoding import ImageError, decode, opened, to_rgb
from tag2mask.data.deep_pixels import deep_colour, deep_kind, read_rgb
from tag2mask.data.problems import Problem, warning
from tag2mask.data.settings import DataSettings
from tag2mask.data.tiff_kinds import PAGED, dropped_bands, has_more_pages
from tag2mask.errors import first_five

NoticeKind = Literal["range", "bands", "alpha", "pages"]

WHITE = 65535
"""The value of 16 bits that becomes white."""

DARK = WHITE // 8
"""An image whose values go up to this at most comes out nearly black; ours."""

RANGES = (255, 1023, 4095, 16383)
"""The greatest values of 8, 10, 12 and 14 bits."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What was noticed about the pixels of one image.

    Attributes:
        kind: ``range``: more than 8 bits, read without `data.intensity`; ``bands``: bands that are not read;
            ``alpha``: partly transparent on more than half of its pixels; ``pages``: more than one page or frame.
        value: of ``range`` the greatest pixel value, of ``bands`` how many are not read; else 0.
    """

    kind: NoticeKind
    value: int = 0


def look(path: Path, settings: DataSettings) -> tuple[npt.NDArray[np.uint8], list[Notice]]:
    """Read an image as `read_image` does, and what there is to notice about its pixels.

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


def pixel_warnings(noticed: Iterable[tuple[str, Sequence[Notice]]], root: str, opened: int) -> Iterator[Problem]:
    """One warning for each kind of notice, whatever the number of images.

    Args:
        noticed: images, as they are shown, with their notices.
        root: the subject of the warnings.
        opened: how many images were opened.
    """
    found: dict[NoticeKind, list[tuple[str, int]]] = {}
    for name, notices in noticed:
        for notice in notices:
            found.setdefault(notice.kind, []).append((name, notice.value))

    def said(images: Sequence[tuple[str, int]], what: str, remedy: str) -> str:
        return f"{len(images)} of {opened} images {what}: {first_five(name for name, _ in images)}; {remedy}"

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
        paths: at most 8 images, since they are decoded here; those that cannot be read are left to who reads them.
        settings: the root that names are relative to, `pixel_limit` and `intensity`.
    """
    noticed = []
    for path in paths:
        try:
            noticed.append((_shown(path, settings.root), look(path, settings)[1]))
        except ImageError:
            continue
    return list(pixel_warnings(noticed, str(settings.root or settings.tags or "data"), len(noticed)))


def _shown(path: Path, root: Path | None) -> str:
    return str(path.relative_to(root)) if root is not None and path.is_relative_to(root) else str(path)


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
