"""Checks of imports, versions, devices, memory and disks.

Imports run in separate processes, because a broken library can crash the process.
"""

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from tag2mask import __version__
from tag2mask.core.hardware import cores, disk_free, memory
from tag2mask.doctor.findings import Finding

_PACKAGES = (
    *("torch", "transformers", "accelerate", "huggingface-hub", "safetensors", "numpy", "scipy", "pillow"),
    *("jsonargparse", "pycocotools", "flask", "filelock", "psutil", "rich"),
)

_OPTIONAL_PACKAGES = ("torchvision", "onnx", "onnxruntime", "onnxscript", "tensorboard", "webdataset")

_MIN_DISK = 1 << 30
_MIN_TEMPORARY = 200 << 20

_SECONDS = 120.0
"""Time limit of an import, possibly from a slow disk."""

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
"""A program that imports each package; it may set ``values`` to a JSON object."""


@dataclass(frozen=True)
class Probe:
    """The result of an import.

    Attributes:
        works: None if this could not be determined.
        values: set by the program.
        reason: of the failure, in one line.
    """

    works: bool | None
    values: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


def probe(name: str) -> Probe:
    """Run one of `PROGRAMS` in another process."""
    # The same import path as here, without the current folder, which may contain any file.
    begin = f"import json, sys\nsys.path[:] = {sys.path!r}\nvalues = {{}}"
    program = f"{begin}\n{PROGRAMS[name]}\nprint({_MARK!r} + json.dumps(values))"
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", program], capture_output=True, text=True, errors="replace", timeout=_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Probe(None, reason=f"{type(error).__name__} while importing {name}")
    if done.returncode < 0:
        return Probe(False, reason=f"{name} was ended by signal {-done.returncode}")
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode or not lines:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return Probe(False, reason=(said[-1] if said else f"the import ended with exit code {done.returncode}")[:300])
    return Probe(True, dict(json.loads(lines[-1].removeprefix(_MARK))))


class Probes:
    """The results of several imports, which run two at a time in the background; an item waits for its import."""

    def __init__(self, names: Iterable[str]) -> None:
        """Start the imports, in order."""
        pool = ThreadPoolExecutor(2)
        self._waiting = {name: pool.submit(probe, name) for name in names}
        pool.shutdown(wait=False)

    def __getitem__(self, name: str) -> Probe:
        """The result for one of `PROGRAMS`."""
        return self._waiting[name].result() if name in self._waiting else Probe(None, reason="not installed")


def versions() -> dict[str, str | None]:
    """The versions of tag2mask, Python and the packages; None if not installed."""
    packages = {name: _version(name) for name in (*_PACKAGES, *_OPTIONAL_PACKAGES)}
    return {"tag2mask": __version__, "Python": platform.python_version(), **packages}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except Exception:  # damaged metadata raise errors of many kinds
        return None


def facts(out: Path) -> dict[str, str]:
    """Descriptions of processor, memory and disks."""
    total, free = memory()
    try:
        folder = Path(tempfile.gettempdir())
        temporary = {f"temporary folder {folder}": f"{size(disk_free(folder))} free"}
    except OSError:  # no writable folder
        temporary = {"temporary folder": "none"}
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor cores": str(cores() or "unknown"),
        "memory": f"{size(total)}, {size(free)} free",
        f"disk of {out}": f"{size(disk_free(out))} free",
        **temporary,
    }


def soundness(versions: dict[str, str | None], torch: Probe, own: Probe, out: Path) -> tuple[Finding, ...]:
    """Problems that affect every stage."""
    found = [
        Finding(f"{name} is not installed", "missing", f"pip install {name}, or pip install --force-reinstall tag2mask")
        for name, number in versions.items()
        if number is None and name not in _OPTIONAL_PACKAGES
    ]
    if torch.works and own.works is False:
        found.append(Finding(f"tag2mask itself cannot be imported ({own.reason})", "missing", "pip install tag2mask"))
    found += [*_temporary(), *_disk(out)]
    return tuple(found) or (Finding("no problems with packages, folders and disks"),)


def size(count: int | None) -> str:
    """A number of bytes as text."""
    return "unknown" if count is None else f"{count / 1e9:.1f} GB"


def devices(torch: Probe) -> dict[str, str]:
    """Descriptions of the torch build and the GPUs."""
    if not torch.works:
        return {"torch": f"cannot be imported: {torch.reason}", "GPU": "unknown"}
    built = torch.values.get("cuda") or torch.values.get("hip")
    build = f"built for {'CUDA ' + built if built else 'the processor alone'}, {torch.values['threads']} threads"
    gpus = {
        f"GPU {number}": f"{name}, {size(total)}, {size(free)} free, bf16 {'yes' if bf16 else 'no'}"
        for number, (name, total, free, bf16) in enumerate(torch.values.get("gpus", ()))
    }
    return {"torch": build} | (gpus or {"GPU": "none"})


def _temporary() -> list[Finding]:
    """Problems of the folder for temporary files."""
    remedy = "TMPDIR=FOLDER tag2mask …, with a writable folder that has free space"
    try:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"0" * 4096)
            file.flush()
    except OSError as error:
        return [Finding(f"no temporary file can be written ({error.strerror})", "missing", remedy)]
    folder = Path(tempfile.gettempdir())
    free = disk_free(folder)
    if free is not None and free < _MIN_TEMPORARY:
        return [Finding(f"{folder} has {size(free)} left", "warning", remedy)]
    return []


def _disk(out: Path) -> list[Finding]:
    """Problems of the disk of a run."""
    free = disk_free(out)
    if free is None:
        return [Finding(f"the free space of the disk of {out} is unknown", "unknown")]
    if free < _MIN_DISK:
        return [Finding(f"{size(free)} are free at {out}", "warning", "--out FOLDER on a disk with free space")]
    return []
