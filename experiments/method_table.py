"""The methods on several data sets by one command, from trained networks, as JSON and Markdown.

python experiments/method_table.py table  NAME[:SPLIT[:WITHOUT]]=RUN[,RUN…][+SINGLE[,SINGLE…]] … --maps MAPS --out OUT
python experiments/method_table.py search NAME[:SPLIT[:WITHOUT]]=RUN … --maps MAPS --out OUT

Each entry is a data set: its name, a split (that of RUN by default) without the images of another one, and run folders
with a trained network, one per training seed. RUN gives data, scales, settings of POT and the classes of the mIoU.

`table`: the final methods and the leave-one-out list; after `+`, also the simpler methods on networks that were trained
with the single prototype, one per seed. Report on images that no setting was chosen on.
`search`: the settings around those of RUN, and for each setting the largest loss against the data set's best.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compare import count
from error_bars import Counts, Estimate, estimate, paired
from maps import ImageMaps, make_maps, open_run, read_maps
from methods import final, leave_one_out, search
from tag2mask.core.files import write_json, write_text
from tag2mask.pot import PotSettings
from tag2mask.runs.ground_truth import class_ids

OWN_TRAINING = ", trained with the single prototype"
"""Suffix for methods on networks that were trained with the single prototype."""


@dataclass(frozen=True)
class Entry:
    """A data set of the command line."""

    name: str
    split: str | None
    without: str | None
    runs: tuple[Path, ...]
    single: tuple[Path, ...]

    @property
    def label(self) -> str:
        """In tables."""
        return " ".join(filter(None, (self.name, self.split, self.without and f"without {self.without}")))


def entry(text: str) -> Entry:
    """NAME[:SPLIT[:WITHOUT]]=RUN[,RUN…][+SINGLE[,SINGLE…]]."""
    name, _, folders = text.partition("=")
    if not name or not folders.partition("+")[0]:
        raise argparse.ArgumentTypeError(f"{text} should be NAME:SPLIT=RUN")
    parts = [*name.split(":"), None, None][:3]
    runs, _, single = folders.partition("+")
    own, others = (tuple(Path(each) for each in group.split(",") if each) for group in (runs, single))
    return Entry(str(parts[0]), parts[1] or None, parts[2], own, others)


@dataclass(frozen=True)
class Loaded:
    """The maps of one network: the class count, the ids of the mIoU and the run's settings of POT."""

    maps: list[ImageMaps]
    classes: int
    ids: list[int]
    pot: PotSettings


def load(own: Entry, run: Path, folder: Path, every: int = 1) -> Loaded:
    """The maps of every n-th image; missing ones are computed."""
    config, images = open_run(run, own.split, own.without)
    images = images.of(images.items[::every])
    place = folder / own.name / run.name / "-".join(filter(None, (own.split, own.without)))
    start = time.perf_counter()
    if made := make_maps(run, config, images, place):
        print(f"{place}: {made} made in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    ids = class_ids(config.evaluate.class_names(), images.classes) or list(range(len(images.classes) + 1))
    return Loaded(list(read_maps(images, place)), len(images.classes), ids, config.pot)


def describe(value: Estimate) -> dict[str, object]:
    """For JSON."""
    seeds = [round(seed, 2) for seed in value.seeds]
    return {"mean": round(value.mean, 2), "interval": [round(value.low, 2), round(value.high, 2)], "seeds": seeds}


def table(options: argparse.Namespace) -> tuple[dict[str, object], list[str]]:
    """The final methods, their paired differences, and the leave-one-out list, data set by data set."""
    result: dict[str, object] = {}
    lines: list[str] = []
    for own in options.entries:
        counts: dict[str, list[Counts]] = {}
        seconds: dict[str, float] = {}
        for run in own.runs:
            loaded = load(own, run, options.maps, options.every)
            lists = [final(loaded.pot), *([] if options.final_only else [leave_one_out(loaded.pot)])]
            for method in {method.name: method for methods in lists for method in methods}.values():
                found, taken = count(method, loaded.maps, loaded.classes)
                counts.setdefault(method.name, []).append(found)
                each = taken / len(loaded.maps) / len(own.runs)
                seconds[method.name] = seconds.get(method.name, 0.0) + each
        for run in own.single:
            taught = load(own, run, options.maps, options.every)
            for method in final(loaded.pot)[:-1]:
                found, _ = count(method, taught.maps, taught.classes)
                counts.setdefault(f"{method.name}{OWN_TRAINING}", []).append(found)
        values = {name: estimate(found, loaded.ids) for name, found in counts.items()}
        gains = {name: paired(counts["POT"], found, loaded.ids) for name, found in counts.items() if name != "POT"}
        lines += [f"## {own.label} ({len(loaded.maps)} images, {len(own.runs)} training seeds)", ""]
        lines += ["| method | mIoU [95 %] ± seeds | POT minus this |", "|---|---|---|"]
        lines += [*(f"| {name} | {value} | {gains.get(name, '')} |" for name, value in values.items()), ""]
        result[own.label] = {
            name: describe(value)
            | ({"POT minus this": describe(gains[name])} if name in gains else {})
            | ({"seconds per image": round(seconds[name], 4)} if name in seconds else {})
            for name, value in values.items()
        }
    return result, lines


def searched(options: argparse.Namespace) -> tuple[dict[str, object], list[str]]:
    """The settings around those of each run, with one training seed."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for own in options.entries:
        loaded = load(own, own.runs[0], options.maps, options.every)
        for axis, method in search(loaded.pot):
            if options.axes and not any(name in axis for name in options.axes):
                continue
            found, _ = count(method, loaded.maps, loaded.classes)
            value = round(estimate([found], loaded.ids).mean, 2)
            result.setdefault(axis, {}).setdefault(method.name, {})[own.label] = value
            print(f"{own.label}: {axis}: {method.name}: {value}", file=sys.stderr, flush=True)
    names = [own.label for own in options.entries]
    lines = [f"| axis | setting | {' | '.join(names)} | largest loss |", f"|---|---|{'---|' * len(names)}---|"]
    for axis, settings in result.items():
        figures = np.array([[values[name] for name in names] for values in settings.values()])
        losses = (figures.max(0) - figures).max(1)
        for setting, row, loss in zip(settings, figures, losses, strict=True):
            lines.append(f"| {axis} | {setting} | {' | '.join(f'{value:.1f}' for value in row)} | {loss:.1f} |")
    return dict(result), lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["table", "search"])
    parser.add_argument("entries", type=entry, nargs="+", help="data sets")
    parser.add_argument("--maps", type=Path, required=True, help="cache folder of the maps")
    parser.add_argument("--out", type=Path, required=True, help="OUT.json and OUT.md are written")
    parser.add_argument("--final-only", action="store_true", help="of `table`: without the leave-one-out list")
    parser.add_argument("--axes", nargs="*", help="of `search`: only those whose name contains one of these words")
    parser.add_argument("--every", type=int, default=1, help="every n-th image")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    result, lines = table(options) if options.part == "table" else searched(options)
    write_json(options.out.with_suffix(".json"), {"minutes": round((time.perf_counter() - start) / 60, 1), **result})
    write_text(options.out.with_suffix(".md"), "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
