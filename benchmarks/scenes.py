"""Gain of POT on generated scenes: mean and standard deviation of the demo's mIoU over several seeds. Prints JSON.

python benchmarks/scenes.py --seeds 3 --out runs/scenes
"""

import argparse
import json
import statistics
from pathlib import Path

from tag2mask.cli import main as tag2mask
from tag2mask.core.files import read_json, write_json


def measure(out: Path, seeds: int, arguments: list[str]) -> dict[str, object]:
    """Run the demo for each seed (of scenes, weights and sampling) and collect its figures."""
    values: dict[str, list[float]] = {}
    for seed in range(seeds):
        run = out / f"seed-{seed}"
        code = tag2mask(["demo", "--out", str(run), "--seed", str(seed), "--scenes.seed", str(seed), *arguments])
        if code:
            raise SystemExit(f"the demo with seed {seed} ended with exit code {code}")
        for split, kinds in read_json(run / "metrics.json")["cams"].items():
            for kind, figures in kinds.items():
                values.setdefault(f"{split} {kind}", []).append(round(100 * figures["miou"], 2))
    return {
        name: {"mean": round(statistics.mean(found), 2), "deviation": round(statistics.pstdev(found), 2), "all": found}
        for name, found in values.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    known, others = parser.parse_known_args()
    result = measure(known.out, known.seeds, others)
    write_json(known.out / "scenes.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
