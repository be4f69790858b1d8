"""Training batches: the order of draws, and reading with substitutes for unreadable images."""

import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from multiprocessing import active_children
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tag2mask.core.device import release_memory
from tag2mask.core.machine_errors import require_shared_memory
from tag2mask.core.profile import timed
from tag2mask.data.cam_files import CamFileError
from tag2mask.data.dataset import ImageSet
from tag2mask.data.images import ImageError
from tag2mask.training.checkpointing import wake_children
from tag2mask.training.settings import LoopSettings

_PATIENCE = 5
"""Seconds to wait for a batch before it is asked again whether to stop."""


class Samples(Protocol):
    """Training samples by (draw, index); a sample depends on this key and a seed alone."""

    images: ImageSet

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> Mapping[str, Any]: ...


class DrawOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (draw, index) from an endless sequence of permutations, a function of seed and step alone.

    A batch may span two epochs, so that no image is left out and a set may be smaller than a batch.
    """

    def __init__(
        self, images: int, batch_size: int, *, seed: int, first_step: int, last_step: int, rank: int = 0, world: int = 1
    ) -> None:
        """Set the order of a set of ``images`` ≥ 1.

        Args:
            batch_size: images per step over all processes.
            first_step: the first step, counted from 0.
            last_step: one past the last step.
            rank: of this process, which gets every ``world``-th draw of a batch.
        """
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.first_step, self.last_step, self.rank, self.world = first_step, last_step, rank, world

    def __len__(self) -> int:
        """The number of batches."""
        return max(0, self.last_step - self.first_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """The batches: lists of (draw, index), ``draw`` counting images since the start of training."""
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self.first_step, self.last_step):
            batch = []
            for draw in range(step * self.batch_size, (step + 1) * self.batch_size):
                if draw // self.images != epoch:
                    epoch = draw // self.images
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.images)
                batch.append((draw, int(order[draw % self.images])))
            yield batch[self.rank :: self.world]


class _Readable(Dataset[dict[str, Any]]):
    """A training set in which the next readable image replaces an unreadable one."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        draw, index = key
        failed: dict[str, str] = {}
        for offset in range(len(self.samples)):
            number = (index + offset) % len(self.samples)
            try:
                return {**self.samples[draw, number], "failed": failed}
            except (ImageError, CamFileError) as error:
                failed[self.samples.images.items[number].id] = str(error)
        return {"failed": failed}  # the parent raises: an exception from a worker process carries a traceback


def batches(
    samples: Samples, settings: LoopSettings, seed: int, span: tuple[int, int], workers: int, accelerator: Accelerator
) -> DataLoader[dict[str, Any]]:
    """Batches of the steps in ``span`` for this process."""
    order = DrawOrder(
        len(samples),
        settings.batch_size,
        seed=seed,
        first_step=span[0],
        last_step=span[1],
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    return DataLoader(
        _Readable(samples),
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_set_up_worker,
        pin_memory=accelerator.device.type == "cuda",
        prefetch_factor=4 if workers else None,
        timeout=_PATIENCE if workers else 0,
    )


def until_stopped(
    loader: DataLoader[dict[str, Any]], is_stopped: Callable[[], bool]
) -> Generator[dict[str, Any] | None, None, None]:
    """The batches of a loader; None, and no more, if ``is_stopped`` while no batch comes: its processes may hang.

    At the end no process of the loader is left.
    """
    if loader.num_workers:
        require_shared_memory()
    arriving = iter(loader)
    try:
        while True:
            try:
                with timed("waiting"):
                    batch = next(arriving)
                yield batch
            except StopIteration:
                return
            except RuntimeError as error:
                if is_stopped():
                    yield None
                    return
                if "timed out" not in str(error):
                    raise
    finally:
        wake_children()
        del arriving  # asks each process to end, and waits a few seconds
        for process in active_children():
            process.kill()  # one that waits for a lost disk


def _collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    usable = [sample for sample in samples if "image" in sample]
    tensors = [name for name, value in usable[0].items() if isinstance(value, Tensor)] if usable else []
    batch: dict[str, Any] = {name: torch.stack([sample[name] for sample in usable]) for name in tensors}
    batch["failed"] = {name: reason for sample in samples for name, reason in sample["failed"].items()}
    return batch


def _set_up_worker(worker: int) -> None:
    """Leave Ctrl-C and SIGTERM, which reach the whole process group, to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    release_memory()  # image sizes vary
