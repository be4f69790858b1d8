"""Joint features of images for a network with a frozen backbone, kept in RUN/features.

RUN/features/ID.npz has ``features`` float16 (D, h, w), ``image`` int64 (2,), the record of their image, and ``made``, a
digest of the backbone's weights and of the settings. Files of another backbone, other settings or another image are
made again.
"""

import hashlib
import io
import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tag2mask.core.files import DAMAGED, open_file, read_npz, write_bytes
from tag2mask.core.provenance import is_of_image
from tag2mask.data.manifest import ImageItem
from tag2mask.networks.pot_network import PotNetwork
from tag2mask.runs.config import Config
from tag2mask.runs.run_folder import RunFolder

READ_BY_FEATURES = ("scales", "flip", "long_side", "precision")
"""The settings of `cams` that the features depend on."""

_VERSION = 2
"""Raise it by hand whenever the same settings give other features."""


class FeatureFiles:
    """The feature files of a run; ``made`` identifies backbone and settings."""

    def __init__(self, run: RunFolder, config: Config, network: PotNetwork) -> None:
        self.folder = run / "features"
        cams = {name: getattr(config.cams, name) for name in READ_BY_FEATURES}
        settings = [_VERSION, network.levels, network.settings.output_stride, cams, config.data.intensity]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for name, value in sorted(network.backbone.state_dict().items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        self.made = digest.hexdigest()[:16]

    def has(self, item: ImageItem) -> bool:
        """Whether there are features of the image, by their record alone."""
        return self._arrays(item) is not None

    def read(self, item: ImageItem) -> Tensor | None:
        """The features of an image, float16 (D, h, w); None if they are missing, damaged or stale."""
        arrays = self._arrays(item, "features")
        return None if arrays is None else torch.from_numpy(arrays["features"])

    def read_batch(self, items: Sequence[ImageItem]) -> Tensor | None:
        """The features of images of one size, (N, D, h, w); None unless all are there."""
        found = [features for item in items if (features := self.read(item)) is not None]
        return torch.stack(found) if len(found) == len(items) else None

    def _arrays(self, item: ImageItem, *names: str) -> dict[str, np.ndarray] | None:
        """The record and the arrays ``names`` of a file; None if one is missing, or the file is damaged or stale."""
        path = self.folder / f"{item.id}.npz"
        if not path.is_file():
            return None
        try:
            with open_file(path) as file:
                arrays = read_npz(file, (*names, "image", "made"))
            current = str(arrays["made"]) == self.made and is_of_image(arrays["image"], item.path, path)
        except DAMAGED:
            return None
        return arrays if current and all(name in arrays for name in names) else None

    def write(self, item: ImageItem, features: Tensor, origin: np.ndarray | None) -> None:
        """Write the features of an image, (D, h, w), with the `image_origin` of before it was read; atomically."""
        content = io.BytesIO()
        np.savez(
            content,
            features=features.half().cpu().numpy(),
            image=origin if origin is not None else np.zeros(2, dtype=np.int64),
            made=np.array(self.made),
        )
        write_bytes(self.folder / f"{item.id}.npz", content.getvalue())
