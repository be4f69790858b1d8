"""Export of masks to other tools: all files are written, or none."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.files import files_below
from tag2mask.core.prefetch import map_ahead
from tag2mask.data.corrections import FinalMasks
from tag2mask.data.file_names import nfc
from tag2mask.data.images import PIXEL_LIMIT, image_size, read_mask
from tag2mask.data.manifest import Images
from tag2mask.export.formats.base import ExportSettings, Writer
from tag2mask.export.formats.coco import CocoWriter
from tag2mask.export.formats.cvat import CvatWriter
from tag2mask.export.formats.fiftyone import FiftyOneWriter
from tag2mask.export.formats.labelstudio import LabelStudioWriter
from tag2mask.export.formats.record import MaskRecord, checked_id
from tag2mask.export.formats.shards import ShardsWriter
from tag2mask.export.formats.target import atomic_target
from tag2mask.export.formats.voc import VocWriter
from tag2mask.export.formats.yolo import YoloWriter

FORMATS: dict[str, type[Writer]] = {
    "voc": VocWriter,
    "coco": CocoWriter,
    "yolo": YoloWriter,
    "cvat": CvatWriter,
    "labelstudio": LabelStudioWriter,
    "fiftyone": FiftyOneWriter,
    "shards": ShardsWriter,
}
"""Writers by format name."""

Source = tuple[str, Path | None, tuple[int, ...] | None]
"""ID, image file and tags of a mask."""


@dataclass
class MaskSource:
    """The masks to export: those of given images, or all masks of a folder.

    Attributes:
        folder: contains ID.png; `FinalMasks` need ``items``.
        classes: names without background.
        items: the images; None: all masks in the folder.
        pixel_limit: larger images and masks fail.
        limit: export only the first ones; None: all.
        rejected: IDs of images that are not in ``items`` because their masks were rejected.
        missing: number of images without a mask, set by `records`.
        failed: error messages by ID, set by `records`.
    """

    folder: Path | FinalMasks
    classes: tuple[str, ...]
    items: Images | None = None
    pixel_limit: int = PIXEL_LIMIT
    limit: int | None = None
    rejected: tuple[str, ...] = ()
    missing: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """List the masks of the folder if no images are given."""
        self._ids: list[str] = []
        if self.items is None and isinstance(self.folder, Path):
            self._ids = sorted({name.removesuffix(".png") for name in files_below(self.folder, ".png")})

    def __len__(self) -> int:
        """Number of images or masks; some may turn out to be missing or invalid."""
        count = len(self._ids if self.items is None else self.items)
        return count if self.limit is None else min(count, self.limit)

    def records(self) -> Iterator[MaskRecord]:
        """Yield each image with a valid mask; a few are prefetched."""
        sources = islice(self._sources(), self.limit)
        for image_id, result in map_ahead(self._read, sources, threads=min(2, os.cpu_count() or 1)):
            if isinstance(result, MaskRecord):
                yield result
            elif result is None:
                self.missing += 1
            else:
                self.failed[image_id] = result

    def _sources(self) -> Iterable[Source]:
        if self.items is None:
            return ((image_id, None, None) for image_id in self._ids)
        tagged = any(item.tags for item in self.items)  # images of `predict` have no tags
        return ((item.id, item.path, item.tags if tagged else None) for item in self.items)

    def masked(self) -> dict[str, Source]:
        """Every image with a mask by its ID, without regard to ``limit``."""
        found = {}
        for source in self._sources():
            with suppress(Tag2maskError):  # `read` raises it again
                if not self._exists(source):
                    continue
            found[nfc(source[0])] = source
        return found

    def read(self, source: Source) -> MaskRecord:
        """Read the mask of an image.

        Raises:
            Tag2maskError: it is missing or invalid, differs in size from its image, or its decision is damaged.
        """
        image_id, image, tags = source
        size = None if image is None else image_size(image, pixel_limit=self.pixel_limit)
        mask = read_mask(self.path(image_id), size=size, classes=len(self.classes), pixel_limit=self.pixel_limit)
        return MaskRecord(image_id, image, mask, tags)

    def _read(self, source: Source) -> tuple[str, MaskRecord | str | None]:
        """The ID and: the record, None if there is no mask, or an error message."""
        try:
            return source[0], self.read(source) if self._exists(source) else None
        except Tag2maskError as error:
            return source[0], str(error)

    def _exists(self, source: Source) -> bool:
        image_id, image, _ = source
        return self.path(image_id).is_file() or image is None

    def path(self, image_id: str) -> Path:
        """The file of a mask."""
        return self.folder / f"{checked_id(image_id)}.png"


@dataclass(frozen=True)
class ExchangeResult:
    """The result of an export or import.

    Attributes:
        done: number of masks written.
        failed: error messages by ID.
        notes: losses and other remarks.
    """

    done: int
    failed: dict[str, str]
    notes: list[str]


def export_masks(
    name: str,
    source: MaskSource,
    out: Path,
    settings: ExportSettings | None = None,
    *,
    overwrite: bool = False,
    on_image: Callable[[int], None] = lambda done: None,
) -> ExchangeResult:
    """Write masks for another tool.

    Args:
        name: of the format, one of `FORMATS`.
        source: the masks.
        out: a folder, or a zip, which contains no links.
        settings: of the format.
        overwrite: replace an earlier export.
        on_image: called after each image with the number of exported images.

    Raises:
        UsageError: ``out`` contains other files, the format is unknown, or it does not allow a class name.
        Tag2maskError: there was no valid mask.
    """
    if name not in FORMATS:
        raise UsageError(f"the export formats are {', '.join(FORMATS)}; received '{name}'")
    settings, failed, done = settings or ExportSettings(), dict[str, str](), 0
    made: dict[str, object] = {"format": name, "classes": list(source.classes), "split": settings.split}
    with atomic_target(out, made, overwrite=overwrite) as folder:
        writer = FORMATS[name](folder, source.classes, settings)
        try:
            for record in source.records():
                try:
                    writer.add(record)
                    done += 1
                except Tag2maskError as error:
                    failed[record.id] = str(error)
                on_image(done)
            if not done:
                first = next(iter((source.failed | failed).values()), "")
                raise Tag2maskError(f"no mask of {source.folder} could be exported{first and '; ' + first}")
            writer.finish()
        finally:
            writer.close()
        made |= {"images": done, "lost": asdict(writer.losses)}
    notes = [f"{source.missing:,} images have no mask"] if source.missing else []
    notes += [f"{len(source.rejected):,} rejected masks are left out"] if source.rejected else []
    return ExchangeResult(done, source.failed | failed, [*notes, *writer.losses.sentences(), *writer.notes])
