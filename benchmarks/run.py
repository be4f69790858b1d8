"""The time of each stage of a whole run, with one set of settings and with another. Prints a table.

OMP_NUM_THREADS=2 python benchmarks/run.py DATA --limit 200 [--setting train.steps=100 …] \
    [--before "cams.scales=[1.0,0.5,1.5,2.0]" cams.flip=true cams.precision=fp32]

Both runs have the preset `own` and the settings of ``--setting``; the first also has those of ``--before``, by default
the CAMs of until 2026-11-30. Seconds are those of ``--profile``: network, method (POT, CRF), writing, waiting for
images, and other; reading happens in threads next to them.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PARTS = ("network", "method", "writing", "waiting", "other", "reading")
BEFORE = ("cams.scales=[1.0,0.5,1.5,2.0]", "cams.flip=true", "cams.precision=fp32", "predict.precision=fp32")


def profile(words: list[str]) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """The seconds of each stage by part, and the figures of a run."""
    command = [sys.executable, "-m", "tag2mask", "run", *words, "--profile", "--json"]
    answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    found, figures = {}, {}
    for result in answer["results"]:
        (line,) = (note for note in result["notes"] if re.match(r"[\d.]+ s: ", note))
        parts = {part: float(re.findall(rf"{part} ([\d.]+)", line)[0]) for part in PARTS}
        found[result["stage"]] = {"all": float(line.partition(" ")[0]), **parts}
        figures |= result["figures"]
    return found, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--setting", nargs="*", default=[], help="NAME=VALUE of both runs")
    parser.add_argument("--before", nargs="*", default=BEFORE, help="NAME=VALUE of the first run alone")
    known = parser.parse_args()
    rows: dict[str, tuple[dict[str, dict[str, float]], dict[str, Any]]] = {}
    for name, own in (("before", known.before), ("after", ())):
        with TemporaryDirectory() as out:
            settings = [f"--{each}" for each in (*known.setting, *own)]
            rows[name] = profile([str(known.data), "--limit", str(known.limit), "--out", f"{out}/run", *settings])
    print("| stage | run | seconds |", " | ".join(PARTS), "|\n|---|---|---|" + "---|" * len(PARTS))
    for stage in rows["after"][0]:
        for name, (stages, _) in rows.items():
            values = stages[stage]
            parts = " | ".join(f"{values[part]:.1f}" for part in PARTS)
            print(f"| {stage} | {name} | {values['all']:.1f} | {parts} |")
    before, after = (sum(values["all"] for values in stages.values()) for stages, _ in rows.values())
    print(f"in all {before:.1f} and {after:.1f} s, {after / before:.2f}")
    for name, (_, figures) in rows.items():
        for stage, splits in figures.items():
            for split, kinds in splits.items():
                print(name, stage, split, {kind: round(100 * values["miou"], 1) for kind, values in kinds.items()})


if __name__ == "__main__":
    main()
