"""Prediction with an exported network: the masks of torch, and what is refused."""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

import tag2mask
from run_tiny import files_of
from segmenters import TinySegmenter
from tag2mask.cli import main
from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.export import onnx as export
from tag2mask.networks.checkpoint import NetworkFileError
from tag2mask.networks.heads import ConcatHead
from tag2mask.networks.settings import Upsampling
from tag2mask.prediction import onnx_network
from tag2mask.prediction.predictor import Predictor
from tag2mask.prediction.settings import PredictSettings
from test_predictor import pixels

pytestmark = [
    pytest.mark.extra,
    pytest.mark.skipif(any(export.find_spec(name) is None for name in export.MODULES), reason="needs the extra onnx"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "n.onnx"
    network = TinySegmenter(kernel=5)
    network.upsampling, network.intensity = "corners", (0.0, 4095.0)
    export.export_onnx(network, path)
    return path


def changed(path: Path, target: Path, **properties: str | None) -> Path:
    """A copy with other metadata; None deletes an entry."""
    import onnx

    model = onnx.load(path)
    values = {each.key: each.value for each in model.metadata_props} | properties
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {name: value for name, value in values.items() if value is not None})
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("upsampling", get_args(Upsampling))
def test_probabilities_are_those_of_torch(upsampling: Upsampling, tmp_path: Path) -> None:
    network = TinySegmenter(kernel=5, seed=3)
    network.upsampling = upsampling
    export.export_onnx(network, tmp_path / "n.onnx")
    for values in ({}, {"scales": [0.5, 1.0, 1.5], "flip": True}, {"tile": 64, "batch_size": 3}, {"crf": True}):
        settings = PredictSettings(precision="fp32", **values)
        ours, torchs = tag2mask.load(tmp_path / "n.onnx", "cpu", settings), Predictor(network, "cpu", settings)
        assert ours.classes == torchs.classes == ("class1", "class2")
        for size in ((37, 53), (1, 1), (70, 130)):
            image = pixels(*size).numpy()
            expected = torchs.probabilities(image)
            tolerance = 2e-3 if settings.crf else 1e-4  # the CRF enlarges differences
            assert np.abs(ours.probabilities(image) - expected).max() < tolerance, (values, size)
            highest = np.sort(expected, axis=0)
            certain = highest[-1] - highest[-2] > 2 * tolerance
            assert (ours.predict(image) == torchs.predict(image))[certain].all()


def test_it_has_torchs_threads_and_the_networks_intensity(exported: Path) -> None:
    before, masks = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            predictor = tag2mask.load(exported)
            network: Any = predictor.network
            assert network.session.get_session_options().intra_op_num_threads == threads
            masks.append(predictor.predict(pixels(90, 70).numpy()))
    finally:
        torch.set_num_threads(before)
    assert (masks[0] == masks[1]).all() and len(np.unique(masks[0])) > 1
    assert predictor.intensity == (0.0, 4095.0) and predictor.device.type == "cpu"


def test_the_verb_makes_the_masks_of_the_checkpoint(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = TinySegmenter(kernel=5)
    network.upsampling = "corners"
    monkeypatch.setattr("tag2mask.prediction.predictor.load_segmentation_network", lambda path: network)
    (tmp_path / "n.safetensors").write_bytes(b"weights")
    (tmp_path / "images").mkdir()
    for number, size in enumerate(((24, 32), (31, 23), (24, 32))):
        Image.fromarray(pixels(*size, number).numpy()).save(tmp_path / f"images/{number}.png")
    for model, out in ((exported, "onnx"), (tmp_path / "n.safetensors", "torch")):
        words = ["predict", str(model), str(tmp_path / "images"), "--out", str(tmp_path / out), "--device", "cpu"]
        assert main([*words, "--predict.precision", "fp32", "--predict.flip", "true"]) == 0
    records = [json.loads((tmp_path / out / "predictions.json").read_text()) for out in ("onnx", "torch")]
    assert records[0]["classes"] == records[1]["classes"] == ["background", "class1", "class2"]
    assert records[0]["made_by"]["network"] != records[1]["made_by"]["network"]
    for name in ("0", "1", "2"):
        masks = [np.array(Image.open(tmp_path / out / f"{name}.png")) for out in ("onnx", "torch")]
        assert (masks[0] == masks[1]).mean() > 0.998 and len(np.unique(masks[0])) > 1
    before = files_of(tmp_path / "onnx")
    words = ["predict", str(exported), str(tmp_path / "images"), "--out", str(tmp_path / "onnx")]
    # The file's precision is fp32 also where `auto` is bf16.
    monkeypatch.setattr("tag2mask.core.device.emulates_bf16", lambda device: False)
    assert main([*words, "--predict.flip", "true"]) == 0
    assert files_of(tmp_path / "onnx") == before


def test_a_file_that_does_not_fit_is_refused(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.onnx").write_bytes(exported.read_bytes()[:500])
    (tmp_path / "words.onnx").write_text("no graph")
    for name in ("torn", "words"):
        with pytest.raises(NetworkFileError, match=rf"{name}.onnx could not be read as an ONNX graph"):
            tag2mask.load(tmp_path / f"{name}.onnx")
    with pytest.raises(NetworkFileError, match=r"is not a network of tag2mask: .* `tag2mask export onnx`"):
        tag2mask.load(changed(exported, tmp_path / "other.onnx", classes=None))
    for values in (
        {"cell": "0"},
        {"stride": "four"},
        {"fill": "[0, 1]"},
        {"fill": "[NaN, 0, 0]"},
        {"fill": "[0.5, 124, 0.5]"},
        {"upsampling": "nearest"},
        {"classes": '["cat", "dog"]'},
        {"classes": '["background", 7]'},
        {"intensity": "[3, 1]"},
    ):
        with pytest.raises(NetworkFileError, match="is damaged: its metadata"):
            tag2mask.load(changed(exported, tmp_path / "wrong.onnx", **values))
    fewer = tag2mask.load(changed(exported, tmp_path / "fewer.onnx", classes='["background", "class1"]'), "cpu")
    with pytest.raises(Tag2maskError, match="should give logits"):
        fewer.predict(pixels(20, 20).numpy())


def test_a_graph_without_the_second_output_says_what_to_do(tmp_path: Path) -> None:
    """As an earlier version wrote it, and as it is for the head `concat`, whose result depends on the padding."""
    network: Any = TinySegmenter()
    network.head = _PoolingHead(network.head)
    export.export_onnx(network, tmp_path / "n.onnx")
    with pytest.raises(NetworkFileError, match=r"no output `cells`.*concat.*export the network again.*safetensors"):
        tag2mask.load(tmp_path / "n.onnx")


class _PoolingHead(ConcatHead):
    def __init__(self, layer: torch.nn.Module) -> None:
        torch.nn.Module.__init__(self)
        self.layer = layer

    def forward(self, maps: Any, inside: torch.Tensor | None = None) -> torch.Tensor:
        return self.layer(maps)


def test_wrong_use(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="runs on the CPU; use --device cpu or auto"):
        tag2mask.load(exported, "cuda")
    monkeypatch.setattr(onnx_network, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs onnxruntime; pip install 'tag2mask\[onnx\]'"):
        tag2mask.load(exported)
