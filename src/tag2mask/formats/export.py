"""Write masks in one of the formats, each as a whole or not at all."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tag2mask.errors import Tag2maskError, UsageError
from tag2mask.formats.coco import CocoWriter
from tag2mask.formats.cvat import CvatWriter
from tag2mask.formats.fiftyone import FiftyOneWriter
from tag2mask.formats.labelstudio import LabelStudioWriter
from tag2mask.formats.settings import ExportSettings
from tag2mask.formats.shards import ShardsWriter
from tag2mask.formats.source import MaskSource
from tag2mask.formats.target import whole_target
from tag2mask.formats.voc import VocWriter
from tag2mask.formats.writer import Writer
from tag2mask.formats.yolo import YoloWriter

FORMATS: dict[str, type[Writer]] = {
    "voc": VocWriter,
    "coco": CocoWriter,
    "yolo": YoloWriter,
    "cvat": CvatWriter,
    "labelstudio": LabelStudioWriter,
    "fiftyone": FiftyOneWriter,
    "shards": ShardsWriter,
}
"""The writers by the names of their formats."""

OnPhoto = Callable[[int], None]
"""Called with the number of photographs that are through."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        done: photographs.
        failed: why one could not be written, by ID.
        notes: what was lost, and what else to know.
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
    again: bool = False,
    on_photo: OnPhoto = lambda done: None,
) -> Exported:
    """Write masks for another tool.

    Args:
        name: of the format, one of `FORMATS`.
        source: the masks.
        out: the folder, or a zip, which holds no links; it is there at the end, whole, or not at all.
        settings: of the format.
        again: an earlier export there is replaced.
        on_photo: called after each photograph.

    Raises:
        UsageError: something else lies there, no such format, or it cannot hold a class name.
        Tag2maskError: there was no sound mask.
    """
    if name not in FORMATS:
        raise UsageError(f"export knows the formats {', '.join(FORMATS)}, received '{name}'")
    settings, failed, done = settings or ExportSettings(), dict[str, str](), 0
    made: dict[str, object] = {"format": name, "classes": list(source.classes), "split": settings.split}
    with whole_target(out, made, again=again) as folder:
        writer = FORMATS[name](folder, source.classes, settings)
        try:
            for record in source.records():
                try:
                    writer.add(record)
                    done += 1
                except Tag2maskError as error:
                    failed[record.id] = str(error)
                on_photo(done)
            if not done:
                first = next(iter((source.failed | failed).values()), "")
                raise Tag2maskError(f"no mask of {source.folder} could be exported{first and '; ' + first}")
            writer.finish()
        finally:
            writer.close()
        made |= {"photographs": done, "lost": writer.losses.to_json()}
    lacking = [f"{source.missing:,} photographs have no mask"] if source.missing else []
    lacking += [f"{source.rejected:,} masks that somebody rejected are left out"] if source.rejected else []
    return Exported(done, source.failed | failed, [*lacking, *writer.losses.sentences(), *writer.notes])
