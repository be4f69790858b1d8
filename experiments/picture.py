"""One image of a run through the method, step by step, or the masks of several, as a picture.

python experiments/picture.py RUN OUT.png [--id ID]
python experiments/picture.py RUN OUT.png --masks ID ID …

Needs matplotlib, which `pip install -e ".[bench]"` brings.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import yaml
from matplotlib.colors import ListedColormap

from tag2mask.cams.inference import image_maps, resize_long_side
from tag2mask.data.cam_files import full_resolution, read_cam
from tag2mask.data.dataset import ImageSet, open_images
from tag2mask.data.images import read_image, read_mask
from tag2mask.data.settings import DataSettings
from tag2mask.networks.checkpoint import load_network
from tag2mask.pot import PotSettings
from tag2mask.pot.partition import present_slots
from tag2mask.pot.smoothing import self_affinity

_BLUES, _REDS = ("#08306b", "#4292c6", "#9ecae1"), ("#7f0000", "#ef6548", "#fdbb84")
_GREENS = ("#00441b", "#41ab5d", "#a1d99b")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--id", help="of the image; by default the first with two tags")
    parser.add_argument("--masks", nargs="+", metavar="ID", help="a row per image: image, POT CAM, mask, truth")
    known = parser.parse_args()
    config = yaml.safe_load((known.run / "config.yaml").read_text())
    images = open_images(DataSettings(**{name: value for name, value in config["data"].items() if value is not None}))
    if known.masks:
        return draw_masks(known.run, images, known.masks, known.out)
    item = images.by_id(known.id) if known.id else next(item for item in images.items if len(item.tags) == 2)
    settings = PotSettings(**config["pot"])
    if not 1 <= len(item.tags) <= 2:
        raise SystemExit(f"{item.id} has {len(item.tags)} tags; the picture supports one or two")
    image = torch.from_numpy(read_image(item.path)).permute(2, 0, 1)[None].float() / 255
    image = resize_long_side(image, config["cams"]["long_side"])
    network = load_network(known.run / "train/network.safetensors")
    tags = torch.from_numpy(images.tag_matrix([item]))
    maps = image_maps(network, image, tags, scales=config["cams"]["scales"], flip=config["cams"]["flip"])
    result = maps.transport(settings)
    grid = result.maps.shape[2:]
    slots, clusters = result.partition.seeds.shape[1], settings.num_prototypes
    colours = ListedColormap([shade for family in (_BLUES, _REDS, _GREENS) for shade in family[:clusters]])

    def number_of(columns: torch.Tensor) -> np.ndarray:
        return np.where(columns < 0, np.nan, columns.float().numpy()).reshape(grid)

    points = torch.nn.functional.normalize(maps.features, dim=1).flatten(2).transpose(1, 2)
    if settings.affinity is not None:
        raw = present_slots(maps.cams, tags, result.slots.valid.view(1, *grid))
        points, _ = self_affinity(points, raw, grid, settings.affinity, settings.affinity_radius)
    closeness = (points[0] @ result.partition.prototypes[0].flatten(0, 1).T).view(-1, slots, clusters)
    nearest = closeness.masked_fill(result.partition.similarity[0] == 0, -torch.inf).argmax(2)  # (n, S)
    seeds = torch.full((len(points[0]),), -1)
    for slot in range(slots):
        chosen = result.partition.seeds[0, slot]
        seeds[chosen] = slot * clusters + nearest[chosen, slot]
    single = maps.prototype_cams(settings).maps[0].flatten(1).argmax(0)
    won = single * clusters + nearest.gather(1, single[:, None])[:, 0]
    truth = read_mask(item.truth) if item.truth else np.zeros(image.shape[2:], dtype=np.uint8)
    size = image.shape[2:]
    full = torch.nn.functional.interpolate(result.maps, size=size, mode="bilinear", align_corners=False)[0].argmax(0)
    ids = result.slots.ids[0]
    name = images.classes[item.tags[0] - 1]
    panels = [
        ("image", image[0].permute(1, 2, 0).numpy(), {}),
        (f"I  base CAM: {name}", result.slots.base[0, 1].view(grid).numpy(), {"cmap": "magma", "vmin": 0, "vmax": 1}),
        ("I  partition: seeds by cluster", number_of(seeds), {"cmap": colours}),
        ("II  area won (columns)", number_of(won), {"cmap": colours}),
        ("II  plan: allocation", number_of(result.allocation[0].flatten()), {"cmap": colours}),
        (f"III  plan's share: {name}", result.posterior[0, 1].numpy(), {"cmap": "magma", "vmin": 0, "vmax": 1}),
        (f"III  POT CAM: {name}", result.maps[0, 1].numpy(), {"cmap": "magma", "vmin": 0, "vmax": 1}),
        ("mask", ids[full].numpy(), {"cmap": "tab10", "vmax": 9}),
        ("truth", np.where(truth == 255, 0, truth), {"cmap": "tab10", "vmax": 9}),
    ]
    figure, axes = plt.subplots(1, len(panels), figsize=(2 * len(panels), 2.3))
    for axis, (title, picture, options) in zip(axes, panels, strict=True):
        if options.get("cmap") is colours:
            options = options | {"vmin": -0.5, "vmax": colours.N - 0.5}
        axis.imshow(picture, interpolation="nearest", **({"vmin": 0} | options if options else {}))
        axis.set_title(title, fontsize=8)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(known.out, dpi=110)


def draw_masks(run: Path, images: ImageSet, ids: list[str], out: Path) -> None:
    """A column per image, whose tag is the title: the image, its POT CAM, its mask and its ground truth."""
    figure, axes = plt.subplots(4, len(ids), figsize=(1.8 * len(ids), 7.2), squeeze=False)
    for column, item in zip(axes.T, map(images.by_id, ids), strict=True):
        cam, (tag,) = read_cam(run / f"cams/pot/{item.id}.npz"), item.tags
        heat = full_resolution(cam)[cam.ids.tolist().index(tag)]
        rows = {"image": read_image(item.path), "POT CAM": heat, "mask": read_mask(run / f"masks/{item.id}.png")}
        rows["truth"] = images.read_truth(item)
        for axis, (name, picture) in zip(column, rows.items(), strict=True):
            binary = name in ("mask", "truth")
            axis.imshow(picture == tag if binary else picture, cmap="gray" if binary else "magma", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[], ylabel=name if axis in axes[:, 0] else "")
        column[0].set_title(images.classes[tag - 1])
    figure.tight_layout(pad=0.3)
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    main()
