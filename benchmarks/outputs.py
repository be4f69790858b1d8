"""Masks and CAMs as single files and in tars: how many files, how many bytes, and how fast. Prints JSON.

python benchmarks/outputs.py --photographs 20000 --tar 1000

Written are files of random bytes of the usual size of a mask (2,100 bytes) and of a CAM file (2,900), a thousand a
subfolder, without the work that makes them. Per kind, and as ratios of tars to single files: files and folders, bytes
on the disk (blocks, of the index too), and the time to write them, to ask for each whether it is there and when it was
written, and to read them in order and at random. Both are measured in turns, three times; the ratios are of medians.
"""

import argparse
import json
import platform
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from tag2mask.outputs import Folder, OutputSettings, TarFolder, write_bytes

SIZES = {"masks": 2100, "cams": 2900}
FOLDER = 1000


def milliseconds(work: Callable[[str], object], names: list[str]) -> float:
    """Milliseconds a name."""
    start = time.perf_counter()
    for name in names:
        work(name)
    return 1000 * (time.perf_counter() - start) / len(names)


def measured(folder: Folder, path: Path, size: int, names: list[str]) -> dict[str, float]:
    """One folder written and read."""
    content = np.random.default_rng(0).bytes(size)
    shuffled = random.Random(0).sample(names, len(names))
    times = {
        "write": milliseconds(lambda name: write_bytes(folder / name, content), names),
        "ask": milliseconds(lambda name: ((folder / name).is_file(), (folder / name).stat().st_mtime_ns), names),
        "read": milliseconds(lambda name: (folder / name).open("rb").read(), names),
        "read at random": milliseconds(lambda name: (folder / name).open("rb").read(), shuffled),
    }
    if isinstance(folder, TarFolder):
        folder.close(send=False)
    found = [each.stat() for each in path.rglob("*")]
    return {"files": len(found), "bytes": sum(512 * status.st_blocks for status in found)} | times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=20000)
    parser.add_argument("--tar", type=int, default=1000, help="files a tar")
    options = parser.parse_args()
    names = [f"{number // FOLDER:04}/photograph_{number:08}.bin" for number in range(options.photographs)]
    answer: dict[str, object] = {"photographs": len(names), "tar": options.tar, "machine": platform.platform()}
    for kind, size in SIZES.items():
        turns: dict[str, list[dict[str, float]]] = {"single": [], "tars": []}
        for _ in range(3):
            for way, settings in (("single", None), ("tars", OutputSettings(photographs_per_tar=options.tar))):
                with TemporaryDirectory() as place:
                    folder = Path(place) if settings is None else TarFolder(Path(place), settings)
                    turns[way].append(measured(folder, Path(place), size, names))
        found = {way: {key: median(turn[key] for turn in each) for key in each[0]} for way, each in turns.items()}
        ratios = {key: found["tars"][key] / found["single"][key] for key in found["single"]}
        answer[kind] = {**found, "tars to single": ratios}
    print(json.dumps(answer, indent=2))


if __name__ == "__main__":
    main()
