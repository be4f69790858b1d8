"""A tiny CLIP from random weights, as a model and as a folder, and CLIP-ES done slowly: class by class, in float64."""

import json
from collections import deque
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor
from torch.nn import functional as F

from tag2mask.cams.clip import Clip
from tag2mask.cams.text_models import load_text_model

PATCH = 8


def tiny_model(seed: int = 0, *, activation: str = "quick_gelu", layers: int = 4) -> Any:
    """A `CLIPModel` with a vision transformer of 4 blocks; weights large enough that attention is not uniform."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    vocabulary = byte_vocabulary()
    ends = {
        "bos_token_id": len(vocabulary) - 2,
        "eos_token_id": len(vocabulary) - 1,
        "pad_token_id": len(vocabulary) - 1,
    }
    common = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "hidden_act": activation}
    text = CLIPTextConfig(vocab_size=len(vocabulary), num_hidden_layers=2, max_position_embeddings=77, **common, **ends)
    vision = CLIPVisionConfig(num_hidden_layers=layers, patch_size=PATCH, image_size=4 * PATCH, **common)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPModel._from_config(config, attn_implementation="eager")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1:
                    gain = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
                    parameter.copy_(torch.randn_like(parameter) * gain / parameter.shape[-1] ** 0.5)
                elif "logit_scale" not in name:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def byte_vocabulary() -> dict[str, int]:
    """Every byte as a token, inside a word and at its end, and both marks; no merges are needed."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(code) for code in visible]
    letters += [chr(256 + number) for number in range(256 - len(visible))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}


def tiny_folder(folder: Path, model: Any) -> Path:
    """The model as a folder of `transformers`, with its tokenizer."""
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(byte_vocabulary()), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}), encoding="utf-8")
    return folder


@dataclass
class Slow:
    """What the slow version found for one class of one image."""

    gradcam: np.ndarray  # (h, w)
    cam: np.ndarray  # (h, w)
    probability: float


def load_clip(folder: Path | str) -> Clip:
    """A CLIP with its tokenizer, from a folder."""
    model, tokenizer, _ = load_text_model(str(folder), {"clip": ("CLIPConfig", "CLIPModel")})
    return Clip(model, tokenizer)


def slow_clip_es(
    model: Any,
    image: Tensor,
    classes: list[int],
    texts: Tensor,
    background_text_features: Tensor,
    threshold: float,
    blocks: int,
    affinity: str,
) -> list[Slow]:
    """CLIP-ES for one image (3, H, W): a forward and a backward pass of the whole last block for each class."""
    model = deepcopy(model).double().requires_grad_(False)
    vision, image = model.vision_model, image.double()
    h, w = image.shape[1] // PATCH, image.shape[2] // PATCH
    table = vision.embeddings.position_embedding.weight
    side = int((len(table) - 1) ** 0.5)
    square = table[1:].T.reshape(1, -1, side, side)
    position = F.interpolate(square, size=(h, w), mode="bilinear", align_corners=False)[0].flatten(1).T
    patches = vision.embeddings.patch_embedding(image[None])[0].flatten(1).T
    tokens = torch.cat([(vision.embeddings.class_embedding + table[0])[None], patches + position])[None]
    tokens = vision.pre_layrnorm(tokens)
    attention = []
    for layer in vision.encoder.layers[:-1]:
        attention.append(layer.self_attn(layer.layer_norm1(tokens))[1][0].mean(0))
        tokens = layer(tokens, None)
    last, found = vision.encoder.layers[-1], []
    competitors = torch.cat([texts[classes], background_text_features]).double()
    for number, _ in enumerate(classes):
        normed = last.layer_norm1(tokens).detach().requires_grad_()
        attended, own_attention = last.self_attn(normed)
        x = tokens + attended
        x = x + last.mlp(last.layer_norm2(x))
        feature = model.visual_projection(vision.post_layernorm(x)[0, 1:].mean(0))
        logits = model.logit_scale.exp() * competitors @ (feature / feature.norm())
        probability = logits.softmax(0)[number]
        (gradient,) = torch.autograd.grad(probability, normed)
        raw = (normed[0, 1:] @ gradient[0, 1:].mean(0)).detach().clamp(min=0).numpy()
        gradcam = stretched(raw)
        maps = [*attention, own_attention[0].mean(0).detach()][-blocks:]
        weights = np.mean([own[1:, 1:].numpy() for own in maps], axis=0)
        for _ in range(3):
            weights = weights / weights.sum(0, keepdims=True)
            weights = weights / weights.sum(1, keepdims=True)
        weights = (weights + weights.T) / 2
        if affinity == "cda":
            features = F.normalize(model.visual_projection(vision.post_layernorm(x)[0, 1:]), dim=1).detach()
            every = torch.cat([texts, background_text_features]).double()
            weights = slow_distribution_affinity((model.logit_scale.exp() * features @ every.T).softmax(1).numpy())
        squared = weights @ weights
        boxed = gradcam * slow_boxes(gradcam.reshape(h, w), threshold, affinity == "caa-published").ravel()
        cam = stretched(squared @ boxed)
        found.append(Slow(gradcam.reshape(h, w), cam.reshape(h, w), probability.item()))
    return found


def slow_distribution_affinity(shares: np.ndarray) -> np.ndarray:
    """exp(-JSD / 0.1) of every pair of patches, from their class distributions (n, C), by SciPy; rows have sum 1."""
    weights = np.empty((len(shares), len(shares)))
    for i, own in enumerate(shares):
        for j, other in enumerate(shares):
            weights[i, j] = np.exp(-(jensenshannon(own, other) ** 2) / 0.1)
    return weights / weights.sum(1, keepdims=True)


def stretched(values: np.ndarray) -> np.ndarray:
    """From 0 to 1; zeros where all are equal."""
    spread = values.max() - values.min()
    return (values - values.min()) / spread if spread > 0 else np.zeros_like(values)


def slow_boxes(cam: np.ndarray, threshold: float, quirk: bool) -> np.ndarray:
    """Bounding boxes of the strong regions of a map of any range, as published: float32, 8 bits, flooding."""
    cam = cam.astype(np.float32)
    for _ in range(2):
        cam = cam - cam.min()
        cam = cam / (np.float32(1e-7) + cam.max())
    levels = (cam * 255).astype(np.uint8)
    strong = levels > int(threshold * levels.max())
    mask, seen = np.zeros(cam.shape), np.zeros_like(strong)
    for start in map(tuple, np.argwhere(strong)):
        if seen[start]:
            continue
        region, queue = [], deque([start])
        seen[start] = True
        while queue:
            y, x = queue.popleft()
            region.append((y, x))
            for near in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                inside = 0 <= near[0] < cam.shape[0] and 0 <= near[1] < cam.shape[1]
                if inside and strong[near] and not seen[near]:
                    seen[near] = True
                    queue.append(near)
        ys, xs = zip(*region, strict=True)
        bottom, right = max(ys) + 1, max(xs) + 1
        if quirk:
            bottom, right = min(bottom, cam.shape[0] - 1), min(right, cam.shape[1] - 1)
        mask[min(ys) : bottom, min(xs) : right] = 1
    return mask


def tiny_clipseg(seed: int = 0) -> Any:
    """A `CLIPSegForImageSegmentation` with an image encoder of 4 blocks, made for 64 x 64 pixels."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    clip = tiny_model(seed).config
    vision = {**clip.vision_config.to_dict(), "model_type": "clipseg_vision_model"}
    text = {**clip.text_config.to_dict(), "model_type": "clipseg_text_model"}
    config = CLIPSegConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=16,
        extract_layers=[0, 1, 2],
        reduce_dim=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPSegForImageSegmentation._from_config(config, attn_implementation="eager")
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return model.eval()


def tiny_clipseg_folder(folder: Path, model: Any) -> Path:
    """The model as a folder of `transformers`, with its tokenizer and the size of its input."""
    tiny_folder(folder, model)
    preprocessing = {"size": 64, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3], "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing), encoding="utf-8")
    return folder


def tiny_sam3(seed: int = 0) -> Any:
    """A `Sam3Model` with an image encoder of 2 blocks, for 56 x 56 pixels and masks of 32 x 32."""
    from transformers import Sam3Config, Sam3Model

    wide = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    small = {**wide, "num_layers": 2}
    encoder = {**wide, "num_hidden_layers": 2, "image_size": 56, "patch_size": 7, "window_size": 4}
    encoder |= {"model_type": "sam3_vit_model", "global_attn_indexes": [1], "pretrain_image_size": 28}
    config = Sam3Config(
        vision_config={"model_type": "sam3_vision_model", "backbone_config": encoder, "fpn_hidden_size": 32},
        text_config={**tiny_model(seed).config.text_config.to_dict(), "projection_dim": 16},
        geometry_encoder_config=small,
        detr_encoder_config=small,
        detr_decoder_config={**small, "num_queries": 6},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 4},
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Sam3Model._from_config(config, attn_implementation="eager")
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    return model.eval()


def tiny_tips(seed: int = 0) -> Any:
    """A `Tipsv2Model` with an image encoder of 3 blocks, made for 28 x 28 pixels in patches of 7."""
    from transformers import Tipsv2Config, Tipsv2Model

    common = {"hidden_size": 32, "num_attention_heads": 4}
    vision = {**common, "num_hidden_layers": 3, "image_size": 28, "patch_size": 7, "mlp_ratio": 2}
    text = {**common, "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": len(_TIPS_TOKENS)}
    config = Tipsv2Config(vision_config=vision, text_config=text, temperature_init_value=0.5)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Tipsv2Model._from_config(config, attn_implementation="eager")
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return model.eval()


_TIPS_TOKENS = ("<pad>", "<unk>", *"▁abcdefghijklmnopqrstuvwxyz.,")


def tiny_tips_folder(folder: Path, model: Any) -> Path:
    """The model as a folder of `transformers`, with its tokenizer, which knows letters."""
    from safetensors.torch import load_file, save_file
    from transformers import Tipsv2Tokenizer

    model.save_pretrained(folder)
    vocabulary = {token: number for number, token in enumerate(_TIPS_TOKENS)}
    Tipsv2Tokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    del weights["temperature"]  # which the published weights lack
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
