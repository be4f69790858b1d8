"""The models that make proposals: the SAM family for prompts from CAMs, SAM 3 for the phrases of an image's tags."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.cams.clip.prompts import Prompts
from tag2mask.cams.sam3 import SAM3_CLASSES, Sam3, sam3_candidates
from tag2mask.cams.text_models import load_text_model, model_precision
from tag2mask.core.errors import UsageError
from tag2mask.core.provenance import UNKNOWN
from tag2mask.networks.backbones.hub import local_folder, read_model_config, read_normalisation, resolve_folder
from tag2mask.networks.backbones.weights import Notify
from tag2mask.networks.pretrained import model_digest
from tag2mask.networks.promptable import OBJECT, PROMPTABLE_CLASSES, Promptable, full_size, load_promptable
from tag2mask.refine.proposals import Propose, prompts

_SETTING = "refine.proposals"
_KINDS = (*PROMPTABLE_CLASSES, *SAM3_CLASSES)


def find_proposal_model(name: str, *, notify: Notify | None = None) -> str:
    """Fetch a model unless it is on this machine; its `model_type`.

    Raises:
        UsageError: it is of another type, or files are missing.
        Tag2maskError: it could not be fetched.
    """
    folder = resolve_folder(name, weights=True, setting=_SETTING, notify=notify)
    kind: str = read_model_config(folder, _SETTING)["model_type"]
    if kind not in _KINDS:
        allowed = " or ".join(f"'{each}'" for each in _KINDS)
        raise UsageError(f"{_SETTING}: {name} is a model of type '{kind}', it should be {allowed}")
    return kind


def proposal_fingerprint(name: str, words: Prompts) -> dict[str, Any]:
    """What proposals depend on, besides CAMs and CRF; no model is loaded or fetched.

    Of a model that is not on this machine, only the name is known.
    """
    folder = local_folder(name)
    if folder is None:
        return {"proposals": name, "proposals_files": UNKNOWN, "proposals_words": UNKNOWN}
    by_words = read_model_config(folder, _SETTING)["model_type"] in SAM3_CLASSES
    phrases = {"proposals_words": list(words.prompts)} if by_words else {}
    return {"proposals": name, "proposals_files": model_digest(folder), **phrases}


def load_proposals(name: str, words: Prompts, device: torch.device, *, notify: Notify | None = None) -> Propose:
    """The proposals of a model of the SAM family, or of SAM 3.

    Args:
        name: a folder of `transformers`, or ``owner/model`` on the hub.
        words: of the classes, for SAM 3.
        device: that computes.
        notify: called before a download; None logs a warning.

    Raises:
        UsageError: it is of another type, files are missing, or phrases are too long.
        Tag2maskError: it could not be fetched, or its weights do not fit.
    """
    if find_proposal_model(name, notify=notify) not in SAM3_CLASSES:
        return prompted(load_promptable(name, _SETTING, notify=notify).to(device))
    model, tokenizer, folder = load_text_model(name, SAM3_CLASSES, _SETTING, notify=notify)
    sam3 = Sam3(model, tokenizer, read_normalisation(folder, model.config.model_type, _SETTING)).to(device)
    return by_phrases(sam3.precision(model_precision("auto", device)), words)


def prompted(model: Promptable) -> Propose:
    """The mask with the highest predicted IoU for each of the `prompts`, a box and a point in it."""

    def propose(image: Tensor, ids: Tensor, cams: Tensor, posterior: Tensor) -> Tensor:
        boxes, points = prompts(cams, posterior)
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
        found = sam3_candidates(model, model.prepare(image.cpu().numpy()), texts, classes, asked).masks
        if not len(found):
            return torch.zeros_like(posterior[:0], dtype=torch.bool)
        masks = F.interpolate(found[:, None], size=posterior.shape[1:], mode="bilinear")[:, 0]
        return (masks > 0.5).to(posterior.device)

    return propose
