"""The SAM family: agreement with the library's forward pass on images prepared by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from clip_tiny import tiny_folder, tiny_model
from sam_tiny import KINDS, SIDE, tiny_sam_folder
from tag2mask.core.errors import UsageError
from tag2mask.networks.promptable import Promptable, full_size, load_promptable


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Promptable:
    folder = tiny_sam_folder(tmp_path_factory.mktemp("sam") / request.param, request.param)
    return load_promptable(str(folder), "refine.proposals")


def _image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _slow(
    model: Promptable, image: np.ndarray, prompt: dict[str, np.ndarray]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (M, h, w), scores (M,) and masks (M, H, W) of one prompt by the whole model."""
    height, width = image.shape[:2]
    new = (SIDE, SIDE)
    if model.padded:
        new = (SIDE, round(width * SIDE / height)) if height > width else (round(height * SIDE / width), SIDE)
    pixels = np.zeros((SIDE, SIDE, 3))
    pixels[: new[0], : new[1]] = Image.fromarray(image).resize((new[1], new[0]), Image.Resampling.BILINEAR)
    pixels[: new[0], : new[1]] = (pixels[: new[0], : new[1]] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    values = {"pixel_values": torch.tensor(pixels).permute(2, 0, 1)[None].float()}
    for name, value in prompt.items():
        factors = [new[1] / width, new[0] / height] * (2 if name == "input_boxes" else 1)
        values[name] = torch.tensor(value if name == "input_labels" else value * factors)[None, None]
        values[name] = values[name].float() if name != "input_labels" else values[name]
    with torch.no_grad():
        found = model.model(**values)
    logits, whole = found.pred_masks[0, 0], found.pred_masks[0]
    if model.padded:
        whole = F.interpolate(whole, size=(SIDE, SIDE), mode="bilinear")[:, :, : new[0], : new[1]]
    return logits, found.iou_scores[0, 0], F.interpolate(whole, size=(height, width), mode="bilinear")[0] > 0


@pytest.mark.parametrize("size", [(40, 90), (64, 64), (31, 7)])
@pytest.mark.parametrize("given", ["points", "boxes", "both"])
def test_masks_are_those_of_the_library(model: Promptable, size: tuple[int, int], given: str) -> None:
    image, count = _image(*size), 19
    random = np.random.default_rng(1)
    points, labels, boxes = None, None, None
    if given != "boxes":
        points = random.uniform(0, 1, (count, 3, 2)) * size[::-1]
        labels = random.choice([1, 0, -10], (count, 3))
    if given != "points":
        boxes = np.sort(random.uniform(0, 1, (count, 2, 2)), 1).reshape(count, 4) * [*size[::-1], *size[::-1]]
    encoded = model.encode(image)
    assert encoded.size == size
    found = model.masks(encoded, points, labels, boxes)
    assert found.logits.shape == (count, 3, 16, 16) and found.scores.shape == (count, 3)
    masks = full_size(found.logits, encoded)
    assert masks.shape == (count, 3, *size) and masks.dtype == torch.bool
    for place in (0, 15, 16, 18):
        every = {"input_points": points, "input_labels": labels, "input_boxes": boxes}
        prompt = {name: value[place] for name, value in every.items() if value is not None}
        logits, scores, whole = _slow(model, image, prompt)
        torch.testing.assert_close(found.logits[place], logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.scores[place], scores, rtol=1e-4, atol=1e-4)
        assert (masks[place] != whole).float().mean() < 1e-3
    assert found.logits.std(0).min() > 0


def test_no_prompts(model: Promptable) -> None:
    encoded = model.encode(_image(20, 50))
    found = model.masks(encoded, boxes=np.zeros((0, 4)))
    assert found.logits.shape == (0, 3, 16, 16) and found.scores.shape == (0, 3)
    assert full_size(found.logits, encoded).shape == (0, 3, 20, 50)


def test_the_normalisation_is_that_of_the_preprocessor_file(tmp_path: Path) -> None:
    folder = tiny_sam_folder(tmp_path / "sam", "sam2")
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')
    assert load_promptable(str(folder), "assist").normalisation == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"assist: .* is a model of type 'clip', it should be 'sam2' or"):
        load_promptable(str(tiny_folder(tmp_path / "clip", tiny_model())), "assist")


def test_the_published_edgetam_asks_for_its_library(tmp_path: Path) -> None:
    folder = tiny_sam_folder(tmp_path / "edgetam", "edgetam")
    values = json.loads((folder / "config.json").read_text())
    values["vision_config"]["backbone_config"] = {"model_type": "timm_wrapper", "architecture": "repvit_m1"}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UsageError, match=r"refine\.proposals: .* needs a library that is not installed: .*timm"):
        load_promptable(str(folder), "refine.proposals")
