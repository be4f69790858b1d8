"""Several processes that do one run together, as `torchrun` starts them; alone, everything here does nothing.

Each process knows its number and how many there are from the environment that `torchrun` sets.
"""

import os
import sys
from datetime import timedelta
from typing import Literal, NoReturn, TypeVar

import torch
from accelerate import PartialState
from torch import Tensor
from torch import distributed as dist

from tag2mask.device import resolve_device

PATIENCE = timedelta(days=7)
"""How long a process waits for the others: one may measure, or write a report, while they have nothing to do."""

Value = TypeVar("Value")


def process_count() -> int:
    """How many processes do the run, by the environment."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_number() -> int:
    """Which of them this one is, counted from 0, by the environment; 0 where there is no other."""
    return int(os.environ.get("RANK", "0")) if process_count() > 1 else 0


def is_main() -> bool:
    """Whether this process writes what is written once."""
    return process_number() == 0


def join(device: Literal["auto", "cpu", "cuda"]) -> None:
    """Meet the other processes; each gets a GPU of its own where there are GPUs."""
    if process_count() > 1:
        PartialState(cpu=resolve_device(device).type == "cpu", timeout=PATIENCE)


def end_process(code: int) -> NoReturn:
    """End this process with an exit code.

    One of several ends without the interpreter's own clean-up: threads of the process group outlive the group where a
    network was trained by several, and one that wants the interpreter's lock during that clean-up aborts the process.
    """
    if not _joined():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wait() -> None:
    """Go on when all processes have come here."""
    if _joined():
        dist.barrier()


def gathered(value: Value) -> list[Value]:
    """A value of every process, in their order, at every process; it travels pickled."""
    if not _joined():
        return [value]
    values: list[Value | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes; no gradient passes through it where there are several."""
    if not _joined():
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def is_true_anywhere(value: bool, device: torch.device) -> bool:
    """Whether a condition holds in any process."""
    if not _joined():
        return value
    return bool(mean_over_processes(torch.tensor(float(value), device=device)) > 0)


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
