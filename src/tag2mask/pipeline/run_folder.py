"""The run folder: where each stage keeps its files, and how a stage knows whether they are its own."""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch

from tag2mask.errors import UsageError
from tag2mask.files import read_json, remove_partial, write_json, write_text
from tag2mask.pipeline.config import Config, to_yaml


@dataclass(frozen=True)
class StageFiles:
    """What a stage writes.

    Attributes:
        name: of the stage.
        folder: relative to the run folder; holds the stage's record, stage.json.
        outputs: relative to the run folder; deleted by a restart.
        reads: the stages whose outputs it reads.
        version: raised by hand whenever the same settings would give other files.
    """

    name: str
    folder: str
    outputs: tuple[str, ...]
    reads: tuple[str, ...]
    version: int = 1


STAGES = {
    stage.name: stage
    for stage in (
        StageFiles("train", "train", ("train",), ()),
        StageFiles("cams", "cams", ("cams",), ("train",)),
        StageFiles("refine", "refine", ("refine", "masks"), ("cams",)),
        StageFiles("evaluate", "evaluate", ("evaluate", "metrics.json"), ("cams", "refine")),
        StageFiles("report", "report", ("report", "report.html"), ("train", "cams", "refine", "evaluate")),
    )
}
"""The stages in the order in which `run` does them."""


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        """Open (not yet make) the run folder at ``path``."""
        if path.exists() and not path.is_dir():
            raise UsageError(f"--out {path} is a file; it should name a folder")
        self.path = path

    def __truediv__(self, part: str) -> Path:
        return self.path / part

    def fingerprint(self, name: str) -> str | None:
        """The recorded fingerprint of a stage; None if it never began."""
        path = self._record(name)
        return str(read_json(path)["fingerprint"]) if path.is_file() else None

    def claim(self, name: str, settings: Mapping[str, Any]) -> None:
        """Record that the stage works with these settings, or find that its files were made with others.

        Args:
            name: of the stage.
            settings: nested plain values, everything that its files depend on besides the photographs.

        Raises:
            UsageError: the folder holds outputs of other settings, of another version or of other inputs; names them
                and the remedy.
        """
        stage = STAGES[name]
        record = {
            "stage": name,
            "version": stage.version,
            "settings": _flat(settings),
            "inputs": {read: self.fingerprint(read) for read in stage.reads},
        }
        fingerprint = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]
        path = self._record(name)
        if path.is_file():
            differences = _differences(read_json(path), record)
            if differences:
                raise UsageError(
                    f"{self.path / stage.folder} was made with other settings: {'; '.join(differences)}. "
                    f"Use --restart {name} to make it again, another --out to keep it, or the old value"
                )
        for output in stage.outputs:
            remove_partial(self.path / output)
        write_json(path, {**record, "fingerprint": fingerprint})

    def restart(self, name: str) -> list[str]:
        """Delete the outputs of a stage and of every stage that reads them.

        Returns:
            the names of the stages.
        """
        if name not in STAGES:
            raise UsageError(f"--restart should name one of {', '.join(STAGES)}, received '{name}'")
        stale = [name]
        for stage in STAGES.values():
            if any(read in stale for read in stage.reads):
                stale.append(stage.name)
        for output in (output for stage in stale for output in STAGES[stage].outputs):
            target = self.path / output
            if target.is_dir():
                rmtree(target)
            else:
                target.unlink(missing_ok=True)
        return stale

    def record_config(self, config: Config, *, replace: bool) -> None:
        """Write config.yaml and environment.json; an existing config.yaml stays unless ``replace``."""
        target = self.path / "config.yaml"
        if replace or not target.is_file():
            write_text(target, to_yaml(config))
        write_json(self.path / "environment.json", environment(config.seed))

    def merge_metrics(self, figures: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """Add figures, {stage: {split: {kind: {...}}}}, to metrics.json, replacing those of the same kind."""
        path = self.path / "metrics.json"
        merged = read_json(path) if path.is_file() else {}
        for stage, splits in figures.items():
            for split, kinds in splits.items():
                merged.setdefault(stage, {}).setdefault(split, {}).update(kinds)
        write_json(path, merged)

    def _record(self, name: str) -> Path:
        return self.path / STAGES[name].folder / "stage.json"


def environment(seed: int) -> dict[str, Any]:
    """Versions and hardware, as far as they can change a result."""
    packages = ("tag2mask", "torch", "transformers", "accelerate", "numpy", "pillow")
    cuda = torch.cuda.is_available()
    return {
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}},
        "hardware": {
            "system": f"{platform.system()} {platform.machine()}",
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if cuda else None,
        },
        "seed": seed,
    }


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as {"section.name": value}."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return flat


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """How two records differ, in words."""
    found = []
    if old.get("version") != new["version"]:
        found.append(f"written by version {old.get('version')} of this stage, now {new['version']}")
    before, after = old.get("settings", {}), new["settings"]
    names = [*after, *(name for name in before if name not in after)]
    found += _changes(before, after, names)
    inputs = old.get("inputs", {})
    found += [
        f"its input '{name}' was made again since" for name, value in new["inputs"].items() if inputs.get(name) != value
    ]
    return found


def _changes(before: Mapping[str, Any], after: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The settings among ``names`` that changed."""
    changed = [name for name in names if before.get(name) != after.get(name)]
    return [f"{name} was {before.get(name)!r} and is {after.get(name)!r}" for name in changed]
