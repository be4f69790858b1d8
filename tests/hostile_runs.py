"""Hostile run folders: settings, records, locks, figures, logs and states of resuming that somebody else wrote."""

import json
import os
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from shutil import copy2, copytree
from socket import gethostname

import torch

from hostile_case import OUT, Case, Executes, Yard, write, yaml_payload

GARBAGE: dict[str, bytes | str] = {
    "nothing": "",
    "list": "[]",
    "number": "7",
    "text": '"x"',
    "null": "null",
    "deep": "[" * 100_000,
    "noise": bytes(range(256)),
    "cut-off": '{"a": {"b',
    "empty-mapping": "{}",
    "wrong-kinds": json.dumps(
        {"fingerprint": 7, "settings": [], "inputs": "x", "train": 1, "cams": {"val": []}, "photographs": "x"}
    ),
}

SETTINGS = {
    "payload": "out: PAYLOAD\n",
    "payload-new": "!!python/object/new:os.mkdir [executed]\n",
    "payload-module": "a: !!python/module:hostile_module\n",
    "payload-name": "train: !!python/name:os.system\n",
    "class-path": "data:\n  class_path: hostile_module.Data\n",
    "unknown-tag": "seed: !evil 1\n",
    "itself": "config: ../out/config.yaml\n",
    "unknown-setting": "train: {evil: 1}\n",
    "section-text": "train: yes please\n",
    "nan": "external: {floor: .nan}\n",
    "seed-huge": f"seed: {'9' * 5000}\n",
    "seed-text": "seed: cat\n",
    "null-byte": 'data: {root: "a\\0b"}\n',
    "escapes": 'data: {root: "\\e[2Jnothing"}\n',
    "laughs": "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nseed: [*b,*b,*b]\n",
    "deep": "seed: " + "[" * 5000 + "\n",
    "noise": bytes(range(256)),
    "nothing-there": "data: {root: /nothing/here}\n",
}

STATES = ("pickle", "executes", "number", "empty", "shapes", "step", "text")


def cases(rng: random.Random) -> Iterator[Case]:
    """All of them."""
    for name, text in SETTINGS.items():
        yield Case("run-settings", name, lambda yard, text=text: _settings(yard, text))
    reads = {"train/stage.json": "cams", "cams/stage.json": "refine", "refine/stage.json": "evaluate"}
    shown = ("metrics.json", "environment.json", "train/log.jsonl")
    for number, (name, content) in enumerate(GARBAGE.items()):
        for path, verb in reads.items():
            case = lambda yard, p=path, c=content, v=verb: _changed(yard, p, c, v)  # noqa: E731
            if verb == "refine" or number % 2:  # the others are slower, and read it by the same lines
                yield Case(f"record-{path.partition('/')[0]}", name, case, path)
        for path in shown if number % 2 else ():
            told = lambda yard, p=path, c=content: _changed(yard, p, c, "report")  # noqa: E731
            yield Case(f"report-{Path(path).stem}", name, told, "", (0, 1))
        lock = lambda yard, c=content: _changed(yard, "run.lock.json", c, "refine")  # noqa: E731
        yield Case("lock", name, lock, "run.lock.json", (2,))
        figures = lambda yard, c=content: _changed(yard, "metrics.json", c, "evaluate")  # noqa: E731
        usable = name in ("empty-mapping",)
        yield Case("figures", name, figures, "" if usable else "metrics.json", (0,) if usable else (1,))
        pace = lambda yard, c=content: _changed(yard, "pace/cams.json", c, "cams", "--dry-run")  # noqa: E731
        yield Case("pace", name, pace, "", (0,))
    for name, holder in _holders().items():
        yield Case(
            "lock-holder",
            name,
            lambda yard, h=holder: _changed(yard, "run.lock.json", json.dumps(h), "refine"),
            "",
            (2,),
        )
    for number in ("0", "-1", "9" * 30, "9" * 200):
        abandoned = f"cams/.partial-{gethostname()}~{number}~ab~x.npz"
        case = lambda yard, name=abandoned: _changed(yard, name, b"", "refine")  # noqa: E731
        yield Case("abandoned", f"process-{len(number)}-{number[:2]}", case, "", (0,))
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
    words = [verb, OUT] if verb == "report" else [verb, "--out", OUT]
    return [*words, *more]


def _settings(yard: Yard, text: bytes | str) -> list[str]:
    """A folder that looks like a run, with its settings."""
    write(yard.data / "hostile_module.py", f"import os\nos.mkdir({str(yard.marker)!r})\nclass Data: pass\n")
    if isinstance(text, str):
        text = text.replace("PAYLOAD", yaml_payload(yard.marker))
    write(yard.out / "config.yaml", text)
    return ["refine", "--out", OUT]


def _holders() -> dict[str, dict[str, object]]:
    """Locks whose parts are of other kinds."""
    sound: dict[str, object] = {"command": "train", "process": 1, "host": "elsewhere", "since": "now"}
    return {
        "escapes": sound | {"command": "\x1b[2Jtrain", "host": "\u202eevil"},
        "command-list": sound | {"command": [1]},
        "process-text": sound | {"process": "1"},
        "process-huge": sound | {"process": 10**30},
        "process-negative": sound | {"process": -1},
        "process-mapping": sound | {"process": {"a": [1]}},
        "since-nothing": sound | {"since": None},
        "since-deep": sound | {"since": json.loads("[" * 200 + "]" * 200)},
        "host-number": sound | {"host": 5},
        "more": sound | {"evil": 1},
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
