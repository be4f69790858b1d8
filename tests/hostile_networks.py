"""Hostile networks for `predict`, and hostile places and names of images for it."""

import io
import json
import pickle
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from hostile_case import OUT, Case, Executes, Yard, write
from hostile_images import image
from hostile_names import NAMES

Description = dict[str, Any]


def cases(rng: random.Random) -> Iterator[Case]:
    """All of them."""
    for name in _files(b"", Path("executed")):
        yield Case("network-file", name, lambda yard, name=name: _with_file(yard, name), "model.safetensors")
    for name, change in _descriptions().items():
        yield Case("network-says", name, lambda yard, change=change: _with(yard, change), "model.safetensors")
    for name, pattern in _patterns().items():
        yield Case("predict-place", name, lambda yard, pattern=pattern: _at(yard, pattern), "", (1, 2))
    yield Case("predict-names", "all", _names, f"{len(NAMES)} failed", (1,))


def _predicted(yard: Yard, network: bytes, place: str = "photos") -> list[str]:
    write(yard.data / "photos/one.jpg", image())
    write(yard.data / "model.safetensors", network)
    return ["predict", "model.safetensors", place, "--out", OUT, "--workers", "0", "--device", "cpu"]


def _sound(yard: Yard) -> bytes:
    return Path(yard.fixture("segmenter")).read_bytes()


def _with_file(yard: Yard, name: str) -> list[str]:
    return _predicted(yard, _files(_sound(yard), yard.marker)[name])


def _with(yard: Yard, change: Callable[[Description], object]) -> list[str]:
    """A network whose description is changed."""
    whole = _sound(yard)
    header, tensors = _parts(whole)
    description = json.loads(header["__metadata__"]["tag2mask"])
    changed = change(description)
    header["__metadata__"]["tag2mask"] = changed if isinstance(changed, str) else json.dumps(description)
    return _predicted(yard, _file(header, tensors))


def _parts(whole: bytes) -> tuple[Description, bytes]:
    (length,) = struct.unpack_from("<Q", whole)
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def _file(header: object, tensors: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + tensors


def _files(sound: bytes, marker: Path) -> dict[str, bytes]:
    """Other files under the name of a network."""
    header, tensors = _parts(sound) if sound else ({}, b"")
    saved = io.BytesIO()
    torch.save({"a": torch.zeros(3), "b": Executes(marker)}, saved)

    def tensor(**change: object) -> bytes:
        return _file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | change}, bytes(8))

    first = next((name for name in header if name != "__metadata__"), "a")
    less = {name: value for name, value in header.items() if name != first}
    return {
        "nothing": b"",
        "pickle": pickle.dumps(Executes(marker)),
        "torch-save": saved.getvalue(),
        "length-huge": _file({}, length=2**63),
        "length-above-the-limit": _file({}, length=200 << 20),
        "header-no-json": _file(b"{" * 5000),
        "no-metadata": tensor(),
        "metadata-nested": _file({"__metadata__": {"tag2mask": {"kind": "segmentation"}}}),
        "tensor-outside": tensor(data_offsets=[0, 2**40]),
        "tensor-huge": tensor(shape=[2**40, 2**40]),
        "tensor-unknown-type": tensor(dtype="EVIL"),
        "cut-off": sound[: len(sound) // 2],
        "garbage-behind": sound + b"x" * 99,
        "tensors-missing": _file(less, tensors),
        "tensor-of-another-shape": _file(header | {first: dict(header.get(first, {}), shape=[1])}, tensors),
        "tensors-none": _file({"__metadata__": header.get("__metadata__", {})}),
    }


def _descriptions() -> dict[str, Callable[[Description], object]]:
    """Descriptions that are of no network, or of a very large one."""

    def put(name: str, value: object) -> Callable[[Description], object]:
        return lambda found: found.update({name: value})

    def config(**values: object) -> Callable[[Description], object]:
        return lambda found: found["backbone"]["config"].update(values)

    settings = lambda **values: lambda found: found["settings"].update(values)  # noqa: E731
    found: dict[str, Callable[[Description], object]] = {
        f"no-{name}": lambda found, name=name: found.pop(name)
        for name in ("format_version", "kind", "classes", "settings", "backbone", "normalisation")
    }
    return found | {
        "no-json": lambda _: "{",
        "deep": lambda _: "[" * 100_000,
        "version-newer": put("format_version", 10**30),
        "kind-unknown": put("kind", "\x1b[31mevil"),
        "kind-pot": put("kind", "pot"),
        "classes-more": put("classes", ["cat", "dog", "cow"]),
        "mean-nan": put("normalisation", {"mean": [float("nan")] * 3, "std": [1, 1, 1]}),
        "std-zero": put("normalisation", {"mean": [0, 0, 0], "std": [0, 0, 0]}),
        "settings-head": settings(head="evil"),
        "backbone-resnet": put("backbone", {"kind": "resnet", "name": "resnet9999"}),
        "backbone-divisor": put("backbone", {"kind": "wide-resnet38", "divisor": 0}),
        "model-unknown": config(model_type="evil"),
        "model-remote": config(model_type="evil", auto_map={"AutoModel": "evil--evil.Model"}),
        "model-wide": config(hidden_size=1 << 20),
        "model-deep": config(num_hidden_layers=10**9),
        "model-of-many-blocks": config(model_type="hgnet_v2", stage_num_blocks=[10**6] * 4),
        "model-act": config(hidden_act="os.system"),
    }


def _patterns() -> dict[str, str]:
    """Places of images that are none, or would put masks elsewhere."""
    return {
        "climbing": "photos/*/../../*.png",
        "climbing-outside": "*/../../../secret.png",
        "nowhere": "nothing/here",
        "device": "/dev/zero",
        "process": "/proc/self/mem",
        "long": "n" * 5000,
    }


def _at(yard: Yard, pattern: str) -> list[str]:
    (yard.data / "photos/deep").mkdir(parents=True)
    write(yard.top / "a/b/c/other.png", image("PNG"))
    return _predicted(yard, _sound(yard), pattern)


def _names(yard: Yard) -> list[str]:
    """Sound and empty images of all names at once: each gets a mask, or a line."""
    for raw, _ in NAMES.values():
        name = raw.decode("utf-8", "surrogateescape")
        write(yard.data / f"photos/{name}.png", image("PNG"))
        write(yard.data / f"photos/no {name[:200]}.jpg", b"")
    return _predicted(yard, _sound(yard))
