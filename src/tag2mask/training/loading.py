"""The batches of training: read in the order of the draws, with a stand-in for what cannot be read."""

from collections.abc import Mapping
from signal import SIG_IGN, SIGINT, SIGTERM, signal
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tag2mask.cam_files import CamFileError
from tag2mask.data.images import ImageError
from tag2mask.data.photos import PhotoSet
from tag2mask.memory import release_memory
from tag2mask.training.order import DrawOrder
from tag2mask.training.settings import LoopSettings


class Samples(Protocol):
    """Photographs as training wants them: asked for by (draw, index), a sample depends on those and a seed alone."""

    photos: PhotoSet

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> Mapping[str, Any]: ...


class _Readable(Dataset[dict[str, Any]]):
    """A training set in which the next readable photograph stands in for one that cannot be read."""

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
                failed[self.samples.photos.photos[number].id] = str(error)
        return {"failed": failed}  # raised by the parent: an exception from a worker process carries a traceback


def batches(
    samples: Samples,
    settings: LoopSettings,
    seed: int,
    span: tuple[int, int],
    workers: int,
    accelerator: Accelerator,
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
        worker_init_fn=_leave_signals_to_parent,
        pin_memory=accelerator.device.type == "cuda",
        prefetch_factor=4 if workers else None,
    )


def _collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack what the network needs, gather what failed."""
    usable = [sample for sample in samples if "image" in sample]
    tensors = [name for name, value in usable[0].items() if isinstance(value, Tensor)] if usable else []
    batch: dict[str, Any] = {name: torch.stack([sample[name] for sample in usable]) for name in tensors}
    batch["failed"] = {name: reason for sample in samples for name, reason in sample["failed"].items()}
    return batch


def _leave_signals_to_parent(worker: int) -> None:
    """Ctrl-C and SIGTERM reach a whole process group; only the parent may act on them, once its step is done."""
    signal(SIGINT, SIG_IGN)
    signal(SIGTERM, SIG_IGN)
    release_memory()  # photographs have ever new sizes
