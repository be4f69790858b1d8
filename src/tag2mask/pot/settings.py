"""The settings of POT, and the two simpler methods that the same code computes."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from tag2mask.core.fields import Checked, setting

FOREGROUND_ONE_SCALE = 0.5
"""`PotSettings.foreground_threshold` for CAMs of a single scale, as in training; ours."""

BACKGROUND_ONE_SCALE = 0.15
"""`PotSettings.background_threshold` for CAMs of a single scale, as in training; ours."""

MINIMUM_SEEDS = 4
"""A class with fewer seeds takes this many of its strongest pixels, even if another class wins them; `area` counts as
many pixels more for each class, so that each gets some. Ours."""


@dataclass
class PotSettings(Checked):
    """Prototypical optimal transport: partition, allocation, activation. The defaults are ours, by measurement.

    Attributes:
        affinity: β, how much more a pixel listens to pixels that look like it, in the self-affinity step that smooths
            features and base CAMs before anything else; null leaves the step out (published).
        affinity_radius: σ, how far it listens, in cells of the grid.
        seed_rule: confident pixels: `threshold` (ours), or `argmax` over background and tags (published).
        foreground_threshold: a pixel is a seed of the winning tag from this multi-scale CAM value on, in [0, 1].
        background_threshold: a pixel is a background seed up to this multi-scale CAM value of every tag, in [0, 1].
        num_prototypes: prototypes a class, K.
        column_marginal: column marginal: the `area` that each prototype wins before transport (ours), the `similarity`
            of class
            and cluster prototype (published), or `uniform`.
        epsilon: entropic regularisation of the plan.
        epsilon_unit: what that is measured in: the `spread` of the image's cost, so that it means the same for features
            that lie close together and for those that do not (ours), or `cosine` distance (published).
        iterations: Sinkhorn iterations.
        allocate: each pixel to its prototypes by their share (`soft`), or to the best alone (`hard`, published).
        transport: false puts a plan that is uniform in each row in the place of the optimal one.
        regenerate: false keeps the cluster prototypes.
        reweight: the activation's weight: the pixel's `posterior` over prototypes, or `none`.
        cluster_reduction: a class's map from its clusters': `sum`, or `max`.
        normalise_over: maps are divided by the maximum over the `image`, which keeps the areas of the plan (ours), or
            each by
            its own (`class`, published).
    """

    affinity: float | None = setting(10.0, above=0)
    affinity_radius: float = setting(5.0, above=0)
    seed_rule: Literal["threshold", "argmax"] = "threshold"
    foreground_threshold: float = setting(0.85, low=0, high=1)
    background_threshold: float = setting(0.25, low=0, high=1)
    num_prototypes: int = setting(3, low=1)
    column_marginal: Literal["area", "similarity", "uniform"] = "area"
    epsilon: float = setting(1.0, above=0)
    epsilon_unit: Literal["spread", "cosine"] = "spread"
    iterations: int = setting(50, low=1)
    allocate: Literal["soft", "hard"] = "soft"
    transport: bool = True
    regenerate: bool = True
    reweight: Literal["posterior", "none"] = "posterior"
    cluster_reduction: Literal["sum", "max"] = "sum"
    normalise_over: Literal["image", "class"] = "image"

    minimum_seeds: ClassVar[int] = MINIMUM_SEEDS

    _section: ClassVar[str] = "POT"

    def one_scale(self) -> "PotSettings":
        """These settings with the thresholds that suit CAMs of a single scale."""
        return replace(self, foreground_threshold=FOREGROUND_ONE_SCALE, background_threshold=BACKGROUND_ONE_SCALE)

    def single_prototype(self) -> "PotSettings":
        """One prototype a class, no transport: the mean of the seeds activates the image, as in SIPE's second half."""
        return replace(self.plain_clusters(), num_prototypes=1)

    def plain_clusters(self) -> "PotSettings":
        """K prototypes a class, no transport: the strongest cluster activates each pixel, same seeds."""
        return replace(
            self,
            transport=False,
            regenerate=False,
            reweight="none",
            cluster_reduction="max",
            normalise_over="class",
            allocate="soft",
        )

    def paper(self) -> "PotSettings":
        """The method as far as the paper's figure and abstract fix it."""
        return replace(
            self,
            affinity=None,
            seed_rule="argmax",
            num_prototypes=2,
            column_marginal="similarity",
            epsilon=0.1,
            epsilon_unit="cosine",
            allocate="hard",
            transport=True,
            regenerate=True,
            reweight="posterior",
            cluster_reduction="sum",
            normalise_over="class",
        )
