"""The mean of a network's logits over scales and mirror images, block by block of the result.

Full-size logits of all classes exist for one block at a time, so memory per image does not grow with its size, apart
from the image itself and its labels.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from tag2mask.cams.inference import resize
from tag2mask.core.device import precision_on
from tag2mask.core.errors import Tag2maskError
from tag2mask.core.profile import timed
from tag2mask.networks.backbones.base import ceil_grid
from tag2mask.prediction.onnx_network import PredictionNetwork
from tag2mask.prediction.settings import OVERLAP, PredictSettings
from tag2mask.prediction.tiles import Axis, tile_axis

FORWARD_PIXELS = {"cpu": 1 << 17, "cuda": 1 << 22}
"""Most pixels per forward pass on a device, mirror images included, unless one image has more; ours.

On a CPU the maps of several large images exceed its cache: 4 images of 385 × 513 pixels in one pass take MobileNetV2
1.6 times as long as one by one.
"""

_CHANNEL_PIXELS = 1 << 20
"""Larger windows are resized one channel at a time, to save memory."""


@dataclass(frozen=True)
class LogitGrid:
    """Logits of windows of an image at one scale.

    Attributes:
        logits: (N, C + 1, h, w).
        cells_per_pixel: cells per image pixel, along rows and columns.
        offset: distance of the centre of cell 0 from the window's edge, in cells.
    """

    logits: Tensor
    cells_per_pixel: tuple[float, float]
    offset: float = 0.5


@dataclass(frozen=True)
class Block:
    """A block of the result.

    Attributes:
        index: of the image.
        logits: float32 (C + 1, rows, columns), the mean.
    """

    index: int
    rows: slice
    columns: slice
    logits: Tensor


def common_stride(network: PredictionNetwork) -> int:
    """The least common multiple of the network's strides, in pixels."""
    return math.lcm(network.stride, *(stage.stride for stage in network.backbone.all_stages))


def padded_side(network: PredictionNetwork, side: int) -> int:
    """The padded side of an image, chosen so that the cells of its mirror image coincide with its own.

    With the network's ``upsampling`` `cells` it is a multiple of all strides, with `corners` one pixel more; with
    `stretched` the cells coincide at any side.
    """
    if network.upsampling == "stretched":
        return side
    unit, extra = common_stride(network), int(network.upsampling == "corners")
    return -(-(side - extra) // unit) * unit + extra


@torch.no_grad()
def mean_logits(
    network: PredictionNetwork,
    images: Sequence[Tensor],
    settings: PredictSettings,
    device: torch.device,
    size: tuple[int, int] | None = None,
) -> Iterator[Block]:
    """The mean of the logits over scales and mirror images, of images of one size.

    Each scale's logits are resized to the result by bilinear interpolation, then averaged. Overlapping tiles are
    blended with weights that sum to 1.

    Args:
        network: in evaluation mode, on the device.
        images: uint8 (H, W, 3), RGB, on the CPU, all of one size.
        size: (H', W') of the result; None takes (H, W).

    Yields:
        blocks that together cover every pixel of every image once.

    Raises:
        Tag2maskError: the network's logits are not finite.
    Source: mean of logits over scales and mirror images as published; alignment, tiles and blocks ours.
    """
    height, width = int(images[0].shape[0]), int(images[0].shape[1])
    size = size or (height, width)
    ratio = 1.0 if settings.long_side is None else settings.long_side / max(height, width)
    rows, columns = (_axis(side, wanted, ratio, settings) for side, wanted in zip((height, width), size, strict=True))
    tiles = list(product(range(len(images)), range(len(rows.starts)), range(len(columns.starts))))
    pixels = (height / size[0], width / size[1])  # image pixels per pixel of the result
    partial: dict[tuple[int, int, int], tuple[Tensor, int]] = {}  # blocks that lack the contribution of a tile
    for start in range(0, len(tiles), settings.batch_size):
        batch = tiles[start : start + settings.batch_size]
        windows = [images[index][rows.span(row), columns.span(column)].to(device) for index, row, column in batch]
        grids = _window_grids(network, _at_scale_one(windows, ratio), (rows.side, columns.side), settings)
        _check_finite(grids, settings)
        for number, (index, row, column) in enumerate(batch):
            own = [replace(grid, logits=grid.logits[number]) for grid in grids]
            for down, across in product(rows.intervals, columns.intervals):
                if row not in down.tiles or column not in across.tiles:
                    continue
                vertical = down.centres(device) * pixels[0] - rows.starts[row]
                horizontal = across.centres(device) * pixels[1] - columns.starts[column]
                part = interpolate(own, vertical, horizontal)
                if down.seam or across.seam:
                    part *= down.weights(row).to(device)[:, None] * across.weights(column).to(device)
                key, needed = (index, down.start, across.start), len(down.tiles) * len(across.tiles)
                if key in partial:
                    total, needed = partial.pop(key)
                    part.add_(total)
                if needed == 1:
                    yield Block(index, down.span, across.span, part)
                else:
                    partial[key] = part, needed - 1


def _check_finite(grids: Sequence[LogitGrid], settings: PredictSettings) -> None:
    """Refuse NaN and infinity, whose argmax would be background; one device synchronisation per batch."""
    if torch.stack([grid.logits.isfinite().all() for grid in grids]).all():
        return
    precision = precision_on(settings.precision, grids[0].logits.device)
    remedy = "" if precision == "fp32" else "try --predict.precision fp32; if that does not help, "
    raise Tag2maskError(
        f"the network's logits are not finite (NaN or infinity) with predict.precision {precision}; {remedy}"
        "train the network again with a lower learning rate: its weights have become too large"
    )


def _window_grids(
    network: PredictionNetwork, windows: Tensor, size: tuple[int, int], settings: PredictSettings
) -> list[LogitGrid]:
    """The logits of windows, (N, 3, h, w) in [0, 1] at scale 1, at each scale, averaged with the mirror image.

    Images are padded at the right and the bottom with the mean colour. ``size``: of a window in image pixels.
    """
    grids = []
    for scale in settings.scales:
        images = resize(windows, scale)
        height, width = int(images.shape[2]), int(images.shape[3])
        sides = padded_side(network, height), padded_side(network, width)
        padded = torch.tensor(network.backbone.mean, device=images.device).view(1, 3, 1, 1)
        padded = padded.repeat(len(images), 1, *sides)
        padded[..., :height, :width] = images
        valid = torch.zeros_like(padded[:, 0], dtype=torch.bool)
        valid[:, :height, :width] = True
        if settings.flip:
            padded, valid = torch.cat([padded, padded.flip(3)]), torch.cat([valid, valid.flip(2)])
        step = max(1, FORWARD_PIXELS[images.device.type] // (sides[0] * sides[1]))
        whole = sides == (height, width)
        parts = [
            _logits(network, part, None if whole else inside, settings)
            for part, inside in zip(torch.split(padded, step), torch.split(valid, step), strict=True)
        ]
        logits = torch.cat(parts)
        if settings.flip:
            straight, mirrored = logits.chunk(2)
            logits = (straight + mirrored.flip(3)) / 2
        cells = (height / size[0] / network.stride, width / size[1] / network.stride)
        if network.upsampling == "stretched":
            cells = (logits.shape[2] / size[0], logits.shape[3] / size[1])
        grids.append(LogitGrid(logits, cells, 0.5 / network.stride if network.upsampling == "corners" else 0.5))
    return grids


def interpolate(grids: Sequence[LogitGrid], rows: Tensor, columns: Tensor) -> Tensor:
    """The mean of several grids of one window at given positions: bilinear between cell centres, constant beyond.

    Args:
        grids: each with logits (K, h, w).
        rows: float64 (n,), in image pixels from the window's edge.
        columns: float64 (m,), likewise.

    Returns:
        float32 (K, n, m).
    """
    total = torch.zeros(len(grids[0].logits), len(rows), len(columns), device=rows.device)
    for grid in grids:
        down, vertical = _bilinear(rows * grid.cells_per_pixel[0] - grid.offset, int(grid.logits.shape[1]))
        across, horizontal = _bilinear(columns * grid.cells_per_pixel[1] - grid.offset, int(grid.logits.shape[2]))
        total += vertical @ grid.logits[:, down, across].float() @ horizontal.T
    return total.div_(len(grids))


def _axis(length: int, result: int, ratio: float, settings: PredictSettings) -> Axis:
    """The tiles of an axis; settings count pixels at scale 1, ``length`` those of the image."""
    if settings.tile is None or length * ratio <= settings.tile:
        return tile_axis(length, result)
    side = max(2, int(settings.tile / ratio))
    shared = min(OVERLAP, settings.tile // 2)
    overlap = min(side // 2, math.ceil(shared / ratio))
    return tile_axis(length, result, side=side, overlap=overlap, blend=min(overlap, shared) // 2)


def _at_scale_one(windows: Sequence[Tensor], ratio: float) -> Tensor:
    """uint8 (h, w, 3) each, to float (N, 3, h', w') in [0, 1]."""

    def scaled(window: Tensor) -> Tensor:
        return resize(window.permute(2, 0, 1)[None].float() / 255, ratio)

    if ratio == 1 or windows[0][..., 0].numel() <= _CHANNEL_PIXELS:
        return torch.cat([scaled(window) for window in windows])
    return torch.cat([torch.cat([scaled(one) for one in torch.split(window, 1, dim=2)], dim=1) for window in windows])


@timed("network")
def _logits(network: PredictionNetwork, images: Tensor, valid: Tensor | None, settings: PredictSettings) -> Tensor:
    """The logits of images (N, 3, H, W), (N, C + 1, h, w); ``valid`` as in `NormalisingNetwork.normalise`."""
    with torch.autocast(
        images.device.type, torch.bfloat16, enabled=precision_on(settings.precision, images.device) == "bf16"
    ):
        logits: Tensor = network(images.contiguous(memory_format=torch.channels_last), valid).float()
    grid = ceil_grid((int(images.shape[2]), int(images.shape[3])), network.stride)
    expected = (len(network.classes) + 1, *(logits.shape[2:] if network.upsampling == "stretched" else grid))
    if tuple(logits.shape[1:]) != expected:
        raise Tag2maskError(f"the network should give logits {expected} per image, got {tuple(logits.shape[1:])}")
    return logits


def _bilinear(positions: Tensor, cells: int) -> tuple[slice, Tensor]:
    """The cells around ascending positions, and their weights, (positions, cells)."""
    inside = positions.clamp(0, cells - 1)
    low = inside.floor().long().clamp_max(max(0, cells - 2))
    first, last = int(low[0]), min(cells - 1, int(low[-1]) + 1)
    weights = torch.zeros(len(positions), last - first + 1, dtype=torch.float64, device=positions.device)
    weights.scatter_(1, (low - first)[:, None], (1 - (inside - low))[:, None])
    if cells > 1:
        weights.scatter_(1, (low - first + 1)[:, None], (inside - low)[:, None])
    return slice(first, last + 1), weights.float()
