"""Photographs as a torch dataset whose samples depend on the seed, the draw and the photograph alone."""

from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from tag2mask.cam_files import CamFile, read_cam
from tag2mask.data.augment import IMAGENET_MEAN, training_view
from tag2mask.data.deep_pixels import Intensity
from tag2mask.data.images import PIXEL_LIMIT, read_image
from tag2mask.data.photo import Photo
from tag2mask.data.photos import PhotoSet
from tag2mask.data.settings import ViewSettings
from tag2mask.errors import UsageError
from tag2mask.pot.external import NO_MAP

__all__ = ["Sample", "TrainingSet"]


class Sample(TypedDict, total=False):
    """One view of one photograph, for the default collation.

    Attributes:
        image: float32 (3, crop, crop), RGB in [0, 1].
        valid: bool (crop, crop), False in padding.
        tags: float32 (C,), 1 for each class of the photograph.
        index: which photograph, an index into ``photos.photos``.
        external: float16 (C, h, w) in [0, 1], base CAMs from outside on the grid of the network, moved as the image;
            0 in padding, `NO_MAP` for a class without one. Only where the set has such.
    """

    image: torch.Tensor
    valid: torch.Tensor
    tags: torch.Tensor
    index: int
    external: torch.Tensor


class TrainingSet(Dataset[Sample]):
    """Random views of tagged photographs.

    An item is asked for by ``(draw, index)``: ``draw`` numbers the passes (or the steps) and differs whenever a new
    view of the same photograph is wanted. The same seed, draw and index give the same sample, in whichever worker,
    process or order.
    """

    def __init__(
        self,
        photos: PhotoSet,
        settings: ViewSettings,
        *,
        seed: int,
        pixel_limit: int = PIXEL_LIMIT,
        intensity: Intensity | None = None,
        fill: tuple[float, float, float] = IMAGENET_MEAN,
        external: Path | None = None,
        stride: int = 16,
    ) -> None:
        """Keep what a sample is made from; nothing is opened.

        Args:
            photos: the photographs.
            settings: what a view may look like.
            seed: not negative.
            pixel_limit: an image with more pixels is refused.
            intensity: of images of more than 8 bits, the values that become black and white, as of `read_image`.
            fill: the colour of padding, RGB in [0, 1]: the mean by which the network normalises.
            external: a folder with base CAMs from outside, ID.npz; None for samples without them.
            stride: pixels a cell of the grid that they are brought to.

        Raises:
            UsageError: the seed is negative.
        """
        if seed < 0:
            raise UsageError(f"the seed should be 0 or more, it is {seed}")
        self.photos = photos
        self.settings = settings
        self.seed = seed
        self.pixel_limit = pixel_limit
        self.intensity = intensity
        self.fill = fill
        self.external = external
        self.stride = stride

    def __len__(self) -> int:
        """How many photographs; draws are without end."""
        return len(self.photos.photos)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """The view of photograph ``index`` in draw ``draw``.

        Args:
            key: (draw, index), both not negative.

        Raises:
            ImageError: the photograph cannot be read; the message names it.
            CamFileError: its base CAM is damaged.
        """
        draw, index = key
        photo = self.photos.photos[index]
        image = read_image(photo.path, pixel_limit=self.pixel_limit, intensity=self.intensity)
        cam = self._external_of(photo)
        rng = np.random.default_rng([self.seed, draw, index])
        view = training_view(image, self.settings, rng=rng, fill=self.fill, cams=None if cam is None else cam.cams)
        tags = torch.zeros(len(self.photos.classes))
        tags[[number - 1 for number in photo.tags]] = 1
        sample: Sample = {"image": view.image, "valid": view.valid, "tags": tags, "index": index}
        if self.external is not None:
            cells = -(-self.settings.crop // self.stride)
            sample["external"] = torch.full((len(tags), cells, cells), NO_MAP, dtype=torch.float16)
            if cam is not None and view.cams is not None:
                maps = F.avg_pool2d(view.cams, self.stride, ceil_mode=True, count_include_pad=False).half()
                for class_id, grid in zip(cam.ids.tolist(), maps, strict=True):
                    if class_id in photo.tags:
                        sample["external"][class_id - 1] = grid
        return sample

    def _external_of(self, photo: Photo) -> CamFile | None:
        """The base CAM of a photograph, if the set has such and there is one with a map."""
        if self.external is None or not (path := self.external / f"{photo.id}.npz").is_file():
            return None
        cam = read_cam(path)
        return cam if len(cam.ids) else None
