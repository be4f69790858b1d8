"""Two openly licensed images through the method, as a picture: image, CAMs, allocation, mask.

python experiments/photos.py NETWORK OUT.jpg

NETWORK is train/network.safetensors of a run whose classes include cat and person. The images are part of
scikit-image (`pip install scikit-image`): a cat by Stefan van der Walt (CC0), and an astronaut by NASA (public domain).
Needs matplotlib, too.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import skimage.data
import torch
from matplotlib.colors import ListedColormap
from torch.nn import functional as F

from tag2mask.cams.inference import image_maps, resize_long_side
from tag2mask.networks import load_network
from tag2mask.pot import PotSettings
from tag2mask.refine.masks import ClassMaps, refined_mask
from tag2mask.refine.settings import RefineSettings

IMAGES = {"cat": skimage.data.cat, "person": skimage.data.astronaut}
_SHADES = ListedColormap(["#08306b", "#4292c6", "#9ecae1", "#7f0000", "#ef6548", "#fdbb84"])
"""Of three clusters of background, and of three of the class."""


@torch.no_grad()
def main() -> None:
    network = load_network(Path(sys.argv[1])).eval()
    figure, rows = plt.subplots(2, 5, figsize=(10, 3.9), height_ratios=(0.72, 1))
    for axes, (name, read) in zip(rows, IMAGES.items(), strict=True):
        pixels = torch.from_numpy(read().copy()).permute(2, 0, 1)[None].float() / 255
        pixels = resize_long_side(pixels, 384)
        size = tuple(pixels.shape[2:])
        image = (255 * pixels[0].permute(1, 2, 0)).round().byte()
        tags = torch.tensor([[each == name for each in network.classes]])
        maps = image_maps(network, pixels, tags, scales=[1.0, 0.5, 1.5, 2.0], flip=True)
        result = maps.transport(PotSettings())
        cams = ClassMaps(result.slots.ids[0].to(torch.uint8), result.maps[0])
        mask = refined_mask(image, cams, size, RefineSettings(method="crf"))
        cut_out = np.where(mask.numpy()[:, :, None] > 0, image.numpy(), 255)

        def enlarged(grid: torch.Tensor, size: tuple[int, ...] = size) -> np.ndarray:
            return F.interpolate(grid[None, None].float(), size=size, mode="bilinear")[0, 0].numpy()

        heat = {"cmap": "magma", "vmin": 0, "vmax": 1}
        panels = [
            (f"image with the tag {name}", image.numpy(), {}),
            ("classifier CAM", enlarged(result.slots.base[0, 1].view(result.maps.shape[2:])), heat),
            ("plan: cells to prototypes", result.allocation[0].numpy(), {"cmap": _SHADES, "vmin": 0, "vmax": 5}),
            ("POT CAM", enlarged(result.maps[0, 1]), heat),
            ("mask, after the CRF", cut_out, {}),
        ]
        for axis, (title, picture, options) in zip(axes, panels, strict=True):
            axis.imshow(picture, extent=(0, size[1], size[0], 0), interpolation="nearest", **options)
            axis.set_title(title, fontsize=9)
            axis.axis("off")
    figure.tight_layout(pad=0.3)
    figure.savefig(sys.argv[2], dpi=130, pil_kwargs={"quality": 85})


if __name__ == "__main__":
    main()
