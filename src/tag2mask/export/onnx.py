"""Export of a segmentation network to ONNX, from images to logits at their size, with the normalisation in the graph.

The graph takes batches of any size whose image sides are multiples of the stride, plus the `remainder` of the metadata
(0 or 1). The caller pads images at the right and the bottom with the mean colour of the metadata, and crops the
logits, because the graphs of some backbones cannot express this. The second output has the logits on the network's
grid, for `tag2mask predict`; it is left out for the head `concat`, which needs to know the padding.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.files import atomic_path, remove_partial_of
from tag2mask.networks.checkpoint import NetworkFileError
from tag2mask.networks.heads import ConcatHead
from tag2mask.networks.segmentation import SegmentationNetwork
from tag2mask.prediction.multiscale import common_stride, padded_side
from tag2mask.prediction.onnx_network import CELLS, INPUT, OUTPUT, open_session

MODULES = ("onnx", "onnxruntime", "onnxscript")
"""The packages of the extra `onnx`."""

TOLERANCE = 1e-4
"""Largest allowed difference from torch's logits, relative to the largest logit or to 1."""

_OPSET = 18

_REMEDY = (
    "its computation depends on the input or its size in a way that a graph cannot follow; leave out `scales`, or use "
    "a ResNet"
)

_UNTRACEABLE = ("swin", "swinv2")
"""Model types of `transformers` that cannot be traced with free sizes within minutes, because they pad windows."""

_CHECKED = ((1, 0, 0), (2, 2, 3), (1, 4, 2))
"""Batches for the check of a graph: images, and rows and columns in strides beyond `_MIN_SIDE`."""

_MIN_SIDE = 64


@dataclass(frozen=True)
class OnnxExport:
    """An exported network. A side of an image is a multiple of `stride`, plus `remainder`.

    Attributes:
        remainder: 0 or 1.
        difference: the largest difference from torch's logits, relative to the largest logit or to 1.
    """

    path: Path
    stride: int
    remainder: int
    difference: float

    def sentence(self) -> str:
        """One line for the user."""
        more = f" + {self.remainder}" if self.remainder else ""
        return (
            f"{self.path}: input `{INPUT}` float32 (N, 3, H, W), RGB in [0, 1], H and W multiples of "
            f"{self.stride}{more}; output `{OUTPUT}` (N, C + 1, H, W); within {self.difference:.1e} of torch"
        )


def require_onnx() -> None:
    """Raise a `UsageError` if the packages of the extra are not installed."""
    missing = [name for name in MODULES if find_spec(name) is None]
    if missing:
        raise UsageError(f"export onnx needs {', '.join(missing)}; pip install 'tag2mask[onnx]'")


def export_onnx(network: SegmentationNetwork, path: Path) -> OnnxExport:
    """Write a network as one ONNX file, and check it with onnxruntime against torch at several sizes.

    The metadata are `classes` (JSON, background first), `stride`, `remainder`, `fill` (JSON, the padding colour in
    [0, 1]), `cell` (pixels per cell of the output `cells`), `upsampling`, and `intensity` (JSON, the pixel values of
    black and white) if the network was trained with it.

    Args:
        network: is moved to the CPU and put into evaluation mode.
        path: the file; written only if the check succeeds.

    Raises:
        UsageError: onnx, onnxruntime or onnxscript is not installed.
        Tag2maskError: the network cannot be expressed with free sizes, or the graph's logits differ.
    """
    require_onnx()
    import onnx

    kind = network.backbone.architecture().get("config", {}).get("model_type")
    if kind in _UNTRACEABLE:
        raise Tag2maskError(f"a network on {kind} cannot be written as ONNX with free sizes: {_REMEDY}")
    graph = _FullSize(network).cpu().eval()
    remove_partial_of(path)
    with atomic_path(path) as temporary:
        difference = _trace_and_check(graph, temporary)
        model = onnx.load(temporary)
        properties = {
            "classes": json.dumps(["background", *network.classes], ensure_ascii=False),
            "stride": str(graph.stride),
            "remainder": str(graph.remainder),
            "fill": json.dumps(list(network.backbone.mean)),
            "cell": str(network.stride),
            "upsampling": network.upsampling,
        }
        if network.intensity is not None:
            properties["intensity"] = json.dumps(list(network.intensity))
        onnx.helper.set_model_props(model, properties)
        onnx.checker.check_model(model)
        onnx.save(model, temporary)
        return OnnxExport(path, graph.stride, graph.remainder, difference)


class _FullSize(nn.Module):
    """Logits at the size of images whose sides are multiples of the stride, plus the remainder, and on the grid."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network
        self.upsampling, self.cell = network.upsampling, network.stride
        self.stride = 1 if self.upsampling == "stretched" else common_stride(network)
        self.remainder = padded_side(network, self.stride) % self.stride
        self.outputs = (OUTPUT,) if isinstance(network.head, ConcatHead) else (OUTPUT, CELLS)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The `outputs` of images (N, 3, H, W): logits (N, C + 1, H, W), and (N, C + 1, h, w)."""
        cells = self.network(images)
        if self.upsampling == "cells":
            logits = F.interpolate(cells, scale_factor=float(self.cell), mode="bilinear", align_corners=False)
        else:
            corners = self.upsampling == "corners"
            logits = F.interpolate(cells, size=images.shape[2:], mode="bilinear", align_corners=corners)
        return (logits, cells)[: len(self.outputs)]

    def images(self, count: int, rows: int, columns: int) -> Tensor:
        """Random images, (count, 3, H, W), larger than `_MIN_SIDE` by ``rows`` and ``columns`` strides."""
        least = -(-_MIN_SIDE // self.stride)
        sides = [(least + more) * self.stride + self.remainder for more in (rows, columns)]
        return torch.rand(count, 3, *sides, generator=torch.Generator().manual_seed(0))


def _trace_and_check(graph: _FullSize, path: Path) -> float:
    """Write the graph by strict tracing or, if that fails the check, by non-strict tracing; the difference from torch.

    Strict tracing keeps `int` of a size free; non-strict tracing fixes it silently, but supports more code.
    """
    try:
        _trace(graph, path, strict=True)
        return _difference(graph, path)
    except Tag2maskError as error:
        try:
            _trace(graph, path, strict=False)
            return _difference(graph, path)
        except Tag2maskError:
            raise error from None


def _trace(graph: _FullSize, path: Path, *, strict: bool) -> None:
    """Write the graph with free numbers of images, rows and columns."""
    least = _MIN_SIDE if graph.stride == 1 else 1
    count, rows, columns = (
        torch.export.Dim(name, min=low) for name, low in (("count", 1), ("rows", least), ("columns", least))
    )
    sides = [graph.stride * cells + graph.remainder for cells in (rows, columns)]
    shapes = ({0: count, 2: sides[0], 3: sides[1]},)
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(graph, (graph.images(2, 1, 2),), dynamic_shapes=shapes, strict=strict)
            torch.onnx.export(
                program,
                (),
                path,
                dynamo=True,
                opset_version=_OPSET,
                input_names=[INPUT],
                output_names=graph.outputs,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # tracing raises errors of many kinds
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise Tag2maskError(
            f"the network cannot be written as ONNX with free sizes: {_REMEDY} ({type(error).__name__}: {reason})"
        ) from error


def _difference(graph: _FullSize, path: Path) -> float:
    """The largest difference of the file from ``graph``; a `Tag2maskError` if it is too large or a size fails."""
    try:
        session = open_session(path)
    except NetworkFileError as error:
        raise Tag2maskError(f"onnxruntime cannot load the graph: {_REMEDY}") from error
    worst = 0.0
    for more in _CHECKED:
        images = graph.images(*more)
        with torch.no_grad():
            expected = [values.numpy() for values in graph(images)]
        try:
            found = session.run(graph.outputs, {INPUT: images.numpy()})
        except Exception as error:
            raise Tag2maskError(f"the graph fails on images of {tuple(images.shape)}: {_REMEDY}") from error
        for ours, torchs in zip(found, expected, strict=True):
            if ours.shape != torchs.shape:
                raise Tag2maskError(f"the graph returns logits of {ours.shape}, not {torchs.shape}: {_REMEDY}")
            worst = max(worst, float(np.abs(ours - torchs).max() / max(1.0, np.abs(torchs).max())))
    if not worst <= TOLERANCE:
        raise Tag2maskError(
            f"the graph's logits differ by {worst:.1e} from torch's, at most {TOLERANCE} is allowed: {_REMEDY}"
        )
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
