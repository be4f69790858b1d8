"""The inputs of text-image models: tokens, and the grids of images."""

from collections.abc import Sequence
from typing import Any

from tag2mask.core.errors import UsageError, first_five


def tokens(tokenizer: Any, texts: Sequence[str], limit: int, model: str) -> Any:
    """The tokens of texts, padded to the longest; a `UsageError` for texts of more than ``limit`` tokens."""
    long = [text for text in texts if len(tokenizer(text)["input_ids"]) > limit]
    if long:
        raise UsageError(f"seeds.prompts: longer than the {limit} tokens that {model} reads: {first_five(long)}")
    return tokenizer(list(texts), padding=True, return_tensors="pt")


def patch_grid(size: tuple[int, int], patch: int, long_side: int | None) -> tuple[int, int]:
    """(h, w), the patches of an image of (H, W) pixels, rounded up; larger ones are first reduced to ``long_side``."""
    scale = min(1.0, (long_side or max(size)) / max(size))
    rows, columns = (max(1, -(-round(side * scale) // patch)) for side in size)
    return rows, columns
