"""CLIP of `transformers`, run block by block on images of any size.

The image side runs the library's modules one by one, since its forward pass lacks position embeddings for any grid,
head-averaged attention of selected blocks, and images of several sizes in one batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.cams.inputs import patch_grid, tokens
from tag2mask.cams.text_models import DTYPES, Precision
from tag2mask.networks.backbones.base import CLIP_MEAN, CLIP_STD
from tag2mask.networks.pretrained import model_input

_LARGEST_ATTENTION = 1 << 25
"""Most entries of attention (heads, n, n) at a time on a CPU, so that they fit its caches."""


@dataclass(frozen=True)
class Patches:
    """A batch of images as sequences of tokens, the class token first, shorter ones padded at the end."""

    tokens: Tensor  # (B, 1 + n, D)
    grids: tuple[tuple[int, int], ...]  # (h, w) of each image; h · w ≤ n patches in reading order
    valid: Tensor  # (B, n) bool, False = padding

    @property
    def key_bias(self) -> Tensor | None:
        """(B, 1, 1, 1 + n), −inf where a token is padding; None without padding."""
        if all(rows * columns == self.valid.shape[1] for rows, columns in self.grids):
            return None
        bias = torch.zeros_like(self.valid, dtype=self.tokens.dtype).masked_fill(~self.valid, -torch.inf)
        return F.pad(bias, (1, 0))[:, None, None]


@dataclass(frozen=True)
class LastBlock:
    """The input of the last block, and the attention of earlier blocks.

    Attributes:
        attention: (B, n, n) float32, attention averaged over heads and summed over some of the earlier blocks, without
            class token; 0 in padding.
    """

    tokens: Tensor  # (B, 1 + n, D), input of the last block
    attention: Tensor
    maps: int  # number of blocks in the sum


class Clip(nn.Module):
    """A frozen CLIP; ``patch`` is the number of pixels per side of a patch."""

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.patch = int(model.config.vision_config.patch_size)
        self._positions: dict[tuple[int, int], Tensor] = {}

    @property
    def blocks(self) -> Any:
        """The vision transformer's blocks, first to last."""
        return self.model.vision_model.encoder.layers

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self.model.visual_projection.weight.device
        return device

    @property
    def logit_scale(self) -> float:
        """The factor of cosines before the softmax."""
        return float(self.model.logit_scale.float().exp())

    def precision(self, name: Precision) -> "Clip":
        """Run the image side in fp32, bf16 or fp16."""
        self._positions.clear()
        for module in (self.model.vision_model, self.model.visual_projection):
            module.to(DTYPES[name])
        return self

    @torch.no_grad()
    def text_features(self, sentences: Sequence[str]) -> Tensor:
        """(len(sentences), E) float32, unit length; a `UsageError` for sentences that are too long."""
        limit = int(self.model.config.text_config.max_position_embeddings)
        batch = tokens(self.tokenizer, sentences, limit, "CLIP").to(self.device)
        pooled = self.model.text_model(**batch).pooler_output
        return F.normalize(self.model.text_projection(pooled).float(), dim=1)

    def prepare(self, image: npt.NDArray[np.uint8], long_side: int | None = None) -> Tensor:
        """An RGB image, uint8 (H, W, 3), as CLIP's input, float32 (3, h · patch, w · patch), bicubic, normalised.

        Sides are rounded up to whole patches; larger images are first reduced to ``long_side``. Source: CLIP-ES; the
        reduction is ours.
        """
        rows, columns = self.grid((image.shape[0], image.shape[1]), long_side)
        size = (rows * self.patch, columns * self.patch)
        return model_input(image, size, (CLIP_MEAN, CLIP_STD), Image.Resampling.BICUBIC)

    def grid(self, size: tuple[int, int], long_side: int | None = None) -> tuple[int, int]:
        """(h, w), the patches of an image of (H, W) pixels."""
        return patch_grid(size, self.patch, long_side)

    @torch.no_grad()
    def patches(self, images: Sequence[Tensor]) -> Patches:
        """One batch of tokens of images, each (3, h · patch, w · patch), of `prepare`."""
        embed = self.model.vision_model.embeddings
        grids = tuple((image.shape[1] // self.patch, image.shape[2] // self.patch) for image in images)
        longest = max(rows * columns for rows, columns in grids)
        dtype = embed.patch_embedding.weight.dtype
        sequences = []
        for image, grid in zip(images, grids, strict=True):
            own = embed.patch_embedding(image.to(self.device, dtype)[None]).flatten(2).transpose(1, 2)[0]  # (h·w, D)
            tokens = torch.cat([embed.class_embedding[None].to(dtype), own]) + self._position(grid)
            sequences.append(F.pad(tokens, (0, 0, 0, longest + 1 - len(tokens))))
        lengths = torch.tensor([rows * columns for rows, columns in grids], device=self.device)
        valid = torch.arange(longest, device=self.device) < lengths[:, None]
        return Patches(self.model.vision_model.pre_layrnorm(torch.stack(sequences)), grids, valid)

    @torch.no_grad()
    def up_to_last_block(self, patches: Patches, attention_blocks: int) -> LastBlock:
        """Run all blocks except the last; return the attention of the last ``attention_blocks``, without the last."""
        tokens, bias = patches.tokens, patches.key_bias
        images, length, _ = tokens.shape
        summed = torch.zeros(images, length - 1, length - 1, device=tokens.device)
        first = max(0, len(self.blocks) - attention_blocks)
        for number, block in enumerate(self.blocks[:-1]):
            tokens = self.run_block(block, tokens, bias, summed if number >= first else None)
        summed *= patches.valid[:, :, None]
        return LastBlock(tokens, summed, len(self.blocks) - 1 - first)

    def image_features(self, tokens: Tensor) -> Tensor:
        """Tokens after the last block (…, D) in the joint space: (…, E) float32, not normalised."""
        features: Tensor = self.model.visual_projection(self.model.vision_model.post_layernorm(tokens))
        return features.float()

    def query_key_value(self, block: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of normalised tokens (B, m, D), each (B, heads, m, d)."""
        attention: Any = block.self_attn
        shape = (*tokens.shape[:2], attention.num_heads, attention.head_dim)
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        query, key, value = (projection(tokens).view(shape).transpose(1, 2) for projection in projections)
        return query, key, value

    def run_block(self, block: Any, tokens: Tensor, bias: Tensor | None, summed: Tensor | None = None) -> Tensor:
        """The output of a block, (B, 1 + n, D); adds its attention averaged over heads to ``summed`` (B, n, n)."""
        query, key, value = self.query_key_value(block, block.layer_norm1(tokens))
        if summed is None:
            gathered = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        else:
            gathered = torch.empty_like(query)
            step = images_per_chunk(query)
            for start in range(0, len(query), step):
                part = slice(start, start + step)
                own = None if bias is None else bias[part]
                weights = attention_weights(query[part], key[part], own)
                gathered[part] = weights @ value[part]
                summed[part] += weights[:, :, 1:, 1:].mean(1, dtype=torch.float32)
        tokens = tokens + block.self_attn.out_proj(gathered.transpose(1, 2).flatten(2))
        after: Tensor = tokens + block.mlp(block.layer_norm2(tokens))
        return after

    def _position(self, grid: tuple[int, int]) -> Tensor:
        """(1 + h·w, D), position embeddings, resized bilinearly and cached by grid."""
        if grid not in self._positions:
            table = self.model.vision_model.embeddings.position_embedding.weight  # (1 + s², D)
            side = round((len(table) - 1) ** 0.5)
            square = table[1:].float().view(1, side, side, -1).permute(0, 3, 1, 2)
            resized = F.interpolate(square, size=grid, mode="bilinear", align_corners=False)
            self._positions[grid] = torch.cat([table[:1], resized.flatten(2).transpose(1, 2)[0].to(table.dtype)])
        return self._positions[grid]


def attention_weights(query: Tensor, key: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q kᵀ / √d + bias), (B, heads, m, m), computed in float32."""
    logits = query * query.shape[3] ** -0.5 @ key.transpose(2, 3)
    if bias is not None:
        logits = logits + bias
    return torch.softmax(logits, 3, dtype=torch.float32).to(query.dtype)


def images_per_chunk(query: Tensor) -> int:
    """The number of images whose attention (heads, m, m) is computed at a time."""
    if query.device.type != "cpu":
        return len(query)
    return max(1, _LARGEST_ATTENTION // (query.shape[1] * query.shape[2] ** 2))
