"""A folder of what people decided about masks: written, read again, taken back, refused."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.files import write_json
from tag2mask.data import DataSettings, corrections, open_images
from tag2mask.data.corrections import IMPORTED, RECORD, Corrections, Decision, read_decided
from tag2mask.data.images import read_mask, write_mask

CLASSES = ("cat", "dog")
MASK = np.array([[0, 1, 255], [2, 2, 0]], dtype=np.uint8)


def test_what_was_decided_is_there_for_the_next_process(tmp_path: Path) -> None:
    kept = Corrections(tmp_path / "new", CLASSES)
    kept.write("deep/a.b", Decision.now("corrected", ["dog"]), MASK)
    kept.write("c", Decision.now("rejected"))
    kept.write("d", Decision.now(tags=[]))
    again = Corrections(tmp_path / "new", CLASSES)
    assert list(again.ids()) == ["c", "d", "deep/a.b"]
    corrected = again.decision("deep/a.b")
    assert corrected is not None and corrected.verdict == "corrected" and corrected.tags == ("dog",) and corrected.at
    path = again.mask("deep/a.b")
    assert path is not None and (read_mask(path) == MASK).all()
    rejected, tagged = again.decision("c"), again.decision("d")
    assert rejected is not None and rejected.verdict == "rejected" and rejected.tags is None
    assert tagged is not None and tagged.verdict is None and tagged.tags == ()
    assert again.mask("c") is None and again.mask("e") is None and again.decision("e") is None


def test_a_later_decision_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    kept = Corrections(tmp_path, CLASSES)
    kept.write("a", Decision.now("accepted"), MASK)
    kept.write("a", Decision.now("rejected"))
    assert kept.mask("a") is None and not (tmp_path / "a.png").exists()
    kept.write("a", Decision.now("corrected"), 0 * MASK)
    path = kept.mask("a")
    assert path is not None and not read_mask(path).any()
    kept.forget("a")
    assert kept.decision("a") is None and not list(kept.ids())


def test_masks_that_an_import_wrote_are_corrected_ones(tmp_path: Path) -> None:
    write_mask(tmp_path / "sub/a.png", MASK)
    write_json(tmp_path / IMPORTED, {"format": "masks", "classes": list(CLASSES)})
    kept = Corrections(tmp_path, CLASSES)
    assert list(kept.ids()) == ["sub/a"]
    assert kept.decision("sub/a") == Decision("corrected") and kept.mask("sub/a") == tmp_path / "sub/a.png"


@pytest.mark.parametrize("record", [RECORD, IMPORTED])
def test_another_class_list_is_refused(record: str, tmp_path: Path) -> None:
    write_json(tmp_path / record, {"classes": ["dog", "cat"]})
    with pytest.raises(UsageError, match=r"dog, cat.*cat, dog"):
        Corrections(tmp_path, CLASSES)


@pytest.mark.parametrize("record", [RECORD, IMPORTED])
@pytest.mark.parametrize("text", ["", "[]", '{"classes": "cat"}', "[" * 100_000, "\0\1"], ids=lambda text: text[:9])
def test_a_damaged_class_list_is_to_be_written_back(record: str, text: str, tmp_path: Path) -> None:
    (tmp_path / record).write_text(text)
    with pytest.raises(Tag2maskError, match="do not delete it: write the class list back") as raised:
        Corrections(tmp_path, CLASSES)
    assert "made again" not in str(raised.value)


@pytest.mark.parametrize("image_id", ["corrections", "tag2mask-export"])
def test_a_image_with_the_name_of_a_record(image_id: str, tmp_path: Path) -> None:
    kept = Corrections(tmp_path, CLASSES)
    with pytest.raises(Tag2maskError, match="rename it"):
        kept.write(image_id, Decision.now("rejected"))
    write_mask(tmp_path / f"{image_id}.png", MASK)
    decided, _ = read_decided(tmp_path, CLASSES)
    assert "rename it" in decided.damaged[image_id] and not decided.has_mask(image_id)


def test_a_name_too_long(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", MASK)
    (tmp_path / "a.png").rename(tmp_path / f"{'a' * 251}.png")
    decided, _ = read_decided(tmp_path, CLASSES)
    assert "rename its image" in decided.damaged["a" * 251]
    assert "does not exist" in read_decided(tmp_path / ("b" * 300), CLASSES)[1][0].message


@pytest.mark.parametrize("after", range(4))
def test_a_decision_that_is_taken_back_is_never_damaged(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Corrections(tmp_path, CLASSES)
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
        patched.setattr(corrections, "write_json", stopped(corrections.write_json))
        patched.setattr(Path, "unlink", stopped(Path.unlink))
        kept.forget("a")
    decided, problems = read_decided(tmp_path, CLASSES)
    assert not decided.damaged and not problems
    assert decided.has_mask("a") == (after == 0)  # as it was, or nothing at all


@pytest.mark.parametrize(
    "text",
    ["", "[]", "[" * 100_000, "\0\1", '{"verdict": "fine"}', '{"verdict": null, "tags": "cat"}', '{"tags": [1]}'],
    ids=lambda text: text[:20],
)
def test_a_damaged_decision_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(Tag2maskError, match=r"a\.json"):
        Corrections(tmp_path, CLASSES).decision("a")


def test_a_mask_goes_with_the_decisions_that_have_one(tmp_path: Path) -> None:
    kept = Corrections(tmp_path, CLASSES)
    with pytest.raises(ValueError, match="needs a mask"):
        kept.write("a", Decision.now("accepted"))
    with pytest.raises(ValueError, match="has no mask"):
        kept.write("a", Decision.now("rejected"), MASK)
    assert not list(kept.ids())


def test_a_folder_of_decisions_among_class_folders_is_no_class(tmp_path: Path) -> None:
    for name in ("cat/one", "dog/two"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(np.zeros((3, 3, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    Corrections(tmp_path / "decided", CLASSES).write("cat/one", Decision.now("accepted", ["dog"]), MASK)
    images = open_images(DataSettings(root=tmp_path, corrections=tmp_path / "decided"))
    assert images.classes == CLASSES and {item.id: item.tags for item in images.items} == {
        "cat/one": (2,),
        "dog/two": (2,),
    }
    assert images.decided.has_mask("cat/one") and not images.decided.has_mask("dog/two")
    (tmp_path / "way").symlink_to(tmp_path, target_is_directory=True)  # the same folder by another way
    again = open_images(DataSettings(root=tmp_path, corrections=tmp_path / "way/decided"))
    assert again.classes == CLASSES
