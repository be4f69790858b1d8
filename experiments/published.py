"""What constants of POT's release that `voc-paper` leaves out are worth, on one trained network: mIoU of POT CAMs.

python experiments/published.py RUN --data.root ROOT --data.tags TAGS [--split train] [--scales 1 0.5 1.5 2]

RUN is trained with the settings of `voc-paper` for `pot` and `external`, and has base CAMs of the split. Each row
changes one thing of the first; differences are paired over images.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from error_bars import Counts, counts_of, estimate, paired
from maps import open_split
from tag2mask.cams.inference import ImageMaps, image_maps
from tag2mask.core.device import channels_last
from tag2mask.data.dataset import ImageItem
from tag2mask.data.images import read_image, read_mask
from tag2mask.networks.checkpoint import load_network
from tag2mask.networks.pot_network import PotNetwork
from tag2mask.ot import kmeans
from tag2mask.pot import PotSettings, partition
from tag2mask.pot.external import BACKGROUND_BIAS, ExternalSettings
from tag2mask.runs.base_cams import read_external_maps
from tag2mask.runs.run_folder import RunFolder

PAPER = PotSettings().paper()
USE = ExternalSettings(suppression=0.5, consistency_pair="pot-target")

Maps = Tensor
"""(C + 1, h, w), background first."""


@contextmanager
def random_rows() -> Iterator[None]:
    """k-means from random rows, for as many rounds as it takes."""

    def seeded(points: Tensor, masks: Tensor, clusters: int, generator: object) -> tuple[Tensor, Tensor]:
        draws = torch.rand(masks.shape, generator=torch.Generator().manual_seed(0)).masked_fill(~masks, -1)
        found, rows = draws.topk(clusters, dim=2)
        chosen = rows.flatten(1)[:, :, None].expand(-1, -1, points.shape[2])
        return points.gather(1, chosen).unflatten(1, (-1, clusters)), found >= 0

    def unlimited(*arguments: object, **options: object) -> object:
        return original(*arguments, **(options | {"iterations": 1000}))  # type: ignore[arg-type]

    original = partition.spherical_kmeans
    with patch.object(kmeans, "_seed", seeded), patch.object(partition, "spherical_kmeans", unlimited):
        yield


@contextmanager
def no_fallback() -> Iterator[None]:
    """Classes with fewer than two seeds stay empty."""

    def seeds_of(slots: partition.Slots, settings: PotSettings) -> Tensor:
        with patch.object(PotSettings, "min_seeds", 0):
            seeds = original(slots, settings)
        return seeds & (seeds.sum(2, keepdim=True) > 1)

    original = partition.confident_pixels
    with patch.object(partition, "confident_pixels", seeds_of):
        yield


def pot(maps: ImageMaps) -> Maps:
    return maps.transport(PAPER).cams[0]


def under(context: Callable[[], object]) -> Callable[[ImageMaps], Maps]:
    def found(maps: ImageMaps) -> Maps:
        with context():  # type: ignore[attr-defined]
            return pot(maps)

    return found


def unbiased(maps: ImageMaps) -> Maps:
    """The background as it is, not half of it and 0.2."""
    cams = pot(maps)
    return torch.cat([2 * (cams[:1] - BACKGROUND_BIAS), cams[1:]])


def fused(**changes: float) -> Callable[[ImageMaps], Maps]:
    return lambda maps: maps.with_external(maps.external, replace(USE, **changes)).fused(PAPER).cams[0]  # type: ignore[arg-type]


ROWS: dict[str, Callable[[ImageMaps], Maps]] = {
    "voc-paper": pot,
    "background over the tags": lambda maps: maps.transport(replace(PAPER, background="tags")).cams[0],
    "without 2 fg against bg + 0.4": unbiased,
    "`merge: features`": lambda maps: pot(replace(maps, apart=())),
    "k-means from random rows, unlimited rounds": under(random_rows),
    "classes with fewer than two seeds stay empty": under(no_fallback),
    "without suppression": lambda maps: pot(maps.with_external(maps.external, ExternalSettings())),  # type: ignore[arg-type]
    "fused CAM of voc-paper": fused(),
    "fused CAM with the constants of CAM time, 0 and 0.3": fused(background_subtraction=0.0, agreement=0.3),
}
"""A CAM for each change, from the maps of an image."""


def samples(
    network: PotNetwork, run: RunFolder, options: argparse.Namespace
) -> Iterator[tuple[ImageMaps, ImageItem, npt.NDArray[np.uint8]]]:
    """The maps of each image, and its ground truth."""
    images, chosen = open_split(options.root, options.tags, options.split)
    for item in chosen:
        pixels = torch.from_numpy(read_image(item.path)).permute(2, 0, 1)[None].float() / 255
        tags = torch.from_numpy(images.tag_matrix([item]))
        maps = image_maps(network, pixels, tags, scales=options.scales, flip=True, bf16=True, apart=True)
        external, _ = read_external_maps(run, [item], len(images.classes), (maps.cams.shape[2], maps.cams.shape[3]))
        if item.truth is None:
            raise SystemExit(f"{item.id} has no ground truth")
        yield maps.with_external(external, USE), item, np.asarray(read_mask(item.truth))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data.root", dest="root", type=Path, required=True)
    parser.add_argument("--data.tags", dest="tags", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 0.5, 1.5, 2.0])
    parser.add_argument("--classes", help="names with commas; all by default")
    options = parser.parse_args()
    network = channels_last(load_network(options.run / "train/network.safetensors")).eval()
    ids = [0, *range(1, len(network.classes) + 1)]
    if options.classes:
        ids = [0, *(network.classes.index(name) + 1 for name in options.classes.split(","))]
    counts: dict[str, list[Counts]] = {name: [] for name in ROWS}
    for own, item, truth in samples(network, RunFolder(options.run), options):
        chosen = torch.tensor([0, *item.tags])
        for name, cam in ROWS.items():
            maps = F.interpolate(cam(own)[chosen][None], size=truth.shape, mode="bilinear")[0]
            labels = chosen[maps.argmax(0)].numpy().astype(np.uint8)
            counts[name].append(counts_of(labels, truth, len(network.classes)))
    whole = {name: [np.stack(each)] for name, each in counts.items()}
    print("| CAM | mIoU | difference |\n|---|---|---|")
    for name, counted in whole.items():
        first = "fused CAM of voc-paper" if name.startswith("fused") else "voc-paper"
        difference = "" if name == first else paired(counted, whole[first], ids)
        print(f"| {name} | {estimate(counted, ids)} | {difference} |")


if __name__ == "__main__":
    main()
