"""Batches of images of similar size; they do not depend on which images are done already.

A batch list takes about 20 bytes per image.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tag2mask.core.errors import Tag2maskError
from tag2mask.core.prefetch import map_ahead
from tag2mask.core.provenance import image_origin
from tag2mask.data.images import ImageError, image_size, read_image
from tag2mask.data.manifest import ImageItem, Images
from tag2mask.runs.config import Config
from tag2mask.runs.dataset import prefetch_batches, reading_workers
from tag2mask.runs.progress import StageResult

Answer = TypeVar("Answer")


def readable(
    batches: Iterable[Sequence[ImageItem]], read: Callable[[ImageItem], Answer], config: Config, result: StageResult
) -> Iterator[list[tuple[ImageItem, Answer]]]:
    """The readable images of each batch, with ``read(image)``; a few batches are prefetched.

    An image for which ``read`` raises a `Tag2maskError` has failed. Batches without a readable image are left out.
    """

    def attempt(item: ImageItem) -> Answer | Tag2maskError:
        try:
            return read(item)
        except Tag2maskError as error:
            return error

    for pairs in prefetch_batches(batches, attempt, config):
        result.failed.update({item.id: str(answer) for item, answer in pairs if isinstance(answer, Tag2maskError)})
        if good := [(item, answer) for item, answer in pairs if not isinstance(answer, Tag2maskError)]:
            yield good


@dataclass(frozen=True)
class Batches:
    """Batches of images, re-iterable.

    Attributes:
        items: the images in the order of the batches, and perhaps others between them.
        spans: int64 (B, 2), start and stop of each batch in ``items``.
    """

    items: Images
    spans: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """The number of batches."""
        return len(self.spans)

    def __iter__(self) -> Iterator[Images]:
        """Batch after batch."""
        for start, stop in self.spans:
            yield self.items[int(start) : int(stop)]

    @property
    def total(self) -> int:
        """The number of images."""
        return int((self.spans[:, 1] - self.spans[:, 0]).sum())

    def all_items(self) -> Images:
        """All images, in order."""
        places = [np.arange(start, stop) for start, stop in self.spans]
        return self.items.take(np.concatenate(places) if places else range(0))

    def without(self, left_out: Mapping[str, object]) -> "Batches":
        """The batches without some images, by ID."""
        if not left_out:
            return self
        kept = np.fromiter((item.id not in left_out for item in self.items), dtype=np.bool_, count=len(self.items))
        spans = np.concatenate([[0], np.cumsum(kept)])[self.spans]
        return Batches(self.items.take(np.flatnonzero(kept)), spans[spans[:, 0] < spans[:, 1]])

    def unfinished(self, is_missing: Callable[[ImageItem], bool]) -> tuple["Batches", int]:
        """The batches with an image that ``is_missing`` a file, and the number of such images."""
        counts = np.fromiter((sum(map(is_missing, batch)) for batch in self), dtype=np.int64, count=len(self))
        return Batches(self.items, self.spans[counts > 0]), int(counts.sum())


def with_sizes(items: Images, config: Config, result: StageResult) -> tuple[Images, npt.NDArray[np.int64]]:
    """The images with a readable size, and height << 32 | width of each, int64 (N,); the others have failed.

    A command reads each header once.
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


def sorted_by(items: Images, keys: npt.NDArray[np.int64]) -> tuple[Images, npt.NDArray[np.int64]]:
    """Images in a stable order by ascending key, and the sorted keys, int64 (N,)."""
    order = np.argsort(keys, kind="stable")
    return items.take(order), keys[order]


def sized_batches(items: Images, config: Config, result: StageResult) -> Batches:
    """This shard's batches of images of one size; an image without a readable size has failed.

    The whole set is batched first, so that no file depends on the number of shards.
    """
    ordered, sizes = sorted_by(*with_sizes(items, config, result))
    step = config.cams.batch_size
    edges = np.flatnonzero(np.diff(sizes, prepend=-1, append=-1)) if len(sizes) else np.zeros(0, dtype=np.int64)
    spans = [
        (first, min(first + step, stop))
        for start, stop in pairwise(edges.tolist())
        for first in range(start, stop, step)
    ]
    number, shards = config.shard_of()
    return Batches(ordered, np.array(spans, dtype=np.int64).reshape(-1, 2)[number - 1 :: shards])


def read_batches(
    batches: Iterable[Sequence[ImageItem]],
    config: Config,
    result: StageResult,
    origins: dict[str, np.ndarray | None] | None = None,
) -> Iterator[tuple[list[ImageItem], Tensor]]:
    """The readable images of each batch of one size, (N, 3, H, W) in [0, 1].

    ``origins`` receives the record of each image, by ID, when it is read.
    """

    def read(item: ImageItem) -> np.ndarray:
        if origins is not None:
            origins[item.id] = image_origin(item.path)
        return read_image(item.path, pixel_limit=config.data.pixel_limit, intensity=config.data.intensity)

    for good in readable(batches, read, config, result):
        stack = torch.from_numpy(np.stack([image for _, image in good]))
        yield [item for item, _ in good], stack.permute(0, 3, 1, 2).float() / 255
