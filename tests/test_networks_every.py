"""What must hold for every POT network: forward, backward, odd sizes, what trains, save and load."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CLIPConfig,
    ConvNextConfig,
    Dinov2Config,
    DINOv3ViTConfig,
    MobileNetV2Config,
    ResNetConfig,
    SwinConfig,
    Tipsv2Config,
    ViTConfig,
)

from network_tester import CLASSES, AnyNetworkTester
from tag2mask.networks import NetworkSettings, PotNetwork, build_network, load_network

HIERARCHY = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
TRANSFORMER = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "mlp_ratio": 2,
    "image_size": 28,
    "patch_size": 14,
}


class NetworkTester(AnyNetworkTester):
    """Inherited once for every network; a subclass says which one it is and what its stages should be."""

    strides: tuple[int, ...]
    """Of the stages."""
    stride = 16
    """Of the joint feature and the CAMs."""
    has_batch_norm = False

    def settings(self, folder: Path) -> NetworkSettings:
        raise NotImplementedError

    def build(self, folder: Path) -> PotNetwork:
        return build_network(self.settings(folder), CLASSES, seed=1)

    def load(self, path: Path) -> PotNetwork:
        return load_network(path, classes=CLASSES)

    def test_stages(self, network: PotNetwork) -> None:
        assert tuple(stage.stride for stage in network.backbone.stages) == self.strides
        assert network.stride == self.stride

    @pytest.mark.parametrize("size", [(64, 64), (45, 67), (17, 90)])
    def test_forward_at_any_size(self, network: PotNetwork, size: tuple[int, int]) -> None:
        network.eval()
        with torch.no_grad():
            output = network(torch.rand(2, 3, *size))
        grid = [-(-side // self.stride) for side in size]
        assert output.logits.shape == (2, 3)
        assert output.cams.shape == (2, 3, *grid)
        assert output.features.shape == (2, network.feature_channels, *grid)
        assert output.features.norm(dim=1).sub(1).abs().max() < 1e-5
        assert all(part.dtype == torch.float32 and part.isfinite().all() for part in output)

    @pytest.mark.parametrize("size", [(255, 383), (384, 288), (375, 500)])
    def test_every_stage_has_the_grid_of_its_stride(self, network: PotNetwork, size: tuple[int, int]) -> None:
        # On the meta device shapes are computed and nothing else is.
        backbone = network.backbone.to("meta").eval()
        with torch.no_grad():
            maps = backbone(torch.empty(2, 3, *size, device="meta"))
        for stage, each in zip(backbone.stages, maps, strict=True):
            assert each.shape == (2, stage.channels, *(-(-side // stage.stride) for side in size)), stage

    def test_groups_hold_every_trainable_parameter_once(self, network: PotNetwork) -> None:
        grouped = [*network.backbone_parameters(), *network.head_parameters()]
        assert {id(each) for each in grouped} == {id(each) for each in network.parameters() if each.requires_grad}
        assert len(grouped) == len({id(each) for each in grouped})

    def test_random_weights_train_whole(self, network: PotNetwork) -> None:
        if network.backbone.pretrained:
            pytest.skip("the weights are pretrained")
        assert all(each.requires_grad for each in network.backbone.stem_parameters() if each.ndim > 2)
        before = {name: value.clone() for name, value in network.named_buffers() if name.endswith("running_mean")}
        assert bool(before) == self.has_batch_norm
        network.train()(torch.rand(2, 3, 64, 64))
        after = dict(network.named_buffers())
        assert all(not torch.equal(value, after[name]) for name, value in before.items())


class FromConfig(NetworkTester):
    """A model of `transformers` with a tiny configuration and random weights, from a folder."""

    config: Any

    def settings(self, folder: Path) -> NetworkSettings:
        self.config.save_pretrained(folder / "model")
        return NetworkSettings(backbone=str(folder / "model"), weights="none")


class TestResNet18(NetworkTester):
    strides = (4, 8, 16, 16)
    has_batch_norm = True

    def settings(self, folder: Path) -> NetworkSettings:
        return NetworkSettings(backbone="resnet18", weights="none")


class TestResNet18WithProjections(NetworkTester):
    strides = (4, 8, 16, 32)
    has_batch_norm = True

    def settings(self, folder: Path) -> NetworkSettings:
        return NetworkSettings(backbone="resnet18", weights="none", output_stride=32, projections=True)


class TestMobileNetV2(FromConfig):
    strides = (4, 4, 8, 8, 8, *[16] * 12)
    has_batch_norm = True
    config = MobileNetV2Config(depth_multiplier=0.35, tf_padding=False)


class TestMobileNetV2AtStride8(FromConfig):
    strides = (4, 4, *[8] * 15)
    stride = 8
    has_batch_norm = True
    config = MobileNetV2Config(depth_multiplier=0.35)

    def settings(self, folder: Path) -> NetworkSettings:
        settings = super().settings(folder)
        return NetworkSettings(backbone=settings.backbone, weights="none", output_stride=8, out_indices=(2, 16))


class TestDinov2(FromConfig):
    strides = (14, 14, 14, 14)
    stride = 14
    config = Dinov2Config(**TRANSFORMER)


class TestImageEncoderOfTips(FromConfig):
    strides = (14, 14, 14, 14)
    stride = 14
    config = Tipsv2Config(vision_config=TRANSFORMER, text_config={"hidden_size": 16, "num_attention_heads": 2})


class TestDINOv3(FromConfig):
    strides = (14, 14, 14, 14)
    stride = 14
    config = DINOv3ViTConfig(**TRANSFORMER, num_register_tokens=2)


class TestViT(FromConfig):
    strides = (16, 16, 16, 16)
    config = ViTConfig(**{**TRANSFORMER, "patch_size": 16, "image_size": 32})


class TestImageEncoderOfClip(FromConfig):
    strides = (16, 16, 16, 16)
    config = CLIPConfig(vision_config={**TRANSFORMER, "patch_size": 16, "image_size": 32})


class TestConvNext(FromConfig):
    strides = (4, 8, 16, 32)
    config = ConvNextConfig(**HIERARCHY)


class TestSwinWithSomeLevels(FromConfig):
    strides = (4, 8, 16, 32)
    stride = 16
    config = SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=3, drop_path_rate=0.0)

    def settings(self, folder: Path) -> NetworkSettings:
        settings = super().settings(folder)
        return NetworkSettings(backbone=settings.backbone, weights="none", out_indices=(1, 2))


class TestTransformersResNet(FromConfig):
    strides = (4, 8, 16, 32)
    has_batch_norm = True
    config = ResNetConfig(**HIERARCHY, embedding_size=8)


@pytest.mark.data
class TestPretrainedMobileNetV2(NetworkTester):
    strides = (4, 4, 8, 8, 8, *[16] * 12)

    @pytest.fixture(autouse=True)
    def _weights(self, real_data: Path) -> None:
        self.folder = real_data / "weights" / "mobilenet_v2_1.0_224"

    def settings(self, folder: Path) -> NetworkSettings:
        return NetworkSettings(backbone=str(self.folder))

    def test_input_lies_in_minus_one_to_one(self, network: PotNetwork) -> None:
        assert network.backbone.mean == network.backbone.std == (0.5, 0.5, 0.5)

    def test_default_levels(self, network: PotNetwork) -> None:
        stages = network.backbone.stages
        chosen = [(stages[level].channels, stages[level].stride) for level in network.levels]
        assert chosen == [(32, 8), (64, 16), (96, 16), (160, 16)]
        assert stages[-1].channels == 1280

    def test_stages_are_those_of_the_model_itself(self, network: PotNetwork) -> None:
        from transformers import AutoModel

        model = AutoModel.from_pretrained(self.folder, output_stride=16).eval()
        images = torch.rand(1, 3, 75, 101)
        with torch.no_grad():
            expected = model(images * 2 - 1, output_hidden_states=True)
            maps = network.eval().backbone(images * 2 - 1)
        for found, one in zip(maps, (*expected.hidden_states, expected.last_hidden_state), strict=True):
            assert torch.equal(found, one)

    def test_fixed_norm_and_frozen_stem(self, network: PotNetwork) -> None:
        before = {name: value.clone() for name, value in network.named_buffers()}
        network.train()(torch.rand(2, 3, 64, 64))
        assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
        stem = {id(each) for each in network.backbone.get_submodule("model.conv_stem").parameters()}
        frozen = {id(each) for each in network.parameters() if not each.requires_grad}
        assert frozen == stem
