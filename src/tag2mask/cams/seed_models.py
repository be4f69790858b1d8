"""The text-image models that make base CAMs, by the `model_type` of their configuration."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tag2mask.cams.clip.clip_es import clip_cams
from tag2mask.cams.clip.model import Clip, load_model, model_precision
from tag2mask.cams.clip.prompts import Prompts
from tag2mask.cams.clip.settings import SeedSettings
from tag2mask.cams.clipseg import ClipSeg, clipseg_cams
from tag2mask.networks.backbones.hub import read_input_side, read_normalisation
from tag2mask.networks.backbones.weights import Notify

ImageCams = list[tuple[tuple[int, ...], Tensor]]
"""For each image its classes, from 0, ascending, and their CAMs, (J, h, w) float32 in [0, 1]."""


@dataclass(frozen=True)
class SeedModel:
    """A model that makes base CAMs.

    Attributes:
        model: has `grid` and `prepare`.
        cams: makes the base CAMs of prepared images and their tags, (B, C) bool.
    """

    model: Clip | ClipSeg
    cams: Callable[[Sequence[Tensor], Tensor], ImageCams]


def load_seed_model(
    settings: SeedSettings, prompts: Prompts, device: torch.device, *, notify: Notify | None = None
) -> SeedModel:
    """The model of ``settings``, which has read the prompts.

    Raises:
        UsageError: it is not one of the known models, files are missing, or prompts are too long.
        Tag2maskError: it could not be fetched, or its weights do not fit.
    """
    kind, model, tokenizer, folder = load_model(settings.model, ("clip", "clipseg"), notify=notify)
    if kind == "clip":
        found = _clip(Clip(model, tokenizer).to(device), settings, prompts)
    else:
        side = read_input_side(folder, int(model.config.vision_config.patch_size), "seeds.model")
        normalisation = read_normalisation(folder, kind, "seeds.model")
        found = _clipseg(ClipSeg(model, tokenizer, normalisation, side).to(device), prompts)
    found.model.precision(model_precision(settings.precision, device))
    return found


def _clip(clip: Clip, settings: SeedSettings, prompts: Prompts) -> SeedModel:
    features = clip.text_features(prompts.sentences())
    texts, background = features[: len(prompts.prompts)], features[len(prompts.prompts) :]

    def cams(images: Sequence[Tensor], tags: Tensor) -> ImageCams:
        found = clip_cams(
            clip, images, tags, texts, background, box_threshold=settings.box_threshold, boxes=settings.boxes
        )
        return [(own.labels, own.cams) for own in found]

    return SeedModel(clip, cams)


def _clipseg(clipseg: ClipSeg, prompts: Prompts) -> SeedModel:
    classes, phrases = prompts.phrases()
    features = clipseg.text_features(phrases)
    return SeedModel(clipseg, lambda images, tags: clipseg_cams(clipseg, images, tags, features, classes))
