"""Counts how often a piece of work would wait for an accelerator, without having one."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_WAITING_OPERATIONS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "_unique", "unique")
_WAITING_METHODS = ("cpu", "numpy", "tolist")


class _Counter(TorchDispatchMode):
    """Counts operations that hand a value, or a size that depends on values, from the device to Python."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, counted."""
        name = func.overloadpacket.__name__
        self.waits += name in _WAITING_OPERATIONS
        return func(*args, **(kwargs or {}))


def waits(work: Callable[[], object]) -> int:
    """How often ``work`` waits for the device."""
    with _Counter() as counter:

        def counted(method: Callable[..., Any]) -> Callable[..., Any]:
            def call(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
                counter.waits += 1
                return method(tensor, *args, **kwargs)

            return call

        patches = [patch.object(torch.Tensor, name, counted(getattr(torch.Tensor, name))) for name in _WAITING_METHODS]
        for one in patches:
            one.start()
        try:
            work()
        finally:
            for one in patches:
                one.stop()
    return counter.waits
