"""One map for each class, from models that make one for each phrase."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def phrase_pairs(asked: Tensor, classes: Sequence[int]) -> list[tuple[int, int]]:
    """The pairs of an image and a phrase of a class that is asked for, (B, C) bool, image by image."""
    wanted = asked.tolist()
    return [(image, phrase) for image, own in enumerate(wanted) for phrase, label in enumerate(classes) if own[label]]


def phrase_maps(
    make: Callable[[list[tuple[int, int]]], Tensor], asked: Tensor, classes: Sequence[int]
) -> list[tuple[tuple[int, ...], Tensor]]:
    """The maps of the classes that are asked for: at each cell the highest value of the class's phrases.

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
