"""COCO roots, and roots in their layout.

::

    ROOT/annotations/instances_train2014.json    images, categories, and annotations, which are the tags
    ROOT/train2014/COCO_train2014_000000000009.jpg    or in ROOT/images/train2014, ROOT/images, ROOT
    ROOT/SegmentationClass/ID.png                ground truth, rasterised from the annotations; for evaluation only
    ROOT/SegmentationClass/instances_train2014.npz   the index of the annotations
"""

import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np

from tag2mask.core.errors import first_five
from tag2mask.data.problems import Problem, error, warning
from tag2mask.data.readers.coco_index import Index, read_index
from tag2mask.data.readers.entries import Entry
from tag2mask.data.readers.image_paths import IMAGES, ImageLocation, ImageLocator
from tag2mask.data.readers.rasterise import Rasterisation
from tag2mask.data.readers.scan import Listing, file_names, mask_locations, split_error
from tag2mask.data.readers.table import TableTags, read_tags
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
"""The classes of COCO in the order of their official ids 1..90, where ten are unused: ids 1..80 here."""
# fmt: on

ANNOTATIONS = "annotations"
MASKS = "SegmentationClass"

OFFICIAL_COUNTS = {"train2014": 82_081, "val2014": 40_137}
"""Images with an annotated class, of 82,783 and 40,504, as in the lists of published figures."""


def annotation_files(root: Path) -> dict[str, Path]:
    """The files ROOT/annotations/instances_SPLIT.json by split, sorted."""
    names = sorted(file_names(root / ANNOTATIONS))
    found = (re.fullmatch(r"instances_(.+)\.json", name) for name in names)
    return {match[1]: root / ANNOTATIONS / match[0] for match in found if match and match[1].strip(".")}


def read_coco(settings: DataSettings, root: Path, split: str | None) -> Listing:
    """The images of a split of a COCO root with an annotated class.

    Tags are the categories of all annotations, also of crowds. ``settings.tags`` overrides them: a table that names
    images as ``ID.jpg`` or ``ID``, which also keeps images without an annotation. ``settings.masks`` overrides the
    root's own folder of masks.

    ``split`` is ``train2014``, or without the year if that is unambiguous; None: all splits. Other splits are read too,
    since their classes must agree and their masks share a folder; files without a folder of images are not read, if
    others have one.
    """
    folder = settings.masks or root / MASKS
    top = settings.masks or root
    listing = Listing("coco", root, official=True, masks=mask_locations(folder)[:1])
    files = annotation_files(root)
    wanted = _wanted(files, split)
    if isinstance(wanted, Problem):
        listing.problems.append(wanted)
        return listing
    indexes: dict[str, Index] = {}
    for name in _read_with(wanted, files, root):
        indexes[name], reason = read_index(files[name], _subject(name), folder, top)
        if reason is not None:
            note = f"the index of {_subject(name)} cannot be kept in {folder} ({reason}), so each command reads it all"
            listing.notes.append(note)
    listing.splits = {name: int(index.tags.any(1).sum()) for name, index in indexes.items()}
    listing.problems += _class_problems(indexes)
    listing.names = _classes(wanted, indexes, listing)
    locations = {name: list(map(ImageLocator(files[name]).find, index.names)) for name, index in indexes.items()}
    table = None
    if settings.tags is not None:
        known = {location.id for found in locations.values() for location in found}
        folders = [f"{IMAGES}/{name}" for name in locations]
        table = read_tags(settings.tags, settings, listing, known, *folders, *locations, IMAGES)
    sizes: dict[str, tuple[int, int]] = {}
    for name in wanted:
        listing.notes += indexes[name].notes
        listing.problems += [*indexes[name].problems, *_split_problems(name, wanted, indexes, locations)]
        entries = _entries(name, indexes[name], locations[name], table, sizes)
        if any(location.exists for location in locations[name]):
            listing.entries.extend(entries)
        elif missing := list(entries):
            others = f", and neither do the other {len(missing) - 1:,}" if len(missing) > 1 else ""
            first, source = missing[0].path.name, missing[0].source
            message = f"the image {first} does not exist below {name}/, {IMAGES}/{name}/, {IMAGES}/ or the root{others}"
            remedy = "put the images there; `tag2mask export coco` does so with --images copy or link"
            listing.problems.append(error("missing-image", source, f"{message}; {remedy}"))
    sources = {files[name]: indexes[name].digest for name in wanted}
    listing.rasterisation = Rasterisation(folder, settings.crowd, sources, sizes, top)
    return listing


def _subject(split: str) -> str:
    return f"{ANNOTATIONS}/instances_{split}.json"


def _wanted(files: dict[str, Path], split: str | None) -> list[str] | Problem:
    """The splits with a name, which may lack the year."""
    if not files:
        message = "a COCO root needs a file instances_SPLIT.json here; data.root should be the folder above"
        return error("bad-root", ANNOTATIONS, message)
    if split is None or split in files:
        return list(files) if split is None else [split]
    years = [name for name in files if re.fullmatch(rf"{re.escape(split)}\d{{4}}", name)]
    if len(years) == 1:
        return years
    missing = f"there is no instances_{split}.json"
    if years:
        return error("bad-split", ANNOTATIONS, f"{missing}, there are {first_five(years)}, name one")
    return split_error(ANNOTATIONS, missing, split, files)


def _read_with(wanted: list[str], files: dict[str, Path], root: Path) -> list[str]:
    """The splits to read: the wanted ones, and the others that must agree with them.

    A file without a folder of images, if others have one, is not a split but a list of another split's images, as
    instances_minival2014.json is of val2014's.
    """
    own = [name for name in files if (root / name).is_dir() or (root / IMAGES / name).is_dir()]
    return [name for name in files if name in wanted or name in own or not own]


def _entries(
    split: str, index: Index, locations: list[ImageLocation], table: TableTags | None, sizes: dict[str, tuple[int, int]]
) -> Iterator[Entry]:
    """The images of a split with a tag, or with a line of ``table``; their sizes are added to ``sizes``."""
    classes = index.classes
    rows = zip(index.numbers, index.names, index.sizes.tolist(), index.tags, locations, strict=True)
    for number, name, (height, width), row, location in rows:
        tags: tuple[str, ...] | None = tuple(classes[column] for column in np.flatnonzero(row))
        if table is not None and (tags or location.id in table.lines):
            tags = table(location.id, name)
        elif not tags:
            continue
        sizes[location.id] = height, width
        yield Entry(location.id, location.path, tags, f"{_subject(split)} image {number}", splits=split)


def _class_problems(indexes: dict[str, Index]) -> Iterator[Problem]:
    """Errors for splits where neither list of categories contains the other."""
    for (split, index), (other, second) in combinations(indexes.items(), 2):
        own, others = index.categories.items(), second.categories.items()
        if own and others and not (own <= others or others <= own):
            differing = sorted(set(index.classes) ^ set(second.classes)) or index.classes
            message = f"its categories are not those of {_subject(other)}: {first_five(differing)}"
            rule = "every split should have the same list, or a part of it, with the same ids"
            yield error("bad-classes", _subject(split), f"{message}; {rule}")


def _classes(wanted: list[str], indexes: dict[str, Index], listing: Listing) -> tuple[str, ...]:
    """The classes of all splits in ascending order of their ids."""
    # If lists disagree, which is an error, the wanted split has precedence.
    order = sorted(indexes, key=wanted.__contains__)
    united = {number: name for split in order for number, name in indexes[split].categories.items()}
    part = [_subject(name) for name in wanted if 0 < len(indexes[name].categories) < len(united)]
    if part and len(set(united.values())) == len(united):
        note = f"the classes are the {len(united)} categories of all annotation files together"
        listing.notes.append(f"{note}; some are not in {first_five(part)}")
    return tuple(united[number] for number in sorted(united))


def _split_problems(
    split: str, wanted: list[str], indexes: dict[str, Index], locations: dict[str, list[ImageLocation]]
) -> Iterator[Problem]:
    """Images that are also in other splits, and differences from COCO's own file."""
    subject, index = _subject(split), indexes[split]
    own = {found.id: (name, found.path) for name, found in zip(index.names, locations[split], strict=True)}
    for other in indexes:
        if other == split:
            continue
        # Another list of the same images, if not wanted, is not an error.
        both = sorted(
            own[found.id][0]
            for found in locations[other]
            if found.id in own and (other in wanted or not found.exists or own[found.id][1] != found.path)
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
