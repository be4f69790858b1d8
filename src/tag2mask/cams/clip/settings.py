"""The settings of base CAMs from CLIP."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tag2mask.cams.clip.clip_es import Affinity
from tag2mask.core.fields import Checked, setting


@dataclass
class SeedSettings(Checked):
    """Base CAMs from images and tags with a text-image model, or imported from files.

    Attributes:
        model: a CLIP, CLIPSeg, SAM 3 or TIPSv2 of `transformers`: a name on the hub, or a folder. Only CLIP reads
            `box_threshold` and `affinity`; CLIPSeg and SAM 3 read neither background words nor `long_side`.
        prompts: prompts and background words: `voc`, `coco`, or a YAML file (docs/seeds.md); null uses the names of the
            classes, and the background words of `voc`.
        box_threshold: share of a map's maximum above which a patch opens a box; published: 0.4 for VOC, 0.7 for COCO.
        affinity: which patches of CLIP share a CAM: `caa`, those that attend to each other; `caa-published`, where
            boxes lose their last column and row at the image's edge; `cda`, those with alike class distributions.
        long_side: larger images are reduced to this many pixels; attention grows with its fourth power.
        batch_size: images per forward pass, fewer if they are large; null takes 16 on a GPU and 2 on a CPU, where
            larger batches exceed the caches.
        precision: that of the image side, `fp32`, `bf16`, `fp16`, or `auto`: fp16 on a GPU, fp32 elsewhere; for
            SAM 3, fp16 is bf16.
        from_npy: a folder of CLIP-ES's files, ID.npy, to import base CAMs from; no model is loaded then.
    """

    model: str = setting("openai/clip-vit-base-patch16", path=True)
    prompts: str | None = setting(None, path=True)
    box_threshold: float = setting(0.4, low=0, below=1)
    affinity: Affinity = "caa"
    long_side: int = setting(1024, low=32)
    batch_size: int | None = setting(None, low=1, affects=False)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    from_npy: Path | None = None

    _section: ClassVar[str] = "seeds"

    def __post_init__(self) -> None:
        self.from_npy = None if self.from_npy is None else Path(self.from_npy)
        super().__post_init__()
