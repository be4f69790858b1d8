"""Base CAMs from CLIPSeg of `transformers`: a map for each phrase, from one pass of the image encoder per image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.cams.inputs import tokens
from tag2mask.cams.text_models import DTYPES, Precision
from tag2mask.networks.backbones.base import Colour
from tag2mask.networks.pretrained import model_input

_CELL = 4
"""Pixels of the input per cell of a base CAM."""

_MOST_PHRASES = 16
"""Phrases that are decoded together."""


class ClipSeg(nn.Module):
    """A frozen CLIPSeg.

    Args:
        model: a `CLIPSegForImageSegmentation` of `load_pretrained`.
        tokenizer: of its texts.
        normalisation: mean and standard deviation of its input, RGB in [0, 1].
        side: pixels of its square input, 352 for the published models.
    """

    def __init__(self, model: Any, tokenizer: Any, normalisation: tuple[Colour, Colour], side: int) -> None:
        """Keep the model and its input."""
        super().__init__()
        self.model = model
        self.tokenizer, self.normalisation, self.side = tokenizer, normalisation, side
        self.patch = int(model.config.vision_config.patch_size)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self.model.decoder.film_mul.weight.device
        return device

    def precision(self, name: Precision) -> "ClipSeg":
        """Run the image side and the decoder in fp32, bf16 or fp16."""
        for module in (self.model.clip.vision_model, self.model.decoder):
            module.to(DTYPES[name])
        return self

    def grid(self, size: tuple[int, int], long_side: int | None = None) -> tuple[int, int]:
        """(h, w), the patches of an image: the same for all sizes."""
        return self.side // self.patch, self.side // self.patch

    def prepare(self, image: npt.NDArray[np.uint8], long_side: int | None = None) -> Tensor:
        """An RGB image, uint8 (H, W, 3), as the model's input, float32 (3, side, side), stretched as in training."""
        return model_input(image, (self.side, self.side), self.normalisation, Image.Resampling.BILINEAR)

    @torch.no_grad()
    def text_features(self, phrases: Sequence[str]) -> Tensor:
        """(len(phrases), E) float32; a `UsageError` for phrases that are too long."""
        limit = int(self.model.config.text_config.max_position_embeddings)
        batch = tokens(self.tokenizer, phrases, limit, "CLIPSeg").to(self.device)
        features: Tensor = self.model.clip.get_text_features(**batch).pooler_output
        return features.float()

    @torch.no_grad()
    def probabilities(self, images: Sequence[Tensor], features: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
        """The probability that a cell of an image belongs to a phrase.

        Args:
            images: each (3, side, side), of `prepare`.
            features: (T, E), of `text_features`.
            pairs: P pairs of an image and a phrase, both as indices.

        Returns:
            (P, side / 4, side / 4) float32 in [0, 1], on the CPU.
        """
        cells = self.side // _CELL
        if not pairs:
            return torch.zeros(0, cells, cells)
        vision = self.model.clip.vision_model
        dtype = self.model.decoder.film_mul.weight.dtype
        batch = torch.stack(list(images)).to(self.device, dtype)
        hidden = vision(batch, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
        activations = [hidden[layer + 1] for layer in self.model.extract_layers]
        found = []
        for start in range(0, len(pairs), _MOST_PHRASES):
            own, phrases = (list(values) for values in zip(*pairs[start : start + _MOST_PHRASES], strict=True))
            texts = features[phrases].to(self.device, dtype)
            logits = self.model.decoder(tuple(each[own] for each in activations), texts).logits
            maps = logits.view(len(own), 1, self.side, self.side).float().sigmoid()
            found.append(F.avg_pool2d(maps, _CELL)[:, 0].cpu())
        return torch.cat(found)
