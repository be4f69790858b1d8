"""The mean of a network's logits over scales and mirror images, block by block of the result.

Logits of all classes at full size exist for one block at a time, so memory per image does not grow with its size, apart
from the image itself and its labels.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tag2mask.cams.inference import resize
from tag2mask.core.errors import Tag2maskError
from tag2mask.networks.segmentation import SegmentationNetwork
from tag2mask.prediction.settings import OVERLAP, PredictSettings
from tag2mask.prediction.tiles import Axis, Piece, cut

FORWARD_PIXELS = 1 << 22
"""Most pixels per forward pass, mirror images included, unless one image has more; ours."""

_CHANNEL_PIXELS = 1 << 20
"""Windows with more pixels are resized one colour at a time, to save memory."""


@dataclass(frozen=True)
class Grid:
    """Logits of windows of an image at one scale.

    Attributes:
        logits: (N, C + 1, h, w).
        cells: cells per image pixel, along rows and columns.
        first: distance of the centre of cell 0 from the window's edge, in cells.
    """

    logits: Tensor
    cells: tuple[float, float]
    first: float = 0.5


@dataclass(frozen=True)
class Block:
    """A block of the result.

    Attributes:
        photo: index into the images.
        logits: float32 (C + 1, rows, columns), the mean.
    """

    item: int
    rows: slice
    columns: slice
    logits: Tensor


def stride_of(network: SegmentationNetwork) -> int:
    """The least common multiple of the network's strides, in pixels."""
    return math.lcm(network.stride, *(stage.stride for stage in network.backbone.all_stages))


def filled_side(network: SegmentationNetwork, side: int) -> int:
    """The side to which an image is filled up, at which the cells of its mirror image lie on its own.

    That is a multiple of all strides, and one pixel more with `align_corners`.
    """
    unit, more = stride_of(network), int(network.align_corners)
    return -(-(side - more) // unit) * unit + more


@torch.no_grad()
def mean_logits(
    network: SegmentationNetwork,
    items: Sequence[Tensor],
    settings: PredictSettings,
    device: torch.device,
    result: tuple[int, int] | None = None,
) -> Iterator[Block]:
    """The mean of the logits over scales and mirror images, of images of one size.

    Each scale's logits are brought to the size of the result by bilinear interpolation, then averaged. Tiles are
    blended over their joints with weights that sum to 1.

    Args:
        network: in evaluation mode, on the device.
        photos: uint8 (H, W, 3), RGB, on the CPU, all of one size.
        result: (H', W') of the result; None takes (H, W).

    Yields:
        blocks that together cover every pixel of every image once.

    Raises:
        Tag2maskError: the network's logits are not finite.
    Source: mean of logits over scales and mirror images as published; alignment, tiles and blocks ours.
    """
    height, width = int(items[0].shape[0]), int(items[0].shape[1])
    result = result or (height, width)
    ratio = 1.0 if settings.long_side is None else settings.long_side / max(height, width)
    rows, columns = (_axis(side, wanted, ratio, settings) for side, wanted in zip((height, width), result, strict=True))
    places = [
        (item, row, column)
        for item in range(len(items))
        for row in range(len(rows.starts))
        for column in range(len(columns.starts))
    ]
    blend = _Blend()
    ratios = (height / result[0], width / result[1])  # image pixels per pixel of the result
    for start in range(0, len(places), settings.batch_size):
        batch = places[start : start + settings.batch_size]
        windows = [items[item][_span(rows, row), _span(columns, column)].to(device) for item, row, column in batch]
        grids = window_grids(network, _at_scale_one(windows, ratio), (rows.side, columns.side), settings)
        _check_finite(grids, settings)
        for number, (item, row, column) in enumerate(batch):
            for down in (piece for piece in rows.pieces if row in piece.tiles):
                for across in (piece for piece in columns.pieces if column in piece.tiles):
                    vertical = _centres(down, ratios[0], rows.starts[row], device)
                    horizontal = _centres(across, ratios[1], columns.starts[column], device)
                    part = sampled([replace(each, logits=each.logits[number]) for each in grids], vertical, horizontal)
                    if down.joint or across.joint:
                        part *= down.weights(row).to(device)[:, None] * across.weights(column).to(device)
                    whole = blend.add(item, down, across, part)
                    if whole is not None:
                        yield Block(item, slice(down.start, down.stop), slice(across.start, across.stop), whole)


def _check_finite(grids: Sequence[Grid], settings: PredictSettings) -> None:
    """Refuse NaN and infinity, whose highest class would be background; the device is read once per batch."""
    if torch.stack([grid.logits.isfinite().all() for grid in grids]).all():
        return
    remedy = "" if settings.precision == "fp32" else "try --predict.precision fp32; if that does not help, "
    raise Tag2maskError(
        f"the network's logits are not finite (NaN or infinity) with predict.precision {settings.precision}; {remedy}"
        "train the network anew with a lower learning rate: its weights have become too large"
    )


def window_grids(
    network: SegmentationNetwork, windows: Tensor, size: tuple[int, int], settings: PredictSettings
) -> list[Grid]:
    """The logits of windows at every scale, an image and its mirror image averaged on the network's grid.

    Images are filled up with the mean colour at the right and the bottom, to `filled_side`, as padding.

    Args:
        windows: (N, 3, h, w) in [0, 1], at scale 1.
        size: of a window in image pixels.

    Returns:
        one per scale.
    """
    grids = []
    for scale in settings.scales:
        images = resize(windows, scale)
        height, width = int(images.shape[2]), int(images.shape[3])
        sides = filled_side(network, height), filled_side(network, width)
        filled = torch.tensor(network.backbone.mean, device=images.device).view(1, 3, 1, 1)
        filled = filled.repeat(len(images), 1, *sides)
        filled[..., :height, :width] = images
        step = max(1, FORWARD_PIXELS // (sides[0] * sides[1] * (2 if settings.flip else 1)))
        parts = [
            _logits(network, filled[first : first + step], (height, width), settings)
            for first in range(0, len(filled), step)
        ]
        cells = (height / size[0] / network.stride, width / size[1] / network.stride)
        grids.append(Grid(torch.cat(parts), cells, 0.5 / network.stride if network.align_corners else 0.5))
    return grids


def sampled(grids: Sequence[Grid], rows: Tensor, columns: Tensor) -> Tensor:
    """The mean of maps of one window at some places: bilinear between the centres of cells, constant beyond.

    Args:
        grids: each (K, h, w).
        rows: float64 (n,), in image pixels from the window's edge on.
        columns: float64 (m,), in the same way.

    Returns:
        float32 (K, n, m).
    """
    total = torch.zeros(len(grids[0].logits), len(rows), len(columns), device=rows.device)
    for grid in grids:
        down, vertical = _interpolation(rows * grid.cells[0] - grid.first, int(grid.logits.shape[1]))
        across, horizontal = _interpolation(columns * grid.cells[1] - grid.first, int(grid.logits.shape[2]))
        total += vertical @ grid.logits[:, down, across].float() @ horizontal.T
    return total.div_(len(grids))


def _axis(length: int, result: int, ratio: float, settings: PredictSettings) -> Axis:
    """The tiles of an axis; settings count pixels at scale 1, the result pixels of the image."""
    if settings.tile is None or length * ratio <= settings.tile:
        return cut(length, result, side=None, overlap=0, blend=0)
    side = max(2, int(settings.tile / ratio))
    shared = min(OVERLAP, settings.tile // 2)
    overlap = min(side // 2, math.ceil(shared / ratio))
    return cut(length, result, side=side, overlap=overlap, blend=min(overlap, shared) // 2)


def _span(axis: Axis, tile: int) -> slice:
    return slice(axis.starts[tile], axis.starts[tile] + axis.side)


def _centres(piece: Piece, ratio: float, start: int, device: torch.device) -> Tensor:
    """The centres of the pixels of a piece, in image pixels from the edge of a tile on."""
    pixels = torch.arange(piece.start, piece.stop, dtype=torch.float64, device=device)
    return (pixels + 0.5) * ratio - start


def _at_scale_one(windows: Sequence[Tensor], ratio: float) -> Tensor:
    """uint8 (h, w, 3) each, to float (N, 3, h', w') in [0, 1]."""

    def converted(window: Tensor) -> Tensor:
        return resize(window.permute(2, 0, 1)[None].float() / 255, ratio)

    def by_colour(window: Tensor) -> Tensor:
        return torch.cat([converted(window[..., colour : colour + 1]) for colour in range(3)], dim=1)

    large = ratio != 1 and windows[0][..., 0].numel() > _CHANNEL_PIXELS
    return torch.cat([by_colour(window) if large else converted(window) for window in windows])


def _logits(network: SegmentationNetwork, images: Tensor, size: tuple[int, int], settings: PredictSettings) -> Tensor:
    """(N, C + 1, h, w), the mean of images, of which (height, width) = ``size`` is valid, and their mirror images."""
    valid = torch.zeros_like(images[:, 0], dtype=torch.bool)
    valid[:, : size[0], : size[1]] = True
    if settings.flip:
        images, valid = torch.cat([images, images.flip(3)]), torch.cat([valid, valid.flip(2)])
    with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        whole = size == tuple(images.shape[2:])
        logits: Tensor = network(images.contiguous(memory_format=torch.channels_last), None if whole else valid).float()
    expected = (len(network.classes) + 1, *(-(-side // network.stride) for side in images.shape[2:]))
    if tuple(logits.shape[1:]) != expected:
        raise Tag2maskError(f"the network should give logits {expected} an image, they are {tuple(logits.shape[1:])}")
    if not settings.flip:
        return logits
    straight, mirrored = logits.chunk(2)
    return (straight + mirrored.flip(3)) / 2


def _interpolation(places: Tensor, cells: int) -> tuple[slice, Tensor]:
    """The cells around some places, and the weight of each: (places, cells)."""
    inside = places.clamp(0, cells - 1)
    low = inside.floor().long().clamp_max(max(0, cells - 2))
    first, last = int(low[0]), min(cells - 1, int(low[-1]) + 1)
    weights = torch.zeros(len(places), last - first + 1, dtype=torch.float64, device=places.device)
    weights.scatter_(1, (low - first)[:, None], (1 - (inside - low))[:, None])
    if cells > 1:
        weights.scatter_(1, (low - first + 1)[:, None], (inside - low)[:, None])
    return slice(first, last + 1), weights.float()


class _Blend:
    """Sums of the contributions of several tiles to a block."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int, int], tuple[Tensor, int]] = {}

    def add(self, item: int, down: Piece, across: Piece, part: Tensor) -> Tensor | None:
        """The block if this is its last part, else None."""
        key = (item, down.start, across.start)
        left = len(down.tiles) * len(across.tiles)
        if left == 1:
            return part
        if key in self._open:
            before, left = self._open.pop(key)
            part = part.add_(before)
        if left == 1:
            return part
        self._open[key] = (part, left - 1)
        return None
