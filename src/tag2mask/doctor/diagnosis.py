"""The requirements of each stage, and the diagnosis of the machine."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tag2mask.core.errors import UsageError
from tag2mask.core.hardware import memory
from tag2mask.doctor.findings import Diagnosis, Finding, Requirements, Weights, columns, lines_of
from tag2mask.doctor.machine import PROGRAMS, Probe, Probes, devices, facts, size, soundness, versions

if TYPE_CHECKING:
    from tag2mask.runs.config import Config

WANTED_MEMORY = {"seeds": 3e9, "train": 6e9, "cams": 2.5e9, "edges": 6e9, "refine": 3e9, "segment": 6e9}
"""Approximate bytes. Measured with the preset `own` on VOC: 5.9 GB for `train` (ResNet-50, 16 images of 320 pixels),
2.1 for `cams`, 0.7 for `refine` with two images at a time (up to eight are); the others are estimates from these."""

_LESS_MEMORY = {
    "seeds": "--seeds.batch_size 1 and a lower --seeds.long_side",
    "train": "--train.gradient_accumulation_steps 4, or --network.backbone resnet18",
    "cams": "--cams.batch_size 1 and --cams.long_side 512",
    "edges": "--edges.gradient_accumulation_steps 8",
    "refine": "--refine.batch_size 1 and --refine.long_side 512",
    "segment": "--segment.gradient_accumulation_steps 5, or --segment.network.backbone resnet50",
}


def diagnose(settings: "Callable[[], Config]", out: Path, show: Callable[[str], None]) -> Diagnosis:
    """Check the machine and the requirements of each stage; each line is shown as soon as it is known.

    Args:
        settings: reads the settings, to check their weights; called only if the imports work.
        out: the folder of a run.
        show: called with each line of the text.

    Raises:
        UsageError: the settings are wrong.
    """
    installed, machine = versions(), facts(out)
    probes = Probes(name for name in PROGRAMS if name != "torchvision" or installed["torchvision"])
    for line in ("versions", *columns(installed), "machine", *columns(machine)):
        show(line)
    own = devices(probes["torch"])
    for line in (*columns(own), "needs"):
        show(line)
    found = []
    for need in _all_needs(settings, out, installed, probes):
        found.append(need)
        for line in lines_of(need):
            show(line)
    return Diagnosis(installed, machine | own, tuple(found))


def _all_needs(
    settings: "Callable[[], Config]", out: Path, installed: dict[str, str | None], probes: Probes
) -> Iterator[Requirements]:
    yield Requirements("machine", soundness(installed, probes["torch"], probes["tag2mask"], out))
    weights = _weights(settings if probes["torch"].works and probes["tag2mask"].works else None)
    yield from needs(probes, installed["torchvision"], weights)


def needs(probes: Probes, torchvision: str | None, weights: list[Weights]) -> Iterator[Requirements]:
    """The requirements of every stage and extra.

    Args:
        probes: the results of the imports, by the names of `PROGRAMS`.
        torchvision: its version; None if not installed.
        weights: of all stages.
    """
    torch = _imported("torch", probes["torch"], "torch>=2.6,<2.14")
    accelerate = _imported("accelerate", probes["accelerate"], "accelerate>=1.10,<2")
    hub = _transformers(probes["transformers"], probes["torchvision"], torchvision)
    for stage in WANTED_MEMORY:
        own = [each for each in weights if each.stage == stage]
        found = [torch]
        found += [accelerate] if stage in ("train", "edges", "segment") else []
        found += [hub] if stage == "seeds" or any(each.hub for each in own) else []
        yield Requirements(stage, (*found, *(each.finding for each in own), _memory(stage)))
    yield Requirements("predictions", (torch,))
    yield Requirements("confidence", (torch,))
    yield Requirements("report", (Finding("no requirements beyond tag2mask itself"),))
    yield Requirements("export onnx", (torch, _extra("onnx", "onnx, onnxruntime, onnxscript", probes["onnx"])))
    yield Requirements("tensorboard", (_extra("tensorboard", "tensorboard", probes["tensorboard"]),))
    yield Requirements("export shards", (_extra("shards", "webdataset", probes["webdataset"]),))


def _weights(settings: "Callable[[], Config] | None") -> list[Weights]:
    """The weights of the settings; unknown if the settings cannot be read or the search fails."""
    if settings is None:
        reason = "weights are unknown until tag2mask can be imported"
    else:
        try:
            from tag2mask.doctor.weights import weights_of

            return list(weights_of(settings()))
        except UsageError:
            raise
        except Exception as error:  # a damaged cache or hub client must not end the diagnosis
            reason = f"weights ({type(error).__name__}: {error})"
    return [Weights(stage, Finding(reason, "unknown")) for stage in ("seeds", "train", "segment")]


def _transformers(probe: Probe, vision: Probe, installed: str | None) -> Finding:
    """Whether transformers works; it imports torchvision if that is installed."""
    mismatch = "pip uninstall torchvision (tag2mask does not need it)"
    if probe.works and vision.works is False:
        message = f"transformers works, but torchvision {installed} does not: {vision.reason}"
        return Finding(message, "warning", mismatch)
    if probe.works is False and installed is not None and vision.works is False:
        message = f"transformers fails, with torchvision {installed}, which does not fit this torch: {vision.reason}"
        return Finding(message, "missing", mismatch)
    more = "; if that does not help, pip uninstall torchvision" if installed is not None else ""
    return _imported("transformers", probe, "transformers>=5,<6", more)


def _imported(name: str, probe: Probe, requirement: str, more: str = "") -> Finding:
    """Whether a package works; ``more`` is a second remedy."""
    if probe.works is not False:
        return Finding(f"{name} works") if probe.works else Finding(f"{name}: {probe.reason}", "unknown")
    return Finding(f"{name} fails: {probe.reason}", "missing", f"pip install --force-reinstall '{requirement}'{more}")


def _extra(extra: str, packages: str, probe: Probe) -> Finding:
    """Whether the packages of an extra work."""
    if probe.works is not False:
        return Finding(f"{packages}: {'works' if probe.works else probe.reason}", "ok" if probe.works else "unknown")
    return Finding(f"{packages}: {probe.reason}", "missing", f"pip install 'tag2mask[{extra}]'")


def _memory(stage: str) -> Finding:
    """Whether there is enough memory for a stage with its usual settings."""
    total, free = memory()
    available, wanted = free if free is not None else total, WANTED_MEMORY[stage]
    if available is None:
        return Finding("memory", "unknown")
    if available >= wanted:
        return Finding("memory enough")
    message = f"{size(available)} of memory free, about {size(int(wanted))} wanted with usual settings"
    return Finding(message, "warning", _LESS_MEMORY[stage])
