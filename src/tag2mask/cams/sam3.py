"""Base CAMs from SAM 3 of `transformers`, and its masks: the image encoder once per image, the decoder per phrase."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from tag2mask.cams.inputs import tokens
from tag2mask.cams.phrases import phrase_pairs
from tag2mask.cams.text_models import DTYPES, Precision
from tag2mask.networks.backbones.base import Colour
from tag2mask.networks.backbones.hub import quiet
from tag2mask.networks.pretrained import model_input

SAM3_CLASSES = {"sam3": ("Sam3Config", "Sam3Model"), "sam3_video": ("Sam3Config", "Sam3Model")}
"""The classes of `transformers` for the configuration and for the model, by the `model_type`.

The weights of `facebook/sam3` are those of `sam3_video`, a `sam3` and a tracker, which is not loaded.
"""

SAM3_PRECISION: dict[Precision, Precision] = {"fp32": "fp32", "bf16": "bf16", "fp16": "bf16"}
"""The precision that the model runs in, by the one asked for: it was not trained in fp16."""

_MOST_PHRASES = 4
"""Phrases that are decoded together: each takes about 0.5 GB at 1008 pixels."""

SCORE_FLOOR = 0.3
"""Masks with a lower score are dropped. Source: `post_process_instance_segmentation` of `transformers`."""


@dataclass(frozen=True)
class Sam3Texts:
    """The texts of T phrases, padded to L tokens."""

    features: Tensor  # (T, L, D)
    mask: Tensor  # (T, L) bool, False = padding


@dataclass(frozen=True)
class Sam3Output:
    """Output for P pairs of an image and a phrase, on the model's device."""

    semantic: Tensor  # (P, h, w) float32 in [0, 1]: the phrase fits the place
    masks: Tensor  # (P, Q, h, w) float32 in [0, 1], of the queries
    scores: Tensor  # (P, Q) float32 in [0, 1]: the query is a thing of the phrase, and the image has such a thing
    presence: Tensor  # (P,) float32 in [0, 1]: the image has a thing of the phrase


@dataclass(frozen=True)
class FoundMasks:
    """Masks of an image, the highest score first; masks of one thing from several phrases overlap. On the CPU."""

    masks: Tensor  # (P, h, w) float32 in [0, 1]
    scores: Tensor  # (P,) float32
    labels: Tensor  # (P,) int64, the class whose phrase found it, from 0


class Sam3(nn.Module):
    """A frozen SAM 3.

    Args:
        model: a `Sam3Model` of `load_pretrained`.
        tokenizer: of its texts.
        normalisation: mean and standard deviation of its input, RGB in [0, 1].
    """

    def __init__(self, model: Any, tokenizer: Any, normalisation: tuple[Colour, Colour]) -> None:
        """Let the model compute attention without storing it."""
        super().__init__()
        self.model = model
        with quiet():
            self.model.set_attn_implementation("sdpa")
        self.tokenizer, self.normalisation = tokenizer, normalisation
        vision = model.config.vision_config.backbone_config
        self.side, self.patch = int(vision.image_size), int(vision.patch_size)
        self.dtype: torch.dtype | None = None

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self.model.text_projection.weight.device
        return device

    def precision(self, name: Precision) -> "Sam3":
        """Run the model in fp32, or in bf16 where that is safe; `SAM3_PRECISION`."""
        found = SAM3_PRECISION[name]
        self.dtype = None if found == "fp32" else DTYPES[found]
        return self

    def grid(self, size: tuple[int, int], long_side: int | None = None) -> tuple[int, int]:
        """(h, w), the patches of an image: the same for all sizes."""
        return self.side // self.patch, self.side // self.patch

    def prepare(self, image: npt.NDArray[np.uint8], long_side: int | None = None) -> Tensor:
        """An RGB image, uint8 (H, W, 3), as the model's input, float32 (3, side, side), stretched as in training."""
        return model_input(image, (self.side, self.side), self.normalisation, Image.Resampling.BILINEAR)

    @torch.no_grad()
    def text_features(self, phrases: Sequence[str]) -> Sam3Texts:
        """The texts of phrases; a `UsageError` for phrases that are too long."""
        limit = int(self.model.config.text_config.max_position_embeddings)
        batch = tokens(self.tokenizer, phrases, limit, "SAM 3").to(self.device)
        return Sam3Texts(self.model.get_text_features(**batch).pooler_output, batch["attention_mask"].bool())

    @torch.no_grad()
    def outputs(
        self, images: Sequence[Tensor], texts: Sam3Texts, pairs: Sequence[tuple[int, int]]
    ) -> Iterator[Sam3Output]:
        """Output for P pairs of an image and a phrase, both as indices, a few pairs at a time.

        Source: the post-processing of `transformers` for sigmoids, and for scores times presence.
        """
        if not pairs:
            return
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        # entered anew for each call, as a generator would leave it on for its consumer
        autocast = partial(torch.autocast, self.device.type, self.dtype, enabled=self.dtype is not None)
        with autocast():
            vision = self.model.get_vision_features(torch.stack(list(images)).to(self.device))
        for start in range(0, len(pairs), _MOST_PHRASES):
            own, phrases = (list(values) for values in zip(*pairs[start : start + _MOST_PHRASES], strict=True))
            levels = tuple(each[own] for each in vision.fpn_hidden_states)
            # the same for all images
            positions = tuple(each[:1].expand(len(own), -1, -1, -1) for each in vision.fpn_position_encoding)
            with autocast():
                found = self.model(
                    vision_embeds=type(vision)(fpn_hidden_states=levels, fpn_position_encoding=positions),
                    text_embeds=BaseModelOutputWithPooling(pooler_output=texts.features[phrases]),
                    attention_mask=texts.mask[phrases],
                )
            presence = found.presence_logits.float().sigmoid()  # (P, 1)
            yield Sam3Output(
                found.semantic_seg[:, 0].float().sigmoid(),
                found.pred_masks.float().sigmoid_(),
                found.pred_logits.float().sigmoid() * presence,
                presence[:, 0],
            )

    def probabilities(self, images: Sequence[Tensor], texts: Sam3Texts, pairs: Sequence[tuple[int, int]]) -> Tensor:
        """The probability that a cell of an image belongs to a phrase.

        The semantic map times presence or, where that is higher, a query's mask times its score.

        Args:
            images: each (3, side, side), of `prepare`.
            texts: of `text_features`.
            pairs: P pairs of an image and a phrase, both as indices.

        Returns:
            (P, h, w) float32 in [0, 1], on the CPU, h = w = 4 side / patch.

        Source: SAM 3 for the maps and the scores; joining them is ours.
        """
        found = []
        for each in self.outputs(images, texts, pairs):
            things = each.masks.mul_(each.scores[:, :, None, None]).amax(1)
            found.append(torch.maximum(each.semantic * each.presence[:, None, None], things).cpu())
        return torch.cat(found) if found else torch.zeros(0, *(4 * cells for cells in self.grid((1, 1))))


def found_masks(model: Sam3, image: Tensor, texts: Sam3Texts, classes: Sequence[int], asked: Tensor) -> FoundMasks:
    """The masks that SAM 3 finds in an image for phrases of classes, with a score of at least `SCORE_FLOOR`.

    Args:
        image: (3, side, side), of `Sam3.prepare`.
        texts: of the phrases of all classes.
        classes: T, the class of each phrase, from 0.
        asked: (C,) bool.

    Source: SAM 3.
    """
    pairs = phrase_pairs(asked[None], classes)
    side = 4 * (model.side // model.patch)
    masks, scores, labels = [torch.zeros(0, side, side)], [torch.zeros(0)], [torch.zeros(0, dtype=torch.int64)]
    place = 0
    for each in model.outputs([image], texts, pairs):
        kept = each.scores >= SCORE_FLOOR
        own = torch.tensor([classes[phrase] for _, phrase in pairs[place : place + len(kept)]])
        masks.append(each.masks[kept].cpu())
        scores.append(each.scores[kept].cpu())
        labels.append(own[kept.cpu().nonzero()[:, 0]])
        place += len(kept)
    order = torch.cat(scores).argsort(descending=True, stable=True)
    return FoundMasks(torch.cat(masks)[order], torch.cat(scores)[order], torch.cat(labels)[order])
