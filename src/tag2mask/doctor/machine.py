"""Imports, versions, devices, memory and disks: facts about the machine, and its faults.

Imports are tried in processes of their own, because a broken library can crash the process.
"""

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from tag2mask import __version__
from tag2mask.core.hardware import cores, disk_free, memory
from tag2mask.doctor.findings import Finding

_PACKAGES = (
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
)

_OPTIONAL_PACKAGES = ("torchvision", "onnx", "onnxruntime", "onnxscript", "tensorboard", "webdataset")

_LITTLE_DISK = 1 << 30
_LITTLE_TEMPORARY = 200 << 20

_SECONDS = 120.0
"""Time limit of an import, which may be from a cold disk."""

_MARK = "tag2mask doctor: "

_TORCH = """
import torch
gpus = []
for number in range(torch.cuda.device_count()):
    with torch.cuda.device(number):
        free, total = torch.cuda.mem_get_info(number)
        gpus.append([torch.cuda.get_device_name(number), total, free, bool(torch.cuda.is_bf16_supported())])
import torch.utils.data
values = {"cuda": torch.version.cuda, "hip": getattr(torch.version, "hip", None), "gpus": gpus,
          "threads": torch.get_num_threads(), "sum": float((torch.ones(8, 8) @ torch.ones(8, 8)).sum())}
"""

PROGRAMS: Mapping[str, str] = {
    "torch": _TORCH,
    "transformers": "from transformers import AutoModel, CLIPModel, CLIPTokenizer, MobileNetV2Model",
    "torchvision": "import torchvision",
    "accelerate": "from accelerate import Accelerator",
    "tag2mask": "import tag2mask.cli.run, tag2mask.stages.registry",
    "onnx": "import onnx, onnxruntime, onnxscript",
    "tensorboard": "from torch.utils.tensorboard import SummaryWriter",
    "webdataset": "from webdataset import WebDataset",
}
"""The program that imports each; it may set ``values``, which are plain."""


@dataclass(frozen=True)
class Probe:
    """The result of an import.

    Attributes:
        works: whether it succeeded; None if that could not be determined.
        values: set by the program.
        reason: why it failed, in one line.
    """

    works: bool | None
    values: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


def probe(name: str) -> Probe:
    """Run one of `PROGRAMS` in another process."""
    # The folders that this process imports from, without the current one, which may hold any file.
    begin = f"import json, sys\nsys.path[:] = {sys.path!r}\nvalues = {{}}"
    program = f"{begin}\n{PROGRAMS[name]}\nprint({_MARK!r} + json.dumps(values))"
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", program], capture_output=True, text=True, errors="replace", timeout=_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Probe(None, reason=f"{type(error).__name__} while {name} was tried")
    if done.returncode < 0:
        return Probe(False, reason=f"{name} was ended by signal {-done.returncode}")
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode or not lines:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return Probe(False, reason=(said[-1] if said else f"the import ended with exit code {done.returncode}")[:300])
    return Probe(True, dict(json.loads(lines[-1].removeprefix(_MARK))))


def probe_all(names: list[str]) -> dict[str, Probe]:
    """Several imports, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(probe, names), strict=True))


def versions() -> dict[str, str | None]:
    """Of tag2mask, Python and the packages; None if not installed."""
    names = (*_PACKAGES, *_OPTIONAL_PACKAGES)
    return {
        "tag2mask": __version__,
        "Python": platform.python_version(),
        **{name: _version(name) for name in names},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except Exception:  # damaged metadata raise anything
        return None


def facts(torch: Probe, out: Path) -> dict[str, str]:
    """Devices, memory and disks in words."""
    total, free = memory()
    try:
        folder = Path(tempfile.gettempdir())
        temporary = {f"temporary folder {folder}": f"{size(disk_free(folder))} free"}
    except OSError:  # no folder is writable
        temporary = {"temporary folder": "none"}
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor cores": str(cores() or "unknown"),
        "memory": f"{size(total)}, {size(free)} free",
        **_devices(torch),
        f"disk of {out}": f"{size(disk_free(out))} free",
        **temporary,
    }


def soundness(versions: dict[str, str | None], torch: Probe, own: Probe, out: Path) -> tuple[Finding, ...]:
    """Faults that concern every stage."""
    found = [
        Finding(f"{name} is not installed", "missing", f"pip install {name}, or pip install --force-reinstall tag2mask")
        for name, number in versions.items()
        if number is None and name not in _OPTIONAL_PACKAGES
    ]
    if torch.works and own.works is False:
        found.append(Finding(f"tag2mask itself cannot be imported ({own.reason})", "missing", "pip install tag2mask"))
    found += [*_temporary(), *_disk(out)]
    return tuple(found) or (Finding("packages, folders and disks are as they should be"),)


def size(count: int | None) -> str:
    """Bytes as text."""
    return "unknown" if count is None else f"{count / 1e9:.1f} GB"


def _devices(torch: Probe) -> dict[str, str]:
    """The processor and GPUs, as torch reports them."""
    if not torch.works:
        return {"torch": f"cannot be imported: {torch.reason}", "GPU": "unknown"}
    built = torch.values.get("cuda") or torch.values.get("hip")
    known = {
        "torch": f"built for {'CUDA ' + built if built else 'the processor alone'}, {torch.values['threads']} threads"
    }
    gpus = [
        f"{name}, {size(total)}, {size(free)} free, bf16 {'yes' if half else 'no'}"
        for name, total, free, half in torch.values.get("gpus", ())
    ]
    return known | ({f"GPU {number}": words for number, words in enumerate(gpus)} or {"GPU": "none"})


def _temporary() -> list[Finding]:
    """Faults of the folder for temporary files."""
    remedy = "TMPDIR=FOLDER tag2mask …, a folder with room that can be written to"
    try:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"0" * 4096)
            file.flush()
    except OSError as error:
        return [Finding(f"no temporary file can be written ({error.strerror})", "missing", remedy)]
    folder = Path(tempfile.gettempdir())
    free = disk_free(folder)
    if free is not None and free < _LITTLE_TEMPORARY:
        return [Finding(f"{folder} has {size(free)} left", "warning", remedy)]
    return []


def _disk(out: Path) -> list[Finding]:
    """Faults of the disk of a run."""
    free = disk_free(out)
    if free is None:
        return [Finding(f"the disk of {out} does not tell its free space", "unknown")]
    if free < _LITTLE_DISK:
        return [Finding(f"{size(free)} are free at {out}", "warning", "--out FOLDER on a disk with room")]
    return []
