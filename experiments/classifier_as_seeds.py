"""A run's classifier CAMs as CLIP-ES files, to test imported base CAMs without CLIP.

python experiments/classifier_as_seeds.py RUN OUT        # reads RUN/cams/classifier, writes OUT/ID.npy
"""

import argparse
from pathlib import Path

import numpy as np

from tag2mask.cams.clip.npy_files import NpyCams, write_npy_cams
from tag2mask.data.cam_files import full_resolution, read_cam


def convert(source: Path, target: Path) -> int:
    """Write a file for each CAM file below ``source``, at full size; the number of files."""
    paths = sorted(source.rglob("*.npz"))
    for path in paths:
        cam = read_cam(path)
        full = full_resolution(cam).astype(np.float16)
        name = path.relative_to(source).with_suffix(".npy")
        write_npy_cams(target / name, NpyCams(cam.ids.astype(np.int64) - 1, full))
    return len(paths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder with CAMs of the kind `classifier`")
    parser.add_argument("out", type=Path, help="the output folder")
    options = parser.parse_args()
    if not (made := convert(options.run / "cams/classifier", options.out)):
        raise SystemExit(f"{options.run}/cams/classifier has no CAM file; `tag2mask cams` makes them")
    print(f"{made} files in {options.out}")


if __name__ == "__main__":
    main()
