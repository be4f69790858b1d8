"""Which settings a stage's files depend on, besides the photographs: what its fingerprint is made of."""

from typing import Any

from tag2mask.data.photos import PhotoSet
from tag2mask.pipeline.config import Config, absolute, plain

_WITHOUT_EFFECT = ("checkpoint_every", "log_every")
"""Settings of training that its result does not depend on."""


def stage_settings(name: str, config: Config, photos: PhotoSet) -> dict[str, Any]:
    """The settings behind a stage's files, as nested plain values.

    Args:
        name: of the stage.
        config: every setting.
        photos: the photographs, for their class list.
    """
    config = absolute(config)  # as config.yaml has it: a path means the same from any folder
    pot = plain(config.pot)
    if name == "train":
        train = {key: value for key, value in plain(config.train).items() if key not in _WITHOUT_EFFECT}
        return {
            "classes": list(photos.classes),
            "seed": config.seed,
            "limit": config.limit,
            "data": {"split": config.data.split},
            "network": plain(config.network),
            "pot": pot if config.train.consistency_weight else {},
            "train": train,
        }
    if name == "cams":
        cams = {key: value for key, value in plain(config.cams).items() if key != "batch_size"}
        return {"cams": cams, "pot": pot}
    return {name: plain(getattr(config, name))}
