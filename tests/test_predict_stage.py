"""`tag2mask predict` end to end: what is written, resumed, shared out, reported and refused."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from run_tiny import files_of
from segmenters import TinySegmenter, by_brightness
from tag2mask.cli import main
from tag2mask.data import read_mask
from tag2mask.data.dataset import ImageItem
from tag2mask.prediction.predictor import Predictor
from tag2mask.runs import dataset as reading
from tag2mask.workflows import predict as stage
from test_data_images import png_claiming

LOADER = "tag2mask.prediction.predictor.load_segmentation_network"


def picture(path: Path, seed: int, size: tuple[int, int] = (24, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven images of three sizes, one in a subfolder, and a file that is none."""
    folder = tmp_path / "photos"
    for number in range(6):
        picture(folder / f"p{number}.png", number, ((24, 32), (24, 32), (31, 23))[number % 3])
    picture(folder / "sub/deep.jpg", 9, (40, 50))
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Something that stands for a checkpoint; what is loaded from it is a tiny network."""
    path = tmp_path / "network.safetensors"
    path.write_bytes(b"weights")
    monkeypatch.setattr(LOADER, lambda path: TinySegmenter(seed=len(path.read_bytes())))
    return path


def run(place: Path | str, model: Path, out: Path, *more: str) -> int:
    words = ["predict", str(model), str(place), "--out", str(out), "--device", "cpu", "--workers", "2"]
    return main([*words, "--predict.batch_size", "2", *more])


def said(out: Path) -> dict:
    return json.loads((out / "predictions.json").read_text())


def test_what_is_written(photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(photos, model, out, "--overlays", "--json", "--predict.flip", "true") == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert (result["done"], result["skipped"], result["failed"]) == (7, 0, {})
    record = said(out)
    assert record["classes"] == ["background", "class1", "class2"]
    assert set(record["images"]) == {*(f"p{number}" for number in range(6)), "sub/deep"}
    assert record["made_by"]["predict"]["flip"] is True
    assert "batch_size" not in record["made_by"]["predict"]
    predictor = Predictor(TinySegmenter(seed=7), "cpu", stage_settings(flip=True))
    for image_id, values in record["images"].items():
        path = photos / values["image"]
        found = predictor.prediction(path)
        mask = read_mask(out / f"{image_id}.png", size=tuple(values["size"]), classes=2)
        assert (mask == found.labels).all()
        assert sum(values["shares"].values()) == pytest.approx(1, abs=1e-5)
        for number, name in enumerate(record["classes"]):
            assert values["shares"].get(name, 0) == pytest.approx((mask == number).mean(), abs=1e-6)
        assert values["class_confidence"].keys() == values["shares"].keys()
        assert values["confidence"] == pytest.approx(found.confidence, abs=1e-3)
        with Image.open(out / f"overlays/{image_id}.jpg") as overlay, Image.open(path) as original:
            assert overlay.size == original.size
    assert not list(out.rglob(".partial*"))


def stage_settings(**changes: object) -> object:
    from tag2mask.prediction.settings import PredictSettings

    return PredictSettings(**changes)  # type: ignore[arg-type]


def test_an_overlay_shows_the_image_where_there_is_background(
    photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOADER, lambda path: by_brightness())
    monkeypatch.setattr("tag2mask.report.pictures.OVERLAY_SIDE", 30)
    split = np.zeros((40, 60, 3), dtype=np.uint8)
    split[:, 30:] = 255
    Image.fromarray(split).save(tmp_path / "photos/p0.png")
    assert run(photos / "p0.png", model, tmp_path / "out", "--overlays") == 0
    overlay = np.array(Image.open(tmp_path / "out/overlays/p0.jpg")).astype(int)
    assert overlay.shape == (20, 30, 3)
    assert overlay[:, :12].max() < 30
    assert np.ptp(overlay[10, 25]) > 60  # the colour of a class over white


@pytest.mark.parametrize(("pattern", "expected"), [("*.png", 6), ("**/*.*", 7), ("sub/d??p.jpg", 1), ("p[01].png", 2)])
def test_patterns(pattern: str, expected: int, photos: Path, model: Path, tmp_path: Path) -> None:
    assert run(str(photos / pattern), model, tmp_path / "out") == 0
    assert len(list((tmp_path / "out").rglob("*.png"))) == expected
    record = said(tmp_path / "out")["images"]
    assert len(record) == expected


def test_what_is_done_is_skipped_and_what_is_missing_comes_back_the_same(
    photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(photos, model, out) == 0
    before, times = files_of(out), {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    (out / "p1.png").unlink()
    assert run(photos, model, out, "--dry-run") == 0
    assert "1 of 7 images to label" in capsys.readouterr().out
    assert run(photos, model, out) == 0
    assert "predict: 1 done, 6 already there" in capsys.readouterr().err
    assert files_of(out) == before
    assert sum(path.stat().st_mtime_ns != times[path] for path in out.rglob("*.png")) == 1
    assert run(photos, model, out, "--overlays") == 0  # asked for later
    assert len(list((out / "overlays").rglob("*.jpg"))) == 7
    assert run(photos, model, out, "--overwrite") == 0
    assert "predict: 7 done" in capsys.readouterr().err
    assert files_of(out) == before  # without the overlays, which nobody asked for


def test_an_image_that_was_replaced_and_a_torn_mask_are_labelled_again(
    photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(photos, model, out) == 0
    before = files_of(out)
    picture(photos / "p0.png", 77)
    os.utime(photos / "p0.png", (1, 1))  # by a clock that was set back
    os.utime(photos / "p1.png", (1, 1))  # the same, written again
    (out / "p2.png").write_bytes(b"")
    assert run(photos, model, out) == 0
    assert "predict: 2 done, 5 already there" in capsys.readouterr().err
    changed = {name for name, content in files_of(out).items() if content != before[name] and name.endswith(".png")}
    assert changed == {"p0.png"}


def test_an_overlay_is_never_of_an_earlier_mask(photos: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(photos, model, out, "--overlays") == 0
    before = (out / "overlays/p0.jpg").read_bytes()
    picture(photos / "p0.png", 77)
    assert run(photos, model, out) == 0
    assert not (out / "overlays/p0.jpg").exists()
    assert run(photos, model, out, "--overlays") == 0
    assert (out / "overlays/p0.jpg").read_bytes() != before


def test_masks_of_others_are_not_taken_for_its_own(
    photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(photos, model, out) == 0
    assert run(photos / "sub", model, out / "inner") == 0
    assert set(said(out)["images"]) == {*(f"p{number}" for number in range(6)), "sub/deep"}
    assert run(photos, model, out, "--overwrite") == 0
    assert (out / "inner/deep.png").is_file() and "inner/deep" not in said(out)["images"]
    picture(photos / "new.png", 5)
    Image.new("P", (32, 24)).save(out / "new.png")
    capsys.readouterr()
    assert run(photos, model, out) == 2
    assert "new.png was not made by predict" in capsys.readouterr().err


def test_shards_may_work_in_batches_of_other_sizes(photos: Path, model: Path, tmp_path: Path) -> None:
    for number in range(30):
        picture(photos / f"q{number:02}.png", number)
    for shard, size in (("1/2", "2"), ("2/2", "4")):
        assert run(photos, model, tmp_path / "out", "--shard", shard, "--predict.batch_size", size) == 0
    assert len(list((tmp_path / "out").rglob("*.png"))) == 37


def test_a_kill_costs_what_was_not_written_down(
    photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "out", stage.write_mask
    written: list[Path] = []

    def killed(path: Path, mask: np.ndarray, **options: str) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        real(path, mask, **options)
        written.append(path)

    monkeypatch.setattr(stage, "write_mask", killed)
    assert run(photos, model, out) == 1
    assert len(said(out)["images"]) == 3
    monkeypatch.undo()
    monkeypatch.setattr(LOADER, lambda path: TinySegmenter(seed=7))
    assert run(photos, model, out) == 0
    assert run(photos, model, tmp_path / "whole") == 0
    assert files_of(out) == files_of(tmp_path / "whole")


def test_shards_make_what_one_command_makes(photos: Path, model: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert run(photos, model, whole) == 0
    for shard in ("1/3", "2/3", "3/3"):
        assert run(photos, model, out, "--shard", shard) == 0
    assert len(list(out.rglob("*.png"))) == 7
    assert not (out / "predictions.json").exists()
    assert run(photos, model, out) == 0  # finds all done, and writes what they say as one
    assert said(out) == said(whole)
    for path in whole.rglob("*.png"):
        assert (out / path.relative_to(whole)).read_bytes() == path.read_bytes()
    assert run(photos, model, tmp_path / "few", "--limit", "3") == 0
    assert sorted(said(tmp_path / "few")["images"]) == ["p0", "p1", "p2"]


def broken_images(folder: Path) -> dict[str, str]:
    """Twelve files that are no usable images, and a word of what is said of each."""
    folder.mkdir(parents=True, exist_ok=True)
    picture(folder / "whole.jpg", 3, (60, 80))
    picture(folder / "whole.png", 3, (60, 80))
    jpeg, png = (folder / "whole.jpg").read_bytes(), (folder / "whole.png").read_bytes()
    Image.fromarray(np.ones((40, 40), dtype=np.float32)).save(folder / "float.tif")
    Image.fromarray(np.full((40, 40), 70_000, dtype=np.int32)).save(folder / "beyond16.tif")
    content = {
        "empty.jpg": b"",
        "words.jpg": b"These are words.\n",
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "head.jpg": jpeg[:20],
        "cut.png": png[: len(png) // 2],
        "head.png": png[:20],
        "flipped.png": png[:60] + bytes(255 - value for value in png[60:90]) + png[90:],
        "bomb.png": png_claiming(50_000, 50_000),
        "zeros.jpg": b"\0" * 500,
        "phone.jpg": b"\0\0\0\x18ftypheic" + b"\0" * 40,
    }
    for name, data in content.items():
        (folder / name).write_bytes(data)
    (folder / "whole.jpg").unlink()
    (folder / "whole.png").unlink()
    return {
        "empty.jpg": "empty",
        "words.jpg": "not an image",
        "cut.jpg": "cut off or damaged",
        "head.jpg": "damaged",
        "cut.png": "cut off or damaged",
        "head.png": "damaged",
        "flipped.png": "damaged",
        "bomb.png": "50000 × 50000 pixels",
        "float.tif": "floating-point",
        "beyond16.tif": "grey values",
        "zeros.jpg": "not an image",
        "phone.jpg": "HEIC",
    }


def test_each_broken_image_is_reported_and_the_rest_is_done(
    photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos / "broken"
    expected = broken_images(folder)
    for name in expected:  # each with an ID of its own
        (folder / name).rename(folder / f"{name.replace('.', '-')}.{name.rpartition('.')[2]}")
    assert run(photos, model, tmp_path / "out", "--json") == 1
    told = capsys.readouterr()
    (result,) = json.loads(told.out)["results"]
    assert result["done"] == 7
    assert len(result["failed"]) == len(expected) == 12
    for name, words in expected.items():
        assert words in result["failed"][f"broken/{name.replace('.', '-')}"]
    assert "7 done, 12 failed" in told.err and "Traceback" not in told.err
    assert said(tmp_path / "out")["failed"] == result["failed"]
    assert len(list((tmp_path / "out").rglob("*.png"))) == 7
    for path in folder.iterdir():
        path.unlink()
    assert run(photos, model, tmp_path / "out") == 0


def test_other_settings_and_another_network_never_mix(
    photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(photos, model, out) == 0
    before = files_of(out)
    assert run(photos, model, out, "--predict.scales", "[0.5,1.0]") == 2
    assert "predict.scales was [1.0] and is [0.5, 1.0]" in capsys.readouterr().err
    model.write_bytes(b"other weights")
    assert run(photos, model, out) == 2
    assert "network was " in capsys.readouterr().err
    assert files_of(out) == before
    assert run(photos, model, out, "--overwrite") == 0
    assert files_of(out) != before


def test_a_folder_holds_masks_of_one_folder_of_images(
    photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(photos / "p0.png", model, out) == 0 and run(photos, model, out) == 0  # one image, then its folder
    before = files_of(out)
    picture(tmp_path / "others/p9.png", 3)
    assert run(tmp_path / "others", model, out) == 2
    assert "images was" in " ".join(capsys.readouterr().err.split()) and files_of(out) == before


def test_files_of_others_are_left_alone(
    photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(photos)
    assert run(photos, model, photos) == 2
    assert "is the folder of the images" in capsys.readouterr().err
    assert run(photos / "sub", model, photos) == 0  # no name of one is taken
    assert {name: data for name, data in files_of(photos).items() if name in before} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/p3.png").write_bytes(b"mine")
    for more in ((), ("--overwrite",)):
        assert run(photos, model, tmp_path / "mine", *more) == 2
        assert "was not made by predict" in capsys.readouterr().err
    assert files_of(tmp_path / "mine") == {"p3.png": b"mine"}
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/predictions.json").write_text("[1]")
    assert run(photos, model, tmp_path / "odd") == 2
    assert "was not made by predict" in capsys.readouterr().err


def test_wrong_use_exits_2_and_writes_nothing(
    photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for words, expected in (
        (["predict", str(photos), "--out", str(out)], "needs PHOTOS"),
        (["predict", str(model), str(photos)], "needs --out"),
        (["predict", str(tmp_path / "gone"), str(photos), "--out", str(out)], "does not exist"),
        (["predict", str(model), str(tmp_path / "gone"), "--out", str(out)], "does not exist"),
        (["predict", str(model), str(photos / "*.gif"), "--out", str(out)], "matches no image"),
        (["predict", str(model), str(photos), "--out", str(model)], "is a file"),
        (["predict", str(model), str(photos), "--out", str(out), "--predict.tile", "3"], "tile should"),
        (["predict", str(model), str(photos), "--out", str(out), "--predict.flipp", "1"], "predict.flip"),
        (
            ["predict", str(model), str(photos), "--out", str(out), "--overwrite", "--shard", "1/2"],
            "--overwrite with --shard",
        ),
    ):
        assert main(words) == 2, words
        told = capsys.readouterr()
        assert expected in told.err and "Traceback" not in told.err
    assert not out.exists()


def test_images_are_read_ahead_within_bounds(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PREFETCH_PIXELS", 2 * 24 * 32)
    started: list[str] = []

    def read(item: ImageItem) -> str:
        started.append(item.id)
        return item.id

    listed = [ImageItem(f"p{number}", photos / f"p{number}.png", ()) for number in range(6)]
    order = []
    for item, answer in reading.prefetch_images(listed, read, workers=4, pixel_limit=10**8):
        order.append(answer)
        assert item.id == answer
        assert len(started) <= len(order) + 2
    assert order == [item.id for item in listed]
