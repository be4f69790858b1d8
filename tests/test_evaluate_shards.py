"""`evaluate` by shards: what they kept is put together exactly, or not at all."""

import os
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from PIL import Image

from run_tiny import figures, run
from tag2mask.cli import main
from tag2mask.data import DataSettings, Photo, PhotoSet, open_photos, write_mask
from tag2mask.evaluate import count_cams, count_masks
from tag2mask.evaluate.figures import Tally, read_counts, write_counts

KINDS = {"cams__kinds": "[classifier,pot]"}
METRICS = "metrics.json"


@pytest.fixture(scope="module")
def done(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with CAMs of either kind and masks, measured by one process."""
    out = tmp_path_factory.mktemp("shards") / "out"
    assert run("run", scenes, out, train__steps="1", **KINDS) == 0
    return out


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    """A copy of it without its figures."""
    out = Path(copytree(done, tmp_path / "out"))
    (out / METRICS).unlink()
    return out


def count_shards(out: Path, shards: int) -> None:
    for number in range(1, shards + 1):
        assert main(["evaluate", "--out", str(out), "--shard", f"{number}/{shards}"]) == 0
    assert not (out / METRICS).exists()


def touch(path: Path) -> None:
    """Let a file look as if it had just been written, even where clocks are coarse."""
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1_000_000_000))


@pytest.mark.parametrize("shards", [1, 2, 3, 12])
def test_shards_give_the_figures_of_one_process_to_the_byte(
    copied: Path, done: Path, shards: int, capsys: pytest.CaptureFixture[str]
) -> None:
    count_shards(copied, shards)
    assert len(list((copied / "evaluate").rglob("*.npz"))) == 3 * shards  # two kinds of CAMs, and masks
    capsys.readouterr()
    assert main(["evaluate", "--out", str(copied)]) == 0
    assert capsys.readouterr().err.count(f"put together from the counts of {shards} shards") == 3
    assert (copied / METRICS).read_bytes() == (done / METRICS).read_bytes()


def test_their_matrices_are_those_of_one_process_and_every_photograph_counts_once(copied: Path, scenes: Path) -> None:
    photos = open_photos(DataSettings(root=scenes, masks=scenes / "masks", split="train"))
    count_shards(copied, 3)
    whole = {
        "refine/train/argmax": count_masks(copied / "masks", photos),
        "cams/train/classifier": count_cams(copied / "cams/classifier", photos),
        "cams/train/pot": count_cams(copied / "cams/pot", photos),
    }
    for place, expected in whole.items():
        parts = [read_counts(copied / "evaluate" / place / f"{number}-of-3.npz") for number in (1, 2, 3)]
        counts = [part[0] for part in parts if part]
        assert [part.images for part in counts] == [4, 3, 3]
        for part in counts[1:]:
            counts[0].merge(part)
        assert counts[0].images == expected.images == 10
        np.testing.assert_array_equal(counts[0].confusion.matrix, expected.confusion.matrix)
        np.testing.assert_array_equal(counts[0].confusion.withheld, expected.confusion.withheld)
        if expected.sweep is not None and counts[0].sweep is not None:
            np.testing.assert_array_equal(counts[0].sweep.joint, expected.sweep.joint)


def test_the_kept_counts_are_what_is_put_together(copied: Path, done: Path) -> None:
    count_shards(copied, 2)
    path = copied / "evaluate/refine/train/argmax/2-of-2.npz"
    counts, measured = read_counts(path) or pytest.fail("damaged")
    counts.confusion.matrix[0, 1] += 100_000
    write_counts(path, counts, measured)
    assert main(["evaluate", "--out", str(copied)]) == 0
    assert figures(copied)["refine"] != figures(done)["refine"]
    assert figures(copied)["cams"] == figures(done)["cams"]


@pytest.mark.parametrize("what", ["missing", "damaged", "mask", "truth", "photographs", "thresholds"])
def test_a_shard_that_is_not_current_is_named_and_all_is_measured(
    copied: Path, scenes: Path, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(copytree(scenes, tmp_path / "data"))
    place = ["--out", str(copied), "--data.root", str(data), "--data.masks", str(data / "masks")]
    for number in (1, 2):
        assert main(["evaluate", *place, "--shard", f"{number}/2"]) == 0
    photo = open_photos(DataSettings(root=data, masks=data / "masks", split="train")).photos[1]
    mask = copied / f"masks/{photo.id}.png"
    more: list[str] = []
    if what == "missing":
        (copied / "evaluate/refine/train/argmax/2-of-2.npz").unlink()
    elif what == "damaged":
        (copied / "evaluate/refine/train/argmax/2-of-2.npz").write_bytes(b"no archive")
    elif what == "mask":
        write_mask(mask, np.ones(np.asarray(Image.open(mask)).shape, np.uint8))
        touch(mask)
    elif what == "truth":
        assert photo.mask is not None
        touch(photo.mask)
    elif what == "photographs":
        more = ["--limit", "8"]
    else:
        more = ["--evaluate.thresholds", "[0.2,0.4]"]
    expected = {
        "missing": "masks: shard 2/2 is missing, so everything is measured here",
        "damaged": "masks: shard 2/2 is damaged",
        "mask": "masks: shard 2/2 measured other files than those that are there now",
        "truth": "pot: shard 2/2 measured other files",
        "photographs": "masks: shard 1/2 measured other files",
        "thresholds": "pot: shard 1/2 was measured with other settings",
    }
    capsys.readouterr()
    assert main(["evaluate", *place, *more]) == 0
    assert expected[what] in " ".join(capsys.readouterr().err.split())
    fresh = Path(copytree(copied, tmp_path / "fresh"))
    (fresh / METRICS).unlink()
    assert main(["evaluate", "--restart", "evaluate", *place, *more, "--out", str(fresh)]) == 0
    assert not (fresh / "evaluate").exists()
    assert (copied / METRICS).read_bytes() == (fresh / METRICS).read_bytes()


def test_other_classes_for_the_mean_need_no_new_counts(
    copied: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count_shards(copied, 2)
    assert main(["evaluate", "--out", str(copied), "--evaluate.classes", "background"]) == 0
    assert "put together" in capsys.readouterr().err
    assert figures(copied)["refine"]["train"]["argmax"]["chosen"] == ["background"]


def test_a_damaged_mask_costs_the_figures_of_the_masks_alone(
    copied: Path, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = sorted((copied / "masks").rglob("*.png"))[2]
    damaged.write_bytes(b"no image")
    assert main(["evaluate", "--out", str(copied)]) == 1
    alone, said = (copied / METRICS).read_bytes(), " ".join(capsys.readouterr().err.split())
    assert "1 of 10 photographs cannot be compared" in said and damaged.name in said
    (copied / METRICS).unlink()
    codes = [main(["evaluate", "--out", str(copied), "--shard", f"{number}/2"]) for number in (1, 2)]
    assert sorted(codes) == [0, 1]
    capsys.readouterr()
    assert main(["evaluate", "--out", str(copied)]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "1 of 10 photographs cannot be compared" in said and damaged.name in said
    assert (copied / METRICS).read_bytes() == alone
    assert "refine" not in figures(copied) and figures(copied)["cams"] == figures(done)["cams"]


def test_photographs_without_a_mask_are_counted_over_all_shards(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted((copied / "masks").rglob("*.png"))[:3]:
        path.unlink()
    count_shards(copied, 2)
    capsys.readouterr()
    assert main(["evaluate", "--out", str(copied)]) == 0
    assert "masks: 3 of 10 photographs have no file" in " ".join(capsys.readouterr().err.split())
    assert figures(copied)["refine"]["train"]["argmax"]["images"] == 7


def test_a_folder_has_no_shards(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(done / "masks"), "--shard", "1/2"]) == 2
    assert "--shard is for the folders of a run" in " ".join(capsys.readouterr().err.split())


def test_offenders_are_the_same_five_however_they_are_dealt() -> None:
    names = [f"{number:02}" for number in np.random.default_rng(0).permutation(20)]
    whole, parts = Tally(), [Tally() for _ in range(3)]
    for place, name in enumerate(names):
        whole.add(name)
        parts[place % 3].add(name)
    for part in parts[1:]:
        parts[0].merge(part)
    assert parts[0] == whole == Tally(20, ["00", "01", "02", "03", "04"])
    assert whole.joined(", ", " and ") == "00, 01, 02, 03, 04 and 15 more"


def test_counts_come_back_from_their_file(tmp_path: Path) -> None:
    truth = np.array([[0, 1], [2, 255]], np.uint8)
    write_mask(tmp_path / "truth.png", truth)
    write_mask(tmp_path / "masks/good.png", truth)
    (tmp_path / "masks/bad.png").write_bytes(b"no image")
    photos = [Photo(name, tmp_path / f"{name}.jpg", (1,), tmp_path / "truth.png") for name in ("good", "bad")]
    counts = count_masks(tmp_path / "masks", PhotoSet(("cat", "dog"), tuple(photos), tmp_path))
    counts.lacking = 3
    write_counts(tmp_path / "counts.npz", counts, {"of": ["plain", 1]})
    found, measured = read_counts(tmp_path / "counts.npz") or pytest.fail("damaged")
    assert measured == {"of": ["plain", 1]} and (found.images, found.lacking) == (2, 3)
    assert found.problems == counts.problems and found.problems.count == 1 and found.sweep is None
    np.testing.assert_array_equal(found.confusion.matrix, np.eye(3))
    (tmp_path / "counts.npz").write_bytes((tmp_path / "counts.npz").read_bytes()[:200])
    assert read_counts(tmp_path / "counts.npz") is None
