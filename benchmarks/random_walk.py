"""The random walk in 256 sparse steps, compared with the published dense power. Prints JSON.

python benchmarks/random_walk.py --threads 2

One image of 375 × 500 px on a grid of 94 × 125 cells, 3 labels, float32. The dense version is timed for one squaring of
the transition matrix; it needs eight.
"""

import argparse
import json
from statistics import median

import torch

from measure import hardware, peak_memory, seconds
from tag2mask.refine.random_walk import propagate

SQUARINGS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=[94, 125], help="of the grid")
    parser.add_argument("--labels", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of torch; by default its own choice")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    cams = torch.rand(options.labels, *options.size, generator=generator)
    edge = torch.rand(*options.size, generator=generator)
    times: list[float] = []
    peak = peak_memory(lambda: times.extend(seconds(lambda: propagate(cams, edge)) for _ in range(options.repeats)))
    cells = options.size[0] * options.size[1]
    dense = torch.rand(cells, cells, generator=generator) / cells
    once = seconds(lambda: dense @ dense)
    result = {
        "hardware": hardware(),
        "grid": options.size,
        "labels": options.labels,
        "sparse, seconds": round(median(times), 4),
        "dense, seconds for one squaring": round(once, 1),
        "dense / sparse": round(SQUARINGS * once / median(times)),
        "sparse, peak MiB": round(peak),
        "dense, MiB of one matrix": round(dense.numel() * 4 / 2**20),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
