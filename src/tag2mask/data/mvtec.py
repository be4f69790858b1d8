"""Inspection sets in the layout of MVTec AD: good and defective parts, with a folder of binary masks.

::

    ROOT/train/good/000.png
    ROOT/test/good/000.png                     no tags: it holds none of the classes
    ROOT/test/crack/000.png                    ID test/crack/000, tag crack
    ROOT/ground_truth/crack/000_mask.png       0 and 255; for evaluation only
"""

import os
from pathlib import Path

from tag2mask.data.classes import in_order, is_negative
from tag2mask.data.entries import Entry
from tag2mask.data.listing import MASK_ENDING, Listing, MaskPlace, walk_files
from tag2mask.data.names import nfc
from tag2mask.data.problems import error
from tag2mask.data.settings import DataSettings

GOOD = "good"
TRUTH = "ground_truth"
SPLITS = ("train", "validation", "test")

MASK_VALUES = "255=tag"
"""Its masks are binary, and the folder says the class; what `data.mask_values` is unless it is given."""


def is_mvtec(root: Path) -> bool:
    """Whether a folder has the layout: test/ and ground_truth/, with a folder of good parts."""
    return (root / TRUTH).is_dir() and (root / "test").is_dir() and any((root / s / GOOD).is_dir() for s in SPLITS)


def read_mvtec(settings: DataSettings, root: Path, split: str | None) -> Listing:
    """The images of a split with their tags.

    Args:
        settings: the folder of masks that overrides the root's own, and further names of good parts.
        root: the folder with test/ and ground_truth/.
        split: ``train``, ``validation`` or ``test``; None: all images.
    """
    truth = settings.masks or root / TRUTH
    places = tuple(MaskPlace(truth, suffix, "test/") for suffix in (MASK_ENDING, ".png"))
    listing = Listing("mvtec", root, masks=places)
    there = [name for name in SPLITS if (root / name).is_dir()]
    if split is not None and split not in there:
        message = f"there is no folder {split}/; name {' or '.join(there)}"
        listing.problems.append(error("bad-split", str(root), message))
        return listing
    names: set[str] = set()
    for folder in there:
        count = 0
        for name, is_image in walk_files(root / folder, skip=[truth]):
            class_name, _, rest = nfc(name).partition("/")
            if not is_image or not rest:
                continue
            count += 1
            tags = () if class_name == GOOD or is_negative(class_name, settings.negatives) else (class_name,)
            names.update(tags)
            if split in (None, folder):
                image_id = f"{folder}/{os.path.splitext(nfc(name))[0]}"  # noqa: PTH122 - a string, as the path
                path = os.path.join(root, folder, name)  # noqa: PTH118 - a string, as in other readers
                listing.entries.append(Entry(image_id, path, tags, splits=folder))
        listing.splits[folder] = count
    listing.names = in_order(names)
    listing.notes.append(
        f"read as an inspection set: {GOOD}/ holds images of none of the classes, {TRUTH}/ binary masks of the others"
    )
    return listing
