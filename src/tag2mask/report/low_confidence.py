"""The section "Least certain masks", by the ranking of the stage `confidence`."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tag2mask.core.files import read_json
from tag2mask.data import ImageItem, ImageSet, read_mask
from tag2mask.quality.calibration import EVIDENCE, NOT_RELIABLE
from tag2mask.quality.ranking import QUALITY, RankedImage, Ranking, small_masks_sentence
from tag2mask.report import pictures
from tag2mask.report.ranking import Notice, attempt, compare, mask_path
from tag2mask.report.settings import ReportSettings

_FIGURES = ("images", "spearman", "low", "high", "worst_tenth", "chance")

_NARROWEST = 64
"""Minimum width in pixels; these pictures are half as wide as those of the gallery."""


@dataclass(frozen=True)
class LeastCertain:
    """An image of the section.

    Attributes:
        image: data URI.
        labels: titles and data URIs of the mask, and of the ground truth if there is one.
        height, width: of the pictures in pixels.
        miou: of the mask over the classes in its truth, in [0, 1]; None without truth.
    """

    ranked: RankedImage
    image: str
    labels: tuple[tuple[str, str], ...]
    height: int
    width: int
    miou: float | None


def draw_least_certain(
    run: Path, images: Sequence[ImageSet], ranking: Ranking, settings: ReportSettings, notice: Notice
) -> list[LeastCertain]:
    """The first images of the ranking that have tags and no verdict.

    Args:
        images: sets with the images; the first set with an image counts.
        notice: takes messages about images that could not be shown.
    """
    decided = [own.corrections.verdicts for own in images]
    open_ones = (each for each in ranking.by_id.values() if not any(each.image in verdicts for verdicts in decided))
    ranked = [each for each in islice(open_ones, settings.lowest_confidence) if each.is_to_check]
    wanted = {each.image for each in ranked}
    found: dict[str, tuple[ImageItem, ImageSet]] = {}
    for own in images:
        if len(found) < len(wanted):
            there = own.items.filter(lambda item: item.id in wanted)
            found = {item.id: (item, own) for item in there} | found
    known = (each for each in ranked if each.image in found)
    drawn = [attempt(notice, _draw, run, *found[each.image], each, settings, notice) for each in known]
    return [each for each in drawn if each is not None]


def quality_sentence(run: Path, ranking: Ranking, notice: Notice) -> str:
    """The reliability of the ranking: its agreement with ground truth, and masks too small to rank; may be empty."""
    small = small_masks_sentence(run) if ranking.by_id else ""
    return " ".join(filter(None, (_agreement(run, notice), f"{small[0].upper()}{small[1:]}." if small else "")))


def _agreement(run: Path, notice: Notice) -> str:
    measured = attempt(notice, read_json, run / QUALITY) if (run / QUALITY).is_file() else None
    if not isinstance(measured, dict):
        return ""
    limit = f" {NOT_RELIABLE.capitalize()}." if measured.get("ranks") is False else ""
    try:
        images, spearman, low, high, shared, chance = (float(measured[name]) for name in _FIGURES)
    except (KeyError, TypeError, ValueError):  # null if nothing can be ranked
        return limit.strip()
    return (
        f"On {measured.get('split')}, where {images:,.0f} images have {EVIDENCE}, the rank correlation of confidence "
        f"with mean IoU is {spearman:.2f} [{low:.2f}, {high:.2f}], and the least certain tenth holds "
        f"{100 * shared:.0f} % of the worst tenth ({100 * chance:.0f} % by chance).{limit}"
    )


def _draw(
    run: Path, item: ImageItem, images: ImageSet, ranked: RankedImage, settings: ReportSettings, notice: Notice
) -> LeastCertain:
    image = images.read_image(item)
    full, classes = (image.shape[0], image.shape[1]), len(images.classes)
    size = pictures.picture_size(full, max(_NARROWEST, settings.width // 2))
    mask, truth, path = None, None, mask_path(run, item)
    if path.is_file():
        mask = read_mask(path, size=full, classes=classes, pixel_limit=images.pixel_limit)
    if item.truth is not None and item.truth.is_file():
        truth = attempt(notice, images.read_truth, item, size=full)  # without it, the mask is still shown
    labels = tuple(
        (title, pictures.label_uri(pictures.resize_labels(own, size)))
        for title, own in (("Mask", mask), ("Truth", truth))
        if own is not None
    )
    miou = None if mask is None or truth is None else compare(mask, truth, classes)[0]
    return LeastCertain(ranked, pictures.image_uri(image, size), labels, *size, miou)
