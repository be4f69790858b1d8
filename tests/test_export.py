"""ONNX: the graph says what the network says, at any size; and what happens where it cannot."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, MobileNetV2Config, SegformerConfig, SwinConfig

from segmenters import TinySegmenter
from tag2mask.cli import main
from tag2mask.core.errors import Tag2maskError
from tag2mask.export import onnx as export
from tag2mask.networks.backbones.resnet import RESNETS, ResNet
from tag2mask.networks.segmentation import SegmentationNetwork, build_segmentation_network
from tag2mask.networks.settings import SegmentationNetworkSettings, Upsampling

SEGFORMER = SegformerConfig(
    depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=16
)
MOBILENET = MobileNetV2Config(depth_multiplier=0.35)
DINO = Dinov2Config(
    hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64, patch_size=14, image_size=28
)

installed = pytest.mark.skipif(
    any(export.find_spec(name) is None for name in export.MODULES), reason="needs the extra onnx"
)


def _settled(settings: SegmentationNetworkSettings) -> SegmentationNetwork:
    """A network in evaluation mode, whose norms know what they see: with new ones, deep maps of random weights die."""
    network = build_segmentation_network(settings, ("cat", "dog"), seed=0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches, here of one
    with torch.no_grad():
        network.train()(torch.rand(4, 3, 96, 96))
    return network.eval()


def _session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def _agrees_at(network: Any, session: Any, made: Any, *shapes: tuple[int, int, int]) -> None:
    """At shapes of a count, rows and columns of cells."""
    for count, *cells in shapes:
        _agrees(network, session, torch.rand(count, 3, *(each * made.stride + made.remainder for each in cells)))


def _agrees(network: Any, session: Any, images: torch.Tensor) -> None:
    with torch.no_grad():
        expected = network.full_logits(images).numpy()
    (found,) = session.run(["logits"], {"images": images.numpy()})
    assert found.shape == expected.shape
    assert expected.std() > 1e-3  # not the same everywhere, whatever the image
    assert np.abs(found - expected).max() < 1e-4 * max(1, np.abs(expected).max())


@pytest.mark.extra
@installed
def test_a_backbone_that_is_known_not_to_work_is_refused_at_once(tmp_path: Path) -> None:
    SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], image_size=32).save_pretrained(tmp_path)
    settings = SegmentationNetworkSettings(backbone=str(tmp_path), weights="none", head="segformer")
    network = build_segmentation_network(settings, ("cat",), seed=0)
    with pytest.raises(Tag2maskError, match="a network on swin cannot be written as ONNX"):
        export.export_onnx(network, tmp_path / "n.onnx")


@pytest.mark.extra
@installed
@pytest.mark.parametrize(("backbone", "upsampling"), [("tiny", "cells"), ("resnet18", "corners")])
def test_the_graph_is_the_network_at_any_size(backbone: str, upsampling: Upsampling, tmp_path: Path) -> None:
    network = TinySegmenter()
    if backbone == "resnet18":
        network.backbone = ResNet("resnet18", output_stride=16, dilated=True)
        network.head, network.stride = torch.nn.Conv2d(512, 3, 1), 16
    network.upsampling = upsampling
    made = export.export_onnx(network, tmp_path / "n.onnx")
    session = _session(tmp_path / "n.onnx")
    assert (made.stride, made.remainder) == (network.stride, int(upsampling == "corners")) and made.difference < 1e-4
    _agrees_at(network, session, made, (1, 1, 1), (3, 5, 2), (2, 4, 7))
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["classes"]) == ["background", "class1", "class2"]
    assert (properties["stride"], properties["remainder"]) == (str(made.stride), str(made.remainder))
    assert json.loads(properties["fill"]) == pytest.approx(network.backbone.mean)


@pytest.mark.extra
@installed
def test_a_graph_of_the_published_scales_takes_images_without_padding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RESNETS, "resnet101-caffe", RESNETS["resnet101-caffe"]._replace(depths=(1, 1, 1, 1)))
    values: dict[str, Any] = {"scales": (0.5, 0.75), "upsampling": "stretched"}
    network = _settled(SegmentationNetworkSettings("resnet101-caffe", "none", **values))
    made = export.export_onnx(network, tmp_path / "n.onnx")
    assert (made.stride, made.remainder) == (1, 0)
    _agrees_at(network, _session(tmp_path / "n.onnx"), made, (1, 65, 64), (2, 96, 131), (1, 214, 103))


@pytest.mark.extra
@installed
@pytest.mark.parametrize(
    ("model", "values"),
    [
        (None, {"head": "sum", "scales": (0.5, 0.75), "output_stride": 16}),
        (None, {"head": "segformer"}),
        (SEGFORMER, {"head": "segformer"}),
        (MOBILENET, {"head": "segformer", "output_stride": 16}),
        (DINO, {"head": "sum"}),
    ],
    ids=["scales", "head segformer", "segformer", "mobilenet_v2", "dinov2"],
)
def test_networks_that_compute_with_the_size_of_their_input(
    model: Any, values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = "resnet18"
    monkeypatch.setitem(RESNETS, backbone, RESNETS[backbone]._replace(depths=(1, 1, 1, 1)))
    if model is not None:
        backbone = str(tmp_path / "model")
        model.save_pretrained(backbone)
    network = _settled(SegmentationNetworkSettings(backbone, "none", **values))
    made = export.export_onnx(network, tmp_path / "n.onnx")
    session = _session(tmp_path / "n.onnx")
    _agrees_at(network, session, made, (1, 3, 5), (3, 6, 4))


@pytest.mark.extra
@installed
@pytest.mark.data
def test_images_of_ten_sizes(real_data: Path, tmp_path: Path) -> None:
    network = _settled(SegmentationNetworkSettings("resnet18", "none", output_stride=16))
    export.export_onnx(network, tmp_path / "n.onnx")
    session = _session(tmp_path / "n.onnx")
    properties = session.get_modelmeta().custom_metadata_map
    stride, more = int(properties["stride"]), int(properties["remainder"])
    items = sorted((real_data / "data" / "voc-animals" / "JPEGImages").glob("*.jpg"))[:10]
    assert len(items) == 10
    for number, item in enumerate(items):
        pixels = np.asarray(Image.open(item).convert("RGB"), np.float32) / 255
        pixels = pixels[: 150 + 13 * number, : 260 - 17 * number].transpose(2, 0, 1)  # (3, H, W)
        height, width = pixels.shape[1:]
        sides = [-(-(side - more) // stride) * stride + more for side in (height, width)]
        filled = np.tile(np.float32(json.loads(properties["fill"])).reshape(1, 3, 1, 1), (1, 1, *sides))
        filled[0, :, :height, :width] = pixels
        _agrees(network, session, torch.from_numpy(filled))


@pytest.mark.extra
@installed
def test_a_network_that_a_graph_cannot_express_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    class Deciding(TinySegmenter):
        def forward(self, images: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
            logits = super().forward(images)
            return logits if images.shape[2] % 8 else -logits  # tracing sees one of the two

    with pytest.raises(Tag2maskError, match="in a way that a graph cannot follow"):
        export.export_onnx(Deciding(), tmp_path / "n.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.extra
@installed
def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("tag2mask.cli.exchange.load_segmentation_network", lambda path: TinySegmenter())
    model = tmp_path / "n.safetensors"
    model.write_bytes(b"weights")
    words = ["export", "onnx", str(model), "--out", str(tmp_path / "n.onnx")]
    assert main([*words, "--dry-run"]) == 0
    assert not (tmp_path / "n.onnx").exists()
    assert main(words) == 0
    assert "multiples of 4" in capsys.readouterr().err
    assert (tmp_path / "n.onnx").is_file()


def test_wrong_use_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "n.safetensors"
    model.write_bytes(b"weights")
    for words, expected in (
        (["export", "tflite", str(model), "--out", "n.onnx"], "knows the formats onnx"),
        (["export", "onnx", "--out", "n.onnx"], "needs RUN"),
        (["export", "onnx", str(model), "--out", str(tmp_path)], "suffix .onnx"),
        (["export", "onnx", str(tmp_path / "gone"), "--out", "n.onnx"], "does not exist"),
    ):
        assert main(words) == 2
        assert expected in capsys.readouterr().err
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    assert main(["export", "onnx", str(model), "--out", str(tmp_path / "n.onnx")]) == 2
    assert "pip install 'tag2mask[onnx]'" in capsys.readouterr().err
