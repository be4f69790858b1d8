"""Memory and time of the manifest of a million images. Prints JSON.

python benchmarks/manifest.py --images 1000000

The images need not exist. Memory is the process's own (anonymous pages, as Linux counts them); the pages of the mapped
file belong to the system's cache.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tag2mask.data.manifest import Images, Manifest, ManifestWriter


def private_memory() -> float:
    """MB of anonymous memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1000


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return round(time.perf_counter() - start, 2)


def written(images: int) -> Manifest:
    writer = ManifestWriter()
    for number in range(images):
        name = f"{number // 1000:04}/image_{number:08}"
        row = (name, f"/data/images/{name}.jpg", [1, 2 + number % 3], "train", f"/data/masks/{name}.png")
        writer.append(row)
    return Manifest(writer.finish())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    images = parser.parse_args().images
    few = written(1000)
    before = private_memory()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "data.arrow"
        found: dict[str, float] = {"images": images}
        found["seconds to write"] = seconds(lambda: written(images).save(path))
        items = Images(Manifest.open(path))
        found["seconds of a full pass"] = seconds(lambda: sum(len(item.tags) for item in items))
        some = items.take(np.random.default_rng(0).permutation(images)[:10_000])
        found["microseconds per image in any order"] = 100 * seconds(lambda: sum(len(item.tags) for item in some))
        found["added private memory, MB"] = round(private_memory() - before, 1)
        found["bytes on disk per image"] = round(path.stat().st_size / images)
    del few
    print(json.dumps({"hardware": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", **found}))


if __name__ == "__main__":
    main()
