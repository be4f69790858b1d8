"""How masks are written for other tools."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from tag2mask.errors import UsageError

Images = Literal["none", "copy", "link", "symlink"]
"""What becomes of the photographs: nothing, copies, hard links or symbolic ones."""

Pieces = Literal["components", "classes"]
"""What one annotation covers: a connected component of a class, or all pixels of it."""

BACKGROUND = "background"

LOCAL_FILES = "/data/local-files/?d="
"""How Label Studio calls files of its own machine."""


@dataclass(frozen=True)
class ExportSettings:
    """What a format is asked for; each reads its own.

    Attributes:
        split: what the exported photographs are called as a whole, in lists, folders and file names.
        images: what becomes of the photographs; None: symbolic links where a tool looks for them beside the masks
            (yolo, fiftyone), else nothing.
        pieces: coco: what one annotation covers.
        polygons: coco: outlines instead of run lengths; holes are lost.
        least_pixels: coco, yolo: smaller pieces are left out; None: 16 for yolo, else 1.
        ignored: cvat, labelstudio: the label that 255 becomes; `background` makes it background, as the formats do
            that have no value for it.
        url: labelstudio: what is put before the name of a photograph.
        per_shard: shards: samples in a tar.
        store: shards: a URL that `fsspec` opens, where the tars go; None: into the folder.
    """

    split: str = "default"
    images: Images | None = None
    pieces: Pieces = "components"
    polygons: bool = False
    least_pixels: int | None = None
    ignored: str = "ignored"
    url: str = LOCAL_FILES
    per_shard: int = 1000
    store: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: an unknown value, or a split that is no name of a file.
        """
        problems = []
        if self.images is not None and self.images not in get_args(Images):
            problems.append(f"--images should be one of {', '.join(get_args(Images))}, received '{self.images}'")
        if self.pieces not in get_args(Pieces):
            problems.append(f"--pieces should be one of {', '.join(get_args(Pieces))}, received '{self.pieces}'")
        if self.least_pixels is not None and self.least_pixels < 1:
            problems.append(f"--least-pixels should be at least 1, received {self.least_pixels}")
        if self.per_shard < 1:
            problems.append(f"--per-shard should be at least 1, received {self.per_shard}")
        if self.store is not None and "://" not in self.store:
            problems.append(f"--store should be a URL, as s3://bucket/masks, received '{self.store}'")
        if not self.split.strip() or self.split in (".", "..") or set(self.split) & set("/\\\0\n"):
            problems.append(f"the split's name goes into file names, which {self.split!r} cannot; use another")
        if problems:
            raise UsageError("; ".join(problems))

    @classmethod
    def of(cls, options: Mapping[str, str | bool | None], split: str) -> "ExportSettings":
        """From options of the command line, where None is what was not given.

        Raises:
            UsageError: a value that cannot be meant.
        """
        given = {name: value for name in cls.__dataclass_fields__ if (value := options.get(name)) is not None}
        for name in ("least_pixels", "per_shard"):
            number = given.get(name)
            if isinstance(number, str):
                if not number.isdecimal() or len(number) > 9:
                    raise UsageError(f"--{name.replace('_', '-')} should be a whole number, received '{number}'")
                given[name] = int(number)  # type: ignore[assignment]
        return cls(**{"split": split, **given})  # type: ignore[arg-type]
