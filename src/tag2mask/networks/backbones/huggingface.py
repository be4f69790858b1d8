"""Backbones of `transformers`: MobileNetV2, plain vision transformers, SegFormer's encoder, and its backbone classes.

Plain vision transformers are also the image encoders of text-image models (CLIP, SigLIP, TIPSv2).

`transformers` is imported when a backbone is built, since its import takes seconds.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.core.errors import UsageError, first_five
from tag2mask.core.machine_errors import is_machine_error
from tag2mask.networks.backbones.base import Backbone, Family, Stage, ceil_grid
from tag2mask.networks.backbones.hub import (
    check_parameters,
    clean_config,
    quiet,
    read_model_config,
    read_normalisation,
    resolve_folder,
)
from tag2mask.networks.backbones.weights import Notify, library_reason
from tag2mask.networks.settings import NetworkSettings


def _segformer(depths: tuple[int, int, int, int], width: int, decoder: int) -> dict[str, Any]:
    """A configuration; the stages have 1, 2, 5 and 8 times ``width`` channels, as in all published ones."""
    return {
        "model_type": "segformer",
        "depths": list(depths),
        "hidden_sizes": [width, 2 * width, 5 * width, 8 * width],
        "decoder_hidden_size": decoder,
    }


SEGFORMERS = {
    "segformer-b0": _segformer((2, 2, 2, 2), 32, 256),
    "segformer-b1": _segformer((2, 2, 2, 2), 64, 256),
    "segformer-b2": _segformer((3, 4, 6, 3), 64, 768),
    "segformer-b3": _segformer((3, 4, 18, 3), 64, 768),
    "segformer-b4": _segformer((3, 8, 27, 3), 64, 768),
    "segformer-b5": _segformer((3, 6, 40, 3), 64, 768),
}
"""Configurations by name, for random weights. Source: Xie et al., SegFormer, NeurIPS 2021, table 6."""

PLAIN_TRANSFORMERS = {
    "clip_vision_model": "post_layernorm",
    "deit": "layernorm",
    "dinov2": "layernorm",
    "dinov2_with_registers": "layernorm",
    "dinov3_vit": "norm",
    "siglip_vision_model": "post_layernorm",
    "tipsv2_vision_model": "layernorm",
    "vit": "layernorm",
}
"""Model types of plain vision transformers, and the name of their final norm."""

MANY_STAGES = 6
"""A model with more stages than this calls each block a stage; then four of them are taken."""

PROBE_SIDE = 224
"""Pixels; divisible by all usual strides and patches (4, 8, 14, 16, 32)."""

_WITH_POOLER = ("vit", "deit")
"""Plain transformers with a pooler, which is left out."""

_WITH_SIZE_OPTION = ("vit", "deit", "clip_vision_model", "siglip_vision_model")
"""Plain transformers with an option for images of any size; the others take them anyway."""

_WITHOUT_FINAL_NORM = ("clip_vision_model",)
"""Plain transformers that apply their final norm to the class token alone."""

_MAY_BE_MISSING = ("hidden_states_norms.", "mask_token", "num_batches_tracked")
"""Parts of the names of parameters that complete checkpoints may lack."""


class _HubModel(Backbone):
    """A backbone that holds a `transformers` model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.config = model.config

    def architecture(self) -> dict[str, Any]:
        """See `Backbone.architecture`."""
        return {"kind": "transformers", "config": clean_config(self.config.to_dict())}


class MobileNetV2(_HubModel):
    """MobileNetV2: stages `layer.0` to `layer.15` and the last 1×1 convolution, `conv_1x1`."""

    # One stage at stride 8 and, at output stride 16, three at 16 with 64, 96 and 160 channels. Source: ours, measured.
    default_levels = (4, 8, 11, 14)

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                # The model's 0.997 is a decay in TensorFlow's sense; in torch it would keep the last batch alone.
                module.momentum = 0.1
        stages, reached = [], 2
        for index, layer in enumerate(model.layer):
            reached *= layer.conv_3x3.convolution.stride[0]
            stages.append(Stage(f"layer.{index}", layer.reduce_1x1.convolution.out_channels, reached))
        stages.append(Stage("conv_1x1", model.conv_1x1.convolution.out_channels, reached))
        self.stages = tuple(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps of all blocks and of the last convolution; see `Backbone.forward`."""
        x = self.model.conv_stem(images)
        maps = []
        for layer in self.model.layer:
            x = layer(x)
            maps.append(x)
        maps.append(self.model.conv_1x1(x))
        return maps

    def stem(self) -> list[nn.Module]:
        """The layers before the first block, at stride 2."""
        return [self.model.conv_stem]


class _Probed(_HubModel):
    """A `transformers` model; one forward pass finds the stages and the parameters that each depends on."""

    multiple: int = 1  # until the strides are known; the probe needs no padding
    reached: tuple[frozenset[str], ...]

    def maps(self, images: Tensor) -> list[Tensor]:
        """The maps of the stages for images whose sides are multiples of ``multiple``."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> list[Tensor]:
        """See `Backbone.forward`; pads images at the right and the bottom, and crops the maps to the image's grid."""
        height, width = int(images.shape[2]), int(images.shape[3])
        right, bottom = -width % self.multiple, -height % self.multiple
        maps = self.maps(F.pad(images, (0, right, 0, bottom)) if right or bottom else images)
        grids = (ceil_grid((height, width), stage.stride) for stage in self.stages)
        return [each[..., :rows, :columns] for each, (rows, columns) in zip(maps, grids, strict=True)]

    def stem(self) -> list[nn.Module]:
        """The patch embedding or first layers, under any of their usual names."""
        base = getattr(self.model, self.model.base_model_prefix or "", self.model)
        found = (getattr(base, name, None) for name in ("embeddings", "embedder", "stem", "patch_embeddings"))
        return [module for module in found if isinstance(module, nn.Module)]

    def freeze_unreached(self, levels: tuple[int, ...]) -> None:
        """See `Backbone.freeze_unreached`."""
        used = frozenset[str]().union(*(self.reached[level] for level in (*levels, len(self.stages) - 1)))
        for name, parameter in self.model.named_parameters():
            if name not in used:
                parameter.requires_grad_(False)

    def _measure(self, names: list[str]) -> None:
        """Find strides, channels and dependencies by one forward pass."""
        self.eval()
        with torch.enable_grad():
            maps = self.maps(torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE))
        sizes = [tuple(each.shape[2:]) if each.ndim == 4 else () for each in maps]
        if len(maps) != len(names) or any(not size or size[0] != size[1] or PROBE_SIDE % size[0] for size in sizes):
            raise UsageError(
                f"network.backbone: the model type {self.config.model_type} is not supported: for an image of "
                f"{PROBE_SIDE} × {PROBE_SIDE} its stages {first_five(names)} give maps of {first_five(sizes)}"
            )
        self.stages = tuple(
            Stage(name, int(each.shape[1]), PROBE_SIDE // int(each.shape[2]))
            for name, each in zip(names, maps, strict=True)
        )
        self.default_levels = tuple(range(len(names)))
        by_tensor = {id(parameter): name for name, parameter in self.model.named_parameters()}
        self.reached = tuple(frozenset(by_tensor[key] for key in _leaves(each) if key in by_tensor) for each in maps)
        self.train()


class PlainTransformer(_Probed):
    """A vision transformer of one stride: stages are the blocks at a quarter, half, three quarters and the end.

    Every stage passes through the final norm, as in DINOv2's own intermediate outputs; prefix tokens (class, registers,
    distillation) are dropped.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        patch = model.config.patch_size
        self.blocks = _quarters(int(model.config.num_hidden_layers))
        self.multiple = int(patch if isinstance(patch, int) else patch[0])
        self._any_size = {"interpolate_pos_encoding": True} if model.config.model_type in _WITH_SIZE_OPTION else {}
        self._measure([f"block{block}" for block in self.blocks])

    def maps(self, images: Tensor) -> list[Tensor]:
        """See `_Probed.maps`."""
        rows, columns = int(images.shape[2]) // self.multiple, int(images.shape[3]) // self.multiple
        output = self.model(images, output_hidden_states=True, **self._any_size)
        norm = self.model.get_submodule(PLAIN_TRANSFORMERS[self.config.model_type])
        last = output.last_hidden_state
        last = norm(last) if self.config.model_type in _WITHOUT_FINAL_NORM else last
        states = [norm(output.hidden_states[block]) for block in self.blocks[:-1]] + [last]
        # (N, prefix + rows · columns, D) to (N, D, rows, columns): prefix tokens come first.
        return [state[:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns)) for state in states]


class StagedBackbone(_Probed):
    """A model with a backbone class in `transformers`; its stages are the configuration's ``out_features``."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._measure(list(model.out_features))
        self.multiple = max(stage.stride for stage in self.stages)

    def maps(self, images: Tensor) -> list[Tensor]:
        """See `_Probed.maps`."""
        return list(self.model(images).feature_maps)


class SegformerEncoder(_Probed):
    """The encoder of a SegFormer: its four stages, each after its norm.

    Images are padded to multiples of 32 pixels, for the stages and the reduced keys and values of their attention.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        config = model.config
        self.segformer_head = {"width": config.decoder_hidden_size, "dropout": config.classifier_dropout_prob}
        self._measure([f"stage{index + 1}" for index in range(model.config.num_encoder_blocks)])
        ratios = model.config.sr_ratios
        self.multiple = max(stage.stride * ratio for stage, ratio in zip(self.stages, ratios, strict=True))

    def maps(self, images: Tensor) -> list[Tensor]:
        """See `_Probed.maps`."""
        return list(self.model(images, output_hidden_states=True).hidden_states)


def build_from_config(values: dict[str, Any], *, folder: Path | None = None, output_stride: int = 16) -> _HubModel:
    """A backbone from a `transformers` configuration; of a text-image model, its image encoder.

    Args:
        values: the configuration as JSON values, with its ``model_type``.
        folder: of the weights; None: random ones, from torch's global generator.
        output_stride: of MobileNetV2.

    Raises:
        UsageError: the model type is not supported, or the weights do not fit the configuration.
    """
    from transformers import CONFIG_MAPPING, MODEL_MAPPING
    from transformers.models.auto import modeling_auto

    model_type = values["model_type"]
    staged = set(modeling_auto.MODEL_FOR_BACKBONE_MAPPING_NAMES) - {"timm_backbone"}
    supported = {"mobilenet_v2", "segformer", *PLAIN_TRANSFORMERS, *staged}
    try:
        config: Any = None
        if model_type in CONFIG_MAPPING:
            config = CONFIG_MAPPING[model_type].from_dict(clean_config(values))
            config = getattr(config, "vision_config", config)
            model_type = config.model_type
        if model_type not in supported:
            raise UsageError(
                f"network.backbone: the model type {model_type!r} is not supported; supported are "
                f"{', '.join(sorted(supported))}, alone or as the image encoder of a text-image model"
            )
        if model_type == "mobilenet_v2":
            config.output_stride = output_stride
            return MobileNetV2(_model(MODEL_MAPPING[type(config)], config, folder))
        if model_type == "segformer":
            config.reshape_last_stage = True
            return SegformerEncoder(_model(MODEL_MAPPING[type(config)], config, folder))
        if model_type in PLAIN_TRANSFORMERS:
            return PlainTransformer(_model(MODEL_MAPPING[type(config)], config, folder))
        names = [name for name in config.stage_names if name != "stem"]
        if len(names) > MANY_STAGES:
            names = [names[block - 1] for block in _quarters(len(names))]
        config.out_features = names
        return StagedBackbone(_model(modeling_auto.MODEL_FOR_BACKBONE_MAPPING[type(config)], config, folder))
    except UsageError:
        raise
    except Exception as error:  # the library raises errors of many kinds
        if is_machine_error(error):
            raise
        reason = library_reason(error)
        raise UsageError(
            f"network.backbone: this {model_type} model cannot be used ({type(error).__name__}: {reason}); choose "
            f"another one, which gives maps for images of any size"
        ) from error


def _model(kind: Any, config: Any, folder: Path | None) -> Any:
    """The model in float32, with random weights or the complete ones of ``folder``."""
    extra = {"add_pooling_layer": False} if config.model_type in _WITH_POOLER else {}
    if folder is None:
        return kind(config, **extra)
    with quiet():
        model, found = kind.from_pretrained(
            folder, config=config, local_files_only=True, dtype=torch.float32, output_loading_info=True, **extra
        )
    missing = sorted(key for key in found["missing_keys"] if not any(part in key for part in _MAY_BE_MISSING))
    if missing:
        raise UsageError(
            f"network.backbone: the weights in {folder} do not make a whole {config.model_type} model; missing: "
            f"{first_five(missing)}"
        )
    return model


def _quarters(depth: int) -> list[int]:
    """The numbers, from 1, of the blocks at a quarter, half, three quarters and the end, without repetition."""
    return sorted({max(1, round(depth * part / 4)) for part in (1, 2, 3, 4)})


def _leaves(output: Tensor) -> set[int]:
    """The ids of the leaf tensors in the autograd graph of ``output``."""
    found: set[int] = set()
    seen: set[Any] = set()
    pending: list[Any] = [output.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        pending.extend(following for following, _ in node.next_functions)
    return found


def _build(settings: NetworkSettings, dilated: bool, notify: Notify | None) -> Backbone:
    name = settings.backbone
    if name in SEGFORMERS:
        if not settings.wants_random:
            raise UsageError(
                f"network.weights: {name} by name has random weights (`none`); for pretrained ones give a folder or "
                f"the name of a model on the hub, and check its licence"
            )
        return build_from_config(SEGFORMERS[name])
    folder = resolve_folder(name, weights=settings.wants_pretrained, notify=notify)
    values = read_model_config(folder)
    weights = folder if settings.wants_pretrained else None
    build = partial(build_from_config, values, output_stride=settings.backbone_stride)
    check_parameters(build, weights)
    backbone: _HubModel = build(folder=weights)
    backbone.mean, backbone.std = read_normalisation(folder, backbone.config.model_type)
    return backbone


def _rebuild(architecture: Mapping[str, Any], settings: NetworkSettings) -> Backbone:
    return build_from_config(architecture["config"], output_stride=settings.backbone_stride)


FAMILY = Family(
    kind="transformers",
    names=tuple(SEGFORMERS),
    build=_build,
    rebuild=_rebuild,
    takes_file=False,
    needs_transformers=True,
)
