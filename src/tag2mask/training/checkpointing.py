"""The resume state of training, averaged and best weights, and signals that stop a training."""

import copy
import os
import signal
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from tag2mask.core.distributed import is_main
from tag2mask.core.errors import Tag2maskError
from tag2mask.core.files import atomic_path, refuse_expansion
from tag2mask.core.machine_errors import is_machine_error

FIGURE = "validation_miou"
"""The figure that chooses the best weights; higher is better."""


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a resume state (tensors, numbers, strings and containers of them), atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:  # torch loses the error of a full disk
        torch.save(dict(state), file)


def load_state(path: Path, stage: str = "train") -> dict[str, Any]:
    """Read a resume state, without running code from the file; a `Tag2maskError` if it is damaged or something else."""
    try:
        refuse_expansion(path)
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch does not notice flipped bytes
                raise ValueError(f"{damaged} is damaged")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
    except Exception as error:  # a damaged file raises many kinds of errors
        if is_machine_error(error):
            raise
        raise Tag2maskError(
            f"{path} is not a readable resume state ({type(error).__name__}); --restart {stage} starts again"
        ) from error
    return state


class WeightAverage:
    """Exponential moving average of the weights, with weight (1 − decay) · decay^age of a step; None: no average.

    ``weights`` holds trainable weights and running statistics by name, float64: with a decay near 1 the changes are
    small compared with the weights. Source: ours.
    """

    def __init__(self, network: nn.Module, decay: float | None) -> None:
        """Start with the weights of ``network``."""
        self.decay = decay
        self.weights = {} if decay is None else {name: value.double() for name, value in self._averaged(network)}

    @staticmethod
    def _averaged(network: nn.Module) -> list[tuple[str, Tensor]]:
        training = {name for name, value in network.named_parameters() if value.requires_grad}
        running = {name for name, value in network.named_buffers() if value.is_floating_point()}
        state = network.state_dict()
        return [(name, value.detach()) for name, value in state.items() if name in training or name in running]

    def update(self, network: nn.Module) -> None:
        """Include the weights after a step."""
        if self.decay is not None:
            for name, value in self._averaged(network):
                self.weights[name] = self.weights[name].to(value.device).lerp_(value.double(), 1 - self.decay)

    def copy_to(self, network: nn.Module) -> None:
        """Load the averaged weights into the network."""
        state = network.state_dict()
        network.load_state_dict(state | {name: value.to(state[name]) for name, value in self.weights.items()})


class BestWeights:
    """The weights of the step with the highest validation figure, if ``enabled``."""

    def __init__(self, *, enabled: bool) -> None:
        """Start without weights."""
        self.enabled = enabled
        self.figure: float | None = None
        self.step = 0
        self.weights: dict[str, Tensor] = {}

    def update(self, network: nn.Module, figures: Mapping[str, float], step: int) -> None:
        """Keep the network's weights if their figure is the highest so far."""
        figure = figures.get(FIGURE)
        if self.enabled and figure is not None and (self.figure is None or figure > self.figure):
            self.figure, self.step = figure, step
            self.weights = {name: copy.deepcopy(value.detach().cpu()) for name, value in network.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """The content for the resume state."""
        return {"figure": self.figure, "step": self.step, "weights": self.weights}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self.figure, self.step, self.weights = state["figure"], state["step"], dict(state["weights"])

    def copy_to(self, network: nn.Module) -> None:
        """Load the best weights, if there are any, into the network."""
        if self.weights:
            network.load_state_dict(self.weights)


def wake_children() -> None:
    """Continue the child processes that somebody stopped: this process may wait for one of them."""
    for number in [process.pid for process in active_children() if process.pid]:
        with suppress(AttributeError, ProcessLookupError):  # Windows has no such signal
            os.kill(number, signal.SIGCONT)


class SignalHandler:
    """Whether SIGTERM or Ctrl-C was ``received`` since `listen`."""

    received = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C stops at once
        self.received = True
        wake_children()
        if is_main():  # unbuffered: the signal may have come in the middle of a print
            os.write(2, b"\nstopping after this step and saving its state; Ctrl-C again stops at once\n")

    @contextmanager
    def listen(self) -> Iterator["SignalHandler"]:
        """Record SIGTERM and Ctrl-C instead of ending the process; only in the main thread."""
        if current_thread() is not main_thread():
            yield self
            return
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in previous:
            signal.signal(number, self._receive)
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
