"""The mIoU of POT CAMs and of CRF masks against the cost of sets of scales and mirror images.

python experiments/scales.py RUN [--split train] [--every 1] [--crf] [--sets "1, 0.5, 2" …]

The cost of a set is its pixels through the network, relative to the image at scale 1. RUN has a trained network and
ground truth. Every second image chooses, the others report.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from error_bars import Counts, counts_of, estimate, paired
from maps import open_run
from tag2mask.cams.inference import ImageMaps, resize, resize_long_side
from tag2mask.core.device import channels_last
from tag2mask.data.cam_files import CamFile, full_resolution
from tag2mask.networks import PotNetwork
from tag2mask.networks.checkpoint import load_network
from tag2mask.pot import normalised_cams
from tag2mask.refine.masks import ClassMaps, refined_mask
from tag2mask.refine.settings import RefineSettings
from tag2mask.runs.batches import read_batches, sized_batches
from tag2mask.runs.config import Config
from tag2mask.runs.ground_truth import class_ids
from tag2mask.runs.progress import StageResult

View = tuple[float, bool]
"""A scale, and whether the image is mirrored."""

PUBLISHED = tuple((scale, mirrored) for scale in (1.0, 0.5, 1.5, 2.0) for mirrored in (False, True))

SETS: dict[str, tuple[View, ...]] = {"1, ½, 1½, 2, both (published)": PUBLISHED} | {
    f"{', '.join(f'{scale:g}' for scale in scales)}{', both' if both else ''}": tuple(
        (scale, mirrored) for scale in scales for mirrored in ((False, True) if both else (False,))
    )
    for scales in (
        (1.0,),
        (1.5,),
        (2.0,),
        (1.0, 0.5),
        (1.0, 1.5),
        (0.5, 1.5),
        (1.0, 0.5, 1.5),
        (1.0, 0.5, 2.0),
        (0.5, 2.0),
        (1.0, 2.0),
        (1.0, 0.5, 0.7071, 1.4142),
        (1.0, 0.5, 1.5, 2.0),
    )
    for both in (False, True)
    if not (both and len(scales) == 4 and scales[2] == 1.5)
}
SETS |= {
    "1, ½ m, 1½, 2 m": ((1.0, False), (0.5, True), (1.5, False), (2.0, True)),
    "1, ½ m, 1½ m": ((1.0, False), (0.5, True), (1.5, True)),
    "1, 1 m, ½ m, 1½": ((1.0, False), (1.0, True), (0.5, True), (1.5, False)),
    "1, 1 m, ½, ½ m, 1½": ((1.0, False), (1.0, True), (0.5, False), (0.5, True), (1.5, False)),
    "1, ½ m, 2 m": ((1.0, False), (0.5, True), (2.0, True)),
}


def cost(views: Sequence[View]) -> float:
    """Pixels through the network, relative to scale 1."""
    return sum(scale**2 for scale, _ in views)


@torch.no_grad()
def maps_of(network: PotNetwork, image: Tensor, view: View, grid: list[int]) -> tuple[Tensor, Tensor]:
    """The raw CAMs and the joint features of one view of an image (1, 3, H, W), on the common grid."""
    scale, mirrored = view
    scaled = resize(image, scale)
    output = network(scaled.flip(3) if mirrored else scaled)
    found = []
    for maps in (output.cams.relu(), output.features):
        own = F.interpolate(maps, size=grid, mode="bilinear", antialias=True) if list(maps.shape[2:]) != grid else maps
        found.append(own.flip(3) if mirrored else own)
    return found[0], found[1]


def measure(
    run: Path, split: str | None, every: int, crf: bool, kinds: Sequence[str], sets: dict[str, tuple[View, ...]]
) -> None:
    """Print the table."""
    needed = sorted({view for views in sets.values() for view in views})
    config, images = open_run(run, split)
    items = images.items.filter(lambda item: item.truth is not None)
    items = images.of(items[::every]).items
    network = channels_last(load_network(run / "train/network.safetensors", classes=images.classes)).eval()
    counts: dict[tuple[str, str], list[Counts]] = defaultdict(list)
    refine = RefineSettings()
    result = StageResult("scales")
    done = 0
    for batch, pixels in read_batches(
        sized_batches(items, config, result).unfinished(lambda item: True)[0], config, result
    ):
        for number, item in enumerate(batch):
            image = resize_long_side(pixels[number : number + 1], config.cams.long_side)
            tags = torch.from_numpy(images.tag_matrix([item]))
            grid = [-(-side // network.stride) for side in image.shape[2:]]
            views = {view: maps_of(network, image, view, grid) for view in needed}
            truth = images.read_truth(item)
            for name, own in sets.items():
                cams = torch.stack([views[view][0] for view in own]).sum(0)
                features = torch.stack([views[view][1] for view in own]).sum(0)
                maps = ImageMaps(normalised_cams(cams), F.normalize(features, dim=1), tags, torch.zeros(tags.shape))
                for kind in kinds:
                    found = maps.transport(config.pot) if kind == "pot" else maps.prototype_cams(config.pot)
                    ids = np.array((0, *item.tags), dtype=np.int32)
                    cam = CamFile(ids, found.cams[0][ids.tolist()].numpy(), truth.shape)
                    full = torch.from_numpy(full_resolution(cam))
                    label = ids.astype(np.uint8)[full.argmax(0).numpy()]
                    counts[name, kind].append(counts_of(label, truth, len(images.classes)))
                    if crf and kind == "pot":
                        rgb = (pixels[number].permute(1, 2, 0) * 255).round().byte()
                        own_maps = ClassMaps(torch.from_numpy(ids).byte(), torch.from_numpy(cam.cams).float())
                        mask = refined_mask(rgb, own_maps, truth.shape, refine).numpy()
                        counts[name, "crf"].append(counts_of(mask, truth, len(images.classes)))
            done += 1
            if done % 50 == 0:
                print(done, flush=True)
    table(counts, config, images.classes)


def table(counts: dict[tuple[str, str], list[Counts]], config: Config, classes: Sequence[str]) -> None:
    """Print figures and differences to the published set, on all images and on each half."""
    ids = class_ids(config.evaluate.class_names(), classes) or range(len(classes) + 1)
    published = next(iter(SETS))
    print("| set | cost | kind | mIoU | minus published | even images | odd images |\n|---|---|---|---|---|---|---|")
    for (name, kind), rows in sorted(counts.items(), key=lambda pair: cost(SETS[pair[0][0]])):
        own, base = np.stack(rows), np.stack(counts[published, kind])
        halves = " | ".join(str(paired([own[k::2]], [base[k::2]], ids)) for k in (0, 1))
        figures = f"{estimate([own], ids)} | {paired([own], [base], ids)} | {halves}"
        print(f"| {name} | {cost(SETS[name]):.2f} | {kind} | {figures} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--crf", action="store_true")
    parser.add_argument("--kinds", default="pot")
    parser.add_argument(
        "--sets", nargs="*", default=[*SETS], choices=[*SETS], metavar="SET", help="of the table, besides published"
    )
    known = parser.parse_args()
    sets = {name: SETS[name] for name in (next(iter(SETS)), *known.sets)}
    measure(known.run, known.split, known.every, known.crf, known.kinds.split(","), sets)


if __name__ == "__main__":
    main()
