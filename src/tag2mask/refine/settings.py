"""The settings of refinement: how CAMs become masks, and how sure labels are told from unsure ones."""

from dataclasses import dataclass, field
from typing import Literal

from tag2mask.cam_files import CamKind
from tag2mask.errors import UsageError
from tag2mask.refine.crf import CrfSettings
from tag2mask.refine.random_walk import BETA, RADIUS, STEPS

Method = Literal["argmax", "crf", "irn", "irn+crf"]


@dataclass
class WalkSettings:
    """The random walk of IRN.

    Attributes:
        radius: cells of 4 pixels; cells less than this apart are neighbours.
        beta: the power to which the affinity is raised.
        steps: of the walk.
        power: the power to which CAMs are raised before it (SIPE).
        background_level: the background's value after it, in [0, 1], for kinds of CAM that have no background of
            their own, so that it did not walk.
    """

    radius: int = RADIUS
    beta: float = BETA
    steps: int = STEPS
    power: float = 1.5
    background_level: float = 0.25

    def __post_init__(self) -> None:
        """Refuse values out of range, all at once."""
        problems = []
        if self.radius < 2:
            problems.append("radius should be at least 2")
        problems += [f"{name} should be above 0" for name in ("beta", "power") if not getattr(self, name) > 0]
        if self.steps < 0:
            problems.append("steps should not be negative")
        if not 0 <= self.background_level <= 1:
            problems.append("background_level should lie in [0, 1]")
        if problems:
            raise UsageError("settings of the random walk: " + "; ".join(problems))


@dataclass
class RefineSettings:
    """How CAMs become masks.

    Attributes:
        method: `argmax` takes the class with the highest CAM at each pixel; `crf` the most probable one of a dense
            CRF over the CAMs; `irn` the highest CAM after a random walk that stops at edges; `irn+crf` both.
        cams: the kind of CAM that is refined.
        background_threshold: the background's CAM value, in [0, 1], for kinds that have no background of their own
            (`classifier`); not for `irn`, where it is `walk.background_level`.
        background_power: for those kinds the background is (1 − highest CAM) to this power instead (CLIP-ES takes 1);
            null keeps the threshold.
        crf: of the dense CRF.
        crf_power: the power to which CAMs are raised to become its probabilities.
        confidence: a pixel whose label is less probable than this, in [0, 1], becomes 255, ignored (CLIP-ES takes
            0.95); null keeps every label. Only where there is a CRF.
        keep_confidence: also write how probable each pixel's label is, for `segment.label_weights`. Only where there
            is a CRF.
        walk: of the random walk.
        long_side: a photograph that is longer, in pixels, is refined at this size, and the result enlarged; null keeps
            every size, at 1 GB of memory a million pixels. All lengths of the CRF and of the walk are pixels of the
            size at work, and published ones suit 500.
        batch_size: photographs at a time.
    """

    method: Method = "crf"
    cams: CamKind = "pot"
    background_threshold: float = 0.3
    background_power: float | None = None
    crf: CrfSettings = field(default_factory=CrfSettings)
    crf_power: float = 1.0
    confidence: float | None = None
    keep_confidence: bool = False
    walk: WalkSettings = field(default_factory=WalkSettings)
    long_side: int | None = 1024
    batch_size: int = 4

    def __post_init__(self) -> None:
        """Refuse values out of range, all at once."""
        problems = []
        if not 0 <= self.background_threshold <= 1:
            problems.append("background_threshold should lie in [0, 1]")
        if self.background_power is not None and not self.background_power > 0:
            problems.append("background_power should be above 0; null takes the threshold")
        if not self.crf_power > 0:
            problems.append("crf_power should be above 0")
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            problems.append("confidence should lie in [0, 1]; null keeps every label")
        if self.confidence is not None and not self.uses_crf:
            problems.append(f"confidence is a probability of the CRF, which method {self.method} does not have")
        if self.keep_confidence and not self.uses_crf:
            problems.append(f"keep_confidence keeps what the CRF says, which method {self.method} does not have")
        if self.long_side is not None and self.long_side < 32:
            problems.append("long_side should be at least 32 pixels")
        if self.batch_size < 1:
            problems.append("batch_size should be at least 1")
        if problems:
            raise UsageError("settings of refine: " + "; ".join(problems))

    @property
    def has_background(self) -> bool:
        """Whether background is among the CAMs that are refined."""
        return self.cams != "classifier"

    @property
    def uses_crf(self) -> bool:
        """Whether a dense CRF takes part."""
        return self.method in ("crf", "irn+crf")

    @property
    def walks(self) -> bool:
        """Whether a random walk takes part, so that an edge network is needed."""
        return self.method in ("irn", "irn+crf")


@dataclass
class SureSettings:
    """Which labels of CAMs are sure enough to learn edges from.

    Attributes:
        background_factors: for kinds with a background of their own: what its CAM is multiplied by in the pass that
            finds sure classes, and in the one that finds sure background (SIPE).
        background_levels: for other kinds: the background's CAM in those passes (IRN).
        confidence: how probable the label of a pixel is when the CRF begins, in (0, 1].
        crf: of the dense CRF.
    """

    background_factors: tuple[float, float] = (1.0, 0.5)
    background_levels: tuple[float, float] = (0.30, 0.05)
    confidence: float = 0.7
    crf: CrfSettings = field(default_factory=lambda: CrfSettings("irn"))

    def __post_init__(self) -> None:
        """Refuse values out of range, all at once."""
        problems = []
        for name in ("background_factors", "background_levels"):
            high, low = getattr(self, name)
            if not 0 < low <= high:
                problems.append(f"{name} should be two numbers above 0, the second not above the first")
        if not 0 < self.confidence <= 1:
            problems.append("confidence should lie in (0, 1]")
        if problems:
            raise UsageError("settings of the labels of edges: " + "; ".join(problems))
