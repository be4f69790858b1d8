"""The ranking of a run: RUN/confidence/images.csv, least certain first, and classes.csv, with every class."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tag2mask.core.errors import UsageError
from tag2mask.core.files import atomic_path
from tag2mask.quality.estimator import QualityEstimate
from tag2mask.quality.features import FIELDS, MaskFeatures

IMAGES = "confidence/images.csv"
"""The ranking of a run folder."""

CLASSES = "confidence/classes.csv"
"""The classes of every image."""

QUALITY = "confidence/quality.json"
"""The agreement of the ranking with ground truth, if there is any."""

IMAGE_COLUMNS = (
    *("image", "confidence", "class", "class_confidence", "reason", "correction", "unexpected", "unexpected_share"),
    *FIELDS,
)
"""Columns of images.csv; readers use their names."""

CLASS_COLUMNS = ("image", "class", "confidence", *FIELDS)

FEW_CELLS = 16
"""Confidence does not rank masks that cover fewer cells of their CAMs: a square of 16 cells that is off by half a cell
along both axes has an IoU of 0.62, which is more than the differences that confidence measures; ours
(docs/confidence.md)."""


class Tables:
    """Collects images in any order and writes both tables."""

    def __init__(self, names: Sequence[str]) -> None:
        """``names`` are those of the classes, background first."""
        self._names = names
        self._images: list[str] = []  # as CSV, to save memory
        self._classes: list[str] = []
        self._confidences: list[float] = []
        self._numbers: list[int] = []

    def add(
        self, image_id: str, features: MaskFeatures, estimate: QualityEstimate, *, number: int, decided: str = ""
    ) -> None:
        """Add an image.

        Args:
            number: its index in the data set, which orders images of equal confidence.
            decided: the verdict of a review; empty without one.
        """
        worst = estimate.worst
        row = (
            image_id,
            _shown(estimate.confidence),
            self._names[int(features.ids[worst])],
            _shown(estimate.of_classes[worst]),
            estimate.reason(features, self._names),
            decided,
            self._names[features.unexpected_class] if features.unexpected_class else "",
            _shown(features.unexpected_share) if features.unexpected_class else "",
            *map(_shown, features.values[worst]),
        )
        classes = [
            (image_id, self._names[class_id], *map(_shown, (estimate.of_classes[place], *features.values[place])))
            for place, class_id in enumerate(features.ids.tolist())
        ]
        self._images.append(_csv([row]))
        self._classes.append(_csv(classes))
        self._confidences.append(estimate.confidence)
        self._numbers.append(number)

    def write(self, run: Path) -> None:
        """Write images.csv, least certain first, and classes.csv, in the order of the data set."""
        least_certain = np.lexsort((self._numbers, self._confidences)).tolist()  # NaN last
        images = [_csv([IMAGE_COLUMNS]), *(self._images[place] for place in least_certain)]
        classes = [_csv([CLASS_COLUMNS]), *(self._classes[place] for place in np.argsort(self._numbers).tolist())]
        with atomic_path(run / CLASSES) as rows, atomic_path(run / IMAGES) as ranking:
            for path, lines in ((rows, classes), (ranking, images)):
                with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                    file.writelines(lines)


@contextmanager
def written_tables(run: Path, names: Sequence[str]) -> Iterator[Tables]:
    """Both tables of a run folder, written if the block ends without an exception; see `Tables`."""
    tables = Tables(names)
    yield tables
    tables.write(run)


@dataclass(frozen=True)
class RankedImage:
    """A line of images.csv.

    Attributes:
        image: image ID.
        confidence: estimated mean IoU of the mask, in [0, 1]; None if unknown.
        class_name: the least certain class.
        class_confidence: estimated IoU of that class, in [0, 1]; None if unknown.
        reason: of the low confidence, in a few words.
        by_network: whether a segmentation network was used.
        cells: the area of that class's mask, in cells of its CAMs; None if unknown.
    """

    image: str
    confidence: float | None
    class_name: str
    class_confidence: float | None
    reason: str
    by_network: bool = False
    cells: float | None = None

    @property
    def is_small(self) -> bool:
        """Whether that class's mask has pixels, but too few to be ranked."""
        return self.cells is not None and 0 < self.cells < FEW_CELLS


def read_ranking(run: Path) -> Iterator[RankedImage]:
    """The images of a run, least certain first, those without confidence last.

    Raises:
        UsageError: there is no ranking, or it is damaged.
    """
    path = run / IMAGES
    if not path.is_file():
        raise UsageError(f"{path} does not exist; `tag2mask confidence {run}` writes it")
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            for row in csv.DictReader(file):
                numbers = _number(row["confidence"]), _number(row["class_confidence"])
                by_network, cells = bool(row.get("network_free")), _number(row.get("cells") or "")
                yield RankedImage(row["image"], numbers[0], row["class"], numbers[1], row["reason"], by_network, cells)
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UsageError(f"{path} is damaged; `tag2mask confidence {run}` writes it again") from error


@dataclass(frozen=True)
class Ranking:
    """The order of a run's images for review and report: least certain first.

    Attributes:
        by_id: the ranked images by ID, least certain first; empty without output of the stage `confidence`, which
            leaves the images in the order of the data set.
    """

    by_id: dict[str, RankedImage]

    @classmethod
    def of(cls, run: Path) -> "Ranking":
        """Read the ranking of a run folder.

        Raises:
            UsageError: it is damaged.
        """
        return cls({each.image: each for each in read_ranking(run)} if (run / IMAGES).is_file() else {})

    def confidence(self, image_id: str) -> float | None:
        """The confidence of an image's mask; None if it is unknown."""
        found = self.by_id.get(image_id)
        return None if found is None else found.confidence

    def order(self, ids: Sequence[str]) -> list[int]:
        """The indices of the images, least certain first; images that are not ranked come last, in the given order."""
        ranks = {image_id: rank for rank, image_id in enumerate(self.by_id)}
        return sorted(range(len(ids)), key=lambda index: ranks.get(ids[index], len(ranks)))


def small_masks_sentence(run: Path) -> str:
    """A warning if masks of a run are too small to be ranked, by each image's least certain class; otherwise empty.

    Raises:
        UsageError: there is no ranking, or it is damaged.
    Source: ours.
    """
    ranked = [each for each in read_ranking(run) if each.confidence is not None]
    small = sum(each.is_small for each in ranked)
    if not small:
        return ""
    return (
        f"{small} of {len(ranked)} masks cover fewer than {FEW_CELLS} CAM cells (the mask of each image's least "
        "certain class counts): their order is not reliable, so check all of them"
    )


def _number(text: str) -> float | None:
    """The number; None for an empty cell and for one that is not finite."""
    return value if text and math.isfinite(value := float(text)) else None


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _shown(value: float) -> str:
    """Four decimals; empty for NaN."""
    return "" if np.isnan(value) else f"{value:.4f}".rstrip("0").rstrip(".")
