"""Mean losses and speed between two lines of a training's log."""

import time
from dataclasses import fields
from typing import Protocol

import torch
from torch import Tensor, nn

from tag2mask.distributed import mean_over_processes
from tag2mask.errors import Tag2maskError, first_five
from tag2mask.networks.checkpoint import not_finite


class Losses(Protocol):
    """A dataclass of the losses of a batch, scalars; None is a loss that is left out."""

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        ...


class Meter:
    """Mean losses, over all processes, and speed since the last line of the log; the device is read only then."""

    def __init__(self, stage: str, photographs: int) -> None:
        """Start the clock; ``photographs`` go into what is added at a time, over all processes."""
        self.stage, self.photographs = stage, photographs
        self.sums: dict[str, Tensor] = {}
        self.count, self.start, self.began = 0, time.perf_counter(), time.perf_counter()

    def add(self, losses: Losses) -> None:
        """Add a step, or a part of one."""
        for part in fields(losses):  # type: ignore[arg-type]
            value, name = getattr(losses, part.name), "loss" if part.name == "total" else part.name
            if value is not None:
                self.sums[name] = self.sums.get(name, 0) + value.detach()
        self.count += 1

    def check(self, step: int) -> None:
        """Refuse to go on, and to save, with a loss that is not finite.

        Raises:
            Tag2maskError: it is not.
        """
        total = self.sums.get("loss")
        if total is not None and not bool(torch.isfinite(total)):
            raise Tag2maskError(
                f"the loss is not finite at step {step}; train anew with --restart {self.stage} and a lower "
                f"--{self.stage}.learning_rate, or with --{self.stage}.precision fp32"
            )

    def check_weights(self, network: nn.Module, step: int) -> None:
        """Refuse to save, or to measure, weights that are not finite: the loss before a step does not show them.

        Raises:
            Tag2maskError: they are not.
        """
        if names := not_finite(network):
            raise Tag2maskError(
                f"the weights are not finite after step {step}: {first_five(names)}; they were not saved, and a state "
                f"that was saved before is kept. The learning rate is probably too high: train anew with "
                f"--restart {self.stage} and a lower --{self.stage}.learning_rate"
            )

    def read(self, step: int) -> dict[str, float]:
        """Means and images/s since the last call; all processes ask together.

        Raises:
            Tag2maskError: the loss is not finite.
        """
        self.check(step)
        now = time.perf_counter()
        values = {name: float(mean_over_processes(value)) / self.count for name, value in self.sums.items()}
        values["images_per_second"] = round(self.photographs * self.count / max(now - self.start, 1e-9), 2)
        values["seconds"] = round(now - self.began, 2)
        self.sums, self.count, self.start = {}, 0, now
        return values
