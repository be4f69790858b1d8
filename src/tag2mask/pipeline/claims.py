"""Which settings a stage's files depend on, besides the photographs: what its fingerprint is made of."""

from typing import Any

from tag2mask.clip.model import model_precision
from tag2mask.clip.words import read_words
from tag2mask.data.painting import are_given
from tag2mask.data.photos import PhotoSet
from tag2mask.data.settings import DataSettings
from tag2mask.device import resolve_device
from tag2mask.pipeline.config import Config, absolute, plain
from tag2mask.training.settings import LoopSettings

_WITHOUT_EFFECT = ("checkpoint_every", "log_every", "tensorboard", "validate_every")
"""Settings of training that its result does not depend on."""


_READ_PIXELS = ("seeds", "train", "cams", "edges", "refine", "segment")
"""Stages whose files depend on how images are read; later ones read images as the segmentation network was trained."""


def stage_settings(name: str, config: Config, photos: PhotoSet) -> dict[str, Any]:
    """The settings behind a stage's files, as nested plain values.

    Args:
        name: of the stage.
        config: every setting.
        photos: the photographs, for their class list.
    """
    settings, intensity = _own_settings(name, config, photos), config.data.intensity
    if intensity is None or name not in _READ_PIXELS:  # as it was before there was such a setting
        return settings
    return settings | {"data": {**settings.get("data", {}), "intensity": [float(value) for value in intensity]}}


def _own_settings(name: str, config: Config, photos: PhotoSet) -> dict[str, Any]:
    """The same without how images are read."""
    config = absolute(config)  # as config.yaml has it: a path means the same from any folder
    pot = plain(config.pot)
    external = {"external": plain(config.external)} if config.external.used else {}
    if name == "seeds":
        return {"classes": list(photos.classes), "seeds": _seed_settings(config, photos)}
    if name == "train":
        train = {key: value for key, value in _training(config.train).items() if key not in _WITHOUT_EFFECT}
        return {
            "classes": list(photos.classes),
            "seed": config.seed,
            "limit": config.limit,
            "data": {"split": config.data.split},
            "network": plain(config.network),
            "pot": pot if config.train.consistency_weight or config.external.consistency_weight else {},
            "train": train,
        } | external
    if name == "cams":
        cams = {key: value for key, value in plain(config.cams).items() if key != "batch_size"}
        return {"cams": cams, "pot": pot} | external
    if name == "edges":
        return _edge_settings(config, photos)
    if name == "refine":
        return _refine_settings(config)
    if name == "segment":
        return _segment_settings(config, photos)
    if name == "confidence":
        return {}  # it has none of its own
    if name == "predictions":
        return {"predict": {key: value for key, value in plain(config.predict).items() if key != "batch_size"}}
    return {name: plain(getattr(config, name))}


def _seed_settings(config: Config, photos: PhotoSet) -> dict[str, Any]:
    """Those of base CAMs: of imported ones where they come from, of CLIP's all that changes them."""
    if config.seeds.from_npy is not None:
        return {"from_npy": str(config.seeds.from_npy)}
    words = read_words(config.seeds.words, photos.classes)
    kept = {key: value for key, value in plain(config.seeds).items() if key not in ("batch_size", "from_npy", "words")}
    kept["precision"] = model_precision(config.seeds.precision, resolve_device(config.device))  # what files depend on
    return kept | {"template": words.template, "prompts": list(words.prompts), "background": list(words.background)}


def _training(settings: LoopSettings) -> dict[str, Any]:
    """Settings of training as plain values, without those that came later and have no effect at their default."""
    values: dict[str, Any] = plain(settings)
    augment = values["augment"]
    without_effect = {"colour": not augment["colour"], "padding": augment["padding"] == "around"}
    without_effect["scales"] = augment["resize"] not in ("relative", "choice")
    without_effect["long_side"] = augment["resize"] in ("relative", "choice")
    values["augment"] = {key: value for key, value in augment.items() if not without_effect.get(key)}
    if settings.keep_best:
        values["keep_best"] = f"of every {settings.validate_every} steps"
    neutral = {"accumulate": 1, "power_every": 1, "keep_best": False}
    return {key: value for key, value in values.items() if key not in neutral or value != neutral[key]}


def _edge_settings(config: Config, photos: PhotoSet) -> dict[str, Any]:
    """Those of the labels and of training, as far as they have an effect."""
    own = _training(config.edges)
    unread = {*_WITHOUT_EFFECT}
    if config.edges.steps is not None:
        unread.add("epochs")
    if config.edges.optimizer != "sgd":
        unread.add("momentum")
    if config.edges.backbone is None:
        unread.add("weights")
    own["labels"].pop("background_levels" if config.refine.has_background else "background_factors")
    return {
        "classes": list(photos.classes),
        "seed": config.seed,
        "limit": config.limit,
        "data": {"split": config.data.split},
        "edges": {key: value for key, value in own.items() if key not in unread},
        "refine": {"cams": config.refine.cams, "long_side": config.refine.long_side},
    }


def _refine_settings(config: Config) -> dict[str, Any]:
    """Those that the method reads."""
    refine, settings = plain(config.refine), config.refine
    walk = refine.pop("walk")
    unread = {"batch_size"}
    if not settings.keep_confidence:
        unread.add("keep_confidence")  # without effect on what was made before there was such a setting
    if not settings.uses_crf:
        unread |= {"crf", "crf_power", "confidence"}
    if settings.method == "argmax":
        unread.add("long_side")
    if settings.walks or settings.has_background:
        unread |= {"background_threshold", "background_power"}
    elif settings.background_power is not None:
        unread.add("background_threshold")
    if settings.has_background:
        walk.pop("background_level")
    read = {"refine": {key: value for key, value in refine.items() if key not in unread}}
    return read | ({"walk": walk} if settings.walks else {})


def _segment_settings(config: Config, photos: PhotoSet) -> dict[str, Any]:
    """Those of training on masks, or on the truth."""
    unread = {*_WITHOUT_EFFECT, "enabled"}
    if config.segment.label_weights == "none":
        unread.add("label_weights")  # as it was before there was such a setting
    if config.segment.steps is not None:
        unread.add("epochs")
    if config.segment.optimizer != "sgd":
        unread.add("momentum")
    own = {key: value for key, value in _training(config.segment).items() if key not in unread}
    if config.segment.network.norm_momentum is None:
        own["network"].pop("norm_momentum")
    masks: dict[str, Any] = {"masks": {}} if config.segment.labels == "masks" else {}
    return {
        "classes": list(photos.classes),
        "seed": config.seed,
        "limit": config.limit,
        "data": {"split": config.data.split, **({} if masks else _truth_settings(config, photos))},
        "segment": own,
    } | masks


def _truth_settings(config: Config, photos: PhotoSet) -> dict[str, Any]:
    """How ground truth that may be painted comes about, where not as it does by default.

    `data.masks` is not among them: a folder that is moved holds what it held. That its masks are other ones than those
    that were learnt from cannot be told from settings.
    """
    values = {} if config.data.mask_values is None else {"mask_values": config.data.mask_values}
    if photos.painting is None:
        return values
    if are_given(photos.painting.folder):
        return {"crowd": "as the masks that were given have it", **values}
    return {} if config.data.crowd == DataSettings.crowd else {"crowd": config.data.crowd}
