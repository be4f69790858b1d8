"""About how long training, CAMs and masks would take here: by the records of a run, or by a measurement of seconds."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tag2mask.device import resolve_device
from tag2mask.errors import Tag2maskError
from tag2mask.inference import photo_maps
from tag2mask.memory import channels_last, retained_memory
from tag2mask.networks.hub import on_this_machine
from tag2mask.networks.pot_network import PotNetwork, build_network
from tag2mask.networks.settings import NetworkSettings
from tag2mask.pipeline.config import Config
from tag2mask.pipeline.pace import seconds_per_photograph, seconds_per_step
from tag2mask.pipeline.plan import duration
from tag2mask.pipeline.run_folder import RunFolder
from tag2mask.refine.crf import dense_crf
from tag2mask.training.objective import objective

_LONG = 2.0
"""Seconds; what takes longer is not done a second time."""

_LARGEST = 320
"""Pixels of the longer side of a photograph that CAMs are timed on; larger ones are reckoned by their area."""

_CRF_SIDE = 160
_SHAPE = 4 / 3
"""Width by height of the photograph that stands for all."""

_USUAL_PIXELS = 500 * 375
"""Of a photograph where none could be read."""

_LABELS = 3
"""Labels of a photograph's CRF: background and two classes."""


@dataclass(frozen=True)
class Estimate:
    """How long the stages of the usual path take.

    Attributes:
        stages: seconds of each; None where that cannot be told.
        basis: what they rest on.
    """

    stages: dict[str, float | None]
    basis: str

    def __str__(self) -> str:
        """One line for people."""
        known = {name: seconds for name, seconds in self.stages.items() if seconds is not None}
        unknown = [name for name, seconds in self.stages.items() if seconds is None]
        if not known:
            return f"time unknown here ({self.basis})"
        parts = [f"{name} {duration(seconds)}" for name, seconds in known.items()]
        parts += [f"unknown of {', '.join(unknown)}"] if unknown else []
        return f"about {duration(sum(known.values()))} here: {', '.join(parts)} ({self.basis})"

    def to_json(self) -> dict[str, Any]:
        """The same as plain values, with the sum of what is known."""
        known = [seconds for seconds in self.stages.values() if seconds is not None]
        return {"seconds": sum(known) if known else None, "stages": dict(self.stages), "basis": self.basis}


def estimate(config: Config, photographs: int, classes: int, pixels: int | None, run: RunFolder | None) -> Estimate:
    """The time for so many photographs.

    Args:
        config: the settings of the stages.
        photographs: how many.
        classes: C.
        pixels: of a photograph, the mean; None where that is unknown.
        run: whose records to go by, stage by stage, where they are of the settings that its files have.

    Returns:
        the estimate; what goes wrong becomes its basis, never an exception.
    """
    recorded: dict[str, float | None] = {}
    try:
        recorded = {} if run is None else _recorded(config, photographs, run)
        if run is not None and len(recorded) == len(_STAGES):
            return Estimate(recorded, f"by the records of {run.path}")
        measured, device = _measured(config, photographs, classes, pixels or _USUAL_PIXELS)
    except Exception as error:  # an estimate must not cost what was checked before it
        reason = " ".join(str(error).split())
        return Estimate({name: recorded.get(name) for name in _STAGES}, f"not measured: {reason}")
    backbone, crop = config.network.backbone, config.train.augment.crop
    basis = (
        f"a photograph of {crop} pixels forward and back, its CAMs and its CRF, timed "
        f"now with {backbone} on {device}; reading files comes on top, and other work on the machine"
    )
    if recorded and run is not None:
        basis = f"{', '.join(recorded)} by the records of {run.path}, the rest by {basis}"
    return Estimate({**measured, **recorded}, basis)


_STAGES = ("train", "cams", "refine")


def _recorded(config: Config, photographs: int, run: RunFolder) -> dict[str, float | None]:
    """Seconds of the stages that a run has records of."""
    found: dict[str, float | None] = {}
    step = seconds_per_step(run, "train", config.train.batch_size)
    if step is not None:
        found["train"] = step * config.train.total_steps(photographs)
    for name in ("cams", "refine"):
        pace = seconds_per_photograph(run, name)
        if pace is not None:
            found[name] = pace * photographs
    return found


def _measured(config: Config, photographs: int, classes: int, pixels: int) -> tuple[dict[str, float | None], str]:
    """Seconds of the stages by a measurement, and the device in words."""
    if not on_this_machine(config.network.backbone):
        raise Tag2maskError(f"{config.network.backbone} is not on this machine, and nothing is fetched for an estimate")
    device = resolve_device(config.device)
    # Random weights are as fast as trained ones, and need no file.
    settings = NetworkSettings(
        **{**vars(config.network), "weights": "none", "norm": "fixed" if not config.network.wants_random else "auto"}
    )
    names = tuple(f"class {number}" for number in range(max(1, classes)))
    network = channels_last(build_network(settings, names, seed=0)).to(device)
    width = math.sqrt(pixels * _SHAPE)
    with retained_memory():
        step = _step_seconds(config, network.train(), device)
        cams = _cam_seconds(config, network.eval(), device, width)
    found: dict[str, float | None] = {
        "train": step * config.train.total_steps(photographs) * config.train.batch_size,
        "cams": cams * photographs,
        "refine": _crf_seconds(config, device, width) * photographs if config.refine.method == "crf" else None,
    }
    threads = f"{torch.get_num_threads()} threads of the processor"
    return found, torch.cuda.get_device_name() if device.type == "cuda" else threads


def _step_seconds(config: Config, network: PotNetwork, device: torch.device) -> float:
    """One photograph's forward and backward pass, the consistency loss among the losses."""
    crop = config.train.augment.crop
    images, valid = _noise(crop, crop, device), torch.ones(1, crop, crop, dtype=torch.bool, device=device)
    tags = _tags(len(network.classes), device)
    precision, gpu = config.train.precision, device.type == "cuda"
    half = precision in ("bf16", "fp16") or (precision == "auto" and gpu and torch.cuda.is_bf16_supported())

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            output = network(images, valid)
        losses = objective(output, tags, valid, config.train, config.pot, stride=network.stride, progress=0.999)
        losses.total.backward()  # type: ignore[no-untyped-call]
        network.zero_grad()

    return _timed(step, device)


def _cam_seconds(config: Config, network: PotNetwork, device: torch.device, width: float) -> float:
    """The CAMs of one photograph at all scales."""
    cams = config.cams
    long_side = min(_LARGEST, round(cams.long_side or width))
    images = _noise(round(long_side / _SHAPE), long_side, device)
    tags = _tags(len(network.classes), device)

    def one() -> None:
        maps = photo_maps(network, images, tags, scales=[1.0], flip=cams.flip, bf16=cams.precision == "bf16")
        maps.transport(config.pot)

    area = sum(scale**2 for scale in cams.scales) * ((cams.long_side or width) / long_side) ** 2
    return _timed(one, device) * area


def _crf_seconds(config: Config, device: torch.device, width: float) -> float:
    """The CRF of one photograph, whose work grows with its area."""
    side = min(width, config.refine.long_side or width)
    image = (_noise(_CRF_SIDE, _CRF_SIDE, torch.device("cpu"))[0].permute(1, 2, 0) * 255).to(torch.uint8)
    probabilities = torch.full((_LABELS, _CRF_SIDE, _CRF_SIDE), 1 / _LABELS, device=device)
    return _timed(lambda: dense_crf(image, probabilities, config.refine.crf), device) * side**2 / _SHAPE / _CRF_SIDE**2


def _timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the second of two goes, since the first one allocates; of the first where that was long."""
    for _ in range(2):
        with _clock(device) as seconds:
            work()
        if seconds[0] > _LONG:
            break
    return seconds[0]


@contextmanager
def _clock(device: torch.device) -> Iterator[list[float]]:
    """Seconds that the block took, until the device is through with it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds, start = [0.0], time.perf_counter()
    yield seconds
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds[0] = time.perf_counter() - start


def _noise(height: int, width: int, device: torch.device) -> Tensor:
    """An image of smooth noise, (1, 3, H, W) in [0, 1]."""
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return images.to(device).contiguous(memory_format=torch.channels_last)


def _tags(classes: int, device: torch.device) -> Tensor:
    """(1, C) bool, two classes."""
    return (torch.arange(classes) < _LABELS - 1)[None].to(device)
