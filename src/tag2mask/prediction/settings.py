"""The settings of prediction."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from tag2mask.core.fields import Checked, setting
from tag2mask.data.settings import scales_problems
from tag2mask.refine.crf import PublishedCrf

OVERLAP = 128
"""Least overlap of neighbouring tiles in pixels at scale 1, at most half of a tile. They are blended over its middle
half, the rest is context. Ours."""


@dataclass
class PredictSettings(Checked):
    """How a segmentation network labels images.

    Attributes:
        scales: image sizes as multiples of scale 1; their logits are averaged. Published, with mirror images:
            [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]. Source: HSC_WSSS, YudeWang's code base.
        flip: also average with the mirrored image, in the same forward pass; published with it.
        long_side: longer side of the image at scale 1, in pixels; null keeps its own size.
        tile: an image with a longer side than this, in pixels at scale 1, is cut into overlapping tiles, whose
            logits are blended; null never cuts.
        crf: refine the result with a dense CRF.
        crf_settings: parameters of the CRF: `deeplab` as published, `largefov` for DeepLab-LargeFOV.
        crf_long_side: a longer image, in pixels, is refined at this size, and the result enlarged; null refines
            at full size, with 1 GB of memory per million pixels. The published parameters suit 500.
        batch_size: images or tiles of one size per batch, each with its mirror image; fewer where they are large.
        precision: `fp32`, `bf16` (autocast), or `auto`: bf16 where the processor or the GPU has it.
    """

    scales: list[float] = field(default_factory=lambda: [1.0])
    flip: bool = False
    long_side: int | None = setting(None, low=32)
    tile: int | None = setting(1024, low=64, null="null never cuts")
    crf: bool = False
    crf_settings: PublishedCrf = field(default_factory=PublishedCrf)
    crf_long_side: int | None = setting(1024, low=32)
    batch_size: int = setting(4, low=1, affects=False)
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    _section: ClassVar[str] = "predict"

    def problems(self) -> list[str]:
        """Scales out of range."""
        return scales_problems(self.scales)
