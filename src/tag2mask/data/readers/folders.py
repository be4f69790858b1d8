"""Class folders, inspection data sets in the layout of MVTec AD, folders without tags, and layouts of other tools."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from glob import has_magic, iglob
from pathlib import Path

from tag2mask.core.errors import first_five
from tag2mask.data.classes import NONE, did_you_mean, folded_name, in_order, is_negative, negative_names
from tag2mask.data.file_names import IMAGE_SUFFIXES, UNREAD_SUFFIXES, id_of_name, inside, is_hidden, is_image_name, nfc
from tag2mask.data.problems import error, warning
from tag2mask.data.readers.entries import Entries, Entry
from tag2mask.data.readers.scan import MASK_SUFFIX, Listing, MaskLocation, mask_locations, split_error, walk_files
from tag2mask.data.settings import DataSettings

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "dev"})
"""Names of folders of splits."""

PARTS = frozenset(
    {"images", "image", "imgs", "img", "photos", "pictures", "jpegimages", "masks", "mask", "labels", "label", "gt"}
    | {"annotations", "annotation", "ground_truth", "groundtruth", "segmentation", "segmentationclass", "labelmaps"}
)
"""Names of folders of images or annotations."""

GOOD = "good"
TRUTH = "ground_truth"
MVTEC_SPLITS = ("train", "validation", "test")
MASK_VALUES = "255=tag"  # the default of `data.mask_values`: masks are binary, and the folder is the class

_TABLE = "write a table `image,tags` and give it as --data.tags"


def read_folders(settings: DataSettings, root: Path, split: str | None) -> Listing:
    """The images in class folders, each with one tag.

    ::

        ROOT/cat/one.jpg            ID cat/one, tag cat
        ROOT/dog/more/one.jpg       ID dog/more/one, tag dog
        ROOT/dog/one_mask.png       the ground truth of dog/one, if that image exists
        ROOT/_none/two.jpg          ID _none/two, no tag: none of the classes

    Hidden and system files, and the folder ``settings.masks``, are ignored. Besides ``_none``, names in
    ``settings.negatives`` mean no tag. A ``split`` is an error.
    """
    listing = Listing("folders", root, masks=mask_locations(settings.masks))
    if split is not None:
        message = f"class folders have no split `{split}`; point data.root at its folder, or use a tags table"
        listing.problems.append(error("bad-split", str(root), message))
    if settings.kind == "auto" and (layout := _known_layout(root)):
        message = f"{layout}. To read each top folder as a class, give --data.kind folders"
        listing.problems.append(error("known-layout", str(root), message))
        return listing
    negatives: set[str] = set()
    ignored: list[str] = []
    unsupported = Counter[str]()  # files in unsupported formats, by top folder
    names: dict[str, None] = {}
    masks = 0
    for name, is_image in _files(listing, settings.masks):
        class_name, _, rest = nfc(name).partition("/")
        if not is_image:
            ignored.append(name)
            if os.path.splitext(name)[1].lower() in UNREAD_SUFFIXES:  # noqa: PTH122
                unsupported[class_name if rest else ""] += 1
        elif not rest:
            message = (
                f"an image lies next to the class folders; move it to ROOT/CLASS/{name}, or name a table as data.tags"
            )
            listing.problems.append(error("outside-class-folder", name, message))
        elif _is_mask_of_another(root, name):
            masks += 1
        else:
            if class_name not in names and is_negative(class_name, settings.negatives):
                negatives.add(class_name)
            tags = () if class_name in negatives else (class_name,)
            listing.entries.append(Entry(id_of_name(name), inside(root, name), tags))
            names[class_name] = None
    listing.names = in_order(name for name in names if name not in negatives)
    if masks:
        listing.masks = (*listing.masks, MaskLocation(root, MASK_SUFFIX))
        listing.notes.append(f"{masks} files NAME{MASK_SUFFIX} next to NAME are read as ground truth, not as images")
    folded = {folded_name(name) for name in names}
    for name in sorted(each for each in negative_names(settings.negatives) - {NONE} if folded_name(each) not in folded):
        message = f"there is no folder `{name}` with images{did_you_mean(name, names)}"
        listing.problems.append(error("bad-classes", "data.negatives", message))
    unlikely = [name for name in listing.names if name.lower() in SPLITS | PARTS]
    if unlikely:
        message = f"each top folder is read as a class, also {first_five(unlikely)}"
        remedy = "if it is not a class, point data.root deeper, or give data.tags"
        listing.problems.append(warning("unlikely-class", str(root), f"{message}; {remedy}"))
    for name, count in unsupported.items():
        kinds = f"{count} files there are of kinds that are not read, such as HEIC or raw; convert them to JPEG or PNG"
        if name and name not in names:
            listing.problems.append(error("unread-format", name, f"the class `{name}` has no image: {kinds}"))
        else:
            listing.problems.append(warning("unread-format", name or str(root), kinds))
    if ignored:
        message = f"files that are not named like images are passed over ({len(ignored)}): {first_five(ignored)}"
        listing.problems.append(warning("ignored-file", str(root), message))
    return listing


def _is_mask_of_another(root: Path, name: str) -> bool:
    """Whether a file is NAME_mask.png next to an image NAME."""
    if not name.endswith(MASK_SUFFIX):
        return False
    stem = inside(root, name.removesuffix(MASK_SUFFIX))
    return any(os.path.isfile(stem + suffix) for suffix in IMAGE_SUFFIXES)  # noqa: PTH113 - strings


def read_untagged(root: Path, *, skip: Path | None = None) -> Listing:
    """All images below ``root``, a folder or one image, without tags; the folder ``skip`` is not entered.

    ``NAME_mask.png`` next to an image ``NAME`` is not an image.
    """
    if root.is_file():
        return Listing("folders", root.parent, Entries([Entry(id_of_name(root.name), str(root), ())]))
    listing = Listing("folders", root)
    for name, is_image in _files(listing, skip):
        if is_image and not _is_mask_of_another(root, name):
            listing.entries.append(Entry(id_of_name(name), inside(root, name), ()))
    return listing


def read_pattern(pattern: Path, *, skip: Path | None = None) -> Listing:
    """All images that a pattern matches, without tags; hidden files, and files in the folder ``skip``, are ignored.

    Args:
        pattern: `*`, `?`, `[abc]` within a name, `**` for nested folders. The folder before the first such part is the
            root of the IDs.
        skip: a folder.
    """
    fixed = next(number for number, part in enumerate(pattern.parts) if has_magic(part))
    listing = Listing("folders", Path(*pattern.parts[:fixed]))
    if ".." in pattern.parts[fixed:]:  # the masks of such IDs would be outside their folder
        message = "`..` behind a wildcard leads out of the folder that the pattern begins in; begin with another folder"
        listing.problems.append(error("outside-root", str(pattern), message))
        return listing
    outside = None if skip is None else Path(os.path.abspath(skip))  # noqa: PTH100 - it takes out ".."
    for name in sorted(iglob(str(pattern), recursive=True)):  # noqa: PTH207 - a pattern may begin anywhere
        path = Path(name)
        hidden = outside is not None and outside in Path(os.path.abspath(path)).parents  # noqa: PTH100
        hidden = hidden or any(is_hidden(part) for part in path.relative_to(listing.root).parts)
        if is_image_name(path.name) and path.is_file() and not hidden:
            listing.entries.append(Entry(id_of_name(path.relative_to(listing.root).as_posix()), str(path), ()))
    return listing


def _files(listing: Listing, *skip: Path | None) -> Iterator[tuple[str, bool]]:
    try:
        yield from walk_files(listing.root, skip=[each for each in skip if each is not None])
    except OSError as reason:
        message = f"the folder could not be read ({reason.strerror}); give it the right to be listed"
        listing.problems.append(error("bad-root", str(reason.filename or listing.root), message))


def is_mvtec(root: Path) -> bool:
    """Whether a folder has the layout of MVTec AD: test/ and ground_truth/, and a folder good/ in a split."""
    has_good = any((root / split / GOOD).is_dir() for split in MVTEC_SPLITS)
    return has_good and (root / TRUTH).is_dir() and (root / "test").is_dir()


def read_mvtec(settings: DataSettings, root: Path, split: str | None) -> Listing:
    """The images of a split (``train``, ``validation`` or ``test``; None: all) of an inspection data set.

    ::

        ROOT/train/good/000.png
        ROOT/test/good/000.png                     no tags: none of the classes
        ROOT/test/crack/000.png                    ID test/crack/000, tag crack
        ROOT/ground_truth/crack/000_mask.png       0 and 255; for evaluation only

    ``settings.masks`` overrides the root's own masks; ``settings.negatives`` are further names of good parts.
    """
    truth = settings.masks or root / TRUTH
    places = tuple(MaskLocation(truth, suffix, "test/") for suffix in (MASK_SUFFIX, ".png"))
    listing = Listing("mvtec", root, masks=places)
    folders = [name for name in MVTEC_SPLITS if (root / name).is_dir()]
    if split is not None and split not in folders:
        listing.problems.append(split_error(str(root), f"there is no folder {split}/", split, folders))
        return listing
    names: set[str] = set()
    for folder in folders:
        count = 0
        for name, is_image in walk_files(root / folder, skip=[truth]):
            class_name, _, rest = nfc(name).partition("/")
            if not is_image or not rest:
                continue
            count += 1
            tags = () if class_name == GOOD or is_negative(class_name, settings.negatives) else (class_name,)
            names.update(tags)
            if split in (None, folder):
                below = f"{folder}/{name}"
                listing.entries.append(Entry(id_of_name(below), inside(root, below), tags, splits=folder))
        listing.splits[folder] = count
    listing.names = in_order(names)
    listing.notes.append(
        f"read as an inspection set: {GOOD}/ holds images of none of the classes, {TRUTH}/ binary masks of the others"
    )
    return listing


def _known_layout(root: Path) -> str | None:
    """The tool whose layout a folder has, and the remedy; None if it may be class folders."""
    try:
        items = sorted(item for item in root.iterdir() if not is_hidden(item.name))
    except OSError:  # reported when the folders are read
        return None
    folders = [item for item in items if item.is_dir()]
    names = {folder.name.lower() for folder in folders}
    contents = {f"{name}/" for name in names} | {item.name.lower() for item in items if item.is_file()}
    shown = ", ".join(folder.name for folder in folders[:5])
    if any((folder / "_annotations.coco.json").is_file() for folder in folders):
        return (
            "this is COCO's format as Roboflow writes it; move each SPLIT/_annotations.coco.json to "
            "ROOT/annotations/instances_SPLIT.json"
        )
    for alternatives, advice in _TOOLS:
        if any(needed <= contents for needed in alternatives):
            return advice
    if _is_labelme(folders):
        return f"JSON files of LabelMe lie next to the images and are not read; {_TABLE}"
    if names and names <= SPLITS:
        inner = sorted(folder for folder in folders if folder.name.lower().startswith("tr")) or folders
        return f"the top folders are splits ({shown}); give one as --data.root {inner[0]}, or {_TABLE}"
    if names and names <= PARTS | SPLITS:
        return (
            f"the top folders hold images and what was drawn on them ({shown}); give the folder of the images as "
            f"--data.root, that of the masks as --data.masks, and {_TABLE}"
        )
    inspection = next((each for each in folders if (each / "ground_truth").is_dir() and (each / "test").is_dir()), None)
    if inspection is not None:
        return f"each top folder is an inspection set of its own; give one as --data.root {inspection}"
    return None


def _is_labelme(folders: list[Path]) -> bool:
    """Whether a JSON file of LabelMe lies next to its image, in one of the first folders."""
    for folder in folders[:5]:
        for image in (path for path in sorted(folder.iterdir())[:20] if is_image_name(path.name)):
            try:
                found = json.loads(image.with_suffix(".json").read_bytes()[:50_000_000])
            except (OSError, ValueError, RecursionError):
                continue
            if isinstance(found, dict) and "shapes" in found:
                return True
    return False


_YOLO = [{file, f"{folder}/"} for file in ("data.yaml", "dataset.yaml") for folder in PARTS | SPLITS]

_TOOLS: tuple[tuple[list[set[str]], str], ...] = (
    (
        [{"obj.names"}, {"obj.data"}, {"images/", "labels/"}, *_YOLO],
        f"this is YOLO's layout, whose labels are not read; export it as COCO, or {_TABLE}",
    ),
    (
        [{"metadata.json", "samples.json"}, {"labels.json", "data/"}],
        "this is an export of FiftyOne; move labels.json to ROOT/annotations/instances_data.json if it is COCO's "
        f"format, or {_TABLE}",
    ),
    (
        [{"result.json", "images/"}, {"notes.json", "classes.txt"}],
        "this is an export of Label Studio; in COCO's format, move result.json to "
        "ROOT/annotations/instances_images.json, or export CSV and give it as --data.tags",
    ),
    ([{"annotations.xml"}], f"this is an export of CVAT for images; export it as COCO 1.0, or {_TABLE}"),
)
"""Alternative sets of names in a tool's export, in lower case, folders with a slash; and the remedy."""
