"""The presets of published segmentation networks: on top of another preset, and with the published values."""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

from run_tiny import words
from tag2mask.cli import main
from tag2mask.cli.parsing import Parser, build_parser, expand_presets, to_config
from tag2mask.networks.backbones.resnet import RESNETS
from tag2mask.networks.checkpoint import load_segmentation_network
from tag2mask.networks.segmentation import SegmentationNetwork, build_segmentation_network
from tag2mask.refine.crf import CrfValues
from tag2mask.runs.config import Config, presets, to_yaml
from tag2mask.training.settings import POWER
from tag2mask.training.tasks import segmentation_task

SCALES = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]


class Published(NamedTuple):
    """Values of a published recipe; `rates` are of weights and biases of the backbone, and of those of the head."""

    network: dict[str, Any]
    augment: dict[str, Any]
    batch: tuple[int, int]  # images of a part, parts
    power_every: int
    predict: tuple[list[float], bool]
    crf: CrfValues
    rates: tuple[float, float, float, float]


FIXED_SIZES = {"crop": 448, "resize": "scale_range", "scales": [0.5, 1.5], "padding": "random", "hsv_jitter": 10}
CHOSEN_SIZES = [0.5, 0.75, 1.0, 1.25, 1.5]
SLOW_HEAD = {
    "batch_norm": "trained",
    "head_batch_norm_momentum": 3e-4,
    "batch_norm_affine": "fixed",
    "upsampling": "corners",
    "scales": [],
}
DILATED = {"output_stride": 8}
FIXED_NORM = {"batch_norm": "fixed", "batch_norm_affine": "fixed"}
RATES = (1e-3, 2e-3, 1e-2, 2e-2)
CRF = CrfValues(10, 1, 3, 67, 3, 4)
PUBLISHED = {
    "deeplab-concat": Published(
        SLOW_HEAD | DILATED | {"backbone": "resnet101s", "head": "concat", "batch_norm_momentum": 0.1},
        FIXED_SIZES,
        (10, 1),
        1,
        (SCALES, True),
        CRF,
        RATES,
    ),
    "deeplab-msc": Published(
        DILATED
        | {
            "backbone": "resnet101-caffe",
            "head": "sum",
            "scales": [0.5, 0.75],
            "upsampling": "stretched",
            "batch_norm": "fixed",
            "batch_norm_affine": "fixed",
        },
        {"crop": 321, "resize": "scale_choice", "scales": CHOSEN_SIZES, "padding": "bottom_right", "hsv_jitter": 0},
        (5, 2),
        10,
        ([1.0], False),
        CRF,
        (2.5e-4, 5e-4, 2.5e-3, 5e-3),
    ),
    "deeplab-largefov": Published(
        SLOW_HEAD | {"backbone": "wideresnet38", "head": "largefov", "batch_norm_momentum": 3e-4},
        FIXED_SIZES,
        (5, 2),
        1,
        (SCALES, True),
        CrfValues(1, 3, 3, 32, 13, 10),
        RATES,
    ),
}
PUBLISHED["voc-paper"] = PUBLISHED["deeplab-concat"]


@cache
def _parser() -> Parser:
    return build_parser("segment")


def config_of(*names: str) -> Config:
    words = [word for name in names for word in ("--config", name)]
    parser = _parser()
    return to_config(parser, parser.parse_args(expand_presets(words)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_values_are_the_published_ones(name: str) -> None:
    config, values = config_of(name), PUBLISHED[name]
    segment, printed = config.segment, yaml.safe_load(to_yaml(config))
    for section, expected in (("network", values.network), ("augment", values.augment)):
        assert {key: printed["segment"][section][key] for key in expected} == expected
    assert segment.augment.flip
    assert (segment.steps, segment.optimizer, segment.momentum, segment.weight_decay) == (20000, "sgd", 0.9, 5e-4)
    assert (
        segment.batch_size // segment.gradient_accumulation_steps,
        segment.gradient_accumulation_steps,
    ) == values.batch
    assert (POWER, segment.lr_update_every) == (0.9, values.power_every)
    assert segment.max_grad_norm is segment.ema_decay is None
    assert (config.predict.scales, config.predict.flip) == values.predict
    assert config.predict.crf and config.predict.crf_settings.values() == values.crf


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_groups_of_parameters(name: str) -> None:
    """What trains, how fast and with which decay; nothing but convolutions trains where weights are given."""
    settings = config_of(name).segment
    settings.network.weights = "none"
    with torch.device("meta"):
        network = build_segmentation_network(settings.network, tuple(map(str, range(20))), seed=0)
    assert isinstance(network, SegmentationNetwork)
    groups = segmentation_task(network, None, settings).groups  # type: ignore[arg-type]
    rates = [settings.learning_rate * group.factor for group in groups]
    slow, biases, head, head_biases = PUBLISHED[name].rates
    assert rates == pytest.approx([slow, biases, slow, head, head_biases, head])
    assert [group.decay for group in groups] == [True, False, False, True, False, False]
    assert [bool(group.parameters) for group in groups] == [True, False, False, True, True, False]
    trained = {id(each) for group in groups for each in group.parameters}
    assert trained == {
        id(parameter)
        for module in network.modules()
        if isinstance(module, torch.nn.Conv2d)
        for parameter in module.parameters()
    }
    crop = settings.augment.crop
    logits = network.eval()(torch.empty(1, 3, crop, crop, device="meta"))
    assert logits.shape == (1, 21, -(-crop // 8), -(-crop // 8))


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "voc-paper"])
def test_a_network_lies_on_top_of_any_preset(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = yaml.safe_load(presets()[name].read_text())
    assert own.keys() == {"segment", "predict"}
    assert main(["segment", "run", "--config", "voc", "--config", name, "--print-config"]) == 0
    both = yaml.safe_load(capsys.readouterr().out)
    for section, values in yaml.safe_load(to_yaml(config_of("voc"))).items():
        assert section in ("out", *own) or both[section] == values, section
    for section in own:
        assert both[section] == yaml.safe_load(to_yaml(config_of(name)))[section]
    for base in ("own", "voc-paper"):
        assert config_of(base, name).predict == config_of(name).predict
        assert config_of(base, name).segment == config_of(name).segment


def test_the_recipe_of_the_paper_has_the_network_of_its_own_preset() -> None:
    paper, own = config_of("voc-paper"), config_of("deeplab-concat")
    assert (paper.segment, paper.predict) == (own.segment, own.predict)


def test_the_recipe_of_coco_has_the_several_scales_and_more_steps() -> None:
    paper, own = config_of("coco-paper"), config_of("deeplab-msc")
    assert (paper.segment, paper.predict) == (replace(own.segment, steps=100_000), own.predict)


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_that_are_not_fetched_say_what_to_do(name: str) -> None:
    settings = config_of(name).segment.network
    with pytest.raises(Exception, match=r"not fetched by name.*--network\.weights PATH"):
        build_segmentation_network(settings, ("cat",), seed=0)


@pytest.mark.parametrize(("name", "steps"), [("deeplab-concat", 4), ("deeplab-msc", 12)])
def test_training_and_prediction_by_a_preset(
    name: str, steps: int, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for backbone in ("resnet101s", "resnet101-caffe"):
        monkeypatch.setitem(RESNETS, backbone, RESNETS[backbone]._replace(depths=(1, 1, 1, 1)))
    smaller = {
        "labels": "truth",
        "network__weights": "none",
        "steps": str(steps),
        "batch_size": "4",
        "augment__crop": "33",
    }
    command = words("segment", scenes, tmp_path, **{f"segment__{key}": value for key, value in smaller.items()})
    assert main([command[0], "--config", name, *command[1:], "--predict.crf", "false"]) == 0
    network = load_segmentation_network(tmp_path / "segment/network.safetensors")
    assert network.settings == replace(config_of(name).segment.network, weights="none")
    logged = [json.loads(line) for line in (tmp_path / "segment/log.jsonl").read_text().splitlines()]
    first, every = PUBLISHED[name].rates[0], PUBLISHED[name].power_every
    last = (steps - 1) // every * every
    assert logged[-1]["learning_rate"] == pytest.approx(first * (1 - last / steps) ** 0.9)
    assert len(list(tmp_path.glob("predictions/*/**/*.png"))) == 10


def test_the_documented_presets_are_those_that_there_are() -> None:
    text = (Path(__file__).parent.parent / "docs/predict.md").read_text(encoding="utf-8")
    table = text[text.index("## Published networks") :]
    assert set(re.findall(r"`(deeplab-\w+)`", table)) == {name for name in presets() if name.startswith("deeplab-")}
