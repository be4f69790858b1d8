"""Runs with several seeds: which are done, and mean and spread of their figures."""

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
from tag2mask.runs.corrections import TrainingRecord, run_corrections
from tag2mask.runs.dataset import run_images
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages.registry import started_stages

RECORD = "repeats.json"


class Repeats:
    """A folder RUN with a run for each seed, RUN/seed-S, and their summary, RUN/repeats.json."""

    def __init__(self, config: Config, run: RunFolder, count: int) -> None:
        """Look at the folder; nothing is written.

        Args:
            config: every setting; its seed is that of the first run.
            run: the folder.
            count: the number of runs, with ascending seeds.

        Raises:
            UsageError: the folder holds a single run, or the command is one of several shards.
        """
        if config.shard is not None:
            raise UsageError("--repeats does whole runs, one after another; leave --shard out")
        if there := started_stages(run):
            raise UsageError(f"{run.path} holds a single run ({', '.join(there)}); --repeats needs a folder of its own")
        self.run = run
        seeds = range(config.seed, config.seed + count)
        self.configs = [replace(config, seed=seed, out=(run / f"seed-{seed}/config.yaml").parent) for seed in seeds]
        images = run_images(self.configs[0], run, corrected=False)  # each run has corrections of its own
        self.fingerprints = [_fingerprint(each, run / f"seed-{each.seed}", images) for each in self.configs]

    def is_done(self, number: int) -> bool:
        """Whether a run ended without a failure, with these settings and images."""
        recorded = self._read().get("runs", {}).get(str(self.configs[number].seed))
        return bool(recorded == self.fingerprints[number]) and self._metrics(number).is_file()

    def record_done(self, number: int) -> None:
        """Record that a run ended without a failure."""
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
    """Raise `UsageError` for a folder of several runs where a single run is meant."""
    begun = sorted(path.parent.parent.name for path in run.path.glob("seed-*/*/stage.json"))
    found = [*([RECORD] if (run / RECORD).is_file() else []), *dict.fromkeys(begun)]
    if found:
        one = begun[0] if begun else "seed-S"
        raise UsageError(
            f"{run.path} holds the runs of --repeats ({first_five(found)}); give `run --repeats N` to go on with them, "
            f"{run / one} for one of them, or another run folder"
        )


def spread(values: Sequence[Any]) -> Any:
    """Mean, standard deviation (n − 1) and values of every number that all of ``values`` have at the same place.

    Args:
        values: a nested dictionary per run.

    Returns:
        the same nesting, with {"mean", "deviation", "values"} for each number. Mean and deviation are None where a run
        has null, the deviation also for a single run. Other values are left out; None if nothing is left.
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


def _fingerprint(config: Config, run: Path, images: ImageSet) -> str:
    """A digest of everything that the figures of a run depend on: settings, images, tags and corrections."""
    images = images.corrected(run_corrections(RunFolder(run), images.classes))
    without_effect = ("out", "device", "workers")
    settings = {key: value for key, value in plain(absolute(config)).items() if key not in without_effect}
    return hashlib.sha256(
        json.dumps([settings, _digest(images.items), *_corrections(images)], sort_keys=True).encode()
    ).hexdigest()[:16]


def _digest(items: Iterable[ImageItem]) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr((item.id, item.tags)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _corrections(images: ImageSet) -> list[object]:
    """Verdicts, digests of the masks by hand, and damaged decisions; nothing without corrections of masks."""
    corrections = images.corrections
    if not corrections.verdicts and not corrections.damaged:
        return []
    record = TrainingRecord.of(images, FinalMasks(images.root, corrections))
    ids = {item.id for item in images.items}
    verdicts = {image_id: verdict for image_id, verdict in corrections.verdicts.items() if image_id in ids}
    return [verdicts, record.by_hand, sorted(ids & corrections.damaged.keys())]
