"""The kinds of CAM. A new kind adds an entry here, and a file for its computation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NoReturn, get_args

from tag2mask.core.errors import UsageError

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
"""The probabilities of a text-image model that is asked for the names of the classes; no network makes them."""


def refuse_words(*_: object) -> NoReturn:
    """Refuse to make `WORDS` with a network: a `UsageError`."""
    raise UsageError(
        "cams.kinds: `words` are the probabilities of a text-image model, which no trained network makes; "
        "`tag2mask masks IMAGES --classes NAMES --out RUN` does"
    )


KINDS: dict[str, Kind] = {
    "classifier": Kind("classifier CAM", "classifier", lambda maps, pot: maps, has_background=False),
    "anomaly": Kind(
        "anomaly CAM", "other-3", lambda maps, pot: maps.anomaly(), has_background=False, needs_known_background=True
    ),
    "prototype": Kind("single prototype", "prototype", lambda maps, pot: maps.prototype_cams(pot)),
    "pot": Kind("POT CAM", "pot", lambda maps, pot: maps.transport(pot), has_allocation=True, is_published=True),
    "fused": Kind("fused CAM", "other-2", lambda maps, pot: maps.fused(pot), needs_base_cams=True, is_published=True),
    WORDS: Kind("probability by words", "other-0", refuse_words, has_background=False),
}
"""In the order of the method."""
