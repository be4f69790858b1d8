"""Settings of the report."""

from dataclasses import dataclass
from typing import ClassVar

from tag2mask.core.fields import Checked, setting

RANKED = 2000
"""Images that are ranked at most, at about 10 ms each; a larger set is thinned out evenly first. Ours."""

LOWEST_CONFIDENCE = 12
"""Images to look at first, by the stage `confidence`. Ours."""

WIDTH = 480
"""Width of the pictures in pixels. The page grows with its square: 24 images at 480 take 3 to 4 MB. Ours."""


@dataclass
class ReportSettings(Checked):
    """What the report shows.

    Attributes:
        images: images in the gallery, evenly from the worst to the best, so that it shows the run as it is.
    """

    images: int = setting(24, low=0)
    lowest_confidence: ClassVar[int] = LOWEST_CONFIDENCE
    width: ClassVar[int] = WIDTH

    _section: ClassVar[str] = "report"
