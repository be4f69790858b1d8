"""Versions, devices, memory and disks: the facts, and what is wrong with the machine itself."""

import platform
import tempfile
from importlib import metadata
from pathlib import Path

from tag2mask import __version__
from tag2mask.doctor.findings import Finding
from tag2mask.doctor.probes import Probe
from tag2mask.hardware import cores, disk_free, memory

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "huggingface-hub",
    "safetensors",
    "numpy",
    "scipy",
    "pillow",
    "jsonargparse",
    "pycocotools",
    "flask",
    "filelock",
    "psutil",
    "rich",
    "torchvision",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "tensorboard",
    "webdataset",
)

NOT_NEEDED = ("torchvision", "onnx", "onnxruntime", "onnxscript", "tensorboard", "webdataset")
"""Nothing on the usual path needs these."""

_LITTLE_DISK = 1 << 30
_LITTLE_TEMPORARY = 200 << 20


def versions() -> dict[str, str | None]:
    """Of everything that matters; None where it is not installed."""
    return {
        "tag2mask": __version__,
        "Python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def version(name: str) -> str | None:
    """Of an installed package."""
    try:
        return metadata.version(name)
    except Exception:  # damaged metadata raise anything
        return None


def facts(torch: Probe, out: Path) -> dict[str, str]:
    """Devices, memory and disks in words."""
    total, free = memory()
    temporary = temporary_folder()
    known = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor cores": str(cores() or "unknown"),
        "memory": f"{size(total)}, {size(free)} free",
        **_devices(torch),
        f"disk of {out}": f"{size(disk_free(out))} free",
    }
    return known | {
        f"temporary folder {temporary or ''}".rstrip(): f"{size(disk_free(temporary))} free" if temporary else "none"
    }


def soundness(versions: dict[str, str | None], torch: Probe, own: Probe, out: Path) -> tuple[Finding, ...]:
    """What is wrong with the machine, whatever the stage."""
    found = [
        Finding(f"{name} is not installed", "missing", f"pip install {name}, or pip install --force-reinstall tag2mask")
        for name, number in versions.items()
        if number is None and name not in NOT_NEEDED
    ]
    if torch.works and own.works is False:
        found.append(Finding(f"tag2mask itself cannot be imported ({own.reason})", "missing", "pip install tag2mask"))
    found += [_temporary(), _disk(out)]
    broken = [finding for finding in found if finding.state != "ok"]
    return tuple(broken) or (Finding("packages, folders and disks are as they should be"),)


def temporary_folder() -> Path | None:
    """Where temporary files go; None where no folder can be written to."""
    try:
        return Path(tempfile.gettempdir())
    except OSError:
        return None


def size(count: int | None) -> str:
    """Bytes for people."""
    return "unknown" if count is None else f"{count / 1e9:.1f} GB"


def _devices(torch: Probe) -> dict[str, str]:
    """What torch says of the processor and of GPUs."""
    if not torch.works:
        return {"torch": f"cannot be imported: {torch.reason}", "GPU": "unknown"}
    built = torch.told.get("cuda") or torch.told.get("hip")
    known = {
        "torch": f"built for {'CUDA ' + built if built else 'the processor alone'}, {torch.told['threads']} threads"
    }
    gpus = [
        f"{name}, {size(total)}, {size(free)} free, bf16 {'yes' if half else 'no'}"
        for name, total, free, half in torch.told.get("gpus", ())
    ]
    return known | ({f"GPU {number}": words for number, words in enumerate(gpus)} or {"GPU": "none"})


def _temporary() -> Finding:
    """Whether a temporary file can be written, which every list of photographs needs."""
    folder = temporary_folder()
    remedy = "TMPDIR=FOLDER tag2mask …, a folder with room that can be written to"
    try:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"0" * 4096)
            file.flush()
    except OSError as error:
        return Finding(f"no temporary file can be written ({error.strerror})", "missing", remedy)
    free = None if folder is None else disk_free(folder)
    if free is not None and free < _LITTLE_TEMPORARY:
        return Finding(f"{folder} has {size(free)} left", "warning", remedy)
    return Finding("temporary files can be written")


def _disk(out: Path) -> Finding:
    """Whether there is room for a run."""
    free = disk_free(out)
    if free is None:
        return Finding(f"the disk of {out} does not tell its free space", "unknown")
    if free < _LITTLE_DISK:
        return Finding(f"{size(free)} are free at {out}", "warning", "--out FOLDER on a disk with room")
    return Finding("there is room for a run")
