"""PASCAL VOC roots, and roots in its layout.

::

    ROOT/JPEGImages/ID.jpg
    ROOT/ImageSets/Segmentation/SPLIT.txt     one ID a line, or `/JPEGImages/ID.jpg /SegmentationClassAug/ID.png`
    ROOT/ImageSets/Main/SPLIT.txt             where there is no such list
    ROOT/Annotations/ID.xml                   the tags: all objects, difficult ones too; or a tags table
    ROOT/labelmap.txt                         NAME:R,G,B:: a line, the classes if they are not VOC's own
    ROOT/SegmentationClass/ID.png             ground truth, for evaluation only
    ROOT/SegmentationClassAug/ID.png          the same with the masks of SBD; looked at first

An image in a folder below JPEGImages/ has that folder in its ID, and so have its other files.
"""

import codecs
import re
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from tag2mask.core.errors import first_five
from tag2mask.data.classes import did_you_mean
from tag2mask.data.file_names import EXPORT_RECORD, IMAGE_SUFFIXES, id_of_name, is_image_name, nfc
from tag2mask.data.images import IGNORED, palette
from tag2mask.data.problems import Problem, error, warning
from tag2mask.data.readers.entries import Entry
from tag2mask.data.readers.image_paths import known_id
from tag2mask.data.readers.scan import Listing, MaskPlace, file_names, mask_places, walk_files
from tag2mask.data.readers.table import TABLE_NAME, TableTags
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
AUGMENTED_SPLITS = ("train_aug", "trainaug")  # names of the list with the images of SBD; the first one is ours

MULTIBYTE = {"gb2312": "gbk", "euc_kr": "cp949"} | {
    name: name for name in ("gbk", "gb18030", "big5", "big5hkscs", "cp950", "cp949", "euc_jp", "shift_jis", "cp932")
}
"""Python's names of encodings of XML that its parser does not know, and the codec that reads each."""

_DECLARED = re.compile(rb"""\s*<\?xml[^>]{0,200}?\sencoding\s*=\s*["']([\w.:-]{1,40})["']""")
_MEMBERSHIP = re.compile(r"\S.*\s(-1|0|1)")
_LABELS_LIMIT = 1 << 20  # bytes

_PAIR = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))}))\s+(\S.*)", re.IGNORECASE | re.DOTALL)


@dataclass
class VocList:
    """A list of ImageSets, or one that is derived.

    Attributes:
        subject: the file as it is shown.
        lines: the line (0: derived) of each ID, in order.
        of_class: its lines are `ID -1` or `ID 1`: images of one class and not a split.
        problems: what is wrong with the file.
    """

    subject: str
    lines: dict[str, int] = field(default_factory=dict)
    of_class: bool = False
    problems: list[Problem] = field(default_factory=list)


def read_voc(settings: DataSettings, root: Path, split: str | None) -> Listing:
    """The images of a split of a VOC root.

    Tags come from ``settings.tags`` if given, else from Annotations/, else from ROOT/tags.csv; never from masks. The
    key of a tags table is ``JPEGImages/ID.jpg`` or ``ID``.

    Args:
        settings: the tags table and the folder of masks that override the root's own.
        root: the folder with JPEGImages/.
        split: the name of a list; None: all of JPEGImages/. Without a list ``train_aug`` it is all IDs with a mask in
            SegmentationClassAug/ that are not in the list ``val``.
    """
    masks = mask_places(settings.masks) or (MaskPlace(root / AUGMENTED_MASKS), MaskPlace(root / MASKS))
    listing = Listing("voc", root, names=_labels(root) or VOC_CLASSES, official=True, masks=masks)
    if not (root / IMAGES).is_dir():
        message = f"the folder {IMAGES} with the images does not exist; put them there as {IMAGES}/ID.jpg, which"
        remedy = "`tag2mask export voc` does with --images copy or link, or give their own folder as data.root and"
        listing.problems.append(error("bad-root", str(root), f"{message} {remedy} {root / MASKS} as data.masks"))
        return listing
    files = voc_images(root)
    lists = voc_lists(root, files)
    listing.splits = {name: len(members.lines) for name, members in lists.items()}
    if split is None:
        wanted = VocList(IMAGES, dict.fromkeys(files, 0))
    elif split in lists or (split in AUGMENTED_SPLITS and AUGMENTED_SPLITS[0] in lists):
        wanted = lists[split if split in lists else AUGMENTED_SPLITS[0]]
    else:
        listing.problems.append(_split_problem(root, split, lists))
        return listing
    listing.problems += wanted.problems
    tags, folder = _tags(settings, listing, files), root / IMAGES
    for image_id, line in wanted.lines.items():
        # A missing image keeps its official name, under which it is reported.
        for name in files.get(image_id, [f"{image_id}.jpg"]):
            found = tags(image_id, f"{IMAGES}/{image_id}.jpg")
            if isinstance(found, Problem):
                listing.problems.append(found)
                found = None
            splits = "" if split is not None else ";".join(each for each in lists if image_id in lists[each].lines)
            entry = Entry(image_id, f"{folder}/{name}", found, wanted.subject if line else "", line, splits)
            listing.entries.append(entry)
    return listing


def is_voc(root: Path) -> bool:
    """Whether a folder is a VOC root, or an export in that layout without the images."""
    return (root / IMAGES).is_dir() or ((root / LISTS).is_dir() and (root / EXPORT_RECORD).is_file())


def _labels(root: Path) -> tuple[str, ...]:
    """The classes in labelmap.txt in the order of their ids; none if there is no sound list."""
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
    sound = all(name and name.isprintable() for name in names) and len(set(names)) == len(names)
    return tuple(names[1:]) if sound and names[:1] == ["background"] else ()


def voc_images(root: Path) -> dict[str, list[str]]:
    """The images below JPEGImages/ by ID, as paths relative to it; sorted."""
    found: dict[str, list[str]] = {}
    for name in _below(root / IMAGES):
        if is_image_name(name.rpartition("/")[2]):
            found.setdefault(id_of_name(name), []).append(name)
    return found


def voc_lists(root: Path, known: Container[str]) -> dict[str, VocList]:
    """All lists of ImageSets/Segmentation, or else of Main, by name; ``train_aug`` is derived where it can be.

    Args:
        root: the folder with JPEGImages/.
        known: the IDs of `voc_images`.
    """
    lists = _lists(root, LISTS, known) or {
        name: members for name, members in _lists(root, OTHER_LISTS, known).items() if not members.of_class
    }
    masks = [] if "val" not in lists or lists.keys() & set(AUGMENTED_SPLITS) else _below(root / AUGMENTED_MASKS)
    if masks:
        ids = sorted(id_of_name(name) for name in masks if name.endswith(".png"))
        derived = {image_id: 0 for image_id in ids if image_id not in lists["val"].lines}
        lists[AUGMENTED_SPLITS[0]] = VocList(AUGMENTED_MASKS, derived)
    return lists


def _lists(root: Path, folder: Path, known: Container[str]) -> dict[str, VocList]:
    """The lists in a folder by name."""
    names = sorted(name for name in file_names(root / folder) if name.endswith(".txt"))
    return {name.removesuffix(".txt"): _read_list(root / folder / name, str(folder / name), known) for name in names}


def list_problems(root: Path) -> Iterator[Problem]:
    """What is wrong with all lists: missing images, and splits that overlap."""
    if not (root / IMAGES).is_dir():  # which `read_voc` says
        return
    images = voc_images(root)
    lists = voc_lists(root, images)
    for members in lists.values():
        yield from members.problems
        for image_id, line in members.lines.items():
            if image_id not in images:
                where = f"{members.subject} line {line}" if line else f"{members.subject}/{image_id}.png"
                message = f"{IMAGES}/{image_id}.jpg does not exist; add the image or remove it from the list"
                yield error("missing-image", where, message)
    for training in ("train", *AUGMENTED_SPLITS):
        for held_out in ("val", "test"):
            if training in lists and held_out in lists:
                both = [image_id for image_id in lists[training].lines if image_id in lists[held_out].lines]
                if both:
                    message = f"images that are in `{held_out}` too, which makes its figures worthless"
                    named = f"{message} ({len(both)}): {first_five(both)}"
                    yield warning("split-overlap", lists[training].subject, named)


def _below(folder: Path) -> list[str]:
    """All files below a folder, relative to it, sorted; none if it does not exist or cannot be read."""
    try:
        return sorted(name for name, _ in walk_files(folder))
    except OSError:
        return []


def _listed_id(line: str, known: Container[str]) -> str:
    """The ID in a line of a list."""
    whole = known_id(line, known, IMAGES)
    if whole in known:
        return whole
    pair, columns = _PAIR.fullmatch(line.strip()), line.split()
    if pair and is_image_name(pair[2].rpartition("/")[2]):
        return known_id(pair[1], known, IMAGES)
    if len(columns) == 2 and is_image_name(columns[1].rpartition("/")[2]) and Path(columns[1]).stem == columns[0]:
        return known_id(columns[0], known, IMAGES)
    if len(columns) == 2 and columns[1] in ("-1", "0", "1") and "  " in line.strip() + " " * columns[1].startswith("-"):
        return known_id(columns[0], known, IMAGES)  # the lists of ImageSets/Main, which align their second column
    return whole


def _read_list(path: Path, subject: str, known: Container[str]) -> VocList:
    members = VocList(subject)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as reason:
        message = f"the list could not be read ({reason}); it should have one ID a line, as UTF-8"
        members.problems.append(error("bad-split", subject, message))
        return members
    filled = [line.strip() for line in lines if line.strip()]
    members.of_class = bool(filled) and all(_MEMBERSHIP.fullmatch(each) and each not in known for each in filled)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        image_id = _listed_id(line, known)
        if ".." in image_id.split("/"):
            message = f"`{line.strip()}` leads out of {IMAGES}; write the path of the image below it"
            members.problems.append(error("outside-root", f"{subject} line {number}", message))
            continue
        if image_id in members.lines:
            message = f"{image_id} is listed twice, first on line {members.lines[image_id]}; remove one of the lines"
            members.problems.append(error("duplicate-id", f"{subject} line {number}", message))
        members.lines.setdefault(image_id, number)
    return members


_Tags = Callable[[str, str], tuple[str, ...] | Problem | None]
"""Tags by ID and by the image's name to show; None: they cannot be read, which was reported."""


class _XmlTags:
    """The tags of Annotations/ID.xml: the names of all objects, in the order of the file, each once."""

    def __init__(self, root: Path) -> None:
        self.folder = root / ANNOTATIONS
        self.names = {nfc(name): name for name in _below(self.folder)}

    def __call__(self, image_id: str, image: str) -> tuple[str, ...] | Problem:
        subject = f"{ANNOTATIONS}/{image_id}.xml"
        name = self.names.get(f"{image_id}.xml")
        if name is None:
            return error("missing-tags", subject, "the image has no annotation; add the file, or give data.tags")
        try:
            objects = _xml(Path(f"{self.folder}/{name}")).findall("object")
        except (OSError, ElementTree.ParseError, LookupError, ValueError) as reason:
            message = f"the annotation could not be read as XML ({reason}); replace it, or give data.tags"
            return error("bad-annotation", subject, message)
        names = [(found.findtext("name") or "").strip() for found in objects]
        if not all(names):
            return error("bad-annotation", subject, "an object has no name; fill it, or give data.tags")
        return tuple(dict.fromkeys(names))


def _xml(path: Path) -> ElementTree.Element:
    """The root of an XML file, in the encoding that it declares."""
    content = path.read_bytes()
    declared = _DECLARED.match(content)
    encoding = declared and MULTIBYTE.get(codecs.lookup(declared[1].decode("ascii")).name)
    # The parser ignores the declaration of a decoded text.
    return ElementTree.fromstring(content.decode(encoding) if encoding else content)


def _no_tags(image_id: str, image: str) -> None:
    """Stands where a root has no tags, which was reported once."""


def _tags(settings: DataSettings, listing: Listing, known: Container[str]) -> _Tags:
    own = listing.root / TABLE_NAME
    if settings.tags is None and (listing.root / ANNOTATIONS).is_dir():
        annotations = _XmlTags(listing.root)
        if any(name.endswith(".xml") for name in annotations.names) or not own.is_file():
            return annotations
    if settings.tags is None and not own.is_file():
        message = f"a VOC root without {ANNOTATIONS}/ has no tags; give a tags table as data.tags, or put it at {own}"
        listing.problems.append(error("missing-tags", str(listing.root), message))
        return _no_tags
    path = settings.tags or own
    tags = TableTags(path, settings, listing, known, IMAGES)
    # Without a sound line the table's own problem says everything.
    return tags if tags.lines or not tags.table.problems else _no_tags


def _split_problem(root: Path, split: str, lists: dict[str, VocList]) -> Problem:
    known = f"there are {first_five(lists)}" if lists else "there are no lists"
    message = f"there is no list {split}.txt, {known}{did_you_mean(split, lists)}"
    if split in AUGMENTED_SPLITS:
        message += f"; to derive it, {AUGMENTED_MASKS}/ with the masks and the list val.txt are needed"
    return error("bad-split", str(root / (LISTS if (root / LISTS).is_dir() else OTHER_LISTS)), message)
