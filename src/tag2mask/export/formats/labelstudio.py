"""Export and import of Label Studio tasks with brush labels.

A brush label holds the run lengths of the bytes of an RGBA image, as a bit stream:

===================== ======================================================================================
32 bits               number of values, 4 · H · W
5 bits                bits per value, minus one
four times 4 bits     the possible widths of a length in bits, minus one
for each block        1 bit: one value repeated, or separate values; 2 bits: which width; the length minus one; value(s)
===================== ======================================================================================

Numbers are big-endian; the last byte is padded with zeros. The fourth value of a pixel, alpha, says whether the brush
covers it.

Source of the run lengths: the decoder of the package rle-pack of thi.ng/umbrella, which Label Studio uses.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt

from tag2mask.core.errors import Tag2maskError, UsageError, first_five
from tag2mask.data.images import IGNORED, PIXEL_LIMIT, class_colour
from tag2mask.export.formats.base import ExportSettings, Writer
from tag2mask.export.formats.record import (
    BACKGROUND,
    CorrectedMask,
    MaskRecord,
    Note,
    ReadResult,
    checked_id,
    label_ids,
)

_TAG, _IMAGE = "tag", "image"
"""Names of the brush and of the image in the labelling config."""

_NON_SPATIAL = frozenset(
    {"choices", "datetime", "number", "pairwise", "ranker", "rating", "relation", "taxonomy", "text", "textarea"}
)
"""Types of results that are not about pixels."""

_WIDTHS = (3, 4, 8, 16)
"""Widths of lengths that Label Studio writes."""

_VALUE_BITS = 8
_MIN_ALPHA = 128
"""Least alpha of a covered pixel; the brush has soft edges."""


class LabelStudioWriter(Writer):
    """A brush label per class and for 255; lossless, except for 255 if its label is background.

    ::

        tasks.json                            one task per line, with `image_id`, `height` and `width` for `read`
        config.xml                            the labelling config of the project
    """

    options = frozenset({"ignore_label", "url"})

    def __init__(self, folder: Path, classes: tuple[str, ...], settings: ExportSettings) -> None:
        """Begin the list of tasks.

        Raises:
            UsageError: a class has the name `background` or that of the label of 255.
        """
        label_ids(classes, settings.ignore_label)
        super().__init__(folder, classes, settings)
        self._labels = dict(enumerate(classes, start=1))
        if settings.ignore_label != BACKGROUND:
            self._labels[IGNORED] = settings.ignore_label
        self._tasks, self._separator = self.open_text("tasks.json"), "["

    def add(self, record: MaskRecord) -> None:
        """Write a task with its prediction."""
        height, width = record.size
        class_ids = [value for value in np.unique(record.mask).tolist() if value in self._labels]
        if IGNORED not in self._labels:
            self.count_ignored(record)
        result = [
            {
                "id": f"class{class_id}",
                "type": "brushlabels",
                "from_name": _TAG,
                "to_name": _IMAGE,
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {
                    "format": "rle",
                    "rle": encode_brush(record.mask == class_id),
                    "brushlabels": [self._labels[class_id]],
                },
            }
            for class_id in class_ids
        ]
        task = {
            "data": {
                "image": self.settings.url + quote(record.file_name),
                "image_id": record.id,
                "height": height,
                "width": width,
            },
            "predictions": [{"model_version": "tag2mask", "result": result}],
        }
        self._tasks.write(f"{self._separator}\n{json.dumps(task, ensure_ascii=False, separators=(',', ':'))}")
        self._separator = ","

    def finish(self) -> None:
        """End the list of tasks, and write the labelling config."""
        self._tasks.write("\n]\n")
        labels = [
            f"    <Label value={quoteattr(name)} background={quoteattr(class_colour(class_id))}/>\n"
            for class_id, name in self._labels.items()
        ]
        with self.open_text("config.xml") as file:
            file.write(f'<View>\n  <Image name="{_IMAGE}" value="$image" zoom="true"/>\n')
            file.write(f'  <BrushLabels name="{_TAG}" toName="{_IMAGE}">\n')
            file.writelines([*labels, "  </BrushLabels>\n</View>\n"])

    def close(self) -> None:
        """Close the list of tasks."""
        self._tasks.close()


def read(
    path: Path, classes: tuple[str, ...], *, ignored: str = "ignored", pixel_limit: int = PIXEL_LIMIT
) -> Iterator[ReadResult]:
    """The masks in a JSON export of Label Studio, one per annotated task.

    Pixels without a label are background; overlapping regions of two classes are refused. Results that are not about
    pixels, such as choices and texts, are skipped.

    Args:
        path: the JSON file, with tasks of `LabelStudioWriter`, which have the ID and the size.
        classes: names of the classes 1..C.
        ignored: the label of the value 255.
        pixel_limit: a larger mask is refused before it is decoded.

    Raises:
        UsageError: the file does not exist.
        Tag2maskError: it is not a JSON list of tasks.
    """
    ids = label_ids(classes, ignored)
    skipped: Counter[str] = Counter()
    for number, task in enumerate(_read_tasks(path), start=1):
        data = task.get("data") if isinstance(task, dict) else None
        image_id = data.get("image_id") if isinstance(data, dict) else None
        if isinstance(task, dict) and data is None and isinstance(task.get("image_id"), str):
            yield f"task {number}", "it is JSON-MIN, which does not record whether images were rotated; export JSON"
            continue
        if not isinstance(task, dict) or not isinstance(data, dict) or not isinstance(image_id, str):
            yield f"task {number}", "it has no data.image_id; only tasks that tag2mask wrote have one"
            continue
        annotations = task.get("annotations") or []
        try:
            checked_id(image_id)
            if not isinstance(annotations, list) or not all(isinstance(each, dict) for each in annotations):
                raise Tag2maskError("its annotations are damaged; export them as JSON, not as JSON-MIN")
            finished = [each for each in annotations if not each.get("was_cancelled")]
            if len(finished) > 1:
                raise Tag2maskError(f"it has {len(finished)} annotations; delete all but one in Label Studio")
            for annotation in finished:
                regions, others = _regions(annotation.get("result"))
                skipped.update(others)
                yield CorrectedMask(image_id, _mask(regions, _size(data, pixel_limit), ids))
        except Tag2maskError as error:
            yield image_id, str(error)
    if skipped:
        kinds = ", ".join(f"{count:,} of {kind}" for kind, count in skipped.most_common())
        yield Note(f"results without pixels are skipped: {kinds}")


def _read_tasks(path: Path) -> list[Any]:
    if not path.is_file():
        raise UsageError(f"{path} does not exist; give the JSON file that Label Studio exported")
    try:
        tasks = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(tasks, list):
            raise ValueError("it does not begin with [")
    except (ValueError, RecursionError) as error:
        raise Tag2maskError(f"{path} is not a JSON list, or is damaged ({error}); export it again as JSON") from error
    return tasks


def _size(data: Mapping[str, Any], pixel_limit: int) -> tuple[int, int]:
    """(H, W) of a task's image."""
    height, width = data.get("height"), data.get("width")
    if type(height) is not int or type(width) is not int or height < 1 or width < 1:
        raise Tag2maskError("its data has no height and width; only tasks that tag2mask wrote have them")
    if height * width > pixel_limit:
        raise Tag2maskError(f"{width} × {height} pixels, at most {pixel_limit:,} are allowed; raise data.pixel_limit")
    return height, width


def _regions(result: object) -> tuple[list[Any], list[str]]:
    """The results of an annotation that are about pixels, and the types of the others."""
    if not isinstance(result, list):
        raise Tag2maskError("its annotation has no list of results")
    kinds = [each.get("type") if isinstance(each, dict) else None for each in result]
    others = [kind for kind in kinds if isinstance(kind, str) and kind in _NON_SPATIAL]
    if others and len(others) == len(result):  # not an empty mask, but no mask
        raise Tag2maskError(f"it has no brush labels, only {first_five(dict.fromkeys(others))}; paint, or clear these")
    regions = [each for each, kind in zip(result, kinds, strict=True) if kind not in others]
    return regions, others


def _mask(regions: list[Any], size: tuple[int, int], ids: Mapping[str, int]) -> npt.NDArray[np.uint8]:
    """The mask of an annotation, uint8 (H, W)."""
    mask, taken = np.zeros(size, dtype=np.uint8), np.zeros(size, dtype=np.bool_)
    for region in regions:
        value = region.get("value") if isinstance(region, dict) else None
        labels = value.get("brushlabels") if isinstance(value, dict) else None
        if not isinstance(value, dict) or region.get("type") != "brushlabels" or value.get("format") != "rle":
            kind = region.get("type") if isinstance(region, dict) else region
            raise Tag2maskError(f"a region has the type {kind!r}; only brush labels can become masks")
        if not isinstance(labels, list) or len(labels) != 1 or not isinstance(labels[0], str) or labels[0] not in ids:
            raise Tag2maskError(f"a region has the labels {labels}, not one of the classes {first_five(ids)}")
        if (region.get("original_height"), region.get("original_width")) != size:
            raise Tag2maskError(f"a region belongs to an image of another size than {size[1]} × {size[0]}")
        if region.get("image_rotation"):
            raise Tag2maskError("its image was rotated in Label Studio; rotate it back, since masks are upright")
        covered = decode_brush(value.get("rle") or [], size)
        if overlap := np.count_nonzero(covered & taken & (mask != ids[labels[0]])):
            raise Tag2maskError(
                f"a region of {labels[0]} covers {overlap} pixels of another class; erase one of the two there, since "
                "the order of regions does not decide"
            )
        mask[covered] = ids[labels[0]]
        taken |= covered
    return mask


def encode_brush(covered: npt.NDArray[np.bool_]) -> list[int]:
    """The run lengths of a mask, bool (H, W), as the list of bytes that Label Studio stores.

    Raises:
        Tag2maskError: it has 2^30 pixels or more, which the format does not allow.
    """
    flat = covered.ravel()
    if 4 * flat.size >= 1 << 32:
        raise Tag2maskError(f"a mask of {flat.size:,} pixels is too large for Label Studio's run lengths")
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = 4 * np.diff(np.append(starts, flat.size))
    words = [f"{4 * flat.size:032b}{_VALUE_BITS - 1:05b}", *(f"{width - 1:04b}" for width in _WIDTHS)]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value, left = f"{255 * flat[start]:08b}", length
        while left:
            part = min(left, 1 << _WIDTHS[-1])
            which = next(i for i, width in enumerate(_WIDTHS) if part <= 1 << width)
            words.append(f"1{which:02b}{part - 1:0{_WIDTHS[which]}b}{value}")
            left -= part
    bits = "".join(words)
    bits += "0" * (-len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8, "big"))


def decode_brush(rle: Sequence[int], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The mask of run lengths, bool (H, W) = ``size``.

    Raises:
        Tag2maskError: the run lengths are damaged, or of another size.
    """
    height, width = size
    try:
        if not isinstance(rle, list | bytes):  # bytes(number) would allocate as many zeros
            raise TypeError
        bits = _Bits(bytes(rle))
    except (TypeError, ValueError, OverflowError) as error:
        raise Tag2maskError("its run lengths should be a list of bytes, whole numbers from 0 to 255") from error
    count, value_bits = bits.number(32), bits.number(5) + 1
    widths = [bits.number(4) + 1 for _ in range(4)]
    if count != 4 * height * width:
        raise Tag2maskError(f"its run lengths have {count:,} values, an image of {width} × {height} has 4 per pixel")
    if value_bits != _VALUE_BITS:
        raise Tag2maskError(f"its run lengths have values of {value_bits} bits; Label Studio's have {_VALUE_BITS}")
    values, done = np.zeros(count, dtype=np.uint8), 0
    while done < count:
        repeated = bits.number(1)
        length = bits.number(widths[bits.number(2)]) + 1
        if done + length > count:
            raise Tag2maskError("its run lengths are damaged: they cover more than the image")
        values[done : done + length] = np.packbits(bits.take(_VALUE_BITS if repeated else _VALUE_BITS * length))
        done += length
    covered: npt.NDArray[np.bool_] = values.reshape(height, width, 4)[..., 3] >= _MIN_ALPHA
    return covered


class _Bits:
    """Reads a bit stream."""

    def __init__(self, raw: bytes) -> None:
        self._bits, self._position = np.unpackbits(np.frombuffer(raw, dtype=np.uint8)), 0

    def take(self, count: int) -> npt.NDArray[np.uint8]:
        """The next ``count`` bits."""
        taken = self._bits[self._position : self._position + count]
        if len(taken) < count:
            raise Tag2maskError("its run lengths are damaged: they end too early")
        self._position += count
        return taken

    def number(self, count: int) -> int:
        """The next ``count`` bits as a number."""
        return int.from_bytes(np.packbits(self.take(count)).tobytes(), "big") >> (-count % 8)
