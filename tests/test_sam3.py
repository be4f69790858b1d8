"""Base CAMs and masks from SAM 3: agreement with the library phrase by phrase, and the stage `seeds` with it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from clip_tiny import tiny_folder, tiny_sam3
from run_tiny import Capture, files_of, run
from tag2mask.cams.clip.prompts import read_prompts
from tag2mask.cams.clip.settings import SeedSettings
from tag2mask.cams.sam3 import Sam3, found_masks
from tag2mask.cams.seed_models import SeedModel, load_seed_model
from tag2mask.core.errors import UsageError
from tag2mask.data.cam_files import read_cam
from tag2mask.data.dataset import open_images
from tag2mask.data.settings import DataSettings

WORDS = "classes:\n  dab: dab, small dab fish\n  fen: fen\n"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("sam3") / "model", tiny_sam3(3))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "words.yaml"
    path.write_text(WORDS)
    return path


def _loaded(folder: Path, words: Path, **settings: Any) -> tuple[SeedModel, Sam3]:
    found = load_seed_model(SeedSettings(model=str(folder), **settings), read_prompts(str(words), ("dab", "fen")), CPU)
    assert isinstance(found.model, Sam3)
    return found, found.model


def _prepared(sam3: Sam3) -> list[torch.Tensor]:
    random = np.random.default_rng(0)
    return [sam3.prepare(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in ((40, 90), (56, 56), (7, 3))]


@torch.no_grad()
def _library(sam3: Sam3, image: torch.Tensor, phrase: str) -> Any:
    """What the library says of one image and one phrase, with tokens padded as its processor pads them."""
    text = sam3.tokenizer(phrase, return_tensors="pt", padding="max_length", max_length=77)
    return sam3.model(pixel_values=image[None], **text)


def test_maps_are_those_of_the_library_joined(folder: Path, words: Path) -> None:
    seeds, sam3 = _loaded(folder, words)
    image = np.random.default_rng(1).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((56, 56), Image.Resampling.BILINEAR)) / 127.5 - 1
    np.testing.assert_allclose(sam3.prepare(image).permute(1, 2, 0), expected, atol=1e-5)
    prepared = _prepared(sam3)
    tags = torch.tensor([[True, True], [False, True], [False, False]])
    assert seeds.probabilities is not None
    encoded: list[int] = []
    sam3.model.vision_encoder.register_forward_hook(lambda _, given, __: encoded.append(len(given[0])))
    found = seeds.cams(prepared, tags)
    assert encoded == [3], "each image once, for all phrases"
    absolute = seeds.probabilities(prepared, tags)
    assert [labels for labels, _ in found] == [labels for labels, _ in absolute] == [(0, 1), (1,), ()]
    for own, (labels, cams), (_, maps) in zip(prepared, found, absolute, strict=True):
        assert cams.shape == (len(labels), 32, 32)
        for label, cam, each in zip(labels, cams, maps, strict=True):
            slow = torch.zeros(32, 32)
            for phrase in (["dab", "small dab fish"], ["fen"])[label]:
                said = _library(sam3, own, phrase)
                presence = said.presence_logits.sigmoid()[0, 0]
                slow = torch.maximum(slow, said.semantic_seg[0, 0].sigmoid() * presence)
                for mask, logit in zip(said.pred_masks[0], said.pred_logits[0], strict=True):
                    slow = torch.maximum(slow, mask.sigmoid() * logit.sigmoid() * presence)
            torch.testing.assert_close(each, slow, rtol=0, atol=1e-5)
            torch.testing.assert_close(cam, slow / slow.max(), rtol=0, atol=1e-5)
    every = seeds.probabilities(prepared, torch.ones(3, 2, dtype=torch.bool))
    torch.testing.assert_close(seeds.scores(prepared), torch.stack([maps.amax((1, 2)) for _, maps in every]))


def test_candidates_are_the_masks_above_the_floor(folder: Path, words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, sam3 = _loaded(folder, words)
    image, phrases = _prepared(sam3)[0], ["dab", "small dab fish", "fen", "fen bog", "a fen", "the fen"]
    classes = [0, 0, 1, 1, 1, 1]
    texts = sam3.text_features(phrases)
    expected = []
    for label, phrase in zip(classes, phrases, strict=True):
        said = _library(sam3, image, phrase)
        scores = said.pred_logits[0].sigmoid() * said.presence_logits[0, 0].sigmoid()
        masks = said.pred_masks[0].sigmoid()
        expected += [(score.item(), label, mask) for score, mask in zip(scores, masks, strict=True)]
    expected.sort(key=lambda each: -each[0])
    floor = float(np.mean([score for score, _, _ in expected]))  # random weights have scores near a half
    expected = [each for each in expected if each[0] >= floor]
    monkeypatch.setattr("tag2mask.cams.sam3.SCORE_FLOOR", floor)
    found = found_masks(sam3, image, texts, classes, torch.tensor([True, True]))
    assert len(expected) < 6 * 6 and {label for _, label, _ in expected} == {0, 1}
    np.testing.assert_allclose(found.scores, [score for score, _, _ in expected], atol=1e-5)
    assert found.labels.tolist() == [label for _, label, _ in expected]
    torch.testing.assert_close(found.masks, torch.stack([mask for _, _, mask in expected]), rtol=0, atol=1e-5)
    assert set(found_masks(sam3, image, texts, classes, torch.tensor([False, True])).labels.tolist()) == {1}
    none = found_masks(sam3, image, texts, classes, torch.tensor([False, False]))
    assert none.masks.shape == (0, 32, 32) and len(none.scores) == len(none.labels) == 0


def test_the_published_folder_holds_a_tracker_too(folder: Path, words: Path, tmp_path: Path) -> None:
    published = tmp_path / "published"
    shutil.copytree(folder, published)
    config = json.loads((folder / "config.json").read_text())
    outer = {"model_type": "sam3_video", "detector_config": config, "tracker_config": {}}
    (published / "config.json").write_text(json.dumps(outer))
    weights = {f"detector_model.{name}": values for name, values in load_file(folder / "model.safetensors").items()}
    save_file(weights | {"tracker_model.weight": torch.ones(3)}, published / "model.safetensors", {"format": "pt"})
    tags = torch.ones(3, 2, dtype=torch.bool)
    (seeds, sam3), (other, _) = _loaded(folder, words), _loaded(published, words)
    for (_, own), (_, same) in zip(seeds.cams(_prepared(sam3), tags), other.cams(_prepared(sam3), tags), strict=True):
        torch.testing.assert_close(own, same, rtol=0, atol=0)


def test_bfloat16_is_close_and_attention_is_never_stored(folder: Path, words: Path) -> None:
    (seeds, sam3), (other, low) = _loaded(folder, words), _loaded(folder, words, precision="fp16")
    assert (sam3.dtype, low.dtype) == (None, torch.bfloat16)
    whole = sam3.model
    used = (whole.vision_encoder.backbone, whole.detr_encoder, whole.detr_decoder, whole.mask_decoder)
    assert {part.config._attn_implementation for part in used} == {"sdpa"}
    tags = torch.ones(3, 2, dtype=torch.bool)
    for (_, own), (_, same) in zip(seeds.cams(_prepared(sam3), tags), other.cams(_prepared(low), tags), strict=True):
        assert same.dtype == torch.float32
        torch.testing.assert_close(own, same, rtol=0, atol=0.1)


def test_the_stage_makes_a_cam_for_each_tag_and_resumes(
    scenes: Path, folder: Path, words: Path, tmp_path: Path, capsys: Capture
) -> None:
    settings = {"seeds__model": str(folder), "seeds__prompts": str(words)}
    assert run("seeds", scenes, tmp_path / "run", **settings) == 0
    for item in open_images(DataSettings(root=scenes, split="train")).items:
        cam = read_cam(tmp_path / f"run/seeds/{item.id}.npz")
        assert tuple(cam.ids) == item.tags and cam.size == (64, 64) and cam.cams.shape[1:] == (32, 32)
        assert all(single.max() == pytest.approx(1, abs=1e-3) and single.min() >= 0 for single in cam.cams)
    whole = files_of(tmp_path / "run/seeds")
    (tmp_path / "run/seeds" / next(name for name in whole if name.endswith(".npz"))).unlink()
    capsys.readouterr()
    assert run("seeds", scenes, tmp_path / "run", **settings) == 0
    assert "1 done, 9 already there" in capsys.readouterr().err
    assert files_of(tmp_path / "run/seeds") == whole


def test_what_is_refused(folder: Path, words: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="longer than the 77 tokens that SAM 3 reads"):
        _loaded(folder, words)[1].text_features(["word " * 60])
    other = tiny_folder(tmp_path / "tracker", tiny_sam3())
    (other / "config.json").write_text('{"model_type": "sam3_tracker"}')
    with pytest.raises(UsageError, match="of type 'sam3_tracker', it should be 'clip' or 'clipseg' or 'sam3'"):
        _loaded(other, words)
