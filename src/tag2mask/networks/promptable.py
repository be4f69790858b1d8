"""The SAM family of `transformers`: masks of an image for points and boxes, from one pass of the image encoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.networks.backbones.base import Colour
from tag2mask.networks.backbones.hub import read_normalisation
from tag2mask.networks.backbones.weights import Notify
from tag2mask.networks.pretrained import load_pretrained, model_input

OBJECT = 1
"""The label of a point on the object; 0 is that of a point outside it. Source: `transformers`."""

PROMPTABLE_CLASSES = {
    "sam2": ("Sam2Config", "Sam2Model"),
    "sam2_video": ("Sam2Config", "Sam2Model"),
    "sam": ("SamConfig", "SamModel"),
    "sam_hq": ("SamHQConfig", "SamHQModel"),
    "edgetam": ("EdgeTamConfig", "EdgeTamModel"),
    "edgetam_video": ("EdgeTamConfig", "EdgeTamModel"),
}
"""The classes of `transformers` for the configuration and for the model, by the `model_type`.

The files of a video model hold the image model and more, which is not loaded.
"""

_PADDED = ("sam", "sam_hq")
"""Types whose input keeps the image's proportions and is padded; images are stretched to a square for the others."""

_MOST_PROMPTS = 16
"""Prompts that are decoded together: about 50 MB each at 1024 pixels."""


@dataclass(frozen=True)
class Encoded:
    """The features of an image."""

    size: tuple[int, int]  # (H, W), of the image
    scaled: tuple[int, int]  # (H', W'), of the image within the model's input
    side: int | None  # pixels of the padded input; None: not padded
    features: Mapping[str, Any]  # arguments of the model


class Candidates(NamedTuple):
    """M masks for each of P prompts."""

    logits: Tensor  # float32 (P, M, h, w), on the model's grid, padding included; above 0: in the mask
    scores: Tensor  # float32 (P, M), predicted IoU


class Promptable(nn.Module):
    """A frozen model of the SAM family.

    Args:
        model: a `Sam2Model`, `SamModel`, `SamHQModel` or `EdgeTamModel` of `load_pretrained`.
        normalisation: mean and standard deviation of its input, RGB in [0, 1].
        padded: whether its input keeps the image's proportions and is padded right and below.
    """

    def __init__(self, model: Any, normalisation: tuple[Colour, Colour], *, padded: bool) -> None:
        """Keep the model and its input."""
        super().__init__()
        self.model = model
        self.normalisation, self.padded = normalisation, padded
        self.side = int(model.prompt_encoder.input_image_size)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self.model.prompt_encoder.no_mask_embed.weight.device
        return device

    @torch.no_grad()
    def encode(self, image: npt.NDArray[np.uint8]) -> Encoded:
        """The features of an RGB image, uint8 (H, W, 3)."""
        height, width = image.shape[:2]
        scaled = (self.side, self.side)
        if self.padded:
            scale = self.side / max(height, width)
            scaled = max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)
        pixels = model_input(image, scaled, self.normalisation, Image.Resampling.BILINEAR)
        pixels = F.pad(pixels, (0, self.side - scaled[1], 0, self.side - scaled[0]))
        found = self.model.get_image_embeddings(pixels[None].to(self.device))
        features = {"image_embeddings": found}
        if isinstance(found, tuple):  # SAM-HQ
            features = {"image_embeddings": found[0], "intermediate_embeddings": found[1]}
        return Encoded((height, width), scaled, self.side if self.padded else None, features)

    @torch.no_grad()
    def masks(
        self,
        encoded: Encoded,
        points: npt.NDArray[np.floating] | None = None,
        labels: npt.NDArray[np.integer] | None = None,
        boxes: npt.NDArray[np.floating] | None = None,
    ) -> Candidates:
        """The masks for prompts, each with points, a box, or both.

        Args:
            encoded: of `encode`.
            points: (P, K, 2), x and y in pixels of the image.
            labels: (P, K), `OBJECT`, or 0 outside of it.
            boxes: (P, 4), x1, y1, x2, y2 in pixels of the image.

        Returns:
            the candidates, on the CPU.
        """
        given = {"input_points": points, "input_boxes": boxes}
        scale = np.array([encoded.scaled[1] / encoded.size[1], encoded.scaled[0] / encoded.size[0]])
        prompts = {
            key: torch.from_numpy((value.reshape(-1, 2) * scale).reshape(value.shape)).float()
            for key, value in given.items()
            if value is not None
        }
        if labels is not None:
            prompts["input_labels"] = torch.from_numpy(labels).long()
        grid = [4 * int(each) for each in self.model.prompt_encoder.image_embedding_size]
        count = int(self.model.mask_decoder.num_multimask_outputs)
        logits, scores = [torch.zeros(0, count, *grid)], [torch.zeros(0, count)]
        for start in range(0, len(next(iter(prompts.values()))), _MOST_PROMPTS):
            part = {key: value[None, start : start + _MOST_PROMPTS] for key, value in prompts.items()}
            found = self.model(**{key: value.to(self.device) for key, value in part.items()}, **encoded.features)
            logits.append(found.pred_masks[0].float().cpu())
            scores.append(found.iou_scores[0].float().cpu())
        return Candidates(torch.cat(logits), torch.cat(scores))


def full_size(logits: Tensor, encoded: Encoded) -> Tensor:
    """Masks at the size of the image: bool (P, M, H, W), of logits (P, M, h, w)."""
    masks = [logits.new_zeros(0, logits.shape[1], *encoded.size, dtype=torch.bool)]
    for own in torch.split(logits, 1):
        whole = own
        if encoded.side is not None:
            whole = F.interpolate(whole, size=(encoded.side, encoded.side), mode="bilinear")
            whole = whole[..., : encoded.scaled[0], : encoded.scaled[1]]
        masks.append(F.interpolate(whole, size=encoded.size, mode="bilinear") > 0)
    return torch.cat(masks)


def load_promptable(name: str, setting: str, *, notify: Notify | None = None) -> Promptable:
    """A model of the SAM family from a local folder or by name, on the CPU in fp32.

    Args:
        name: a folder of `transformers`, or ``owner/model`` on the hub.
        setting: the setting that names the model, for messages.
        notify: called before a download; None logs a warning.

    Raises:
        UsageError: it is of another type, or files are missing.
        Tag2maskError: it could not be fetched, or its weights do not fit.
    """
    # The 4096 cells of an image attend to each other: the matrix of eager attention takes 1 GB.
    model, folder = load_pretrained(name, PROMPTABLE_CLASSES, setting, attention="sdpa", notify=notify)
    kind = model.config.model_type
    return Promptable(model, read_normalisation(folder, kind, setting), padded=kind in _PADDED)
