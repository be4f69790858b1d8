"""Names that a terminal, a shell, a markup or an encoding takes for something else, wherever names are shown."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree

import numpy as np

from hostile_case import OUT, Case, Yard, begun, write
from hostile_images import image
from tag2mask.data import write_mask

NAMES: dict[str, tuple[bytes, str]] = {
    "line-feed": (b"a\nb", r"a\nb"),
    "carriage-return": (b"a\rb", r"a\rb"),
    "backspace": (b"a\x08\x08b", r"a\x08\x08b"),
    "red": (b"\x1b[31mred", r"\x1b[31mred"),
    "clear-screen": (b"\x1b[2J\x1b[H", r"\x1b[2J\x1b[H"),
    "c1": ("a\u009b31mb".encode(), r"a\x9b31mb"),
    "right-to-left": ("a\u202egpj.exe".encode(), r"a\u202egpj.exe"),
    "zero-width": ("a\u200bb".encode(), r"a\u200bb"),
    "line-separator": ("a\u2028b".encode(), r"a\u2028b"),
    "latin-1": (b"caf\xe9", r"caf\udce9"),
    "quotes": (b"a\"'`b", "a\"'`b"),
    "shell": (b"$(mkdir executed);`mkdir executed`", "$(mkdir executed);`mkdir executed`"),
    "markup": (b"[red]a[", "[red]a["),
    "broken-markup": (b"a[%blue]".replace(b"%", b"\\"), "a[\\blue]"),
    "percent": (b"%s%n%(a)s", "%s%n%(a)s"),
    "braces": (b"{0.__class__}", "{0.__class__}"),
    "dash": (b"--out", "--out"),
    "long": (b"n" * 240, "n" * 240),
    "backslash": (b"a\\..\\b", "a\\..\\b"),
    "html": (b"<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),
}
"""A name as bytes, and how it may be shown."""

NASTY = ("clear-screen", "latin-1", "broken-markup")
PARSED = ("root", "missing", "split", "folder")
"""Entrances at which each name is another command, whose parsing takes longest; those names are met there."""

Make = Callable[[Yard, str], list[str]]


def cases(rng: random.Random) -> Iterator[Case]:
    """Each name at each entrance."""
    entrances: dict[str, tuple[Make, bool, tuple[int, ...]]] = {
        "photo": (_photo, True, (1,)),
        "photo-json": (lambda yard, name: [*_photo(yard, name), "--json"], False, (1,)),
        "class": (_class, False, (0, 1)),
        "root": (_root, True, (1,)),
        "missing": (_missing, True, (2,)),
        "split": (_split, True, (2,)),
        "mask": (_mask, False, (0, 1)),
        "folder": (_folder, True, (0,)),
        "table": (_table, True, (2,)),
    }
    for entrance, (make, is_named, codes) in entrances.items():
        for name, (raw, shown) in NAMES.items():
            text = os.fsdecode(raw)
            if entrance == "table" and name == "latin-1":
                continue  # tests/hostile_tables.py has tables of other encodings
            if entrance in PARSED and name not in NASTY:
                continue
            parted = entrance == "table" and ";" in text  # which joins tags
            said = shown if is_named and not parted else ""
            yield Case(f"name-of-{entrance}", name, lambda yard, make=make, text=text: make(yard, text), said, codes)


def _photo(yard: Yard, name: str) -> list[str]:
    """An empty image of that name."""
    write(yard.data / "cat/one.jpg", image())
    write(yard.data / f"cat/{name}.jpg", b"")
    return ["check", "."]


def _class(yard: Yard, name: str) -> list[str]:
    """A class of that name."""
    write(yard.data / "cat/one.jpg", image())
    write(yard.data / name / "two.jpg", image("PNG"))
    return ["check", "."]


def _root(yard: Yard, name: str) -> list[str]:
    """An empty root of that name."""
    (yard.data / name).mkdir()
    return ["check", "--", name]


def _missing(yard: Yard, name: str) -> list[str]:
    """Images that are not there."""
    write(yard.data / "model", b"")
    return ["predict", "model", "--out", OUT, "--", f"{name}/no"]


def _split(yard: Yard, name: str) -> list[str]:
    """A split that a table does not have."""
    write(yard.data / "one.jpg", image())
    write(yard.data / "tags.csv", "image,tags,split\none.jpg,cat,train\n")
    return ["train", "--data.root", ".", f"--data.split={name}", "--out", OUT, "--dry-run"]


def _mask(yard: Yard, name: str) -> list[str]:
    """A mask of that name among those to import."""
    write_mask(yard.data / "masks/one.png", np.zeros((4, 4), np.uint8))
    write_mask(yard.data / "masks" / "two.png", np.zeros((4, 4), np.uint8))
    (yard.data / "masks/two.png").rename(yard.data / f"masks/{name}.png")
    return ["import", "masks", "masks", begun(yard)]


def _folder(yard: Yard, name: str) -> list[str]:
    """Masks in a folder of that name, measured."""
    folder = Path(copytree(yard.scenes / "masks", yard.data / name))
    data = {"root": yard.scenes, "masks": yard.scenes / "masks", "split": "val"}
    settings = [word for key, value in data.items() for word in (f"--data.{key}", str(value))]
    for mask in folder.rglob("*.png"):
        if "val" not in mask.relative_to(folder).as_posix():
            mask.unlink()
    return ["evaluate", *settings, "--", name]


def _table(yard: Yard, name: str) -> list[str]:
    """A class list that lacks the tag of that name."""
    write(yard.data / "one.jpg", image())
    cell = name.replace('"', '""')
    write(yard.data / "tags.csv", f'image,tags\none.jpg,"x{cell}x"\n')
    return ["train", "--data.root", ".", "--data.classes", "cat,dog", "--out", OUT, "--dry-run"]
