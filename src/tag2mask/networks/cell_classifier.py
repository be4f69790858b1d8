"""The classifier of a network with a frozen backbone, which gives each cell a probability of each class."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NEIGHBOURS = 3
"""The cells of known background that a cell is compared with, the nearest ones; ours."""


class CellClassifier(nn.Module):
    """A linear classifier of cells, trained on tags by log-sum-exp over the cells. Source: ours.

    Background has the logit 0, so that the sigmoid of a class's logit is its probability against background.

    Attributes:
        mean: (D,), subtracted from the features.
        scale: (D,), by which they are multiplied then.
        weight: (C, D).
        bias: (C,).
        background: float16 (B, D), cells of images without tags, of `local_means`; B may be 0.
    """

    mean: Tensor
    scale: Tensor
    background: Tensor

    def __init__(self, channels: int, classes: int, background: int = 0) -> None:
        super().__init__()
        self.register_buffer("background", torch.zeros(background, channels, dtype=torch.float16))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.weight = nn.Parameter(torch.zeros(classes, channels))
        self.bias = nn.Parameter(torch.zeros(classes))

    def standardised(self, features: Tensor) -> Tensor:
        """Features (…, D) with mean 0 and deviation 1 over the training images."""
        return (features - self.mean) * self.scale

    def forward(self, features: Tensor) -> Tensor:
        """The logits of cells, (…, D) to (…, C)."""
        return F.linear(self.standardised(features), self.weight, self.bias)

    def maps(self, features: Tensor) -> Tensor:
        """The logits of features (N, D, h, w) as maps (N, C, h, w)."""
        logits: Tensor = self(features.movedim(1, 3))
        return logits.movedim(3, 1)

    @torch.no_grad()
    def novelty(self, features: Tensor) -> Tensor:
        """How far the cells are from those of images without tags: 1 − the mean cosine to the `NEIGHBOURS` nearest.

        Args:
            features: (N, D, h, w), unit length over channels.

        Returns:
            (N, h, w) in [0, 1], float32.
        Source: the distance to nominal features of PatchCore, on the joint feature.
        """
        near = []
        for cells in local_means(features).flatten(2).mT:  # (n, D), image by image, for the memory
            cosine = cells @ self.background.float().T
            near.append(cosine.topk(min(NEIGHBOURS, cosine.shape[1]), dim=1).values.mean(1))
        return (1 - torch.stack(near).view(len(features), *features.shape[2:])).clamp(0, 1)


def local_means(features: Tensor) -> Tensor:
    """The mean of 3 × 3 cells of (N, D, h, w), float32, unit length over channels."""
    return F.normalize(F.avg_pool2d(features.float(), 3, 1, 1, count_include_pad=False), dim=1)


def image_logits(cells: Tensor, inside: Tensor | None = None) -> Tensor:
    """The logarithm of the mean of exp(logit) over the cells of an image: a class needs a few cells, not most of them.

    Args:
        cells: (N, n, C).
        inside: (N, n) bool, False = padding; None = all inside.

    Returns:
        (N, C).
    Source: log-sum-exp pooling, as usual for weak labels.
    """
    if inside is None:
        inside = cells.new_ones(cells.shape[:2], dtype=torch.bool)
    return (
        cells.masked_fill(~inside[:, :, None], -torch.inf).logsumexp(1)
        - inside.sum(1, keepdim=True).to(cells.dtype).log()
    )
