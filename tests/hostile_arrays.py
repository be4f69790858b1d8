"""Hostile CAM files and files of CLIP-ES: pickles under any name, headers that claim too much, other members."""

import io
import json
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
from hostile_images import photograph, saved
from tag2mask.data import write_mask

SIDE = 64
MARKER = Path("executed")
"""In the current folder, which is that of the input."""


def cases(rng: random.Random) -> Iterator[Case]:
    """All of them."""
    for name in (*_arrays(), *_zips()):
        yield Case("cam", name, lambda yard, name=name: _evaluated(yard, name), "bad.npz")
    for number in range(10):
        seed = rng.random()
        yield Case("cam-damaged", str(number), lambda yard, seed=seed: _evaluated(yard, "", seed), "", (0, 1))
    for name in _dictionaries():
        yield Case("clip-es", name, lambda yard, name=name: _imported(yard, name), "0000.npy")


def _sound() -> dict[str, np.ndarray]:
    cams = np.full((1, 4, 4), 0.5, np.float16)
    return {"ids": np.array([1], np.int32), "cams": cams, "size": np.array([SIDE, SIDE], np.int32)}


def npz(**arrays: Any) -> bytes:
    """An .npz, with pickles where NumPy needs them."""
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=True, **arrays)
    return file.getvalue()


def npy_header(descr: str, shape: tuple[int, ...] | str, version: int = 1) -> bytes:
    """The header of an .npy that may claim anything."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    length = len(text) + 1
    return b"\x93NUMPY" + bytes([version, 0]) + length.to_bytes(2 if version == 1 else 4, "little") + text + b"\n"


@cache
def _arrays() -> dict[str, bytes]:
    """Whole .npz files that are no CAM files."""
    sound = _sound()
    objects = np.array([{"a": 1}], dtype=object)
    changes: dict[str, dict[str, Any]] = {
        "ids-object": {"ids": objects},
        "cams-object": {"cams": objects},
        "ids-float": {"ids": np.array([1.0])},
        "ids-nan": {"ids": np.array([np.nan])},
        "ids-text": {"ids": np.array(["cat"])},
        "ids-negative": {"ids": np.array([-1])},
        "ids-large": {"ids": np.array([255])},
        "ids-huge": {"ids": np.array([2**62])},
        "ids-twice": {"ids": np.array([1, 1]), "cams": np.zeros((2, 4, 4), np.float16)},
        "ids-descending": {"ids": np.array([2, 1], np.uint32), "cams": np.zeros((2, 4, 4), np.float16)},
        "ids-unknown": {"ids": np.array([200])},
        "ids-flat": {"ids": np.array(1)},
        "cams-nan": {"cams": np.full((1, 4, 4), np.nan, np.float16)},
        "cams-infinite": {"cams": np.full((1, 4, 4), np.inf, np.float16)},
        "cams-large": {"cams": np.full((1, 4, 4), 2.0, np.float16)},
        "cams-negative": {"cams": np.full((1, 4, 4), -0.5, np.float16)},
        "cams-integer": {"cams": np.zeros((1, 4, 4), np.int32)},
        "cams-complex": {"cams": np.zeros((1, 4, 4), np.complex64)},
        "cams-flat": {"cams": np.zeros((4, 4), np.float16)},
        "cams-empty": {"cams": np.zeros((1, 0, 4), np.float16)},
        "cams-more": {"cams": np.zeros((3, 4, 4), np.float16)},
        "size-zero": {"size": np.array([0, 64])},
        "size-negative": {"size": np.array([-64, 64])},
        "size-three": {"size": np.array([64, 64, 3])},
        "size-other": {"size": np.array([32, 32])},
        "size-huge": {"size": np.array([2**31 - 1, 2**31 - 1])},
        "size-large": {"size": np.array([60_000, 60_000])},
        "size-float": {"size": np.array([64.0, 64.0])},
        "size-text": {"size": np.array(["64", "64"])},
        "allocation-alone": {"allocation": np.zeros((4, 4), np.uint8)},
        "allocation-other": {"allocation": np.zeros((9, 9), np.uint8), "clusters": np.array(3)},
        "allocation-float": {"allocation": np.full((4, 4), np.nan), "clusters": np.array(3)},
        "clusters-text": {"allocation": np.zeros((4, 4), np.uint8), "clusters": np.array("x")},
        "clusters-many": {"allocation": np.zeros((4, 4), np.uint8), "clusters": np.array([3, 3])},
        "clusters-nan": {"allocation": np.zeros((4, 4), np.uint8), "clusters": np.array(np.nan)},
    }
    found = {name: npz(**sound | change) for name, change in changes.items()}
    return found | {f"without-{name}": npz(**{key: sound[key] for key in sound if key != name}) for name in sound}


@cache
def _zips() -> dict[str, bytes]:
    """Other files under the name of a CAM file."""
    sound, payload = _sound(), pickle.dumps(Executes(MARKER))
    dumped = io.BytesIO()
    np.save(dumped, np.array(Executes(MARKER), dtype=object), allow_pickle=True)

    def packed(**members: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in sound.items():
                whole = io.BytesIO()
                np.save(whole, array)
                archive.writestr(f"{name}.npy", members.pop(name, whole.getvalue()))
            for name, content in members.items():
                archive.writestr(name.replace("_", "/"), content)
        return file.getvalue()

    whole = packed()
    return {
        "nothing": b"",
        "pickle": payload,
        "pickle-in-npy": dumped.getvalue(),
        "pickle-as-member": packed(cams=payload),
        "pickle-in-member": packed(cams=dumped.getvalue()),
        "text-as-member": packed(cams=b"hello"),
        "huge-header": packed(cams=npy_header("<f2", (1, 1 << 20, 1 << 20))),
        "huge-header-2": packed(cams=npy_header("<f2", (1, 1 << 20, 1 << 20), 2)),
        "huge-ids": packed(ids=npy_header("<i4", (1 << 40,))),
        "negative-header": packed(cams=npy_header("<f2", (1, -4, -4))),
        "overflow-header": packed(cams=npy_header("<f2", (1 << 62, 1 << 62, 4))),
        "bomb": packed(cams=npy_header("<f2", (1, 65536, 32768)) + bytes(1 << 24)),
        "long-header": packed(cams=b"\x93NUMPY\x02\0" + (1 << 20).to_bytes(4, "little") + b"(" * (1 << 20)),
        "header-with-call": packed(cams=npy_header("<f2", "__import__('os').mkdir('executed')")),
        "header-of-text": packed(cams=npy_header("<U99999999", (9,))),
        "version-9": packed(cams=npy_header("<f2", (1, 4, 4), 9)),
        "cut-off": whole[: len(whole) // 2],
        "zip-without-end": whole[:-22],
        "zip-of-nothing": b"PK\5\6" + bytes(18),
    }


def _evaluated(yard: Yard, name: str, seed: float | None = None) -> list[str]:
    """`evaluate` of a folder of CAMs, the last of which is hostile."""
    root = yard.data / "set"
    photo = saved(Image.new("RGB", (SIDE, SIDE), "teal"), "PNG")
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:9] = 1
    for photo_id in ("a", "bad"):
        write(root / f"{photo_id}.png", photo)
        write_mask(root / f"masks/{photo_id}.png", mask)
        write(yard.data / f"cams/{photo_id}.npz", npz(**_sound()))
    write(root / "tags.csv", "image,tags\na.png,cat\nbad.png,dog\n")
    if seed is None:
        content = (_arrays() | _zips())[name]
    else:
        rng, broken = random.Random(seed), bytearray(npz(**_sound()))
        for _ in range(rng.randint(1, 8)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        content = bytes(broken)
    write(yard.data / "cams/bad.npz", content)
    return ["evaluate", "cams", "--data.root", "set", "--data.masks", "set/masks", "--workers", "0", "--device", "cpu"]


@cache
def _dictionaries() -> dict[str, bytes]:
    """Files under the name of one of CLIP-ES."""
    full = np.full((1, SIDE, SIDE), 0.5, np.float16)
    keys = np.array([0])

    def raw(payload: bytes, descr: str = "|O", shape: tuple[int, ...] = ()) -> bytes:
        return npy_header(descr, shape) + payload

    def saved(value: Any) -> bytes:
        file = io.BytesIO()
        np.save(file, value, allow_pickle=True)
        return file.getvalue()

    names = ("os system", "builtins eval", "builtins exec", "subprocess Popen", "numpy load", "builtins getattr")
    calls = {
        f"calls-{name.replace(' ', '.')}": raw(f"c{name.replace(' ', chr(10))}\n(S'mkdir executed'\ntR.".encode())
        for name in names
    }
    return calls | {
        "executes": saved(Executes(MARKER)),
        "executes-inside": saved({"keys": keys, "attn_highres": full, "more": Executes(MARKER)}),
        "pickle": pickle.dumps(Executes(MARKER)),
        "pickle-of-arrays": pickle.dumps({"keys": keys, "attn_highres": full}),
        "torch": b"PK\3\4" + bytes(99),
        "nothing": b"",
        "header-alone": raw(b""),
        "cut-off": saved({"keys": keys, "attn_highres": full})[:-500],
        "persistent": raw(b"\x80\x02X\1\0\0\0aQ."),
        "extension": raw(b"\x80\x02\x82\x01."),
        "instance": raw(b"(ios\nsystem\n."),
        "new-object": raw(b"\x80\x02cos\nsystem\n)\x81."),
        "long-numbers": raw(b"I" + b"9" * 9999 + b"\n."),
        "deep": raw(b"(" * 100_000 + b"t" * 100_000 + b"."),
        "doubling": raw(b"]q\0" + b"(h\0h\0tq\0" * 60 + b"."),
        "doubling-key": raw(b")q\0" + b"h\0h\0\x86q\0" * 60 + b"}h\0Ns."),
        "memo-far": raw(b"\x80\x02j\xff\xff\xff\x7f."),
        "frame-huge": raw(b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f."),
        "bytes-huge": raw(b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx."),
        "bytearray-huge": raw(b"\x80\x05\x96" + (1 << 36).to_bytes(8, "little") + b"x."),
        "no-dictionary": saved(full),
        "list": saved(np.array([1, "x", None], dtype=object)),
        "other-keys": saved({"\x1b[31mkeys": keys, "cams": full}),
        "class-unknown": saved({"keys": np.array([77]), "attn_highres": full}),
        "class-negative": saved({"keys": np.array([-1]), "attn_highres": full}),
        "keys-object": saved({"keys": np.array([None]), "attn_highres": full}),
        "maps-nan": saved({"keys": keys, "attn_highres": full * np.float16(np.nan)}),
        "maps-large": saved({"keys": keys, "attn_highres": full * 9}),
        "maps-small": saved({"keys": keys, "attn_highres": full[:, :3]}),
        "maps-integer": saved({"keys": keys, "attn_highres": full.astype(np.int64)}),
        "maps-more": saved({"keys": keys, "attn_highres": np.concatenate([full] * 3)}),
        "huge-array": raw(b"", "<f2", (1 << 20, 1 << 20)),
        "header-with-call": npy_header("|O", "__import__('os').mkdir('executed')"),  # type: ignore[arg-type]
        "json": json.dumps({"keys": [0]}).encode(),
    }


def _imported(yard: Yard, name: str) -> list[str]:
    """`seeds --from-npy` with one hostile file."""
    write(yard.data / "0000.jpg", photograph("PNG"))
    write(yard.data / "0001.jpg", photograph())
    write(yard.data / "tags.csv", "image,tags\n0000.jpg,cat\n0001.jpg,dog\n")
    write(yard.data / "npy/0000.npy", _dictionaries()[name])
    return ["seeds", "--from-npy", "npy", "--data.root", ".", "--out", OUT, "--workers", "0", "--device", "cpu"]
