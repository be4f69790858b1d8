"""Masks as predictions of Label Studio with brush labels, and corrected ones back."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from tag2mask.data.images import IGNORED, PIXEL_LIMIT, palette
from tag2mask.errors import Tag2maskError, first_five
from tag2mask.formats.brush import decode, encode
from tag2mask.formats.corrected import Corrected, Note, Read, label_ids
from tag2mask.formats.json_items import json_items
from tag2mask.formats.pieces import pieces
from tag2mask.formats.record import MaskRecord, checked_id
from tag2mask.formats.settings import BACKGROUND, ExportSettings
from tag2mask.formats.writer import Writer

TAG, IMAGE = "tag", "image"
"""The names of the brush and of the image in the labelling config."""

WITHOUT_PLACE = frozenset(
    {"choices", "datetime", "number", "pairwise", "ranker", "rating", "relation", "taxonomy", "text", "textarea"}
)
"""Kinds of results that say nothing of pixels."""

TASKS, CONFIG = "tasks.json", "config.xml"


class LabelStudioWriter(Writer):
    """A brush label for each class and for 255: nothing is lost, except 255 where it is to become background.

    ::

        tasks.json                            a task a line, with `photo_id`, `height` and `width` for the way back
        config.xml                            the labelling config of the project
    """

    def __init__(self, folder: Path, classes: tuple[str, ...], settings: ExportSettings) -> None:
        """Begin the list of tasks.

        Raises:
            UsageError: a class is called background, or as the label that 255 becomes.
        """
        label_ids(classes, settings.ignored)
        super().__init__(folder, classes, settings)
        self._tasks, self._count = self.open_text(TASKS), 0
        self._tasks.write("[")

    def add(self, record: MaskRecord) -> None:
        """Write a task with its prediction."""
        height, width = record.size
        labels = dict(enumerate(self.classes, start=1))
        regions = [(piece.class_id, piece.full(record.size)) for piece in pieces(record.mask, components=False)]
        if self.settings.ignored == BACKGROUND:
            self.count_ignored(record)
        elif np.any(unsure := record.mask == IGNORED):
            labels[IGNORED] = self.settings.ignored
            regions.append((IGNORED, unsure))
        result = [
            {
                "id": f"class{class_id}",
                "type": "brushlabels",
                "from_name": TAG,
                "to_name": IMAGE,
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {"format": "rle", "rle": encode(covered), "brushlabels": [labels[class_id]]},
            }
            for class_id, covered in regions
        ]
        task = {
            "data": {
                "image": self.settings.url + quote(record.file_name),
                "photo_id": record.id,
                "height": height,
                "width": width,
            },
            "predictions": [{"model_version": "tag2mask", "result": result}],
        }
        self._tasks.write("," * (self._count > 0) + "\n" + json.dumps(task, ensure_ascii=False, separators=(",", ":")))
        self._count += 1

    def finish(self) -> None:
        """End the list, and write the labelling config."""
        self._tasks.write("\n]\n")
        names = dict(enumerate(self.classes, start=1))
        if self.settings.ignored != BACKGROUND:
            names[IGNORED] = self.settings.ignored
        labels = [
            f"    <Label value={quoteattr(name)} background={quoteattr(_colour(class_id))}/>\n"
            for class_id, name in names.items()
        ]
        with self.open_text(CONFIG) as file:
            file.writelines(
                [
                    f'<View>\n  <Image name="{IMAGE}" value="$image" zoom="true"/>\n',
                    f'  <BrushLabels name="{TAG}" toName="{IMAGE}">\n',
                    *labels,
                    "  </BrushLabels>\n</View>\n",
                ]
            )

    def close(self) -> None:
        """Close the list."""
        self._tasks.close()


def read(
    path: Path, classes: tuple[str, ...], *, ignored: str = "ignored", pixel_limit: int = PIXEL_LIMIT
) -> Iterator[Read]:
    """The masks of Label Studio's export as JSON, one for each task that was annotated.

    A mask is background where no label is; regions of two classes at one place are refused. Results without a place
    (`WITHOUT_PLACE`) are passed over.

    Args:
        path: the JSON file. Tasks have to be those that `LabelStudioWriter` wrote, which name photograph and size.
        classes: the names of the classes 1..C.
        ignored: the label that is 255.
        pixel_limit: a larger mask is refused before it is decoded.

    Yields:
        the ID of each annotated photograph with its mask, or why it cannot be used; then how many results were passed
        over.

    Raises:
        UsageError: there is no such file.
        Tag2maskError: it is no JSON list of tasks.
    """
    ids = label_ids(classes, ignored)
    passed: Counter[str] = Counter()
    for number, task in enumerate(json_items(path), start=1):
        data = task.get("data") if isinstance(task, dict) else None
        photo_id = data.get("photo_id") if isinstance(data, dict) else None
        if isinstance(task, dict) and data is None and isinstance(task.get("photo_id"), str):
            yield f"task {number}", "it is of JSON-MIN, which does not say whether images were turned; export JSON"
            continue
        if not isinstance(task, dict) or not isinstance(data, dict) or not isinstance(photo_id, str):
            yield f"task {number}", "it has no data.photo_id; only tasks that tag2mask wrote say which photograph it is"
            continue
        annotations = task.get("annotations") or []
        try:
            checked_id(photo_id)
            if not isinstance(annotations, list) or not all(isinstance(each, dict) for each in annotations):
                raise Tag2maskError("its annotations are damaged; export them as JSON, not as JSON-MIN")
            finished = [each for each in annotations if not each.get("was_cancelled")]
            if len(finished) > 1:
                raise Tag2maskError(f"it has {len(finished)} annotations; delete all but one in Label Studio")
            for annotation in finished:
                regions, others = _regions(annotation.get("result"))
                passed.update(others)
                yield Corrected(photo_id, _mask(regions, _size(data, pixel_limit), ids))
        except Tag2maskError as error:
            yield photo_id, str(error)
    if passed:
        kinds = ", ".join(f"{count:,} of {kind}" for kind, count in passed.most_common())
        yield Note(f"results without a place in the image are passed over: {kinds}")


def _size(data: Mapping[str, Any], pixel_limit: int) -> tuple[int, int]:
    """(H, W) of a task's photograph.

    Raises:
        Tag2maskError: the task does not say, or it is too large.
    """
    height, width = data.get("height"), data.get("width")
    if type(height) is not int or type(width) is not int or height < 1 or width < 1:
        raise Tag2maskError("its data has no height and width; only tasks that tag2mask wrote have them")
    if height * width > pixel_limit:
        raise Tag2maskError(f"{width} × {height} pixels, at most {pixel_limit:,} are allowed; raise data.pixel_limit")
    return height, width


def _regions(result: object) -> tuple[list[Any], list[str]]:
    """The results of an annotation that have a place in the image, and the kinds of the others.

    Raises:
        Tag2maskError: it has no list of results, or the others alone, which do not say that all is background.
    """
    if not isinstance(result, list):
        raise Tag2maskError("its annotation has no list of results")
    kinds = [each.get("type") if isinstance(each, dict) else None for each in result]
    others = [kind for kind in kinds if isinstance(kind, str) and kind in WITHOUT_PLACE]
    if others and len(others) == len(result):
        raise Tag2maskError(f"it has no brush labels, only {first_five(dict.fromkeys(others))}; paint, or clear these")
    regions = [each for each, kind in zip(result, kinds, strict=True) if kind not in others]
    return regions, others


def _mask(regions: list[Any], size: tuple[int, int], ids: Mapping[str, int]) -> np.ndarray:
    """The mask of an annotation, uint8 (H, W).

    Raises:
        Tag2maskError: it has something else than brush labels, labels that are no classes, another size, or regions of
            two classes at one place.
    """
    mask, taken = np.zeros(size, dtype=np.uint8), np.zeros(size, dtype=np.bool_)
    for region in regions:
        value = region.get("value") if isinstance(region, dict) else None
        labels = value.get("brushlabels") if isinstance(value, dict) else None
        if not isinstance(value, dict) or region.get("type") != "brushlabels" or value.get("format") != "rle":
            kind = region.get("type") if isinstance(region, dict) else region
            raise Tag2maskError(f"a region is of the kind {kind!r}; only brush labels can be masks")
        if not isinstance(labels, list) or len(labels) != 1 or not isinstance(labels[0], str) or labels[0] not in ids:
            raise Tag2maskError(f"a region has the labels {labels}, not one of the classes {first_five(ids)}")
        if (region.get("original_height"), region.get("original_width")) != size:
            raise Tag2maskError(f"a region is of an image of another size than {size[1]} × {size[0]}")
        if region.get("image_rotation"):
            raise Tag2maskError("its image was rotated in Label Studio; turn it back, since masks are upright")
        covered = decode(value.get("rle") or [], size)
        if overlap := np.count_nonzero(covered & taken & (mask != ids[labels[0]])):
            raise Tag2maskError(
                f"a region of {labels[0]} covers {overlap} pixels of another class's; erase one of the two there, as "
                "nothing says which is meant"
            )
        mask[covered] = ids[labels[0]]
        taken |= covered
    return mask


def _colour(class_id: int) -> str:
    """Of a class in VOC's palette, as #RRGGBB."""
    return "#{:02x}{:02x}{:02x}".format(*palette()[class_id].tolist())
