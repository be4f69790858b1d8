"""A folder of corrections: written, read again, undone, refused."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.files import write_json
from tag2mask.data.corrections import RECORD, CorrectionsFolder, Decision, read_corrections
from tag2mask.data.images import read_mask, write_mask

CLASSES = ("cat", "dog")
MASK = np.array([[0, 1, 255], [2, 2, 0]], dtype=np.uint8)


def test_decisions_are_read_by_another_process(tmp_path: Path) -> None:
    kept = CorrectionsFolder(tmp_path / "new", CLASSES)
    kept.write("deep/a.b", Decision.now("corrected", ["dog"]), MASK)
    kept.write("c", Decision.now("rejected"))
    kept.write("d", Decision.now(tags=[]))
    again = CorrectionsFolder(tmp_path / "new", CLASSES)
    assert again.ids() == ["c", "d", "deep/a.b"]
    corrected = again.decision("deep/a.b")
    assert corrected is not None and corrected.verdict == "corrected" and corrected.tags == ("dog",) and corrected.at
    path = again.mask("deep/a.b")
    assert path is not None and (read_mask(path) == MASK).all()
    rejected, tagged = again.decision("c"), again.decision("d")
    assert rejected is not None and rejected.verdict == "rejected" and rejected.tags is None
    assert tagged is not None and tagged.verdict is None and tagged.tags == ()
    assert again.mask("c") is None and again.mask("e") is None and again.decision("e") is None
    found, problems = read_corrections(tmp_path / "new", CLASSES)
    assert not problems and not found.damaged and not found.unused
    assert found.verdicts == {"deep/a.b": "corrected", "c": "rejected"} and found.tags == {"deep/a.b": (2,), "d": ()}


def test_a_later_decision_replaces_an_earlier_one(tmp_path: Path) -> None:
    kept = CorrectionsFolder(tmp_path, CLASSES)
    kept.write("a", Decision.now("accepted"), MASK)
    kept.write("a", Decision.now("rejected"))
    assert kept.mask("a") is None and not (tmp_path / "a.png").exists()
    kept.write("a", Decision.now("corrected"), 0 * MASK)
    path = kept.mask("a")
    assert path is not None and not read_mask(path).any()
    kept.forget("a")
    assert kept.decision("a") is None and not kept.ids() and not (tmp_path / "a.png").exists()


def test_a_mask_without_a_decision_is_not_used_and_named(tmp_path: Path) -> None:
    CorrectionsFolder(tmp_path, CLASSES).write("b", Decision.now("corrected"), MASK)
    write_mask(tmp_path / "sub/a.png", MASK)
    found, problems = read_corrections(tmp_path, CLASSES)
    assert not problems and not found.has_mask("sub/a")
    assert "1 masks have no decision ID.json and are not used: sub/a" in found.unused


def test_another_class_list_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / RECORD, {"classes": ["dog", "cat"]})
    with pytest.raises(UsageError, match=r"dog, cat.*cat, dog"):
        CorrectionsFolder(tmp_path, CLASSES)


@pytest.mark.parametrize("text", ["", "[]", '{"classes": "cat"}', "[" * 100_000, "\0\1"], ids=lambda text: text[:9])
def test_a_damaged_class_list_is_to_be_written_back(text: str, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(Tag2maskError, match="do not delete it: write the class list back") as raised:
        CorrectionsFolder(tmp_path, CLASSES)
    assert "made again" not in str(raised.value)


def test_masks_without_the_class_list_are_refused(tmp_path: Path) -> None:
    CorrectionsFolder(tmp_path, CLASSES).write("a", Decision.now("corrected"), MASK)
    (tmp_path / RECORD).unlink()
    found, (problem,) = read_corrections(tmp_path, CLASSES)
    assert not found.verdicts and problem.level == "error" and "write the class list back" in problem.message


def test_a_name_too_long(tmp_path: Path) -> None:
    with pytest.raises(Tag2maskError, match="rename its image"):
        CorrectionsFolder(tmp_path, CLASSES).decision("a" * 251)


@pytest.mark.parametrize("after", range(3))
def test_a_decision_that_is_undone_is_never_damaged(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = CorrectionsFolder(tmp_path, CLASSES)
    kept.write("a", Decision.now("corrected", ["dog"]), MASK)
    steps = 0

    def stopped(do: Callable[..., None]) -> Callable[..., None]:
        def step(*arguments: object, **more: object) -> None:
            nonlocal steps
            if steps == after:
                raise KeyboardInterrupt
            steps += 1
            do(*arguments, **more)

        return step

    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr(Path, "unlink", stopped(Path.unlink))
        kept.forget("a")
    found, problems = read_corrections(tmp_path, CLASSES)
    assert not found.damaged and not problems
    assert found.has_mask("a") == (after == 0)  # as it was, or nothing at all


@pytest.mark.parametrize(
    "text",
    ["", "[]", "[" * 100_000, "\0\1", '{"verdict": "fine"}', '{"verdict": null, "tags": "cat"}', '{"tags": [1]}'],
    ids=lambda text: text[:20],
)
def test_a_damaged_decision_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(Tag2maskError, match=r"a\.json"):
        CorrectionsFolder(tmp_path, CLASSES).decision("a")


def test_a_mask_is_given_with_the_decisions_that_have_one(tmp_path: Path) -> None:
    kept = CorrectionsFolder(tmp_path, CLASSES)
    with pytest.raises(ValueError, match="needs a mask"):
        kept.write("a", Decision.now("accepted"))
    with pytest.raises(ValueError, match="has no mask"):
        kept.write("a", Decision.now("rejected"), MASK)
    assert not kept.ids()
