"""The section "Look here first": the least certain masks by the stage `confidence`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tag2mask.core.errors import Tag2maskError
from tag2mask.core.files import read_json
from tag2mask.data import ImageItem, ImageSet, read_mask
from tag2mask.quality.ranking import QUALITY, RankedImage, read_ranking, small_masks_sentence
from tag2mask.report import pictures
from tag2mask.report.pictures import Palette
from tag2mask.report.ranking import Notice, attempt, compare, mask_path
from tag2mask.report.settings import ReportSettings

_FIGURES = ("images", "spearman", "low", "high", "worst_tenth", "chance")

_NARROWEST = 64
"""Least width in pixels; these pictures are half as wide as those of the gallery."""


@dataclass(frozen=True)
class Doubt:
    """An image to look at.

    Attributes:
        ranked: its line in the ranking.
        photo: data URI of the image.
        labels: titles and data URIs of the mask, and of the ground truth if there is one.
        height: of the pictures in pixels.
        width: of the pictures in pixels.
        miou: of the mask over the classes in its truth, in [0, 1]; None without truth.
    """

    ranked: RankedImage
    image: str
    labels: tuple[tuple[str, str], ...]
    height: int
    width: int
    miou: float | None


def draw_doubts(
    run: Path,
    images: Sequence[ImageSet],
    settings: ReportSettings,
    palette: Palette,
    notice: Notice,
) -> list[Doubt]:
    """The pictures of the first images of the ranking without a verdict; none without a ranking.

    Args:
        run: the run folder.
        photos: sets with the images; the first set with an image counts.
        settings: number and width.
        palette: of the classes.
        notice: takes messages about images that could not be shown.
    """
    try:
        ranked = _first(run, images, settings.lowest_confidence)
    except (Tag2maskError, OSError) as error:
        if (run / "confidence").is_dir():
            notice(str(error))
        return []
    wanted = {each.image for each in ranked}
    found: dict[str, tuple[ImageItem, ImageSet]] = {}
    for own in images:
        if len(found) < len(wanted):
            there = own.items.where(lambda item: item.id in wanted)
            found = {item.id: (item, own) for item in there} | found
    doubts = [
        attempt(notice, _drawn, run, *found[each.image], each, settings, palette, notice)
        for each in ranked
        if each.image in found
    ]
    return [doubt for doubt in doubts if doubt is not None]


def _first(run: Path, images: Sequence[ImageSet], count: int) -> list[RankedImage]:
    """The first lines of the ranking with a confidence and without a verdict."""
    found: list[RankedImage] = []
    for each in read_ranking(run):
        if len(found) >= count or each.confidence is None:
            break
        if not any(each.image in own.corrections.verdicts for own in images):
            found.append(each)
    return found


def quality_sentence(run: Path, notice: Notice) -> str:
    """The reliability of the ranking: agreement with ground truth, and masks too small to rank; may be empty."""
    return " ".join(filter(None, (_agreement(run, notice), _small_masks(run))))


def _agreement(run: Path, notice: Notice) -> str:
    """The agreement of the ranking with ground truth; empty if not measured."""
    said = attempt(notice, read_json, run / QUALITY) if (run / QUALITY).is_file() else None
    if not isinstance(said, dict):
        return ""
    try:
        images, spearman, low, high, shared, chance = (float(said[name]) for name in _FIGURES)
    except (KeyError, TypeError, ValueError):  # null if nothing can be ranked
        return ""
    return (
        f"On {said.get('split')}, where {images:,.0f} images have truth, the rank correlation of confidence with "
        f"mean IoU is {spearman:.2f} [{low:.2f}, {high:.2f}], and the least certain tenth holds {100 * shared:.0f} % "
        f"of the worst tenth ({100 * chance:.0f} % by chance)."
    )


def _small_masks(run: Path) -> str:
    """A sentence on masks too small to rank; empty without any, or without a ranking, which `draw_doubts` reports."""
    try:
        found = small_masks_sentence(run)
    except (Tag2maskError, OSError):
        return ""
    return f"{found}." if found else ""


def _drawn(
    run: Path,
    item: ImageItem,
    images: ImageSet,
    ranked: RankedImage,
    settings: ReportSettings,
    palette: Palette,
    notice: Notice,
) -> Doubt:
    image = images.read_image(item)
    full, classes = (image.shape[0], image.shape[1]), len(images.classes)
    size = pictures.picture_size(full, max(_NARROWEST, settings.width // 2))
    mask, truth, path = None, None, mask_path(run, item)
    if path.is_file():
        mask = read_mask(path, size=full, classes=classes, pixel_limit=images.pixel_limit)
    if item.mask is not None and item.mask.is_file():
        truth = attempt(notice, images.read_truth, item, size=full)  # without it, the mask is still shown
    labels = tuple(
        (title, pictures.label_uri(pictures.resize_labels(own, size), palette))
        for title, own in (("Mask", mask), ("Truth", truth))
        if own is not None
    )
    miou = None if mask is None or truth is None else compare(mask, truth, classes)[0]
    return Doubt(ranked, pictures.image_uri(image, size), labels, *size, miou)
