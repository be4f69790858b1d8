"""The network in a file that `tag2mask export onnx` wrote, computed by onnxruntime on the CPU."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.machine_errors import is_machine_error
from tag2mask.networks.backbones.base import Backbone, Stage
from tag2mask.networks.checkpoint import NetworkFileError, parse_intensity
from tag2mask.networks.pot_network import check_classes
from tag2mask.networks.segmentation import SegmentationNetwork
from tag2mask.networks.settings import Upsampling

INPUT, OUTPUT, CELLS = "images", "logits", "cells"
"""The names in the graph: the images, the logits of every pixel, and the logits on the network's grid."""


class OnnxNetwork(nn.Module):
    """An exported `SegmentationNetwork`, as far as prediction needs one, in fp32. No code in the file is run.

    Args:
        path: is read with as many threads as torch has now.

    Attributes:
        classes, stride, upsampling, intensity: as of a `SegmentationNetwork`.
        backbone: its padding colour ``mean`` and, as a single stage, the stride that the graph needs.

    Raises:
        UsageError: onnxruntime is not installed.
        NetworkFileError: the file is damaged, of another program, or lacks the logits on the network's grid.
    """

    upsampling: Upsampling

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.session = open_session(path)
        known = self.session.get_modelmeta().custom_metadata_map
        if "classes" not in known:
            raise NetworkFileError(
                f"{path} is not a network of tag2mask: its metadata has no classes; `tag2mask export onnx` writes what "
                "is needed"
            )
        if CELLS not in [output.name for output in self.session.get_outputs()]:
            raise NetworkFileError(
                f"{path} has no output `{CELLS}`: an earlier tag2mask wrote it, or its head is `concat`, whose image "
                "pooling needs to know the padding; export the network again or, with this head, give the run or its "
                ".safetensors file"
            )
        try:
            background, *names = json.loads(known["classes"])
            check_classes(tuple(names))
            self.classes = tuple(names)
            self.stride, unit = int(known["cell"]), int(known["stride"])
            self.upsampling = known["upsampling"]
            red, green, blue = (float(value) for value in json.loads(known["fill"]))
            self.intensity = parse_intensity(json.loads(known.get("intensity", "null")))
            sound = background == "background" and all(isinstance(name, str) for name in names)
            sound &= self.upsampling in get_args(Upsampling) and min(self.stride, unit) > 0
            if not sound or not all(0 <= value <= 1 for value in (red, green, blue)):
                raise ValueError("values out of range")
        except (UsageError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise NetworkFileError(
                f"{path} is damaged: its metadata does not have the format ({error!r}); export the network again"
            ) from error
        self.backbone = Backbone()
        self.backbone.mean, self.backbone.stages = (red, green, blue), (Stage("images", 3, unit),)

    def forward(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        """Logits float32 (N, C + 1, h, w), background first, of images (N, 3, H, W), RGB in [0, 1], on the CPU.

        ``valid`` is not needed: padding has the mean colour, and the graph does not pool over the image.
        """
        try:
            (logits,) = self.session.run([CELLS], {INPUT: images.contiguous().numpy()})
        except Exception as error:  # onnxruntime raises errors of many kinds
            if is_machine_error(error):
                raise
            reason = " ".join(str(error).split())[:300]
            raise Tag2maskError(
                f"onnxruntime cannot compute the network of images {tuple(images.shape)} ({reason}); give the run or "
                "its .safetensors file instead"
            ) from error
        return torch.from_numpy(logits)


PredictionNetwork = SegmentationNetwork | OnnxNetwork


def open_session(path: Path) -> Any:
    """An onnxruntime session of a graph, on the CPU, with torch's number of threads.

    Raises:
        UsageError: onnxruntime is not installed.
        NetworkFileError: the file is not a readable ONNX graph.
    """
    if find_spec("onnxruntime") is None:
        raise UsageError(f"{path} needs onnxruntime; pip install 'tag2mask[onnx]', or give the .safetensors file")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # torch has threads of its own
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises errors of many kinds
        if is_machine_error(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise NetworkFileError(f"{path} could not be read as an ONNX graph ({reason})") from error
