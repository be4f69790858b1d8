"""What must hold for every network, whatever it gives: gradients, half precision, one seed, save and load."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tag2mask.networks import save_network

CLASSES = ("cat", "dog", "horse")


class AnyNetworkTester:
    """Inherited by the testers of each kind of network, which say how one is built and loaded."""

    def build(self, folder: Path) -> Any:
        raise NotImplementedError

    def load(self, path: Path) -> Any:
        raise NotImplementedError

    @pytest.fixture
    def network(self, tmp_path: Path) -> Any:
        return self.build(tmp_path)

    def test_gradient_reaches_what_trains_and_nothing_else(self, network: Any) -> None:
        outputs = _outputs(network.train()(torch.rand(2, 3, 64, 96)))
        torch.stack([(each * torch.randn_like(each)).sum() for each in outputs]).sum().backward()
        unreached = [name for name, each in network.named_parameters() if each.requires_grad and each.grad is None]
        assert unreached == []
        assert all(each.grad is None for each in network.parameters() if not each.requires_grad)

    def test_half_precision(self, network: Any) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = _outputs(network.train()(torch.rand(2, 3, 64, 64), torch.ones(2, 64, 64, dtype=torch.bool)))
        assert all(each.dtype == torch.float32 and each.isfinite().all() for each in outputs)
        torch.stack([each.sum() for each in outputs]).sum().backward()
        assert all(each.grad is None or each.grad.isfinite().all() for each in network.parameters())

    def test_save_and_load(self, network: Any, tmp_path: Path) -> None:
        images, path = torch.rand(2, 3, 45, 67), tmp_path / "network.safetensors"
        save_network(path, network)
        for file in tmp_path.glob("model/*"):  # neither the folder nor its weights may be read again
            file.unlink()
        state = torch.random.get_rng_state()
        loaded = self.load(path)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert not loaded.training
        with torch.no_grad():
            pairs = zip(_outputs(loaded(images)), _outputs(network.eval()(images)), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)
        assert (loaded.settings, loaded.classes) == (network.settings, CLASSES)
        assert loaded.backbone.stages == network.backbone.stages
        trains = {name: each.requires_grad for name, each in network.named_parameters()}
        assert {name: each.requires_grad for name, each in loaded.named_parameters()} == trains
        save_network(tmp_path / "again.safetensors", loaded)
        assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()

    def test_one_seed_one_network(self, network: Any, tmp_path: Path) -> None:
        torch.rand(7)
        other = self.build(tmp_path).state_dict()
        assert all(torch.equal(value, other[name]) for name, value in network.state_dict().items())


def _outputs(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output)
