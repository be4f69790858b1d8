"""Cost of each stage per image: CPU seconds, floating-point operations, bytes on disk. Prints JSON.

OMP_NUM_THREADS=1 python benchmarks/cost.py --data coco-mini --split val2014 --images 8

The preset `coco` (or another) with random weights, whose cost is that of trained ones, on real images. The cost per
image is the cost of several images minus that of the same stage with nothing left to do, so loading is excluded. The
cost of training is the difference between three steps and one step, divided by the images per step. CPU seconds count
all threads of the process; other load on the machine affects them less than wall-clock time. Operations are counted in
a separate pass (a multiplication and an addition are two; convolutions, matrix products and attention), and do not
depend on the machine. For base CAMs from CLIP, only the forward pass is counted; benchmarks/clip_seeds.py measures
their time.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from clip_seeds import build, plain_forward, problem
from measure import hardware
from tag2mask.cli.parsing import build_parser, expand_presets, to_config
from tag2mask.runs.config import Config
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages.registry import STAGES

FEW = 2
"""Images before the measured ones; the first ones cost more."""

FOLDERS = {"cams": ["cams"], "edges": ["edges/labels"], "refine": ["masks", "refine"], "predictions": ["predictions"]}
"""The folders with files per image."""


def settings(options: argparse.Namespace, out: Path) -> Config:
    """The settings of the preset, with random weights, for one process."""
    parser = build_parser("run")
    words = ["--config", options.preset, "--data.root", str(options.data), "--data.split", options.split]
    words += ["--data.masks", str(out / "truth"), "--network.weights", "none", "--segment.network.weights", "none"]
    words += ["--refine.method", "irn+crf", "--evaluate.splits", f"[{options.split}]", "--out", str(out)]
    config = to_config(parser, parser.parse_args(expand_presets([*words, "--workers", "0", "--device", "cpu"])))
    return replace(config, segment=replace(config.segment, labels="masks", validate_every=None))


def cpu_seconds(stage: str, config: Config) -> float:
    """The CPU seconds of a stage in this process."""
    start = time.process_time()
    result = STAGES[stage].do(config, RunFolder(Path(config.out or "")), Console(quiet=True))
    if result.failed:
        raise SystemExit(f"{stage}: {result.failed}")
    return time.process_time() - start


def operations(stage: str, config: Config) -> float:
    """The operations of a stage, in units of 10^12, without the random walk's sparse products.

    These are under 0.01, but would be counted as dense ones. No network multiplies matrices by the same operator.
    """
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mm: lambda *_, **__: 0}) as counter:
        cpu_seconds(stage, config)
    return float(counter.get_total_flops()) / 1e12


def by_image(stage: str, config: Config, images: int) -> dict[str, float]:
    """The cost per image of a stage that processes images independently."""
    cpu_seconds(stage, replace(config, limit=FEW))
    limit = FEW + images
    whole = cpu_seconds(stage, replace(config, limit=limit))
    nothing = cpu_seconds(stage, replace(config, limit=limit))
    counted = operations(stage, replace(config, limit=limit + FEW)) - operations(
        stage, replace(config, limit=limit + FEW)
    )
    found = {"CPU s": (whole - nothing) / images, "10^12 operations": counted / FEW}
    files = [path for name in FOLDERS.get(stage, ()) for path in (Path(config.out or "") / name).rglob("*.*")]
    if files:
        found["bytes"] = sum(path.stat().st_size for path in files if path.name != "stage.json") / (limit + FEW)
    return found


def of_training(stage: str, config: Config, network: str, batch: int) -> dict[str, float]:
    """The cost of training per drawn image."""
    run = RunFolder(Path(config.out or ""))
    costs = {}
    for steps in (1, 3):
        run.delete([STAGES[stage]])
        section = replace(getattr(config, stage), steps=steps, batch_size=batch)
        with FlopCounterMode(display=False) as counter:
            seconds = cpu_seconds(stage, replace(config, **{stage: section}))
        costs[steps] = seconds, counter.get_total_flops() / 1e12
    drawn = 2 * batch
    seconds, counted = ((costs[3][part] - costs[1][part]) / drawn for part in (0, 1))
    return {"CPU s": seconds, "10^12 operations": counted, "parameter file, MB": (run / network).stat().st_size / 1e6}


def of_clip() -> dict[str, float]:
    """The operations of CLIP's forward pass for base CAMs: ViT-B/16, 500 × 375 px."""
    clip = build(argparse.Namespace(device="cpu", precision="fp32"))
    with FlopCounterMode(display=False) as counter:
        plain_forward(clip, problem(FEW, 3, "cpu")[0], FEW)
    return {"10^12 operations": counter.get_total_flops() / 1e12 / FEW}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a root of the preset's layout")
    parser.add_argument("--preset", default="coco")
    parser.add_argument("--split", default="val2014")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4, help="of training steps")
    options = parser.parse_args()
    found: dict[str, Any] = {"seeds, CLIP forward": of_clip()}
    with TemporaryDirectory() as folder:
        config = settings(options, Path(folder))

        def note(name: str, cost: dict[str, float]) -> None:
            found[name] = {key: round(value, 4) for key, value in cost.items()}
            print(name, found[name], file=sys.stderr, flush=True)

        few = replace(config, limit=FEW + options.images)
        note("train, per draw", of_training("train", few, "train/network.safetensors", options.batch))
        note("cams", by_image("cams", config, options.images))
        note("edges, per draw", of_training("edges", few, "edges/network.safetensors", options.batch))
        note("refine", by_image("refine", config, options.images))
        note("segment, per draw", of_training("segment", few, "segment/network.safetensors", options.batch))
        note("predictions", by_image("predictions", config, options.images))
    print(json.dumps({"hardware": hardware(), "preset": options.preset, "per image": found}, indent=2))


if __name__ == "__main__":
    main()
