"""Base CAMs from TIPSv2: agreement with the library under a mask of attention, and the stage `seeds` with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from clip_tiny import tiny_tips, tiny_tips_folder
from run_tiny import Capture, files_of, run
from tag2mask.cams.clip.prompts import read_prompts
from tag2mask.cams.clip.settings import SeedSettings
from tag2mask.cams.seed_models import SeedModel, load_seed_model
from tag2mask.cams.tips import Tips
from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.data.cam_files import read_cam
from tag2mask.data.dataset import open_images
from tag2mask.data.settings import DataSettings
from tag2mask.networks.pretrained import load_pretrained

WORDS = "template: a photo of {}.\nclasses:\n  dab: [dab, small fish]\n  fen: fen\nbackground: [sky, mud, reed]\n"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_tips_folder(tmp_path_factory.mktemp("tips") / "model", tiny_tips(3))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "words.yaml"
    path.write_text(WORDS)
    return path


def _loaded(folder: Path, words: Path, **settings: Any) -> tuple[SeedModel, Tips]:
    prompts = read_prompts(str(words), ("dab", "fen"))
    found = load_seed_model(SeedSettings(model=str(folder), **settings), prompts, CPU)
    assert isinstance(found.model, Tips)
    return found, found.model


@torch.no_grad()
def _slow_texts(tips: Tips, phrases: tuple[str, ...]) -> torch.Tensor:
    """The mean feature of the sentences of a class, with tokens padded as the library's processor pads them."""
    found = []
    for phrase in phrases:
        text = tips.tokenizer(f"a photo of {phrase}.", return_tensors="pt", padding="max_length", max_length=64)
        said = tips.model.text_model(input_ids=text["input_ids"], attention_mask=text["attention_mask"]).pooler_output
        found.append(F.normalize(said[0], dim=0))
    return F.normalize(torch.stack(found).mean(0), dim=0)


@torch.no_grad()
def _slow_patches(tips: Tips, image: torch.Tensor) -> torch.Tensor:
    """(n, E): the library's last block, under a mask that lets each token attend to itself alone."""
    vision = tips.model.vision_model
    states = vision(image[None], output_hidden_states=True).hidden_states[-2]
    itself = torch.full((states.shape[1], states.shape[1]), -torch.inf).fill_diagonal_(0)
    after = vision.encoder.layer[-1](states, itself[None, None])
    return F.normalize(vision.layernorm(after)[0, 2:], dim=1)  # without class token and register


def test_probabilities_are_a_softmax_over_classes_and_background(folder: Path, words: Path) -> None:
    seeds, tips = _loaded(folder, words)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((40, 61), (28, 28), (5, 3), (21, 42))]
    prepared = [tips.prepare(image, 56) for image in images]
    assert [tuple(image.shape[1:]) for image in prepared] == [(42, 56), (28, 28), (7, 7), (21, 42)]
    pixels = np.asarray(Image.fromarray(images[0]).resize((56, 42), Image.Resampling.BICUBIC)) / 255
    np.testing.assert_allclose(prepared[0].permute(1, 2, 0), pixels, atol=1e-6)
    tags = torch.tensor([[True, True], [False, True], [True, False], [False, False]])
    assert seeds.probabilities is not None and seeds.reads_background
    found, absolute = seeds.cams(prepared, tags), seeds.probabilities(prepared, tags)
    assert [labels for labels, _ in found] == [labels for labels, _ in absolute] == [(0, 1), (1,), (0,), ()]
    texts = [_slow_texts(tips, phrases) for phrases in (("dab", "small fish"), ("fen",))]
    background = [_slow_texts(tips, (word,)) for word in ("sky", "mud", "reed")]
    assert float(tips.model.temperature) == pytest.approx(0.5)
    for image, (labels, cams), (_, maps) in zip(prepared, found, absolute, strict=True):
        grid = (image.shape[1] // 7, image.shape[2] // 7)
        assert maps.shape == (len(labels), *grid)
        patches = _slow_patches(tips, image)
        exponentials = [torch.exp(patches @ text / 0.5) for text in [*(texts[own] for own in labels), *background]]
        for place, (own, cam) in enumerate(zip(maps, cams, strict=True)):
            slow = (exponentials[place] / sum(exponentials)).view(grid)
            torch.testing.assert_close(own, slow, rtol=0, atol=1e-5)
            torch.testing.assert_close(cam, slow / slow.max(), rtol=0, atol=1e-5)
    low = _loaded(folder, words, precision="bf16")[0].cams(prepared, tags)
    for (_, cams), (_, close) in zip(found, low, strict=True):
        torch.testing.assert_close(cams, close, rtol=0, atol=0.03)
    every = seeds.probabilities(prepared, torch.ones(4, 2, dtype=torch.bool))
    torch.testing.assert_close(seeds.scores(prepared), torch.stack([maps.amax((1, 2)) for _, maps in every]))


def test_maps_with_nan_are_refused(folder: Path, words: Path) -> None:
    """A threshold would take a class with such a map for absent."""
    seeds, tips = _loaded(folder, words)
    with torch.no_grad():
        tips.model.vision_model.layernorm.weight.fill_(torch.inf)  # as where half precision overflows
    image = [torch.rand(3, 2 * tips.patch, 2 * tips.patch)]
    for make in (seeds.cams, seeds.probabilities):
        assert make is not None
        with pytest.raises(Tag2maskError, match=r"maps hold NaN; use --seeds\.precision fp32"):
            make(image, torch.tensor([[True, False]]))
    with pytest.raises(Tag2maskError, match="maps hold NaN"):
        seeds.scores(image)


def test_the_stage_makes_a_cam_for_each_tag_and_resumes(
    scenes: Path, folder: Path, words: Path, tmp_path: Path, capsys: Capture
) -> None:
    settings = {"seeds__model": str(folder), "seeds__prompts": str(words)}
    assert run("seeds", scenes, tmp_path / "run", **settings) == 0
    for item in open_images(DataSettings(root=scenes, split="train")).items:
        cam = read_cam(tmp_path / f"run/seeds/{item.id}.npz")
        assert tuple(cam.ids) == item.tags and cam.size == (64, 64) and cam.cams.shape[1:] == (10, 10)
        assert all(single.max() == pytest.approx(1, abs=1e-3) and single.min() >= 0 for single in cam.cams)
    whole = files_of(tmp_path / "run/seeds")
    (tmp_path / "run/seeds" / next(name for name in whole if name.endswith(".npz"))).unlink()
    capsys.readouterr()
    assert run("seeds", scenes, tmp_path / "run", **settings) == 0
    assert "1 done, 9 already there" in capsys.readouterr().err
    assert files_of(tmp_path / "run/seeds") == whole


def test_what_is_refused(folder: Path, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="longer than the 64 tokens that TIPSv2 reads"):
        _loaded(folder, words)[1].text_features(["word " * 60])
    with pytest.raises(UsageError, match=r"has no models of type 'tipsv2'; update it with `pip install --upgrade"):
        load_pretrained(str(folder), {"tipsv2": ("Tipsv2Config", "ModelOfALaterVersion")}, "seeds.model")
    (alone := tmp_path / "alone.yaml").write_text("background: []")
    with pytest.raises(UsageError, match="TIPSv2 compares with background words, and there are none; list some"):
        _loaded(folder, alone)
    other = tiny_tips_folder(tmp_path / "other", tiny_tips())
    (other / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"has no tokenizer\.json and no tokenizer\.model; add them"):
        _loaded(other, words)
    (other / "tokenizer.model").touch()
    monkeypatch.setattr("tag2mask.cams.text_models.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="install them with `pip install sentencepiece protobuf`, or give a folder"):
        _loaded(other, words)
    (other / "tokenizer.json").write_text("{")
    with pytest.raises(Tag2maskError, match=r"could not be loaded .* fetch it again"):
        _loaded(other, words)
