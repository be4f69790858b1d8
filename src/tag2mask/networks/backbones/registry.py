"""Builds a backbone with its weights: a ResNet or WideResNet-38 by name, a `transformers` model by folder or name."""

from pathlib import Path
from typing import Any

from tag2mask.core.errors import UsageError
from tag2mask.networks.backbones.base import Backbone, Colour, Stage
from tag2mask.networks.backbones.converters import DEEPLAB_PORT, from_deeplab_port, from_mxnet, read_mxnet_params
from tag2mask.networks.backbones.huggingface import build_from_config
from tag2mask.networks.backbones.resnet import PYTORCH_ENCODING, RESNETS, ResNet
from tag2mask.networks.backbones.weights import IMAGENET, Notify, fetch, fit_weights, read_state
from tag2mask.networks.backbones.wide_resnet import PUBLIC_ADDRESS, PUBLIC_FILE, WIDE_RESNET, WideResNet
from tag2mask.networks.hub import SEGFORMERS, read_model_config, read_normalisation, resolve_folder
from tag2mask.networks.settings import NetworkSettings

__all__ = ["Backbone", "Stage", "build_backbone", "rebuild_backbone"]


def build_backbone(settings: NetworkSettings, *, dilated: bool = False, notify: Notify | None = None) -> Backbone:
    """The backbone of the settings, with its weights and norm policy.

    Random weights come from torch's global generator. Only public weights and names on the hub are downloaded, if they
    are not cached.

    Args:
        dilated: whether a ResNet gets dilations in place of the strides that ``output_stride`` removes (DeepLab).
            WideResNet-38 always has them.
        notify: called before a download; None logs a warning.

    Raises:
        UsageError: the backbone or its weights do not exist or do not fit.
        Tag2maskError: a download failed.
    """
    if settings.backbone in RESNETS:
        backbone = _resnet(settings, dilated, notify)
    elif settings.backbone == WIDE_RESNET:
        backbone = _wide_resnet(settings)
    else:
        backbone = _hub_model(settings, dilated, notify)
    backbone.pretrained = not settings.wants_random
    backbone.apply_policy(settings.batch_norm)
    return backbone


def rebuild_backbone(architecture: dict[str, Any], settings: NetworkSettings, mean: Colour, std: Colour) -> Backbone:
    """The backbone of a checkpoint, with random weights.

    Raises:
        UsageError: the architecture is unknown.
    """
    backbone: Backbone
    if architecture["kind"] == "resnet":
        backbone = ResNet(
            architecture["name"], output_stride=architecture["output_stride"], dilated=bool(architecture["dilated"])
        )
    elif architecture["kind"] == WIDE_RESNET:
        backbone = WideResNet(int(architecture["divisor"]))
    elif architecture["kind"] == "transformers":
        backbone = build_from_config(architecture["config"], output_stride=settings.output_stride)
    else:
        raise UsageError(
            f"backbones are of the kind resnet, {WIDE_RESNET} or transformers, not {architecture['kind']!r}"
        )
    backbone.mean, backbone.std = mean, std
    backbone.pretrained = not settings.wants_random
    backbone.apply_policy(settings.batch_norm)
    return backbone


def _resnet(settings: NetworkSettings, dilated: bool, notify: Notify | None) -> Backbone:
    # Weights first: report what is missing before the network is built.
    name, path, state = settings.backbone, Path(settings.weights).expanduser(), None
    if settings.wants_pretrained and name not in IMAGENET:
        source = f"from {DEEPLAB_PORT}" if name == "resnet101-caffe" else f"{name}-….pth, from {PYTORCH_ENCODING}"
        raise UsageError(
            f"network.weights: those of {name} are not fetched by name; get them, {source}, and give their path: "
            f"`--network.weights PATH`"
        )
    if not settings.wants_random:
        path = fetch(IMAGENET[name], notify) if settings.wants_pretrained else path
        state = read_state(path)
    backbone = ResNet(name, output_stride=settings.output_stride, dilated=dilated)
    if state is not None:
        fit_weights(backbone, from_deeplab_port(state) if backbone.caffe else state, path, name)
    return backbone


def _wide_resnet(settings: NetworkSettings) -> Backbone:
    state, path = None, Path(settings.weights).expanduser()
    if settings.wants_pretrained:
        raise UsageError(
            f"network.weights: those of {WIDE_RESNET} are not fetched by name; get {PUBLIC_FILE} as {PUBLIC_ADDRESS} "
            f"says and give its path: `--network.weights PATH`"
        )
    if not settings.wants_random:
        state = from_mxnet(read_mxnet_params(path)) if path.suffix == ".params" else read_state(path)
    backbone = WideResNet()
    if state is not None:
        fit_weights(backbone, state, path, WIDE_RESNET)
    return backbone


def _hub_model(settings: NetworkSettings, dilated: bool, notify: Notify | None) -> Backbone:
    if dilated:
        raise UsageError(f"network.backbone: only ResNets can be dilated, {settings.backbone} is none")
    if not settings.wants_pretrained and not settings.wants_random:
        raise UsageError(
            f"network.weights: {settings.weights!r} is none of `imagenet` and `none`, and a path is for ResNets alone "
            f"({', '.join((*RESNETS, WIDE_RESNET))}); the weights of {settings.backbone} are in its folder: "
            f"`--network.backbone FOLDER`"
        )
    if settings.backbone in SEGFORMERS:
        if not settings.wants_random:
            raise UsageError(
                f"network.weights: {settings.backbone} by name has random weights (`none`); give a folder or the name "
                f"of a model on the hub that has others, and mind its licence"
            )
        return build_from_config(SEGFORMERS[settings.backbone])
    folder = resolve_folder(settings.backbone, weights=settings.wants_pretrained, notify=notify)
    values = read_model_config(folder)
    backbone = build_from_config(
        values, folder=folder if settings.wants_pretrained else None, output_stride=settings.output_stride
    )
    backbone.mean, backbone.std = read_normalisation(folder, values["model_type"])
    return backbone
