"""The training loop: one for every device, resumed exactly where it stopped."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn

from tag2mask.device import resolve_device
from tag2mask.distributed import PATIENCE, gathered, is_true_anywhere
from tag2mask.errors import Tag2maskError, UsageError, first_five
from tag2mask.memory import FAULTS_OF_THE_MACHINE, channels_last, retained_memory
from tag2mask.networks.checkpoint import not_finite
from tag2mask.training.average import WeightAverage
from tag2mask.training.best import BestWeights
from tag2mask.training.loading import Samples, batches
from tag2mask.training.meter import Losses, Meter
from tag2mask.training.settings import LoopSettings, RecordSettings
from tag2mask.training.state import Interrupted, StopRequest, load_state, save_state, training_log

_STEPS_BETWEEN_STOPS = 5
"""Several processes look this often whether one of them was asked to stop: each look makes a GPU wait."""

OnStep = Callable[[int, int, Mapping[str, float]], None]
"""Called with (steps done, steps in all, the latest logged values)."""


class Group(NamedTuple):
    """Parameters that train alike.

    Attributes:
        parameters: those of them that train.
        factor: their learning rate, as a multiple of the settings'.
        decay: whether they decay.
    """

    parameters: list[nn.Parameter]
    factor: float = 1.0
    decay: bool = True


@dataclass(frozen=True)
class Task:
    """What is trained, and towards what.

    Attributes:
        stage: the stage that trains it, for messages.
        network: with its parameters.
        samples: tensors by name, stacked over a batch; of these `image` is a must.
        groups: what trains.
        losses: from the network as it is wrapped for its device, a batch on that device, and the share of the steps
            already done, to a `Losses`.
        may_lack_gradients: whether some step leaves a trainable parameter without a gradient.
        validate: figures of the network as it stands, for the log; it is in evaluation mode meanwhile. None without.
    """

    stage: str
    network: nn.Module
    samples: Samples
    groups: tuple[Group, ...]
    losses: Callable[[nn.Module, Mapping[str, Tensor], float], Losses]
    may_lack_gradients: bool = False
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None


@dataclass
class Trained:
    """What a training run came to.

    Attributes:
        steps: steps done in all.
        resumed_from: the step that a saved state was taken up at; 0 for a fresh start.
        unreadable: photographs that could not be read, with the reason; others stood in for them.
    """

    steps: int
    resumed_from: int
    unreadable: dict[str, str] = field(default_factory=dict)


class _Kept(NamedTuple):
    """Weights that are kept beside those that train."""

    average: WeightAverage
    best: BestWeights


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
) -> Trained:
    """Train the network of ``task`` in place, from the state saved in ``folder`` if there is one.

    On a CPU in fp32 an interrupted and resumed run ends with the same weights, bit for bit, as an uninterrupted one:
    the order of photographs, their augmentation and every other draw depend on (seed, step) alone.

    Args:
        task: its network freshly built, or anything of the same shapes if there is a state to resume.
        settings: of training.
        folder: where state.pt and log.jsonl are kept.
        seed: of all draws.
        device: `auto` takes the GPU if there is one.
        workers: processes that read photographs; 0 reads in this one.
        records: how often state and figures are written; None: as by default.
        on_step: progress.

    Raises:
        Interrupted: SIGTERM or Ctrl-C came; the state is saved.
        UsageError: the best weights are asked for, and there is nothing to measure on.
        Tag2maskError: the loss or the weights are not finite, or no photograph can be read.
    """
    if settings.keep_best and task.validate is None:
        raise UsageError(f"{task.stage}.keep_best needs photographs with ground truth to measure on; leave it out")
    records = records or RecordSettings()
    check_engine(task.stage, settings, device, records)
    accelerator = _accelerator(task, settings, device)
    network = task.network
    total = settings.total_steps(len(task.samples))
    optimizer = _optimizer(task, settings)
    network = _with_shared_statistics(network, accelerator)
    channels_last(network).train()  # faster convolutions, on CPUs by a third
    state_path = folder / "state.pt"
    kept = _Kept(WeightAverage(network, settings.average), BestWeights(asked=settings.keep_best))
    step = _resume(task.stage, state_path, network, optimizer, kept, accelerator) if state_path.is_file() else 0
    network, optimizer = accelerator.prepare(network, optimizer)
    loader = batches(task.samples, settings, seed, (step, total), workers, accelerator)
    main = accelerator.is_main_process
    opened = training_log(folder, step=step, tensorboard=records.tensorboard) if main else nullcontext()
    trained = Trained(steps=step, resumed_from=step)
    meter = Meter(task.stage, settings.batch_size // settings.accumulate)
    with retained_memory(), opened as log, StopRequest().listen() as stop:
        if log is not None and 0 < step != log.last and _validates(task, settings, step, last=step == total):
            # The state was saved, and the command killed while it measured it.
            figures = _validated(task, accelerator.unwrap_model(network))
            kept.best.offer(accelerator.unwrap_model(network), figures, step)
            if step == kept.best.step:
                _save(state_path, network, optimizer, kept, accelerator, meter, step)
            log.append({"step": step, **figures})
        for batch in loader:
            trained.unreadable.update(batch["failed"])
            if "image" not in batch:
                raise Tag2maskError("not one photograph of the training set can be read; `tag2mask check` lists why")
            # Layers that draw (dropout, stochastic depth) draw from a state that depends on step and process alone.
            torch.manual_seed((seed << 32) + step * accelerator.num_processes + accelerator.process_index)
            for group in optimizer.param_groups:
                group["lr"] = group["initial"] * settings.decayed(step, total)
            try:
                for losses in _step(task, network, optimizer, accelerator, batch, settings, step / total):
                    meter.add(losses)
            except UsageError:  # POT refuses the features of such weights, and can name no more than images
                meter.check_weights(accelerator.unwrap_model(network), step)
                raise
            step += 1
            kept.average.follow(accelerator.unwrap_model(network))
            last = step == total
            saved = last or step % records.checkpoint_every == 0
            validates = _validates(task, settings, step, last=last)
            if saved:  # before anything that could fail
                _save(state_path, network, optimizer, kept, accelerator, meter, step)
            elif validates:  # figures of such weights would look like those of a poor network
                meter.check_weights(accelerator.unwrap_model(network), step)
            figures = _validated(task, accelerator.unwrap_model(network)) if validates and main else {}
            kept.best.offer(accelerator.unwrap_model(network), figures, step)
            if saved and step == kept.best.step:
                _save(state_path, network, optimizer, kept, accelerator, meter, step)
            if last or step % records.log_every == 0 or validates:
                values = {"step": step, "learning_rate": optimizer.param_groups[0]["lr"], **meter.read(step), **figures}
                if log is not None:
                    log.append(values)
                on_step(step, total, values)
            stops = _stops(stop, accelerator, step)
            if stops and not saved:
                _save(state_path, network, optimizer, kept, accelerator, meter, step)
            if stops and not last:
                raise Interrupted(
                    f"stopped at step {step} of {total}; the state is saved, the same command goes on from there"
                )
    trained.steps = step
    trained.unreadable = {name: reason for each in gathered(trained.unreadable) for name, reason in each.items()}
    kept.average.take_over(task.network)
    kept.best.take_over(task.network)
    return trained


def _stops(stop: StopRequest, accelerator: Accelerator, step: int) -> bool:
    """Whether to stop after this step: several processes must all stop after the same one, and agree now and then."""
    if accelerator.num_processes == 1:
        return stop.received
    return step % _STEPS_BETWEEN_STOPS == 0 and is_true_anywhere(stop.received, accelerator.device)


def _save(
    path: Path,
    network: nn.Module,
    optimizer: Any,
    kept: _Kept,
    accelerator: Accelerator,
    meter: Meter,
    step: int,
) -> None:
    """Keep what a resumed run needs, if losses and weights are finite."""
    meter.check(step)
    meter.check_weights(accelerator.unwrap_model(network), step)
    if accelerator.is_main_process:
        save_state(path, _state(accelerator.unwrap_model(network), optimizer, kept, accelerator, step))


def _validates(task: Task, settings: LoopSettings, step: int, *, last: bool) -> bool:
    """Whether it is time for the figures of the network."""
    every = settings.validate_every
    return task.validate is not None and every is not None and (last or step % every == 0)


def _validated(task: Task, network: nn.Module) -> Mapping[str, float]:
    """The figures of the network."""
    network.eval()
    figures = task.validate(network) if task.validate is not None else {}
    network.train()
    return figures


def check_engine(
    stage: str, settings: LoopSettings, device: Literal["auto", "cpu", "cuda"], records: RecordSettings
) -> None:
    """Refuse what this machine cannot do, before anything is made for it.

    Raises:
        UsageError: fp16 without a GPU, or TensorBoard where it is not installed.
    """
    if records.tensorboard and find_spec("tensorboard") is None:
        raise UsageError("train.tensorboard needs TensorBoard; pip install 'tag2mask[tensorboard]'")
    if settings.precision == "fp16" and resolve_device(device).type == "cpu":
        raise UsageError(f"{stage}.precision fp16 needs a GPU; on a CPU use fp32, or bf16")


def _accelerator(task: Task, settings: LoopSettings, device: Literal["auto", "cpu", "cuda"]) -> Accelerator:
    """The engine for the chosen device and precision."""
    on_cpu, precision = resolve_device(device).type == "cpu", settings.precision
    if precision == "auto":
        precision = "fp32" if on_cpu or not torch.cuda.is_bf16_supported() else "bf16"
    handlers = [
        DistributedDataParallelKwargs(find_unused_parameters=task.may_lack_gradients),
        InitProcessGroupKwargs(timeout=PATIENCE),
    ]
    mixed = "no" if precision == "fp32" else precision
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=mixed, kwargs_handlers=handlers)
    if settings.batch_size % (accelerator.num_processes * settings.accumulate):
        raise UsageError(
            f"{task.stage}.batch_size {settings.batch_size} should be a multiple of the "
            f"{accelerator.num_processes} processes times the {settings.accumulate} parts of {task.stage}.accumulate"
        )
    return accelerator


def _with_shared_statistics(network: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Batch norm over the batch of all processes instead of each one's own; torch has it for GPUs alone."""
    if accelerator.num_processes == 1 or accelerator.device.type != "cuda":
        return network
    return nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-any-return, no-untyped-call]


def _optimizer(task: Task, settings: LoopSettings) -> torch.optim.Optimizer:
    """The optimiser over the groups of the task, each with its learning rate."""
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


def _step(
    task: Task,
    network: nn.Module,
    optimizer: Any,
    accelerator: Accelerator,
    batch: Mapping[str, Any],
    settings: LoopSettings,
    progress: float,
) -> list[Losses]:
    """One optimiser step at ``progress`` in [0, 1); the losses of the parts of its batch."""
    tensors = {
        name: value.to(accelerator.device, non_blocking=True)
        for name, value in batch.items()
        if isinstance(value, Tensor)
    }
    tensors["image"] = tensors["image"].contiguous(memory_format=torch.channels_last)
    chunks = zip(*(value.chunk(settings.accumulate) for value in tensors.values()), strict=True)
    losses = []
    optimizer.zero_grad(set_to_none=True)
    for chunk in chunks:
        losses.append(task.losses(network, dict(zip(tensors, chunk, strict=True)), progress))
        accelerator.backward(losses[-1].total / settings.accumulate)
    if settings.clip is not None:
        accelerator.clip_grad_norm_((p for group in optimizer.param_groups for p in group["params"]), settings.clip)
    optimizer.step()
    return losses


def _state(network: nn.Module, optimizer: Any, kept: _Kept, accelerator: Accelerator, step: int) -> dict[str, Any]:
    """All that a resumed run needs."""
    scaler = accelerator.scaler
    return {
        "step": step,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict() if scaler is not None else None,
        "average": kept.average.weights,
        "best": kept.best.state(),
    }


def _resume(
    stage: str,
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    kept: _Kept,
    accelerator: Accelerator,
) -> int:
    """Take up the state in ``path``; return its step.

    Raises:
        Tag2maskError: it is damaged, or of another network.
    """
    state = load_state(path, stage)
    network.to(accelerator.device)  # a GPU that is full, or fails, is no fault of the file
    try:
        return _take_up(state, network, optimizer, kept, accelerator)
    except FAULTS_OF_THE_MACHINE:
        raise
    except Exception as error:  # whatever values of other kinds, names and shapes lead to
        reason = " ".join(str(error).split())[:200] or "no more is known"
        raise Tag2maskError(
            f"{path} is no resume state of this network ({type(error).__name__}: {reason}); --restart {stage} begins "
            "anew"
        ) from error


def _take_up(
    state: dict[str, Any],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    kept: _Kept,
    accelerator: Accelerator,
) -> int:
    """Give a resume state to what it is of; its step."""
    network.load_state_dict(state["network"])
    if names := not_finite(network):
        raise ValueError(f"weights that are not finite: {first_five(names)}")
    optimizer.load_state_dict(state["optimizer"])
    if accelerator.scaler is not None and state["scaler"] is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    kept.average.weights = state.get("average", {})
    if "best" in state:
        kept.best.resume(state["best"])
    if type(state["step"]) is not int or state["step"] < 0:
        raise ValueError("its step is no number of steps")
    return state["step"]
