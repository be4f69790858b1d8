"""The settings of POT, and of two simpler methods that the same code computes."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from tag2mask.core.fields import Checked, setting

Background = Literal["tags", "all"]

MIN_SEEDS = 4
"""A class with fewer seeds takes this many of its strongest pixels, even if another class is stronger there; `area`
adds as many pixels to each class. Ours."""


@dataclass
class PotSettings(Checked):
    """Prototypical optimal transport: partition, allocation, activation. The defaults are ours, by measurement.

    Attributes:
        affinity: β, the weight of similarity in the self-affinity step, which smooths features and base CAMs first;
            null leaves the step out (published).
        affinity_radius: σ, the range of that step, in cells of the grid.
        background: the background's base CAM: 1 − the maximum of the CAMs of the `tags` (ours), or of `all` classes,
            each divided by its own maximum (published); `all` needs `affinity` null.
        seed_rule: confident pixels: `threshold` (ours), or `argmax` over background and tags (published).
        foreground_threshold: a pixel is a seed of the tag with the highest CAM from this value on.
        background_threshold: a pixel is a background seed up to this CAM value of every tag, in [0, 1].
        num_prototypes: K, prototypes per class.
        column_marginal: the mass of each prototype: the `area` of the pixels nearest to it (ours), the `similarity` of
            class and cluster prototype (published), or `uniform`.
        epsilon: entropic regularisation of the plan.
        epsilon_unit: the unit of `epsilon`: the `spread` of the image's cost, so that it has the same effect on similar
            and on dissimilar features (ours), or `cosine` distance (published).
        iterations: Sinkhorn iterations.
        allocate: each pixel to its prototypes by their share (`soft`), or to the best alone (`hard`, published).
        transport: false replaces the optimal plan by one that is uniform in each row.
        regenerate: false keeps the cluster prototypes.
        reweight: the weight of the activation: the pixel's `posterior` over prototypes, or `none`.
        cluster_reduction: how the maps of a class's clusters are combined: `sum`, or `max`.
        normalise_over: maps are divided by the maximum over the `image`, which keeps the areas of the plan (ours), or
            over each `class` (published).
    """

    affinity: float | None = setting(10.0, above=0)
    affinity_radius: float = setting(5.0, above=0)
    background: Background = "tags"
    seed_rule: Literal["threshold", "argmax"] = "threshold"
    foreground_threshold: float = setting(0.75, low=0, high=1)
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

    min_seeds: ClassVar[int] = MIN_SEEDS

    _section: ClassVar[str] = "POT"

    def problems(self) -> list[str]:
        """Settings that do not go together."""
        if self.background == "all" and self.affinity is not None:
            return ["background all needs affinity null, since the affinity step computes the background from the tags"]
        return []

    def single_prototype(self) -> "PotSettings":
        """One prototype per class, no transport: similarity to the mean of the seeds, as in SIPE's second half."""
        return replace(self.plain_clusters(), num_prototypes=1)

    def plain_clusters(self) -> "PotSettings":
        """K prototypes per class, no transport: similarity to the nearest cluster prototype."""
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
        """The published method, as far as the paper's figure and abstract define it."""
        return replace(
            self,
            affinity=None,
            background="all",
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
