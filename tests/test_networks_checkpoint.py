"""Checkpoints: the same bytes for the same network, and refusals that name the file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import Dinov2Config

from tag2mask.core.errors import UsageError
from tag2mask.networks import NetworkSettings, PotNetwork, build_network, load_network, read_network_info, save_network
from tag2mask.networks.checkpoint import NetworkFileError

CLASSES = ("cat", "dog", "Pferd", "猫")
CONFIG = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 28, "mlp_ratio": 2}


@pytest.fixture
def network(tmp_path: Path) -> PotNetwork:
    Dinov2Config(**CONFIG).save_pretrained(tmp_path / "model")
    return build_network(NetworkSettings(backbone=str(tmp_path / "model"), weights="none"), CLASSES, seed=0)


@pytest.fixture
def path(network: PotNetwork, tmp_path: Path) -> Path:
    path = tmp_path / "network.safetensors"
    save_network(path, network)
    return path


def _rewrite(path: Path, change: Any, **tensors: torch.Tensor) -> None:
    """The same file with another description, or other tensors."""
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["tag2mask"])
    change(description)
    save_file({**load_file(path), **tensors}, path, metadata={"tag2mask": json.dumps(description)})


def test_what_a_file_says_about_itself(path: Path, network: PotNetwork) -> None:
    info = read_network_info(path)
    assert info.classes == CLASSES
    assert info.settings == network.settings
    assert (info.mean, info.std) == (network.backbone.mean, network.backbone.std)


def test_same_network_same_bytes(path: Path, tmp_path: Path) -> None:
    # The library orders several metadata entries differently in every call, so one call proves little.
    for number in range(5):
        other = tmp_path / f"{number}.safetensors"
        save_network(other, load_network(path))
        assert other.read_bytes() == path.read_bytes()
    assert not list(tmp_path.glob(".partial-*"))


def test_another_memory_format_is_the_same_file(path: Path, tmp_path: Path) -> None:
    network = load_network(path)
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    save_network(tmp_path / "last.safetensors", network)
    assert (tmp_path / "last.safetensors").read_bytes() == path.read_bytes()


def test_pretrained_policy_survives(path: Path) -> None:
    _rewrite(path, lambda values: values["settings"].update(weights="imagenet"))
    loaded = load_network(path)
    assert loaded.backbone.pretrained
    assert loaded.backbone.norm_fixed
    assert all(not each.requires_grad for each in loaded.backbone.stem_parameters())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("cat", "cow", "Pferd", "猫"), "class 2 is 'dog' in the file and 'cow' here"),
        (("cat", "dog"), "class 3 is 'Pferd' in the file and no class here"),
        ((*CLASSES, "sheep"), "class 5 is no class in the file and 'sheep' here"),
        (("dog", "cat", "Pferd", "猫"), "class 1 is 'cat' in the file and 'dog' here"),
    ],
)
def test_another_class_list_is_refused(path: Path, given: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_network(path, classes=given)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert "--data.classes" in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NetworkFileError, match=r"none\.safetensors"):
        load_network(tmp_path / "none.safetensors")


def test_a_file_that_is_not_ours(tmp_path: Path) -> None:
    for metadata in (None, {"format": "pt"}):
        save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors", metadata=metadata)
        with pytest.raises(NetworkFileError, match=r"weights\.safetensors is not a network of tag2mask"):
            load_network(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("version", [2, 4])
def test_another_format(path: Path, version: int) -> None:
    _rewrite(path, lambda values: values.update(format_version=version, settings={"unheard": "of"}))
    with pytest.raises(NetworkFileError, match=r"network\.safetensors has format version .*reads 3; use"):
        load_network(path)


@pytest.mark.parametrize("keep", [0, 5, 0.3, 0.9])
def test_a_truncated_file(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(NetworkFileError, match=r"network\.safetensors"):
        load_network(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("classes"),
        lambda values: values.pop("format_version"),
        lambda values: values.update(format_version="one"),
        lambda values: values.update(kind="segmenter"),
        lambda values: values.update(classes=[]),
        lambda values: values.update(classes=[1, 2, 3, 4]),
        lambda values: values["settings"].update(unknown=1),
        lambda values: values["settings"].update(output_stride=7),
        lambda values: values["settings"].update(out_indices=[17]),
        lambda values: values["backbone"].update(kind="resnet"),
        lambda values: values["backbone"].update(kind="script"),
        lambda values: values["backbone"]["config"].update(model_type="bert"),
        lambda values: values["backbone"]["config"].update(hidden_size=15),
        lambda values: values["backbone"]["config"].update(hidden_size="wide"),
        lambda values: values["backbone"]["config"].update(num_hidden_layers=5),
        lambda values: values["normalisation"].update(mean=[0.5]),
        lambda values: values["normalisation"].update(mean="abc"),
    ],
)
def test_a_damaged_description(path: Path, change: Any) -> None:
    _rewrite(path, change)
    with pytest.raises(NetworkFileError) as caught:
        load_network(path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 1


def test_more_blocks_than_any_model_has_are_refused_before_they_are_made(path: Path) -> None:
    _rewrite(
        path,
        lambda values: values["backbone"]["config"].update(model_type="hgnet_v2", stage_num_blocks=[1, 10**6, 1, 1]),
    )
    with pytest.raises(NetworkFileError, match=r"stage_num_blocks \[1, 1000000, 1, 1\], at most 1000 in all"):
        load_network(path)


def test_a_machine_without_memory_is_no_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(PotNetwork, "load_state_dict", full)
    with pytest.raises(MemoryError):
        load_network(path)


def test_other_tensors_are_named(path: Path) -> None:
    _rewrite(path, lambda values: None, **{"classifier.weight": torch.zeros(3, 16, 1, 1), "more": torch.zeros(1)})
    with pytest.raises(NetworkFileError, match=r"another shape: classifier\.weight, more"):
        load_network(path)


def test_a_killed_writer_leaves_the_old_file(path: Path, network: PotNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def dies(state: object, target: Path, metadata: object) -> None:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("tag2mask.networks.checkpoint.save_file", dies)
    with pytest.raises(KeyboardInterrupt):
        save_network(path, network)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.glob("*network*")] == [path.name]
