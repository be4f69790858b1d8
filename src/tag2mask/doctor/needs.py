"""What each stage needs: packages, weights that are at hand, memory."""

from collections.abc import Iterator
from dataclasses import dataclass

from tag2mask.doctor.findings import Finding, Need
from tag2mask.doctor.machine import size
from tag2mask.doctor.probes import Probe
from tag2mask.hardware import memory

WANTED_MEMORY = {"seeds": 3e9, "train": 6e9, "cams": 2.5e9, "edges": 6e9, "refine": 1e9, "segment": 6e9}
"""Bytes, roughly. Measured with the preset `own` on VOC: 5.9 GB of `train` (ResNet-50, 16 photographs of 320 pixels),
2.1 of `cams`, 0.4 of `refine`; the others by their likeness to these."""

_LESS = {
    "seeds": "--seeds.batch_size 1 and a lower --seeds.longest_side",
    "train": "--train.accumulate 4, or --network.backbone resnet18",
    "cams": "--cams.batch_size 1 and --cams.long_side 512",
    "edges": "--edges.accumulate 8",
    "refine": "--refine.batch_size 1 and --refine.long_side 512",
    "segment": "--segment.accumulate 5, or --segment.network.backbone resnet50",
}


@dataclass(frozen=True)
class Weights:
    """Weights that a stage begins from.

    Attributes:
        stage: which.
        finding: whether they are on this machine.
        hub: whether they are of a model that `transformers` loads.
    """

    stage: str
    finding: Finding
    hub: bool = False


def needs(probes: dict[str, Probe], torchvision: str | None, weights: list[Weights]) -> Iterator[Need]:
    """Of every stage, and of what goes beside them."""
    torch, accelerate = _torch(probes["torch"]), _import("accelerate", probes["accelerate"], "accelerate>=1.10,<2")
    hub = _transformers(probes["transformers"], probes["torchvision"], torchvision)
    for stage in ("seeds", "train", "cams", "edges", "refine", "segment"):
        own = [each for each in weights if each.stage == stage]
        found = [torch]
        found += [accelerate] if stage in ("train", "edges", "segment") else []
        found += [hub] if stage == "seeds" or any(each.hub for each in own) else []
        yield Need(stage, (*found, *(each.finding for each in own), _memory(stage)))
    yield Need("predictions", (torch,))
    yield Need("confidence", (torch,))
    yield Need("report", (Finding("nothing but what is installed with tag2mask"),))
    yield Need("export onnx", (torch, _extra("onnx", "onnx, onnxruntime, onnxscript", probes["onnx"])))
    yield Need("tensorboard", (_extra("tensorboard", "tensorboard", probes["tensorboard"]),))
    yield Need("export shards", (_extra("shards", "webdataset", probes["webdataset"]),))


def _torch(probe: Probe) -> Finding:
    """Whether torch works."""
    remedy = "pip install --force-reinstall 'torch>=2.6,<2.14'"
    if probe.works is None:
        return Finding(f"torch: {probe.reason}", "unknown")
    return Finding("torch works") if probe.works else Finding(f"torch fails: {probe.reason}", "missing", remedy)


def _transformers(probe: Probe, vision: Probe, installed: str | None) -> Finding:
    """Whether models of transformers can be loaded; it takes torchvision where that is, and falls with it."""
    mismatch = "pip uninstall torchvision (tag2mask does not need it)"
    if probe.works and vision.works is False:
        message = f"transformers works, but torchvision {installed} does not: {vision.reason}"
        return Finding(message, "warning", mismatch)
    if probe.works:
        return Finding("transformers works")
    if probe.works is None:
        return Finding(f"transformers: {probe.reason}", "unknown")
    if installed is not None and vision.works is False:
        message = f"transformers fails, with torchvision {installed}, which does not fit this torch: {vision.reason}"
        return Finding(message, "missing", mismatch)
    remedy = "pip install --force-reinstall 'transformers>=5,<6'"
    remedy += "; if that does not help, pip uninstall torchvision" if installed is not None else ""
    return Finding(f"transformers fails: {probe.reason}", "missing", remedy)


def _import(name: str, probe: Probe, requirement: str) -> Finding:
    if probe.works is None:
        return Finding(f"{name}: {probe.reason}", "unknown")
    remedy = f"pip install --force-reinstall '{requirement}'"
    return Finding(f"{name} works") if probe.works else Finding(f"{name} fails: {probe.reason}", "missing", remedy)


def _extra(extra: str, packages: str, probe: Probe) -> Finding:
    """Whether the packages of an extra are there and work."""
    if probe.works is None:
        return Finding(f"{packages}: {probe.reason}", "unknown")
    remedy = f"pip install 'tag2mask[{extra}]'"
    return Finding(f"{packages}: works") if probe.works else Finding(f"{packages}: {probe.reason}", "missing", remedy)


def _memory(stage: str) -> Finding:
    """Whether there is about as much memory as the stage takes with its usual settings."""
    total, free = memory()
    there, wanted = free if free is not None else total, WANTED_MEMORY[stage]
    if there is None:
        return Finding("memory", "unknown")
    if there >= wanted:
        return Finding("memory enough")
    message = f"{size(there)} of memory free, about {size(int(wanted))} wanted with usual settings"
    return Finding(message, "warning", _LESS[stage])
