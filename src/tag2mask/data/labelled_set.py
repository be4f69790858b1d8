"""Photographs with label maps as a torch dataset; its samples depend on seed, draw and photograph alone."""

from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from tag2mask.data.augment import IMAGENET_MEAN, training_view
from tag2mask.data.deep_pixels import Intensity
from tag2mask.data.final_masks import FinalMasks
from tag2mask.data.images import PIXEL_LIMIT, ImageError, MaskError, read_image, read_mask
from tag2mask.data.photo import Photo
from tag2mask.data.photos import PhotoSet
from tag2mask.data.settings import ViewSettings


class LabelledSample(TypedDict):
    """One view of one photograph, for the default collation.

    Attributes:
        image: float32 (3, crop, crop), RGB in [0, 1].
        valid: bool (crop, crop), False in padding.
        labels: uint8 (crop, crop), class ids, 0 = background, 255 = ignored, as padding is.
        weights: float32 (crop, crop) in [0, 1], how much each label counts; only of a set with weights.
    """

    image: torch.Tensor
    valid: torch.Tensor
    labels: torch.Tensor
    weights: NotRequired[torch.Tensor]


class LabelledSet(Dataset[LabelledSample]):
    """Random views of photographs and of their label maps, moved alike.

    An item is asked for by ``(draw, index)``, as of a `TrainingSet`.
    """

    def __init__(
        self,
        photos: PhotoSet,
        folder: Path | FinalMasks | None,
        settings: ViewSettings,
        *,
        weights: Path | None = None,
        seed: int,
        pixel_limit: int = PIXEL_LIMIT,
        intensity: Intensity | None = None,
        fill: tuple[float, float, float] = IMAGENET_MEAN,
    ) -> None:
        """Keep what a sample is made from; nothing is opened.

        Args:
            photos: the photographs.
            folder: with the label map ID.png of each, of the photograph's shape, at its size or smaller; None takes
                the ground truth of each. People's masks among `FinalMasks` have the photograph's size.
            settings: what a view may look like.
            weights: the folder with ID.png of each, 8-bit grey of its label map's size: how much each label counts,
                255 = 1; people's masks count in full. None: all count alike.
            seed: not negative.
            pixel_limit: an image with more pixels is refused.
            intensity: of images of more than 8 bits, the values that become black and white, as of `read_image`.
            fill: the colour of padding, RGB in [0, 1]: the mean by which the network normalises.
        """
        self.photos, self.folder, self.settings, self.weights = photos, folder, settings, weights
        self.seed, self.pixel_limit, self.intensity, self.fill = seed, pixel_limit, intensity, fill

    def __len__(self) -> int:
        """How many photographs; draws are without end."""
        return len(self.photos.photos)

    def __getitem__(self, key: tuple[int, int]) -> LabelledSample:
        """The view of photograph ``index`` in draw ``draw``, for ``key`` = (draw, index).

        Raises:
            ImageError: the photograph, its label map or its weights cannot be read; the message names it.
        """
        draw, index = key
        photo = self.photos.photos[index]
        image = read_image(photo.path, pixel_limit=self.pixel_limit, intensity=self.intensity)
        labels = self._labels(photo, (image.shape[0], image.shape[1]))
        weights = None if self.weights is None else self._weights(photo, labels.shape)
        rng = np.random.default_rng([self.seed, draw, index])
        view = training_view(image, self.settings, rng=rng, fill=self.fill, mask=labels, weights=weights)
        if view.mask is None:
            raise ValueError("a view of a label map has one")
        sample: LabelledSample = {"image": view.image, "valid": view.valid, "labels": view.mask}
        return sample if view.weights is None else {**sample, "weights": view.weights}

    def _labels(self, photo: Photo, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """The label map of a photograph of that size, (H, W)."""
        path: Path | None = photo.mask if self.folder is None else self.folder / f"{photo.id}.png"
        if path is None:
            raise ImageError(f"{photo.id} has no ground truth", kind="missing-mask", reason="no ground truth")
        if self.folder is None:
            return self.photos.read_truth(photo, size=size, pixel_limit=self.pixel_limit)
        drawn = size if self._is_by_hand(photo) else None
        labels = read_mask(path, size=drawn, classes=len(self.photos.classes), pixel_limit=self.pixel_limit)
        scale = max(labels.shape) / max(size)
        if any(abs(own - side * scale) > 1 for own, side in zip(labels.shape, size, strict=True)):
            reason = (
                f"labels of {labels.shape[1]} × {labels.shape[0]} pixels have not the shape of {photo.path.name}, "
                f"{size[1]} × {size[0]}; delete them and do their stage again"
            )
            raise MaskError(f"{path}: {reason}", kind="mask-size", reason=reason)
        return labels

    def _is_by_hand(self, photo: Photo) -> bool:
        return isinstance(self.folder, FinalMasks) and self.folder.is_by_hand(photo.id)

    def _weights(self, photo: Photo, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """The weights of a label map of that shape."""
        if self._is_by_hand(photo):
            return np.full(shape, 255, dtype=np.uint8)
        path = (self.weights or Path()) / f"{photo.id}.png"
        weights = read_mask(path, pixel_limit=self.pixel_limit)
        if weights.shape != shape:
            reason = f"weights of {weights.shape} for labels of {shape} pixels; delete both and do their stage again"
            raise MaskError(f"{path}: {reason}", kind="mask-size", reason=reason)
        return weights
