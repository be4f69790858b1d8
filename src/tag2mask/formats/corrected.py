"""Masks that come back from another tool."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tag2mask.data.images import IGNORED
from tag2mask.errors import UsageError
from tag2mask.formats.settings import BACKGROUND


class Corrected(NamedTuple):
    """A corrected mask.

    Attributes:
        id: of the photograph.
        mask: uint8 (H, W): 0 background, 1..C the classes, 255 ignored.
    """

    id: str
    mask: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Note:
    """What a reader has to say of the whole file."""

    text: str


Read = Corrected | tuple[str, str] | Note
"""A corrected mask, or an ID and why its mask cannot be used; or a note at the end."""


def label_ids(classes: tuple[str, ...], ignored: str) -> dict[str, int]:
    """The values of a mask by the labels of a tool: background, the classes, and 255 unless that is background.

    Raises:
        UsageError: a class has the name of one of the others.
    """
    ids = {BACKGROUND: 0} | ({} if ignored == BACKGROUND else {ignored: IGNORED})
    if taken := [name for name in classes if name in ids]:
        raise UsageError(f"the class `{taken[0]}` has the name of a label that means something else; see --ignored")
    return ids | {name: class_id for class_id, name in enumerate(classes, start=1)}
