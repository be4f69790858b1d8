"""The text-image models that make base CAMs, by the `model_type` of their configuration."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.cams.clip.clip_es import class_scores, clip_cams
from tag2mask.cams.clip.model import Clip
from tag2mask.cams.clip.prompts import Prompts
from tag2mask.cams.clip.settings import SeedSettings
from tag2mask.cams.clipseg import ClipSeg
from tag2mask.cams.phrases import phrase_maps
from tag2mask.cams.sam3 import SAM3_CLASSES, SAM3_PRECISION, Sam3
from tag2mask.cams.text_models import Precision, load_text_model, model_precision
from tag2mask.cams.tips import Tips
from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.fields import plain
from tag2mask.core.provenance import UNKNOWN
from tag2mask.networks.backbones.hub import (
    TOKENIZER_FILES,
    local_folder,
    read_input_side,
    read_model_config,
    read_normalisation,
)
from tag2mask.networks.backbones.weights import Notify
from tag2mask.networks.pretrained import find_type, model_digest

ImageCams = list[tuple[tuple[int, ...], Tensor]]
"""For each image its classes, from 0, ascending, and their CAMs, (J, h, w) float32 in [0, 1]."""

MapMaker = Callable[[Sequence[Tensor], Tensor], ImageCams]
"""Makes maps of prepared images and their classes, (B, C) bool."""

ScoreMaker = Callable[[Sequence[Tensor]], Tensor]
"""Scores all classes in prepared images: (B, C) float32 in [0, 1], on the CPU."""


class TextImageModel(Protocol):
    """Interface of the models."""

    def precision(self, name: Precision) -> object:
        """Run the image side in fp32, bf16 or fp16."""

    def grid(self, size: tuple[int, int], long_side: int | None = None) -> tuple[int, int]:
        """(h, w), the patches of an image of (H, W) pixels."""

    def prepare(self, image: npt.NDArray[np.uint8], long_side: int | None = None) -> Tensor:
        """An RGB image, uint8 (H, W, 3), as the model's input."""


_CLASSES = {
    "clip": ("CLIPConfig", "CLIPModel"),
    "clipseg": ("CLIPSegConfig", "CLIPSegForImageSegmentation"),
    **SAM3_CLASSES,
    "tipsv2": ("Tipsv2Config", "Tipsv2Model"),
}
"""The classes of `transformers` for the configuration and for the model, by the `model_type`."""

READ_BY_MODEL = {
    "clip": ("template", "prompts", "background", "affinity", "box_threshold", "long_side", "precision"),
    "clipseg": ("prompts", "precision"),
    "sam3": ("prompts", "precision_of_sam3"),
    "sam3_video": ("prompts", "precision_of_sam3"),
    "tipsv2": ("template", "prompts", "background", "long_side", "precision"),
}
"""The settings of `seeds`, and the parts of its prompts, that the base CAMs of each `model_type` depend on."""


@dataclass(frozen=True)
class SeedModel:
    """A model that makes base CAMs.

    Attributes:
        model: prepares images, and computes.
        cams: base CAMs of tags, which are in the image: the maximum of each is 1.
        scores: of all classes, the higher the likelier that the image shows the class.
        probabilities: maps of classes that may be absent: the probability of each cell; None: the model has none.
        reads_background: whether background words compete with the classes.
    """

    model: TextImageModel
    cams: MapMaker
    scores: ScoreMaker
    probabilities: MapMaker | None = None
    reads_background: bool = False


def seed_fingerprint(settings: SeedSettings, prompts: Prompts, device: torch.device) -> dict[str, Any]:
    """What the base CAMs depend on, besides classes; no model is loaded or fetched.

    Of a model that is not on this machine, these are the settings that any model reads.
    """
    folder, precision = local_folder(settings.model, TOKENIZER_FILES), model_precision(settings.precision, device)
    given = {"precision": precision, "precision_of_sam3": SAM3_PRECISION[precision]}
    values = {**plain(settings), **plain(prompts), **given}
    if folder is None:
        files, read = UNKNOWN, tuple(sorted({name for names in READ_BY_MODEL.values() for name in names}))
    else:
        files = model_digest(folder)
        read = READ_BY_MODEL.get(read_model_config(folder, "seeds.model")["model_type"], ())
    return {"model": settings.model, "model_files": files, **{name: values[name] for name in read}}


def load_seed_model(
    settings: SeedSettings,
    prompts: Prompts,
    device: torch.device,
    *,
    scores: bool = False,
    notify: Notify | None = None,
) -> SeedModel:
    """The model of ``settings``, which has read the prompts.

    Args:
        settings: the model, and how it makes CAMs.
        prompts: of the classes.
        device: that computes.
        scores: whether its `scores` are read, for which a CLIP needs background words.
        notify: called before a download; None logs a warning.

    Raises:
        UsageError: it is not one of the known models, files are missing, or prompts are missing or too long.
        Tag2maskError: it could not be fetched, or its weights do not fit.
    """
    kind = find_type(settings.model, _CLASSES, "seeds.model", notify=notify)
    _check_prompts(kind, settings, prompts, scores=scores)
    model, tokenizer, folder = load_text_model(settings.model, _CLASSES, notify=notify)
    kind = model.config.model_type  # in memory, a SAM 3 of a video model is a `sam3`
    if kind == "clip":
        found = _clip(Clip(model, tokenizer).to(device), settings, prompts)
    else:
        normalisation = read_normalisation(folder, kind, "seeds.model")
        if kind == "tipsv2":
            found = _tips(Tips(model, tokenizer, normalisation).to(device), prompts)
        elif kind == "sam3":
            found = _by_phrases(Sam3(model, tokenizer, normalisation).to(device), prompts)
        else:
            side = read_input_side(folder, int(model.config.vision_config.patch_size), "seeds.model")
            found = _by_phrases(ClipSeg(model, tokenizer, normalisation, side).to(device), prompts)
    found.model.precision(model_precision(settings.precision, device))
    return found


def _check_prompts(kind: str, settings: SeedSettings, prompts: Prompts, *, scores: bool) -> None:
    """Check that there are words for the type of model, before its weights are fetched."""
    none = "and there are none; list some"
    if kind in ("clipseg", *SAM3_CLASSES):
        prompts.phrases()
    elif prompts.background:
        return
    elif kind == "tipsv2":
        raise UsageError(f"seeds.prompts: TIPSv2 compares with background words, {none}")
    elif scores:
        raise UsageError(f"seeds.prompts: scores are against background words, {none}")
    elif settings.affinity == "cda" and len(prompts.prompts) == 1:
        raise UsageError(
            "seeds.affinity: cda compares patches by all classes and background words, and there is a single class; "
            "list background words in seeds.prompts, or take caa"
        )


def _clip(clip: Clip, settings: SeedSettings, prompts: Prompts) -> SeedModel:
    texts, background = text_ensembles(clip, prompts)

    def cams(images: Sequence[Tensor], tags: Tensor) -> ImageCams:
        found = clip_cams(
            clip, images, tags, texts, background, box_threshold=settings.box_threshold, affinity=settings.affinity
        )
        return [(own.labels, own.cams) for own in found]

    def scores(images: Sequence[Tensor]) -> Tensor:
        return torch.stack(class_scores(clip, images, texts, background)).mean(0)

    return SeedModel(clip, cams, scores, reads_background=True)


def text_ensembles(model: Any, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """The unit-length features of the classes, (C, E), and of the background words, (G, E), from a CLIP or a TIPSv2.

    Those of several sentences are averaged and normalised again. Source: CLIP's ensembles of prompts.
    """
    groups = prompts.sentences()
    features = model.text_features([sentence for own in groups for sentence in own])
    means = torch.stack([own.mean(0) for own in features.split([len(own) for own in groups])])
    both = F.normalize(means, dim=1)
    return both[: len(prompts.prompts)], both[len(prompts.prompts) :]


def _by_phrases(model: Any, prompts: Prompts) -> SeedModel:
    """A CLIPSeg or a SAM 3."""
    classes, phrases = prompts.phrases()
    texts = model.text_features(phrases)

    def probabilities(images: Sequence[Tensor], asked: Tensor) -> ImageCams:
        return phrase_maps(lambda pairs: model.probabilities(images, texts, pairs), asked, classes)

    return _of_maps(model, probabilities, len(prompts.prompts))


def _tips(tips: Tips, prompts: Prompts) -> SeedModel:
    texts, background = text_ensembles(tips, prompts)

    def probabilities(images: Sequence[Tensor], asked: Tensor) -> ImageCams:
        labels = [tuple(torch.nonzero(own)[:, 0].tolist()) for own in asked]
        return [
            (own, tips.probabilities(image, texts[list(own)], background))
            for image, own in zip(images, labels, strict=True)
        ]

    return _of_maps(tips, probabilities, len(prompts.prompts), reads_background=True)


def _of_maps(
    model: TextImageModel, probabilities: MapMaker, classes: int, *, reads_background: bool = False
) -> SeedModel:
    """A model whose maps are probabilities: base CAMs are these divided by their maximum, and scores are the maxima.

    A `Tag2maskError` for maps with NaN, which no threshold finds.

    Source: ours.
    """

    def checked(images: Sequence[Tensor], asked: Tensor) -> ImageCams:
        found = probabilities(images, asked)
        if not all(maps.isfinite().all() for _, maps in found):
            raise Tag2maskError("seeds.precision: the model's maps hold NaN; use --seeds.precision fp32")
        return found

    def cams(images: Sequence[Tensor], tags: Tensor) -> ImageCams:
        least = torch.finfo(torch.float32).tiny
        found = checked(images, tags)
        return [(labels, maps / maps.amax((1, 2), keepdim=True).clamp_min(least)) for labels, maps in found]

    def scores(images: Sequence[Tensor]) -> Tensor:
        asked = torch.ones(len(images), classes, dtype=torch.bool)
        return torch.stack([maps.amax((1, 2)) for _, maps in checked(images, asked)])

    return SeedModel(model, cams, scores, checked, reads_background)
