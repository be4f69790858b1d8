"""Joint augmentation of an image, its mask and its CAMs: resize, crop, flip.

Padding has a neutral colour and is False in ``valid``, 255 in the mask and zero in the CAMs.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional as F

from tag2mask.data.images import IGNORED
from tag2mask.data.settings import Padding, ViewSettings

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB in [0, 1]; networks normalise it to zero


class View(NamedTuple):
    """An augmented crop of an image."""

    image: torch.Tensor  # float32 (3, crop, crop), RGB in [0, 1]
    valid: torch.Tensor  # bool (crop, crop), False in padding
    mask: torch.Tensor | None = None  # uint8 (crop, crop), 255 in padding; None without a mask
    cams: torch.Tensor | None = None  # float32 (K, crop, crop), 0 in padding; None without CAMs


@dataclass(frozen=True)
class Geometry:
    """The geometry of a view: resize, then crop, then flip."""

    size: tuple[int, int]  # (h, w) in pixels after the resize
    top: int  # first row of the crop in the resized image; negative: padding above
    left: int  # first column of the crop; negative: padding on the left
    crop: int  # side of the crop in pixels
    flip: bool  # whether the crop is flipped horizontally
    antialias: bool = True  # whether the image is resized bicubic with antialiasing; otherwise bilinear without

    @property
    def inside(self) -> tuple[slice, slice]:
        """The rows and columns of the crop, before the flip, that contain the image."""
        rows = slice(max(0, -self.top), min(self.crop, self.size[0] - self.top))
        columns = slice(max(0, -self.left), min(self.crop, self.size[1] - self.left))
        return rows, columns


def draw_geometry(size: tuple[int, int], settings: ViewSettings, rng: np.random.Generator) -> Geometry:
    """Draw the geometry of a view of an image of (H, W) pixels.

    Along each side, the crop of a larger image is at a random place; a smaller image is at a random place in the crop,
    or at its top left. The number of values drawn from ``rng`` does not depend on the settings.

    Source: the augmentation of SIPE and IRN (long side, flip, crop with padding); the order is ours. Relative sizes:
    HSC_WSSS (``scale_range``), the PyTorch port of DeepLabV2 (``scale_choice``, with sizes rounded down and no
    antialiasing; padding at the bottom right).
    """
    drawn_size, place_y, place_x, mirror = rng.random(4)
    crop = settings.crop
    flip = settings.flip and bool(mirror < 0.5)
    if settings.resize == "stretch":
        return Geometry((crop, crop), 0, 0, crop, flip)
    long_side = _long_side(max(size), settings, drawn_size)
    ported = settings.resize == "scale_choice"
    height, width = (max(1, (int if ported else round)(side * long_side / max(size))) for side in size)
    top, left = _offset(height, crop, place_y, settings.padding), _offset(width, crop, place_x, settings.padding)
    return Geometry((height, width), top, left, crop, flip, antialias=not ported)


def training_view(
    image: npt.NDArray[np.uint8],
    settings: ViewSettings,
    *,
    rng: np.random.Generator,
    fill: tuple[float, float, float] = IMAGENET_MEAN,
    mask: npt.NDArray[np.uint8] | None = None,
    cams: npt.NDArray[np.floating] | None = None,
) -> View:
    """A random view of an image, with the same geometry for its mask and its CAMs.

    Args:
        image: RGB, uint8 (H, W, 3).
        settings: the augmentation.
        rng: the only source of randomness.
        fill: the colour of padding, RGB in [0, 1].
        mask: uint8 (H, W).
        cams: (K, h, w) in [0, 1] on any grid that covers the image.
    """
    height, width = image.shape[:2]
    view = cut(image, draw_geometry((height, width), settings, rng), fill=fill, mask=mask, cams=cams)
    if not settings.hsv_jitter:
        return view
    shift = rng.integers(-settings.hsv_jitter, settings.hsv_jitter + 1, 3)
    return view._replace(image=torch.where(view.valid, recoloured(view.image, shift), view.image))


def recoloured(image: torch.Tensor, shift: npt.NDArray[np.integer]) -> torch.Tensor:
    """An image, float32 (3, H, W) in [0, 1], with shifted colours.

    ``shift`` is of hue, in steps of 2 degrees, cyclic; of saturation and value, in steps of 1/255, clipped.

    Source: the augmentation of HSC_WSSS, with 180 steps of hue; here after the crop, which is equivalent and cheaper.
    """
    pixels = Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()).convert("HSV")
    hue, saturation, value = np.moveaxis(np.asarray(pixels).astype(np.int16), 2, 0)
    bands = (
        (hue + round(int(shift[0]) * 256 / 180)) % 256,
        np.clip(saturation + int(shift[1]), 0, 255),
        np.clip(value + int(shift[2]), 0, 255),
    )
    moved = Image.merge("HSV", [Image.fromarray(band.astype(np.uint8)) for band in bands]).convert("RGB")
    return torch.from_numpy(np.asarray(moved).astype(np.float32) / 255).permute(2, 0, 1).contiguous()


def cut(
    image: npt.NDArray[np.uint8],
    geometry: Geometry,
    *,
    fill: tuple[float, float, float] = IMAGENET_MEAN,
    mask: npt.NDArray[np.uint8] | None = None,
    cams: npt.NDArray[np.floating] | None = None,
) -> View:
    """The view of a geometry; arguments as in `training_view`.

    The image is resized as the geometry states, the mask by nearest neighbour, the CAMs bilinear.
    """
    crop, inside = geometry.crop, geometry.inside
    pixels = np.empty((crop, crop, 3), dtype=np.float32)
    pixels[:] = fill
    if geometry.antialias:
        pixels[inside] = _resampled(Image.fromarray(image), geometry, Image.Resampling.BICUBIC) / np.float32(255)
    else:
        pixels[inside] = _bilinear(image, geometry) / np.float32(255)
    valid = np.zeros((crop, crop), dtype=np.bool_)
    valid[inside] = True
    view = View(_tensor(pixels, geometry).permute(2, 0, 1).contiguous(), _tensor(valid, geometry))
    if mask is not None:
        labels = np.full((crop, crop), IGNORED, dtype=np.uint8)
        labels[inside] = _resampled(Image.fromarray(mask), geometry, Image.Resampling.NEAREST)
        view = view._replace(mask=_tensor(labels, geometry))
    if cams is not None:
        maps = np.zeros((crop, crop, len(cams)), dtype=np.float32)
        for k, cam in enumerate(cams):
            grid = Image.fromarray(cam.astype(np.float32))
            maps[*inside, k] = _resampled(grid, geometry, Image.Resampling.BILINEAR)
        view = view._replace(cams=_tensor(maps, geometry).permute(2, 0, 1).contiguous())
    return view


def _long_side(own: int, settings: ViewSettings, drawn: float) -> float:
    # ``own``: of the image, in pixels; ``drawn`` in [0, 1).
    low, high = settings.long_side
    if settings.resize == "long_side_range":
        return low + int(drawn * (high - low + 1))
    if settings.resize == "scale_choice":
        return own * settings.scales[int(drawn * len(settings.scales))]
    least, greatest = min(settings.scales), max(settings.scales)
    return own * (least + drawn * (greatest - least))


def _offset(side: int, crop: int, place: float, padding: Padding) -> int:
    room = side - crop
    if room >= 0:
        return int(place * (room + 1))
    return 0 if padding == "bottom_right" else -int(place * (1 - room))


def _resampled(image: Image.Image, geometry: Geometry, how: Image.Resampling) -> npt.NDArray[Any]:
    """The part of the crop that contains the image; equals resizing before cropping, except for Pillow's rounding."""
    rows, columns = geometry.inside
    scale_y, scale_x = image.height / geometry.size[0], image.width / geometry.size[1]
    top, bottom = (geometry.top + edge for edge in (rows.start, rows.stop))
    left, right = (geometry.left + edge for edge in (columns.start, columns.stop))
    # Pillow refuses a box that is outside the image by rounding.
    box = (left * scale_x, top * scale_y, min(right * scale_x, image.width), min(bottom * scale_y, image.height))
    return np.asarray(image.resize((right - left, bottom - top), how, box))


def _bilinear(image: npt.NDArray[np.uint8], geometry: Geometry) -> npt.NDArray[np.float64]:
    """As `_resampled` of an image (H, W, 3), without antialiasing, as OpenCV's bilinear interpolation."""
    rows, columns = geometry.inside
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    resized = F.interpolate(pixels, size=geometry.size, mode="bilinear")[0].permute(1, 2, 0)
    top, left = rows.start + geometry.top, columns.start + geometry.left
    return resized[top : rows.stop + geometry.top, left : columns.stop + geometry.left].numpy()


def _tensor(window: npt.NDArray[Any], geometry: Geometry) -> torch.Tensor:
    return torch.from_numpy((window[:, ::-1] if geometry.flip else window).copy())
