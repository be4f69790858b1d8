"""The ranking of a run: RUN/confidence/images.csv, least certain first, and classes.csv, with every class."""

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tag2mask.core.errors import UsageError
from tag2mask.core.files import atomic_path
from tag2mask.quality.estimator import FEW_CELLS, QualityEstimate
from tag2mask.quality.features import FIELDS, MaskFeatures

T = TypeVar("T")

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


class Tables:
    """Collects images in any order and writes both tables.

    Images whose confidence is unknown come first, except those without tags: their mask is background alone, so
    they come last.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """``names`` are those of the classes, background first."""
        self._names = names
        self._images: list[str] = []  # as CSV, to save memory
        self._classes: list[str] = []
        self._confidences: list[float] = []
        self._tagged: list[bool] = []
        self._numbers: list[int] = []

    def add(
        self, image_id: str, features: MaskFeatures, estimate: QualityEstimate, *, number: int, decided: str = ""
    ) -> None:
        """Add an image.

        Args:
            number: its index in the data set, which orders images of equal or unknown confidence.
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
        self._tagged.append(len(features.ids) > 1)
        self._numbers.append(number)

    def confidences(self, count: int) -> npt.NDArray[np.float64]:
        """The confidence of each of the ``count`` images of the data set, (N,); NaN if unknown."""
        found = np.full(count, np.nan)
        found[self._numbers] = self._confidences
        return found

    def write(self, run: Path) -> None:
        """Write images.csv, least certain first, and classes.csv, in the order of the data set."""
        unknown = np.where(self._tagged, -np.inf, np.inf)
        keys = np.where(np.isnan(self._confidences), unknown, self._confidences)
        least_certain = np.lexsort((np.asarray(self._numbers), keys)).tolist()
        images = [_csv([IMAGE_COLUMNS]), *(self._images[place] for place in least_certain)]
        classes = [_csv([CLASS_COLUMNS]), *(self._classes[place] for place in np.argsort(self._numbers).tolist())]
        with atomic_path(run / CLASSES) as rows, atomic_path(run / IMAGES) as ranking:
            for path, lines in ((rows, classes), (ranking, images)):
                with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                    file.writelines(lines)


@dataclass(frozen=True)
class RankedImage:
    """A line of images.csv.

    Attributes:
        image: image ID.
        confidence: estimated mean IoU of the mask, in [0, 1]; None if unknown.
        class_name: the least certain class.
        class_confidence: estimated IoU of that class, in [0, 1]; None if unknown.
        reason: of the low or unknown confidence, in a few words.
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
    def is_to_check(self) -> bool:
        """Whether the image has tags or a confidence: without both, its mask is background alone."""
        return self.class_name != "background" or self.confidence is not None

    @property
    def is_small(self) -> bool:
        """Whether that class's mask has pixels, but too few for a confidence."""
        return self.class_confidence is None and self.cells is not None and 0 < self.cells < FEW_CELLS


def read_ranking(run: Path) -> Iterator[RankedImage]:
    """The images of a run, least certain first; see `Tables`.

    Raises:
        UsageError: there is no ranking, or it is damaged.
    """

    def ranked(row: dict[str, str]) -> RankedImage:
        numbers = _number(row["confidence"]), _number(row["class_confidence"])
        by_network, cells = bool(row.get("network_free")), _number(row.get("cells") or "")
        return RankedImage(row["image"], numbers[0], row["class"], numbers[1], row["reason"], by_network, cells)

    return _read(run, IMAGES, ranked)


@dataclass(frozen=True)
class RankedClass:
    """A line of classes.csv: a class of an image.

    Attributes:
        confidence: estimated IoU of the class, in [0, 1]; None if unknown.
        share: of the class in the mask, in [0, 1]; None if unknown.
    """

    image: str
    class_name: str
    confidence: float | None
    share: float | None


def read_classes(run: Path) -> Iterator[RankedClass]:
    """The classes of every image of a run, with background.

    Raises:
        UsageError: there is no such table, or it is damaged.
    """

    def ranked(row: dict[str, str]) -> RankedClass:
        return RankedClass(row["image"], row["class"], _number(row["confidence"]), _number(row["share"]))

    return _read(run, CLASSES, ranked)


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

    def order(self, ids: Sequence[str]) -> list[int]:
        """The indices of the images, least certain first; images that are not ranked come last, in the given order."""
        ranks = {image_id: rank for rank, image_id in enumerate(self.by_id)}
        return sorted(range(len(ids)), key=lambda index: ranks.get(ids[index], len(ranks)))


def small_masks_sentence(run: Path) -> str:
    """A warning if masks of a run are too small for a confidence; otherwise empty.

    Raises:
        UsageError: there is no ranking, or it is damaged.
    Source: ours.
    """
    small = Counter(each.is_small for each in read_ranking(run))
    if not small[True]:
        return ""
    return (
        f"confidence of {small[True]} of {small.total()} images is unknown, because a class's mask covers fewer than "
        f"{FEW_CELLS} CAM cells: check all of them"
    )


def _read(run: Path, name: str, parse: Callable[[dict[str, str]], T]) -> Iterator[T]:
    """The parsed lines of a table of a run."""
    path = run / name
    if not path.is_file():
        raise UsageError(f"{path} does not exist; `tag2mask confidence {run}` writes it")
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            for row in csv.DictReader(file):
                yield parse(row)
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UsageError(f"{path} is damaged; `tag2mask confidence {run}` writes it again") from error


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
