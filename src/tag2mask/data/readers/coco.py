"""COCO roots, and roots in their layout.

::

    ROOT/annotations/instances_train2014.json    images, categories, and annotations, which are the tags
    ROOT/train2014/COCO_train2014_000000000009.jpg    or in ROOT/images/train2014, ROOT/images, ROOT
    ROOT/SegmentationClass/ID.png                ground truth, painted from the annotations; for evaluation only
    ROOT/SegmentationClass/instances_train2014.npz   the index of the annotations
"""

import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np

from tag2mask.core.errors import first_five
from tag2mask.data.classes import did_you_mean
from tag2mask.data.problems import Problem, error, warning
from tag2mask.data.readers.coco_index import Index, read_index
from tag2mask.data.readers.entries import Entry
from tag2mask.data.readers.image_paths import IMAGES, ImageLocation, ImageLocator
from tag2mask.data.readers.rasterise import Rasterisation
from tag2mask.data.readers.scan import Listing, file_names, mask_locations
from tag2mask.data.readers.table import TableTags
from tag2mask.data.settings import DataSettings

# fmt: off
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator",
    "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
"""The classes of COCO in the order of their official ids 1..90, ten of which are not used: ids 1..80 here."""
# fmt: on

ANNOTATIONS = "annotations"
MASKS = "SegmentationClass"

OFFICIAL_COUNTS = {"train2014": 82_081, "val2014": 40_137}
"""Images with an annotated class, of 82,783 and 40,504, as in the lists behind published figures."""


def annotation_files(root: Path) -> dict[str, Path]:
    """The files ROOT/annotations/instances_SPLIT.json by split, sorted."""
    names = sorted(file_names(root / ANNOTATIONS))
    found = (re.fullmatch(r"instances_(.+)\.json", name) for name in names)
    return {match[1]: root / ANNOTATIONS / match[0] for match in found if match and match[1].strip(".")}


def read_coco(settings: DataSettings, root: Path, split: str | None) -> Listing:
    """The images of a split of a COCO root that hold an annotated class.

    Tags are the categories of all annotations, crowds too, unless ``settings.tags`` gives them; the key of that table
    is ``ID.jpg`` or ``ID``, and an image that it names is kept without an annotation, too.

    Args:
        settings: the tags table and the folder of masks that override the root's own, and `crowd`.
        root: the folder with annotations/.
        split: ``train2014``, or without the year where it is unambiguous. None: all splits.

    Other splits are read as well, since their classes must agree and their masks share a folder; files without a folder
    of images are not, if others have one.
    """
    folder = settings.masks or root / MASKS
    listing = Listing("coco", root, official=True, masks=mask_locations(folder)[:1])
    files = annotation_files(root)
    wanted = _wanted(files, split)
    if isinstance(wanted, Problem):
        listing.problems.append(wanted)
        return listing
    indexes: dict[str, Index] = {}
    for name in _read_with(wanted, files, root):
        indexes[name], reason = read_index(files[name], _subject(name), folder)
        if reason is not None:
            note = f"the index of {_subject(name)} cannot be kept in {folder} ({reason}), so each command reads it all"
            listing.notes.append(note)
    listing.splits = {name: int(index.tags.any(1).sum()) for name, index in indexes.items()}
    listing.problems += _class_problems(indexes)
    listing.names = _classes(wanted, indexes, listing)
    places = {name: list(map(ImageLocator(files[name]).find, index.names)) for name, index in indexes.items()}
    tags = _table(settings, listing, {name: places[name] for name in wanted})
    sizes: dict[str, tuple[int, int]] = {}
    for name in wanted:
        listing.notes += indexes[name].notes
        listing.problems += [*indexes[name].problems, *_split_problems(name, wanted, indexes, places)]
        entries = _entries(listing, name, indexes[name], places[name], tags, sizes)
        if any(place.there for place in places[name]):
            listing.entries.extend(entries)
        elif missing := list(entries):
            listing.problems.append(_no_images(name, missing))
    sources = {files[name]: indexes[name].digest for name in wanted}
    listing.rasterisation = Rasterisation(folder, settings.crowd, sources, sizes)
    return listing


def _subject(split: str) -> str:
    return f"{ANNOTATIONS}/instances_{split}.json"


def _wanted(files: dict[str, Path], split: str | None) -> list[str] | Problem:
    """The splits that a name means, which may lack the year."""
    if not files:
        message = "a COCO root needs a file instances_SPLIT.json here; data.root should be the folder above"
        return error("bad-root", ANNOTATIONS, message)
    if split is None or split in files:
        return list(files) if split is None else [split]
    years = [name for name in files if re.fullmatch(rf"{re.escape(split)}\d{{4}}", name)]
    if len(years) == 1:
        return years
    known = f"there are {first_five(years)}, name one" if years else f"there are {first_five(files)}"
    message = f"there is no instances_{split}.json, {known}{did_you_mean(split, files) if not years else ''}"
    return error("bad-split", ANNOTATIONS, message)


def _read_with(wanted: list[str], files: dict[str, Path], root: Path) -> list[str]:
    """The splits to read: the wanted ones, and the others that must agree with them.

    A file without a folder of images, where others have one, is not a split but another list of a split's images, as
    instances_minival2014.json is of val2014's.
    """
    own = [name for name in files if (root / name).is_dir() or (root / IMAGES / name).is_dir()]
    return [name for name in files if name in wanted or name in own or not own]


def _table(settings: DataSettings, listing: Listing, places: dict[str, list[ImageLocation]]) -> TableTags | None:
    """The tags table, if one is given and has a sound line."""
    if settings.tags is None:
        return None
    known = {place.id for found in places.values() for place in found}
    folders = [f"{IMAGES}/{split}" for split in places]
    tags = TableTags(settings.tags, settings, listing, known, *folders, *places, IMAGES)
    return tags if tags.lines or not tags.table.problems else None


def _entries(
    listing: Listing,
    split: str,
    index: Index,
    places: list[ImageLocation],
    table: TableTags | None,
    sizes: dict[str, tuple[int, int]],
) -> Iterator[Entry]:
    """The images of a split with their tags; those without any annotated class are left out."""
    classes = index.classes
    rows = zip(index.numbers, index.names, index.sizes.tolist(), index.tags, places, strict=True)
    for number, name, size, row, place in rows:
        tags: tuple[str, ...] | None = tuple(classes[column] for column in np.flatnonzero(row))
        if table is not None and (tags or place.id in table.lines):
            given = table(place.id, name)
            if isinstance(given, Problem):
                listing.problems.append(given)
            tags = None if isinstance(given, Problem) else given
        elif not tags:
            continue
        sizes[place.id] = (size[0], size[1])
        yield Entry(place.id, place.path, tags, f"{_subject(split)} image {number}", splits=split)


def _no_images(split: str, entries: list[Entry]) -> Problem:
    """The problem of a split without any image."""
    first = entries[0].path.name
    others = f", and neither do the other {len(entries) - 1:,}" if len(entries) > 1 else ""
    message = f"the image {first} does not exist below {split}/, {IMAGES}/{split}/, {IMAGES}/ or the root{others}"
    remedy = "put the images there; `tag2mask export coco` does so with --images copy or link"
    return error("missing-image", entries[0].source, f"{message}; {remedy}")


def _class_problems(indexes: dict[str, Index]) -> Iterator[Problem]:
    """Splits whose lists of categories do not agree: neither holds the other."""
    for (split, index), (other, second) in combinations(indexes.items(), 2):
        own, others = index.categories.items(), second.categories.items()
        if own and others and not (own <= others or others <= own):
            differing = sorted(set(index.classes) ^ set(second.classes)) or index.classes
            message = f"its categories are not those of {_subject(other)}: {first_five(differing)}"
            rule = "every split should have the same list, or a part of it, with the same ids"
            yield error("bad-classes", _subject(split), f"{message}; {rule}")


def _classes(wanted: list[str], indexes: dict[str, Index], listing: Listing) -> tuple[str, ...]:
    """The classes of all splits in ascending order of their ids."""
    # Of lists that do not agree, which was reported, that of the split counts.
    order = sorted(indexes, key=wanted.__contains__)
    united = {number: name for split in order for number, name in indexes[split].categories.items()}
    part = [_subject(name) for name in wanted if 0 < len(indexes[name].categories) < len(united)]
    if part and len(set(united.values())) == len(united):
        note = f"the classes are the {len(united)} categories of all annotation files together"
        listing.notes.append(f"{note}; some are not in {first_five(part)}")
    return tuple(united[number] for number in sorted(united))


def _split_problems(
    split: str, wanted: list[str], indexes: dict[str, Index], places: dict[str, list[ImageLocation]]
) -> Iterator[Problem]:
    """Images that other splits have too, and differences from COCO's own file."""
    subject, index = _subject(split), indexes[split]
    own = {place.id: (name, place.path) for name, place in zip(index.names, places[split], strict=True)}
    for other in indexes:
        if other == split:
            continue
        # Another list of the same images that was not asked for does no harm.
        both = sorted(
            own[place.id][0]
            for place in places[other]
            if place.id in own and (other in wanted or not place.there or own[place.id][1] != place.path)
        )
        if both:
            message = f"images of the same name are in {_subject(other)} ({len(both)}): {first_five(both)}"
            yield error("duplicate-id", subject, f"{message}; they would share a mask, rename them")
    if split in OFFICIAL_COUNTS and index.classes:
        count, official = int(index.tags.any(1).sum()), OFFICIAL_COUNTS[split]
        if count != official:
            message = f"{count:,} images hold an annotated class, in COCO's own file {official:,}"
            yield warning("unlike-coco", subject, f"{message}; figures cannot be compared with published ones")
        if index.classes != COCO_CLASSES:
            message = f"its {len(index.classes)} categories are not COCO's 80, though the file is named like COCO's"
            yield warning("unlike-coco", subject, f"{message}; name it instances_SPLIT.json with a split of your own")
