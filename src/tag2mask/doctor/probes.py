"""What only an import tells, asked in processes of their own: a broken library cannot take the doctor with it."""

import json
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

_SECONDS = 120.0
"""How long an import may take, on a cold disk."""

_MARK = "tag2mask doctor: "

_TORCH = """
import json, torch
gpus = []
for number in range(torch.cuda.device_count()):
    with torch.cuda.device(number):
        free, total = torch.cuda.mem_get_info(number)
        gpus.append([torch.cuda.get_device_name(number), total, free, bool(torch.cuda.is_bf16_supported())])
import torch.utils.data
told = {"cuda": torch.version.cuda, "hip": getattr(torch.version, "hip", None), "gpus": gpus,
        "available": torch.cuda.is_available(), "threads": torch.get_num_threads(), "hub": torch.hub.get_dir(),
        "sum": float((torch.ones(8, 8) @ torch.ones(8, 8)).sum())}
"""

_TRANSFORMERS = """
from transformers import AutoModel, CLIPModel, CLIPTokenizer, MobileNetV2Model
told = {}
"""

PROGRAMS: Mapping[str, str] = {
    "torch": _TORCH,
    "transformers": _TRANSFORMERS,
    "torchvision": "import torchvision\ntold = {}",
    "accelerate": "from accelerate import Accelerator\ntold = {}",
    "tag2mask": "import tag2mask.cli.verbs, tag2mask.pipeline.stages\ntold = {}",
    "onnx": "import onnx, onnxruntime, onnxscript\ntold = {}",
    "tensorboard": "from torch.utils.tensorboard import SummaryWriter\ntold = {}",
    "webdataset": "from webdataset import WebDataset\ntold = {}",
}
"""What is run for each: it leaves plain values in ``told``."""


@dataclass(frozen=True)
class Probe:
    """How an import went.

    Attributes:
        works: whether it did; None where that could not be found out.
        told: what it left.
        reason: why it failed, in one line.
    """

    works: bool | None
    told: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


def probe(name: str) -> Probe:
    """Import something in another process."""
    # The folders that this process imports from, and not the current one, whose files are anybody's.
    program = (
        f"import sys\nsys.path[:] = {sys.path!r}\n{PROGRAMS[name]}\nimport json\nprint({_MARK!r} + json.dumps(told))"
    )
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
    try:
        return Probe(True, dict(json.loads(lines[-1].removeprefix(_MARK))))
    except ValueError:
        return Probe(None, reason=f"{name} answered something else than expected")


def probe_all(names: list[str], *, at_once: int = 2) -> dict[str, Probe]:
    """Several, a few at once."""
    with ThreadPoolExecutor(at_once) as pool:
        return dict(zip(names, pool.map(probe, names), strict=True))
