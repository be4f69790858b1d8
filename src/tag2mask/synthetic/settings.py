"""The settings of generated scenes."""

from dataclasses import dataclass
from typing import ClassVar

from tag2mask.core.fields import Checked, setting
from tag2mask.synthetic.species import SPECIES

OBJECTS = (1, 3)
"""The fewest and the most creatures per scene."""

SPECIES_PER_SCENE = 2
"""The most species per scene; further creatures are of the same species."""

BODY_LENGTH = (0.55, 0.8)
"""The smallest and the largest length of a body (without neck, head and tail), as a share of the image's side, for a
creature that is alone in the scene; with others it shrinks."""

KINSHIP = 0.7
"""How much the looks (colour and pattern) of the parts of one body have in common, from 0 (unrelated) to 1 (one base
colour, the creature's coat, under different patterns). The face shares nothing with the body."""

CLUTTER = (2, 5)
"""The fewest and the most unlabelled things per scene (stones, flowers, balls, sticks)."""

NOISE = 0.02
"""Standard deviation of the sensor's noise, as a share of full scale."""


@dataclass
class SceneSettings(Checked):
    """Generated images of made-up creatures, with exact masks.

    Every creature has a small face that tells its class apart, and a much larger body of three looks that says nothing
    about it. A classifier therefore learns the face, and its CAM misses the body: the failure that POT corrects.

    Attributes:
        classes: how many species.
        size: side of the square images in pixels.
        train: how many scenes the split ``train`` has.
        val: how many scenes the split ``val`` has.
        seed: scenes of another seed are other scenes of the same world.
        background_bias: the probability that a scene has the background that is typical of its first species; of
            all six species, two share each of these.
    """

    classes: int = setting(5, low=2, high=len(SPECIES))
    size: int = setting(160, low=64)
    train: int = setting(600, low=0)
    val: int = setting(100, low=0)
    seed: int = setting(0, low=0)
    background_bias: float = setting(0.5, low=0, high=1)

    _section: ClassVar[str] = "scenes"
