"""The kinds of CAM that a trained network gives. A new kind adds an entry here, and a file for its computation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from tag2mask.cams.inference import ImageMaps
    from tag2mask.pot import PotSettings, TransportCams

CamKind = Literal["classifier", "anomaly", "prototype", "pot", "fused"]

CAM_KINDS: tuple[CamKind, ...] = get_args(CamKind)


@dataclass(frozen=True)
class Kind:
    """A kind of CAM."""

    title: str  # its name in tables
    tone: str  # its colour in the report, by the name in the style sheet
    make: "Callable[[ImageMaps, PotSettings], ImageMaps | TransportCams]"  # computes it for a batch
    has_background: bool = True  # whether background is one of its maps
    needs_base_cams: bool = False  # whether it needs base CAMs of the stage `seeds`
    needs_known_background: bool = False  # whether it needs a frozen network that was trained with images without tags
    has_allocation: bool = False  # whether its files hold the allocation of the transport plan
    is_published: bool = False  # whether POT's published figures are compared with it

    @property
    def heading(self) -> str:
        """The title with a capital letter."""
        return self.title[0].upper() + self.title[1:]


KINDS: dict[str, Kind] = {
    "classifier": Kind("classifier CAM", "classifier", lambda maps, pot: maps, has_background=False),
    "anomaly": Kind(
        "anomaly CAM", "other-3", lambda maps, pot: maps.anomaly(), has_background=False, needs_known_background=True
    ),
    "prototype": Kind("single prototype", "prototype", lambda maps, pot: maps.prototype_cams(pot)),
    "pot": Kind("POT CAM", "pot", lambda maps, pot: maps.transport(pot), has_allocation=True, is_published=True),
    "fused": Kind("fused CAM", "other-2", lambda maps, pot: maps.fused(pot), needs_base_cams=True, is_published=True),
}
"""In the order of the method."""
