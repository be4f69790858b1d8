"""Ground-truth masks: mapping of values to classes, and agreement of masks and tags.

The rule (ours): of the images tagged X that have a mask, the number of masks with the id of X; and the number of masks
with ids that are not a tag of their image. Masks with other values, of another class list or of other images disagree
with the tags, and figures measured with them are meaningless.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tag2mask.core.errors import first_five
from tag2mask.core.prefetch import map_ahead
from tag2mask.data.classes import did_you_mean
from tag2mask.data.file_names import nfc
from tag2mask.data.images import IGNORED, PIXEL_LIMIT, MaskError, read_mask, unknown_values
from tag2mask.data.manifest import ImageItem
from tag2mask.data.problems import Problem, error, warning

if TYPE_CHECKING:
    from tag2mask.data.dataset import ImageSet

BY_TAG = "tag"
"""In `data.mask_values`: the class is the only tag of the image, as in data sets with one binary mask per defect."""

SAMPLE = 1000  # masks that are opened, evenly spaced over the images

MIN_TAGS = 3
"""Tags with a mask, below which a disagreement is a warning and not an error. Ours."""

AGREE = 0.5
"""Minimum share of tags found in masks, and maximum share of masks with unknown ids; real sets have 0.99, 0. Ours."""

FITS = 0.6
"""Minimum IoU, counted in images, for `likely_cause` to match a value with a class. Ours."""

_WORDS = {"background": 0, "ignore": IGNORED}


@dataclass(frozen=True)
class MaskValues:
    """The mapping `data.mask_values` of values of a ground-truth mask to classes."""

    classes: tuple[tuple[int, int], ...] = ()  # (value, class id) pairs; other values are kept
    by_tag: tuple[int, ...] = ()  # values that mean the only tag of the image

    def __bool__(self) -> bool:
        return bool(self.classes or self.by_tag)

    def apply(self, mask: npt.NDArray[np.uint8], tags: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Class ids, uint8 (H, W), for a mask, uint8 (H, W), of an image with the class ids ``tags``.

        Raises:
            ValueError: a value means the only tag, and the image has none or several.
        """
        if not self:
            return mask
        table = np.arange(256, dtype=np.uint8)
        for value, class_id in self.classes:
            table[value] = class_id
        if self.by_tag and np.isin(mask, self.by_tag).any():
            if len(tags) != 1:
                raise ValueError(f"data.mask_values takes the class from the image's only tag, and it has {len(tags)}")
            table[list(self.by_tag)] = tags[0]
        return table[mask]


def parse_mask_values(text: str | None, classes: Sequence[str]) -> tuple[MaskValues, list[Problem]]:
    """The mapping in `data.mask_values`, comma-separated ``VALUE=CLASS``, and its problems."""
    pairs: dict[int, int] = {}
    by_tag: list[int] = []
    problems = []
    names = {**{nfc(name): number for number, name in enumerate(classes, 1)}, **_WORDS}
    for piece in text.split(",") if text else ():
        value, _, name = (part.strip() for part in piece.partition("="))
        number = names.get(nfc(name), int(name) if name.isdecimal() and len(name) < 4 else None)
        if not value.isdecimal() or int(value[:4]) > IGNORED:
            problems.append(f"`{piece.strip()}` should be VALUE=CLASS with a value from 0 to 255, as 255=1")
        elif name == BY_TAG:
            by_tag.append(int(value))
        elif number is None or len(classes) < number != IGNORED:
            hint = did_you_mean(name, names) or f"; it is an id from 0 to {len(classes)}, a class name, or `{BY_TAG}`"
            problems.append(f"`{name}` is not a class{hint}")
        else:
            pairs[int(value)] = number
    found = MaskValues(tuple(sorted(pairs.items())), tuple(sorted(by_tag)))
    return found, [error("bad-classes", "data.mask_values", problem) for problem in problems]


def read_truth(
    path: Path,
    tags: Sequence[int],
    classes: int,
    values: MaskValues | None = None,
    *,
    size: tuple[int, int] | None = None,
    pixel_limit: int = PIXEL_LIMIT,
) -> npt.NDArray[np.uint8]:
    """Read the ground-truth mask of an image, as `read_mask`, with its values mapped to class ids.

    Args:
        path: the file.
        tags: class ids of the image.
        classes: C.
        values: the mapping; None: the values are class ids.
        size: the required (H, W); None for any.
        pixel_limit: a mask with more pixels is refused before it is decoded.

    Raises:
        MaskError: as `read_mask`, or the mapping does not fit the image.
    """
    if not values:
        return read_mask(path, size=size, classes=classes, pixel_limit=pixel_limit)
    raw = read_mask(path, size=size, pixel_limit=pixel_limit, any_kind=True)
    try:
        mask = values.apply(raw, tags)
        wrong = unknown_values(mask, classes)
    except ValueError as reason:
        wrong = str(reason)
    if wrong:
        raise MaskError.about(path, "mask-values", wrong)
    return mask


@dataclass
class TruthCounts:
    """Agreement of ground-truth masks with the tags of their images.

    ``unexpected``: the IDs of images with an id in the mask that is not one of their tags.
    ``joint``: int64 (256, C + 1), images with a mask value and a tag; column 0: without tags.
    """

    classes: tuple[str, ...]  # the C names
    images: int = 0  # images with a mask
    several: int = 0  # images with more than one tag
    unknown: int = 0  # images with a mask value that is not a class, background or 255
    unexpected: list[str] = field(default_factory=list)
    tagged: npt.NDArray[np.int64] = field(init=False)  # int64 (C + 1,), images with each tag; at 0 those without tags
    values: npt.NDArray[np.int64] = field(init=False)  # int64 (256,), images with each mask value
    joint: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        columns = len(self.classes) + 1
        self.tagged, self.values = np.zeros(columns, dtype=np.int64), np.zeros(256, dtype=np.int64)
        self.joint = np.zeros((256, columns), dtype=np.int64)

    def add(self, image_id: str, values: Collection[int], tags: Sequence[int]) -> None:
        """Count an image with the distinct ``values`` of its mask and the class ids ``tags``."""
        chosen, columns = list(values), list(tags) or [0]
        self.images += 1
        self.several += len(tags) > 1
        self.unknown += any(len(self.classes) < value != IGNORED for value in chosen)
        self.tagged[columns] += 1
        self.values[chosen] += 1
        self.joint[np.ix_(chosen, columns)] += 1
        if any(value not in tags for value in chosen if value not in (0, IGNORED)):
            self.unexpected.append(image_id)

    @property
    def tags(self) -> int:
        """Tags of images with a mask."""
        return int(self.tagged[1:].sum())

    @property
    def found(self) -> int:
        """Tags that the mask of their image contains."""
        return int(np.trace(self.joint[1 : len(self.classes) + 1, 1:]))

    @property
    def are_wrong(self) -> bool:
        """Whether figures measured with these masks are meaningless.

        That is: more than `AGREE` of the masks have an id that is not a class; or masks contain less than `AGREE` of
        the tags, and are empty or have other ids. Masks whose ids are all tags are right, with some classes not drawn.
        Ids in addition to the tags alone are not wrong: tags may name only the main content of an image.
        """
        lacking = self.found < AGREE * self.tags and (bool(self.unexpected) or not self.found)
        return self.tags >= MIN_TAGS and (self.unknown > AGREE * self.images or lacking)

    def missing(self) -> list[str]:
        """``name (id): 0 of N`` for each tagged class that is in no mask of its images."""
        return [
            f"{name} (id {number}): 0 of {self.tagged[number]}"
            for number, name in enumerate(self.classes, 1)
            if self.tagged[number] and not self.joint[number, number]
        ]


def count_truth(images: "ImageSet") -> TruthCounts:
    """Read the masks of up to `SAMPLE` images; unreadable ones are skipped."""
    counts = TruthCounts(images.classes)
    masked = images.items.filter(lambda item: item.truth is not None)
    if len(masked) > SAMPLE:
        masked = masked.take(np.linspace(0, len(masked) - 1, SAMPLE).astype(np.intp))

    def values(item: ImageItem) -> tuple[ImageItem, list[int]]:
        try:
            any_kind = bool(images.mask_values)
            mask = read_mask(item.truth or Path(), pixel_limit=images.pixel_limit, any_kind=any_kind)
            mask = images.mask_values.apply(mask, item.tags)
        except (MaskError, ValueError):
            return item, []
        return item, np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()

    for item, found in map_ahead(values, masked, threads=min(8, os.cpu_count() or 1)):
        if found:
            counts.add(item.id, found, item.tags)
    return counts


def truth_problems(counts: TruthCounts, subject: str, *, rasterised: bool = False) -> Iterator[Problem]:
    """One error, or up to two warnings, about ground truth that does not fit the tags.

    ``subject`` is the folder of the masks; ``rasterised``: the masks were made from annotations.
    """
    if not counts.images:
        return
    found = f"{counts.found} of {counts.tags} tags are in the mask of their image"
    missing = counts.missing()
    found += f" (not one of {first_five(missing)})" if missing else ""
    unexpected = f"{len(counts.unexpected)} of {counts.images} masks hold ids that are not a tag of their image"
    if counts.are_wrong:
        ids = first_five(f"{number} {name}" for number, name in enumerate(counts.classes, 1))
        cause = likely_cause(counts, rasterised)[0]
        message = f"ground truth and tags do not fit: {found}; {unexpected}. {cause} Ids: {ids}"
        yield error("truth-tags", subject, message)
        return
    if counts.tags > counts.found:
        message = f"ground truth lacks tagged classes: {found}; look at these masks and tags"
        yield warning("truth-tags", subject, message)
    if counts.unexpected:
        message = f"{unexpected}: {first_five(counts.unexpected)}; add the tags, or correct the masks"
        yield warning("truth-tags", subject, message)


def likely_cause(counts: TruthCounts, rasterised: bool = False) -> tuple[str, bool]:
    """The likely cause and its remedy as a sentence, and whether the values alone show that they are not class ids."""
    values = np.flatnonzero(counts.values).tolist()
    classes = len(counts.classes)
    if rasterised:
        return "If every annotation is a crowd, as in masks that CVAT exports, `--data.crowd paint` paints them.", False
    drawn = [value for value in values if value]
    if not drawn:
        return "The masks hold background alone: does data.masks name the right folder?", False
    if len(drawn) == 1 and drawn[0] in (1, IGNORED) and 0 in values:
        if classes == 1:
            said = f"`--data.mask_values {drawn[0]}={_named(counts, 1)}` reads {drawn[0]} as {counts.classes[0]}"
        elif not counts.several:
            said = f"`--data.mask_values {drawn[0]}=tag` reads {drawn[0]} as the image's only tag"
        else:
            said = "that cannot tell the classes of images with several tags apart"
        return f"The masks are binary: {said}.", True
    if values == [IGNORED]:
        return "The masks are 255 everywhere, which is ignored: does data.masks name the right folder?", False
    mapping = _mapping(counts, values)
    if mapping:
        said = f"`--data.mask_values {mapping}`, or `--data.classes` in theirs"
        return f"The ids seem to be in another order: {said}.", True
    if len(drawn) > classes + 3:
        said = (
            f"The masks hold {len(values)} values ({first_five(values)}), as masks that were resized with "
            "interpolation, or saved as JPEG or with another palette: save class ids, resized by nearest neighbour."
        )
        return said, True
    return "Are these the masks of these images, and is data.classes in the order of their ids?", False


def _mapping(counts: TruthCounts, values: Sequence[int]) -> str:
    """``VALUE=CLASS,…`` if a one-to-one renaming of the values fits the tags; empty if none does or none is needed."""
    from scipy.optimize import linear_sum_assignment  # every command imports this file; SciPy takes long

    values = [value for value in values if value != IGNORED]
    columns = counts.tagged.copy()
    columns[0] = counts.images  # background is in every image, tagged or not
    joint = counts.joint[values].copy()
    joint[:, 0] = counts.values[values]
    union = counts.values[values][:, None] + columns[None] - joint
    score = joint / np.maximum(union, 1)
    # Among equal scores the one that changes ids least: 1-based ids become 0-based ones in their order.
    distance = (np.array(values)[:, None] - np.arange(len(columns))[None]) ** 2
    rows, chosen = linear_sum_assignment(score - 1e-6 * distance, maximize=True)
    if len(rows) < len(values) or (score[rows, chosen] < FITS).any():
        return ""
    pairs = [(values[row], int(column)) for row, column in zip(rows, chosen, strict=True)]
    return ",".join(f"{value}={_named(counts, class_id)}" for value, class_id in pairs if value != class_id)


def _named(counts: TruthCounts, class_id: int) -> str:
    """A class in `data.mask_values`: its id, or its name if some names look like ids."""
    ambiguous = any(name.isdecimal() for name in counts.classes)
    return counts.classes[class_id - 1] if ambiguous and class_id else str(class_id)
