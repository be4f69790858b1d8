"""Hostile command lines."""

import random
from collections.abc import Iterator

from hostile_case import OUT, Case, Yard, write
from hostile_images import image
from hostile_tables import SOUND

WORDS: dict[str, list[str]] = {
    "nothing": [],
    "unknown-verb": ["\x1b[31mevil"],
    "unknown-setting": ["--evil", "1"],
    "section-alone": ["--train", "5"],
    "dots": ["--train..steps", "5"],
    "endless-name": ["--" + "x" * 5000, "1"],
    "no-value": ["--seed"],
    "nan": ["--train.learning_rate", "nan"],
    "negative": ["--workers", "-1"],
    "shard": ["--shard", "3/2"],
    "shard-digits": ["--shard", f"1/{'9' * 5000}"],
    "shard-arabic": ["--shard", "\u0661/\u0660"],
    "yaml": ["--seed", "!!python/object/apply:os.mkdir [executed]"],
    "yaml-deep": ["--cams.scales", "[" * 3000],
    "class": ["--data", "{class_path: hostile_module.Data}"],
    "kinds": ["--cams.kinds", "[evil]"],
    "config-device": ["--config", "/dev/zero"],
    "config-image": ["--config", "one.jpg"],
    "config-url": ["--config", "http://127.0.0.1:9/x.yaml"],
    "config-inline": ["--config", "seed: 1"],
    "device": ["--device", "evil"],
    "markup": ["--data.kind", "[/red]"],
    "surrogate": ["--data.kind", "\udcff"],
    "restart": ["--restart", "../.."],
}


def cases(rng: random.Random) -> Iterator[Case]:
    """Single words after `check .`, and scrambled command lines."""
    for name, words in WORDS.items():
        said = words[-2].lstrip("-").rpartition(".")[2][:200] if len(words) > 1 else ""
        said = "one.jpg" if name == "config-image" else said
        make = lambda yard, words=words, name=name: _train(yard, name, words)  # noqa: E731
        yield Case("words", name, make, said if said.isprintable() else "", (2,))
    pieces = ["check", "train", "--out", ".", "--seed", "--", "=", "-h9", "--data.root", "1", "\n", "--x=", "{}"]
    for number in range(6):
        words = [rng.choice(pieces) for _ in range(rng.randint(1, 5))]
        yield Case("words-at-random", str(number), lambda yard, words=words: words, "", (1, 2))


def _train(yard: Yard, name: str, words: list[str]) -> list[str]:
    write(yard.data / "one.jpg", image())
    write(yard.data / "two.jpg", image("PNG"))
    write(yard.data / "tags.csv", SOUND)
    write(yard.data / "hostile_module.py", f"import os\nos.mkdir({str(yard.marker)!r})\nclass Data: pass\n")
    if name in ("nothing", "unknown-verb"):
        return words
    dry = [] if name == "restart" else ["--dry-run"]
    return ["train", "--data.root", ".", "--out", OUT, *dry, *words]
