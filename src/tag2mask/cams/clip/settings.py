"""The settings of base CAMs from CLIP."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tag2mask.cams.clip.clip_es import Boxes
from tag2mask.core.fields import Checked, setting


@dataclass
class SeedSettings(Checked):
    """How base CAMs are made from images and tags with CLIP, or where finished ones are read from.

    Attributes:
        model: a CLIP of `transformers`: a name on its hub, or a folder.
        prompts: prompts and background words: `voc`, `coco`, or a YAML file (docs/seeds.md); null asks for each class
            by
            its name, with the background words of `voc`.
        box_threshold: share of a map's maximum above which a patch opens a box; published: 0.4 for VOC, 0.7 for COCO.
        boxes: `whole`, or `published`: boxes lose their last column and row at the image's edge.
        long_side: larger images are reduced to so many pixels first; attention grows with the fourth power.
        batch_size: images that go through CLIP together, fewer of large ones; null takes 16 on a GPU and 2 on a
            CPU, where larger batches leave its caches.
        precision: of the image side, `fp32`, `bf16`, `fp16`, or `auto`: fp16 on a GPU, fp32 elsewhere.
        from_npy: a folder of CLIP-ES's files, ID.npy, to take base CAMs from instead; CLIP is not loaded then.
    """

    model: str = setting("openai/clip-vit-base-patch16", path=True)
    prompts: str | None = setting(None, path=True)
    box_threshold: float = setting(0.4, low=0, below=1)
    boxes: Boxes = "whole"
    long_side: int = setting(1024, low=32)
    batch_size: int | None = setting(None, low=1, affects=False)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    from_npy: Path | None = None

    _section: ClassVar[str] = "seeds"

    def __post_init__(self) -> None:
        """Turn a name into a path, and refuse values out of range."""
        self.from_npy = None if self.from_npy is None else Path(self.from_npy)
        super().__post_init__()
