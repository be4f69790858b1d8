"""The training loop, one for every device, with exact resume."""

from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn

from tag2mask.core.device import channels_last, resolve_device, retained_memory
from tag2mask.core.distributed import TIMEOUT, gathered, mean_over_processes
from tag2mask.core.errors import Interrupted, Tag2maskError, UsageError, first_five
from tag2mask.core.machine_errors import is_machine_error
from tag2mask.core.profile import timed
from tag2mask.networks.checkpoint import not_finite
from tag2mask.training.batches import Samples, batches, until_stopped
from tag2mask.training.checkpointing import (
    BestWeights,
    SignalHandler,
    WeightAverage,
    load_state,
    save_state,
)
from tag2mask.training.log import Losses, Meter, training_log
from tag2mask.training.settings import LoopSettings, RecordSettings

_STEPS_BETWEEN_STOPS = 5
"""Steps after which several processes agree on whether to stop, for which a GPU waits."""

OnStep = Callable[[int, int, Mapping[str, float]], None]
"""Called after each step with (steps done, total steps, the latest logged values, empty before the first ones)."""


class Group(NamedTuple):
    """Parameters that train alike."""

    parameters: list[nn.Parameter]
    factor: float = 1.0  # of the learning rate
    decay: bool = True


@dataclass(frozen=True)
class Task:
    """A network with its data and its loss.

    Attributes:
        samples: tensors by name, stacked over a batch; `image` is required.
        losses: the `Losses` of the network as wrapped for its device, a batch on that device, and the share of the
            steps already done.
        may_lack_gradients: whether a step may leave a trainable parameter without a gradient.
        validate: figures of the network, in evaluation mode, for the log.
        fitted: a batch whose classification loss is below it does not change the weights.
    """

    stage: str
    network: nn.Module
    samples: Samples
    groups: tuple[Group, ...]
    losses: Callable[[nn.Module, Mapping[str, Tensor], float], Losses]
    may_lack_gradients: bool = False
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None
    fitted: float = 0.0


@dataclass
class TrainingResult:
    """The result of a training.

    Attributes:
        resumed_from: the step of the resumed state; 0 without one.
        note: why the weights may differ from those of an uninterrupted training; empty if they do not.
        unreadable: the reason for each image that could not be read; others took its place.
        fitted: the steps whose batch was fitted, so that they did not change the weights.
    """

    steps: int
    resumed_from: int
    note: str = ""
    unreadable: dict[str, str] = field(default_factory=dict)
    fitted: int = 0


def train_network(
    task: Task,
    settings: LoopSettings,
    *,
    folder: Path,
    seed: int,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    workers: int = 0,
    records: RecordSettings | None = None,
    on_step: OnStep = lambda done, total, values: None,
) -> TrainingResult:
    """Train the network of ``task`` in place, from the state saved in ``folder`` if there is one.

    On a CPU in fp32 an interrupted run that is resumed with the same number of threads ends with the same weights, bit
    for bit, as an uninterrupted one: the order of images, their augmentation and every other draw depend on
    (seed, step) alone.

    Args:
        task: its network must be newly initialised; on resume its weights are overwritten.
        folder: of state.pt and log.jsonl.
        workers: processes that read images; 0 reads in this one.
        records: how often state and figures are written.

    Raises:
        Interrupted: SIGTERM or Ctrl-C came; the state is saved.
        UsageError: `keep_best` without images to validate on.
        Tag2maskError: the loss or the weights are not finite, or no image can be read.
    """
    if settings.keep_best and task.validate is None:
        raise UsageError(f"{task.stage}.keep_best needs images with ground truth to measure on; leave it out")
    records = records or RecordSettings()
    check_requirements(task.stage, settings, device, records)
    loop = _Loop(task, settings, _accelerator(task, settings, device))
    total = settings.total_steps(len(task.samples))
    state_path = folder / "state.pt"
    step = loop.resume(state_path) if state_path.is_file() else 0
    loop.network, loop.optimizer = loop.accelerator.prepare(loop.network, loop.optimizer)
    loader = batches(task.samples, settings, seed, (step, total), workers, loop.accelerator)
    main = loop.accelerator.is_main_process
    opened = training_log(folder, step=step, tensorboard=records.tensorboard) if main else nullcontext()
    values: dict[str, Any] = {}
    trained = TrainingResult(steps=step, resumed_from=step, note=loop.note)
    with (
        retained_memory(),
        opened as log,
        SignalHandler().listen() as stop,
        closing(until_stopped(loader, lambda: stop.received)) as arriving,
    ):
        for batch in arriving:
            if batch is None:
                loop.check(step)
                loop.save(state_path, step)
                raise _interrupted(step, total)
            trained.unreadable.update(batch["failed"])
            if "image" not in batch:
                raise Tag2maskError("not one image of the training set can be read; `tag2mask check` lists why")
            loop.step(batch, seed, step, total)
            step += 1
            loop.average.update(loop.plain)
            last = step == total
            saves = last or step % records.checkpoint_every == 0
            every = settings.validate_every
            validates = task.validate is not None and every is not None and (last or step % every == 0)
            if saves or validates:
                loop.check(step)
            figures = loop.validated() if validates and main else {}
            loop.best.update(loop.plain, figures, step)
            if last or step % records.log_every == 0 or validates:
                rate = float(loop.optimizer.param_groups[0]["lr"])
                values = {"step": step, "learning_rate": rate, **loop.meter.read(step), **figures}
                if log is not None:
                    log.append(values)
            on_step(step, total, values)
            stops = _stops(stop, loop.accelerator, step)
            if stops and not saves:
                loop.check(step)
            if saves or stops:
                loop.save(state_path, step)
            if stops and not last:
                raise _interrupted(step, total)
    trained.steps, trained.fitted = step, loop.fitted
    trained.unreadable = {name: reason for each in gathered(trained.unreadable) for name, reason in each.items()}
    loop.average.copy_to(task.network)
    loop.best.copy_to(task.network)
    return trained


def _interrupted(step: int, total: int) -> Interrupted:
    return Interrupted(f"stopped at step {step} of {total}; the state is saved, the same command continues from there")


def check_requirements(
    stage: str, settings: LoopSettings, device: Literal["auto", "cpu", "cuda"], records: RecordSettings
) -> None:
    """Check the requirements of training; a `UsageError`: fp16 without a GPU, or TensorBoard is not installed."""
    if records.tensorboard and find_spec("tensorboard") is None:
        raise UsageError("train.tensorboard needs TensorBoard; pip install 'tag2mask[tensorboard]'")
    if settings.precision == "fp16" and resolve_device(device).type == "cpu":
        raise UsageError(f"{stage}.precision fp16 needs a GPU; on a CPU use fp32, or bf16")


class _Loop:
    """The state of a training: network, optimiser, averaged and best weights."""

    def __init__(self, task: Task, settings: LoopSettings, accelerator: Accelerator) -> None:
        self.task, self.settings, self.accelerator = task, settings, accelerator
        self.optimizer: Any = _optimizer(task, settings)
        self.network = task.network
        if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
            # Batch norm over the batch of all processes, which torch has for GPUs alone.
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)  # type: ignore[no-untyped-call]
        channels_last(self.network).train()  # convolutions on CPUs are faster by a third
        self.average = WeightAverage(self.network, settings.ema_decay)
        self.best = BestWeights(enabled=settings.keep_best)
        self.note = ""
        self.fitted = 0
        self.meter = Meter(task.stage, settings.batch_size // settings.gradient_accumulation_steps)

    @property
    def plain(self) -> nn.Module:
        """The network without its wrapper for several processes."""
        return self.accelerator.unwrap_model(self.network)  # type: ignore[no-any-return]

    @timed("network")
    def step(self, batch: Mapping[str, Any], seed: int, step: int, total: int) -> None:
        """One optimiser step, over the parts of a batch."""
        accelerator, settings = self.accelerator, self.settings
        # Random layers (dropout, stochastic depth) depend on step and process alone.
        torch.manual_seed((seed << 32) + step * accelerator.num_processes + accelerator.process_index)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial"] * settings.decayed(step, total)
        tensors = {
            name: value.to(accelerator.device, non_blocking=True)
            for name, value in batch.items()
            if isinstance(value, Tensor)
        }
        tensors["image"] = tensors["image"].contiguous(memory_format=torch.channels_last)
        self.optimizer.zero_grad(set_to_none=True)
        classification = torch.zeros((), device=accelerator.device)
        try:
            for chunk in zip(
                *(value.chunk(settings.gradient_accumulation_steps) for value in tensors.values()), strict=True
            ):
                losses = self.task.losses(self.network, dict(zip(tensors, chunk, strict=True)), step / total)
                accelerator.backward(losses.total / settings.gradient_accumulation_steps)
                self.meter.add(losses)
                if self.task.fitted:
                    classification += losses.classification.detach()  # type: ignore[attr-defined]
        except UsageError as error:  # POT and CRF refuse numbers that are not finite, without the cause
            self.meter.check_weights(self.plain, step)
            if "finite" not in str(error):
                raise
            raise self.meter.diverged(step) from error
        limit = self.task.fitted * settings.gradient_accumulation_steps
        if limit and bool(mean_over_processes(classification) < limit):
            self.fitted += 1
            return
        if settings.max_grad_norm is not None:
            every = (parameter for group in self.optimizer.param_groups for parameter in group["params"])
            accelerator.clip_grad_norm_(every, settings.max_grad_norm)
        self.optimizer.step()

    def check(self, step: int) -> None:
        """Raise a `Tag2maskError` if losses or weights are not finite."""
        self.meter.check(step)
        self.meter.check_weights(self.plain, step)

    def validated(self) -> Mapping[str, float]:
        """The figures of the network in evaluation mode."""
        network = self.plain
        network.eval()
        figures = self.task.validate(network) if self.task.validate is not None else {}
        network.train()
        return figures

    def save(self, path: Path, step: int) -> None:
        """Write the resume state, in the main process."""
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = {
                "step": step,
                "threads": torch.get_num_threads(),
                "network": self.plain.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None,
                "average": self.average.weights,
                "best": self.best.state(),
                "fitted": self.fitted,
            }
            save_state(path, state)

    def resume(self, path: Path) -> int:
        """Load the state in ``path`` and return its step; a `Tag2maskError` if it is damaged or of another network."""
        state = load_state(path, self.task.stage)
        self.network.to(self.accelerator.device)  # a full or broken GPU does not mean a damaged file
        try:
            return self._load(state)
        except Exception as error:  # wrong types, names and shapes raise many kinds of errors
            if is_machine_error(error):
                raise
            reason = " ".join(str(error).split())[:200] or "no details"
            raise Tag2maskError(
                f"{path} is not a resume state of this network ({type(error).__name__}: {reason}); "
                f"--restart {self.task.stage} starts again"
            ) from error

    def _load(self, state: dict[str, Any]) -> int:
        self.network.load_state_dict(state["network"])
        if names := not_finite(self.network):
            raise ValueError(f"weights that are not finite: {first_five(names)}")
        self.optimizer.load_state_dict(state["optimizer"])
        scaler = self.accelerator.scaler
        if scaler is not None and state["scaler"] is not None:
            scaler.load_state_dict(state["scaler"])
        self.average.weights = state["average"]
        self.best.resume(state["best"])
        self.fitted = int(state.get("fitted", 0))
        if type(state["step"]) is not int or state["step"] < 0:
            raise ValueError("its step is not a number of steps")
        before, now = state.get("threads"), torch.get_num_threads()
        if type(before) is int and before != now and self.accelerator.device.type == "cpu":
            self.note = f" with {now} threads instead of {before}, so that the last digits of the weights may differ"
        return state["step"]


def _stops(stop: SignalHandler, accelerator: Accelerator, step: int) -> bool:
    """Whether to stop after this step; all processes must stop after the same one."""
    if accelerator.num_processes == 1:
        return stop.received
    if step % _STEPS_BETWEEN_STOPS:
        return False
    return bool(mean_over_processes(torch.tensor(float(stop.received), device=accelerator.device)) > 0)


def _accelerator(task: Task, settings: LoopSettings, device: Literal["auto", "cpu", "cuda"]) -> Accelerator:
    on_cpu, precision = resolve_device(device).type == "cpu", settings.precision
    if precision == "auto":
        precision = "fp32" if on_cpu or not torch.cuda.is_bf16_supported() else "bf16"
    handlers = [
        DistributedDataParallelKwargs(find_unused_parameters=task.may_lack_gradients),
        InitProcessGroupKwargs(timeout=TIMEOUT),
    ]
    mixed = "no" if precision == "fp32" else precision
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=mixed, kwargs_handlers=handlers)
    if settings.batch_size % (accelerator.num_processes * settings.gradient_accumulation_steps):
        raise UsageError(
            f"{task.stage}.batch_size {settings.batch_size} should be a multiple of the "
            f"{accelerator.num_processes} processes times the {settings.gradient_accumulation_steps} "
            f"parts of {task.stage}.gradient_accumulation_steps"
        )
    return accelerator


def _optimizer(task: Task, settings: LoopSettings) -> torch.optim.Optimizer:
    groups = [
        {
            "params": group.parameters,
            "lr": settings.learning_rate * group.factor,
            "initial": settings.learning_rate * group.factor,
            "weight_decay": settings.weight_decay if group.decay else 0.0,
        }
        for group in task.groups
        if group.parameters
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum)
    return torch.optim.AdamW(groups)
