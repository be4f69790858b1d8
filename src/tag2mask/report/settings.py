"""Settings of the report."""

from dataclasses import dataclass
from typing import Literal

from tag2mask.errors import UsageError


@dataclass
class ReportSettings:
    """What the report shows.

    Attributes:
        images: photographs in the gallery, at least 0.
        choose: which of the ranked photographs are shown. ``spread`` takes them evenly from the worst to the best, so
            that the gallery shows the run as it is; ``worst`` takes the worst only.
        ids: IDs of the photographs to show instead; ``images`` and ``choose`` are then ignored.
        ranked: photographs that are ranked at most, at about 10 ms each; a larger set is thinned out evenly first.
        least_certain: photographs to look at first, by the stage `confidence`, at least 0.
        width: of the pictures in pixels, 64 to 1600. The page grows with its square: 24 images at 480 take 3 to 4 MB.
    """

    images: int = 24
    choose: Literal["spread", "worst"] = "spread"
    ids: list[str] | None = None
    ranked: int = 2000
    least_certain: int = 12
    width: int = 480

    def validate(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: all of them.
        """
        problems = []
        if self.images < 0:
            problems.append(f"report.images should be 0 or more, it is {self.images}")
        if self.choose not in ("spread", "worst"):
            problems.append(f"report.choose should be spread or worst, it is {self.choose}")
        if self.ranked < 1:
            problems.append(f"report.ranked should be 1 or more, it is {self.ranked}")
        if self.least_certain < 0:
            problems.append(f"report.least_certain should be 0 or more, it is {self.least_certain}")
        if not 64 <= self.width <= 1600:
            problems.append(f"report.width should lie between 64 and 1600 pixels, it is {self.width}")
        if problems:
            raise UsageError("; ".join(problems))
