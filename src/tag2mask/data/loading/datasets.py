"""Torch datasets of random views of images; a sample depends only on the seed, the draw and the image."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from tag2mask.core.errors import UsageError
from tag2mask.data.cam_files import CamFile, read_cam
from tag2mask.data.corrections import FinalMasks
from tag2mask.data.dataset import ImageSet
from tag2mask.data.images import ImageError, MaskError, read_mask
from tag2mask.data.loading.augment import IMAGENET_MEAN, training_view
from tag2mask.data.manifest import ImageItem
from tag2mask.data.settings import ViewSettings
from tag2mask.pot.external import NO_MAP


class Sample(TypedDict, total=False):
    """A view of a tagged image, for the default collation.

    ``external``: float16 (C, h, w) in [0, 1], external base CAMs on the grid of the network, with the geometry of
    the view; 0 in padding, `NO_MAP` for a class without one. Only in a dataset with external CAMs.
    """

    image: torch.Tensor  # float32 (3, crop, crop), RGB in [0, 1]
    valid: torch.Tensor  # bool (crop, crop), False in padding
    tags: torch.Tensor  # float32 (C,), 1 for each class of the image
    index: int  # of the image in ``images.items``
    external: torch.Tensor


class LabelledSample(TypedDict):
    """A view of an image with its label map, for the default collation."""

    image: torch.Tensor  # float32 (3, crop, crop), RGB in [0, 1]
    valid: torch.Tensor  # bool (crop, crop), False in padding
    labels: torch.Tensor  # uint8 (crop, crop), class ids, 0 = background, 255 = ignored and padding


AnySample = TypeVar("AnySample", Sample, LabelledSample)


@dataclass(eq=False)
class _ViewSet(Dataset[AnySample], Generic[AnySample]):
    """Random views of images, by key ``(draw, index)``.

    ``draw`` is the number of the epoch or step. The same seed, draw and index give the same sample in every worker,
    process and order.

    ``fill``: the colour of padding, RGB in [0, 1]: the mean of the network's normalisation.
    """

    images: ImageSet  # the images; opened on access
    seed: int = field(kw_only=True)  # 0 or more; else a `UsageError` is raised
    fill: tuple[float, float, float] = field(default=IMAGENET_MEAN, kw_only=True)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UsageError(f"the seed should be 0 or more, it is {self.seed}")

    def __len__(self) -> int:
        return len(self.images.items)

    def _read(self, item: ImageItem) -> npt.NDArray[np.uint8]:
        return self.images.read_image(item)

    def _rng(self, draw: int, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, draw, index])


@dataclass(eq=False)
class TrainingSet(_ViewSet[Sample]):
    """Random views of tagged images, by (draw, index)."""

    settings: ViewSettings  # the augmentation
    external: Path | None = field(default=None, kw_only=True)  # a folder with external base CAMs ID.npz; None: none
    stride: int = field(default=16, kw_only=True)  # pixels per cell of the grid to which external CAMs are pooled

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """The view for ``key`` = (draw, index).

        Raises:
            ImageError: the image cannot be read.
            CamFileError: its base CAM is damaged.
        """
        draw, index = key
        item = self.images.items[index]
        image, cam = self._read(item), self._external_of(item)
        cams = None if cam is None else cam.cams
        view = training_view(image, self.settings, rng=self._rng(draw, index), fill=self.fill, cams=cams)
        tags = torch.zeros(len(self.images.classes))
        tags[[number - 1 for number in item.tags]] = 1
        sample: Sample = {"image": view.image, "valid": view.valid, "tags": tags, "index": index}
        if self.external is not None:
            cells = -(-self.settings.crop // self.stride)
            sample["external"] = torch.full((len(tags), cells, cells), NO_MAP, dtype=torch.float16)
            if cam is not None and view.cams is not None:
                maps = F.avg_pool2d(view.cams, self.stride, ceil_mode=True, count_include_pad=False).half()
                for class_id, grid in zip(cam.ids.tolist(), maps, strict=True):
                    if class_id in item.tags:
                        sample["external"][class_id - 1] = grid
        return sample

    def _external_of(self, item: ImageItem) -> CamFile | None:
        """The external base CAM of an image, if it has a map."""
        if self.external is None or not (path := self.external / f"{item.id}.npz").is_file():
            return None
        cam = read_cam(path)
        return cam if len(cam.ids) else None


@dataclass(eq=False)
class LabelledSet(_ViewSet[LabelledSample]):
    """Random views of images and their label maps, by (draw, index).

    ``folder``: of label maps ID.png with the proportions of the image, at its size or smaller; None: the ground
    truth. Human corrections among `FinalMasks` have the image's size.
    """

    folder: Path | FinalMasks | None
    settings: ViewSettings  # the augmentation

    def __getitem__(self, key: tuple[int, int]) -> LabelledSample:
        """The view for ``key`` = (draw, index).

        Raises:
            ImageError: the image or its label map cannot be read.
        """
        draw, index = key
        item = self.images.items[index]
        image = self._read(item)
        labels = self._labels(item, (image.shape[0], image.shape[1]))
        view = training_view(image, self.settings, rng=self._rng(draw, index), fill=self.fill, mask=labels)
        if view.mask is None:
            raise ValueError("a view of a label map has one")
        return {"image": view.image, "valid": view.valid, "labels": view.mask}

    def _labels(self, item: ImageItem, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        if self.folder is None:
            if item.truth is None:
                raise ImageError(f"{item.id} has no ground truth", kind="missing-mask", reason="no ground truth")
            return self.images.read_truth(item, size=size)
        path = self.folder / f"{item.id}.png"
        by_hand = isinstance(self.folder, FinalMasks) and self.folder.is_by_hand(item.id)
        labels = read_mask(
            path,
            size=size if by_hand else None,
            classes=len(self.images.classes),
            pixel_limit=self.images.pixel_limit,
        )
        scale = max(labels.shape) / max(size)
        if any(abs(own - side * scale) > 1 for own, side in zip(labels.shape, size, strict=True)):
            own, image = (f"{width} × {height}" for height, width in (labels.shape, size))
            reason = f"labels of {own} pixels do not have the proportions of {item.path.name}, {image}"
            raise MaskError.about(path, "mask-size", f"{reason}; delete them and do their stage again")
        return labels
