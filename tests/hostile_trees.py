"""Hostile roots: links, pipes and devices; lists, XML and JSON of VOC and COCO; ground-truth masks."""

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hostile_case import Case, Yard, write
from hostile_images import image, png, saved
from hostile_tables import SOUND


def cases(rng: random.Random) -> Iterator[Case]:
    """All of them."""
    for name, (place, said, codes) in _files().items():
        yield Case("kind-of-file", name, lambda yard, place=place: _placed(yard, place), said, codes)
    for name, place in {"pipe": os.mkfifo, "zeros": _device("/dev/zero"), "memory": _device("/proc/self/mem")}.items():
        yield Case("table-file", name, lambda yard, place=place: _table(yard, place), "tags.csv", (1,))
        yield Case("listed-photo", name, lambda yard, place=place: _listed(yard, place), "one.jpg", (1,))
    for name, (content, said) in _lists().items():
        yield Case("voc-list", name, lambda yard, content=content: _voc(yard, content, XML), said, (1,))
    for name, (content, said) in _annotations().items():
        said = "is not in the class list" if name == "other-class" else said
        yield Case("voc-annotation", name, lambda yard, content=content: _voc(yard, "one\n", content), said, (1,))
    for name, change in _documents().items():
        said, codes = USABLE.get(name, ("instances_train", (1,)))
        yield Case("coco", name, lambda yard, change=change: _coco(yard, change), said, codes, "SegmentationClass")
    for number in range(4):
        own = random.Random(rng.random())
        change = lambda document, own=own: _scrambled(document, own)  # noqa: E731
        made = lambda yard, change=change: _coco(yard, change)  # noqa: E731
        yield Case("coco-scrambled", str(number), made, "", (0, 1), "SegmentationClass")
    for name, content in _masks().items():
        yield Case("mask", name, lambda yard, content=content: _mask(yard, content), "one.png", (1,))


def _device(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _files() -> dict[str, tuple[Callable[[Path], None], str, tuple[int, ...]]]:
    """What stands where an image should; what cannot be one is passed over as a folder listing passes it over."""
    return {
        "pipe": (os.mkfifo, "", (0,)),
        "zeros": (_device("/dev/zero"), "", (0,)),
        "terminal": (_device("/dev/tty"), "", (0,)),
        "memory": (_device("/proc/self/mem"), "dog/bad.jpg", (0, 1)),
        "nowhere": (_device("not/there"), "", (0,)),
        "itself": (lambda path: path.symlink_to(path.name), "", (0,)),
        "outside": (_device("../../../secret.png"), "", (0,)),
        "passwords": (_device("/etc/passwd"), "dog/bad.jpg", (1,)),
        "folder": (Path.mkdir, "", (0,)),
        "folder-above": (_device(".."), "", (0, 1)),
        "top-of-all": (_device("/proc/self/cwd"), "", (0, 1)),
    }


def _placed(yard: Yard, place: Callable[[Path], None]) -> list[str]:
    write(yard.data / "cat/one.jpg", image())
    write(yard.data / "dog/two.jpg", image("PNG"))
    place(yard.data / "dog/bad.jpg")
    return ["check", "."]


def _table(yard: Yard, place: Callable[[Path], None]) -> list[str]:
    write(yard.data / "one.jpg", image())
    place(yard.data / "tags.csv")
    return ["check", ".", "--data.tags", "tags.csv"]


def _listed(yard: Yard, place: Callable[[Path], None]) -> list[str]:
    """A table whose image is no file."""
    place(yard.data / "one.jpg")
    write(yard.data / "two.jpg", image())
    write(yard.data / "tags.csv", SOUND)
    return ["check", "."]


XML = "<annotation><object><name>cat</name></object></annotation>"


def _voc(yard: Yard, listed: bytes | str, annotation: bytes | str) -> list[str]:
    """A VOC root of one image."""
    write(yard.data / "JPEGImages/one.jpg", image())
    write(yard.data / "ImageSets/Segmentation/train.txt", listed)
    write(yard.data / "Annotations/one.xml", annotation)
    return ["check", ".", "--data.kind", "voc", "--data.split", "train"]


def _lists() -> dict[str, tuple[bytes | str, str]]:
    names = {
        "climbing": "../../../secret.png",
        "absolute": "/etc/passwd",
        "dots": "..",
        "long": "n" * 5000,
        "escapes": "\x1b[2J",
        "null-byte": "a\0b",
    }
    found: dict[str, tuple[bytes | str, str]] = {
        f"image-{name}": (f"one\n{image}\n", "train.txt line 2") for name, image in names.items()
    }
    return found | {
        "utf-16": ("one\n".encode("utf-16"), "train.txt"),
        "noise": (bytes(range(128, 256)), "train.txt"),
        "empty": ("", ""),
        "image": (image(), "train.txt"),
        "thousands": ("".join(f"no{number}\n" for number in range(3000)), "train.txt line 1:"),
    }


def _annotations() -> dict[str, tuple[bytes | str, str]]:
    laughs = "".join(
        f"<!ENTITY l{n} '{'&l' + str(n - 1) + ';' if n else 'ha'}{('&l' + str(n - 1) + ';') * 9 if n else ''}'>"
        for n in range(12)
    )
    named = "<annotation><object><name>{}</name></object></annotation>"
    return {
        "laughs": (f"<!DOCTYPE a [{laughs}]>" + named.format("&l11;"), "one.xml"),
        "quadratic": ("<!DOCTYPE a [<!ENTITY b '" + "x" * 100_000 + "'>]>" + named.format("&b;" * 100_000), "one.xml"),
        "outside-file": ("<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>" + named.format("&x;"), "one.xml"),
        "outside-url": ("<!DOCTYPE a SYSTEM 'http://127.0.0.1:9/x.dtd'><annotation><object/></annotation>", "one.xml"),
        "parameter": ("<!DOCTYPE a [<!ENTITY % x SYSTEM 'file:///etc/passwd'> %x;]>" + named.format("&y;"), "one.xml"),
        "deep": ("<a>" * 100_000, "one.xml"),
        "unknown-encoding": ("<?xml version='1.0' encoding='klingon'?><a/>", "one.xml"),
        "null-bytes": (bytes(99), "one.xml"),
        "nameless": (named.format(" "), "one.xml"),
        "other-class": (named.format("\x85[/x]" + "y" * 500), "one.xml"),
    }


Document = dict[str, Any]

USABLE = {"utf-16": ("", (0,)), "300-classes": ("302 classes", (1,))}
"""Which annotation files are read all the same, or are refused by another rule than their own."""


def _sound() -> Document:
    return {
        "images": [{"id": 1, "file_name": "one.jpg", "height": 40, "width": 48}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [[0, 0, 9, 0, 9, 9]], "bbox": []}
        ],
    }


def _coco(yard: Yard, change: Callable[[Document], object]) -> list[str]:
    """A COCO root of one image."""
    write(yard.data / "train/one.jpg", image())
    document = _sound()
    changed = change(document)
    text = changed if isinstance(changed, str | bytes) else json.dumps(document)
    write(yard.data / "annotations/instances_train.json", text)
    return ["check", ".", "--data.kind", "coco", "--data.split", "train"]


def _documents() -> dict[str, Callable[[Document], object]]:
    """Annotation files that cannot be used."""

    def first(key: str, **values: object) -> Callable[[Document], object]:
        return lambda document: document[key][0].update(values)

    def part(segmentation: object) -> Callable[[Document], object]:
        return first("annotations", segmentation=segmentation)

    runs = {"size": [40, 48], "counts": [1920]}
    found: dict[str, Callable[[Document], object]] = {}
    for key in ("images", "categories", "annotations"):
        for name, value in {"null": None, "mapping": {"0": {}}, "of-lists": [[]], "of-nulls": [None]}.items():
            found[f"{key}-{name}"] = lambda document, key=key, value=value: document.update({key: value})
        for name, value in {"nan": float("nan"), "huge": 10**30, "list": [1]}.items():
            found[f"{key}-id-{name}"] = first(key, id=value)
    for name, value in {"negative": -8, "huge": 10**9, "float": 48.5, "infinite": float("inf")}.items():
        found[f"width-{name}"] = first("images", width=value)
    return found | {
        "name-climbing": first("images", file_name="a/../../x.jpg"),
        "name-null": first("images", file_name="\0.jpg"),
        "name-dot": first("images", file_name="."),
        "deep": lambda _: "[" * 200_000,
        "deep-mappings": lambda _: '{"a":' * 200_000,
        "utf-16": lambda document: json.dumps(document).encode("utf-16"),
        "digits": lambda _: "9" * 10_000,
        "class-escapes": first("categories", name="\x1b[31m"),
        "300-classes": lambda document: document["categories"].extend(
            {"id": number, "name": f"c{number}"} for number in range(10, 310)
        ),
        "polygon-far": part([[0, 0, 1e300, 0, 9, 9]]),
        "polygon-of-text": part([["0", "0", "9", "0", "9", "9"]]),
        "runs-huge": part({"size": [10**6, 10**6], "counts": [10**12]}),
        "runs-overflow": part({**runs, "counts": [2**31, 2**31]}),
        "runs-nan": part({**runs, "counts": [float("nan")]}),
        "runs-text": part({**runs, "counts": "\x00\x7f~~"}),
        "runs-text-endless": part({**runs, "counts": "o" * 500_000}),
        "runs-without-counts": part({"size": [40, 48]}),
        "segmentation-number": part(7),
    }


def _scrambled(document: Document, rng: random.Random) -> bytes:
    """The text of a document with some bytes exchanged."""
    text = bytearray(json.dumps(document).encode())
    for _ in range(rng.randint(1, 5)):
        text[rng.randrange(len(text))] = rng.choice(b'{}[]",:0919e-.nt\\\xff')
    return bytes(text)


def _mask(yard: Yard, content: bytes) -> list[str]:
    write(yard.data / "one.jpg", image())
    write(yard.data / "tags.csv", "image,tags\none.jpg,cat;dog\n")
    write(yard.data / "masks/one.png", content)
    return ["check", ".", "--data.masks", "masks"]


def _masks() -> dict[str, bytes]:
    """Ground truth that is none; tests/test_data_images.py has sound images of other kinds."""
    ids = Image.fromarray(np.zeros((40, 48), np.uint8))
    return {
        "gif": saved(ids, "GIF"),
        "tiff": saved(ids, "TIFF"),
        "nothing": b"",
        "cut-off": saved(ids, "PNG")[:40],
        "bomb": png(60_000, 60_000, depth=8, colour=0),
        "zero-size": png(0, 0, depth=8, colour=0),
        "numpy": b"\x93NUMPY\x01\0" + bytes(90),
    }
