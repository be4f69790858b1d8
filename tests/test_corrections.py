"""Corrected masks come back from other tools as they are there, and what is broken or hostile is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from run_tiny import empty_run, files_of
from tag2mask.cli import main
from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.files import write_json
from tag2mask.data import DataSettings, corrections, open_images, read_mask, write_mask
from tag2mask.data.corrections import CorrectionsFolder, Decision, read_corrections
from tag2mask.export.formats import ExportSettings, cvat, export_masks, labelstudio
from tag2mask.export.formats.importers import import_masks, read_folder
from tag2mask.export.formats.labelstudio import decode_brush, encode_brush
from tag2mask.export.formats.record import CorrectedMask, ReadResult
from tag2mask.export.formats.registry import MaskSource

CLASSES = ("cat", "dog, small", "tür/öffnung")
IDS = ("one", "trip 1/two.of.them", "fotos/grün & 東京")


def _slow_decode(rle: list[int]) -> list[int]:
    """The values of brush run lengths, bit by bit, as the format is described."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    count, size = take(32), take(5) + 1
    widths = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        repeated = take(1)
        length = take(widths[take(2)]) + 1
        values += [take(size)] * length if repeated else [take(size) for _ in range(length)]
    assert len(values) == count
    return values


def _literal(values: list[int]) -> list[int]:
    """Run lengths without runs, in blocks of up to 16 values, which Label Studio writes for soft edges."""
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{width - 1:04b}" for width in (3, 4, 8, 16))
    for start in range(0, len(values), 16):
        block = values[start : start + 16]
        bits += f"001{len(block) - 1:04b}" + "".join(f"{value:08b}" for value in block)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]


def _masks() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {}
    for number, image_id in enumerate(IDS):
        mask = np.kron(rng.integers(0, 4, (5, 6)), np.ones((4, 5))).astype(np.uint8)
        mask[:3, : number * 5] = 255
        found[image_id] = mask
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for image_id, mask in _masks().items():
        write_mask(tmp_path / "masks" / f"{image_id}.png", mask)
    return tmp_path / "masks"


def _tasks(folder: Path, out: Path) -> list[dict[str, Any]]:
    """What Label Studio exports once every prediction was accepted."""
    export_masks("labelstudio", MaskSource(folder, CLASSES), out)
    tasks = json.loads((out / "tasks.json").read_text(encoding="utf-8"))
    for number, task in enumerate(tasks, start=1):
        task |= {"id": number, "annotations": [{"was_cancelled": False, **task.pop("predictions")[0]}]}
    return tasks


def _written(tasks: object, path: Path) -> Path:
    path.write_text(json.dumps(tasks), encoding="utf-8")
    return path


def _same(read: Any, masks: dict[str, np.ndarray]) -> None:
    found = dict(read)
    assert found.keys() == masks.keys()
    for image_id, mask in masks.items():
        assert np.array_equal(found[image_id], mask), image_id


@given(arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_brush_run_lengths_are_what_an_obvious_decoder_reads(covered: np.ndarray) -> None:
    rle = encode_brush(covered)
    assert all(0 <= byte <= 255 for byte in rle)
    assert _slow_decode(rle) == np.repeat(covered.ravel() * 255, 4).tolist()
    assert np.array_equal(decode_brush(rle, covered.shape), covered)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=40))
def test_values_of_their_own_are_read_by_their_alpha(alphas: list[int]) -> None:
    values = [value for alpha in alphas for value in (1, 2, 3, alpha)]
    rle = _literal(values)
    assert _slow_decode(rle) == values
    assert decode_brush(rle, (1, len(alphas))).ravel().tolist() == [alpha >= 128 for alpha in alphas]


def test_a_run_longer_than_any_block() -> None:
    covered = np.ones((300, 400), dtype=bool)
    covered[150, 7] = False
    assert np.array_equal(np.array(_slow_decode(encode_brush(covered)))[3::4].reshape(300, 400), covered * 255)
    assert np.array_equal(decode_brush(encode_brush(covered), (300, 400)), covered)


def test_label_studios_own_converter_agrees() -> None:
    brush = pytest.importorskip("label_studio_converter.brush", reason="pip install --no-deps label-studio-converter")
    for mask in _masks().values():
        covered = mask == 2
        assert np.array_equal(brush.decode_rle(encode_brush(covered)).reshape(*mask.shape, 4)[..., 3], covered * 255)
        assert np.array_equal(decode_brush(brush.mask2rle((covered * 255).astype(np.uint8)), mask.shape), covered)


@pytest.mark.parametrize(
    "damage",
    [
        lambda rle: rle[:-3],
        lambda rle: [],
        lambda rle: [255, *rle[1:]],
        lambda rle: [*rle[:4], 0, *rle[5:]],
        lambda rle: [*rle[:3], rle[3] + 4, *rle[4:]],
        lambda rle: [256, *rle],
        lambda rle: "rle",
    ],
)
def test_damaged_run_lengths_are_refused(damage: Any) -> None:
    rle = encode_brush(np.eye(6, dtype=bool))
    with pytest.raises(Tag2maskError, match="run lengths"):
        decode_brush(damage(rle), (6, 6))


@pytest.mark.parametrize("zipped", [True, False])
def test_cvat_gives_back_what_it_got(zipped: bool, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / ("cvat.zip" if zipped else "cvat")
    export_masks("cvat", MaskSource(folder, CLASSES), out, ExportSettings(ignore_label="unsure"))
    _same(cvat.read(out, CLASSES, ignored="unsure"), _masks())
    swapped = dict(cvat.read(out, (CLASSES[1], CLASSES[0], CLASSES[2]), ignored="unsure"))  # names count, not order
    assert np.array_equal(swapped["one"] == 1, _masks()["one"] == 2)
    with pytest.raises(UsageError, match="the labels unsure are not classes"):
        list(cvat.read(out, CLASSES))


def test_labels_that_cvat_sorted_and_coloured_anew(tmp_path: Path) -> None:
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/default.txt").write_text("a b\nsub/c\n")
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:9,8,7::\ncat:255,0,1::\n"
    )
    colours = np.array([[[0, 0, 0], [9, 8, 7]], [[255, 0, 1], [9, 8, 7]]], dtype=np.uint8)
    for name in ("a b", "sub/c"):
        path = tmp_path / "SegmentationClass" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(colours)
        (image.quantize(4) if name == "a b" else image).save(path)  # with a palette, and without
    expected = np.array([[0, 2], [1, 2]], dtype=np.uint8)
    _same(cvat.read(tmp_path, ("cat", "dog")), {"a b": expected, "sub/c": expected})


def test_what_is_wrong_in_a_cvat_export_is_named(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_masks("cvat", MaskSource(folder, CLASSES), out)
    (out / "SegmentationClass/one.png").write_bytes(b"none")
    other = np.array(Image.open(out / "SegmentationClass/trip 1/two.of.them.png"))
    other[0, 0] = (1, 2, 3)
    Image.fromarray(other).save(out / "SegmentationClass/trip 1/two.of.them.png")
    with (out / "ImageSets/Segmentation/default.txt").open("a") as file:
        file.write("gone\n../../../etc/passwd\n")
    found = {each[0]: each[1] for each in cvat.read(out, CLASSES)}
    assert "not an image" in found["one"] or "no image" in found["one"]
    assert "(1, 2, 3)" in found["trip 1/two.of.them"]
    assert "the image has no annotation" in found["gone"]
    assert "is not an image ID" in found["../../../etc/passwd"]
    assert np.array_equal(found[IDS[2]], _masks()[IDS[2]])
    for line in ("cat:1,2", "cat:1,2,300::", "other:5,5,5::", "x:0,0,0::"):
        (out / "labelmap.txt").write_text(f"background:0,0,0::\n{line}\n")
        with pytest.raises(UsageError):
            list(cvat.read(out, CLASSES))
    with pytest.raises(UsageError, match=r"no labelmap\.txt"):
        list(cvat.read(folder, CLASSES))


def test_label_studio_gives_back_what_it_got(folder: Path, tmp_path: Path) -> None:
    path = _written(_tasks(folder, tmp_path / "out"), tmp_path / "export.json")
    _same(labelstudio.read(path, CLASSES), _masks())
    config = (tmp_path / "out/config.xml").read_text(encoding="utf-8")
    assert all(f'value="{name}"' in config for name in (*CLASSES, "ignored"))
    assert "/data/local-files/?d=trip%201/two.of.them.jpg" in path.read_text()


def test_regions_of_two_classes_at_one_place_are_refused(folder: Path, tmp_path: Path) -> None:
    task = next(task for task in _tasks(folder, tmp_path / "out") if len(task["annotations"][0]["result"]) > 1)
    first, second = task["annotations"][0]["result"][:2]
    first["value"]["rle"] = second["value"]["rle"]  # as if somebody had drawn the one over the other
    ((_, reason),) = labelstudio.read(_written([task], tmp_path / "export.json"), CLASSES)
    assert "pixels of another class; erase one" in str(reason)


def test_what_is_not_annotated_is_passed_over_and_an_empty_annotation_is_background(
    folder: Path, tmp_path: Path
) -> None:
    tasks = _tasks(folder, tmp_path / "out")
    by_id = {task["data"]["image_id"]: task for task in tasks}
    by_id[IDS[0]]["annotations"][0]["result"] = []
    by_id[IDS[1]]["annotations"][0]["was_cancelled"] = True
    found = dict(labelstudio.read(_written(tasks, tmp_path / "export.json"), CLASSES))
    assert found.keys() == {IDS[0], IDS[2]}
    assert not found[IDS[0]].any() and found[IDS[0]].shape == _masks()[IDS[0]].shape


def test_a_folder_with_a_link_out_of_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("cat:1,2,3::")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/labelmap.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(Tag2maskError, match="leads out of the folder"):
        list(cvat.read(tmp_path / "in", CLASSES))


def test_a_folder_of_masks_is_read_and_checked(folder: Path) -> None:
    _same(read_folder(folder, CLASSES), _masks())
    found = dict(read_folder(folder, CLASSES[:1]))
    assert all("are not classes" in reason for reason in found.values())


def test_masks_of_images_of_the_run_are_written(scenes: Path, tmp_path: Path) -> None:
    images = open_images(DataSettings(root=scenes))
    first, second, third, *_ = images.items
    good = read_mask(scenes / "masks" / f"{first.id}.png")
    masks: list[ReadResult] = [
        CorrectedMask(first.id, good),
        CorrectedMask(second.id, good[1:]),
        CorrectedMask(third.id, 7 + good * 0),
        CorrectedMask("stranger", good),
        CorrectedMask("../up", good),
        ("broken", "a reason"),
    ]
    folder = CorrectionsFolder(tmp_path / "run/corrections", images.classes)
    with pytest.raises(Tag2maskError, match="no corrected mask"):
        import_masks(lambda: masks[1:], folder, images)
    assert not list(tmp_path.iterdir())
    made = import_masks(lambda: masks, folder, images)
    assert made.done == 1 and made.failed.keys() == {second.id, third.id, "stranger", "../up", "broken"}
    assert folder.ids() == [first.id] and sorted(tmp_path.rglob("*.png")) == [folder.stored_mask(first.id)]
    assert np.array_equal(read_mask(folder.mask(first.id) or Path()), good)
    twice = import_masks(lambda: [*masks[:1], *masks[:1], CorrectedMask(second.id, good * 0)], folder, images)
    assert twice.done == 1 and "two masks" in twice.failed[first.id]


def test_decisions_are_replaced_on_request_and_no_others(scenes: Path, tmp_path: Path) -> None:
    images = open_images(DataSettings(root=scenes))
    ids = [item.id for item in images.items]
    mask = np.zeros((64, 64), dtype=np.uint8)
    folder = CorrectionsFolder(tmp_path, images.classes)
    folder.write(ids[0], Decision.now("rejected", [images.classes[0]]))
    folder.write(ids[1], Decision.now(tags=[images.classes[1]]))
    folder.write(ids[2], Decision.now("accepted"), mask + 2)
    (tmp_path / f"{ids[3]}.json").write_text("{")
    before = files_of(tmp_path)

    def read() -> list[ReadResult]:
        return [CorrectedMask(image_id, mask + 1) for image_id in (*ids[:2], *ids[3:5])]

    with pytest.raises(UsageError, match=f"decisions about 2 of these masks: {ids[0]}, {ids[3]}; --overwrite"):
        import_masks(read, folder, images)
    assert files_of(tmp_path) == before
    assert import_masks(read, folder, images, overwrite=True).done == 4
    found, problems = read_corrections(tmp_path, images.classes)
    assert not problems and not found.damaged
    assert found.verdicts == {ids[2]: "accepted", **dict.fromkeys((*ids[:2], *ids[3:5]), "corrected")}
    assert found.tags == {ids[0]: (1,), ids[1]: (2,)}  # tags that were corrected stay
    assert read_mask(folder.mask(ids[2]) or Path()).max() == 2


def test_a_kill_leaves_whole_decisions_and_the_same_import_finishes(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_images(DataSettings(root=scenes))
    masks: list[ReadResult] = [CorrectedMask(item.id, np.ones((64, 64), dtype=np.uint8)) for item in images.items]
    folder = CorrectionsFolder(tmp_path / "killed", images.classes)
    written = 0

    def killed(path: Path, value: object) -> None:
        nonlocal written
        if written == 4:  # after the class list and three decisions: the fourth mask is there, its ID.json is not
            raise KeyboardInterrupt
        written += 1
        write_json(path, value)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(corrections, "write_json", killed)
        import_masks(lambda: masks, folder, images)
    found, problems = read_corrections(folder.folder, images.classes)
    assert not problems and not found.damaged and len(found.verdicts) == 3
    assert import_masks(lambda: masks, folder, images).done == len(images)
    found, _ = read_corrections(folder.folder, images.classes)
    assert len(found.verdicts) == len(images) and not found.unused


@pytest.mark.parametrize("name", ["cvat", "labelstudio", "masks"])
def test_the_command(name: str, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = copied / "masks"
    if name == "cvat":
        file = tmp_path / "cvat.zip"
        assert main(["export", "cvat", str(copied), "--out", str(file)]) == 0
    if name == "labelstudio":
        assert main(["export", "labelstudio", str(copied), "--out", str(tmp_path / "ls")]) == 0
        tasks = json.loads((tmp_path / "ls/tasks.json").read_text())
        file = _written([{**task, "annotations": task.pop("predictions")} for task in tasks], tmp_path / "ls.json")
    words = ["import", name, str(file), str(copied)]
    assert main([*words, "--dry-run"]) == 0
    assert not (copied / "corrections").exists()
    assert main(words) == 0
    for path in (copied / "masks").rglob("*.png"):
        assert np.array_equal(read_mask(copied / "corrections" / path.relative_to(copied / "masks")), read_mask(path))
    assert main(words) == 0  # as after a kill
    other = next((copied / "corrections").rglob("*.png"))
    write_mask(other, 0 * read_mask(other))
    assert main(words) == 2
    assert "decisions about 1 of these masks" in (said := capsys.readouterr().err)
    assert "--overwrite replaces them, and no others" in said


def test_wrong_use_of_the_command(
    folder: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, gone = str(empty_run(tmp_path / "run", scenes)), str(tmp_path / "gone")
    write_json(tmp_path / "several/repeats.json", {})
    several = str(empty_run(tmp_path / "several", scenes))
    taken = open_images(DataSettings(root=scenes)).classes[0]
    for arguments, expected in (
        (["coco", str(folder), run], "knows the formats cvat, labelstudio, masks"),
        (["masks", str(folder)], "needs RUN"),
        (["masks", str(folder), run, "--out", gone], "leave out --out"),
        (["masks", str(folder), str(folder)], "is not a run folder"),
        (["masks", str(folder), several], "holds the runs of --repeats"),
        (["masks", gone, run], "is not a folder of masks"),
        (["cvat", gone, run], "does not exist"),
        (["labelstudio", str(folder), run], "does not exist"),
        (["labelstudio", str(folder), run, "--ignore-label", taken], "see --ignore-label"),
    ):
        assert main(["import", *arguments]) == 2, arguments
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "run/corrections").exists()
