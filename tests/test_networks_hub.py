"""Models of `transformers`: stages as the models themselves compute them, and clear words for what is missing."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    ConvNextConfig,
    ConvNextForImageClassification,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTForImageClassification,
)

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.networks import NetworkSettings, build_backbone
from tag2mask.networks.backbones.hub import resolve_folder
from tag2mask.networks.backbones.huggingface import PlainTransformer

TINY = {"hidden_size": 16, "num_hidden_layers": 8, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test may ask the network, and the hub's cache is empty."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def _dinov2(folder: Path) -> Dinov2Model:
    model = Dinov2Model(Dinov2Config(**TINY, mlp_ratio=2)).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "model",
    [
        lambda: ViTForImageClassification(ViTConfig(**TINY, intermediate_size=32)),
        lambda: ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 2, 1])),
    ],
)
def test_weights_of_a_classifier_serve_as_a_backbone(tmp_path: Path, model: Callable[[], torch.nn.Module]) -> None:
    whole = model()
    whole.save_pretrained(tmp_path)  # type: ignore[operator]
    backbone = build_backbone(NetworkSettings(backbone=str(tmp_path)))
    own = list(backbone.parameters())

    def is_there(value: Tensor) -> bool:
        return any(value.shape == each.shape and torch.equal(value, each) for each in own)

    absent = [name for name, value in whole.named_parameters() if not is_there(value)]
    assert all("classifier" in name or name.endswith("convnext.layernorm.weight") for name in absent), absent
    stem = {id(each) for each in backbone.stem_parameters()}
    assert stem
    assert {id(each) for each in own if not each.requires_grad} == stem


def test_normalisation_comes_from_the_folder(tmp_path: Path) -> None:
    _dinov2(tmp_path)
    settings = NetworkSettings(backbone=str(tmp_path))
    assert build_backbone(settings).mean == (0.485, 0.456, 0.406)
    preprocessor = tmp_path / "preprocessor_config.json"
    preprocessor.write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}))
    backbone = build_backbone(settings)
    assert (backbone.mean, backbone.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    preprocessor.write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "do_normalize": False}))
    assert build_backbone(settings).std == (1.0, 1.0, 1.0)
    preprocessor.write_text(json.dumps({"image_mean": [0.1, 0.2]}))
    with pytest.raises(UsageError, match=r"preprocessor_config\.json"):
        build_backbone(settings)


def test_half_precision_weights_become_single(tmp_path: Path) -> None:
    _dinov2(tmp_path).half().save_pretrained(tmp_path)
    for weights in ("imagenet", "none"):
        backbone = build_backbone(NetworkSettings(backbone=str(tmp_path), weights=weights))
        assert {each.dtype for each in backbone.parameters()} == {torch.float32}


def test_what_a_configuration_may_not_choose(tmp_path: Path) -> None:
    _dinov2(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "someone/else--modeling.Model", "AutoConfig": "someone/else--modeling.Config"}
    config["attn_implementation"] = config["_attn_implementation"] = "someone/kernel"
    (tmp_path / "config.json").write_text(json.dumps(config))
    backbone = build_backbone(NetworkSettings(backbone=str(tmp_path)))
    assert isinstance(backbone, PlainTransformer)
    assert type(backbone.model) is Dinov2Model
    assert backbone.config._attn_implementation in ("sdpa", "eager")
    kept = json.dumps(backbone.architecture())
    assert "someone" not in kept
    assert "label2id" not in kept


def _refused(message: str, kind: type[Tag2maskError] = UsageError, **settings: str) -> None:
    with pytest.raises(Tag2maskError, match=message) as caught:
        build_backbone(NetworkSettings(**settings))  # type: ignore[arg-type]
    assert isinstance(caught.value, UsageError) == (kind is UsageError)


def test_unknown_names_offer_what_there_is() -> None:
    _refused("resnet18.*'resnet52'; did you mean resnet50", backbone="resnet52")
    message = "the model someone/some-vit is not on this machine.*--network.backbone FOLDER"
    _refused(message, Tag2maskError, backbone="someone/some-vit")


def test_folders_that_lack_files(tmp_path: Path) -> None:
    _refused(f"{tmp_path} has no config.json", backbone=str(tmp_path))
    Dinov2Config(**TINY).save_pretrained(tmp_path)
    _refused("has no weights.*--network.weights none", backbone=str(tmp_path))
    _dinov2(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00002.safetensors")
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    _refused("not all of their parts", backbone=str(tmp_path))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    _dinov2(tmp_path)
    Dinov2Config(**{**TINY, "num_hidden_layers": 9}, mlp_ratio=2).save_pretrained(tmp_path)
    _refused(r"missing: encoder\.layer\.8\.", backbone=str(tmp_path))
    Dinov2Config(**{**TINY, "hidden_size": 32}, mlp_ratio=2).save_pretrained(tmp_path)
    _refused("network.backbone", backbone=str(tmp_path))


@pytest.mark.parametrize("content", ["{}", "[]", "not json", '{"model_type": "no_such_model"}'])
def test_a_configuration_of_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    _refused(r"config\.json|'no_such_model' is not supported", backbone=str(tmp_path), weights="none")


def test_what_a_model_is_not_for(tmp_path: Path) -> None:
    _dinov2(tmp_path)
    _refused("for ResNets alone", backbone=str(tmp_path), weights="some.pth")
    with pytest.raises(UsageError, match="only ResNets can be dilated"):
        build_backbone(NetworkSettings(backbone=str(tmp_path)), dilated=True)
    BertConfig().save_pretrained(tmp_path)
    _refused("the model type 'bert' is not supported.*dinov2", backbone=str(tmp_path), weights="none")


def test_a_name_is_fetched_with_a_word_about_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client is replaced: it knows one model of 50 MiB and some files that are not read."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    _dinov2(tmp_path / "model")
    asked: list[list[str]] = []
    said: list[str] = []

    def model_info(name: str, **_: object) -> SimpleNamespace:
        sizes = {"config.json": 700, "model.safetensors": 50 * 2**20, "pytorch_model.bin": 2**30, "README.md": 9}
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file, size=size) for file, size in sizes.items()])

    def snapshot_download(name: str, *, allow_patterns: list[str] | None = None, local_files_only: bool = False) -> str:
        if local_files_only and not asked:
            raise LocalEntryNotFoundError("nothing here")
        asked.append(allow_patterns or [])
        return str(tmp_path / "model")

    monkeypatch.setattr(huggingface_hub, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    settings = NetworkSettings(backbone="someone/some-vit")
    build_backbone(settings, notify=said.append)
    assert asked == [["config.json", "model.safetensors"]]
    assert len(said) == 1
    assert all(word in said[0] for word in ("model.safetensors", "50.0 MiB", "https://huggingface.co/someone/some-vit"))
    build_backbone(settings, notify=said.append)
    assert len(said) == 1, "the second time it is in the cache"


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("facebook/sam3", "GatedRepoError", "; licence: SAM License, gated: ask for access at https://hug"),
        ("facebook/dinov3-vits16-pretrain-lvd1689m", "ConnectionError", "; licence: DINOv3 License, gated: ask for"),
        ("google/tipsv2-b14", "ConnectionError", "; licence: Apache-2.0; give a folder"),
        ("some/one", "GatedRepoError", "; licence: see https://huggingface.co/some/one, gated: ask for access at http"),
        ("facebook/sam3-large", "RepositoryNotFoundError", "; the hub has no such model, or shows it only after"),
        ("google/tipsv2-b15", "RepositoryNotFoundError", "; the hub has no such model, or shows it only after"),
        ("some/one", "RepositoryNotFoundError", "no such model, or shows it only after `hf auth login`; give a"),
        ("some/one", "ConnectionError", "away); licence: see https://huggingface.co/some/one; give a folder"),
    ],
)
def test_a_refusal_says_licence_gate_and_cause(
    name: str, error: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    kind = getattr(errors, error, ConnectionError)
    said: list[str] = []

    def snapshot_download(_: str, *, local_files_only: bool = False, **__: object) -> str:
        raise errors.LocalEntryNotFoundError("nothing") if local_files_only else kind.__new__(kind, "away")

    def model_info(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename="config.json", size=9)])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "model_info", model_info)
    with pytest.raises(Tag2maskError) as caught:
        resolve_folder(name, weights=True, setting="seeds.model", notify=said.append)
    assert words in str(caught.value) and str(caught.value).endswith("as `--seeds.model FOLDER`")
    assert "; licence: " in said[0]
