"""The settings of refinement: from CAMs to pseudo masks, and to the training labels of the edge network."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from tag2mask.cams.kinds import KINDS, CamKind
from tag2mask.core.fields import Checked, setting
from tag2mask.refine.crf import ColourCrf, PublishedCrf
from tag2mask.refine.random_walk import BETA

Method = Literal["argmax", "crf", "irn", "irn+crf", "proposals"]

WALK_POWER = 1.5
"""The power to which CAMs are raised before the random walk. Source: SIPE."""

BACKGROUND_LEVELS = (0.30, 0.05)
"""The background's CAM in the two passes for edge labels, for kinds without a background. Source: IRN."""

LABEL_CRF = PublishedCrf("irn")
"""The CRF of the labels of edges."""

LABEL_CONFIDENCE = 0.7
"""The initial probability of a pixel's label in the CRF for edge labels. Source: IRN."""


@dataclass
class WalkSettings(Checked):
    """The random walk of IRN.

    Attributes:
        beta: the power to which the affinity is raised.
        background_level: the background's value after the walk, in [0, 1], for kinds of CAM without a background.
    """

    beta: float = setting(BETA, above=0)
    background_level: float = setting(0.25, low=0, high=1)

    _section: ClassVar[str] = "the random walk"


@dataclass
class RefineSettings(Checked):
    """How CAMs become pseudo masks.

    Attributes:
        method: `argmax` takes the class with the highest CAM at each pixel; `crf` the most probable class of a dense
            CRF over the CAMs; `irn` the highest CAM after a random walk that stops at edges; `irn+crf` both;
            `proposals` masks of a model of the SAM family, each with the class that the CRF finds in it.
        cams: the kind of CAM to refine.
        background_threshold: the background's CAM value, in [0, 1], for kinds without a background (`classifier`,
            `words`); with `irn` it is `walk.background_level`.
        crf: of the dense CRF.
        crf_power: the power to which CAMs are raised to become its probabilities.
        ignore_below: pixels whose label is less probable than this, in [0, 1], become 255, ignored (CLIP-ES: 0.95);
            null keeps every label. Needs a method with a CRF.
        proposals: the model of `proposals`, as a name on the hub or a folder of `transformers`: a SAM 2, SAM, SAM-HQ or
            EdgeTAM, asked by points and boxes; or a SAM 3, asked by the phrases of the image's tags (`seeds.prompts`)
            in `seeds.precision`.
        walk: of the random walk.
        long_side: larger images are refined at this length of the longer side, in pixels, and the result is enlarged;
            null keeps every size, with 1 GB of memory per million pixels. All lengths of the CRF and of the walk are
            pixels at this size; published ones suit 500.
        batch_size: images refined side by side, at most one per core of the CPU, each with 1 GB of memory per million
            pixels; with `long_side` null always one.
    """

    method: Method = "crf"
    cams: CamKind = "pot"
    background_threshold: float = setting(0.3, low=0, high=1)
    crf: ColourCrf = field(default_factory=ColourCrf)
    crf_power: float = setting(1.0, above=0)
    ignore_below: float | None = setting(None, low=0, high=1, null="null keeps every label")
    proposals: str = setting("facebook/sam2.1-hiera-tiny", path=True)
    walk: WalkSettings = field(default_factory=WalkSettings)
    long_side: int | None = setting(1024, low=32)
    batch_size: int = setting(8, low=1, affects=False)

    _section: ClassVar[str] = "refine"

    def problems(self) -> list[str]:
        """Settings that do not go together."""
        if self.ignore_below is None or self.uses_crf:
            return []
        return [f"ignore_below needs the probabilities of a CRF, which method {self.method} does not have"]

    @property
    def has_background(self) -> bool:
        """Whether the kind of CAM has a background."""
        return KINDS[self.cams].has_background

    @property
    def uses_crf(self) -> bool:
        """Whether the method has a dense CRF."""
        return self.method in ("crf", "irn+crf", "proposals")

    @property
    def walks(self) -> bool:
        """Whether the method has a random walk, which needs an edge network."""
        return self.method in ("irn", "irn+crf")


@dataclass
class SureSettings(Checked):
    """The confident labels of CAMs that train the edge network.

    Attributes:
        background_factors: for kinds with a background: the factors of its CAM in the pass for confident classes and in
            the pass for confident background (SIPE).
    """

    background_factors: tuple[float, float] = (1.0, 0.5)

    _section: ClassVar[str] = "the labels of edges"

    def problems(self) -> list[str]:
        """A pair in the wrong order."""
        high, low = self.background_factors
        sound = 0 < low <= high
        return [] if sound else ["background_factors should be two numbers above 0, the second not above the first"]
