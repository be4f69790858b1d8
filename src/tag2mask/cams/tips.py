"""Base CAMs from TIPSv2 of `transformers`: the similarity of patches and texts, among classes and background words."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tag2mask.cams.inputs import patch_grid, tokens
from tag2mask.cams.text_models import DTYPES, Precision
from tag2mask.networks.backbones.base import Colour
from tag2mask.networks.pretrained import model_input


class Tips(nn.Module):
    """A frozen TIPSv2.

    Args:
        model: a `Tipsv2Model` of `load_pretrained`.
        tokenizer: of its texts.
        normalisation: mean and standard deviation of its input, RGB in [0, 1]; 0 and 1 for the published models.
    """

    def __init__(self, model: Any, tokenizer: Any, normalisation: tuple[Colour, Colour]) -> None:
        """Let the model compute attention without storing it."""
        super().__init__()
        self.model = model
        self.model.set_attn_implementation("sdpa")
        self.tokenizer, self.normalisation = tokenizer, normalisation
        self.patch = int(model.config.vision_config.patch_size)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self.model.temperature.device
        return device

    def precision(self, name: Precision) -> "Tips":
        """Run the image side in fp32, bf16 or fp16."""
        self.model.vision_model.to(DTYPES[name])
        return self

    def grid(self, size: tuple[int, int], long_side: int | None = None) -> tuple[int, int]:
        """(h, w), the patches of an image of (H, W) pixels."""
        return patch_grid(size, self.patch, long_side)

    def prepare(self, image: npt.NDArray[np.uint8], long_side: int | None = None) -> Tensor:
        """An RGB image, uint8 (H, W, 3), as the model's input, float32 (3, h · patch, w · patch), bicubic, normalised.

        Source: TIPSv2's zero-shot segmentation; the sides are those of CLIP's input, which is ours.
        """
        rows, columns = self.grid((image.shape[0], image.shape[1]), long_side)
        size = (rows * self.patch, columns * self.patch)
        return model_input(image, size, self.normalisation, Image.Resampling.BICUBIC)

    @torch.no_grad()
    def text_features(self, sentences: Sequence[str]) -> Tensor:
        """(len(sentences), E) float32, unit length; a `UsageError` for sentences that are too long."""
        limit = int(self.model.config.text_config.max_position_embeddings)
        batch = tokens(self.tokenizer, sentences, limit, "TIPSv2").to(self.device)
        text = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return F.normalize(self.model.get_text_features(**text).pooler_output.float(), dim=1)

    @torch.no_grad()
    def patch_features(self, image: Tensor) -> Tensor:
        """The patches of an image (3, h · patch, w · patch) in the space of texts, (h, w, E) float32, unit length.

        In the last block, each token attends to itself alone: its value stands for the attention's output.

        Source: TIPSv2's zero-shot segmentation, after MaskCLIP.
        """
        vision = self.model.vision_model
        *blocks, last = vision.encoder.layer
        states = vision.embeddings(image.to(self.device)[None])  # (1, 1 + registers + h·w, E)
        for block in blocks:
            states = block(states)
        values = last.attention.o_proj(last.attention.v_proj(last.norm1(states)))
        states = states + last.layer_scale1(values)
        states = states + last.layer_scale2(last.mlp(last.norm2(states)))
        patches = vision.layernorm(states)[0, 1 + self.model.config.vision_config.num_register_tokens :]
        rows, columns = (side // self.patch for side in image.shape[1:])
        return F.normalize(patches.float(), dim=1).view(rows, columns, -1)

    @torch.no_grad()
    def probabilities(self, image: Tensor, text_features: Tensor, background_text_features: Tensor) -> Tensor:
        """The probability of each class among classes and background words at each patch.

        Args:
            image: (3, h · patch, w · patch), of `prepare`.
            text_features: (J, E), of the classes.
            background_text_features: (G, E), of the background words.

        Returns:
            (J, h, w) float32, on the CPU.

        Source: TIPSv2 for cosines and temperature; the background words are CLIP-ES's.
        """
        competing = torch.cat([text_features, background_text_features])
        logits: Tensor = self.patch_features(image) @ competing.T / self.model.temperature  # (h, w, J + G)
        return logits.softmax(2)[:, :, : len(text_features)].permute(2, 0, 1).contiguous().cpu()
