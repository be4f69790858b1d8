"""Softmax Grad-CAM at the first norm of CLIP's last block, for all classes of all images of a batch at once.

The map of class k is ReLU(Σ_c w_c a_c), with a the output of that norm at the patches and w the mean over patches of
∂s_k/∂a, where s_k is the softmax probability of the class among the present classes and the background prompts
(docs/seeds.md; CLIP-ES). It is computed exactly, with these savings:

- Only the direction of ∂s_k matters, since maps are divided by their range. It is t_k minus the softmax mean of the
  other texts; the factor s_k (1 − s_k), which may underflow, is left out.
- w is linear in that direction, so one forward pass of the block serves all classes.
- The mean over patches of a gradient through attention needs one product with the attention matrix instead of four:
  sums over queries and keys are taken before the projections.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.cams.clip.model import Clip, Patches, attention_weights, images_per_chunk

_LARGEST_CHUNK = 1 << 28
"""Most elements of the largest intermediate results of a chunk of maps on a GPU."""


@dataclass(frozen=True)
class GradCams:
    """Grad-CAMs of a batch; P pairs of an image and one of its classes, in order of image, then class."""

    image: Tensor  # (P,) int64, the image of each pair
    label: Tensor  # (P,) int64, the class, from 0
    maps: Tensor  # (P, n) float32, not negative, not normalised; 0 in padding
    probability: Tensor  # (P,) of the class among the present classes and the background prompts
    attention: Tensor  # (B, n, n) float32, the block's attention averaged over heads, without class token; 0 in padding
    tokens: Tensor  # (B, n, D), the patches after the block


@dataclass(frozen=True)
class _Pass:
    """Intermediates of the forward pass of the block; B images, H heads, d channels per head."""

    normed: Tensor  # (B, 1 + n, D), the output of the first norm
    query: Tensor  # (B, H, 1 + n, d)
    key: Tensor
    value: Tensor
    weights: Tensor  # (B, H, 1 + n, 1 + n)
    gathered: Tensor  # (B, H, n, d), of the patches
    middle: Tensor  # (B, n, D), patches after attention
    hidden: Tensor  # (B, n, 4D), before the activation
    out: Tensor  # (B, n, D), patches after the block


@torch.no_grad()
def softmax_gradcams(
    clip: Clip, patches: Patches, tokens: Tensor, text_features: Tensor, background_text_features: Tensor, tags: Tensor
) -> GradCams:
    """The maps of all present classes, from the input ``tokens`` (B, 1 + n, D) of the last block.

    Text features are (C, E) and (G, E), float32 of unit length, with G ≥ 0; tags are bool (B, C).
    """
    block = clip.blocks[-1]
    state = _forward(clip, block, tokens, patches.key_bias)
    share = patches.valid / patches.valid.sum(1, keepdim=True)  # (B, n)
    pooled = (clip.model.vision_model.post_layernorm(state.out) * share[..., None].to(tokens.dtype)).sum(1)  # (B, D)
    feature = clip.model.visual_projection(pooled).float()  # (B, E)
    image, label = tags.nonzero(as_tuple=True)
    direction, probability = _directions(
        feature, text_features, background_text_features, tags, image, label, clip.logit_scale
    )
    gradient = direction @ clip.model.visual_projection.weight.float()  # (P, D), at the mean of the normed patches
    maps = torch.zeros(len(image), patches.valid.shape[1], device=tokens.device)
    slope = _slope(block.mlp.activation_fn, state.hidden)
    for part, source in _chunks(image, state):
        weight = _mean_gradient(clip, block, state, slope, patches.valid, source, F.normalize(gradient[part], dim=1))
        own = state.normed[source, 1:].float()  # (p or 1, n, D)
        maps[part] = (own @ weight[:, :, None])[..., 0].relu()
    attention = state.weights[:, :, 1:, 1:].mean(1, dtype=torch.float32) * patches.valid[:, :, None]
    return GradCams(image, label, maps * patches.valid[image], probability, attention, state.out)


def _chunks(image: Tensor, state: _Pass) -> Iterator[tuple[slice, Tensor]]:
    """Pairs to compute together, and their images, one for each pair or one for all.

    On a CPU a chunk is the pairs of one image, which saves copies; elsewhere as many pairs as memory allows.
    """
    if image.device.type == "cpu":
        start = 0
        for count in Counter(image.tolist()).values():
            yield slice(start, start + count), image[start : start + 1]
            start += count
        return
    step = max(1, _LARGEST_CHUNK // (state.hidden[0].numel() + state.weights[0].numel()))
    for start in range(0, len(image), step):
        yield slice(start, start + step), image[start : start + step]


def _forward(clip: Clip, block: Any, tokens: Tensor, bias: Tensor | None) -> _Pass:
    """The last block, without the class token's output."""
    normed = block.layer_norm1(tokens)
    query, key, value = clip.query_key_value(block, normed)
    weights = query.new_empty(*query.shape[:3], query.shape[2])
    step = images_per_chunk(query)
    for start in range(0, len(query), step):
        part = slice(start, start + step)
        weights[part] = attention_weights(query[part], key[part], None if bias is None else bias[part])
    gathered = (weights @ value)[:, :, 1:]
    middle = tokens[:, 1:] + block.self_attn.out_proj(gathered.transpose(1, 2).flatten(2))
    hidden = block.mlp.fc1(block.layer_norm2(middle))
    out = middle + block.mlp.fc2(block.mlp.activation_fn(hidden))
    return _Pass(normed, query, key, value, weights, gathered, middle, hidden, out)


def _directions(
    feature: Tensor,
    text_features: Tensor,
    background_text_features: Tensor,
    tags: Tensor,
    image: Tensor,
    label: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The gradient of each pair's probability, up to a positive factor: (P, E); and the probability: (P,)."""
    unit = F.normalize(feature, dim=1)
    everything = torch.cat([text_features, background_text_features])  # (C + G, E)
    competes = torch.cat([tags, tags.new_ones(len(tags), len(background_text_features))], 1)
    logits = (scale * unit @ everything.T).masked_fill(~competes, -torch.inf)[image]  # (P, C + G)
    probability = logits.softmax(1).gather(1, label[:, None])[:, 0]
    others = logits.scatter(1, label[:, None], -torch.inf)
    # A single class without background prompts has probability 1; the direction is then its own text.
    share = others.softmax(1).nan_to_num(0.0)
    direction = text_features[label] - share @ everything
    seen = unit[image]
    return direction - (direction * seen).sum(1, keepdim=True) * seen, probability


def _mean_gradient(
    clip: Clip, block: Any, state: _Pass, slope: Tensor, valid: Tensor, image: Tensor, gradient: Tensor
) -> Tensor:
    """The gradient at the first norm, summed over patches, from the gradient at the pooled output: both (p, D)."""
    dtype = state.out.dtype
    inside = valid[image][..., None]  # (p, n, 1)
    above = (
        _through_norm(clip.model.vision_model.post_layernorm, state.out[image], gradient.to(dtype)[:, None]) * inside
    )
    through = (above @ block.mlp.fc2.weight) * slope[image]
    at_middle = above + _through_norm(block.layer_norm2, state.middle[image], through @ block.mlp.fc1.weight)
    heads, width = state.query.shape[1], state.query.shape[3]
    back = (at_middle @ block.self_attn.out_proj.weight).view(*at_middle.shape[:2], heads, width).transpose(1, 2)
    weights = state.weights[image][:, :, 1:]  # (p, H, n, 1 + n), queries of patches, keys of all
    value, key, query = state.value[image], state.key[image], state.query[image][:, :, 1:]
    level = (back * state.gathered[image]).sum(3, keepdim=True)  # (p, H, n, 1), Σ_j A_ij ∂A_ij
    at_value = _transposed_product(weights, torch.cat([back, level], 3))  # (p, H, 1 + n, d + 1)
    # ∂S = A (∂A − level) has rows of sum 0: its sum over the patches as keys is minus its entry for the class token.
    over_queries = (at_value[..., :-1] * value).sum(3, keepdim=True) - at_value[..., -1:]  # (p, H, 1 + n, 1)
    over_keys = -weights[..., :1] * ((back * value[:, :, :1]).sum(3, keepdim=True) - level)  # (p, H, n, 1)
    sums = [
        (width**-0.5 * (over_queries * key).sum(2), block.self_attn.q_proj),
        (width**-0.5 * (over_keys * query).sum(2), block.self_attn.k_proj),
        (at_value[:, :, 1:, :-1].sum(2), block.self_attn.v_proj),
    ]
    return torch.stack([part.flatten(1).float() @ projection.weight.float() for part, projection in sums]).sum(0)


def _transposed_product(weights: Tensor, back: Tensor) -> Tensor:
    """Aᵀ G: (p, H, m, e) from weights (p or 1, H, n, m) and gradients (p, H, n, e)."""
    turned = weights.transpose(2, 3)
    if len(weights) == len(back):
        return turned @ back
    pairs, heads, patches, width = back.shape
    stacked = back.permute(1, 2, 0, 3).reshape(heads, patches, pairs * width)
    return (turned[0] @ stacked).view(heads, -1, pairs, width).permute(2, 0, 1, 3)


def _through_norm(norm: torch.nn.LayerNorm, x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient at the input ``x`` of a layer norm from the gradient at its output, computed in float32."""
    wide = x.float()
    centred = wide - wide.mean(-1, keepdim=True)
    inverse = (centred.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    unit, scaled = centred * inverse, gradient.float() * norm.weight.float()
    inner = scaled - scaled.mean(-1, keepdim=True) - unit * (scaled * unit).mean(-1, keepdim=True)
    return (inner * inverse).to(x.dtype)


def _slope(activation: Any, x: Tensor) -> Tensor:
    """The derivative of an activation at ``x``."""
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(activation(at).sum(), at)
    return slope
