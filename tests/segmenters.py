"""Tiny segmentation networks with the interface that prediction needs, for tests."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.networks.backbones.base import Backbone, Stage, to_grid


class TinyBackbone(Backbone):
    """One convolution, as wide as its stride or wider."""

    default_levels = (0,)

    def __init__(self, stride: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.stages = (Stage("only", channels, stride),)
        self.conv = nn.Conv2d(3, channels, kernel, stride=stride, padding=(kernel - 1) // 2 if kernel > stride else 0)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.conv(images).tanh()]

    def architecture(self) -> dict[str, Any]:
        return {"kind": "tiny"}


class TinySegmenter(nn.Module):
    """Local where ``kernel`` is 1; keeps the shapes of what it was given."""

    def __init__(self, classes: int = 2, *, stride: int = 4, channels: int = 8, kernel: int = 7, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.backbone = TinyBackbone(stride, channels, kernel)
            self.head = nn.Conv2d(channels, classes + 1, 1)
            nn.init.normal_(self.head.weight, std=3.0)
        self.stride, self.upsampling, self.intensity = stride, "cells", None
        self.classes = tuple(f"class{number}" for number in range(1, classes + 1))
        self.seen: list[tuple[int, ...]] = []
        mean, std = torch.tensor(self.backbone.mean), torch.tensor(self.backbone.std)
        self.register_buffer("pixel_mean", mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", std.view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        self.seen.append(tuple(images.shape))
        logits: Tensor = self.head(self.backbone((images - self.pixel_mean) / self.pixel_std)[-1])
        return logits.float()

    def full_logits(self, images: Tensor) -> Tensor:
        size = (int(images.shape[2]), int(images.shape[3]))
        if self.upsampling == "cells":
            return to_grid(self(images), self.stride, 1, size)
        corners = self.upsampling == "corners"
        return F.interpolate(self(images), size=size, mode="bilinear", align_corners=corners)


def filled_side(network: TinySegmenter, side: int) -> int:
    """The side of an image with its padding."""
    more = int(network.upsampling == "corners")
    return side if network.upsampling == "stretched" else -(-(side - more) // network.stride) * network.stride + more


def by_brightness() -> TinySegmenter:
    """Says class 1 where a pixel is bright and background where it is dark; knows two classes."""
    network = TinySegmenter(stride=1, channels=1, kernel=1)
    with torch.no_grad():
        network.backbone.conv.weight.fill_(1.0)
        network.backbone.conv.bias.zero_()
        network.head.weight.copy_(torch.tensor([-4.0, 4.0, 0.0]).view(3, 1, 1, 1))
        network.head.bias.copy_(torch.tensor([0.0, 0.0, -9.0]))
    return network


def obvious_mean_logits(network: TinySegmenter, image: Tensor, scales: list[float], flip: bool) -> Tensor:
    """The published test one forward pass after the other: (C + 1, H, W) of (1, 3, H, W) in [0, 1]."""
    size = image.shape[2:]
    total, count = torch.zeros(1), 0
    for scale in scales:
        scaled = [max(1, round(side * scale)) for side in size]
        resized = F.interpolate(image, size=scaled, mode="bicubic", antialias=True).clamp(0, 1)
        more = int(network.upsampling == "corners")
        whole = network.pixel_mean.expand(1, 3, *(filled_side(network, side) for side in scaled)).clone()
        whole[..., : scaled[0], : scaled[1]] = resized
        # Where pixels of the image lie in the filled image: -1 and 1 are its edges, or its outer pixels' middles.
        lines = [
            2 * ((torch.arange(side, dtype=torch.float64) + 0.5) / side * part - more / 2) / max(1, full - more) - 1
            for side, part, full in zip(size, scaled, whole.shape[2:], strict=True)
        ]
        rows, columns = torch.meshgrid(*lines, indexing="ij")
        places = torch.stack([columns, rows], -1)[None].float()
        for mirrored in (False, True)[: 1 + flip]:
            with torch.no_grad():
                logits = network(whole.flip(3) if mirrored else whole)
            logits = logits.flip(3) if mirrored else logits
            total = total + F.grid_sample(logits, places, padding_mode="border", align_corners=bool(more))
            count += 1
    return (total / count)[0]
