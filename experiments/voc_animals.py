"""The comparison on real images, from trained networks, as JSON and Markdown.

python experiments/voc_animals.py table RUN… --data.root ROOT --data.tags TAGS --maps MAPS --out OUT
python experiments/voc_animals.py search RUN --data.root ROOT --data.tags TAGS --maps MAPS --out OUT

`table`: the final methods and the leave-one-out list on `train` and `val`, for one or more training seeds; with
`--single RUN…` also the simpler methods on networks trained with the single prototype, one per seed.
`search`: the settings around the default on `train_aug` without `train`, the images for tuning.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from compare import class_ids, count
from error_bars import Counts, Estimate, estimate, paired
from maps import ImageMaps, make_maps, open_split, read_maps
from methods import FINAL, LEAVE_ONE_OUT, search
from tag2mask.core.files import write_json, write_text
from tag2mask.data.dataset import ImageSet

CLASSES = ("cat", "chair", "cow", "dog", "horse", "person", "sheep", "sofa")
"""The classes of the mIoU, besides background."""

OWN_TRAINING = ", trained with the single prototype"
"""Suffix for methods on networks that were trained with the single prototype."""


def load_maps(
    options: argparse.Namespace, run: Path, split: str, without: str | None = None
) -> tuple[ImageSet, list[ImageMaps]]:
    """The maps of a split; missing ones are computed."""
    images, chosen = open_split(options.root, options.tags, split, without)
    folder = options.maps / run.name / (split if without is None else f"{split}-without-{without}")
    start = time.perf_counter()
    if made := make_maps(run / "train/network.safetensors", images, chosen, folder):
        print(f"{folder}: {made} made in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return images, list(read_maps(chosen, folder))


def describe(value: Estimate) -> dict[str, object]:
    """For JSON."""
    seeds = [round(seed, 2) for seed in value.seeds]
    return {"mean": round(value.mean, 2), "interval": [round(value.low, 2), round(value.high, 2)], "seeds": seeds}


def table(options: argparse.Namespace) -> tuple[dict[str, object], list[str]]:
    """The final methods, their paired differences, and the leave-one-out list."""
    lists = (FINAL,) if options.final_only else (FINAL, LEAVE_ONE_OUT)
    methods = {method.name: method for methods in lists for method in methods}
    result: dict[str, object] = {}
    lines: list[str] = []
    for split in options.splits:
        counts: dict[str, list[Counts]] = {name: [] for name in methods}
        seconds = dict.fromkeys(methods, 0.0)
        for run in options.runs:
            images, maps = load_maps(options, run, split)
            for name, method in methods.items():
                found, taken = count(method, maps, len(images.classes))
                counts[name].append(found)
                seconds[name] += taken / len(maps) / len(options.runs)
        for run in options.single:
            images, maps = load_maps(options, run, split)
            for method in FINAL[:-1]:
                found, _ = count(method, maps, len(images.classes))
                counts.setdefault(f"{method.name}{OWN_TRAINING}", []).append(found)
        ids = class_ids(images.classes, CLASSES)
        best = FINAL[-1].name
        values = {name: estimate(found, ids) for name, found in counts.items()}
        gains = {name: paired(counts[best], found, ids) for name, found in counts.items() if name != best}
        lines += [f"## {split} ({len(maps)} images, {len(options.runs)} training seeds)", ""]
        for names in ([*(method.name for method in methods_of)] for methods_of in lists):
            others = [name for name in values if name.endswith(OWN_TRAINING)] if names[0] == FINAL[0].name else []
            lines += [*_markdown([*names, *others], values, gains), ""]
        result[split] = {
            name: describe(value)
            | ({"POT minus this": describe(gains[name])} if name in gains else {})
            | ({"seconds per image": round(seconds[name], 4)} if name in seconds else {})
            for name, value in values.items()
        }
    return result, lines


def _markdown(names: Iterable[str], values: dict[str, Estimate], gains: dict[str, Estimate]) -> list[str]:
    rows = [f"| {name} | {values[name]} | {gains.get(name, '')} |" for name in names]
    return ["| method | mIoU [95 %] ± seeds | POT minus this |", "|---|---|---|", *rows]


def searched(options: argparse.Namespace) -> tuple[dict[str, object], list[str]]:
    """The settings around the default on the images for tuning, with one training seed."""
    images, maps = load_maps(options, options.runs[0], "train_aug", "train")
    ids = class_ids(images.classes, CLASSES)
    result: dict[str, dict[str, float]] = {}
    for axis, method in search():
        if options.axes and not any(name in axis for name in options.axes):
            continue
        found, _ = count(method, maps[:: options.every], len(images.classes))
        value = round(estimate([found], ids).mean, 2)
        result.setdefault(axis, {})[method.name] = value
        print(f"{axis}: {method.name}: {value}", file=sys.stderr, flush=True)
    lines = ["| axis | setting: mIoU |", "|---|---|"]
    for axis, values in result.items():
        lines.append(f"| {axis} | " + " · ".join(f"{name}: {value:.1f}" for name, value in values.items()) + " |")
    return dict(result), lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["table", "search"])
    parser.add_argument("runs", type=Path, nargs="+", help="run folders with a trained network, one per training seed")
    parser.add_argument("--single", type=Path, nargs="+", default=[], help="of `table`: single-prototype runs")
    parser.add_argument("--data.root", dest="root", type=Path, required=True)
    parser.add_argument("--data.tags", dest="tags", type=Path)
    parser.add_argument("--maps", type=Path, required=True, help="cache folder of the maps")
    parser.add_argument("--out", type=Path, required=True, help="OUT.json and OUT.md are written")
    parser.add_argument("--splits", nargs="+", default=["train", "val"], help="of `table`")
    parser.add_argument("--final-only", action="store_true", help="of `table`: without the leave-one-out list")
    parser.add_argument("--axes", nargs="*", help="of `search`: only those whose name contains one of these words")
    parser.add_argument("--every", type=int, default=1, help="of `search`: every n-th image")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    result, lines = table(options) if options.part == "table" else searched(options)
    write_json(options.out.with_suffix(".json"), {"minutes": round((time.perf_counter() - start) / 60, 1), **result})
    write_text(options.out.with_suffix(".md"), "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
