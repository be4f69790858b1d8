"""The inputs of text-image models: tokens, and images as normalised tensors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from tag2mask.core.errors import UsageError, first_five
from tag2mask.networks.backbones.base import Colour


def tokens(tokenizer: Any, texts: Sequence[str], limit: int, model: str) -> Any:
    """The tokens of texts, padded to the longest; a `UsageError` for texts of more than ``limit`` tokens."""
    long = [text for text in texts if len(tokenizer(text)["input_ids"]) > limit]
    if long:
        raise UsageError(f"seeds.prompts: longer than the {limit} tokens that {model} reads: {first_five(long)}")
    return tokenizer(list(texts), padding=True, return_tensors="pt")


def model_input(
    image: npt.NDArray[np.uint8], size: tuple[int, int], normalisation: tuple[Colour, Colour], resampling: int
) -> Tensor:
    """An RGB image, uint8 (H, W, 3), resized by a filter of Pillow, float32 (3, h, w), normalised."""
    pixels = Image.fromarray(image).resize(size[::-1], Image.Resampling(resampling))
    mean, std = (np.array(values, np.float32) for values in normalisation)
    normalised = (np.asarray(pixels, dtype=np.float32) / 255 - mean) / std
    return torch.from_numpy(normalised).permute(2, 0, 1).contiguous()


def patch_grid(size: tuple[int, int], patch: int, long_side: int | None) -> tuple[int, int]:
    """(h, w), the patches of an image of (H, W) pixels, rounded up; larger ones are first reduced to ``long_side``."""
    scale = min(1.0, (long_side or max(size)) / max(size))
    rows, columns = (max(1, -(-round(side * scale) // patch)) for side in size)
    return rows, columns
