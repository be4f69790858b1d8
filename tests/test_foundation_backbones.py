"""Foundation models as backbones, each through its own class of `transformers`: stages, normalisation, freezing."""

import json
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
    DeiTConfig,
    DeiTModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipModel,
    Tipsv2Config,
    Tipsv2Model,
)

from run_tiny import run
from tag2mask.data.dataset import open_images
from tag2mask.data.images import read_mask
from tag2mask.data.settings import DataSettings
from tag2mask.networks import NetworkSettings, build_network, load_network, save_network
from tag2mask.networks.backbones.base import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from tag2mask.networks.backbones.hub import read_normalisation

HALF, ZERO, ONE = ((value, value, value) for value in (0.5, 0.0, 1.0))
IMAGENET, CLIP = (IMAGENET_MEAN, IMAGENET_STD), (CLIP_MEAN, CLIP_STD)

VISION = {"hidden_size": 16, "num_hidden_layers": 8, "num_attention_heads": 2}
TEXT = {**VISION, "num_hidden_layers": 1, "intermediate_size": 32, "vocab_size": 9, "bos_token_id": 1}
OF_14 = {**VISION, "image_size": 28, "patch_size": 14, "mlp_ratio": 2}
OF_16 = {**VISION, "image_size": 32, "patch_size": 16, "intermediate_size": 32}


def _of_two(**vision: int) -> dict[str, Any]:
    return {"text_config": {**TEXT, "eos_token_id": 2}, "vision_config": vision}


MODELS = {
    "clip": (lambda: CLIPModel(CLIPConfig(**_of_two(**OF_16))), 1, CLIP),
    "clip image encoder": (lambda: CLIPVisionModel(CLIPConfig(**_of_two(**OF_16)).vision_config), 1, CLIP),
    "deit": (lambda: DeiTModel(DeiTConfig(**OF_16)), 2, IMAGENET),
    "dinov2": (lambda: Dinov2Model(Dinov2Config(**OF_14)), 1, IMAGENET),
    "dinov2 with registers": (
        lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**OF_14, num_register_tokens=4)),
        5,
        IMAGENET,
    ),
    "dinov3": (lambda: DINOv3ViTModel(DINOv3ViTConfig(**OF_16, num_register_tokens=3)), 4, IMAGENET),
    "siglip": (lambda: SiglipModel(SiglipConfig(**_of_two(**OF_16))), 0, (HALF, HALF)),
    "tipsv2": (lambda: Tipsv2Model(Tipsv2Config(**_of_two(**OF_14))), 2, (ZERO, ONE)),
}
"""By name: the model, its tokens before those of the patches, and its normalisation."""


@pytest.mark.parametrize("name", MODELS)
def test_a_frozen_foundation_model(name: str, tmp_path: Path) -> None:
    make, prefix, normalisation = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    model.save_pretrained(tmp_path / "model")
    settings = NetworkSettings(backbone=str(tmp_path / "model"), freeze=True)
    network = build_network(settings, ("cat", "dog"), seed=0).eval()
    assert [stage.name for stage in network.backbone.stages] == ["block2", "block4", "block6", "block8"]
    images = torch.rand(2, 3, 45, 67)
    maps = network.backbone(images)
    for found, expected in zip(maps, _slow_maps(model, images, prefix), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert network.levels == (0, 1, 2, 3) and {stage.stride for stage in network.backbone.stages} == {network.stride}
    assert not any(each.requires_grad or "text" in key for key, each in network.backbone.named_parameters())
    assert (network.backbone.mean, network.backbone.std) == normalisation
    (tmp_path / "model/preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": None})
    )
    found = read_normalisation(tmp_path / "model", network.backbone.architecture()["config"]["model_type"])
    assert found == ((0.1, 0.2, 0.3), normalisation[1])
    rmtree(tmp_path / "model")
    save_network(tmp_path / "network.safetensors", network)
    again = load_network(tmp_path / "network.safetensors")
    assert again.backbone.mean == normalisation[0]
    for found, expected in zip(again(images), network(images), strict=True):
        assert torch.equal(found, expected)


def test_a_run_with_the_preset_frozen(scenes: Path, tmp_path: Path) -> None:
    MODELS["dinov2"][0]().save_pretrained(tmp_path / "model")
    settings = {"config": "frozen", "network__backbone": str(tmp_path / "model"), "network__weights": "imagenet"}
    assert run("run", scenes, tmp_path / "run", train__epochs="20", **settings) == 0
    for item in open_images(DataSettings(root=scenes, split="train")).items:
        with np.load(tmp_path / f"run/features/{item.id}.npz") as arrays:
            assert arrays["features"].shape == (4 * 16, 5, 5)  # 64 pixels in patches of 14
        mask = read_mask(tmp_path / f"run/masks/{item.id}.png")
        assert mask.shape == (64, 64) and set(item.tags) <= set(np.unique(mask).tolist()) <= {0, *item.tags}


def _slow_maps(model: Any, images: torch.Tensor, prefix: int) -> list[torch.Tensor]:
    """The outputs of every second block, as the model itself computes them, through its final norm."""
    encoder = getattr(model, "vision_model", model)
    patch = encoder.config.patch_size
    padded = F.pad(images, (0, -images.shape[3] % patch, 0, -images.shape[2] % patch))
    blocks = next(each for each in encoder.modules() if isinstance(each, nn.ModuleList) and len(each) == 8)
    tokens: list[torch.Tensor] = []
    for block in blocks[1::2]:
        block.register_forward_hook(lambda _, __, output: tokens.append(output))
    resize = "deit" in encoder.config.model_type or hasattr(encoder, "post_layernorm")
    with torch.no_grad():
        encoder(padded, **({"interpolate_pos_encoding": True} if resize else {}))
    norm = next(getattr(encoder, each) for each in ("post_layernorm", "layernorm", "norm") if hasattr(encoder, each))
    rows, columns = padded.shape[2] // patch, padded.shape[3] // patch
    return [norm(each)[:, prefix:].reshape(2, rows, columns, 16).permute(0, 3, 1, 2) for each in tokens]
