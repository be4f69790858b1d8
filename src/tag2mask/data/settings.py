"""Settings of the data set and of the augmentation: the YAML sections ``data`` and ``augment``."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tag2mask.fields import Checked, setting

Kind = Literal["auto", "table", "folders", "voc", "coco", "mvtec"]
"""The layouts that can be read; ``auto`` looks."""

Crowd = Literal["ignore", "paint", "skip"]
"""What becomes of crowds where ground truth is painted: 255, their class, or nothing."""

Resize = Literal["scale", "relative", "choice", "squash"]
"""How a photograph is brought to the size of the crop."""

Padding = Literal["around", "after"]
"""Where a photograph lies in a crop that is larger."""

PIXEL_LIMIT = 100_000_000
"""Pixels above which an image is refused by name; ours, large enough for any camera in use."""


@dataclass
class DataSettings(Checked):
    """Where the photographs and their tags are.

    Attributes:
        kind: the layout. ``table``: a CSV file names the photographs and their tags. ``folders``: ROOT/CLASS/…, the
            top folder is the tag. ``voc``: the folders of PASCAL VOC. ``coco``: those of COCO. ``mvtec``: those of
            MVTec AD. ``auto``: ``voc`` where ROOT/JPEGImages exists, ``coco`` where ROOT/annotations/instances_*.json
            does, ``table`` where ``tags`` is given or ROOT/tags.csv exists, ``mvtec`` where ROOT/test and
            ROOT/ground_truth exist, else ``folders``.
        root: the folder that the paths of the photographs are relative to; for a table that is given without it, the
            table's folder.
        tags: the tags table, CSV ``image,tags`` with the tags joined by ``;``, or one 0/1 column per class (with
            ``classes``, those that it names); overrides the root's own tags.
        split: VOC: the name of a list in ROOT/ImageSets/Segmentation; COCO: SPLIT of instances_SPLIT.json, with or
            without the year; table: a value of its ``split`` column. None: all photographs.
        classes: the class list and its order: a file (one name a line, or a YAML list), or names with commas, without
            background.
        masks: the folder with ground-truth masks ID.png, for evaluation and the report; never read for tags. COCO:
            the folder that they are painted into when they are first needed; ROOT/SegmentationClass if not given.
        corrections: the folder of what people decided about masks, written by a review or by `import`: their masks are
            taken in place of those of a run, their tags in place of the data set's. It need not have a decision about
            every photograph.
        mask_values: how values of ground-truth masks become classes, ``VALUE=CLASS`` with commas, as ``255=1``; CLASS
            is an id, a class name, ``background``, ``ignore``, or ``tag``: the only tag of the image. Values that are
            not named stay as they are. Not read for masks that are painted from annotations.
        negatives: names with commas that mean "none of the classes": class folders, or tags of a table. ``_none`` is
            always one.
        intensity: the pixel values (LOW, HIGH) that become black and white, for images of more than 8 bits; None: 0 to
            65535, and floating-point pixels are refused.
        crowd: COCO: what crowds become in painted masks. ``ignore``: 255; ``paint``: their class; ``skip``: nothing.
        pixel_limit: an image with more pixels is refused by name and never decoded.
    """

    kind: Kind = "auto"
    root: Path | None = None
    tags: Path | None = None
    split: str | None = None
    classes: str | None = setting(None, path=True)
    masks: Path | None = None
    corrections: Path | None = None
    mask_values: str | None = None
    negatives: str | None = None
    intensity: tuple[float, float] | None = None
    crowd: Crowd = "ignore"
    pixel_limit: int = setting(PIXEL_LIMIT, low=1)

    _section: ClassVar[str] = "data"

    def __post_init__(self) -> None:
        """Turn names into paths, and refuse values out of range."""
        self.root, self.tags, self.masks, self.corrections = (
            None if path is None else Path(path) for path in (self.root, self.tags, self.masks, self.corrections)
        )
        super().__post_init__()

    def problems(self) -> list[str]:
        """Intensities that are not two ascending numbers."""
        if self.intensity is None or (len(self.intensity) == 2 and self.intensity[0] < self.intensity[1]):
            return []
        return [f"intensity should be two ascending pixel values, it is {list(self.intensity)}"]


@dataclass
class AugmentSettings(Checked):
    """What a training view may look like.

    Attributes:
        crop: side of the square view in pixels.
        resize: ``scale``: the long side is drawn from ``long_side``; ``relative``: the photograph's own size times a
            number between the least and the greatest of ``scales``; ``choice``: times one of ``scales``. Then a random
            window is cut, padded where the photograph is smaller. ``squash``: the whole photograph is resized to crop
            × crop, whatever its shape.
        long_side: the least and the greatest long side in pixels, both included; read by ``scale`` only.
        scales: read by ``relative`` and ``choice`` only; published with photographs of 500 pixels.
        padding: ``around``: a photograph that is smaller than the crop lies anywhere in it; ``after``: at the top and
            on the left, before it is mirrored.
        flip: mirror left and right with probability one half.
        colour: hue, saturation and value each move by up to this many of 255 (hue of 180); 0 leaves colours alone.
    """

    crop: int = setting(320, low=1)
    resize: Resize = "scale"
    long_side: tuple[int, int] = (256, 512)
    scales: tuple[float, ...] = (0.5, 1.5)
    padding: Padding = "around"
    flip: bool = True
    colour: int = setting(0, low=0, high=90)

    _section: ClassVar[str] = "augmentation"

    def __post_init__(self) -> None:
        """Take any sequence of scales, and refuse values out of range."""
        self.scales = tuple(self.scales)
        super().__post_init__()

    def problems(self) -> list[str]:
        """Sizes that are not positive and ascending."""
        problems = []
        if len(self.long_side) != 2 or not 1 <= self.long_side[0] <= self.long_side[-1]:
            problems.append(f"long_side should be two ascending numbers of pixels, it is {self.long_side}")
        if not self.scales or not all(0 < scale <= 8 for scale in self.scales):
            problems.append(f"scales should be numbers above 0 and up to 8, they are {list(self.scales)}")
        return problems
