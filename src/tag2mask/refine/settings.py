"""The settings of refinement: how CAMs become masks, and how sure labels are told from unsure ones."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from tag2mask.cam_files import CamKind
from tag2mask.fields import Checked, setting
from tag2mask.refine.crf import CrfSettings
from tag2mask.refine.random_walk import BETA, RADIUS, STEPS

Method = Literal["argmax", "crf", "irn", "irn+crf"]


@dataclass
class WalkSettings(Checked):
    """The random walk of IRN.

    Attributes:
        radius: cells of 4 pixels; cells less than this apart are neighbours.
        beta: the power to which the affinity is raised.
        steps: of the walk.
        power: the power to which CAMs are raised before it (SIPE).
        background_level: the background's value after it, in [0, 1], for kinds of CAM that have no background of
            their own, so that it did not walk.
    """

    radius: int = setting(RADIUS, low=2)
    beta: float = setting(BETA, above=0)
    steps: int = setting(STEPS, low=0)
    power: float = setting(1.5, above=0)
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
    background_threshold: float = setting(0.3, low=0, high=1)
    background_power: float | None = setting(None, above=0, null="null takes the threshold")
    crf: CrfSettings = field(default_factory=CrfSettings)
    crf_power: float = setting(1.0, above=0)
    confidence: float | None = setting(None, low=0, high=1, null="null keeps every label")
    keep_confidence: bool = False
    walk: WalkSettings = field(default_factory=WalkSettings)
    long_side: int | None = setting(1024, low=32)
    batch_size: int = setting(4, low=1, affects=False)

    _section: ClassVar[str] = "refine"

    def problems(self) -> list[str]:
        """Settings that do not go together."""
        problems = []
        if self.confidence is not None and not self.uses_crf:
            problems.append(f"confidence is a probability of the CRF, which method {self.method} does not have")
        if self.keep_confidence and not self.uses_crf:
            problems.append(f"keep_confidence keeps what the CRF says, which method {self.method} does not have")
        return problems

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
class SureSettings(Checked):
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
    confidence: float = setting(0.7, above=0, high=1)
    crf: CrfSettings = field(default_factory=lambda: CrfSettings("irn"))

    _section: ClassVar[str] = "the labels of edges"

    def problems(self) -> list[str]:
        """Pairs in the wrong order."""
        pairs = {name: getattr(self, name) for name in ("background_factors", "background_levels")}
        rule = "should be two numbers above 0, the second not above the first"
        return [f"{name} {rule}" for name, (high, low) in pairs.items() if not 0 < low <= high]
