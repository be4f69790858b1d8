"""The settings of prediction."""

from dataclasses import dataclass, field
from typing import Literal

from tag2mask.errors import UsageError
from tag2mask.refine.crf import CrfSettings

PUBLISHED_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""With mirror images, the twelve forward passes of the published test. Source: HSC_WSSS, YudeWang's code base."""


@dataclass
class PredictSettings:
    """How a segmentation network labels photographs.

    Attributes:
        scales: image sizes as multiples of scale 1; the result is the mean of the logits. Published:
            [0.5, 0.75, 1.0, 1.25, 1.5, 1.75].
        flip: average with the mirrored image, in the same forward pass; published with it.
        long_side: longer side of the photograph at scale 1, in pixels; null keeps its own size.
        tile: a photograph with a longer side than this, in pixels at scale 1, is cut into overlapping tiles, whose
            logits are blended; null never cuts.
        overlap: pixels at scale 1 that neighbouring tiles share at least. Over the middle half of that the one fades
            into the other, the rest is context.
        crf: let a dense CRF refine the result.
        crf_settings: of it; `deeplab` as published, `largefov` for DeepLab-LargeFOV.
        crf_long_side: a photograph that is longer, in pixels, is refined at this size, and the result enlarged; null
            refines at its own size, at 1 GB of memory a million pixels. Published lengths suit 500.
        batch_size: photographs, or tiles, of one size that go through the network together, each with its mirror
            image; fewer where they are large.
        precision: of the network, `fp32` or `bf16` (autocast), which is faster where the processor has it.
    """

    scales: list[float] = field(default_factory=lambda: [1.0])
    flip: bool = False
    long_side: int | None = None
    tile: int | None = 1024
    overlap: int = 128
    crf: bool = False
    crf_settings: CrfSettings = field(default_factory=CrfSettings)
    crf_long_side: int | None = 1024
    batch_size: int = 4
    precision: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        """Refuse values out of range, all at once."""
        problems = []
        if not self.scales or any(not 0 < scale <= 8 for scale in self.scales):
            problems.append("scales should be numbers above 0 and up to 8")
        for name in ("long_side", "crf_long_side"):
            side = getattr(self, name)
            if side is not None and side < 32:
                problems.append(f"{name} should be at least 32 pixels")
        if self.tile is not None and self.tile < 64:
            problems.append("tile should be at least 64 pixels; null never cuts")
        if self.overlap < 0 or (self.tile is not None and self.overlap > self.tile // 2):
            problems.append("overlap should not be negative, and at most half of tile")
        if self.batch_size < 1:
            problems.append("batch_size should be at least 1")
        if self.precision not in ("fp32", "bf16"):
            problems.append(f"precision should be fp32 or bf16, received '{self.precision}'")
        if problems:
            raise UsageError("settings of predict: " + "; ".join(problems))
