"""What the models that are asked by phrases share: tokens, a square input, and one map for each class."""

from collections import defaultdict
from collections.abc import Callable, Sequence
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


def square_input(image: npt.NDArray[np.uint8], side: int, normalisation: tuple[Colour, Colour]) -> Tensor:
    """An RGB image, uint8 (H, W, 3), stretched to a square, float32 (3, side, side): bilinear, normalised."""
    pixels = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    mean, std = (np.array(values, np.float32) for values in normalisation)
    normalised = (np.asarray(pixels, dtype=np.float32) / 255 - mean) / std
    return torch.from_numpy(normalised).permute(2, 0, 1).contiguous()


def phrase_pairs(asked: Tensor, classes: Sequence[int]) -> list[tuple[int, int]]:
    """The pairs of an image and a phrase of a class that is asked for, (B, C) bool, image by image."""
    wanted = asked.tolist()
    return [(image, phrase) for image, own in enumerate(wanted) for phrase, label in enumerate(classes) if own[label]]


def phrase_maps(
    make: Callable[[list[tuple[int, int]]], Tensor], asked: Tensor, classes: Sequence[int]
) -> list[tuple[tuple[int, ...], Tensor]]:
    """How well each place fits the classes that are asked for: the highest map of a class's phrases.

    Args:
        make: the maps of P pairs of an image and a phrase, (P, h, w) float32 in [0, 1].
        asked: (B, C) bool.
        classes: T, the class of each phrase, from 0.

    Returns:
        for each image its classes, ascending, and their maps, (J, h, w).

    Source: ours.
    """
    pairs = phrase_pairs(asked, classes)
    places = defaultdict[tuple[int, int], list[int]](list)  # of the maps of an image and a class
    for place, (image, phrase) in enumerate(pairs):
        places[image, classes[phrase]].append(place)
    maps = make(pairs)
    found = []
    for image, wanted in enumerate(asked):
        labels = tuple(torch.nonzero(wanted)[:, 0].tolist())
        own = [maps[places[image, label]].amax(0) for label in labels]
        found.append((labels, torch.stack(own) if own else maps.new_zeros(0, *maps.shape[1:])))
    return found
