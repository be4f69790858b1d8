"""Runs whose files by photograph are in tars, beside one whose files are single: the same files, the same figures."""

import json
import os
from pathlib import Path
from shutil import copytree, rmtree

import numpy as np
import pytest

from run_tiny import BACKBONE, figures, files_of, run
from tag2mask.cli import main
from tag2mask.clip.npy_files import NpyCams, write_npy_cams
from tag2mask.data import DataSettings, open_photos
from tag2mask.outputs import OutputSettings, RunOutputs, file_names, found_folder, series, write_bytes
from tag2mask.outputs.store import Sent
from tag2mask.report import ReportSettings
from tag2mask.report.ranking import rank

SETTINGS = {
    "train__steps": "1",
    "refine__method": "irn+crf",
    "refine__keep_confidence": "true",
    "edges__steps": "1",
    "edges__batch_size": "4",
    "edges__augment__crop": "64",
    "edges__augment__long_side": "[56,80]",
    "cams__kinds": "[classifier,pot]",
    "segment__enabled": "true",
    "segment__label_weights": "confidence",
    "segment__network__backbone": BACKBONE,
    "segment__network__weights": "none",
    "segment__steps": "1",
    "segment__batch_size": "4",
    "segment__augment__crop": "64",
    "segment__augment__long_side": "[56,80]",
    "evaluate__splits": "[train,val]",
}
TARS = {"outputs__photographs_per_tar": "3"}
FOLDERS = (
    ("cams/classifier", ".npz"),
    ("cams/pot", ".npz"),
    ("edges/labels", ".png"),
    ("refine/edges", ".png"),
    ("refine/confidence", ".png"),
    ("masks", ".png"),
    ("predictions/train", ".png"),
    ("predictions/val", ".png"),
)


@pytest.fixture(scope="module")
def single(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of single files."""
    out = tmp_path_factory.mktemp("single") / "out"
    assert run("run", scenes, out, **SETTINGS) == 0
    return out


@pytest.fixture(scope="module")
def tarred(scenes: Path, single: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with tars."""
    out = tmp_path_factory.mktemp("tarred") / "out"
    assert run("run", scenes, out, **SETTINGS, **TARS) == 0
    return out


@pytest.fixture
def copied(tarred: Path, tmp_path: Path) -> Path:
    return Path(copytree(tarred, tmp_path / "out"))


def contents(out: Path, folder: str, suffix: str, store: Path | None = None) -> dict[str, bytes]:
    """The files of a folder, whatever they are in."""
    found = found_folder(out / folder, OutputSettings(read_url=None if store is None else (store / folder).as_uri()))
    files = {name: (found / name).read_bytes() for name in file_names(found, suffix)}
    if not isinstance(found, Path):
        found.close(send=False)
    return files


def require_same(
    out: Path, single: Path, folders: tuple[tuple[str, str], ...] = FOLDERS, store: Path | None = None
) -> None:
    for folder, suffix in folders:
        expected, found = contents(single, folder, suffix), contents(out, folder, suffix, store)
        assert expected and found == expected, folder


def test_the_files_are_the_same_byte_for_byte_and_so_are_the_figures(tarred: Path, single: Path) -> None:
    require_same(tarred, single)
    assert (tarred / "metrics.json").read_bytes() == (single / "metrics.json").read_bytes()
    loose = [name for name in files_of(tarred) if name.endswith((".png", ".npz"))]
    assert loose == []
    assert len(list((tarred / "masks/tars").glob("1-of-1-*.tar"))) == 4  # of ten scenes
    assert (tarred / "report.html").read_text().count("data:image") == (single / "report.html").read_text().count(
        "data:image"
    )


def test_the_same_command_again_does_nothing(copied: Path, scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(copied)
    assert main(["run", "--out", str(copied), "--json"]) == 0
    told = {each["stage"]: each for each in json.loads(capsys.readouterr().out)["results"]}
    for stage, count in (("cams", 10), ("refine", 10), ("predictions", 14)):
        assert (told[stage]["done"], told[stage]["skipped"]) == (0, count)
    after = files_of(copied)
    assert {name for name in before if after.get(name) != before[name]} <= {"report.html", "config.yaml"}
    assert after.keys() == before.keys()


def test_shards_write_tars_of_their_own_with_the_same_files_and_counts(
    tarred: Path, single: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(copytree(tarred, tmp_path / "out"))
    for folder in ("cams/classifier", "cams/pot", "masks", "refine/confidence", "refine/edges", "predictions"):
        rmtree(out / folder)
    (out / "metrics.json").unlink()
    for verb in ("cams", "refine", "evaluate"):
        for shard in ("1/2", "2/2"):
            assert main([verb, "--out", str(out), "--shard", shard]) == 0
    assert {path.name[:6] for path in out.rglob("masks/tars/*.tar")} == {"1-of-2", "2-of-2"}
    require_same(out, single, FOLDERS[:6])
    capsys.readouterr()
    assert main(["evaluate", "--out", str(out)]) == 0
    assert "put together from the counts of 2 shards" in capsys.readouterr().err
    expected = figures(single)
    assert figures(out) == {stage: expected[stage] for stage in ("cams", "refine")}


def test_only_what_was_torn_off_is_made_again(copied: Path, single: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = sorted((copied / "masks/tars").glob("*.tar"))[-1]
    os.truncate(last, last.stat().st_size - 1024 - 600)
    (copied / "masks/tars/1-of-1.sqlite").unlink()
    assert main(["refine", "--out", str(copied), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["results"]
    assert (told["done"], told["skipped"]) == (1, 9)
    require_same(copied, single)


def test_a_mask_is_made_again_when_its_cams_are(copied: Path, single: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sorted((copied / "cams/pot/tars").glob("*.tar"))[1].unlink()
    for verb in ("cams", "refine"):
        assert main([verb, "--out", str(copied), "--json"]) == 0
        (told,) = json.loads(capsys.readouterr().out)["results"]
        assert (told["done"], told["skipped"]) == (3, 7)
    require_same(copied, single)


def test_a_run_may_change_to_tars_and_back(single: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = Path(copytree(single, tmp_path / "out"))
    names = sorted(contents(out, "masks", ".png"))
    for name in names[:4]:
        (out / "masks" / name).unlink()
    assert main(["refine", "--out", str(out), "--limit", "10", "--outputs.photographs_per_tar", "2"]) == 0
    assert len(list((out / "masks").rglob("*.png"))) == 6 and len(list((out / "masks/tars").glob("*.tar"))) == 2
    require_same(out, single)
    (out / "masks" / names[9]).unlink()
    assert main(["refine", "--out", str(out), "--outputs.photographs_per_tar", "null"]) == 0
    assert (out / "masks" / names[9]).is_file()
    require_same(out, single)
    capsys.readouterr()
    assert main(["evaluate", "--out", str(out)]) == 0
    assert figures(out) == figures(single)


def test_a_restart_deletes_tars_too(copied: Path, single: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["refine", "--out", str(copied), "--restart", "refine", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["results"]
    assert told["done"] == 10
    assert len(list((copied / "masks/tars").glob("*.tar"))) == 4
    require_same(copied, single, FOLDERS[:6])


def test_a_dry_run_says_of_tars_what_it_says_of_files(
    copied: Path, single: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = Path(copytree(single, tmp_path / "single"))
    sorted((copied / "masks/tars").glob("*.tar"))[-1].unlink()
    for name in contents(files, "masks", ".png").keys() - contents(copied, "masks", ".png").keys():
        (files / "masks" / name).unlink()
    plans = []
    for out in (copied, files):
        assert main(["run", "--out", str(out), "--dry-run", "--json"]) == 0
        stages = json.loads(capsys.readouterr().out)["stages"]
        plans.append([(each["stage"], each["lacking"], each["bytes"], each["measured"]) for each in stages])
    assert plans[0] == plans[1]
    assert [lacking for stage, lacking, size, _ in plans[0] if stage == "refine" and size > 0] == [1]


@pytest.mark.parametrize("folder", ["masks", "masks/tars"])
def test_a_folder_of_tars_is_measured_as_one_of_files(
    copied: Path, single: Path, scenes: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data.root", str(scenes), "--data.masks", str(scenes / "masks"), "--data.split", "train", "--json"]
    answers = []
    for place in (copied / folder, single / "masks"):
        assert main(["evaluate", str(place), *data]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]


@pytest.mark.extra
def test_a_folder_in_a_store_is_measured_and_ranked_tar_by_tar(
    single: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("webdataset")
    out, store = tmp_path / "out", tmp_path / "store"
    settings = OutputSettings(photographs_per_tar=2, url=store.as_uri(), cached_tars=1)
    written, masks = RunOutputs(out, settings), contents(single, "masks", ".png")
    names = sorted(masks)
    for name in names[::2] + names[1::2]:  # not the order of the photographs
        write_bytes(written.folder("masks") / name, masks[name])
    written.close(send=True)
    fetched: list[str] = []
    own = series.fetch

    def fetch(sent: Sent, url: str, target: Path) -> None:
        fetched.append(target.name)
        own(sent, url, target)

    monkeypatch.setattr(series, "fetch", fetch)
    data = ["--data.root", str(scenes), "--data.masks", str(scenes / "masks"), "--data.split", "train"]
    where = ["--outputs.read_url", (store / "masks").as_uri(), "--outputs.cached_tars", "1"]
    assert main(["evaluate", str(out / "masks"), *data, *where]) == 0
    assert len(fetched) == 5
    photos = open_photos(DataSettings(root=scenes, split="train", masks=scenes / "masks"))
    fetched.clear()
    rank(written, photos, ReportSettings(), lambda _: None)
    assert sorted(fetched) == sorted({*fetched})
    written.close(send=False)


@pytest.mark.extra
def test_a_run_in_a_store_is_the_same_run(
    scenes: Path, single: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("webdataset")
    out, store = tmp_path / "out", tmp_path / "store"
    place = {"outputs__url": store.as_uri(), "outputs__cached_tars": "1"}
    assert run("run", scenes, out, **SETTINGS, **TARS, **place) == 0
    assert figures(out) == figures(single)
    assert not [path for path in out.rglob("*.tar") if path.parent.name != "fetched"]
    require_same(out, single, store=store)
    assert sorted(path.relative_to(store).as_posix() for path in store.rglob("masks/*")) == [
        f"masks/1-of-1-00000{number}.tar" for number in range(4)
    ]
    rmtree(out / "predictions")
    store.rename(tmp_path / "gone")
    store.write_text("not a folder")
    capsys.readouterr()
    assert main(["segment", "--out", str(out)]) == 1
    told = capsys.readouterr().err
    assert "predictions/train/1-of-1-000000.tar could not be written" in told and "is kept" in told
    store.unlink()
    (tmp_path / "gone").rename(store)
    assert main(["segment", "--out", str(out)]) == 0
    require_same(out, single, FOLDERS[6:], store)


def test_seeds_are_in_tars_and_are_read_there(scenes: Path, tmp_path: Path) -> None:
    photos = open_photos(DataSettings(root=scenes, split="train"))
    npy, out = tmp_path / "npy", tmp_path / "out"
    for number, photo in enumerate(photos.photos):
        maps = np.full((len(photo.tags), 64, 64), number / 16, dtype=np.float16)
        write_npy_cams(npy / f"{photo.id}.npy", NpyCams(np.array(photo.tags) - 1, maps, maps[:, ::16, ::16]))
    settings = {"seeds__from_npy": str(npy), "external__base": "mean", "train__steps": "1"}
    for each, tars in ((out, TARS), (tmp_path / "single", {})):
        assert run("run", scenes, each, **settings, **tars) == 0
    require_same(out, tmp_path / "single", (("seeds", ".npz"), FOLDERS[1], FOLDERS[5]))
    assert figures(out) == figures(tmp_path / "single")
    assert run("seeds", scenes, out, **settings, **TARS) == 0
    assert len(list((out / "seeds/tars").glob("*.tar"))) == 4


@pytest.mark.extra
def test_seeds_of_repeats_have_places_of_their_own_in_a_store(scenes: Path, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    out, store = tmp_path / "out", tmp_path / "store"
    place = {"outputs__url": store.as_uri() + "/{tar}", **TARS}
    assert run("run", scenes, out, repeats="2", train__steps="1", cams__kinds="[pot]", **place) == 0
    assert sorted(path.name for path in store.iterdir()) == ["seed-0", "seed-1"]


def test_a_url_without_tars_is_refused(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cams", scenes, tmp_path / "out", outputs__url="gs://bucket") == 2
    assert "set photographs_per_tar as well" in capsys.readouterr().err
