"""Joint features of images for a network with a frozen backbone, kept in RUN/features.

RUN/features/ID.npz has ``features`` float16 (D, h, w), ``image`` int64 (2,), the image that they are of, and ``made``,
the settings that they depend on. Files of other settings or of another image are made again.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tag2mask.core.files import DAMAGED, open_file, read_npz, write_bytes
from tag2mask.core.provenance import image_origin, is_of_image
from tag2mask.data.manifest import ImageItem
from tag2mask.runs.config import Config, absolute, plain
from tag2mask.runs.run_folder import RunFolder

FEATURES = "features"


class FeatureFiles:
    """The feature files of a run; ``made`` identifies their settings."""

    def __init__(self, run: RunFolder, config: Config) -> None:
        self.folder = run / FEATURES
        settings = [feature_settings(config), config.data.intensity]
        self.made = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def read(self, item: ImageItem) -> Tensor | None:
        """The features of an image, float16 (D, h, w); None if they are missing, damaged or stale."""
        path = self.folder / f"{item.id}.npz"
        if not path.is_file():
            return None
        try:
            with open_file(path) as file:
                arrays = read_npz(file, ("features", "image", "made"))
            good = str(arrays["made"]) == self.made and is_of_image(arrays["image"], item.path, path)
            features = arrays["features"]
        except DAMAGED:
            return None
        return torch.from_numpy(features) if good and features.ndim == 3 and features.dtype == np.float16 else None

    def read_batch(self, items: Sequence[ImageItem]) -> Tensor | None:
        """The features of images of one size, (N, D, h, w); None unless all are there."""
        found = [features for item in items if (features := self.read(item)) is not None]
        return torch.stack(found) if len(found) == len(items) else None

    def write(self, item: ImageItem, features: Tensor) -> None:
        """Write the features of an image, (D, h, w), atomically."""
        content = io.BytesIO()
        origin = image_origin(item.path)
        np.savez(
            content,
            features=features.half().cpu().numpy(),
            image=origin if origin is not None else np.zeros(2, dtype=np.int64),
            made=np.array(self.made),
        )
        write_bytes(self.folder / f"{item.id}.npz", content.getvalue())


def feature_settings(config: Config) -> dict[str, object]:
    """The settings that the features of a frozen backbone depend on, as plain values."""
    config = absolute(config)
    network = plain(replace(config.network, freeze=True), affecting=True)
    cams = plain(config.cams, affecting=True)
    return {"network": network, "cams": {name: cams[name] for name in ("scales", "flip", "long_side", "precision")}}
