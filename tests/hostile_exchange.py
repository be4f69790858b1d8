"""Hostile files for `import`, hostile folders for `export`, and hostile folders of corrections."""

import io
import json
import random
import stat
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from hostile_case import OUT, Case, Yard, begun, write
from hostile_images import png, saved
from tag2mask.data import palette, write_mask
from tag2mask.export.formats.labelstudio import encode_brush

LABELS = "background:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n"


SAYS = {
    "name-": "leads out of the folder",
    "link": "contains the link",
    "no-file": "is not a zip, or is damaged",
    "claims": "impossible for a zip of its size",
    "no-labels": "export the task from CVAT as `Segmentation mask 1.1`",
    "labels-damaged": "labelmap.txt is damaged",
    "labels-bomb": "at most 268,435,456 are allowed",
    "labels-same-colour": "with a unique colour",
    "labels-unknown": "are not classes",
    "mask-bomb": "are allowed",
    "mask-other-colour": "(1, 2, 3)",
    "list-climbing": "is not an image ID",
    "list-thousands": "the image has no annotation",
    "no-list-": "is not a JSON list",
    "id-number": "no data.image_id",
    "id-long": "",
    "id-very-long": "",
    "id-record": "",
    "id-list": "no data.image_id",
    "id-": "is not an image ID",
    "height-1000000000": "at most",
    "height-": "no height and width",
    "annotations-two": "2 annotations",
    "annotations-": "annotations are damaged",
    "results-text": "no list of results",
    "results-number": "only brush labels",
    "region-kind": "only brush labels",
    "region-size": "of another size",
    "region-turned": "rotated",
    "label-unknown": "a region has the labels",
    "label-list": "a region has the labels [['cat']]",
    "labels-two": "labels ['cat', 'dog']",
    "runs-": "run lengths",
}
"""What the answer says, by the beginning of a case's name."""


def _said(name: str) -> str:
    return next((words for begin, words in SAYS.items() if name.startswith(begin)), "")


def cases(rng: random.Random) -> Iterator[Case]:
    """All of them."""
    for name in _zips():
        says = _said(name) or "in.zip"
        yield Case("cvat", name, lambda yard, name=name: _cvat(yard, _zips()[name]), says)
    for name, change in _members().items():
        yield Case("cvat-member", name, lambda yard, change=change: _cvat(yard, _zip(_sound() | change)), _said(name))
    for name, tasks in _tasks().items():
        yield Case("label-studio", name, lambda yard, tasks=tasks: _label_studio(yard, tasks), _said(name))
    for number in range(12):
        seed = rng.random()
        yield Case("label-studio-scrambled", str(number), lambda yard, seed=seed: _scrambled(yard, seed), "", (0, 1))
    for name, record in _records().items():
        yield Case("export-record", name, lambda yard, record=record: _exported(yard, record), "predictions.json", (2,))


def _cvat(yard: Yard, content: bytes) -> list[str]:
    write(yard.data / "in.zip", content)
    return ["import", "cvat", "in.zip", begun(yard)]


def _zip(members: dict[str, bytes | str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _coloured() -> bytes:
    return saved(Image.fromarray(palette()[np.ones((4, 4), np.uint8)]), "PNG")


def _sound() -> dict[str, bytes | str]:
    return {
        "labelmap.txt": LABELS,
        "ImageSets/Segmentation/default.txt": "one\n",
        "SegmentationClass/one.png": _coloured(),
    }


@cache
def _zips() -> dict[str, bytes]:
    """Zips that are refused as a whole."""
    link = zipfile.ZipInfo("SegmentationClass/two.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    names = {"climbing": "../../escaped.png", "absolute": "/tmp/escaped.png", "windows": "C:/escaped.png"}
    found = {f"name-{name}": _zip(_sound() | {member: b"x"}) for name, member in names.items()}
    linked = io.BytesIO(_zip(_sound()))
    with zipfile.ZipFile(linked, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    whole = _zip(_sound())
    claimed = bytearray(whole)
    central = whole.rindex(b"PK\1\2")
    claimed[central + 24 : central + 28] = b"\xff\xff\xff\x7f"
    return found | {
        "link": linked.getvalue(),
        "no-file-nothing": b"",
        "no-file-text": b"no zip",
        "no-file-cut-off": whole[: len(whole) // 2],
        "end-alone": b"PK\5\6" + bytes(18),
        "claims-2-gib": bytes(claimed),
        "encrypted": whole.replace(b"PK\1\2\x14\x03\x14\0\0\0", b"PK\1\2\x14\x03\x14\0\1\0"),
        "method-unknown": whole.replace(b"PK\1\2\x14\x03\x14\0\0\0\x08\0", b"PK\1\2\x14\x03\x14\0\0\0\x63\0"),
        "labels-damaged": whole[:44] + bytes(8) + whole[52:],
        "labels-bomb": _zip({"labelmap.txt": bytes((1 << 28) + 1)}),
        "labels-noise": _zip(_sound() | {"labelmap.txt": bytes(range(256))}),
        "labels-digits": _zip(_sound() | {"labelmap.txt": LABELS + f"cow:{'9' * 5000},9,9::\n"}),
        "labels-escapes": _zip(_sound() | {"labelmap.txt": LABELS + "\x1b[2J:9,9,9::\n"}),
    }


def _members() -> dict[str, dict[str, bytes | str]]:
    """Members that are refused one by one; the first is the only mask, so that nothing is imported."""
    mask, listed = "SegmentationClass/one.png", "ImageSets/Segmentation/default.txt"
    return {
        "mask-bomb": {mask: png(60_000, 60_000)},
        "mask-cut-off": {mask: _coloured()[:40]},
        "mask-16-bit": {mask: saved(Image.fromarray(np.zeros((4, 4), np.uint16)), "PNG")},
        "list-escapes": {listed: "\x1b[2J\n"},
        "list-null": {listed: "a\0b\n"},
        "list-long": {listed: "n" * 5000 + "\n", f"SegmentationClass/{'n' * 5000}.png": _coloured()},
        "list-long-name": {listed: "n" * 260 + "\n", f"SegmentationClass/{'n' * 260}.png": _coloured()},
        "list-empty": {listed: ""},
        "list-thousands": {listed: "".join(f"no{number}\n" for number in range(5000))},
    }


Tasks = Any


def _label_studio(yard: Yard, tasks: Tasks) -> list[str]:
    write(yard.data / "in.json", tasks if isinstance(tasks, str | bytes) else json.dumps(tasks))
    return ["import", "labelstudio", "in.json", begun(yard)]


def _task(**data: object) -> dict[str, Any]:
    value = {"format": "rle", "rle": encode_brush(np.ones((4, 4), np.bool_)), "brushlabels": ["cat"]}
    region = {"type": "brushlabels", "original_width": 4, "original_height": 4, "image_rotation": 0, "value": value}
    return {"data": {"image_id": "one", "height": 4, "width": 4} | data, "annotations": [{"result": [region]}]}


def _changed(change: Callable[[dict[str, Any]], object]) -> Tasks:
    task = _task()
    change(task)
    return [task]


def _tasks() -> dict[str, Tasks]:
    """Exports of Label Studio without one usable task."""

    def region(**values: object) -> Tasks:
        return _changed(lambda task: task["annotations"][0]["result"][0].update(values))

    def value(**values: object) -> Tasks:
        return _changed(lambda task: task["annotations"][0]["result"][0]["value"].update(values))

    ids = {
        "climbing": "../../one",
        "empty": "",
        "null-byte": "a\0b",
        "escapes": "\x1b[2J",
        "surrogate": "\ud800",
        "long": "n" * 300,
        "very-long": "n/" * 5000 + "n",
        "record": "tag2mask-export.json/one",
    }
    found: dict[str, Tasks] = {f"id-{name}": [_task(image_id=image_id)] for name, image_id in ids.items()}
    found |= {f"height-{height}": [_task(height=height)] for height in (-1, 10**9, 4.5, True, None)}
    return found | {
        "no-list-nothing": "",
        "no-list-null": "null",
        "no-list-mapping": "{}",
        "no-list-more": "[] x",
        "no-list-deep": "[" * 100_000,
        "no-list-deep-mappings": '[{"a":' * 100_000,
        "no-list-cut-off": json.dumps([_task()])[:-5],
        "no-list-utf-16": json.dumps([_task()]).encode("utf-16"),
        "no-list-noise": bytes(range(256)),
        "no-list-digits": "[" + "9" * 10_000 + "]",
        "numbers": [1, 2, 3],
        "empty-list": "[]",
        "twice": [_task(), _task()],
        "file-and-folder": [_task(image_id="one.png/two", height=-1), _task(image_id="", height=4)],
        "annotations-text": _changed(lambda task: task.update(annotations="x")),
        "annotations-numbers": _changed(lambda task: task.update(annotations=[1])),
        "annotations-two": _changed(lambda task: task["annotations"].append(task["annotations"][0])),
        "results-number": _changed(lambda task: task["annotations"][0].update(result=[5])),
        "results-text": _changed(lambda task: task["annotations"][0].update(result="x")),
        "region-kind": region(type="polygonlabels"),
        "region-size": region(original_width=10**9),
        "label-unknown": value(brushlabels=["\x1b[31mcow"]),
        "label-list": value(brushlabels=[["cat"]]),
        "label-number": value(brushlabels=[1]),
        "labels-two": value(brushlabels=["cat", "dog"]),
        "runs-number": value(rle=10**12),
        "runs-text": value(rle="x" * 99),
        "runs-floats": value(rle=[0.5, float("nan")]),
        "runs-large": value(rle=[256, -1]),
        "runs-nothing": value(rle=[]),
        "runs-cut-off": value(rle=encode_brush(np.ones((4, 4), np.bool_))[:-3]),
        "runs-of-another-size": value(rle=encode_brush(np.ones((400, 400), np.bool_))),
        "runs-claim-4-gib": value(rle=[255, 255, 255, 255] + [255] * 40),
    }


def _scrambled(yard: Yard, seed: float) -> list[str]:
    rng, text = random.Random(seed), bytearray(json.dumps([_task(), _task(image_id="two")]).encode())
    for _ in range(rng.randint(1, 6)):
        text[rng.randrange(len(text))] = rng.choice(b'{}[]",:0919e-.nt\\\xff')
    return _label_studio(yard, bytes(text))


def _exported(yard: Yard, record: bytes | str) -> list[str]:
    """`export` of a folder whose record, as `predict` leaves it, is hostile."""
    write_mask(yard.data / "masks/one.png", np.zeros((4, 4), np.uint8))
    write(yard.data / "masks/predictions.json", record)
    return ["export", "coco", "masks", "--out", OUT]


def _records() -> dict[str, bytes | str]:
    return {
        "nothing": "",
        "deep": "[" * 100_000,
        "classes-number": '{"classes": 7}',
        "classes-mapping": '{"classes": {"a": 1}}',
        "noise": bytes(range(256)),
    }
