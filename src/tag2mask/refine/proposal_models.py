"""The models that make proposals: the SAM family for prompts from CAMs, SAM 3 for the phrases of an image's tags."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.cams.clip.prompts import Prompts, read_prompts
from tag2mask.cams.clip.settings import SeedSettings
from tag2mask.cams.sam3 import SAM3_CLASSES, SAM3_PRECISION, Sam3, found_masks
from tag2mask.cams.text_models import load_text_model, model_precision
from tag2mask.core.fields import plain
from tag2mask.core.provenance import UNKNOWN
from tag2mask.networks.backbones.hub import TOKENIZER_FILES, local_folder, read_model_config, read_normalisation
from tag2mask.networks.backbones.weights import Notify
from tag2mask.networks.pretrained import find_type, model_digest
from tag2mask.networks.promptable import OBJECT, PROMPTABLE_CLASSES, Promptable, full_size, load_promptable
from tag2mask.refine.proposals import Propose, region_prompts

_SETTING = "refine.proposals"


def proposal_fingerprint(
    name: str, seeds: SeedSettings, classes: Sequence[str], device: torch.device
) -> tuple[str, dict[str, Any]]:
    """What proposals depend on, besides CAMs and CRF; no model is loaded or fetched.

    Returns:
        a digest of the model's files, and the settings of `seeds` that the model reads: those of SAM 3 also for a model
        that is not on this machine, of which only the record knows what it reads.
    """
    folder = local_folder(name)
    if folder is not None and read_model_config(folder, _SETTING)["model_type"] not in SAM3_CLASSES:
        return model_digest(folder), {}
    folder = local_folder(name, TOKENIZER_FILES)
    words = plain(read_prompts(seeds.prompts, classes))["prompts"]
    read = {"prompts": words, "precision": SAM3_PRECISION[model_precision(seeds.precision, device)]}
    return UNKNOWN if folder is None else model_digest(folder), read


def load_proposals(
    name: str, seeds: SeedSettings, classes: Sequence[str], device: torch.device, *, notify: Notify | None = None
) -> Propose:
    """The proposals of a model of the SAM family, or of SAM 3.

    Args:
        name: a folder of `transformers`, or ``owner/model`` on the hub.
        seeds: its `prompts` and its `precision` are those of SAM 3.
        classes: names of the classes 1..C.
        device: that computes.
        notify: called before a download; None logs a warning.

    Raises:
        UsageError: it is of another type, files are missing, or phrases are missing or too long.
        Tag2maskError: it could not be fetched, or its weights do not fit.
    """
    if find_type(name, {**PROMPTABLE_CLASSES, **SAM3_CLASSES}, _SETTING, notify=notify) in PROMPTABLE_CLASSES:
        return prompted(load_promptable(name, _SETTING, notify=notify).to(device))
    words = read_prompts(seeds.prompts, classes)
    model, tokenizer, folder = load_text_model(name, SAM3_CLASSES, _SETTING, notify=notify)
    sam3 = Sam3(model, tokenizer, read_normalisation(folder, model.config.model_type, _SETTING)).to(device)
    return by_phrases(sam3.precision(model_precision(seeds.precision, device)), words)


def prompted(model: Promptable) -> Propose:
    """The mask with the highest predicted IoU for each of the `region_prompts`, a box and a point in it."""

    def propose(image: Tensor, ids: Tensor, cams: Tensor, posterior: Tensor) -> Tensor:
        boxes, points = region_prompts(cams, posterior)
        if not len(points):
            return torch.zeros_like(posterior[:0], dtype=torch.bool)
        encoded = model.encode(image.cpu().numpy())
        logits, scores = model.masks(encoded, points, np.full(points.shape[:2], OBJECT), boxes)
        best = logits[torch.arange(len(logits)), scores.argmax(1)]
        return full_size(best[:, None], encoded)[:, 0].to(posterior.device)

    return propose


def by_phrases(model: Sam3, words: Prompts) -> Propose:
    """The masks that SAM 3 finds for the phrases of the image's tags, without their names."""
    classes, phrases = words.phrases()
    texts = model.text_features(phrases)

    def propose(image: Tensor, ids: Tensor, cams: Tensor, posterior: Tensor) -> Tensor:
        asked = torch.zeros(len(words.prompts), dtype=torch.bool)
        asked[ids[ids > 0].long().cpu() - 1] = True
        found = found_masks(model, model.prepare(image.cpu().numpy()), texts, classes, asked).masks
        if not len(found):
            return torch.zeros_like(posterior[:0], dtype=torch.bool)
        size = posterior.shape[1:]
        masks = [F.interpolate(each[None, None], size=size, mode="bilinear")[0, 0] > 0.5 for each in found]
        return torch.stack(masks).to(posterior.device)

    return propose
