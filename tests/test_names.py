"""The names of the code are those of the field: words that were retired stay retired."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parent.parent / "src/tag2mask").rglob("*.py"))

RETIRED = """
    photo photos photograph photographs witness witnesses twin twins likeness desk refinable refinables learnt judge
    judged judgement suspicion suspicions rival rivals strongest withheld tally pace paced claims stray strays boxed
    ranged beside evidence remade
"""  # parts of identifiers

RETIRED_NAMES = """
    Kept Trained StopRequest Holder follow take_over offer held held_along claim without_damaged as_written read_ahead
    read_bounded reads_for put_out of_these_tags Places Looks Seen Decided LearntFrom Beside Piece Doubt longest_side
    accumulate head_factor bias_factor power_every keep_confidence label_weights minimum_seeds photographs_per_tar
"""  # whole identifiers


def identifiers(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for field in ("id", "attr", "name", "arg"):
            if isinstance(name := getattr(node, field, None), str):
                yield name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_retired_name(path: Path) -> None:
    allowed = {"photos"} if "cli" in path.parts or path.stem == "predict" else set[str]()  # PHOTOS of the command line
    found = {
        name
        for name in identifiers(path)
        if name in RETIRED_NAMES.split()
        or {part.lower() for part in re.findall(r"[A-Z]?[a-z]+", name.replace("_", " "))} & {*RETIRED.split()}
    }
    assert not found - allowed


def test_every_folder_is_small() -> None:
    files = [path.parent for path in SOURCES]
    assert max(files.count(folder) for folder in set(files)) <= 14
    assert not {"utils", "helpers", "common", "misc"} & {path.stem for path in SOURCES}
