"""Look here first: the photographs whose masks are least certain by the stage `confidence`, each with its mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tag2mask.confidence.ranking import QUALITY, RankedPhoto, read_ranking, small_masks_sentence
from tag2mask.data import Photo, PhotoSet, read_image, read_mask
from tag2mask.data.deep_pixels import Intensity
from tag2mask.errors import Tag2maskError
from tag2mask.files import read_json
from tag2mask.report import pictures
from tag2mask.report.colours import Palette
from tag2mask.report.ranking import Notice, compare, mask_path
from tag2mask.report.settings import ReportSettings

_FIGURES = ("images", "spearman", "low", "high", "worst_tenth", "chance")

_NARROWEST = 64
"""Pixels; these pictures are half as wide as those of the gallery, but no narrower than this."""


@dataclass(frozen=True)
class Doubt:
    """A photograph to look at.

    Attributes:
        ranked: what the ranking says of it.
        photo: the photograph, a data URI.
        labels: titles and data URIs of the mask, and of the truth where there is one.
        height: of the pictures, in pixels.
        width: likewise.
        miou: of the mask over the classes in its truth, in [0, 1]; None without truth.
    """

    ranked: RankedPhoto
    photo: str
    labels: tuple[tuple[str, str], ...]
    height: int
    width: int
    miou: float | None


def draw_doubts(
    run: Path,
    photos: Sequence[PhotoSet],
    settings: ReportSettings,
    palette: Palette,
    notice: Notice,
    intensity: Intensity | None = None,
) -> list[Doubt]:
    """The first photographs of the run's ranking, drawn; nothing where there is no ranking.

    Those whose mask somebody accepted, corrected or rejected are settled, and left out.

    Args:
        run: the run folder.
        photos: where the photographs are looked for, the first set first.
        settings: how many, and how wide.
        palette: the colours of the classes.
        notice: takes what could not be shown.
        intensity: how images of more than 8 bits are read, as by `read_image`.
    """
    try:
        ranked = _first(run, photos, settings.least_certain)
    except (Tag2maskError, OSError) as error:
        if (run / "confidence").is_dir():
            notice(str(error))
        return []
    wanted = {each.image for each in ranked}
    found: dict[str, tuple[Photo, PhotoSet]] = {}
    for own in photos:
        if len(found) < len(wanted):
            there = own.photos.where(lambda photo: photo.id in wanted)
            found = {photo.id: (photo, own) for photo in there} | found
    doubts = []
    for each in ranked:
        try:
            if each.image in found:
                doubts.append(_drawn(run, *found[each.image], each, settings, palette, notice, intensity))
        except (Tag2maskError, OSError) as error:
            notice(str(error))
    return doubts


def _first(run: Path, photos: Sequence[PhotoSet], count: int) -> list[RankedPhoto]:
    """The first of the ranking that something judges and nobody has settled."""
    found: list[RankedPhoto] = []
    for each in read_ranking(run):
        if len(found) >= count or each.confidence is None:
            break
        if not any(each.image in own.decided.verdicts for own in photos):
            found.append(each)
    return found


def quality_sentence(run: Path, notice: Notice) -> str:
    """How far the run's ranking can be trusted: its agreement with truth, and masks too small to rank; may be empty."""
    return " ".join(filter(None, (_agreement(run, notice), _small_masks(run))))


def _agreement(run: Path, notice: Notice) -> str:
    """How well the run's ranking agrees with the truth; empty where that was not measured."""
    if not (run / QUALITY).is_file():
        return ""
    try:
        said = read_json(run / QUALITY)
        images, spearman, low, high, shared, chance = (float(said[name]) for name in _FIGURES)
    except Tag2maskError as error:
        notice(str(error))
        return ""
    except (KeyError, TypeError, ValueError):  # null where nothing can be ranked
        return ""
    return (
        f"On {said.get('split')}, where {images:,.0f} photographs have truth, the rank correlation of confidence with "
        f"mean IoU is {spearman:.2f} [{low:.2f}, {high:.2f}], and the least certain tenth holds {100 * shared:.0f} % "
        f"of the worst tenth ({100 * chance:.0f} % by chance)."
    )


def _small_masks(run: Path) -> str:
    """A sentence on masks too small to rank; empty without any, or without a ranking, which `draw_doubts` notices."""
    try:
        found = small_masks_sentence(run)
    except (Tag2maskError, OSError):
        return ""
    return f"{found}." if found else ""


def _drawn(
    run: Path,
    photo: Photo,
    photos: PhotoSet,
    ranked: RankedPhoto,
    settings: ReportSettings,
    palette: Palette,
    notice: Notice,
    intensity: Intensity | None,
) -> Doubt:
    image = read_image(photo.path, intensity=intensity)
    full, classes = (image.shape[0], image.shape[1]), len(photos.classes)
    size = pictures.picture_size(full, max(_NARROWEST, settings.width // 2))
    mask, truth = _mask(mask_path(run, photo), full, classes), None
    try:
        if photo.mask is not None and photo.mask.is_file():
            truth = photos.read_truth(photo, size=full)
    except Tag2maskError as error:  # the mask is no less doubtful for it
        notice(str(error))
    labels = tuple(
        (title, pictures.label_uri(pictures.resize_labels(own, size), palette))
        for title, own in (("Mask", mask), ("Truth", truth))
        if own is not None
    )
    miou = None if mask is None or truth is None else compare(mask, truth, classes)[0]
    return Doubt(ranked, pictures.photo_uri(image, size), labels, *size, miou)


def _mask(path: Path, size: tuple[int, int], classes: int) -> np.ndarray | None:
    return None if not path.is_file() else read_mask(path, size=size, classes=classes)
