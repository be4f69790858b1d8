"""Which photographs are reviewed: their order, their verdicts, and what a filter leaves of them."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from tag2mask.data.corrections import Decision, Verdict
from tag2mask.data.photo import Photo
from tag2mask.data.photos import PhotoSet
from tag2mask.errors import UsageError
from tag2mask.pipeline.config import Config
from tag2mask.pipeline.reading import photographs
from tag2mask.pipeline.run_folder import RunFolder
from tag2mask.review.ranking import Doubt, Ranking

State = Literal["undecided", "accepted", "corrected", "rejected", "tags"]
"""What a photograph can be filtered by: whether and how its mask was decided on, or that its tags were changed."""

Order = Literal["confidence", "list"]
"""Least confident first, or as the data set has them."""

_CODES: dict[Verdict | None, int] = {None: 0, **{verdict: code for code, verdict in enumerate(get_args(Verdict), 1)}}

Places = npt.NDArray[np.intp]


def reviewed_photos(config: Config, run: RunFolder, split: str | None = None) -> PhotoSet:
    """The photographs to review, with the tags of the data set: what was decided of them is the desk's.

    Args:
        config: `data` and `limit` are read.
        run: whose masks.
        split: all photographs of that one; None for those of any split that have a mask or a prediction.

    Raises:
        UsageError: there are none.
    """
    if split is not None:
        return photographs(config, run, split, decided=False)
    photos = photographs(replace(config, limit=None, data=replace(config.data, split=None)), run, decided=False)
    folders = [run / name for name in ("masks", *prediction_folders(run))]
    kept = photos.photos.where(lambda photo: any((folder / f"{photo.id}.png").is_file() for folder in folders))
    if not kept:
        raise UsageError(
            f"{run.path} has no masks of the photographs in {photos.root}; `tag2mask run --out {run.path}` makes them, "
            "and --data.split NAME takes a split without masks"
        )
    return photos.of(kept if config.limit is None else kept[: config.limit])


def prediction_folders(run: RunFolder) -> list[str]:
    """The folders with predictions of a split, relative to the run folder."""
    folder = run / "predictions"
    return sorted(f"predictions/{each.name}" for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []


@dataclass(frozen=True)
class Query:
    """What the page asks for.

    Attributes:
        class_id: only photographs with that tag; None for all.
        state: only those that are in it; None for all.
        find: only those whose ID holds this, whatever its case; empty for all.
        order: of the photographs.
    """

    class_id: int | None = None
    state: State | None = None
    find: str = ""
    order: Order = "list"


@dataclass(frozen=True)
class Page:
    """Some photographs of those that a query leaves.

    Attributes:
        total: how many it leaves.
        places: of these in the list.
        ranks: of these in the order, ascending.
        more: whether others follow, or go before where those before a rank were asked for.
    """

    total: int
    places: tuple[int, ...]
    ranks: tuple[int, ...]
    more: bool


class ReviewList:
    """The photographs by place, from 0; about 40 bytes in memory for each.

    IDs are found by their hashes, tags lie one after another; a photograph itself is read when it is asked for.
    """

    def __init__(self, photos: PhotoSet, ranking: Ranking | None = None) -> None:
        """Go through the photographs once.

        Args:
            photos: to be reviewed.
            ranking: gives the order by confidence.
        """
        self.photos = photos
        hashes, tags, ends = array("Q"), array("B"), array("q", [0])
        for photo in photos.photos:
            hashes.append(_hash(photo.id))
            tags.extend(photo.tags)
            ends.append(len(tags))
        by_place = np.frombuffer(hashes, dtype=np.uint64)
        self._sorted: Places = np.argsort(by_place, kind="stable")
        self._hashes = by_place[self._sorted]
        self._tags, self._ends = np.frombuffer(tags, dtype=np.uint8), np.frombuffer(ends, dtype=np.int64)
        self._verdicts = np.zeros(len(photos), dtype=np.uint8)
        self._other_tags: dict[int, tuple[int, ...]] = {}
        self._found: tuple[str, npt.NDArray[np.bool_]] = "", np.ones(len(photos), dtype=np.bool_)
        listed: Places = np.arange(len(photos), dtype=np.intp)
        self.ranking = None if ranking is None else ranking.of(self.place, len(photos))
        by_confidence = listed if self.ranking is None else self.ranking.order
        self._orders: dict[Order, Places] = {"list": listed, "confidence": by_confidence}

    def __len__(self) -> int:
        """How many photographs."""
        return len(self.photos)

    def photo(self, place: int) -> Photo:
        """The photograph at a place.

        Raises:
            IndexError: there is none.
        """
        if not 0 <= place < len(self):
            raise IndexError(place)
        return self.photos.photos[place]

    def place(self, photo_id: str) -> int | None:
        """Where the photograph of an ID is; None if there is none."""
        wanted = _hash(photo_id)
        at = int(np.searchsorted(self._hashes, np.uint64(wanted)))
        while at < len(self) and int(self._hashes[at]) == wanted:
            place = int(self._sorted[at])
            if self.photo(place).id == photo_id:
                return place
            at += 1
        return None

    def rank(self, place: int, order: Order) -> int:
        """The number of a place in an order, from 0."""
        return place if order == "list" else int(np.flatnonzero(self._orders[order] == place)[0])

    def note(self, place: int, decision: Decision | None) -> None:
        """Keep in mind what was decided; each change is one step, for other threads may read."""
        self._verdicts[place] = _CODES[decision.verdict if decision else None]
        if decision is None or decision.tags is None:
            self._other_tags.pop(place, None)
            return
        numbers = {name: number for number, name in enumerate(self.photos.classes, 1)}
        self._other_tags[place] = tuple(sorted(numbers[name] for name in decision.tags if name in numbers))

    def doubt(self, place: int) -> Doubt | None:
        """What the ranking says of a photograph; None where it says nothing."""
        return None if self.ranking is None else self.ranking.doubt(place, self.photo(place).id)

    def tags(self, place: int) -> tuple[int, ...]:
        """The tags of a photograph: those that somebody gave it, else the data set's."""
        own = self._tags[self._ends[place] : self._ends[place + 1]]
        return self._other_tags.get(place, tuple(own.tolist()))

    def has_other_tags(self, place: int) -> bool:
        """Whether somebody changed its tags."""
        return place in self._other_tags

    def counts(self) -> dict[str, int]:
        """How many photographs are in each state."""
        numbers = np.bincount(self._verdicts, minlength=len(_CODES))
        named: dict[str, int] = {verdict or "undecided": int(numbers[code]) for verdict, code in _CODES.items()}
        return {**named, "tags": len(self._other_tags)}

    def tag_counts(self) -> list[int]:
        """How many photographs have each class by the data set, by class id; 0 for background."""
        counts: list[int] = np.bincount(self._tags, minlength=len(self.photos.classes) + 1).tolist()
        return counts

    def page(self, query: Query, *, after: int = -1, before: int | None = None, count: int = 100) -> Page:
        """The next photographs of a query, or those before them.

        Args:
            query: which ones.
            after: the rank after which to begin; ranks stay what they are, whatever is decided meanwhile.
            before: the rank before which to end, in place of ``after``.
            count: how many at most.
        """
        order = self._orders[query.order]
        ranks = np.flatnonzero(self._kept(query)[order])
        if before is None:
            start = int(np.searchsorted(ranks, after, side="right"))
            taken, more = ranks[start : start + count], start + count < len(ranks)
        else:
            end = int(np.searchsorted(ranks, before, side="left"))
            taken, more = ranks[max(0, end - count) : end], end > count
        return Page(len(ranks), tuple(order[taken].tolist()), tuple(taken.tolist()), more)

    def _kept(self, query: Query) -> npt.NDArray[np.bool_]:
        """Which photographs a query leaves, by place."""
        kept = np.ones(len(self), dtype=np.bool_)
        if query.class_id is not None:
            kept = self._tagged(query.class_id)
        if query.state == "tags":
            kept &= self._members(self._other_tags.copy())
        elif query.state is not None:
            kept &= self._verdicts == _CODES[None if query.state == "undecided" else query.state]
        return kept & self._named(query.find.casefold()) if query.find else kept

    def _tagged(self, class_id: int) -> npt.NDArray[np.bool_]:
        """Which photographs have a tag."""
        owners = np.searchsorted(self._ends, np.flatnonzero(self._tags == class_id), side="right") - 1
        tagged = self._members(owners)
        for place, tags in self._other_tags.copy().items():
            tagged[place] = class_id in tags
        return tagged

    def _named(self, text: str) -> npt.NDArray[np.bool_]:
        """Which photographs have an ID that holds a text; the last answer is kept, since pages ask again."""
        known, found = self._found
        if known != text:
            found = np.fromiter((text in photo.id.casefold() for photo in self.photos.photos), dtype=np.bool_)
            self._found = text, found
        return found

    def _members(self, places: Places | dict[int, tuple[int, ...]] | Sequence[int]) -> npt.NDArray[np.bool_]:
        flags = np.zeros(len(self), dtype=np.bool_)
        flags[np.fromiter(places, dtype=np.intp, count=len(places))] = True
        return flags


def _hash(photo_id: str) -> int:
    """64 bits of an ID; what is not UTF-8 in a file name counts as it is."""
    digest = blake2b(photo_id.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
