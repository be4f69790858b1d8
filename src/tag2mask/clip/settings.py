"""The settings of base CAMs from CLIP."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tag2mask.clip.affinity import Boxes
from tag2mask.errors import UsageError


@dataclass
class SeedSettings:
    """How base CAMs are made from photographs and tags with CLIP, or where finished ones are read from.

    Attributes:
        model: a CLIP of `transformers`: a name on its hub, or a folder.
        words: prompts and background words: `voc`, `coco`, or a YAML file (docs/seeds.md); null asks for each class by
            its name, with the background words of `voc`.
        box_threshold: share of a map's maximum above which a patch opens a box; published: 0.4 for VOC, 0.7 for COCO.
        boxes: `whole`, or `published`: boxes lose their last column and row at the photograph's edge.
        longest_side: larger photographs are reduced to so many pixels first; attention grows with the fourth power.
        batch_size: photographs that go through CLIP together, fewer of large ones; null takes 16 on a GPU and 2 on a
            CPU, where larger batches leave its caches.
        precision: of the image side, `fp32`, `bf16`, `fp16`, or `auto`: fp16 on a GPU, fp32 elsewhere.
        from_npy: a folder of CLIP-ES's files, ID.npy, to take base CAMs from instead; CLIP is not loaded then.
    """

    model: str = "openai/clip-vit-base-patch16"
    words: str | None = None
    box_threshold: float = 0.4
    boxes: Boxes = "whole"
    longest_side: int = 1024
    batch_size: int | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    from_npy: Path | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range, all at once."""
        self.from_npy = None if self.from_npy is None else Path(self.from_npy)
        problems = []
        if not 0 <= self.box_threshold < 1:
            problems.append("box_threshold should lie in [0, 1)")
        if self.longest_side < 32:
            problems.append("longest_side should be at least 32 pixels")
        if self.batch_size is not None and self.batch_size < 1:
            problems.append("batch_size should be at least 1")
        if problems:
            raise UsageError("settings of seeds: " + "; ".join(problems))
