"""The run folder: where each stage keeps its files, and the record of the settings that made them."""

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.files import (
    TEMPORARY_PREFIX,
    discard,
    read_json,
    read_yaml,
    remove_partial,
    require_inside,
    write_json,
    write_text,
)
from tag2mask.core.provenance import UNKNOWN
from tag2mask.data.classes import CLASS_IDS, write_class_ids
from tag2mask.runs.config import Config, absolute, to_yaml

if TYPE_CHECKING:
    from tag2mask.data.dataset import ImageSet
    from tag2mask.stages.base import Stage

TRAIN_NETWORK = "train/network.safetensors"
EDGE_NETWORK = "edges/network.safetensors"
EDGE_LABELS = "edges/labels"
WHOLE = "all"
"""The split name of figures of data without splits."""

FORMAT = 5
"""The version of the format of run folders, in config.yaml and every stage.json. Raise it by hand when a file gets
another name or meaning."""


class RunFolder:
    """A run on disk, opened by a command.

    Attributes:
        surveyed: the images that this command works on, with the tags of their data set, by what a survey depends on.
    """

    def __init__(self, path: Path) -> None:
        """Open the run folder at ``path``, which need not exist yet.

        Raises:
            UsageError: the path is a file, or a run folder of another format.
        """
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file; it should be a folder")
        require_format(path)
        self.path = path
        self.surveyed: dict[str, ImageSet] = {}
        self._inside: set[Path] = set()  # folders that no link leads out of

    def __truediv__(self, part: str) -> Path:
        """A file of the run.

        Raises:
            UsageError: a link, or `..`, leads to another folder.
        """
        path = self.path / part
        if path.parent not in self._inside:
            require_inside(self.path, path)
            self._inside.add(path.parent)
        return path

    def classes(self) -> list[str] | None:
        """The class list of the run; None if none is recorded.

        Raises:
            Tag2maskError: the record is damaged.
        """
        path = self.path / CLASS_IDS
        if not path.is_file():
            lists = (self.setting(record.parent.name, "classes") for record in sorted(self.path.glob("*/stage.json")))
            return next((known for known in lists if isinstance(known, list)), None)
        found = read_json(path).get("classes")
        if isinstance(found, dict) and [*found.values()] != [*range(1, len(found) + 1)]:
            found = None
        if not isinstance(found, dict | list) or not all(
            isinstance(name, str) for name in found
        ):  # runs of earlier versions have the list
            raise Tag2maskError(
                f"{path} is damaged: it does not hold the ids of the `classes`; delete it to have it made again"
            )
        return list(found)

    def write_classes(self, classes: Sequence[str]) -> None:
        """Write `CLASS_IDS` for the classes 1..C."""
        write_class_ids(self.path, classes)

    def fingerprint(self, name: str) -> str | None:
        """The recorded fingerprint of a stage; None without a record."""
        recorded = self._recorded(name)
        return None if recorded is None else str(recorded["fingerprint"])

    def setting(self, name: str, setting: str) -> Any:
        """The recorded value of a setting (`section.name`) of a stage; None without one."""
        recorded = self._recorded(name)
        return None if recorded is None else recorded["settings"].get(setting)

    def has_record(self, name: str) -> bool:
        """Whether a stage has started here."""
        return self._record(name).is_file()

    def inputs(self, name: str) -> tuple[str, ...]:
        """The stages whose outputs a stage has read here, by its record.

        Raises:
            Tag2maskError: the record is damaged.
        """
        recorded = self._recorded(name)
        return () if recorded is None else tuple(recorded["inputs"])

    def check(self, stage: "Stage", settings: Mapping[str, Any], *, restart: bool = False) -> None:
        """Check that a stage may work here with these settings; nothing is written.

        Args:
            settings: the stage's fingerprint.
            restart: the stage's outputs are about to be deleted, so that their settings do not matter.

        Raises:
            UsageError: the folder holds outputs of other settings or of another version, or files that no run wrote; or
                an output is a link to a folder elsewhere.
        """
        name = stage.name
        for output in () if restart else stage.outputs:
            if (self.path / output).is_dir():
                require_inside(self.path, self.path / output / name)
        if stage.always_rerun:
            return
        # Before the look at the record: another process of this run writes the record first, and then its files.
        paths = [self.path / output for output in stage.outputs]
        foreign = [path for path in paths if _holds_files(path) and not (restart and path.is_symlink())]
        if self._record(name).is_file():
            recorded = None if restart else self._recorded(name)
            if recorded is not None:
                self._refuse(stage, _differences(recorded, self._entry(stage, settings), inputs=False))
        elif foreign:
            raise UsageError(f"{foreign[0]} was not made by a run, and {name} would overwrite it; use another --out")

    def record_fingerprint(self, stage: "Stage", settings: Mapping[str, Any]) -> None:
        """Write the record of a stage with its fingerprint, after `check` and a check of its inputs.

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
        made = hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:16]
        fingerprint = made if recorded is None else recorded["fingerprint"]  # also if a model has moved
        write_json(self / f"{name}/stage.json", {**entry, "fingerprint": fingerprint})

    def _entry(self, stage: "Stage", settings: Mapping[str, Any]) -> dict[str, Any]:
        optional = [read for read, section in stage.optional_inputs.items() if section in settings]
        return {
            "format": FORMAT,
            "stage": stage.name,
            "version": stage.version,
            "settings": _flat(settings),
            "inputs": {read: self.fingerprint(read) for read in (*stage.reads, *optional)},
        }

    def _refuse(self, stage: "Stage", differences: list[str]) -> None:
        if differences:
            raise UsageError(
                f"{self.path / stage.name} was made with other settings: {'; '.join(differences)}. "
                f"Use {stage.restart_option or f'--restart {stage.name}'} to make it again, another --out to keep it, "
                "or the old value"
            )

    def delete(self, stages: Iterable["Stage"]) -> None:
        """Delete the outputs of stages, given in order; of an output that is a link, the link.

        The last one goes first, and the record of a stage after its other outputs: a command that is killed here can be
        repeated.
        """
        for output in reversed([output for stage in stages for output in stage.outputs]):
            discard(self.path / output)

    def record_config(self, config: Config, sections: Sequence[str] | None = None) -> None:
        """Write config.yaml with absolute paths; only the given sections and single settings if it exists.

        A tags table inside the run folder is recorded relative to it, so that the folder can be moved.
        ``limit`` and ``shard`` belong to one command and are left out.
        """
        target = self.path / "config.yaml"
        values = yaml.safe_load(to_yaml(absolute(config)))
        tags, here = config.data.tags, self.path.absolute()
        if tags is not None and here in tags.absolute().parents:
            values["data"]["tags"] = tags.absolute().relative_to(here).as_posix()
        if sections is not None and target.is_file():
            kept = _settings_in(target)
            for section, _, name in (each.partition(".") for each in sections):
                new = values[section]
                kept[section] = {**(kept.get(section) or {}), name: new[name]} if name else new
            values = kept
        values = {name: value for name, value in values.items() if name not in ("format", "limit", "shard")}
        values = {"format": FORMAT, **values}
        write_text(target, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    def record_environment(self, seed: int) -> None:
        """Write environment.json, the environment of the training."""
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

    def delete_metrics(self, split: str) -> None:
        """Delete the figures of a split, whose ground truth is no longer believed, from metrics.json."""
        path = self.path / "metrics.json"
        if path.is_file():
            figures = _figures_in(path)
            for splits in figures.values():
                splits.pop(split, None)
            write_json(path, figures)

    def _record(self, name: str) -> Path:
        return self.path / name / "stage.json"

    def _recorded(self, name: str) -> dict[str, Any] | None:
        """The record of a stage; None without one.

        Raises:
            Tag2maskError: it is damaged.
            UsageError: it has another format.
        """
        path = self._record(name)
        if not path.is_file():
            return None
        remedy = f"--restart {name}, or --overwrite of predict, makes it again"
        found = read_json(path, remedy)
        parts = {"fingerprint": str, "settings": dict, "inputs": dict}
        if not all(isinstance(found.get(key), kind) for key, kind in parts.items()):
            raise Tag2maskError(f"{path} is damaged: it does not say how {name} was done; {remedy}")
        require_number(self.path, found.get("format"))
        return found


def require_format(folder: Path) -> None:
    """Refuse a run folder of another version of tag2mask.

    A folder with a config.yaml that names no format, and without a record of a stage, is not a run folder.

    Raises:
        UsageError: its format is not `FORMAT`.
    """
    try:
        named = re.search(rb"^format:\s*(\d+)", (folder / "config.yaml").read_bytes(), re.MULTILINE)
    except OSError:  # missing, or reported by what reads the settings
        return
    if named or _is_run(folder):
        require_number(folder, named[1].decode() if named else None)


def require_number(place: Path, found: object) -> None:
    """Refuse ``place`` if the format number ``found`` there is not `FORMAT`; None means that it has none."""
    if str(found) != str(FORMAT):
        named = "no format" if found is None else f"format {found}"
        raise UsageError(
            f"{place} was made by another version of tag2mask ({named}, this one reads {FORMAT}); use that version, "
            "or another --out"
        )


def read_settings(file: Path) -> Any:
    """A file of settings; a tags table that a run folder has recorded relative to itself gets its path.

    Raises:
        OSError, ValueError, yaml.YAMLError: it cannot be read.
    """
    values = read_yaml(file)
    data = values.get("data") if isinstance(values, dict) and "format" in values else None
    if isinstance(data, dict) and isinstance(data.get("tags"), str):
        data["tags"] = str(file.absolute().parent / data["tags"])
    return values


def run_of(path: Path) -> Path | None:
    """The run that a folder is, or lies in; None if there is none, or for an output folder of `predict`."""
    if (path / "predict/stage.json").is_file():
        return None
    return next((each for each in (path, *path.absolute().parents[:3]) if _is_run(each)), None)


def _is_run(folder: Path) -> bool:
    """Whether a folder has settings and the record of a stage; other programs have a config.yaml, too."""
    return (folder / "config.yaml").is_file() and next(folder.glob("*/stage.json"), None) is not None


def _settings_in(path: Path) -> dict[str, Any]:
    try:
        found = read_yaml(path)
    except (OSError, ValueError, yaml.YAMLError) as error:
        found = error
    if not isinstance(found, dict):
        reason = " ".join(str(found).split()) if isinstance(found, Exception) else "it holds no settings"
        raise Tag2maskError(f"{path} is damaged ({reason}); delete it to have it written again")
    return found


def _figures_in(path: Path) -> dict[str, Any]:
    """The content of a metrics.json, {stage: {split: {kind: {...}}}}; a `Tag2maskError` if it is damaged."""
    found = read_json(path)
    level: list[Any] = [found]
    for _ in range(3):
        level = [value for each in level if isinstance(each, dict) for value in each.values()]
        if not all(isinstance(value, dict) for value in level):
            raise Tag2maskError(f"{path} holds no figures by stage, split and kind; delete it to have it made again")
    return found


def environment(seed: int) -> dict[str, Any]:
    """Versions and hardware that can change a result."""
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
    found = []
    if old.get("version") != new["version"]:
        found.append(f"written by version {old.get('version')} of this stage, now {new['version']}")
    before, after = old.get("settings", {}), new["settings"]
    found += _changes(before, after)
    read = old.get("inputs", {})
    changed = [name for name, value in new["inputs"].items() if read.get(name) != value] if inputs else []
    return [*found, *(f"its input '{name}' was made again since" for name in changed)]


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The settings that changed.

    A setting NAME that gives a model is the same where NAME_files, the digest of the model's files, is. Of a model that
    is not on this machine the digest is `UNKNOWN`, and so is which settings it reads: those in the record are compared.
    """
    absent = UNKNOWN in after.values()
    names = [name for name in after if name in before or not absent]
    names += [name for name in before if name not in after]

    def is_same(name: str) -> bool:
        if before.get(name) == after.get(name) or after.get(name) == UNKNOWN:
            return True
        files = f"{name}_files"
        return files in before and before[files] == after.get(files)

    def shown(values: Mapping[str, Any], name: str) -> str:
        return repr(values[name]) if name in values else "at its default"

    changed = {name: name.removesuffix("_of_sam3") for name in names if not is_same(name)}
    return [f"{said} was {shown(before, name)} and is {shown(after, name)}" for name, said in changed.items()]
