"""What goes wrong in training on real images and must be said: weights that are not finite, fitted tags, masks
too small to rank."""

import html
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from run_tiny import BACKBONE, run, words
from segmenters import by_brightness
from tag2mask.cli import main
from tag2mask.core.errors import Tag2maskError
from tag2mask.core.files import write_text
from tag2mask.data import DataSettings, open_images
from tag2mask.data.cam_files import CamFile, CamFileError, read_cam, write_cam
from tag2mask.networks import NetworkSettings, build_network
from tag2mask.networks.checkpoint import (
    NetworkFileError,
    SavedNetwork,
    load_edge_network,
    load_network,
    load_segmentation_network,
    save_network,
)
from tag2mask.networks.edge_network import build_edge_network
from tag2mask.networks.segmentation import build_segmentation_network
from tag2mask.networks.settings import SegmentationNetworkSettings
from tag2mask.pot import PotSettings
from tag2mask.prediction.predictor import Predictor
from tag2mask.prediction.settings import PredictSettings
from tag2mask.quality.estimator import FEW_CELLS
from tag2mask.quality.features import mask_features
from tag2mask.quality.ranking import IMAGES, read_ranking, small_masks_sentence
from tag2mask.refine.masks import ClassMaps
from tag2mask.training.checkpointing import load_state
from tag2mask.training.log import Losses
from tag2mask.training.settings import RecordSettings, SegmentSettings, TrainSettings
from tag2mask.training.tasks import PotLosses, pot_task
from tag2mask.training.trainer import train_network
from test_training import fresh, views

NETWORK = NetworkSettings(backbone=BACKBONE, weights="none")
MADE: dict[str, tuple[Callable[[], SavedNetwork], Callable[[Path], object]]] = {
    "train": (lambda: build_network(NETWORK, ("a", "b"), seed=0), load_network),
    "edges": (lambda: build_edge_network(build_network(NETWORK, ("a",), seed=0).backbone, seed=0), load_edge_network),
    "segment": (
        lambda: build_segmentation_network(SegmentationNetworkSettings(BACKBONE, "none"), ("a",), seed=0),
        load_segmentation_network,
    ),
}


@pytest.mark.parametrize(
    ("spoiled_at", "validate_every", "found_at"),
    [(1, None, 2), (3, None, 3), (4, None, 4), (1, 1, 1), (3, 1, 3), (4, 1, 4)],
)
def test_weights_that_a_step_spoils_are_never_saved_nor_measured(
    scenes: Path, tmp_path: Path, spoiled_at: int, validate_every: int | None, found_at: int
) -> None:
    """The spoiled step's own loss is finite. Weights are looked at after steps 3 and 4, before each measurement, and
    where POT, which begins at step 3, refuses their features."""
    images = open_images(DataSettings(root=scenes, split="train"))
    records = RecordSettings(checkpoint_every=3, log_every=100)
    settings = SegmentSettings(steps=4, batch_size=4, learning_rate=1e3, momentum=0.0, validate_every=validate_every)
    task, measured = pot_task(fresh(images), views(images), TrainSettings(), PotSettings()), []

    def losses(network: nn.Module, batch: Mapping[str, Tensor], progress: float) -> Losses:
        found = task.losses(network, batch, progress)
        assert isinstance(found, PotLosses)
        return replace(found, total=found.total * (3e37 if round(4 * progress) == spoiled_at - 1 else 0.0))

    def validate(network: nn.Module) -> dict[str, float]:
        measured.append(all(value.isfinite().all() for value in network.state_dict().values()))
        return {"validation_miou": 0.5}

    said = rf"the weights are not finite after step {found_at}: .*--restart train and a lower --train\.learning_rate"
    with pytest.raises(Tag2maskError, match=said):
        train_network(
            replace(task, losses=losses, validate=validate),
            settings,
            folder=tmp_path,
            seed=3,
            device="cpu",
            records=records,
        )
    assert all(measured) and len(measured) == (spoiled_at - 1 if validate_every else 0)
    assert (tmp_path / "state.pt").is_file() == (spoiled_at == 4)
    if spoiled_at == 4:
        state = load_state(tmp_path / "state.pt")
        assert state["step"] == 3
        assert all(value.isfinite().all() for value in state["network"].values())
        state["network"]["classifier.weight"][0] = torch.nan  # as an older version could leave it
        torch.save(state, tmp_path / "state.pt")
        with pytest.raises(Tag2maskError, match=r"state\.pt .*not finite: classifier\.weight.*--restart train starts"):
            train_network(task, settings, folder=tmp_path, seed=3, device="cpu", records=records)


@pytest.mark.parametrize("stage", list(MADE))
@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_network_files_hold_finite_weights(
    stage: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, load = MADE[stage]
    network, path = build(), tmp_path / "network.safetensors"
    save_network(path, network)
    load(path)
    name, tensor = next((name, each) for name, each in network.named_buffers() if name.endswith("running_var"))
    tensor.flatten()[-1] = value
    before = path.read_bytes()
    with pytest.raises(NetworkFileError, match=rf"was not written: weights .*: {name}; train again with a lower"):
        save_network(path, network)
    assert path.read_bytes() == before
    with monkeypatch.context() as patched:
        patched.setattr("tag2mask.networks.checkpoint.not_finite", lambda network: [])
        save_network(path, network)
    with pytest.raises(NetworkFileError, match=rf"is damaged: .* {name}; .*`tag2mask {stage}` with --restart {stage}"):
        load(path)


@pytest.mark.parametrize(
    "settings",
    [{"precision": "fp32"}, {"precision": "bf16"}, {"precision": "fp32", "crf": True}],
)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("method", ["predict", "probabilities", "reduced"])
def test_logits_that_are_not_finite_make_no_mask(settings: dict[str, Any], value: float, method: str) -> None:
    network, image = by_brightness(), np.full((9, 12, 3), 200, dtype=np.uint8)
    methods: dict[str, Callable[[Predictor], object]] = {
        "predict": lambda predictor: predictor.predict(image),
        "probabilities": lambda predictor: predictor.probabilities(image),
        "reduced": lambda predictor: predictor.reduced_logits(image, (3, 4)),
    }
    methods[method](Predictor(network, "cpu", PredictSettings(**settings)))
    network.head.bias.data[1] = value
    remedy = "fp32; train" if settings["precision"] == "fp32" else r"bf16; try --predict\.precision fp32"
    with pytest.raises(Tag2maskError, match=rf"logits are not finite .* predict\.precision {remedy}"):
        methods[method](Predictor(network, "cpu", PredictSettings(**settings)))


@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "NaN or infinity; make them with precision fp32"), (np.inf, "NaN"), (1.5, r"\[0, 1\]")]
)
def test_what_no_reader_takes_is_not_written_as_cams(tmp_path: Path, value: float, said: str) -> None:
    path, maps = tmp_path / "a.npz", np.full((1, 2, 3), 0.5, dtype=np.float32)
    write_cam(path, CamFile(np.array([1]), maps, (20, 30)))
    maps[0, 1, 1] = value
    with pytest.raises(CamFileError, match=rf"a\.npz was not written: .*{said}"):
        write_cam(path, CamFile(np.array([1]), maps, (20, 30)))
    assert (read_cam(path).cams == 0.5).all()


def test_the_stage_cams_writes_none_of_a_network_that_overflows(
    copied: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = load_network(copied / "train/network.safetensors")
    network.classifier.weight.data.fill_(3e38)
    save_network(copied / "train/network.safetensors", network)
    capsys.readouterr()
    assert run("cams", scenes, copied, restart="cams", cams__kinds="[classifier]") == 1
    assert "was not written: `cams` hold NaN or infinity" in capsys.readouterr().err.replace("\n", " ")
    assert not list((copied / "cams").rglob("*.npz"))


@pytest.mark.parametrize(("rate", "noted"), [("0.0001", False), ("0.02", True)])
def test_training_says_how_many_steps_had_fitted_tags(
    rate: str, noted: bool, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    changes = {"limit": "2", "train__learning_rate": rate, "train__steps": "80", "train__consistency_weight": "0"}
    assert main([*words("train", scenes, out, **changes), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    notes = [note for note in result["notes"] if "of 80 steps did not change the weights" in note]
    assert len(notes) == noted, (out / "train/log.jsonl").read_text()
    if noted:
        assert 20 < int(notes[0].split()[0]) < 80


def test_the_area_of_a_mask_in_cells_of_its_cams() -> None:
    labels = torch.zeros(40, 60, dtype=torch.uint8)
    labels[:10, :12] = 1
    ids = torch.tensor([0, 1], dtype=torch.uint8)
    found = mask_features(labels, ids, ClassMaps(ids, torch.rand(2, 8, 10)), size=(20, 30))
    assert found.of("cells").tolist() == pytest.approx([76, 4])
    assert np.isnan(mask_features(labels, ids, None, torch.rand(2, 40, 60)).of("cells")).all()


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([FEW_CELLS - 0.1, FEW_CELLS, 900], "confidence of 1 of 4 images is unknown"),
        ([0.3, 2, 0], "confidence of 2 of 4 images"),  # an empty mask is rightly the least certain
        ([FEW_CELLS, 40, 50], ""),
        (["", "", ""], ""),  # a ranking without CAMs, or of an earlier version
    ],
)
def test_masks_of_few_cells_are_counted(tmp_path: Path, cells: list[object], said: str) -> None:
    small = [each != "" and 0 < float(str(each)) < FEW_CELLS for each in cells]
    numbers = ["" if own else f"0.{place}" for place, own in enumerate(small)]
    lines = [f"{place},{numbers[place]},cat,{numbers[place]},,{each}" for place, each in enumerate(cells)]
    header = "image,confidence,class,class_confidence,reason,cells"
    write_text(tmp_path / IMAGES, "\n".join([header, *lines, "none,,background,,no CAMs and no network,1000"]) + "\n")
    assert small_masks_sentence(tmp_path).startswith(said) and bool(small_masks_sentence(tmp_path)) == bool(said)


def test_the_stage_and_the_page_say_it(copied: Path, scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scenes of 64 pixels have 16 CAM cells, so some masks have fewer than 4."""
    capsys.readouterr()
    assert main([*words("confidence", scenes, copied), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    ranked = list(read_ranking(copied))
    count = sum(each.confidence is None for each in ranked)
    expected = f"onfidence of {count} of {len(ranked)} images is unknown, because a class's mask covers fewer than"
    assert count and any(expected in note for note in result["notes"])
    assert all(each.confidence is None and "CAM cells" in each.reason for each in ranked[:count])
    assert main(["report", str(copied)]) == 0
    page = (copied / "report.html").read_text(encoding="utf-8")
    least_certain = page.partition('id="least-certain"')[2].partition('id="gallery"')[0]
    assert expected in html.unescape(page) and least_certain.count("confidence <b>unknown</b>") == min(count, 12)
