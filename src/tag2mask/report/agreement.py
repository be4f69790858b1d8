"""The agreement of a run's masks with other masks, which `compare` records in the run."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tag2mask.core.errors import Tag2maskError
from tag2mask.core.files import read_json, write_json
from tag2mask.core.provenance import crc_of
from tag2mask.data.corrections import FinalMasks
from tag2mask.report.gallery import Card, Gallery
from tag2mask.report.ranking import Selected, attempt

FOLDER = "compare"
"""The folder of the records in a run: NAME-XXXXXXXX.json."""

SHOWN = 5
"""Images that differ most, on the page; ours."""


@dataclass(frozen=True)
class Agreement:
    """A comparison.

    Attributes:
        name: of the other masks.
        at: the day of the comparison.
        images: their number.
        mean_iou: of the two ways over all images, in [0, 1]; None if no pixel has a class in both.
        changed: number of images with a mask that has changed since, or is gone, in the run or among the others of
            ``least``.
        least: the images that differ most, each with its agreement, in [0, 1]; without those that have changed.
    """

    name: str
    at: str
    images: int
    mean_iou: float | None
    changed: int
    least: tuple[tuple[Card, float], ...]


def write_record(run: Path, other: Path, record: Mapping[str, Any]) -> Path:
    """Write the record of a comparison with the masks in ``other``, and return its file."""
    place = other.resolve()
    file = run / FOLDER / f"{place.name}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:8]}.json"
    write_json(file, record)
    return file


def read_agreements(gallery: Gallery) -> list[Agreement]:
    """All comparisons of a run, in the order of their files; a notice about each file that cannot be read."""
    files = sorted((gallery.run / FOLDER).glob("*.json"))
    found = (attempt(gallery.notice, _read, path, gallery) for path in files)
    return [each for each in found if each is not None]


def _read(path: Path, gallery: Gallery) -> Agreement:
    record = read_json(path, "`tag2mask compare` writes it again")
    try:
        if record["classes"] != [*gallery.images.classes]:
            raise Tag2maskError(f"{path} is of masks with other classes; `tag2mask compare` writes it again")
        masks = FinalMasks(gallery.run / "masks", gallery.images.corrections)
        changed = {image_id for image_id, crc in record["masks"].items() if _crc(masks, f"{image_id}.png") != crc}
        changed |= {each["image"] for each in record["least"] if _crc(Path(), each["other"]) != each["crc"]}
        items = {item.id: item for item in gallery.images.items if item.id not in changed}
        least = []
        for each in (found for found in record["least"] if found["image"] in items):
            for card in gallery.draw([Selected(items[each["image"]], None, None)], brief=True):
                tile = gallery.foreign_tile(record["name"], Path(each["other"]), card, record["ids"])
                tiles = (*card.tiles[:2], *tile, *card.tiles[2:])  # next to the run's own mask
                least.append((replace(card, tiles=tiles), float(each["agreement"])))
        mean = record["mean_iou"]
        return Agreement(
            str(record["name"]),
            str(record["at"])[:10],
            int(record["images"]),
            None if mean is None else float(mean),
            len(changed),
            tuple(least),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Tag2maskError(f"{path} is damaged; `tag2mask compare` writes it again") from error


def _crc(folder: FinalMasks | Path, name: str) -> int | None:
    try:
        return crc_of(folder / name)
    except (OSError, Tag2maskError):
        return None
