"""The training log: mean losses and throughput, and log.jsonl."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tag2mask.core.distributed import mean_over_processes
from tag2mask.core.errors import Tag2maskError, first_five
from tag2mask.core.files import naming_full_disk, require_inside, write_text
from tag2mask.networks.checkpoint import not_finite


class Losses(Protocol):
    """A dataclass of the losses of a batch, scalars; None is an unused loss."""

    @property
    def total(self) -> Tensor:
        """The minimised loss."""
        ...


class Meter:
    """Mean losses over all processes, and throughput, since the last line of the log; only `read` reads the device."""

    def __init__(self, stage: str, images: int) -> None:
        """Start the clock; ``images`` per call of `add`, over all processes."""
        self.stage, self.images = stage, images
        self.sums: dict[str, Tensor] = {}
        self.count, self.start, self.began = 0, time.perf_counter(), time.perf_counter()

    def add(self, losses: Losses) -> None:
        """Add the losses of a step, or of a part of one."""
        for part in fields(losses):  # type: ignore[arg-type]
            value, name = getattr(losses, part.name), "loss" if part.name == "total" else part.name
            if value is not None:
                self.sums[name] = self.sums.get(name, 0) + value.detach()
        self.count += 1

    def check(self, step: int) -> None:
        """Raise a `Tag2maskError` if the loss is not finite."""
        total = self.sums.get("loss")
        if total is not None and not bool(torch.isfinite(total)):
            raise self.diverged(step)

    def diverged(self, step: int) -> Tag2maskError:
        """The error for a loss that is not finite, or cannot be computed since its input is not."""
        return Tag2maskError(
            f"the loss is not finite at step {step}; train again with --restart {self.stage} and a lower "
            f"--{self.stage}.learning_rate, or with --{self.stage}.precision fp32"
        )

    def check_weights(self, network: nn.Module, step: int) -> None:
        """Raise a `Tag2maskError` if weights are not finite, which the loss before the step does not show."""
        if names := not_finite(network):
            raise Tag2maskError(
                f"the weights are not finite after step {step}: {first_five(names)}; they were not saved, and a state "
                f"that was saved before is kept. The learning rate is probably too high: train again with "
                f"--restart {self.stage} and a lower --{self.stage}.learning_rate"
            )

    def read(self, step: int) -> dict[str, float]:
        """Mean losses and images per second since the last call, after `check`; all processes call it together."""
        self.check(step)
        now = time.perf_counter()
        values = {name: float(mean_over_processes(value)) / self.count for name, value in self.sums.items()}
        values["images_per_second"] = round(self.images * self.count / max(now - self.start, 1e-9), 2)
        values["seconds"] = round(now - self.began, 2)
        self.sums, self.count, self.start = {}, 0, now
        return values


class TrainingLog:
    """log.jsonl, one JSON object per line; lines after the resumed step are dropped."""

    def __init__(self, path: Path, *, step: int, board: Any = None) -> None:
        """Open the log at ``path`` after ``step``; ``board`` is a TensorBoard writer, or None."""
        self.path, self.board = path, board
        kept = [json.dumps(entry) for entry in log_entries(path) if entry["step"] <= step]
        write_text(path, "".join(f"{line}\n" for line in kept))

    def append(self, values: Mapping[str, float]) -> None:
        """Add one line; ``values`` include `step`."""
        with naming_full_disk(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(values), allow_nan=False) + "\n")
        if self.board is not None:
            for name, value in values.items():
                if name != "step":
                    self.board.add_scalar(name, value, int(values["step"]))
            self.board.flush()


@contextmanager
def training_log(folder: Path, *, step: int, tensorboard: bool) -> Iterator[TrainingLog]:
    """The log in ``folder`` after ``step``, with ``tensorboard`` also as curves, whose later points are hidden."""
    if not tensorboard:
        yield TrainingLog(folder / "log.jsonl", step=step)
        return
    require_inside(folder, folder / "tensorboard" / "events")
    from torch.utils.tensorboard import SummaryWriter  # an extra

    with SummaryWriter(folder / "tensorboard", purge_step=step + 1) as board:
        yield TrainingLog(folder / "log.jsonl", step=step, board=board)


def log_entries(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a log up to the first damaged line: a killed process may leave half a line."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            return
        step = entry.get("step") if isinstance(entry, dict) else None
        if not isinstance(step, int | float) or not 0 <= step < 2**63:  # also for NaN
            return
        yield entry
