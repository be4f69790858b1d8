"""The settings of POT, and the two simpler methods that the same code computes."""

from dataclasses import dataclass, fields, replace
from typing import Literal, get_args, get_origin

from tag2mask.errors import UsageError


@dataclass
class PotSettings:
    """Prototypical optimal transport: partition, allocation, activation. The defaults are ours, by measurement.

    Attributes:
        seeds: confident pixels: `threshold` (ours), or `argmax` over background and tags (published).
        foreground_threshold: a pixel is a seed of the winning tag from this multi-scale CAM value on, in [0, 1].
        background_threshold: a pixel is a background seed up to this multi-scale CAM value of every tag, in [0, 1].
        foreground_threshold_one_scale: the same for CAMs of one scale, as in training.
        background_threshold_one_scale: the same for CAMs of one scale, as in training.
        minimum_seeds: a class with fewer seeds takes this many of its strongest pixels, whoever else wins them.
        clusters: prototypes a class, K.
        shrinkage: α in [0, 1], how far a cluster prototype is drawn towards its class prototype.
        columns: column marginal: `uniform`, `similarity` of class and cluster prototype (published), or that times
            the class's mass (ours).
        mass: a class's estimated share of the image: `confident`, its share of the seeds, or `area`, of the
            thresholded CAM.
        mass_threshold: the CAM value up to which `area` calls a pixel background.
        epsilon: entropic regularisation of the plan, in units of cosine distance.
        rho: weight of the relaxed column marginal; null keeps it exact (balanced, published).
        row_rho: weight of the relaxed row marginal; null keeps it exact.
        iterations: Sinkhorn iterations.
        allocate: each pixel to its prototypes by their share (`soft`), or to the best alone (`hard`, published).
        rounds: how often the plan is made again with regenerated prototypes; 0 as published.
        transport: false puts a plan that is uniform in each row in the place of the optimal one.
        regenerate: false keeps the cluster prototypes.
        reweight: the activation's weight: the pixel's `posterior` over prototypes, the plan over its `column`
            maximum, or `none`.
        combine: a class's map from its clusters': `sum`, `max`, or `mean` weighted by column mass.
    """

    seeds: Literal["threshold", "argmax"] = "threshold"
    foreground_threshold: float = 0.6
    background_threshold: float = 0.1
    foreground_threshold_one_scale: float = 0.4
    background_threshold_one_scale: float = 0.15
    minimum_seeds: int = 4
    clusters: int = 3
    shrinkage: float = 0.7
    columns: Literal["uniform", "similarity", "similarity_mass"] = "similarity_mass"
    mass: Literal["confident", "area"] = "area"
    mass_threshold: float = 0.3
    epsilon: float = 0.2
    rho: float | None = 0.2
    row_rho: float | None = None
    iterations: int = 50
    allocate: Literal["soft", "hard"] = "soft"
    rounds: int = 1
    transport: bool = True
    regenerate: bool = True
    reweight: Literal["posterior", "column", "none"] = "posterior"
    combine: Literal["sum", "max", "mean"] = "sum"

    def __post_init__(self) -> None:
        """Refuse values out of range, all at once."""
        thresholds = [
            f"{side}_threshold{scale}" for side in ("foreground", "background") for scale in ("", "_one_scale")
        ]
        unit = [*thresholds, "shrinkage", "mass_threshold"]
        problems = [f"{name} should lie in [0, 1]" for name in unit if not 0 <= getattr(self, name) <= 1]
        least = {"minimum_seeds": 1, "clusters": 1, "iterations": 1, "rounds": 0}
        problems += [f"{name} should be at least {low}" for name, low in least.items() if getattr(self, name) < low]
        positive = {"epsilon": self.epsilon, "rho": self.rho, "row_rho": self.row_rho}
        problems += [
            f"{name} should be above 0" for name, value in positive.items() if value is not None and not value > 0
        ]
        for field in fields(self):
            if get_origin(field.type) is Literal and getattr(self, field.name) not in get_args(field.type):
                allowed = ", ".join(repr(choice) for choice in get_args(field.type))
                problems.append(f"{field.name} should be one of {allowed}, received {getattr(self, field.name)!r}")
        if problems:
            raise UsageError("settings of POT: " + "; ".join(problems))

    def one_scale(self) -> "PotSettings":
        """These settings with the thresholds that suit CAMs of a single scale."""
        return replace(
            self,
            foreground_threshold=self.foreground_threshold_one_scale,
            background_threshold=self.background_threshold_one_scale,
        )

    def single_prototype(self) -> "PotSettings":
        """One prototype a class, no transport: the mean of the seeds activates the image, as in SIPE's second half."""
        return replace(self.plain_clusters(), clusters=1)

    def plain_clusters(self) -> "PotSettings":
        """K prototypes a class, no transport: the strongest cluster activates each pixel, same seeds."""
        return replace(
            self,
            transport=False,
            regenerate=False,
            rounds=0,
            reweight="none",
            combine="max",
            shrinkage=0.0,
            allocate="soft",
        )

    def paper(self) -> "PotSettings":
        """The method as far as the paper's figure and abstract fix it."""
        return replace(
            self,
            seeds="argmax",
            clusters=2,
            shrinkage=0.0,
            columns="similarity",
            epsilon=0.1,
            rho=None,
            row_rho=None,
            allocate="hard",
            rounds=0,
            transport=True,
            regenerate=True,
            reweight="posterior",
            combine="sum",
        )
