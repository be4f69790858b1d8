"""The settings of generated scenes."""

from dataclasses import dataclass

from tag2mask.errors import UsageError
from tag2mask.scenes.species import SPECIES


@dataclass
class SceneSettings:
    """Generated photographs of made-up creatures, with exact masks.

    Every creature has a small face that tells its class apart, and a much larger body of several looks that does not.
    A classifier therefore learns the face, and its CAM misses the body: the failure that this project is about.

    Attributes:
        classes: how many species, 2 to 6.
        size: side of the square images in pixels, at least 64.
        train: how many scenes the split ``train`` has.
        val: how many scenes the split ``val`` has.
        seed: scenes of another seed are other scenes of the same world.
        objects: the fewest and the most creatures in a scene.
        species_a_scene: the most species in a scene; further creatures are of the same species.
        scale: the smallest and the largest length of a body (without neck, head and tail), as a share of ``size``,
            for a creature that is alone in the scene; with company it shrinks.
        head: size of the head; 1 makes the face about a sixth of the creature.
        looks: how many looks (colour and pattern) the parts of one body have, 1 to 3.
        kinship: how much the looks of one body have in common, from 0 (unrelated) to 1 (one base colour, the
            creature's coat, under different patterns). The face shares nothing with the body.
        look_bias: the probability that a look is one of the two that are typical of the species instead of any; at 0
            a body says nothing about its class.
        background_bias: the probability that a scene has the background that is typical of its first species; of
            all six species, two share each of these.
        clutter: the fewest and the most unlabelled things in a scene (stones, flowers, balls, sticks).
        noise: standard deviation of the sensor's noise, as a share of full scale.
    """

    classes: int = 5
    size: int = 160
    train: int = 600
    val: int = 100
    seed: int = 0
    objects: tuple[int, int] = (1, 3)
    species_a_scene: int = 2
    scale: tuple[float, float] = (0.55, 0.8)
    head: float = 1.0
    looks: int = 3
    kinship: float = 0.7
    look_bias: float = 0.0
    background_bias: float = 0.5
    clutter: tuple[int, int] = (2, 5)
    noise: float = 0.02

    def __post_init__(self) -> None:
        """Refuse what cannot be painted, all problems at once."""
        rules = [
            ("classes", 2 <= self.classes <= len(SPECIES), f"between 2 and {len(SPECIES)}"),
            ("size", self.size >= 64, "at least 64"),
            ("train", self.train >= 0, "at least 0"),
            ("val", self.val >= 0, "at least 0"),
            ("seed", self.seed >= 0, "at least 0"),
            ("objects", 1 <= self.objects[0] <= self.objects[1] <= 8, "an ascending pair between 1 and 8"),
            ("species_a_scene", self.species_a_scene >= 1, "at least 1"),
            ("scale", 0.2 <= self.scale[0] <= self.scale[1] <= 0.8, "an ascending pair between 0.2 and 0.8"),
            ("head", 0.5 <= self.head <= 2.0, "between 0.5 and 2"),
            ("looks", 1 <= self.looks <= 3, "between 1 and 3"),
            ("kinship", 0 <= self.kinship <= 1, "between 0 and 1"),
            ("look_bias", 0 <= self.look_bias <= 1, "between 0 and 1"),
            ("background_bias", 0 <= self.background_bias <= 1, "between 0 and 1"),
            ("clutter", 0 <= self.clutter[0] <= self.clutter[1] <= 20, "an ascending pair between 0 and 20"),
            ("noise", 0 <= self.noise <= 0.2, "between 0 and 0.2"),
        ]
        broken = [
            f"`{name}` should be {rule}; received {getattr(self, name)}" for name, kept, rule in rules if not kept
        ]
        if broken:
            raise UsageError("scenes: " + "; ".join(broken))
