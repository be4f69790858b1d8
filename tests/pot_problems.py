"""Small random batches for POT: features with class structure, class activations and tags."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tag2mask.pot import normalised_cams


@dataclass(frozen=True)
class Problem:
    """One batch: features (N, D, h, w), base CAMs (N, C, h, w), tags (N, C), valid (N, h, w)."""

    features: Tensor
    cams: Tensor
    tags: Tensor
    valid: Tensor

    def images(self, index: Tensor | slice) -> "Problem":
        """Some of the images."""
        return Problem(self.features[index], self.cams[index], self.tags[index], self.valid[index])


def random_problem(
    seed: int = 0,
    tag_counts: tuple[int, ...] = (1, 3, 0, 2),
    *,
    classes: int = 5,
    grid: tuple[int, int] = (8, 9),
    channels: int = 12,
    ragged: bool = True,
) -> Problem:
    """One image for each entry of ``tag_counts``; with ``ragged``, every second one has invalid rows and columns.

    Each tag owns a blob of the grid and two directions of feature space, one for each half of the blob; background
    owns two directions as well. Noise keeps clusters from being trivial.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    images, (height, width) = len(tag_counts), grid
    rows, columns = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    directions = 2 * normal(classes + 1, 2, channels)
    halves = (columns > 0.5).long()
    tags = torch.zeros(images, classes, dtype=torch.bool)
    activations = 0.3 * normal(images, classes, height, width)
    features = directions[0, halves].permute(2, 0, 1).repeat(images, 1, 1, 1)  # (N, D, h, w)
    for image, count in enumerate(tag_counts):
        for tag in torch.randperm(classes, generator=generator)[:count].tolist():
            tags[image, tag] = True
            y, x = (0.15 + 0.6 * torch.rand(2, generator=generator)).tolist()
            distance = (rows - y) ** 2 + (columns - x) ** 2
            activations[image, tag] += 3 * torch.exp(-distance / 0.03)
            features[image] = torch.where(
                distance < 0.06, directions[tag + 1, (columns > x).long()].permute(2, 0, 1), features[image]
            )
    features = features + 0.8 * normal(*features.shape)
    valid = torch.ones(images, height, width, dtype=torch.bool)
    if ragged:
        valid[1::2, -2:] = False
        valid[1::2, :, -1:] = False
    return Problem(features, normalised_cams(activations, valid), tags, valid)
