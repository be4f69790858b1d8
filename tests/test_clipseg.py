"""Base CAMs from CLIPSeg: agreement with the library phrase by phrase, and the stage `seeds` with it."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from clip_tiny import tiny_clipseg, tiny_clipseg_folder, tiny_folder, tiny_model
from run_tiny import Capture, files_of, run
from tag2mask.cams.clip.prompts import read_prompts
from tag2mask.cams.clip.settings import SeedSettings
from tag2mask.cams.clipseg import ClipSeg
from tag2mask.cams.seed_models import SeedModel, load_seed_model
from tag2mask.cli import main
from tag2mask.core.errors import UsageError
from tag2mask.data.cam_files import read_cam
from tag2mask.data.dataset import open_images
from tag2mask.data.images import read_image
from tag2mask.data.settings import DataSettings

WORDS = "classes:\n  dab: dab, small dab fish\n  fen: fen\n"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clipseg_folder(tmp_path_factory.mktemp("clipseg") / "model", tiny_clipseg(3))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "words.yaml"
    path.write_text(WORDS)
    return path


def _seed_model(folder: Path, words: Path) -> SeedModel:
    return load_seed_model(SeedSettings(model=str(folder)), read_prompts(str(words), ("dab", "fen")), CPU)


def _loaded(folder: Path, words: Path) -> ClipSeg:
    model = _seed_model(folder, words).model
    assert isinstance(model, ClipSeg)
    return model


def test_maps_are_those_of_the_library(folder: Path, words: Path) -> None:
    seeds = _seed_model(folder, words)
    clipseg = seeds.model
    assert isinstance(clipseg, ClipSeg) and seeds.probabilities is not None
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((40, 90), (64, 64), (7, 3))]
    prepared = [clipseg.prepare(image) for image in images]
    prompts = read_prompts(str(words), ("dab", "fen"))
    classes, phrases = prompts.phrases()
    assert (classes, phrases) == ([0, 0, 1], ["dab", "small dab fish", "fen"])
    tags = torch.tensor([[True, True], [False, True], [False, False]])
    found, absolute = seeds.cams(prepared, tags), seeds.probabilities(prepared, tags)
    assert [labels for labels, _ in found] == [labels for labels, _ in absolute] == [(0, 1), (1,), ()]
    for image, own, (labels, cams), (_, maps) in zip(images, prepared, found, absolute, strict=True):
        pixels = Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR)
        expected = (np.asarray(pixels) / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.25, 0.3]
        np.testing.assert_allclose(own.permute(1, 2, 0), expected, atol=1e-5)
        assert cams.shape == (len(labels), 16, 16)
        for label, cam, each in zip(labels, cams, maps, strict=True):
            slow = []
            for phrase in (phrase for place, phrase in zip(classes, phrases, strict=True) if place == label):
                text = clipseg.tokenizer(phrase, return_tensors="pt")
                with torch.no_grad():
                    logits = clipseg.model(**text, pixel_values=own[None]).logits
                slow.append(F.avg_pool2d(logits.view(1, 64, 64).sigmoid(), 4)[0])
            highest = torch.stack(slow).amax(0)
            torch.testing.assert_close(each, highest, rtol=0, atol=1e-5)
            torch.testing.assert_close(cam, highest / highest.max(), rtol=0, atol=1e-5)
    torch.testing.assert_close(seeds.scores(prepared)[0], absolute[0][1].amax((1, 2)))


def test_the_stage_makes_a_cam_for_each_tag_and_resumes(
    scenes: Path, folder: Path, words: Path, tmp_path: Path, capsys: Capture
) -> None:
    settings = {"seeds__model": str(folder), "seeds__prompts": str(words), "seeds__batch_size": "3"}
    assert run("seeds", scenes, tmp_path / "run", **settings) == 0
    for item in open_images(DataSettings(root=scenes, split="train")).items:
        cam = read_cam(tmp_path / f"run/seeds/{item.id}.npz")
        assert tuple(cam.ids) == item.tags and cam.size == (64, 64) and cam.cams.shape[1:] == (16, 16)
        assert all(single.max() == pytest.approx(1, abs=1e-3) and single.min() >= 0 for single in cam.cams)
    whole = files_of(tmp_path / "run/seeds")
    victim = next(name for name in whole if name.endswith(".npz"))
    (tmp_path / "run/seeds" / victim).unlink()
    capsys.readouterr()
    assert run("seeds", scenes, tmp_path / "run", **settings) == 0
    assert "1 done, 9 already there" in capsys.readouterr().err
    assert files_of(tmp_path / "run/seeds") == whole
    for number in (1, 2):
        assert run("seeds", scenes, tmp_path / "sharded", shard=f"{number}/2", **settings) == 0
    assert {name: data for name, data in files_of(tmp_path / "sharded/seeds").items() if name.endswith(".npz")} == {
        name: data for name, data in whole.items() if name.endswith(".npz")
    }


def test_suggested_tags_are_the_classes_with_a_high_probability_somewhere(
    scenes: Path, folder: Path, words: Path, tmp_path: Path
) -> None:
    table, images = tmp_path / "suggested.csv", scenes / "train"
    given = ("--seeds.model", str(folder), "--seeds.prompts", str(words), "--threshold", "0.6", "--device", "cpu")
    assert main(["tags", str(images), "--classes", "dab,fen", "--table", str(table), "--workers", "0", *given]) == 0
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    seeds = _seed_model(folder, words)
    for row in rows:
        scores = seeds.scores([seeds.model.prepare(read_image(images / row["image"]))])[0].tolist()
        assert [float(row["score: dab"]), float(row["score: fen"])] == pytest.approx(scores, abs=1e-3)
        assert row["suggested"] == ";".join(
            name for name, score in zip(("dab", "fen"), scores, strict=True) if score >= 0.6
        )
    assert len(rows) == 10


def test_what_is_refused(folder: Path, words: Path, tmp_path: Path) -> None:
    clipseg = _loaded(folder, words)
    with pytest.raises(UsageError, match="longer than the 77 tokens that CLIPSeg reads"):
        clipseg.text_features(["word " * 60])
    odd = tiny_clipseg_folder(tmp_path / "odd", tiny_clipseg(3))
    for content in ('{"size": 60}', '{"size": {"shortest_edge": 64}}', "{", None):
        (odd / "preprocessor_config.json").unlink()
        if content is not None:
            (odd / "preprocessor_config.json").write_text(content)
        with pytest.raises(UsageError, match=r"^seeds\.model: .*(size of the model's input|normalisation)"):
            _loaded(odd, words)
        (odd / "preprocessor_config.json").touch()
    other = tiny_folder(tmp_path / "clip", tiny_model())
    (other / "config.json").write_text('{"model_type": "vit"}', encoding="utf-8")
    with pytest.raises(UsageError, match="of type 'vit', it should be 'clip' or 'clipseg'"):
        load_seed_model(SeedSettings(model=str(other)), read_prompts(None, ("cat",)), CPU)
