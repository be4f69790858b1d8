"""Batches of images that are alike in size; which images share one does not depend on what is done already.

Of an image some 20 bytes are held, of a million 20 MB.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tag2mask.core.prefetch import map_ahead
from tag2mask.data.images import ImageError, image_size
from tag2mask.data.manifest import ImageItem, Images
from tag2mask.runs.config import Config
from tag2mask.runs.dataset import reading_workers
from tag2mask.runs.progress import StageResult


@dataclass(frozen=True)
class Batches:
    """Batches, which may be gone through more than once.

    Attributes:
        photos: the images in the order of the batches, and others between them.
        spans: int64 (B, 2), where each batch begins and ends among them.
    """

    items: Images
    spans: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """How many batches."""
        return len(self.spans)

    def __iter__(self) -> Iterator[Images]:
        """Batch after batch."""
        for start, stop in self.spans:
            yield self.items[int(start) : int(stop)]

    @property
    def total(self) -> int:
        """How many images they hold."""
        return int((self.spans[:, 1] - self.spans[:, 0]).sum())

    def all_items(self) -> Images:
        """All their images, in order."""
        places = [np.arange(start, stop) for start, stop in self.spans]
        return self.items.take(np.concatenate(places) if places else range(0))

    def without(self, left_out: Mapping[str, object]) -> "Batches":
        """The same batches without some images, by ID."""
        if not left_out:
            return self
        kept = np.fromiter((item.id not in left_out for item in self.items), dtype=np.bool_, count=len(self.items))
        spans = np.concatenate([[0], np.cumsum(kept)])[self.spans]
        return Batches(self.items.take(np.flatnonzero(kept)), spans[spans[:, 0] < spans[:, 1]])

    def unfinished(self, is_missing: Callable[[ImageItem], bool]) -> tuple["Batches", int]:
        """The batches with an image that is missing something, and how many such images there are."""
        counts = np.fromiter((sum(map(is_missing, batch)) for batch in self), dtype=np.int64, count=len(self))
        return Batches(self.items, self.spans[counts > 0]), int(counts.sum())


def measured(items: Images, config: Config, result: StageResult) -> tuple[Images, npt.NDArray[np.int64]]:
    """The images whose size can be read, and height << 32 | width of each, int64 (N,); the others have failed.

    A header is read once in a command.
    """

    def size(item: ImageItem) -> int | ImageError:
        try:
            height, width = image_size(item.path, pixel_limit=config.data.pixel_limit)
        except ImageError as error:
            return error
        return height << 32 | width

    sizes = items.sizes()
    unknown = np.flatnonzero(sizes == 0)
    answers = map_ahead(size, items.take(unknown), threads=max(1, reading_workers(config)))
    for place, answer in zip(unknown.tolist(), answers, strict=True):
        if isinstance(answer, ImageError):
            result.failed[items[place].id] = str(answer)
        else:
            sizes[place] = answer
    items.keep_sizes(sizes)
    there = np.flatnonzero(sizes)
    return items.take(there), sizes[there]


def in_order(items: Images, keys: npt.NDArray[np.int64]) -> tuple[Images, npt.NDArray[np.int64]]:
    """Images by ascending key, equal ones as they were; and those keys, int64 (N,)."""
    order = np.argsort(keys, kind="stable")
    return items.take(order), keys[order]


def sized_batches(items: Images, config: Config, result: StageResult) -> Batches:
    """Batches of images of one size, those of this shard; an image without a readable size has failed.

    The batches are those of the whole set, whatever the shard, so that a file does not depend on how many there are.
    """
    ordered, sizes = in_order(*measured(items, config, result))
    step = config.cams.batch_size
    edges = np.flatnonzero(np.diff(sizes, prepend=-1, append=-1)) if len(sizes) else np.zeros(0, dtype=np.int64)
    spans = [
        (first, min(first + step, stop))
        for start, stop in pairwise(edges.tolist())
        for first in range(start, stop, step)
    ]
    number, shards = config.shard_of()
    return Batches(ordered, np.array(spans, dtype=np.int64).reshape(-1, 2)[number - 1 :: shards])
