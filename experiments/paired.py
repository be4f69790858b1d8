"""mIoU of folders of masks or CAM files, and their paired differences from the first, with 95 % intervals over images.

python experiments/paired.py FOLDER FOLDER… --data.root ROOT --data.tags TAGS --split train [--classes cat,dog]
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from error_bars import Counts, counts_of, estimate, paired
from maps import open_split
from tag2mask.data.cam_files import full_resolution, read_cam
from tag2mask.data.dataset import ImageItem
from tag2mask.data.images import read_mask


def labels_of(folder: Path, item: ImageItem) -> npt.NDArray[np.uint8]:
    """The labels of an image: its mask, or the strongest of its CAMs, which have a background."""
    if (mask := folder / f"{item.id}.png").is_file():
        return np.asarray(read_mask(mask))
    cam = read_cam(folder / f"{item.id}.npz")
    if not cam.has_background:
        raise SystemExit(f"{folder}: CAMs without a background have no labels; take another kind")
    labels: npt.NDArray[np.uint8] = cam.ids.astype(np.uint8)[full_resolution(cam).argmax(0)]
    return labels


def counts_of_folder(folder: Path, items: list[ImageItem], classes: int) -> Counts:
    """The counts of each image."""
    counts = []
    for item in items:
        if item.truth is None:
            raise SystemExit(f"{item.id} has no ground truth")
        counts.append(counts_of(labels_of(folder, item), np.asarray(read_mask(item.truth)), classes))
    return np.stack(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="masks ID.png, or CAM files ID.npz")
    parser.add_argument("--data.root", dest="root", type=Path, required=True)
    parser.add_argument("--data.tags", dest="tags", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--classes", help="names with commas; all by default")
    options = parser.parse_args()
    images, items = open_split(options.root, options.tags, options.split)
    names = options.classes.split(",") if options.classes else images.classes
    ids = [0, *(images.classes.index(name) + 1 for name in names)]
    counts = [[counts_of_folder(folder, items, len(images.classes))] for folder in options.folders]
    print("| folder | mIoU | minus the first |\n|---|---|---|")
    for folder, own in zip(options.folders, counts, strict=True):
        print(f"| {folder} | {estimate(own, ids)} | {paired(own, counts[0], ids)} |")


if __name__ == "__main__":
    main()
