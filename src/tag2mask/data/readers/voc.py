"""PASCAL VOC roots, and roots in its layout.

::

    ROOT/JPEGImages/ID.jpg
    ROOT/ImageSets/Segmentation/SPLIT.txt     lines `ID`, or `/JPEGImages/ID.jpg /SegmentationClassAug/ID.png`
    ROOT/ImageSets/Main/SPLIT.txt             used if there are no lists for segmentation
    ROOT/Annotations/ID.xml                   the tags: all objects, also difficult ones; or a tags table
    ROOT/labelmap.txt                         lines `NAME:R,G,B::`, the classes if they are not those of VOC
    ROOT/SegmentationClass/ID.png             ground truth, for evaluation only
    ROOT/SegmentationClassAug/ID.png          the same with the masks of SBD; takes precedence

The ID of an image in a folder below JPEGImages/ contains that folder, as do the paths of its other files.
"""

import codecs
import re
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

from tag2mask.core.errors import first_five
from tag2mask.data.file_names import EXPORT_RECORD, IMAGE_SUFFIXES, id_of_name, is_image_name, nfc
from tag2mask.data.images import IGNORED, palette
from tag2mask.data.problems import Problem, ProblemKind, error, warning
from tag2mask.data.readers.entries import Entry
from tag2mask.data.readers.image_paths import known_id
from tag2mask.data.readers.scan import Listing, MaskLocation, file_names, mask_locations, split_error, walk_files
from tag2mask.data.readers.table import TABLE_NAME, read_tags
from tag2mask.data.settings import DataSettings

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
"""The classes of PASCAL VOC in the official order: ids 1..20."""
# fmt: on

IMAGES = "JPEGImages"
LISTS = Path("ImageSets") / "Segmentation"
OTHER_LISTS = Path("ImageSets") / "Main"
LABELS = "labelmap.txt"
ANNOTATIONS = "Annotations"
AUGMENTED_MASKS = "SegmentationClassAug"
MASKS = "SegmentationClass"
AUGMENTED_SPLITS = ("train_aug", "trainaug")  # the list with the images of SBD; the first name is ours

MULTIBYTE = {"gb2312": "gbk", "euc_kr": "cp949"} | {
    name: name for name in ("gbk", "gb18030", "big5", "big5hkscs", "cp950", "cp949", "euc_jp", "shift_jis", "cp932")
}
"""Encodings that Python's XML parser does not support, by Python's name, and the codec for each."""

_DECLARED = re.compile(rb"""\s*<\?xml[^>]{0,200}?\sencoding\s*=\s*["']([\w.:-]{1,40})["']""")
_MEMBERSHIP = re.compile(r"\S.*\s(-1|0|1)")
_LABELS_LIMIT = 1 << 20  # bytes

_PAIR = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))}))\s+(\S.*)", re.IGNORECASE | re.DOTALL)


@dataclass
class SplitList:
    """A list in ImageSets, or the derived ``train_aug``."""

    subject: str  # the file, for messages
    lines: dict[str, int] = field(default_factory=dict)  # the line of each ID, in order; 0: derived
    of_class: bool = False  # the lines are `ID -1` or `ID 1`: images of one class, not a split
    problems: list[Problem] = field(default_factory=list)


def read_voc(settings: DataSettings, root: Path, split: str | None) -> Listing:
    """The images of a split of a VOC root.

    Tags come from ``settings.tags``, otherwise from Annotations/, otherwise from ROOT/tags.csv; never from masks. A
    table names images as ``JPEGImages/ID.jpg`` or ``ID``. ``settings.masks`` overrides the root's own masks.

    ``split`` is the name of a list; None: all of JPEGImages/. Without a list ``train_aug`` it is all IDs with a mask in
    SegmentationClassAug/ that are not in the list ``val``.
    """
    masks = mask_locations(settings.masks) or (MaskLocation(root / AUGMENTED_MASKS), MaskLocation(root / MASKS))
    listing = Listing("voc", root, names=_labels(root) or VOC_CLASSES, official=True, masks=masks)
    if not (root / IMAGES).is_dir():
        message = f"the folder {IMAGES} with the images does not exist; put them there as {IMAGES}/ID.jpg, which"
        remedy = "`tag2mask export voc` does with --images copy or link, or give their own folder as data.root and"
        listing.problems.append(error("bad-root", str(root), f"{message} {remedy} {root / MASKS} as data.masks"))
        return listing
    files = _images(root)
    lists = _lists(root, files)
    listing.splits = {name: len(members.lines) for name, members in lists.items()}
    if split is None:
        wanted = SplitList(IMAGES, dict.fromkeys(files, 0))
    elif split in lists or (split in AUGMENTED_SPLITS and AUGMENTED_SPLITS[0] in lists):
        wanted = lists[split if split in lists else AUGMENTED_SPLITS[0]]
    else:
        folder = root / (LISTS if (root / LISTS).is_dir() else OTHER_LISTS)
        remedy = f"; to derive it, {AUGMENTED_MASKS}/ with the masks and the list val.txt are needed"
        remedy = remedy if split in AUGMENTED_SPLITS else ""
        listing.problems.append(split_error(str(folder), f"there is no list {split}.txt", split, lists, remedy))
        return listing
    listing.problems += wanted.problems
    tags, folder = _tag_source(settings, listing, files), root / IMAGES
    for image_id, line in wanted.lines.items():
        # A missing image keeps its official name, under which it is reported.
        for name in files.get(image_id, [f"{image_id}.jpg"]):
            found = tags and tags(image_id, f"{IMAGES}/{image_id}.jpg")
            splits = "" if split is not None else ";".join(each for each in lists if image_id in lists[each].lines)
            entry = Entry(image_id, f"{folder}/{name}", found, wanted.subject if line else "", line, splits)
            listing.entries.append(entry)
    return listing


def is_voc(root: Path) -> bool:
    """Whether a folder is a VOC root, or an export in that layout without the images."""
    return (root / IMAGES).is_dir() or ((root / LISTS).is_dir() and (root / EXPORT_RECORD).is_file())


def _labels(root: Path) -> tuple[str, ...]:
    """The classes in labelmap.txt in the order of their ids; empty without a valid list."""
    path = root / LABELS
    try:
        if not path.is_file() or path.stat().st_size > _LABELS_LIMIT:
            return ()
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return ()
    labels = [line.split(":") for line in lines if line.strip() and not line.startswith("#")]
    ignored = ",".join(map(str, palette()[IGNORED]))
    names = [nfc(label[0].strip()) for label in labels if "".join(label[1:2]).replace(" ", "") != ignored]
    valid = all(name and name.isprintable() for name in names) and len(set(names)) == len(names)
    return tuple(names[1:]) if valid and names[:1] == ["background"] else ()


def _images(root: Path) -> dict[str, list[str]]:
    """The images below JPEGImages/ by ID, as relative paths; sorted."""
    found: dict[str, list[str]] = {}
    for name in _below(root / IMAGES):
        if is_image_name(name.rpartition("/")[2]):
            found.setdefault(id_of_name(name), []).append(name)
    return found


def _lists(root: Path, known: Container[str]) -> dict[str, SplitList]:
    """The lists of ImageSets/Segmentation, otherwise of Main, by name, with the derived ``train_aug`` if possible.

    ``known`` are the IDs of `_images`.
    """
    found: dict[str, SplitList] = {}
    for folder in (LISTS, OTHER_LISTS):
        for name in sorted(file_names(root / folder)):
            if name.endswith(".txt"):
                members = _read_list(root / folder / name, str(folder / name), known)
                if folder == LISTS or not members.of_class:
                    found[name.removesuffix(".txt")] = members
        if found:
            break
    masks = [] if "val" not in found or found.keys() & set(AUGMENTED_SPLITS) else _below(root / AUGMENTED_MASKS)
    if masks:
        ids = sorted(id_of_name(name) for name in masks if name.endswith(".png"))
        derived = {image_id: 0 for image_id in ids if image_id not in found["val"].lines}
        found[AUGMENTED_SPLITS[0]] = SplitList(AUGMENTED_MASKS, derived)
    return found


def list_problems(root: Path) -> Iterator[Problem]:
    """Problems of all lists: missing images, and splits that overlap."""
    if not (root / IMAGES).is_dir():  # reported by `read_voc`
        return
    images = _images(root)
    lists = _lists(root, images)
    for members in lists.values():
        yield from members.problems
        for image_id, line in members.lines.items():
            if image_id not in images:
                where = f"{members.subject} line {line}" if line else f"{members.subject}/{image_id}.png"
                message = f"{IMAGES}/{image_id}.jpg does not exist; add the image or remove it from the list"
                yield error("missing-image", where, message)
    for training, held_out in product(("train", *AUGMENTED_SPLITS), ("val", "test")):
        if training in lists and held_out in lists:
            both = [image_id for image_id in lists[training].lines if image_id in lists[held_out].lines]
            if both:
                message = f"images that are in `{held_out}` too, which makes its figures worthless ({len(both)})"
                yield warning("split-overlap", lists[training].subject, f"{message}: {first_five(both)}")


def _below(folder: Path) -> list[str]:
    """All files below a folder as relative paths, sorted; none if it does not exist or cannot be read."""
    try:
        return sorted(name for name, _ in walk_files(folder))
    except OSError:
        return []


def _listed_id(line: str, known: Container[str]) -> str:
    whole = known_id(line, known, IMAGES)
    if whole in known:
        return whole
    pair, columns = _PAIR.fullmatch(line.strip()), line.split()
    if pair and is_image_name(pair[2].rpartition("/")[2]):
        return known_id(pair[1], known, IMAGES)
    if len(columns) == 2:
        same = is_image_name(columns[1].rpartition("/")[2]) and Path(columns[1]).stem == columns[0]
        # Lists of ImageSets/Main align their second column.
        aligned = columns[1] in ("-1", "0", "1") and "  " in line.strip() + " " * columns[1].startswith("-")
        if same or aligned:
            return known_id(columns[0], known, IMAGES)
    return whole


def _read_list(path: Path, subject: str, known: Container[str]) -> SplitList:
    members = SplitList(subject)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as reason:
        message = f"the list could not be read ({reason}); it should have one ID per line, as UTF-8"
        members.problems.append(error("bad-split", subject, message))
        return members
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    members.of_class = bool(numbered) and all(
        _MEMBERSHIP.fullmatch(line.strip()) and line.strip() not in known for _, line in numbered
    )
    for number, line in numbered:
        image_id, where = _listed_id(line, known), f"{subject} line {number}"
        if ".." in image_id.split("/"):
            message = f"`{line.strip()}` leads out of {IMAGES}; write the path of the image below it"
            members.problems.append(error("outside-root", where, message))
            continue
        if image_id in members.lines:
            message = f"{image_id} is listed twice, first on line {members.lines[image_id]}; remove one of the lines"
            members.problems.append(error("duplicate-id", where, message))
        members.lines.setdefault(image_id, number)
    return members


class _XmlTags:
    """The tags in Annotations/ID.xml: the names of all objects, in the order of the file, each once."""

    def __init__(self, listing: Listing) -> None:
        self.listing, self.folder = listing, listing.root / ANNOTATIONS
        self.names = {nfc(name): name for name in _below(self.folder)}

    def __call__(self, image_id: str, image: str) -> tuple[str, ...] | None:
        kind: ProblemKind = "bad-annotation"
        names: list[str] = []
        if (file := self.names.get(f"{image_id}.xml")) is None:
            fault, kind = "the image has no annotation; add the file", "missing-tags"
        else:
            try:
                objects = _xml(Path(f"{self.folder}/{file}")).findall("object")
                names = [(found.findtext("name") or "").strip() for found in objects]
                fault = "" if all(names) else "an object has no name; fill it"
            except (OSError, ElementTree.ParseError, LookupError, ValueError) as reason:
                fault = f"the annotation could not be read as XML ({reason}); replace it"
        if fault:
            problem = error(kind, f"{ANNOTATIONS}/{image_id}.xml", f"{fault}, or give data.tags")
            self.listing.problems.append(problem)
            return None
        return tuple(dict.fromkeys(names))


def _xml(path: Path) -> ElementTree.Element:
    """The root of an XML file, in the encoding that it declares."""
    content = path.read_bytes()
    declared = _DECLARED.match(content)
    encoding = declared and MULTIBYTE.get(codecs.lookup(declared[1].decode("ascii")).name)
    # The parser ignores the declaration of a decoded text.
    return ElementTree.fromstring(content.decode(encoding) if encoding else content)


def _tag_source(
    settings: DataSettings, listing: Listing, known: Container[str]
) -> Callable[[str, str], tuple[str, ...] | None] | None:
    """Returns the tags of (ID, image name); None if there are none. Problems are added to ``listing``."""
    own = listing.root / TABLE_NAME
    if settings.tags is None and (listing.root / ANNOTATIONS).is_dir():
        annotations = _XmlTags(listing)
        if any(name.endswith(".xml") for name in annotations.names) or not own.is_file():
            return annotations
    if settings.tags is None and not own.is_file():
        message = f"a VOC root without {ANNOTATIONS}/ has no tags; give a tags table as data.tags, or put it at {own}"
        listing.problems.append(error("missing-tags", str(listing.root), message))
        return None
    return read_tags(settings.tags or own, settings, listing, known, IMAGES)
