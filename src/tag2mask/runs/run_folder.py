"""The run folder: where each stage keeps its files, and how a stage knows whether they are its own."""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import torch
import yaml

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.files import TEMPORARY_PREFIX, read_json, remove_partial, write_json, write_text
from tag2mask.runs.config import Config, absolute, to_yaml

if TYPE_CHECKING:
    from tag2mask.data.dataset import ImageSet
    from tag2mask.stages.base import Stage

TRAIN_NETWORK = "train/network.safetensors"
EDGE_NETWORK = "edges/network.safetensors"
EDGE_LABELS = "edges/labels"
LABEL_CONFIDENCE = "refine/confidence"
MASKS = "masks"
WHOLE = "all"
"""The split name under which figures of data without splits are kept."""


CLASSES = "classes.json"
"""The class list of a run folder; ids are places in it, from 1."""


class RunFolder:
    """One run on disk, as a command has opened it.

    Attributes:
        path: of the folder.
        surveyed: the images that this command works on, with the tags of their data set, by what a survey depends on.
    """

    def __init__(self, path: Path) -> None:
        """Open (not yet make) the run folder at ``path``.

        Args:
            path: of the folder.

        Raises:
            UsageError: the path is a file.
        """
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file; it should be a folder")
        self.path = path
        self.surveyed: dict[str, ImageSet] = {}

    def __truediv__(self, part: str) -> Path:
        return self.path / part

    def classes(self) -> list[str] | None:
        """The class list that the run was begun with; None where nothing says it.

        Raises:
            Tag2maskError: the record is damaged.
        """
        path = self.path / CLASSES
        if not path.is_file():
            lists = (self.setting(record.parent.name, "classes") for record in sorted(self.path.glob("*/stage.json")))
            return next((known for known in lists if isinstance(known, list)), None)
        known = read_json(path)
        found = known.get("classes") if isinstance(known, dict) else None
        if not isinstance(found, list):
            raise Tag2maskError(f"{path} is damaged: it does not hold the list `classes`; use another --out")
        return found

    def keep_classes(self, classes: Sequence[str]) -> None:
        """Write `CLASSES`: the names of the classes 1..C in the order of their ids."""
        write_json(self.path / CLASSES, {"background": 0, "ignored": 255, "classes": list(classes)})

    def fingerprint(self, name: str) -> str | None:
        """The recorded fingerprint of a stage; None if it never began."""
        recorded = self._recorded(name)
        return None if recorded is None else str(recorded["fingerprint"])

    def setting(self, name: str, setting: str) -> Any:
        """The recorded value of a setting (`section.name`) of a stage; None if it has none or never began."""
        recorded = self._recorded(name)
        return None if recorded is None else recorded["settings"].get(setting)

    def has_record(self, name: str) -> bool:
        """Whether a stage ever began here."""
        return self._record(name).is_file()

    def inputs(self, name: str) -> tuple[str, ...]:
        """The stages whose outputs a stage has read here, as its record says.

        Raises:
            Tag2maskError: the record is damaged.
        """
        recorded = self._recorded(name)
        return () if recorded is None else tuple(recorded["inputs"])

    def check(self, stage: "Stage", settings: Mapping[str, Any], *, anew: bool = False) -> None:
        """Find out whether a stage may work here with these settings; nothing is written.

        Args:
            stage: the stage.
            settings: its fingerprint.
            anew: what the stage made before is about to be deleted, so that its settings do not matter.

        Raises:
            UsageError: the folder holds outputs of other settings or of another version, or files that no run wrote.
        """
        name = stage.name
        if stage.remade:
            return
        # Looked for before the record is: another process of this run writes that first, and then its files.
        foreign = [output for output in stage.outputs if _holds_files(self.path / output)]
        if self._record(name).is_file():
            recorded = None if anew else self._recorded(name)
            if recorded is not None:
                self._refuse(stage, _differences(recorded, self._entry(stage, settings), inputs=False))
        elif foreign:
            raise UsageError(
                f"{self.path / foreign[0]} was not made by a run, and {name} would overwrite it; use another --out"
            )

    def claim(self, stage: "Stage", settings: Mapping[str, Any]) -> None:
        """Record that the stage works with these settings, after `check` and a look at the stages that it reads.

        Raises:
            UsageError: as `check`, or an input was made again since.
        """
        self.check(stage, settings)
        name = stage.name
        entry, recorded = self._entry(stage, settings), self._recorded(name)
        if recorded is not None:
            self._refuse(stage, _differences(recorded, entry))
        for output in stage.outputs:
            remove_partial(self.path / output)
        fingerprint = hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:16]
        write_json(self._record(name), {**entry, "fingerprint": fingerprint})

    def _entry(self, stage: "Stage", settings: Mapping[str, Any]) -> dict[str, Any]:
        """What the record of a stage holds, but for the fingerprint over it."""
        return {
            "stage": stage.name,
            "version": stage.version,
            "settings": _flat(settings),
            "inputs": {
                read: self.fingerprint(read)
                for read in (*stage.reads, *(read for read, section in stage.reads_for.items() if section in settings))
            },
        }

    def _refuse(self, stage: "Stage", differences: list[str]) -> None:
        if differences:
            raise UsageError(
                f"{self.path / stage.name} was made with other settings: {'; '.join(differences)}. "
                f"Use {stage.again_by or f'--restart {stage.name}'} to make it again, another --out to keep it, or the "
                "old value"
            )

    def delete(self, stages: Iterable["Stage"]) -> None:
        """Delete the outputs of stages."""
        for output in (output for stage in stages for output in stage.outputs):
            target = self.path / output
            if target.is_dir():
                rmtree(target)
            else:
                target.unlink(missing_ok=True)

    def record_config(self, config: Config, sections: Sequence[str] | None = None) -> None:
        """Write config.yaml, paths absolute; only these sections of it if it exists and they are given.

        ``limit`` and ``shard`` belong to one command and are left out.
        """
        target = self.path / "config.yaml"
        values = yaml.safe_load(to_yaml(absolute(config)))
        if sections is not None and target.is_file():
            kept = _settings_in(target)
            values = {**kept, **{name: values[name] for name in sections}}
        values = {name: value for name, value in values.items() if name not in ("limit", "shard")}
        write_text(target, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    def record_environment(self, seed: int) -> None:
        """Write environment.json: where the network is trained."""
        write_json(self.path / "environment.json", environment(seed))

    def metrics(self) -> dict[str, Any]:
        """The figures in metrics.json.

        Raises:
            UsageError: nothing was measured here.
            Tag2maskError: the file is damaged.
        """
        path = self.path / "metrics.json"
        if not path.is_file():
            raise UsageError(f"{path} does not exist; `tag2mask evaluate {self.path}` writes it")
        return _figures_in(path)

    def merge_metrics(self, figures: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """Add figures, {stage: {split: {kind: {...}}}}, to metrics.json, replacing those of the same kind."""
        path = self.path / "metrics.json"
        merged = _figures_in(path) if path.is_file() else {}
        for stage, splits in figures.items():
            for split, kinds in splits.items():
                merged.setdefault(stage, {}).setdefault(split, {}).update(kinds)
        write_json(path, merged)

    def forget_metrics(self, split: str) -> None:
        """Delete the figures of a split from metrics.json: they were of a truth that is not believed any more."""
        path = self.path / "metrics.json"
        if path.is_file():
            figures = _figures_in(path)
            for splits in figures.values():
                splits.pop(split, None)
            write_json(path, figures)

    def _record(self, name: str) -> Path:
        return self.path / name / "stage.json"

    def _recorded(self, name: str) -> dict[str, Any] | None:
        """What the record of a stage says; None if it never began.

        Raises:
            Tag2maskError: the record is damaged.
        """
        path = self._record(name)
        if not path.is_file():
            return None
        found = read_json(path)
        parts = {"fingerprint": str, "settings": dict, "inputs": dict}
        if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in parts.items()):
            raise Tag2maskError(
                f"{path} is damaged: it does not say how {name} was done; --restart {name}, or --overwrite of predict, "
                "does it anew"
            )
        return found


def run_of(path: Path) -> Path | None:
    """The run that a folder is, or lies in; None if there is none, or if `predict` left its record in the folder."""
    if (path / "predict/stage.json").is_file():
        return None
    return next((each for each in (path, *path.absolute().parents[:3]) if _is_run(each)), None)


def _is_run(folder: Path) -> bool:
    """Whether a folder has settings and the record of a stage; settings alone may be anybody's."""
    return (folder / "config.yaml").is_file() and next(folder.glob("*/stage.json"), None) is not None


def _settings_in(path: Path) -> dict[str, Any]:
    """The sections of a config.yaml.

    Raises:
        Tag2maskError: it is damaged.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        found = error
    if not isinstance(found, dict):
        reason = " ".join(str(found).split()) if isinstance(found, Exception) else "it holds no settings"
        raise Tag2maskError(f"{path} is damaged ({reason}); delete it to have it written again")
    return found


def _figures_in(path: Path) -> dict[str, Any]:
    """What a metrics.json holds, {stage: {split: {kind: {...}}}}.

    Raises:
        Tag2maskError: it is damaged.
    """
    found: dict[str, Any] = read_json(path)
    level: list[Any] = [found]
    for _ in range(3):
        level = [value for each in level if isinstance(each, dict) for value in each.values()]
        if not isinstance(found, dict) or not all(isinstance(value, dict) for value in level):
            raise Tag2maskError(f"{path} holds no figures by stage, split and kind; delete it to have it made again")
    return found


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


def _holds_files(path: Path) -> bool:
    """Whether an output exists, and is not a folder without finished files."""
    return path.is_file() or (
        path.is_dir() and any(not each.name.startswith(TEMPORARY_PREFIX) for each in path.iterdir())
    )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], *, inputs: bool = True) -> list[str]:
    """How two records differ, in words."""
    found = []
    if old.get("version") != new["version"]:
        found.append(f"written by version {old.get('version')} of this stage, now {new['version']}")
    before, after = old.get("settings", {}), new["settings"]
    found += _changes(before, after, [*after, *(name for name in before if name not in after)])
    read = old.get("inputs", {})
    changed = [name for name, value in new["inputs"].items() if read.get(name) != value] if inputs else []
    return [*found, *(f"its input '{name}' was made again since" for name in changed)]


def _changes(before: Mapping[str, Any], after: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The settings among ``names`` that changed."""

    def shown(values: Mapping[str, Any], name: str) -> str:
        return repr(values[name]) if name in values else "at its default"

    changed = [name for name in names if before.get(name) != after.get(name)]
    return [f"{name} was {shown(before, name)} and is {shown(after, name)}" for name in changed]
