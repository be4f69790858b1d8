"""SegFormer: its head, and its encoders by name. The encoder itself is that of `transformers`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tag2mask.networks.deeplab import Head
from tag2mask.networks.grids import to_grid
from tag2mask.networks.stages import Stage


def _encoder(depths: tuple[int, int, int, int], width: int, decoder: int) -> dict[str, Any]:
    """A configuration; the stages have ``width``, 2, 5 and 8 times as many channels, as all published ones do."""
    return {
        "model_type": "segformer",
        "depths": list(depths),
        "hidden_sizes": [width, 2 * width, 5 * width, 8 * width],
        "decoder_hidden_size": decoder,
    }


SEGFORMERS = {
    "segformer-b0": _encoder((2, 2, 2, 2), 32, 256),
    "segformer-b1": _encoder((2, 2, 2, 2), 64, 256),
    "segformer-b2": _encoder((3, 4, 6, 3), 64, 768),
    "segformer-b3": _encoder((3, 4, 18, 3), 64, 768),
    "segformer-b4": _encoder((3, 8, 27, 3), 64, 768),
    "segformer-b5": _encoder((3, 6, 40, 3), 64, 768),
}
"""Configurations by name, for random weights. Source: Xie et al., SegFormer, NeurIPS 2021, table 6."""


class SegformerHead(Head):
    """All stages to one width, brought to the finest grid, concatenated, merged and classified.

    It is that of `transformers` but for odd sizes: cells that split stay where they are instead of being stretched to
    the finest grid. The merge has the names of `decode_head.` there: `linear_fuse`, `batch_norm`, `classifier`;
    `projections.0.weight` … are the weights (width, channels) of the linear layers as 1×1 convolutions.

    Args:
        stages: of the backbone.
        outputs: channels of the logits.
        levels: indices of the stages that it reads; the first of them gives the grid.
        width: channels of each stage and after they are merged.
        dropout: probability, before the classes.
        momentum: of the running statistics of batch norm.

    Source: Xie et al., SegFormer, NeurIPS 2021, section 3.2; for other backbones than its own ours.
    """

    align_corners = False

    def __init__(
        self,
        stages: Sequence[Stage],
        outputs: int,
        *,
        levels: tuple[int, ...],
        width: int = 256,
        dropout: float = 0.1,
        momentum: float = 0.1,
    ) -> None:
        """Random weights, from torch's global generator."""
        super().__init__()
        self.levels = levels
        self.strides = tuple(stages[level].stride for level in levels)
        self.stride = self.strides[0]
        self.projections = nn.ModuleList(nn.Conv2d(stages[level].channels, width, 1) for level in levels)
        self.linear_fuse = nn.Conv2d(width * len(levels), width, 1, bias=False)
        self.batch_norm = nn.BatchNorm2d(width, momentum=momentum)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(width, outputs, 1)

    def forward(self, maps: Sequence[Tensor], inside: Tensor | None = None) -> Tensor:
        """See `Head.forward`."""
        finest = maps[self.levels[0]]
        size = int(finest.shape[2]), int(finest.shape[3])
        parts = [
            to_grid(projection(maps[level]), stride, self.stride, size)
            for level, stride, projection in zip(self.levels, self.strides, self.projections, strict=True)
        ]
        x = self.batch_norm(self.linear_fuse(torch.cat(parts[::-1], dim=1))).relu_()
        return self.classifier(self.dropout(x))  # type: ignore[no-any-return]
