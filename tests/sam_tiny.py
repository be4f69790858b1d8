"""Tiny models of the SAM family from random weights, as folders of `transformers`."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SIDE = 64
KINDS = ("sam", "sam_hq", "sam2", "sam2_video", "edgetam")

_PARTS = {
    "prompt_encoder_config": {"hidden_size": 32, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 8},
    "mask_decoder_config": {
        "hidden_size": 32,
        "mlp_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 16,
    },
}


def tiny_sam(kind: str, seed: int = 0) -> Any:
    """A model of this type for inputs of 64 pixels; weights large enough that masks depend on the prompts."""
    import transformers

    names = {
        "sam": "Sam",
        "sam_hq": "SamHQ",
        "sam2": "Sam2",
        "sam2_video": "Sam2Video",
        "edgetam": "EdgeTam",
    }
    config_class, model_class = (getattr(transformers, names[kind] + part) for part in ("Config", "Model"))
    parts = {key: dict(value) for key, value in _PARTS.items()}
    if kind in ("sam", "sam_hq"):
        parts["vision_config"] = _VIT
        if kind == "sam_hq":
            parts["mask_decoder_config"]["vit_dim"] = 32
    else:
        parts["vision_config"] = _pyramid(kind)
    more = _MEMORY if kind == "sam2_video" else {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config_class(**parts, **more))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def tiny_sam_folder(folder: Path, kind: str, seed: int = 0) -> Path:
    """The model as a folder."""
    tiny_sam(kind, seed).save_pretrained(folder)
    return folder


_VIT = {
    "hidden_size": 32,
    "output_channels": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 16,
    "window_size": 2,
    "global_attn_indexes": [1],
    "num_pos_feats": 16,
}

_MEMORY = {
    "image_size": SIDE,
    "memory_attention_hidden_size": 32,
    "memory_attention_num_layers": 1,
    "memory_attention_num_attention_heads": 1,
    "memory_attention_feed_forward_hidden_size": 32,
    "memory_attention_rope_feat_sizes": [4, 4],
    "memory_encoder_hidden_size": 32,
    "memory_encoder_output_channels": 16,
    "mask_downsampler_embed_dim": 32,
    "memory_fuser_num_layers": 1,
    "memory_fuser_embed_dim": 32,
    "memory_fuser_intermediate_dim": 32,
}


def _pyramid(kind: str) -> dict[str, Any]:
    widths = [8, 16, 32, 64]
    backbone: dict[str, Any] = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "num_attention_heads": 1,
        "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 2, 2, 1],
        "embed_dim_per_stage": widths,
        "num_attention_heads_per_stage": [1, 1, 2, 4],
        "window_size_per_stage": [4, 4, 2, 2],
        "global_attention_blocks": [4],
        "window_positional_embedding_background_size": [4, 4],
    }
    if kind == "edgetam":
        _register()
        backbone = {"model_type": "tiny_maps", "widths": widths}
    return {
        "backbone_config": backbone,
        "backbone_channel_list": widths[::-1],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 32,
    }


def _register() -> None:
    """The backbone of EdgeTAM is one of timm, which tests do without: a stack of convolutions stands in for it."""
    from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutput

    class TinyMapsConfig(PretrainedConfig):
        model_type = "tiny_maps"
        widths: tuple[int, ...] = (8, 16, 32, 64)

    class TinyMaps(PreTrainedModel):
        config_class = TinyMapsConfig
        _supports_sdpa = True

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            channels = [3, *config.widths]
            self.layers = nn.ModuleList(
                nn.Conv2d(channels[i], channels[i + 1], 4 if i == 0 else 2, stride=4 if i == 0 else 2) for i in range(4)
            )
            self.post_init()

        def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutput:
            maps = []
            for layer in self.layers:
                pixel_values = layer(pixel_values)
                maps.append(pixel_values)
            return BaseModelOutput(last_hidden_state=maps)

    AutoConfig.register("tiny_maps", TinyMapsConfig, exist_ok=True)
    AutoModel.register(TinyMapsConfig, TinyMaps, exist_ok=True)
