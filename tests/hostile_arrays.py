"""Hostile CAM files and files of CLIP-ES: pickles under any name, headers that claim too much, other members."""

import io
import pickle
import random
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hostile_case import OUT, Case, Executes, Yard, write
from hostile_images import image, saved
from tag2mask.data import write_mask

SIDE = 64
MARKER = Path("executed")
"""In the current folder, which is that of the input."""


def cases(rng: random.Random) -> Iterator[Case]:
    """All of them."""
    for name, content in (_arrays() | _zips()).items():
        yield Case("cam", name, lambda yard, content=content: _evaluated(yard, content), "bad.npz")
    for number in range(4):
        broken = bytearray(npz(**_sound()))
        for _ in range(2 * number + 1):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        damaged = lambda yard, content=bytes(broken): _evaluated(yard, content)  # noqa: E731
        yield Case("cam-damaged", str(number), damaged, "", (0, 1))
    for name, content in _dictionaries().items():
        yield Case("clip-es", name, lambda yard, content=content: _imported(yard, content), "0000.npy")


def _sound() -> dict[str, np.ndarray]:
    cams = np.full((1, 4, 4), 0.5, np.float16)
    return {"ids": np.array([1], np.int32), "cams": cams, "size": np.array([SIDE, SIDE], np.int32)}


def npz(**arrays: Any) -> bytes:
    """An .npz."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def npy(value: Any) -> bytes:
    """An .npy, with a pickle where NumPy needs one."""
    file = io.BytesIO()
    np.save(file, value, allow_pickle=True)
    return file.getvalue()


def npy_header(descr: str, shape: tuple[int, ...] | str, version: int = 1) -> bytes:
    """The header of an .npy that may claim anything."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    length = len(text) + 1
    return b"\x93NUMPY" + bytes([version, 0]) + length.to_bytes(2 if version == 1 else 4, "little") + text + b"\n"


@cache
def _arrays() -> dict[str, bytes]:
    """Archives of arrays that break a rule of CAM files."""
    sound, two = _sound(), np.zeros((2, 4, 4), np.float16)
    allocation = np.zeros((4, 4), np.uint8)
    changes: dict[str, dict[str, Any]] = {
        "ids-float": {"ids": np.array([1.0])},
        "ids-huge": {"ids": np.array([2**62])},
        "ids-descending": {"ids": np.array([2, 1], np.uint32), "cams": two},
        "ids-unknown": {"ids": np.array([200])},
        "ids-flat": {"ids": np.array(1)},
        "cams-nan": {"cams": np.full((1, 4, 4), np.nan, np.float16)},
        "cams-negative": {"cams": np.full((1, 4, 4), -0.5, np.float16)},
        "cams-complex": {"cams": np.zeros((1, 4, 4), np.complex64)},
        "cams-empty": {"cams": np.zeros((1, 0, 4), np.float16)},
        "cams-more": {"cams": two},
        "size-negative": {"size": np.array([-64, 64])},
        "size-other": {"size": np.array([32, 32])},
        "size-huge": {"size": np.array([2**31 - 1, 2**31 - 1])},
        "size-large": {"size": np.array([60_000, 60_000])},
        "size-text": {"size": np.array(["64", "64"])},
        "allocation-alone": {"allocation": allocation},
        "allocation-other": {"allocation": np.zeros((9, 9), np.uint8), "clusters": np.array(3)},
        "allocation-float": {"allocation": np.full((4, 4), np.nan), "clusters": np.array(3)},
        "clusters-many": {"allocation": allocation, "clusters": np.array([3, 3])},
        "clusters-nan": {"allocation": allocation, "clusters": np.array(np.nan)},
    }
    found = {name: npz(**sound | change) for name, change in changes.items()}
    return found | {"without-size": npz(ids=sound["ids"], cams=sound["cams"])}


@cache
def _zips() -> dict[str, bytes]:
    """Other files under the name of a CAM file."""
    payload = pickle.dumps(Executes(MARKER))

    def packed(cams: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in _sound().items():
                archive.writestr(f"{name}.npy", cams if name == "cams" else npy(array))
        return file.getvalue()

    return {
        "nothing": b"",
        "pickle": payload,
        "pickle-as-member": packed(payload),
        "pickle-in-member": packed(npy(np.array(Executes(MARKER), dtype=object))),
        "huge-header": packed(npy_header("<f2", (1, 1 << 20, 1 << 20))),
        "negative-header": packed(npy_header("<f2", (1, -4, -4))),
        "overflow-header": packed(npy_header("<f2", (1 << 62, 1 << 62, 4))),
        "bomb": packed(npy_header("<f2", (1, 65536, 32768)) + bytes(1 << 24)),
        "long-header": packed(b"\x93NUMPY\x02\0" + (1 << 20).to_bytes(4, "little") + b"(" * (1 << 20)),
        "header-with-call": packed(npy_header("<f2", "__import__('os').mkdir('executed')")),
        "version-9": packed(npy_header("<f2", (1, 4, 4), 9)),
        "cut-off": npz(**_sound())[:-22],
    }


def _evaluated(yard: Yard, content: bytes) -> list[str]:
    """`evaluate` of a folder of CAMs, the last of which is hostile."""
    root = yard.data / "set"
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:9] = 1
    for image_id in ("a", "bad"):
        write(root / f"{image_id}.png", saved(Image.new("RGB", (SIDE, SIDE), "teal"), "PNG"))
        write_mask(root / f"masks/{image_id}.png", mask)
        write(yard.data / f"cams/{image_id}.npz", npz(**_sound()))
    write(root / "tags.csv", "image,tags\na.png,cat\nbad.png,dog\n")
    write(yard.data / "cams/bad.npz", content)
    return ["evaluate", "cams", "--data.root", "set", "--data.masks", "set/masks", "--workers", "0", "--device", "cpu"]


@cache
def _dictionaries() -> dict[str, bytes]:
    """Files under the name of one of CLIP-ES; tests/test_npy_files.py has more of them."""
    full, keys = np.full((1, SIDE, SIDE), 0.5, np.float16), np.array([0])

    def raw(payload: bytes, descr: str = "|O", shape: tuple[int, ...] = ()) -> bytes:
        return npy_header(descr, shape) + payload

    return {
        "calls": raw(b"cos\nsystem\n(S'mkdir executed'\ntR."),
        "calls-eval": raw(b"cbuiltins\neval\n(S\"__import__('os').mkdir('executed')\"\ntR."),
        "executes": npy(Executes(MARKER)),
        "executes-inside": npy({"keys": keys, "attn_highres": full, "more": Executes(MARKER)}),
        "instance": raw(b"(S'mkdir executed'\nios\nsystem\n."),
        "pickle": pickle.dumps(Executes(MARKER)),
        "nothing": b"",
        "persistent": raw(b"\x80\x02X\1\0\0\0aQ."),
        "extension": raw(b"\x80\x02\x82\x01."),
        "long-numbers": raw(b"I" + b"9" * 9999 + b"\n."),
        "deep": raw(b"(" * 100_000 + b"t" * 100_000 + b"."),
        "frame-huge": raw(b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f."),
        "other-keys": npy({"\x1b[31mkeys": keys, "cams": full}),
        "class-unknown": npy({"keys": np.array([77]), "attn_highres": full}),
        "huge-array": raw(b"", "<f2", (1 << 20, 1 << 20)),
    }


def _imported(yard: Yard, content: bytes) -> list[str]:
    """`seeds --from-npy` with one hostile file."""
    write(yard.data / "0000.jpg", image("PNG"))
    write(yard.data / "0001.jpg", image())
    write(yard.data / "tags.csv", "image,tags\n0000.jpg,cat\n0001.jpg,dog\n")
    write(yard.data / "npy/0000.npy", content)
    return ["seeds", "--from-npy", "npy", "--data.root", ".", "--out", OUT, "--workers", "0", "--device", "cpu"]
