"""Images and their tags: readers, opening and writing of images and masks, augmentation, and the check.

`augment` and `training_set`, which need torch, and `check` are imported from their modules.
"""

from tag2mask.data.dataset import ImageSet, find_images, open_images
from tag2mask.data.images import (
    ImageError,
    MaskError,
    class_colour,
    css,
    image_size,
    palette,
    read_image,
    read_mask,
    write_mask,
)
from tag2mask.data.manifest import ImageItem
from tag2mask.data.settings import AugmentSettings, DataSettings

__all__ = [
    "AugmentSettings",
    "DataSettings",
    "ImageError",
    "ImageItem",
    "ImageSet",
    "MaskError",
    "class_colour",
    "css",
    "find_images",
    "image_size",
    "open_images",
    "palette",
    "read_image",
    "read_mask",
    "write_mask",
]
