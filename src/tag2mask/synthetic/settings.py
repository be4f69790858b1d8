"""The settings of generated scenes."""

from dataclasses import dataclass
from typing import ClassVar

from tag2mask.core.fields import Checked, setting
from tag2mask.synthetic.species import SPECIES

OBJECTS = (1, 3)
"""Least and greatest number of animals per scene."""

SPECIES_PER_SCENE = 2
"""Greatest number of species per scene; further animals have one of these."""

BODY_LENGTH = (0.55, 0.8)
"""Least and greatest body length (without neck, head and tail) of a single animal, as a share of the image side;
several animals are smaller."""

COAT_SHARE = 0.7
"""Share of the animal's coat colour in the colours of its body, from 0 (unrelated parts) to 1 (one colour under
different patterns). The face does not have it."""

CLUTTER = (2, 5)
"""Least and greatest number of untagged objects per scene (stones, flowers, balls, sticks)."""

NOISE = 0.02
"""Standard deviation of sensor noise, as a share of full scale."""


@dataclass
class SceneSettings(Checked):
    """Generated images of animals, with exact masks.

    The small face of an animal identifies its class; the much larger body has three textures that are independent of
    it. A classifier therefore learns the face, and its CAM misses the body: the failure that POT corrects.

    Attributes:
        classes: number of species.
        size: side of the square images in pixels.
        train: number of scenes in the split ``train``.
        val: number of scenes in the split ``val``.
        seed: another seed gives other scenes of the same species.
        background_bias: the probability that a scene has the typical background of its first species; two species
            share each of these.
    """

    classes: int = setting(5, low=2, high=len(SPECIES))
    size: int = setting(160, low=64)
    train: int = setting(600, low=0)
    val: int = setting(100, low=0)
    seed: int = setting(0, low=0)
    background_bias: float = setting(0.5, low=0, high=1)

    _section: ClassVar[str] = "scenes"
