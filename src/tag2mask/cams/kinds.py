"""The kinds of CAM. A new kind adds an entry here, and a file for its computation."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from tag2mask.cams.inference import ImageMaps
    from tag2mask.pot import PotSettings, TransportCams

CamKind = Literal["classifier", "anomaly", "prototype", "pot", "fused", "words"]

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


WORDS: CamKind = "words"
"""The probabilities of a text-image model that is asked for the names of the classes; the stage `cams` refuses it."""


def cams_command(kind: str, run: Path) -> str:
    """The command that makes the CAMs of a kind in a run."""
    return f"tag2mask {'masks --out' if kind == WORDS else 'cams'} {shlex.quote(str(run))}"


def command_of(run: Path) -> str:
    """The command that makes and continues a run, without its further words."""
    return f"tag2mask {'masks' if (run / 'cams' / WORDS).is_dir() else 'run'} --out {shlex.quote(str(run))}"


KINDS: dict[str, Kind] = {
    "classifier": Kind("classifier CAM", "classifier", lambda maps, pot: maps, has_background=False),
    "anomaly": Kind(
        "anomaly CAM", "other-3", lambda maps, pot: maps.anomaly(), has_background=False, needs_known_background=True
    ),
    "prototype": Kind("single prototype", "prototype", lambda maps, pot: maps.prototype_cams(pot)),
    "pot": Kind("POT CAM", "pot", lambda maps, pot: maps.transport(pot), has_allocation=True, is_published=True),
    "fused": Kind("fused CAM", "other-2", lambda maps, pot: maps.fused(pot), needs_base_cams=True, is_published=True),
    WORDS: Kind("probability by words", "other-0", lambda maps, pot: maps, has_background=False),
}
"""In the order of the method."""
