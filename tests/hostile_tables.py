"""Hostile tags tables and class lists."""

import random
from collections.abc import Iterator

from hostile_case import Case, Yard, write, yaml_payload
from hostile_images import image

SOUND = "image,tags\none.jpg,cat\ntwo.jpg,dog\n"


def cases(rng: random.Random) -> Iterator[Case]:
    """All of them."""
    for name, (content, said) in _tables(rng).items():
        yield Case("table", name, lambda yard, content=content: _checked(yard, content), said, (1,))
    for name, content in _usable().items():
        yield Case("odd-table", name, lambda yard, content=content: _checked(yard, content), "", (0, 1))
    for number in range(6):
        content = _scrambled(rng)
        yield Case("scrambled-table", str(number), lambda yard, content=content: _checked(yard, content), "", (0, 1))
    for name, (content, suffix) in _lists().items():
        yield Case("class-list", name, lambda yard, c=content, s=suffix: _listed(yard, c, s), "classes", (1,))
    for name in ("/dev/zero", "\0", "x" * 5000, "/"):
        words = lambda yard, name=name: [*_checked(yard, SOUND), f"--data.classes={name}"]  # noqa: E731
        yield Case("class-names", name.encode("unicode_escape").decode()[:20], words, "class", (1, 2))


def _checked(yard: Yard, content: bytes | str) -> list[str]:
    """`check` of a table next to two images; a third lies outside."""
    for name in ("one", "two"):
        write(yard.data / f"{name}.jpg", image())
    write(yard.data / "tags.csv", content)
    return ["check", "."]


def _listed(yard: Yard, content: bytes | str, suffix: str) -> list[str]:
    if isinstance(content, str):
        content = content.replace("PAYLOAD", yaml_payload(yard.marker))
    write(yard.data / f"classes{suffix}", content)
    return [*_checked(yard, SOUND), "--data.classes", f"classes{suffix}"]


def _tables(rng: random.Random) -> dict[str, tuple[bytes | str, str]]:
    """Tables that cannot be used, and what has to be said."""
    many = "".join(f"one.jpg,class{number}\n" for number in range(2000))
    columns = ",".join(f"class{number}" for number in range(300))
    outside = {
        "climbing": "../../secret.png",
        "absolute": "/etc/passwd",
        "climbing-windows": "..\\..\\secret.png",
        "url": "https://example.org/one.jpg",
        "pipe": "|mkdir executed",
        "folder": ".",
        "long": "n" * 300 + ".jpg",
        "very-long": "n/" * 3000 + "one.jpg",
        "escapes": "\x1b[2J.jpg",
        "device": "/dev/zero",
    }
    found: dict[str, tuple[bytes | str, str]] = {
        f"image-{name}": (f'image,tags\none.jpg,cat\n"{image}",dog\n', "tags.csv line 3")
        for name, image in outside.items()
    }
    found |= {f"encoding-{name}": (SOUND.encode(name), "tags.csv") for name in ("utf-16", "utf-32")}
    found |= {
        "latin-1": ("image,tags\none.jpg,käfer\n".encode("latin-1"), "UTF-8"),
        "broken-utf-8": (b"image,tags\none.jpg,\xff\xfe\n", "UTF-8"),
        "null-byte": ("image,tags\none.jpg,c\0at\n", "null bytes"),
        "open-quote": ('image,tags\n"one.jpg,cat\ntwo.jpg,dog\n', "tags.csv line 2"),
        "endless-field": ('image,tags\none.jpg,"' + "x" * (2 << 20) + '"\n', "tags.csv line 2"),
        "endless-open-field": ('image,tags\none.jpg,"' + "x\n" * (1 << 17), "tags.csv line"),
        "endless-header": ("x" * (2 << 20), "tags.csv line 1"),
        "id-twice-by-way": ("image,tags\none.jpg,cat\n./cat/../one.jpg,dog\n", "one"),
        "many-columns": ("image,tags\none.jpg" + ",cat" * 100_000 + "\n", "columns instead of 2"),
        "thousands-of-classes": ("image,tags\n" + many, "classes"),
        "300-columns": (f"image,{columns}\none.jpg" + ",1" * 300 + "\n", "300 classes"),
        "zip": (b"PK\3\4" + bytes(99), "null bytes"),
        "noise": (rng.randbytes(4096), "tags.csv"),
    }
    return found


def _usable() -> dict[str, bytes | str]:
    """Odd tables that are what they should be: they are read, and nothing in them is done."""
    cells = {
        "formula": "=cmd|' /C calc'!A0",
        "markup": "[bold red]x[/bold red]",
        "broken-markup": "[/x]",
        "escapes": "\x1b[31mred\x1b[0m",
        "sql": "'); DROP TABLE entry; --",
        "line-feed": "a\nb",
        "carriage-return": "a\rb",
        "climbing": "../../../x",
        "absolute": "/etc/passwd",
        "long": "x" * 100_000,
        "yaml": "!!python/object/apply:os.mkdir [executed]",
    }
    found: dict[str, bytes | str] = {
        f"tag-{name}": f'image,tags\none.jpg,cat\ntwo.jpg,"{tag}"\n' for name, tag in cells.items()
    }
    return found | {
        "two-byte-order-marks": b"\xef\xbb\xbf\xef\xbb\xbf" + SOUND.encode(),
        "254-classes": "image,tags\none.jpg," + ";".join(f"t{i}" for i in range(254)) + "\n",
        "one-tag-often": "image,tags\none.jpg," + "cat;" * 10_000 + "\n",
    }


def _scrambled(rng: random.Random) -> bytes:
    """A sound table with some bytes exchanged, taken out or put in."""
    content = bytearray(SOUND.encode())
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(content))
        how = rng.randrange(3)
        if how == 0:
            content[place] = rng.choice(b'",;\n\r\0\xff\xc3 =\x1b/.')
        elif how == 1:
            del content[place]
        else:
            content.insert(place, rng.choice(b'",;\n\r\xff\xc3\x1b/.'))
    return bytes(content)


def _lists() -> dict[str, tuple[bytes | str, str]]:
    """Files that are no class list."""
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    return {
        "thousands": ("".join(f"class{number}\n" for number in range(5000)), ".txt"),
        "utf-16": ("cat\ndog\n".encode("utf-16"), ".txt"),
        "latin-1": ("k\u00e4fer\n".encode("latin-1"), ".txt"),
        "noise": (bytes(range(256)), ".txt"),
        "yaml-payload": ("PAYLOAD", ".yaml"),
        "yaml-payload-in-list": ("[cat, PAYLOAD]", ".yaml"),
        "yaml-laughs": (laughs, ".yaml"),
        "yaml-itself": ("&a [*a]", ".yaml"),
        "yaml-deep": ("[" * 1100, ".yaml"),
        "yaml-two-documents": ("[cat]\n---\n[dog]\n", ".yaml"),
        "yaml-unknown-anchor": ("[*nothing]", ".yaml"),
        "json-text": ('"cat"', ".json"),
        "json-cut-off": ('["cat", "do', ".json"),
        "json-null": ("[null, {}]", ".json"),
    }
