"""The settings of refinement: how CAMs become masks, and how sure labels are told from unsure ones."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from tag2mask.cams.kinds import KINDS, CamKind
from tag2mask.core.fields import Checked, Fixed, setting
from tag2mask.refine.crf import ColourCrf, PublishedCrf
from tag2mask.refine.random_walk import BETA, RADIUS, STEPS

Method = Literal["argmax", "crf", "irn", "irn+crf"]

WALK_POWER = 1.5
"""The power to which CAMs are raised before the random walk. Source: SIPE."""

BACKGROUND_LEVELS = (0.30, 0.05)
"""The background's CAM in the two passes of the labels of edges, for kinds without a background. Source: IRN."""

LABEL_CONFIDENCE = 0.7
"""How probable the label of a pixel is when the CRF of the labels of edges begins. Source: IRN."""


@dataclass
class WalkSettings(Checked):
    """The random walk of IRN.

    Attributes:
        beta: the power to which the affinity is raised.
        background_level: the background's value after it, in [0, 1], for kinds of CAM that have no background of
            their own, so that it did not walk.
    """

    radius = Fixed(RADIUS)
    beta: float = setting(BETA, above=0)
    steps = Fixed(STEPS)
    power = Fixed(WALK_POWER)
    background_level: float = setting(0.25, low=0, high=1)

    _section: ClassVar[str] = "the random walk"


@dataclass
class RefineSettings(Checked):
    """How CAMs become masks.

    Attributes:
        method: `argmax` takes the class with the highest CAM at each pixel; `crf` the most probable one of a dense
            CRF over the CAMs; `irn` the highest CAM after a random walk that stops at edges; `irn+crf` both.
        cams: the kind of CAM that is refined.
        background_threshold: the background's CAM value, in [0, 1], for kinds that have no background of their own
            (`classifier`); not for `irn`, where it is `walk.background_level`.
        crf: of the dense CRF.
        crf_power: the power to which CAMs are raised to become its probabilities.
        ignore_below: a pixel whose label is less probable than this, in [0, 1], becomes 255, ignored (CLIP-ES takes
            0.95); null keeps every label. Only where there is a CRF.
        save_probabilities: also write how probable each pixel's label is, for `segment.pixel_weights`. Only where there
            is a CRF.
        walk: of the random walk.
        long_side: an image that is longer, in pixels, is refined at this size, and the result enlarged; null keeps
            every size, at 1 GB of memory a million pixels. All lengths of the CRF and of the walk are pixels of the
            size at work, and published ones suit 500.
        batch_size: images at a time.
    """

    method: Method = "crf"
    cams: CamKind = "pot"
    background_threshold: float = setting(0.3, low=0, high=1)
    background_power = Fixed[float | None](None)
    crf: ColourCrf = field(default_factory=ColourCrf)
    crf_power: float = setting(1.0, above=0)
    ignore_below: float | None = setting(None, low=0, high=1, null="null keeps every label")
    save_probabilities: bool = False
    walk: WalkSettings = field(default_factory=WalkSettings)
    long_side: int | None = setting(1024, low=32)
    batch_size: int = setting(4, low=1, affects=False)

    _section: ClassVar[str] = "refine"

    def problems(self) -> list[str]:
        """Settings that do not go together."""
        problems = []
        if self.ignore_below is not None and not self.uses_crf:
            problems.append(f"confidence is a probability of the CRF, which method {self.method} does not have")
        if self.save_probabilities and not self.uses_crf:
            problems.append(f"keep_confidence keeps what the CRF says, which method {self.method} does not have")
        return problems

    @property
    def has_background(self) -> bool:
        """Whether background is among the CAMs that are refined."""
        return KINDS[self.cams].has_background

    @property
    def uses_crf(self) -> bool:
        """Whether a dense CRF takes part."""
        return self.method in ("crf", "irn+crf")

    @property
    def walks(self) -> bool:
        """Whether a random walk takes part, so that an edge network is needed."""
        return self.method in ("irn", "irn+crf")


@dataclass
class SureSettings(Checked):
    """Which labels of CAMs are sure enough to learn edges from.

    Attributes:
        background_factors: for kinds with a background of their own: what its CAM is multiplied by in the pass that
            finds sure classes, and in the one that finds sure background (SIPE).
    """

    background_factors: tuple[float, float] = (1.0, 0.5)
    background_levels = Fixed(BACKGROUND_LEVELS)
    confidence = Fixed(LABEL_CONFIDENCE)
    crf = Fixed(PublishedCrf("irn"))

    _section: ClassVar[str] = "the labels of edges"

    def problems(self) -> list[str]:
        """A pair in the wrong order."""
        high, low = self.background_factors
        sound = 0 < low <= high
        return [] if sound else ["background_factors should be two numbers above 0, the second not above the first"]
