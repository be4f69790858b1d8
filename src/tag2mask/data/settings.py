"""Settings of the data set and of the augmentation: the YAML sections ``data`` and ``augment``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tag2mask.core.fields import Checked, setting

Kind = Literal["auto", "table", "folders", "voc", "coco", "mvtec"]
"""The layouts; ``auto`` detects one."""

Crowd = Literal["ignore", "paint", "skip"]
"""How crowds are rasterised: as 255, as their class, or not at all."""

Resize = Literal["long_side_range", "scale_range", "scale_choice", "stretch"]
"""How an image is resized before it is cropped."""

Padding = Literal["random", "bottom_right"]
"""The position of an image in a larger crop."""

RANDOM: Padding = "random"

SCALES: tuple[float, ...] = (0.5, 1.5)
"""The least and the greatest size of a view, as multiples of the image's own. Source: IRN, HSC_WSSS."""

PIXEL_LIMIT = 100_000_000
"""Pixels above which an image is refused; ours, above the size of camera images."""


@dataclass
class DataSettings(Checked):
    """Where the images and their tags are.

    Attributes:
        kind: the layout. ``table``: a CSV file names the images and their tags. ``folders``: ROOT/CLASS/…, the
            top folder is the tag. ``voc``: the folders of PASCAL VOC. ``coco``: those of COCO. ``mvtec``: those of
            MVTec AD. ``auto``: ``voc`` where ROOT/JPEGImages exists, ``coco`` where ROOT/annotations/instances_*.json
            does, ``table`` where ``tags`` is given or ROOT/tags.csv exists, ``mvtec`` where ROOT/test and
            ROOT/ground_truth exist, else ``folders``.
        root: the folder that the paths of the images are relative to; for a table that is given without it, the
            table's folder.
        tags: the tags table, CSV ``image,tags`` with the tags joined by ``;``, or one 0/1 column per class (with
            ``classes``, those that it names); VOC and COCO: or a list ``.txt`` with lines ``IMAGE ID ID``, ids of the
            class list from 0, as CLIP-ES publishes for COCO; overrides the root's own tags.
        split: VOC: a list in ROOT/ImageSets/Segmentation; COCO: SPLIT of instances_SPLIT.json, with or without the
            year; table: a value of its ``split`` column. None: all images.
        classes: the class list and its order: a file (one name per line, or a YAML list), or names with commas, without
            background.
        masks: the folder with ground-truth masks ID.png, for evaluation and the report; never read for tags. COCO:
            the folder that they are rasterised into when they are needed; ROOT/SegmentationClass if not given.
        mask_values: how values of ground-truth masks become classes, ``VALUE=CLASS`` with commas, as ``255=1``; CLASS
            is an id, a class name, ``background``, ``ignore``, or ``tag``: the only tag of the image. Values that are
            not named stay as they are. Not read for masks that are rasterised from annotations.
        negatives: names with commas that mean "none of the classes": class folders, or tags of a table. ``_none`` is
            always one.
        intensity: the pixel values (LOW, HIGH) that become black and white, for images of more than 8 bits; None: 0 to
            65535, and floating-point pixels are refused.
        crowd: COCO: crowds in rasterised masks. ``ignore``: 255; ``paint``: their class; ``skip``: nothing.
        pixel_limit: an image with more pixels is refused and never decoded.
    """

    kind: Kind = "auto"
    root: Path | None = None
    tags: Path | None = None
    split: str | None = None
    classes: str | None = setting(None, path=True)
    masks: Path | None = None
    mask_values: str | None = None
    negatives: str | None = None
    intensity: tuple[float, float] | None = None
    crowd: Crowd = "ignore"
    pixel_limit: int = setting(PIXEL_LIMIT, low=1)

    _section: ClassVar[str] = "data"

    def __post_init__(self) -> None:
        """Convert text to paths, and refuse values out of range."""
        self.root, self.tags, self.masks = (
            None if path is None else Path(path) for path in (self.root, self.tags, self.masks)
        )
        super().__post_init__()

    def problems(self) -> list[str]:
        """The problem of ``intensity``, if there is one."""
        if self.intensity is None or (len(self.intensity) == 2 and self.intensity[0] < self.intensity[1]):
            return []
        return [f"intensity should be two ascending pixel values, received {list(self.intensity)}"]


@dataclass
class ViewSettings(Checked):
    """The augmentation of training images; `AugmentSettings` documents the constants here.

    Attributes:
        crop: side of the square crop in pixels.
        resize: ``long_side_range``: the long side is drawn from ``long_side``; ``scale_range``: the size is multiplied
            by a number between the minimum and maximum of ``scales``, 0.5 and 1.5 where that is not a setting;
            ``scale_choice``: by one of ``scales``, with sizes rounded down, bilinear without antialiasing as in OpenCV
            (other ways: bicubic with antialiasing). Then a random window is cropped, padded where the image is smaller.
            ``stretch``: the whole image is resized to crop × crop, whatever its shape.
        long_side: minimum and maximum of the long side in pixels, inclusive; read by ``long_side_range`` only.
    """

    crop: int = setting(320, low=1)
    resize: Resize = "long_side_range"
    long_side: tuple[int, int] = (256, 512)

    # Without annotations these are not settings here; subclasses make them settings.
    flip = True
    scales = SCALES
    padding = RANDOM
    hsv_jitter = 0

    _section: ClassVar[str] = "augmentation"

    def problems(self) -> list[str]:
        """The problem of ``long_side``, if there is one."""
        if len(self.long_side) == 2 and 1 <= self.long_side[0] <= self.long_side[-1]:
            return []
        return [f"long_side should be two ascending numbers of pixels, received {list(self.long_side)}"]


@dataclass
class FlipViewSettings(ViewSettings):
    """The same, with a setting for mirroring.

    Attributes:
        flip: mirror left and right with probability one half.
    """

    flip: bool = True


@dataclass
class AugmentSettings(FlipViewSettings):
    """All settings of the augmentation.

    Attributes:
        scales: read by ``scale_range`` and ``scale_choice`` only; published with images of 500 pixels.
        padding: ``random``: an image that is smaller than the crop lies anywhere in it; ``bottom_right``: padding
            is at the bottom and on the right, before the crop is mirrored.
        hsv_jitter: hue, saturation and value each change by up to this many of 255 (hue of 180); 0 for none.
    """

    scales: tuple[float, ...] = SCALES
    padding: Padding = "random"
    hsv_jitter: int = setting(0, low=0, high=90)

    def __post_init__(self) -> None:
        """Accept any sequence of scales, and refuse values out of range."""
        self.scales = tuple(self.scales)
        super().__post_init__()

    def problems(self) -> list[str]:
        """Sizes and scales that are out of range."""
        return super().problems() + scales_problems(self.scales)


def scales_problems(scales: Sequence[float]) -> list[str]:
    """The problem of a list of scales, if there is one."""
    sound = scales and all(0 < scale <= 8 for scale in scales)
    return [] if sound else [f"scales should be numbers above 0 and up to 8, received {list(scales)}"]
