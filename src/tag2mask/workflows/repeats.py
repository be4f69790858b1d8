"""Runs that differ in their seed alone: which are done, and the mean and spread of what they measured."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tag2mask.core.errors import UsageError, first_five
from tag2mask.core.files import read_json, write_json
from tag2mask.data.corrections import FinalMasks
from tag2mask.data.dataset import ImageSet
from tag2mask.data.manifest import ImageItem
from tag2mask.runs.config import Config, absolute, plain
from tag2mask.runs.corrections import LearntFrom, data_of, with_remembered
from tag2mask.runs.dataset import run_images
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages.registry import started_stages

RECORD = "repeats.json"


class Repeats:
    """The folder RUN with a run for each seed, RUN/seed-S, and RUN/repeats.json over them."""

    def __init__(self, config: Config, run: RunFolder, count: int, *, named: bool = False) -> None:
        """Look at the folder; nothing is written.

        Args:
            config: every setting; its seed is the first run's.
            run: the folder.
            count: of runs, with ascending seeds.
            named: the command itself names the folder of decisions, or none, for all runs.

        Raises:
            UsageError: the folder holds a single run, or the command is one of several shards.
        """
        if config.shard is not None:
            raise UsageError("--repeats does whole runs, one after another; leave --shard out")
        if there := started_stages(run):
            raise UsageError(f"{run.path} holds a single run ({', '.join(there)}); --repeats needs a folder of its own")
        self.run = run
        self.configs = [
            replace(config, seed=seed, out=run / f"seed-{seed}") for seed in range(config.seed, config.seed + count)
        ]
        if not named:
            self.configs = [with_remembered(each, config.data.corrections) for each in self.configs]
        self.fingerprints = _fingerprints(self.configs)

    def is_done(self, number: int) -> bool:
        """Whether a run went through without a failure, with these settings and images."""
        recorded = self._read().get("runs", {}).get(str(self.configs[number].seed))
        return bool(recorded == self.fingerprints[number]) and self._metrics(number).is_file()

    def record_done(self, number: int) -> None:
        """Note that a run went through."""
        known = self._read()
        runs = {**known.get("runs", {}), str(self.configs[number].seed): self.fingerprints[number]}
        write_json(self.run / RECORD, {**known, "runs": runs})

    def summarise(self) -> dict[str, Any]:
        """Mean and spread over the seeds of every figure that all runs have; written to repeats.json."""
        figures = spread([read_json(self._metrics(number)) for number in range(len(self.configs))]) or {}
        seeds = [each.seed for each in self.configs]
        write_json(self.run / RECORD, {"runs": self._read().get("runs", {}), "seeds": seeds, "figures": figures})
        return {"seeds": seeds, "figures": figures}

    def _metrics(self, number: int) -> Path:
        return self.run / f"seed-{self.configs[number].seed}/metrics.json"

    def _read(self) -> dict[str, Any]:
        path = self.run / RECORD
        return read_json(path) if path.is_file() else {}


def refuse_repeats(run: RunFolder) -> None:
    """Refuse a folder of several runs where a single one is meant: it would lie among them.

    Raises:
        UsageError: it is one.
    """
    begun = sorted(path.parent.parent.name for path in run.path.glob("seed-*/*/stage.json"))
    found = [*([RECORD] if (run / RECORD).is_file() else []), *dict.fromkeys(begun)]
    if found:
        one = begun[0] if begun else "seed-S"
        raise UsageError(
            f"{run.path} holds the runs of --repeats ({first_five(found)}); give `run --repeats N` to go on with them, "
            f"{run / one} for one of them, or another run folder"
        )


def spread(values: Sequence[Any]) -> Any:
    """Mean, standard deviation (n − 1) and values of every number that is at the same place in all of ``values``.

    Args:
        values: nested dictionaries of one shape, one a run.

    Returns:
        the same nesting, with {"mean", "deviation", "values"} for each number: null where a run has null in its
        place, the deviation also where there is one run only. What is no number in any run is left out; None if
        nothing is left.
    """
    if all(isinstance(value, Mapping) for value in values):
        parts = {key: spread([value[key] for value in values]) for key in values[0] if all(key in v for v in values)}
        return {key: part for key, part in parts.items() if part is not None} or None
    numbers = [value for value in values if isinstance(value, int | float)]
    if not numbers or len(numbers) + sum(value is None for value in values) < len(values):
        return None
    whole = len(numbers) == len(values)
    deviation = stdev(numbers) if whole and len(numbers) > 1 else None
    return {"mean": mean(numbers) if whole else None, "deviation": deviation, "values": list(values)}


def _digest(items: Iterable[ImageItem]) -> str:
    """Of their IDs and tags."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr((item.id, item.tags)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _fingerprints(configs: Sequence[Config]) -> list[str]:
    """Of each run; those with one folder of decisions, or none, work on the same images."""
    read: dict[Path | None, list[object]] = {}
    found = []
    for config in configs:
        folder = data_of(config, config.out).corrections
        if folder not in read:
            images = run_images(config, RunFolder(config.out or Path()))
            read[folder] = [_digest(images.items), *_decided(images)]
        found.append(_fingerprint(config, read[folder]))
    return found


def _decided(images: ImageSet) -> list[object]:
    """What people decided about masks, wherever it is kept: verdicts, and digests of masks by hand; nothing if none."""
    decided = images.decided
    if not decided.verdicts and not decided.damaged:
        return []
    learnt = LearntFrom.of(images, FinalMasks(images.root, decided))
    ids = {item.id for item in images.items}
    verdicts = {image_id: verdict for image_id, verdict in decided.verdicts.items() if image_id in ids}
    return [verdicts, learnt.by_hand, sorted(ids & decided.damaged.keys())]


def _fingerprint(config: Config, read: Sequence[object]) -> str:
    """Of all that the figures of a run can depend on, as far as the settings and what it reads go."""
    without_effect = ("out", "device", "workers", "outputs")
    everything = plain(absolute(config))
    settings = {key: value for key, value in everything.items() if key not in without_effect}
    settings["data"].pop("corrections")  # what lies there counts, not where it lies
    return hashlib.sha256(json.dumps([settings, *read], sort_keys=True).encode()).hexdigest()[:16]
