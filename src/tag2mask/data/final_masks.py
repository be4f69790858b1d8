"""The masks that count: those that people accepted or drew, and where there is none, those that the method made."""

from pathlib import Path

from tag2mask.data.decided import Decided


class FinalMasks:
    """A folder of ID.png over which people's masks lie; whatever reads a run's final masks reads them here."""

    def __init__(self, own: Path, decided: Decided) -> None:
        """Keep the two; nothing is opened.

        Args:
            own: what the method made; need not be there.
            decided: what people decided.
        """
        self.own, self.decided = own, decided

    def __truediv__(self, name: str) -> Path:
        """The file ID.png that counts; it need not be there.

        Raises:
            Tag2maskError: what was decided about the photograph is damaged.
        """
        return self.decided.mask(name.removesuffix(".png")) or self.own / name

    def __str__(self) -> str:
        return str(self.own)

    def is_by_hand(self, photo_id: str) -> bool:
        """Whether it is a person's mask that counts, which has the size of its photograph and is sure."""
        return self.decided.has_mask(photo_id)
