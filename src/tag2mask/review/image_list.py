"""The images of a review: their order, their verdicts, and filters over them."""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from tag2mask.core.errors import UsageError
from tag2mask.data.corrections import Decision, Verdict
from tag2mask.data.dataset import ImageSet
from tag2mask.data.manifest import ImageItem
from tag2mask.quality.ranking import RankedImage
from tag2mask.review.layers import prediction_folders
from tag2mask.runs.config import Config
from tag2mask.runs.dataset import run_images
from tag2mask.runs.run_folder import RunFolder

State = Literal["undecided", "accepted", "corrected", "rejected", "tags"]
"""Filter by the verdict on the mask, or by whether the tags were changed."""

Order = Literal["confidence", "list"]
"""Least confident first, or the order of the data set."""


def reviewed_images(config: Config, run: RunFolder, split: str | None = None) -> ImageSet:
    """The images to review, with the tags of the data set, without earlier decisions.

    Args:
        config: `data` and `limit` are read.
        run: the run with the masks.
        split: all images of this split; None: those of any split with a mask or a prediction.

    Raises:
        UsageError: there are none.
    """
    if split is not None:
        return run_images(config, run, split, corrected=False)
    images = run_images(replace(config, limit=None, data=replace(config.data, split=None)), run, corrected=False)
    folders = [run / name for name in ("masks", *prediction_folders(run))]
    kept = images.items.where(lambda item: any((folder / f"{item.id}.png").is_file() for folder in folders))
    if not kept:
        raise UsageError(
            f"{run.path} has no masks of the images in {images.root}; `tag2mask run --out {run.path}` makes them, "
            "and --data.split NAME takes a split without masks"
        )
    return images.of(kept if config.limit is None else kept[: config.limit])


@dataclass(frozen=True)
class Query:
    """A query of the page.

    Attributes:
        class_id: only images with this tag; None: all.
        state: only images in this state; None: all.
        find: only images whose ID contains this, in any case.
        order: of the images.
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
        places: of these images in the list.
        ranks: of these images in the order, ascending.
        more: whether others follow, or precede if those before a rank were requested.
    """

    total: int
    places: tuple[int, ...]
    ranks: tuple[int, ...]
    more: bool


class ReviewList:
    """The images by place, from 0. Several threads may read it and note decisions.

    Attributes:
        photos: the images.
        ranking: lines of the ranking by place, least confident first; None without a ranking.
    """

    def __init__(self, images: ImageSet, ranking: Iterable[RankedImage] | None = None) -> None:
        """Read IDs and tags of all images; ``ranking`` is the order by confidence, if there is one."""
        self.images = images
        self._ids: list[str] = []
        self._own_tags: list[tuple[int, ...]] = []
        for item in images.items:
            self._ids.append(item.id)
            self._own_tags.append(item.tags)
        self._places = {image_id: place for place, image_id in enumerate(self._ids)}
        self._verdicts: list[Verdict | None] = [None] * len(self._ids)
        self._other_tags: dict[int, tuple[int, ...]] = {}
        self.ranking: dict[int, RankedImage] | None = None if ranking is None else {}
        for each in ranking or ():
            if self.ranking is not None and (place := self.place(each.image)) is not None:
                self.ranking.setdefault(place, each)
        listed, ranked = list(range(len(self))), self.ranking or {}
        by_confidence = [*ranked, *(place for place in listed if place not in ranked)]
        self._orders: dict[Order, list[int]] = {"list": listed, "confidence": by_confidence}

    def __len__(self) -> int:
        """Number of images."""
        return len(self._ids)

    def item(self, place: int) -> ImageItem:
        """The image at a place.

        Raises:
            IndexError: there is none.
        """
        if not 0 <= place < len(self):
            raise IndexError(place)
        return self.images.items[place]

    def place(self, image_id: str) -> int | None:
        """The place of an ID; None if it is not in the list."""
        return self._places.get(image_id)

    def rank(self, place: int, order: Order) -> int:
        """The number of a place in an order, from 0."""
        return self._orders[order].index(place)

    def note(self, place: int, decision: Decision | None) -> None:
        """Update the verdict and the tags of an image."""
        self._verdicts[place] = decision.verdict if decision else None
        if decision is None or decision.tags is None:
            self._other_tags.pop(place, None)
            return
        numbers = {name: number for number, name in enumerate(self.images.classes, 1)}
        self._other_tags[place] = tuple(sorted(numbers[name] for name in decision.tags if name in numbers))

    def doubt(self, place: int) -> RankedImage | None:
        """The line of the ranking about an image; None if it has no confidence."""
        found = (self.ranking or {}).get(place)
        known = found is not None and found.confidence is not None and math.isfinite(found.confidence)
        return found if known else None

    def tags(self, place: int) -> tuple[int, ...]:
        """The tags of an image: changed ones, otherwise those of the data set."""
        return self._other_tags.get(place, self._own_tags[place])

    def has_other_tags(self, place: int) -> bool:
        """Whether its tags were changed."""
        return place in self._other_tags

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
            query: the filter and the order.
            after: the rank after which to begin; ranks do not depend on decisions.
            before: the rank before which to end, instead of ``after``.
            count: at most this many.
        """
        order = self._orders[query.order]
        ranks = [rank for rank, place in enumerate(order) if self._matches(place, query)]
        if before is None:
            start = bisect_right(ranks, after)
            taken, more = ranks[start : start + count], start + count < len(ranks)
        else:
            end = bisect_left(ranks, before)
            taken, more = ranks[max(0, end - count) : end], end > count
        return Page(len(ranks), tuple(order[rank] for rank in taken), tuple(taken), more)

    def _matches(self, place: int, query: Query) -> bool:
        if query.class_id is not None and query.class_id not in self.tags(place):
            return False
        if query.state == "tags" and not self.has_other_tags(place):
            return False
        if query.state not in (None, "tags") and (self._verdicts[place] or "undecided") != query.state:
            return False
        return not query.find or query.find.casefold() in self._ids[place].casefold()
