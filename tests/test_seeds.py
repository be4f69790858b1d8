"""The stage `seeds`: CLIP by text, CLIP-ES's files in and out, and what POT does with base CAMs from outside."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from clip_tiny import PATCH, load_clip, tiny_clipseg, tiny_clipseg_folder, tiny_folder, tiny_model, tiny_sam3
from run_tiny import Capture, figures, files_of, run, words
from tag2mask.cams.clip import read_prompts
from tag2mask.cams.clip.clip_es import class_scores
from tag2mask.cams.clip.npy_files import NpyCams, read_npy_cams, write_npy_cams
from tag2mask.cams.clip.prompts import Prompts
from tag2mask.cams.clip.settings import SeedSettings
from tag2mask.cams.seed_models import _CLASSES, READ_BY_MODEL, load_seed_model, seed_fingerprint
from tag2mask.cli import main
from tag2mask.core.errors import UsageError
from tag2mask.core.provenance import UNKNOWN
from tag2mask.data.cam_files import CamFile, read_cam, write_cam
from tag2mask.data.dataset import open_images
from tag2mask.data.loading.datasets import TrainingSet
from tag2mask.data.manifest import ImageItem, Images
from tag2mask.data.settings import AugmentSettings, DataSettings
from tag2mask.runs.config import Config
from tag2mask.runs.progress import StageResult
from tag2mask.stages.seeds import _reduced, batches_by_patches


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with its tokenizer, as a folder."""
    return tiny_folder(tmp_path_factory.mktemp("clip") / "clip", tiny_model(3))


@pytest.fixture(scope="module")
def made(scenes: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with base CAMs alone."""
    out = tmp_path_factory.mktemp("run") / "run"
    assert run("seeds", scenes, out, seeds__model=str(clip), seeds__batch_size="3") == 0
    return out


def seed_files(out: Path) -> dict[str, bytes]:
    """The base CAMs, byte for byte."""
    return {name: data for name, data in files_of(out / "seeds").items() if name.endswith(".npz")}


def test_makes_a_cam_for_each_tag(made: Path, scenes: Path) -> None:
    images = open_images(DataSettings(root=scenes, split="train"))
    assert len(images) == len(seed_files(made)) == 10
    for item in images.items:
        cam = read_cam(made / f"seeds/{item.id}.npz")
        assert tuple(cam.ids) == item.tags and cam.size == (64, 64) and cam.cams.shape[1:] == (8, 8)
        assert all(single.max() == pytest.approx(1, abs=1e-3) and single.min() == 0 for single in cam.cams)


def test_is_resumed_and_shards_give_the_same_files(made: Path, scenes: Path, clip: Path, tmp_path: Path) -> None:
    whole, settings = seed_files(made), {"seeds__model": str(clip), "seeds__batch_size": "3"}
    out = tmp_path / "sharded"
    for number in (2, 1, 3):
        assert run("seeds", scenes, out, **settings, shard=f"{number}/3") == 0
    assert seed_files(out) == whole
    gone = sorted((out / "seeds").rglob("*.npz"))[4]
    gone.unlink()
    before = {path: path.stat().st_mtime_ns for path in (out / "seeds").rglob("*.npz")}
    assert run("seeds", scenes, out, **settings) == 0
    assert seed_files(out) == whole
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())


def test_a_finished_shard_needs_no_model(
    scenes: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    root, model, out = tmp_path / "scenes", tmp_path / "clip", tmp_path / "run"
    shutil.copytree(scenes, root)
    shutil.copytree(clip, model)
    sorted((root / "train").rglob("*.jpg"))[1].write_bytes(b"no image")
    monkeypatch.setattr("tag2mask.stages.seeds._BLOCK", 4)
    assert run("seeds", root, out, seeds__model=str(model), shard="2/2") == 1
    assert "seeds: 4 done, 1 failed" in capsys.readouterr().err
    shutil.rmtree(model)
    assert run("seeds", root, out, seeds__model=str(model), shard="2/2") == 1
    assert "seeds: 4 already there, 1 failed" in capsys.readouterr().err


def test_a_changed_word_stops_the_stage(made: Path, scenes: Path, clip: Path, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "words.yaml"
    file.write_text("background: [sky]\n", encoding="utf-8")
    assert run("seeds", scenes, made, seeds__model=str(clip), seeds__prompts=str(file)) == 2
    said = capsys.readouterr().err
    assert "seeds.background was" in said and "--restart seeds" in said
    assert run("seeds", scenes, made, seeds__model="not-a-model") == 2


def test_changed_files_of_the_model_stop_the_stage(scenes: Path, clip: Path, tmp_path: Path, capsys: Capture) -> None:
    model, out = tmp_path / "clip", tmp_path / "run"
    shutil.copytree(clip, model)
    assert run("seeds", scenes, out, seeds__model=str(model)) == 0
    shutil.copytree(model, tmp_path / "away")
    shutil.rmtree(model)
    assert run("seeds", scenes, out, seeds__model=str(model)) == 0, "nothing is missing, so the model is not needed"
    capsys.readouterr()
    assert run("seeds", scenes, out, seeds__model=str(model), seeds__affinity="cda", seeds__long_side="64") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "seeds.affinity was 'caa' and is 'cda'" in said and "seeds.long_side was" in said
    assert run("seeds", scenes, out, seeds__model="someone/else") == 2
    assert "seeds.model was" in " ".join(capsys.readouterr().err.split())
    recorded = json.loads((out / "seeds/stage.json").read_text())
    next((out / "seeds").rglob("*.npz")).unlink()
    shutil.copytree(tmp_path / "away", tmp_path / "moved")
    assert run("seeds", scenes, out, seeds__model=str(tmp_path / "moved")) == 0, "the same files in another folder"
    assert json.loads((out / "seeds/stage.json").read_text())["fingerprint"] == recorded["fingerprint"]
    shutil.copytree(tmp_path / "away", model)
    for name in ("generation_config.json", "README.txt", "flax_model.msgpack"):
        (model / name).write_text("{}")
    assert run("seeds", scenes, out, seeds__model=str(model)) == 0, "these files are not read"
    for name, change in (("preprocessor_config.json", "{}"), ("merges.txt", "#version: 0.3\n"), ("weights", None)):
        if change is None:
            tiny_model(4).save_pretrained(model)
        else:
            (model / name).write_text(change)
        capsys.readouterr()
        assert run("seeds", scenes, out, seeds__model=str(model)) == 2
        assert "seeds.model_files was" in capsys.readouterr().err
        shutil.rmtree(model)
        shutil.copytree(tmp_path / "away", model)


def test_the_fingerprint_of_a_model_holds_what_it_reads(clip: Path, tmp_path: Path) -> None:
    assert READ_BY_MODEL.keys() == _CLASSES.keys()
    prompts = read_prompts(None, ("cat", "dog"))

    def fingerprint(words: Prompts = prompts, **settings: Any) -> dict[str, Any]:
        return seed_fingerprint(SeedSettings(**settings), words, torch.device("cpu"))

    known = fingerprint(model=str(clip))
    assert {"affinity", "box_threshold", "long_side", "background", "template"} < known.keys()
    assert known != fingerprint(model=str(clip), affinity="cda")
    clipseg = str(tiny_clipseg_folder(tmp_path / "clipseg", tiny_clipseg(3)))
    one = fingerprint(model=clipseg)
    other = fingerprint(model=clipseg, affinity="cda", long_side=64, box_threshold=0.7)
    assert one == other and one != fingerprint(read_prompts(None, ("cat", "cow")), model=clipseg)
    absent = fingerprint(model="someone/not-here")
    assert absent == {**known, "model": "someone/not-here", "model_files": UNKNOWN, "precision_of_sam3": "fp32"}
    sam3 = str(tiny_folder(tmp_path / "sam3", tiny_sam3()))
    assert fingerprint(model=sam3, precision="fp16") == fingerprint(model=sam3, precision="bf16")
    assert fingerprint(model=sam3, precision="fp16") != fingerprint(model=sam3, precision="fp32")


def test_class_distributions_need_two_texts(clip: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.yaml"
    words.write_text("background: []\n", encoding="utf-8")
    settings = SeedSettings(model=str(clip), affinity="cda")
    with pytest.raises(UsageError, match="there is a single class; list background words"):
        load_seed_model(settings, read_prompts(str(words), ("cat",)), torch.device("cpu"))
    load_seed_model(settings, read_prompts(str(words), ("cat", "dog")), torch.device("cpu"))


@pytest.mark.parametrize(
    ("kind", "lines", "changes", "message"),
    [
        ("tipsv2", "background: []", {}, "TIPSv2 compares with background words, and there are none; list some"),
        ("clip", "background: []", {}, "scores are against background words, and there are none; list some"),
        ("clip", "background: []", {"affinity": "cda"}, "scores are against background words"),
        ("sam3_video", "classes: {cat: ' , '}", {}, "no words for  , "),
        ("vit", "background: [sky]", {}, "is a model of type 'vit', it should be 'clip'"),
    ],
)
def test_prompts_are_checked_before_weights_are_fetched(
    kind: str,
    lines: str,
    changes: dict[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetched: list[str] = []

    def snapshot_download(_: str, *, allow_patterns: list[str] | None = None, local_files_only: bool = False) -> str:
        fetched.extend(allow_patterns or ())
        if fetched:
            (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        return str(tmp_path)

    def model_info(*_: object, **__: object) -> SimpleNamespace:
        files = ("config.json", "model.safetensors")
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name, size=9) for name in files])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.model_info", model_info)
    (words := tmp_path / "words.yaml").write_text(lines)
    settings = SeedSettings(model="some/model", **changes)
    with pytest.raises(UsageError, match=message):
        load_seed_model(settings, read_prompts(str(words), ("cat",)), torch.device("cpu"), scores=True)
    assert fetched == ["config.json"]


def test_clashes_are_noted(scenes: Path, clip: Path, tmp_path: Path, capsys: Capture) -> None:
    name = open_images(DataSettings(root=scenes)).classes[0]
    file = tmp_path / "words.yaml"
    file.write_text(f"background: [sky, {name}]\n", encoding="utf-8")
    assert run("seeds", scenes, tmp_path / "run", seeds__model=str(clip), seeds__prompts=str(file), limit="2") == 0
    assert f"background word '{name}' also stands for class '{name}'" in " ".join(capsys.readouterr().err.split())


def seeds_with(verb_words: dict[str, str], scenes: Path, out: Path, clip: Path) -> int:
    """`seeds` with its own options, which have hyphens."""
    extra = [word for pair in verb_words.items() for word in pair]
    return main([*words("seeds", scenes, out, seeds__model=str(clip), seeds__batch_size="3"), *extra])


def test_own_export_comes_back_exactly(made: Path, scenes: Path, clip: Path, tmp_path: Path) -> None:
    assert seeds_with({"--to-npy": str(tmp_path / "npy")}, scenes, made, clip) == 0
    assert len(list((tmp_path / "npy").rglob("*.npy"))) == 10
    assert seeds_with({"--from-npy": str(tmp_path / "npy")}, scenes, tmp_path / "back", clip) == 0
    for name in seed_files(made):
        first, second = read_cam(made / "seeds" / name), read_cam(tmp_path / "back/seeds" / name)
        np.testing.assert_array_equal(first.cams, second.cams)
        np.testing.assert_array_equal(first.ids, second.ids)
        assert first.size == second.size


def test_imports_say_what_they_lose_and_what_they_refuse(
    scenes: Path, clip: Path, tmp_path: Path, capsys: Capture
) -> None:
    images = open_images(DataSettings(root=scenes, split="train")).items
    rng = np.random.default_rng(0)
    for item in images:
        write_npy_cams(
            tmp_path / f"npy/{item.id}.npy",
            NpyCams(np.array([1, 0]), rng.random((2, 64, 64), np.float32).astype(np.float16)),
        )
    (tmp_path / f"npy/{images[0].id}.npy").write_bytes(b"broken")
    (tmp_path / f"npy/{images[1].id}.npy").unlink()
    assert seeds_with({"--from-npy": str(tmp_path / "npy")}, scenes, tmp_path / "run", clip) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "8 files hold maps at full size alone; on the grid of 16 pixels" in said
    assert images[0].id in said and "does not exist" in said and len(seed_files(tmp_path / "run")) == 8
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/seeds").rglob("*.npz")}
    assert seeds_with({"--from-npy": str(tmp_path / "npy")}, scenes, tmp_path / "run", clip) == 1
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items()), "nothing new is written again"
    cam = read_cam(tmp_path / f"run/seeds/{images[2].id}.npz")
    assert cam.cams.shape[1:] == (4, 4) and tuple(cam.ids) == images[2].tags
    full = read_npy_cams(tmp_path / f"npy/{images[2].id}.npy", 2, (64, 64)).full
    expected = full[1 - (cam.ids[0] - 1)].astype(np.float32).reshape(4, 16, 4, 16)[:, 7:9, :, 7:9].mean((1, 3))
    np.testing.assert_allclose(cam.cams[0], expected, atol=1e-3)
    assert seeds_with({"--from-npy": str(tmp_path / "none")}, scenes, tmp_path / "run", clip) == 2


@pytest.mark.parametrize("size", [(101, 67), (75, 125), (17, 33)])
def test_an_enlarged_grid_comes_back(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    grid = rng.random((-(-size[0] // 16), -(-size[1] // 16)))
    full = enlarged(grid, size).astype(np.float16)
    cam, loss, _ = _reduced(NpyCams(np.array([0]), full[None]), ImageItem("a", Path("a.jpg"), (1,), None), size)
    again = np.abs(enlarged(cam.cams[0].astype(np.float64), size) - full)
    assert cam.cams.shape == (1, *grid.shape)
    assert again.mean() < 0.01 and again.max() < 0.05, "area means: 0.06 and 0.27"
    assert loss == pytest.approx(again.mean(), abs=1e-4)


def enlarged(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear interpolation between the centres of cells, pixel by pixel."""
    full = np.empty(size)
    for y, x in np.ndindex(size):
        down = min(max((y + 0.5) * grid.shape[0] / size[0] - 0.5, 0), grid.shape[0] - 1)
        across = min(max((x + 0.5) * grid.shape[1] / size[1] - 0.5, 0), grid.shape[1] - 1)
        top, left = int(down), int(across)
        near = grid[top : top + 2, left : left + 2]
        near = np.pad(near, ((0, 2 - near.shape[0]), (0, 2 - near.shape[1])), "edge")
        full[y, x] = np.array([1 - down + top, down - top]) @ near @ np.array([1 - across + left, across - left])
    return full


EXTERNAL = {"external__base": "mean", "external__suppression": "0.3", "external__consistency_pair": "pot-target"}


def test_pot_trains_on_base_cams_from_outside(made: Path, scenes: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    kinds = {"cams__kinds": "[classifier,pot,fused]", "train__consistency_start": "0"}
    assert run("run", scenes, out, seeds__model=str(clip), seeds__batch_size="3", **EXTERNAL, **kinds) == 0
    assert seed_files(out) == seed_files(made)
    assert set(figures(out)["cams"]["train"]) == {"classifier", "pot", "fused"}
    assert '"consistency"' in (out / "train/log.jsonl").read_text()
    plain = tmp_path / "plain"
    assert run("run", scenes, plain, **(kinds | {"cams__kinds": "[classifier,pot]"})) == 0
    assert not (plain / "seeds").exists(), "nothing asked for them"
    assert files_of(plain / "cams/pot") != files_of(out / "cams/pot")


def test_without_base_cams_nothing_begins(scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run("train", scenes, tmp_path / "run", **EXTERNAL) == 2
    assert "run `tag2mask seeds --out" in " ".join(capsys.readouterr().err.split())
    assert run("cams", scenes, tmp_path / "run", cams__kinds="[fused]") == 2


def test_a_restart_of_seeds_leaves_a_network_that_never_read_them(
    made: Path, scenes: Path, clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(made, out)
    assert run("train", scenes, out) == 0
    assert yaml.safe_load((out / "config.yaml").read_text())["seeds"]["model"] == str(clip)
    network = (out / "train/network.safetensors").read_bytes()
    assert seeds_with({"--restart": "seeds"}, scenes, out, clip) == 0
    assert (out / "train/network.safetensors").read_bytes() == network
    assert seed_files(out) == seed_files(made)


def test_base_cams_move_with_the_image(tmp_path: Path) -> None:
    """A red square, and a base CAM that is 1 on it: wherever the view goes, red and CAM stay together."""
    pixels = np.zeros((96, 160, 3), dtype=np.uint8)
    pixels[32:64, 96:144, 0] = 255
    (tmp_path / "photos/cat").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "photos/cat/a.png")
    cam = (pixels[::16, ::16, 0] / 255).astype(np.float16)[None]
    write_cam(tmp_path / "seeds/cat/a.npz", CamFile(np.array([1]), cam, (96, 160)))
    images = open_images(DataSettings(root=tmp_path / "photos"))
    settings = AugmentSettings(crop=128, long_side=(128, 256))
    views = TrainingSet(images, settings, seed=0, external=tmp_path / "seeds", stride=16)
    for draw in range(12):
        sample = views[draw, 0]
        red = torch.nn.functional.avg_pool2d(sample["image"][:1] * sample["valid"], 16)
        assert sample["external"].shape == (1, 8, 8)
        assert float((red - sample["external"].float()).abs().mean()) < 0.05
    assert "external" not in TrainingSet(images, settings, seed=0)[0, 0]


def test_a_damaged_base_cam_costs_its_image_alone(made: Path, scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "run"
    shutil.copytree(made, out)
    assert run("train", scenes, out, train__consistency_weight="0", external__base="mean") == 0
    files = sorted((out / "seeds").rglob("*.npz"))
    files[0].write_bytes(b"broken")
    kinds = {"cams__kinds": "[pot]", "external__base": "mean"}
    assert run("cams", scenes, out, **kinds) == 1
    assert "is damaged; delete it and do its stage again" in " ".join(capsys.readouterr().err.split())
    names = {path.stem for path in (out / "cams/pot").rglob("*.npz")}
    assert names == {path.stem for path in files[1:]}


def test_cams_are_made_anew_where_a_base_cam_came_later(made: Path, scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(made, out)
    late = sorted((out / "seeds").rglob("*.npz"))[0]
    kept = late.read_bytes()
    late.unlink()
    outside = {"external__base": "external", "cams__kinds": "[pot]"}
    assert run("train", scenes, out, train__consistency_weight="0", **outside) == 0
    assert run("cams", scenes, out, **outside) == 0
    name = late.relative_to(out / "seeds")
    before = (out / "cams/pot" / name).read_bytes()
    late.write_bytes(kept)
    assert run("cams", scenes, out, **outside) == 0
    assert (out / "cams/pot" / name).read_bytes() != before


def test_large_images_go_through_in_smaller_batches_and_shards_cover_all(clip: Path, tmp_path: Path) -> None:
    loaded, items = load_clip(str(clip)), []
    for number, side in enumerate([64] * 5 + [512] * 5):
        Image.new("RGB", (side, side)).save(path := tmp_path / f"{number}.png")
        items.append(ImageItem(str(number), path, (1,)))

    def batches(size: int, shard: str | None = None) -> list[list[str]]:
        config = Config(workers=0, shard=shard, seeds=SeedSettings(batch_size=size))
        found = batches_by_patches(loaded, Images.from_list(items), config, StageResult("seeds"))
        return [[item.id for item in batch] for batch in found]

    assert [len(batch) for batch in batches(8)] == [5, 1, 1, 1, 1, 1]
    shared = [name for batch in (*batches(2, "1/2"), *batches(16, "2/2")) for name in batch]
    assert sorted(shared) == [item.id for item in items]


def suggest(*words: str) -> int:
    """`tags` with a model."""
    return main(["tags", *words, "--device", "cpu", "--workers", "0"])


def test_suggestions_are_a_table_for_review(scenes: Path, clip: Path, tmp_path: Path, capsys: Capture) -> None:
    table = tmp_path / "suggested.csv"
    items = scenes / "train"
    given = (str(items), "--classes", "cat,dog,brown horse", "--seeds.model", str(clip), "--table", str(table))
    assert suggest(*given) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "name that column `tags`" in said and f"--data.root {items}" in said
    lines = [line.split(",") for line in table.read_text().splitlines()]
    assert lines[0] == [
        "image",
        "suggested",
        "reviewed",
        *(f"score: {name}" for name in ("cat", "dog", "brown horse")),
    ]
    assert len(lines) == 11
    for _, suggested, reviewed, *numbers in lines[1:]:
        scores = [float(number) for number in numbers]
        names = [name for name, score in zip(("cat", "dog", "brown horse"), scores, strict=True) if score >= 0.5]
        assert suggested.split(";") == names or (suggested == "" and not names)
        assert reviewed == ""
    (words := tmp_path / "words.yaml").write_text("background: []")
    alone = (*given[:-1], str(tmp_path / "other.csv"), "--seeds.prompts", str(words))
    assert suggest(*alone) == 2 and "there are none; list some" in " ".join(capsys.readouterr().err.split())
    assert suggest(*given) == 2 and "a person may have reviewed it" in " ".join(capsys.readouterr().err.split())


def test_suggestions_are_never_taken_for_tags(scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    table = tmp_path / "tags.csv"
    name = next((scenes / "train").rglob("*.jpg")).relative_to(scenes).as_posix()
    table.write_text(f"image,suggested,reviewed,cat\n{name},cat,,0.9\n", encoding="utf-8")
    assert run("train", scenes, tmp_path / "run", data__tags=str(table)) == 2
    assert "the table holds suggestions, which are never taken for tags" in " ".join(capsys.readouterr().err.split())
    table.write_text(f"image,tags,reviewed,cat\n{name},cat,yes,0.9\n", encoding="utf-8")
    assert open_images(DataSettings(root=scenes, tags=table)).items[0].tags == (1,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "tags needs --classes"),
        (("--classes", "cat,cat"), "cat"),
        (("--classes", "cat", "--threshold", "much"), "--threshold needs a number, got 'much'"),
        (("--classes", "cat", "--threshold", "2"), "should lie in [0, 1]"),
    ],
)
def test_wrong_requests_for_tags(
    scenes: Path, clip: Path, words: tuple[str, ...], message: str, tmp_path: Path, capsys: Capture
) -> None:
    assert suggest(str(scenes), "--seeds.model", str(clip), "--table", str(tmp_path / "t.csv"), *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_scores_agree_with_the_library(clip: Path) -> None:
    loaded = load_clip(str(clip))
    images = [torch.randn(3, 4 * PATCH, 4 * PATCH) for _ in range(2)]
    texts = loaded.text_features(["cat", "dog", "sky"])
    by_image, by_patch = class_scores(loaded, images, texts[:2], texts[2:])
    features = loaded.model.get_image_features(pixel_values=torch.stack(images)).pooler_output
    logits = loaded.logit_scale * torch.nn.functional.normalize(features, dim=1) @ texts.T
    expected = torch.stack([logits[:, [c, 2]].softmax(1)[:, 0] for c in (0, 1)], 1)
    torch.testing.assert_close(by_image, expected, rtol=0, atol=1e-5)
    hidden = loaded.model.vision_model(torch.stack(images)).last_hidden_state
    local = loaded.model.visual_projection(loaded.model.vision_model.post_layernorm(hidden[:, 1:]))
    logits = (
        loaded.logit_scale * torch.nn.functional.normalize(local, dim=2) @ texts.T
    )  # 16 patches: one is a twentieth
    expected = torch.stack([logits[:, :, [c, 2]].softmax(2)[..., 0].amax(1) for c in (0, 1)], 1)
    torch.testing.assert_close(by_patch, expected, rtol=0, atol=1e-5)
