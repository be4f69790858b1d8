"""Memory and time of each command whose work grows with the images, on few and on many images. Prints JSON.

python benchmarks/scale.py --sizes 1000 10000

Each command runs in its own process on generated tables of images of 32 × 32 pixels with tags and ground-truth masks.
Images this small mainly show the cost that grows with the length of the table. Images and masks are hard links to a few
dozen files. `cams` and `predict` use an untrained ResNet-18 at one scale, `refine` the dense CRF. Per command and size,
the output has the peak of resident memory (as the kernel counts it) and the seconds per image, without the start of the
command, which a run on 100 images measures. Seconds are rough: one run of each.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from measure import hardware
from tag2mask.data import write_mask
from tag2mask.networks import NetworkSettings, build_network
from tag2mask.networks.checkpoint import save_network
from tag2mask.networks.segmentation import build_segmentation_network
from tag2mask.networks.settings import SegmentationNetworkSettings
from tag2mask.runs.run_folder import TRAIN_NETWORK

SIDE = 32  # below that, `check` has a warning for every image
FILES = 32
FOLDER = 1000  # images in one folder; a file system slows down before a table does
FEW = 100
CLASSES = ("cat", "cow", "dog", "owl")


def write_data(folder: Path, images: int) -> None:
    """Write a table of images, their ground truth, and masks to evaluate."""
    rng = np.random.default_rng(0)
    sources = folder / "sources"
    sources.mkdir(parents=True)
    for number in range(FILES):
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(sources / f"{number}.jpg")
        write_mask(sources / f"{number}.png", rng.integers(0, len(CLASSES) + 1, (SIDE, SIDE), dtype=np.uint8))
    lines = ["image,tags"]
    for index in range(images):
        name, number = f"{index // FOLDER:04}/image_{index:08}", index % FILES
        targets = (folder / f"data/{name}.jpg", folder / f"truth/{name}.png")
        if index % FOLDER == 0:
            for target in targets:
                target.parent.mkdir(parents=True)
        for target in targets:
            target.hardlink_to(sources / f"{number}{target.suffix}")
        lines.append(f"{name}.jpg,{CLASSES[index % 4]};{CLASSES[(index + 1 + index // 4 % 3) % 4]}")
    (folder / "data/tags.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    network = build_network(NetworkSettings(backbone="resnet18", weights="none"), CLASSES, seed=0)
    save_network(folder / "run" / TRAIN_NETWORK, network)
    settings = SegmentationNetworkSettings(backbone="resnet18", weights="none")
    save_network(folder / "segment.safetensors", build_segmentation_network(settings, CLASSES, seed=0))


LAUNCHER = """
import json, os, subprocess, sys
done = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(done.pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss / 1024]))
"""
# The peak of a command includes the memory of the process that starts it, so this process should be small.


def measured(words: list[str]) -> tuple[float, float]:
    """Peak memory in MB and seconds of a command."""
    start = time.perf_counter()
    launched = [sys.executable, "-c", LAUNCHER, sys.executable, "-m", "tag2mask", *words]
    done = subprocess.run(launched, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    code, peak = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr}")
    return peak, seconds


def command(verb: str, folder: Path) -> list[str]:
    """The words of a command on the data in ``folder``."""
    images = str(folder / "data")
    data = ["--data.root", images, "--data.masks", str(folder / "truth"), "--workers", "1"]
    run = [str(folder / "run"), *data, "--device", "cpu"]
    return {
        "check": ["check", images, *data[2:]],
        "cams": ["cams", *run, "--cams.kinds", "[pot]", "--cams.scales", "[1.0]", "--cams.long_side", "null"],
        "refine": ["refine", *run, "--refine.method", "crf"],
        "evaluate": ["evaluate", *run],
        "predict": ["predict", str(folder / "segment.safetensors"), images, "--out", str(folder / "predicted")],
    }[verb]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verbs", nargs="+", default=["check", "cams", "refine", "evaluate", "predict"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--folder", type=Path, help="parent of the temporary data; by default the system's")
    options = parser.parse_args()
    found: dict[str, dict[str, object]] = {verb: {} for verb in options.verbs}
    starts: dict[str, float] = {}
    peaks: dict[str, list[float]] = {verb: [] for verb in options.verbs}
    for size in (FEW, *options.sizes):
        with TemporaryDirectory(dir=options.folder) as temporary:
            folder = Path(temporary) / "data set"
            write_data(folder, size)
            for verb in options.verbs:
                peak, seconds = measured(command(verb, folder))
                if size == FEW:
                    starts[verb] = seconds
                    continue
                peaks[verb].append(peak)
                per_image = max(0.0, seconds - starts[verb]) / size
                found[verb][str(size)] = {"peak, MB": round(peak, 1), "seconds per image": round(per_image, 6)}
    for verb, values in peaks.items():
        grown = (values[-1] - values[0]) / max(1, options.sizes[-1] - options.sizes[0])
        found[verb] |= {"ratio of peaks": round(values[-1] / values[0], 3), "bytes per image": round(grown * 2**20)}
    print(json.dumps({"hardware": hardware(), "side": SIDE, **found}, indent=2))


if __name__ == "__main__":
    main()
