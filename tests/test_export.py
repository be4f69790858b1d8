"""ONNX: the graph says what the network says, at any size; and what happens where it cannot."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from segmenters import TinySegmenter
from tag2mask import export
from tag2mask.cli import main
from tag2mask.errors import Tag2maskError
from tag2mask.networks.resnet import ResNet

installed = pytest.mark.skipif(
    any(export.find_spec(name) is None for name in export.MODULES), reason="needs the extra onnx"
)


@installed
@pytest.mark.parametrize(("backbone", "align_corners"), [("tiny", False), ("resnet18", True)])
def test_the_graph_is_the_network_at_any_size(backbone: str, align_corners: bool, tmp_path: Path) -> None:
    import onnxruntime

    network = TinySegmenter()
    if backbone == "resnet18":
        network.backbone = ResNet("resnet18", output_stride=16, dilated=True)
        network.head, network.stride = torch.nn.Conv2d(512, 3, 1), 16
    network.align_corners = align_corners
    made = export.export_onnx(network, tmp_path / "n.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "n.onnx", providers=["CPUExecutionProvider"])
    stride, more = network.stride, int(align_corners)
    assert (made.stride, made.remainder) == (stride, more) and made.difference < 1e-4
    for count, rows, columns in ((1, 1, 1), (3, 5, 2), (2, 4, 7)):
        height, width = rows * stride + more, columns * stride + more
        images = torch.rand(count, 3, height, width)
        with torch.no_grad():
            expected = network.full_logits(images).numpy()
        (found,) = session.run(["logits"], {"images": images.numpy()})
        assert found.shape == (count, 3, height, width)
        assert np.abs(found - expected).max() < 1e-4 * max(1, np.abs(expected).max())
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["classes"]) == ["background", "class1", "class2"]
    assert (properties["stride"], properties["remainder"]) == (str(stride), str(more))
    assert json.loads(properties["fill"]) == pytest.approx(network.backbone.mean)


@installed
def test_a_network_that_a_graph_cannot_express_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    class Counting(TinySegmenter):
        def forward(self, images: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
            logits = super().forward(images)
            return logits * float(int(images.shape[2]))  # a number that tracing would freeze

    with pytest.raises(Tag2maskError, match="in a way that a graph cannot follow"):
        export.export_onnx(Counting(), tmp_path / "n.onnx")
    assert not list(tmp_path.iterdir())


@installed
def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("tag2mask.predictor.load_segmenter", lambda path: TinySegmenter())
    model = tmp_path / "n.safetensors"
    model.write_bytes(b"weights")
    words = ["export", "onnx", "--model", str(model), "--out", str(tmp_path / "n.onnx")]
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
        (["export", "tflite", "--model", str(model), "--out", "n.onnx"], "knows the format onnx"),
        (["export", "onnx", "--out", "n.onnx"], "--model PATH"),
        (["export", "onnx", "--model", str(model), "--out", str(tmp_path)], "suffix .onnx"),
        (["export", "onnx", "--model", str(tmp_path / "gone"), "--out", "n.onnx"], "does not exist"),
    ):
        assert main(words) == 2
        assert expected in capsys.readouterr().err
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    assert main(["export", "onnx", "--model", str(model), "--out", str(tmp_path / "n.onnx")]) == 2
    assert "pip install 'tag2mask[onnx]'" in capsys.readouterr().err
