"""The images of a review, with their verdicts, order and filters."""

from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal, get_args

from tag2mask.cams.kinds import command_of
from tag2mask.core.errors import UsageError
from tag2mask.data.corrections import Decision, Verdict
from tag2mask.data.dataset import ImageSet
from tag2mask.data.manifest import ImageItem
from tag2mask.quality.ranking import RankedImage, Ranking
from tag2mask.review.layers import prediction_folders
from tag2mask.runs.config import Config
from tag2mask.runs.dataset import run_images
from tag2mask.runs.run_folder import RunFolder

State = Literal["undecided", "accepted", "corrected", "rejected", "tags"]
"""Filter by the verdict on the mask, or by whether the tags were changed."""

Order = Literal["confidence", "list"]
"""Least confident first, or the order of the data set."""


def reviewed_images(config: Config, run: RunFolder, split: str | None = None) -> ImageSet:
    """The images to review, with the tags of the data set, before any decision.

    Args:
        config: its `data` and `limit`.
        split: all images of this split; None: images of any split that have a mask or a prediction.

    Raises:
        UsageError: there are none.
    """
    if split is not None:
        return run_images(config, run, split, corrected=False)
    images = run_images(replace(config, limit=None, data=replace(config.data, split=None)), run, corrected=False)
    folders = [run / name for name in ("masks", *prediction_folders(run))]
    kept = images.items.filter(lambda item: any((folder / f"{item.id}.png").is_file() for folder in folders))
    if not kept:
        raise UsageError(
            f"{run.path} has no masks of the images in {images.root}; make them with `{command_of(run.path)}`, "
            "or choose a split without masks with --data.split NAME"
        )
    return images.of(kept if config.limit is None else kept[: config.limit])


@dataclass(frozen=True)
class Query:
    """A filter of the list and its order.

    Attributes:
        class_id: only images with this tag; None: all.
        state: only images in this state; None: all.
        find: only images whose ID contains this text, ignoring case.
    """

    class_id: int | None = None
    state: State | None = None
    find: str = ""
    order: Order = "list"


@dataclass(frozen=True)
class Page:
    """A part of the images that match a query.

    Attributes:
        total: number of images that match.
        indices: of these images in the list.
        ranks: of these images in the order, ascending.
        more: whether more images follow, or precede if those before a rank were requested.
    """

    total: int
    indices: tuple[int, ...]
    ranks: tuple[int, ...]
    more: bool


class ReviewList:
    """The images by index, from 0. Several threads may read it and record decisions.

    Attributes:
        ranking: their confidence.
    """

    def __init__(self, images: ImageSet, ranking: Ranking) -> None:
        """Read the IDs and tags of all images."""
        self.images, self.ranking = images, ranking
        self._ids: list[str] = []
        self._own_tags: list[tuple[int, ...]] = []
        for item in images.items:
            self._ids.append(item.id)
            self._own_tags.append(item.tags)
        self._indices = {image_id: index for index, image_id in enumerate(self._ids)}
        self._verdicts: list[Verdict | None] = [None] * len(self._ids)
        self._other_tags: dict[int, tuple[int, ...]] = {}
        self._orders: dict[Order, list[int]] = {"list": [*range(len(self))], "confidence": ranking.order(self._ids)}

    def __len__(self) -> int:
        """Number of images."""
        return len(self._ids)

    def item(self, index: int) -> ImageItem:
        """The image at an index.

        Raises:
            IndexError: there is none.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.images.items[index]

    def index(self, image_id: str) -> int | None:
        """The index of an ID; None if it is not in the list."""
        return self._indices.get(image_id)

    def rank(self, index: int, order: Order) -> int:
        """The rank of an index in an order, from 0."""
        return self._orders[order].index(index)

    def record(self, index: int, decision: Decision | None) -> None:
        """Record the verdict and the changed tags of an image."""
        self._verdicts[index] = decision.verdict if decision else None
        if decision is None or decision.tags is None:
            self._other_tags.pop(index, None)
            return
        numbers = {name: number for number, name in enumerate(self.images.classes, 1)}
        self._other_tags[index] = tuple(sorted(numbers[name] for name in decision.tags if name in numbers))

    def ranked(self, index: int) -> RankedImage | None:
        """The entry of an image in the ranking; None if it is not ranked."""
        return self.ranking.by_id.get(self._ids[index])

    def tags(self, index: int) -> tuple[int, ...]:
        """The class ids of an image: changed tags, otherwise those of the data set."""
        return self._other_tags.get(index, self._own_tags[index])

    def has_other_tags(self, index: int) -> bool:
        """Whether the tags were changed."""
        return index in self._other_tags

    def counts(self) -> dict[str, int]:
        """Number of images in each state."""
        counted = Counter(self._verdicts)
        verdicts = {verdict: counted[verdict] for verdict in get_args(Verdict)}
        return {"undecided": counted[None], **verdicts, "tags": len(self._other_tags)}

    def tag_counts(self) -> list[int]:
        """Number of images with each tag of the data set, by class id; 0 for background."""
        counted = Counter(tag for tags in self._own_tags for tag in tags)
        return [counted[class_id] for class_id in range(len(self.images.classes) + 1)]

    def page(self, query: Query, *, after: int = -1, before: int | None = None, count: int = 100) -> Page:
        """The next images that match a query, or the previous ones.

        Args:
            after: the rank before the first one; ranks do not depend on decisions.
            before: the rank after the last one, instead of ``after``.
            count: the maximum number.
        """
        order = self._orders[query.order]
        ranks = [rank for rank, index in enumerate(order) if self._matches(index, query)]
        if before is None:
            start = bisect_right(ranks, after)
            taken, more = ranks[start : start + count], start + count < len(ranks)
        else:
            end = bisect_left(ranks, before)
            taken, more = ranks[max(0, end - count) : end], end > count
        return Page(len(ranks), tuple(order[rank] for rank in taken), tuple(taken), more)

    def _matches(self, index: int, query: Query) -> bool:
        if query.class_id is not None and query.class_id not in self.tags(index):
            return False
        if query.state == "tags" and not self.has_other_tags(index):
            return False
        if query.state not in (None, "tags") and (self._verdicts[index] or "undecided") != query.state:
            return False
        return not query.find or query.find.casefold() in self._ids[index].casefold()
