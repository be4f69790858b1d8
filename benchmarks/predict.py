"""Prediction at six scales with mirror images, compared with twelve separate forward passes. Prints JSON.

python benchmarks/predict.py --backbone resnet50 --threads 2

Random weights, one image of 375 × 500 px. The separate passes implement the published test directly: for each scale and
direction, the image is resized and goes through the network, and its logits are enlarged to the image, mirrored back
and added; the maximum of the softmax and its class are taken at the end. Ours predicts an image and its mirror image
together, averages them on the network's grid, and enlarges once per scale. Both give the same logits, which is checked.
The difference is larger on a GPU and for small networks.
"""

import argparse
import json
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from measure import hardware, seconds
from tag2mask.cams.inference import resize
from tag2mask.networks import NetworkSettings, build_backbone
from tag2mask.prediction.multiscale import mean_logits, padded_side
from tag2mask.prediction.predictor import Predictor
from tag2mask.prediction.settings import PUBLISHED_SCALES, PredictSettings


class Linear(nn.Module):
    """A backbone and a 1×1 convolution."""

    def __init__(self, backbone: str, classes: int) -> None:
        super().__init__()
        self.backbone = build_backbone(NetworkSettings(backbone=backbone, weights="none"))
        last = self.backbone.stages[-1]
        self.head = nn.Conv2d(last.channels, classes + 1, 1)
        self.classes = tuple(f"class{number}" for number in range(1, classes + 1))
        self.stride, self.upsampling, self.intensity = last.stride, "cells", None
        self.register_buffer("pixel_mean", torch.tensor(self.backbone.mean).view(1, 3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(self.backbone.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        return self.head(self.backbone((images - self.pixel_mean) / self.pixel_std)[-1]).float()


@torch.no_grad()
def one_by_one(network: Linear, image: Tensor) -> Tensor:
    """The mean logits, (C + 1, H, W), of (1, 3, H, W)."""
    size = image.shape[2:]
    total: Tensor | float = 0.0
    for scale in PUBLISHED_SCALES:
        scaled = resize(image, scale)
        height, width = scaled.shape[2:]
        padded = network.pixel_mean.repeat(1, 1, padded_side(network, height), padded_side(network, width))
        padded[..., :height, :width] = scaled
        lines = [
            2 * ((torch.arange(side, device=image.device) + 0.5) / side * part) / whole - 1
            for side, part, whole in zip(size, (height, width), padded.shape[2:], strict=True)
        ]
        rows, columns = torch.meshgrid(*lines, indexing="ij")
        positions = torch.stack([columns, rows], -1)[None]
        for mirrored in (False, True):
            logits = network(padded.flip(3) if mirrored else padded)
            logits = logits.flip(3) if mirrored else logits
            total = total + F.grid_sample(logits, positions, padding_mode="border", align_corners=False)
    return (total / (2 * len(PUBLISHED_SCALES)))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--size", type=int, nargs=2, default=[375, 500])
    parser.add_argument("--threads", type=int, help="of torch; by default its own choice")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    settings = PredictSettings(scales=list(PUBLISHED_SCALES), flip=True)
    predictor = Predictor(Linear(options.backbone, options.classes), device.type, settings)
    network = predictor.network
    coarse = torch.rand(1, 3, 12, 16)
    image = (F.interpolate(coarse, size=options.size, mode="bicubic").clamp(0, 1)[0] * 255).byte().permute(1, 2, 0)

    def plainly() -> None:
        logits = one_by_one(network, image.to(device).permute(2, 0, 1)[None].float() / 255)
        highest, labels = logits.softmax(0).max(0)
        np.stack([labels.cpu().numpy(), highest.cpu().numpy()])

    expected = one_by_one(network, image.to(device).permute(2, 0, 1)[None].float() / 255)
    found = torch.empty_like(expected)
    for block in mean_logits(network, [image], settings, device):
        found[:, block.rows, block.columns] = block.logits
    difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1))
    if difference > 1e-4:
        raise SystemExit(f"the two differ by {difference}")
    times: dict[str, list[float]] = {"ours": [], "one by one": []}
    for _ in range(options.repeats):  # alternating
        times["ours"].append(seconds(lambda: predictor.prediction(image.numpy())))
        times["one by one"].append(seconds(plainly))
    ratios = [slow / fast for slow, fast in zip(times["one by one"], times["ours"], strict=True)]
    result = {
        "hardware": hardware(device.type),
        "backbone": options.backbone,
        "classes": options.classes,
        "size": options.size,
        "largest difference of logits": difference,
        **{f"{side}, seconds": round(median(values), 4) for side, values in times.items()},
        "one by one / ours": round(median(ratios), 2),
        "one by one / ours, from to": [round(min(ratios), 2), round(max(ratios), 2)],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
