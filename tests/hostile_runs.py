"""Hostile run folders: settings, records, locks, figures, logs and states of resuming that somebody else wrote."""

import json
import os
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copy2, copytree
from socket import gethostname

import torch

from hostile_case import OUT, Case, Executes, Yard, write, yaml_payload

GARBAGE: dict[str, bytes | str] = {
    "nothing": "",
    "list": "[]",
    "text": '"x"',
    "deep": "[" * 100_000,
    "noise": bytes(range(256)),
    "empty-mapping": "{}",
    "wrong-kinds": json.dumps(
        {"fingerprint": 7, "settings": [], "inputs": "x", "train": 1, "cams": {"val": []}, "images": "x"}
    ),
}

SETTINGS = {
    "payload": "out: PAYLOAD\n",
    "payload-module": "a: !!python/module:hostile_module\n",
    "class-path": "data:\n  class_path: hostile_module.Data\n",
    "unknown-setting": "train: {evil: 1}\n",
    "nan": "external: {agreement: .nan}\n",
    "seed-huge": f"seed: {'9' * 5000}\n",
    "null-byte": 'data: {root: "a\\0b"}\n',
    "escapes": 'data: {root: "\\e[2Jnothing"}\n',
    "laughs": "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nseed: [*b,*b,*b]\n",
    "deep": "seed: " + "[" * 5000 + "\n",
    "noise": bytes(range(256)),
}

STATES = ("pickle", "executes", "number", "empty", "shapes", "step", "text")


def cases(rng: random.Random) -> Iterator[Case]:
    """All of them."""
    for name, text in SETTINGS.items():
        yield Case("run-settings", name, lambda yard, text=text: _settings(yard, text))
    reads = {"train/stage.json": "cams", "cams/stage.json": "refine", "refine/stage.json": "evaluate"}
    shown = ("metrics.json", "environment.json", "train/log.jsonl")
    for number, (name, content) in enumerate(GARBAGE.items()):

        def put(path: str, *words: str, content: bytes | str = content) -> Callable[[Yard], list[str]]:
            return lambda yard: _changed(yard, path, content, *words)

        # Every other one where reading is the same code and takes longer.
        for path, verb in reads.items():
            if verb == "refine" or number % 2:
                yield Case(f"record-{path.partition('/')[0]}", name, put(path, verb), path)
        for path in shown if number % 2 else ():
            yield Case(f"report-{Path(path).stem}", name, put(path, "report"), "", (0, 1))
        yield Case("lock", name, put("run.lock.json", "refine"), "run.lock.json", (2,))
        said, codes = ("", (0,)) if name == "empty-mapping" else ("metrics.json", (1,))
        yield Case("figures", name, put("metrics.json", "evaluate"), said, codes)
        yield Case("pace", name, put("throughput/cams.json", "cams", "--dry-run"), "", (0,))
    for name, holder in _holders().items():
        held = lambda yard, h=holder: _changed(yard, "run.lock.json", json.dumps(h), "refine")  # noqa: E731
        yield Case("lock-holder", name, held, "", (2,))
    for number in ("0", "9" * 30):
        abandoned = f"cams/.partial-{gethostname()}~{number}~ab~x.npz"
        left = lambda yard, name=abandoned: _changed(yard, name, b"", "refine")  # noqa: E731
        yield Case("abandoned", number, left, "", (0,))
    for name in STATES:
        yield Case("state", name, lambda yard, name=name: _resumed(yard, name), "train/state.pt", (1,))


def _copied(yard: Yard) -> None:
    """The finished run as OUT; what is large is linked, and replaced where it is to be changed."""

    def place(source: str, target: str) -> str:
        if source.endswith((".safetensors", ".pt")):
            os.link(source, target)
            return target
        return str(copy2(source, target))

    copytree(yard.fixture("done"), yard.out, copy_function=place)


def _changed(yard: Yard, name: str, content: bytes | str, verb: str, *more: str) -> list[str]:
    """A run with another file in the place of one of its own, and a verb that reads it."""
    _copied(yard)
    target = yard.out / name
    target.unlink(missing_ok=True)
    write(target, content)
    return [verb, OUT, *more]


def _settings(yard: Yard, text: bytes | str) -> list[str]:
    """A folder that looks like a run, with its settings."""
    write(yard.data / "hostile_module.py", f"import os\nos.mkdir({str(yard.marker)!r})\nclass Data: pass\n")
    if isinstance(text, str):
        text = text.replace("PAYLOAD", yaml_payload(yard.marker))
    write(yard.out / "config.yaml", text)
    return ["refine", OUT]


def _holders() -> dict[str, dict[str, object]]:
    """Locks whose parts are of other kinds."""
    sound: dict[str, object] = {"command": "train", "process": 1, "host": "elsewhere", "since": "now"}
    return {
        "escapes": sound | {"command": "\x1b[2Jtrain", "host": "\u202eevil"},
        "command-list": sound | {"command": [1]},
        "process-huge": sound | {"process": 10**30},
        "process-negative": sound | {"process": -1},
        "process-mapping": sound | {"process": {"a": [1]}},
        "since-deep": sound | {"since": json.loads("[" * 200 + "]" * 200)},
        "host-number": sound | {"host": 5},
    }


def _resumed(yard: Yard, name: str) -> list[str]:
    """Training that goes on from a hostile state."""
    _copied(yard)
    (yard.out / "train/network.safetensors").unlink()
    state = yard.out / "train/state.pt"
    sound = torch.load(state, weights_only=True) if name in ("shapes", "step") else {"step": 2}
    state.unlink()
    if name == "pickle":
        state.write_bytes(pickle.dumps(Executes(yard.marker)))
    elif name == "text":
        state.write_text("no state")
    else:
        weights = {key: value[None] for key, value in sound.get("network", {}).items()}
        made = {
            "executes": sound | {"step": Executes(yard.marker)},
            "number": 7,
            "empty": {},
            "shapes": sound | {"network": weights},
            "step": sound | {"step": -5},
        }
        torch.save(made[name], state)
    return ["train", "--out", OUT]
