"""The processes of one run, started by `torchrun`, which sets their number and count in environment variables.

In a single process these functions do nothing.
"""

import os
import sys
from datetime import timedelta
from typing import Literal, NoReturn, TypeVar

from accelerate import PartialState
from torch import Tensor
from torch import distributed as dist

from tag2mask.core.device import resolve_device
from tag2mask.core.errors import UsageError, first_five

TIMEOUT = timedelta(days=7)
"""Of a process that waits for others, for example while one of them evaluates."""

Value = TypeVar("Value")


_TORCHRUN = "TORCHELASTIC_USE_AGENT_STORE"
"""A variable that torchrun sets in all its processes."""

_ALONE = {"WORLD_SIZE": "1", "LOCAL_RANK": "-1", "PMI_SIZE": "1", "OMPI_COMM_WORLD_SIZE": "1"}
"""Variables of several processes, which accelerate reads too, with their values in a single process."""


def process_count() -> int:
    """The number of processes.

    Raises:
        UsageError: variables of several processes are set, but not by torchrun.
    """
    if _TORCHRUN in os.environ:
        return int(os.environ["WORLD_SIZE"])
    found = [f"{name}={os.environ[name]}" for name, alone in _ALONE.items() if os.environ.get(name, alone) != alone]
    if found:
        raise UsageError(
            f"the environment says {first_five(found)}, and torchrun did not set it; unset "
            f"{' '.join(each.partition('=')[0] for each in found)} to work in one process, or start the command with "
            f"torchrun"
        )
    return 1


def process_number() -> int:
    """The index of this process, from 0."""
    return int(os.environ.get("RANK", "0")) if process_count() > 1 else 0


def is_main() -> bool:
    """Whether this process writes the files that are written once."""
    return process_number() == 0


def join(device: Literal["auto", "cpu", "cuda"]) -> None:
    """Join the process group; each process gets its own GPU where there are GPUs."""
    if process_count() > 1:
        PartialState(cpu=resolve_device(device).type == "cpu", timeout=TIMEOUT)


def end_process(code: int) -> NoReturn:
    """End this process with an exit code.

    In a process group it skips the interpreter's clean-up, during which threads of the group may abort the process.
    """
    if not _joined():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wait() -> None:
    """Wait for all processes."""
    if _joined():
        dist.barrier()


def gathered(value: Value) -> list[Value]:
    """The values of all processes, in the order of the processes, in every process; values are pickled."""
    if not _joined():
        return [value]
    values: list[Value | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes, detached if there are several."""
    if not _joined():
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
