"""Masks of objects under clicks and in boxes, by a promptable model."""

import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tag2mask.core.files import version
from tag2mask.networks.promptable import Encoded, Promptable, full_size

KEPT = 2
"""Images whose encodings are kept."""


class Prompt(NamedTuple):
    """What a person points at, in pixels of the image.

    Attributes:
        points: (x, y, 1 on the object or 0 outside it).
        box: (x1, y1, x2, y2) around the object.
    """

    points: tuple[tuple[float, float, int], ...] = ()
    box: tuple[float, float, float, float] | None = None


class Assistant:
    """Answers one request at a time. Thread-safe."""

    def __init__(self, model: Promptable, read: Callable[[Path], npt.NDArray[np.uint8]]) -> None:
        """Keep the model.

        Args:
            read: reads an image, uint8 (H, W, 3).
        """
        self._model, self._read, self._lock = model, read, threading.Lock()
        self._encoded = lru_cache(maxsize=KEPT)(self._encode)

    def encode(self, path: Path) -> None:
        """Encode an image before its first prompt.

        Raises:
            ImageError: the image cannot be read.
        """
        with self._lock:
            self._encoded(path, version(path))

    def mask(self, path: Path, prompt: Prompt) -> npt.NDArray[np.uint8]:
        """The object, by the candidate with the highest predicted IoU: uint8 (H, W), 1 on the object.

        Raises:
            ImageError: the image cannot be read.
        """
        points = np.array([[point[:2] for point in prompt.points]]) if prompt.points else None  # (1, K, 2)
        labels = np.array([[point[2] for point in prompt.points]]) if prompt.points else None  # (1, K)
        box = None if prompt.box is None else np.array([prompt.box])  # (1, 4)
        with self._lock:
            encoded = self._encoded(path, version(path))
            found = self._model.masks(encoded, points, labels, box)
            best = int(found.scores[0].argmax())
            masks = full_size(found.logits[:, best : best + 1], encoded)  # (1, 1, H, W)
        return np.asarray(masks[0, 0].numpy(), dtype=np.uint8)

    def close(self) -> None:
        """Wait for the running request, and let no other begin: Python must not end while its thread computes."""
        self._lock.acquire()

    def _encode(self, path: Path, _version: str) -> Encoded:
        return self._model.encode(self._read(path))
