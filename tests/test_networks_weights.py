"""Public checkpoints: fetched with a word about it, verified, and refused by name where they do not fit."""

import hashlib
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.networks import NetworkSettings, build_backbone
from tag2mask.networks.backbones import weights as public_weights
from tag2mask.networks.backbones.resnet import IMAGENET, ResNet
from tag2mask.networks.backbones.weights import PublicCheckpoint


def _state() -> dict[str, Tensor]:
    """The state of a ResNet-18 as the old public files have it: with a classifier, without counts of batches."""
    state = {key: value for key, value in ResNet("resnet18").state_dict().items() if "num_batches" not in key}
    return {**state, "fc.weight": torch.rand(1000, 512), "fc.bias": torch.rand(1000)}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return _state()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, state: dict[str, Tensor]) -> Path:
    """The state in a file that is named by its true hash, as public files are."""
    path = tmp_path_factory.mktemp("weights") / "state.pth"
    torch.save(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(path.with_name(f"resnet18-{digest[:8]}.pth"))


@pytest.fixture
def public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Path) -> PublicCheckpoint:
    """That file at a local address, in the place of ResNet-18's checkpoint; nothing is cached."""
    folder = tmp_path / "public"
    folder.mkdir()
    (folder / file.name).symlink_to(file)
    checkpoint = PublicCheckpoint(file.name, 44.7)
    monkeypatch.setattr(public_weights, "ADDRESS", folder.as_uri() + "/")
    monkeypatch.setitem(IMAGENET, "resnet18", checkpoint)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    return checkpoint


def test_fetched_once_announced_and_loaded(public: PublicCheckpoint, state: dict[str, Tensor]) -> None:
    said: list[str] = []
    settings = NetworkSettings(backbone="resnet18")
    backbone = build_backbone(settings, notify=said.append)
    assert len(said) == 1
    assert all(word in said[0] for word in (public.url, "44.7 MiB", str(public.cached)))
    build_backbone(settings, notify=said.append)
    assert len(said) == 1
    own = backbone.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in state.items() if not key.startswith("fc."))


def test_a_download_is_never_hidden(public: PublicCheckpoint, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        public_weights.fetch(public)
    assert public.url in caplog.text


def test_pretrained_weights_fix_the_norm_and_freeze_the_stem(public: PublicCheckpoint) -> None:
    backbone = build_backbone(NetworkSettings(backbone="resnet18"), notify=lambda line: None)
    frozen = {name for name, each in backbone.named_parameters() if not each.requires_grad}
    assert frozen == {"conv1.weight", "bn1.weight", "bn1.bias"}
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    backbone.train()(torch.rand(2, 3, 33, 33))
    assert all(torch.equal(value, before[name]) for name, value in backbone.named_buffers())


def test_norm_can_be_chosen(public: PublicCheckpoint) -> None:
    backbone = build_backbone(NetworkSettings(backbone="resnet18", batch_norm="trained"), notify=lambda line: None)
    before = {name: value.clone() for name, value in backbone.named_buffers() if name.endswith("running_mean")}
    backbone.train()(torch.rand(2, 3, 65, 65))
    moved = {
        name for name, value in backbone.named_buffers() if name in before and not torch.equal(value, before[name])
    }
    assert moved == before.keys() - {"bn1.running_mean"}, "the stem is frozen, its statistics too"
    random = build_backbone(NetworkSettings(backbone="resnet18", weights="none", batch_norm="fixed"))
    assert all(not module.training for module in random.train().modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert all(each.requires_grad for each in random.parameters())


def test_a_damaged_download_is_refused(public: PublicCheckpoint, tmp_path: Path) -> None:
    (tmp_path / "public" / public.file).unlink()
    (tmp_path / "public" / public.file).write_bytes(b"something else")
    with pytest.raises(Tag2maskError, match="invalid hash") as caught:
        public_weights.fetch(public, lambda line: None)
    assert caught.value.exit_code == 1
    assert not public.cached.exists()


def test_a_damaged_file_in_the_cache_is_refused(public: PublicCheckpoint) -> None:
    public_weights.fetch(public, lambda line: None)
    public.cached.write_bytes(public.cached.read_bytes()[:-1])
    with pytest.raises(Tag2maskError, match=r"is damaged.*delete it") as caught:
        public_weights.fetch(public)
    assert str(public.cached) in str(caught.value)


def test_a_failed_download_says_what_to_do(public: PublicCheckpoint, tmp_path: Path) -> None:
    (tmp_path / "public" / public.file).unlink()
    with pytest.raises(Tag2maskError) as caught:
        build_backbone(NetworkSettings(backbone="resnet18"), notify=lambda line: None)
    words = (
        public.file,
        "44.7 MiB",
        public.url,
        str(public.cached.parent),
        "--network.weights PATH",
        "--network.weights none",
    )
    assert all(word in str(caught.value) for word in words)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("form", "classifier"), [("pth", True), ("pth", False), ("safetensors", True), ("nested.pth", False)]
)
def test_weights_from_a_path(tmp_path: Path, state: dict[str, Tensor], form: str, classifier: bool) -> None:
    kept = {key: value for key, value in state.items() if classifier or not key.startswith("fc.")}
    path = tmp_path / f"weights.{form}"
    if form == "safetensors":
        save_file(kept, path)
    else:
        torch.save({"state_dict": kept} if form == "nested.pth" else kept, path)
    backbone = build_backbone(NetworkSettings(backbone="resnet18", weights=str(path)))
    assert backbone.pretrained
    assert torch.equal(backbone.state_dict()["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])


def test_weights_that_do_not_fit_are_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    wrong = dict(state)
    del wrong["layer1.0.conv1.weight"]
    wrong["conv1.weight"] = torch.rand(64, 3, 3, 3)
    wrong["head.weight"] = torch.rand(3)
    torch.save(wrong, tmp_path / "wrong.pth")
    with pytest.raises(UsageError) as caught:
        build_backbone(NetworkSettings(backbone="resnet18", weights=str(tmp_path / "wrong.pth")))
    text = str(caught.value)
    assert "wrong.pth does not fit resnet18" in text
    assert "missing: layer1.0.conv1.weight" in text
    assert "unexpected: head.weight" in text
    assert "conv1.weight [64, 3, 3, 3] instead of [64, 3, 7, 7]" in text


def test_weights_of_another_depth_name_the_first_five(file: Path) -> None:
    with pytest.raises(UsageError, match=r"does not fit resnet34; missing: layer1\.2\.conv1\.weight.* and \d+ more"):
        build_backbone(NetworkSettings(backbone="resnet34", weights=str(file)))


class _Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path(self.target),)  # type: ignore[attr-defined, return-value]


@pytest.mark.parametrize("content", ["text", "number", "code", "absent", "truncated.safetensors"])
def test_files_that_hold_no_weights(tmp_path: Path, content: str) -> None:
    path = tmp_path / ("weights.safetensors" if "safetensors" in content else "weights.pth")
    trap = _Trap()
    trap.target = str(tmp_path / "sprung")  # type: ignore[attr-defined]
    if content == "number":
        torch.save({"epoch": 3}, path)
    elif content == "code":
        torch.save({"conv1.weight": trap}, path)
    elif content != "absent":
        path.write_bytes(b"no weights at all")
    with pytest.raises(UsageError) as caught:
        build_backbone(NetworkSettings(backbone="resnet18", weights=str(path)))
    assert str(path) in str(caught.value)
    assert not (tmp_path / "sprung").exists()


def test_settings_collect_all_problems() -> None:
    with pytest.raises(UsageError) as caught:
        NetworkSettings(backbone="", output_stride=12, out_indices=(1, 1), batch_norm="frozen")  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in ("backbone", "output_stride", "out_indices", "batch_norm"))
