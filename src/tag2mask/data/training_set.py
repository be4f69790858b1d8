"""Photographs as a torch dataset whose samples depend on the seed, the draw and the photograph alone."""

from typing import TypedDict

import numpy as np
import torch
from torch.utils.data import Dataset

from tag2mask.data.augment import IMAGENET_MEAN, training_view
from tag2mask.data.images import PIXEL_LIMIT, read_image
from tag2mask.data.photos import PhotoSet
from tag2mask.data.settings import AugmentSettings
from tag2mask.errors import UsageError

__all__ = ["AugmentSettings", "Sample", "TrainingSet"]


class Sample(TypedDict):
    """One view of one photograph, for the default collation.

    Attributes:
        image: float32 (3, crop, crop), RGB in [0, 1].
        valid: bool (crop, crop), False in padding.
        tags: float32 (C,), 1 for each class of the photograph.
        index: which photograph, an index into ``photos.photos``.
    """

    image: torch.Tensor
    valid: torch.Tensor
    tags: torch.Tensor
    index: int


class TrainingSet(Dataset[Sample]):
    """Random views of tagged photographs.

    An item is asked for by ``(draw, index)``: ``draw`` numbers the passes (or the steps) and differs whenever a new
    view of the same photograph is wanted. The same seed, draw and index give the same sample, in whichever worker,
    process or order.
    """

    def __init__(
        self,
        photos: PhotoSet,
        settings: AugmentSettings,
        *,
        seed: int,
        pixel_limit: int = PIXEL_LIMIT,
        fill: tuple[float, float, float] = IMAGENET_MEAN,
    ) -> None:
        """Keep what a sample is made from; nothing is opened.

        Args:
            photos: the photographs.
            settings: what a view may look like.
            seed: not negative.
            pixel_limit: an image with more pixels is refused.
            fill: the colour of padding, RGB in [0, 1]: the mean by which the network normalises.

        Raises:
            UsageError: the seed is negative.
        """
        if seed < 0:
            raise UsageError(f"the seed should be 0 or more, it is {seed}")
        self.photos = photos
        self.settings = settings
        self.seed = seed
        self.pixel_limit = pixel_limit
        self.fill = fill

    def __len__(self) -> int:
        """How many photographs; draws are without end."""
        return len(self.photos.photos)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """The view of photograph ``index`` in draw ``draw``.

        Args:
            key: (draw, index), both not negative.

        Raises:
            ImageError: the photograph cannot be read; the message names it.
        """
        draw, index = key
        photo = self.photos.photos[index]
        image = read_image(photo.path, pixel_limit=self.pixel_limit)
        view = training_view(image, self.settings, rng=np.random.default_rng([self.seed, draw, index]), fill=self.fill)
        tags = torch.zeros(len(self.photos.classes))
        tags[[number - 1 for number in photo.tags]] = 1
        return {"image": view.image, "valid": view.valid, "tags": tags, "index": index}
