"""Class folders, inspection sets in the layout of MVTec AD, folders without tags; and layouts of other tools."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from glob import has_magic, iglob
from pathlib import Path

from tag2mask.core.errors import first_five
from tag2mask.data.classes import NONE, did_you_mean, folded_name, in_order, is_negative, negative_names
from tag2mask.data.file_names import IMAGE_SUFFIXES, UNREAD_SUFFIXES, id_of_name, inside, is_hidden, is_image_name, nfc
from tag2mask.data.problems import error, warning
from tag2mask.data.readers.entries import Entries, Entry
from tag2mask.data.readers.scan import MASK_ENDING, Listing, MaskPlace, mask_places, walk_files
from tag2mask.data.settings import DataSettings

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "dev"})
"""Names of folders that are splits."""

PARTS = frozenset(
    {"images", "image", "imgs", "img", "photos", "pictures", "jpegimages", "masks", "mask", "labels", "label", "gt"}
    | {"annotations", "annotation", "ground_truth", "groundtruth", "segmentation", "segmentationclass", "labelmaps"}
)
"""Names of folders that hold images or annotations."""

_TABLE = "write a table `image,tags` and give it as --data.tags"


GOOD = "good"
TRUTH = "ground_truth"
MVTEC_SPLITS = ("train", "validation", "test")

MASK_VALUES = "255=tag"  # the default of `data.mask_values`: masks are binary, and the folder is the class


def read_folders(settings: DataSettings, root: Path, split: str | None) -> Listing:
    """The images in class folders, each with one tag.

    ::

        ROOT/cat/one.jpg            ID cat/one, tag cat
        ROOT/dog/more/one.jpg       ID dog/more/one, tag dog
        ROOT/dog/one_mask.png       the ground truth of dog/one, where that image is there
        ROOT/_none/two.jpg          ID _none/two, no tag: it holds none of the classes

    Hidden files and folders, those of systems, and the folder ``settings.masks`` are passed over. Further names than
    ``_none`` are in ``settings.negatives``. A ``split`` is an error.
    """
    listing = Listing("folders", root, masks=mask_places(settings.masks))
    if split is not None:
        message = f"class folders have no split `{split}`; point data.root at its folder, or use a tags table"
        listing.problems.append(error("bad-split", str(root), message))
    layout = _known_layout(root) if settings.kind == "auto" else None
    if layout is not None:
        message = f"{layout}. To read each top folder as a class, give --data.kind folders"
        listing.problems.append(error("known-layout", str(root), message))
        return listing
    negatives: set[str] = set()
    ignored: list[str] = []
    unread: dict[str, int] = {}  # files of kinds that are not read, by top folder
    names: dict[str, None] = {}
    masks = 0
    for name, is_image in _files(listing, settings.masks):
        class_name, _, rest = nfc(name).partition("/")
        if not is_image:
            ignored.append(name)
            if os.path.splitext(name)[1].lower() in UNREAD_SUFFIXES:  # noqa: PTH122
                unread[class_name if rest else ""] = unread.get(class_name if rest else "", 0) + 1
        elif not rest:
            message = f"an image lies beside the class folders; move it to ROOT/CLASS/{name}"
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
        listing.masks = (*listing.masks, MaskPlace(root, MASK_ENDING))
        read = "are read as ground truth, not as images"
        listing.notes.append(f"{masks} files NAME{MASK_ENDING} next to NAME {read}")
    folded = {folded_name(name) for name in names}
    for name in sorted(each for each in negative_names(settings.negatives) - {NONE} if folded_name(each) not in folded):
        message = f"there is no folder `{name}` with images{did_you_mean(name, names)}"
        listing.problems.append(error("bad-classes", "data.negatives", message))
    unlikely = [name for name in listing.names if name.lower() in SPLITS | PARTS]
    if unlikely:
        message = f"each top folder is read as a class, also {first_five(unlikely)}"
        remedy = "if it is none, point data.root deeper, or give data.tags"
        listing.problems.append(warning("unlikely-class", str(root), f"{message}; {remedy}"))
    for name, count in unread.items():
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
    """Whether a file is NAME_mask.png, and the image NAME lies next to it."""
    if not name.endswith(MASK_ENDING):
        return False
    stem = inside(root, name.removesuffix(MASK_ENDING))
    return any(os.path.isfile(stem + suffix) for suffix in IMAGE_SUFFIXES)  # noqa: PTH113 - strings


def read_untagged(root: Path, *, skip: Path | None = None) -> Listing:
    """All images below ``root``, a folder or one image, without tags; ``skip`` is not entered."""
    if root.is_file():
        return Listing("folders", root.parent, Entries([Entry(id_of_name(root.name), str(root), ())]))
    listing = Listing("folders", root)
    for name, is_image in _files(listing, skip):
        if is_image:
            listing.entries.append(Entry(id_of_name(name), inside(root, name), ()))
    return listing


def read_pattern(pattern: Path, *, skip: Path | None = None) -> Listing:
    """All images that a pattern matches, without tags; hidden files are passed over.

    Args:
        pattern: as a shell reads it: `*`, `?`, `[abc]` within a name, `**` for folders below folders. The folder
            before the first such part is the root that IDs are relative to.
        skip: a folder whose files are passed over.
    """
    fixed = next(number for number, part in enumerate(pattern.parts) if has_magic(part))
    listing = Listing("folders", Path(*pattern.parts[:fixed]))
    if ".." in pattern.parts[fixed:]:  # an ID with it would leave the folder of the masks
        message = "`..` behind a wildcard leads out of the folder that the pattern begins in; begin with another one"
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
    """Whether a folder has the layout of MVTec AD: test/ and ground_truth/, with a folder of good parts."""
    return (
        (root / TRUTH).is_dir() and (root / "test").is_dir() and any((root / s / GOOD).is_dir() for s in MVTEC_SPLITS)
    )


def read_mvtec(settings: DataSettings, root: Path, split: str | None) -> Listing:
    """The images of a split (``train``, ``validation`` or ``test``; None: all) of an inspection set, with their tags.

    ::

        ROOT/train/good/000.png
        ROOT/test/good/000.png                     no tags: it holds none of the classes
        ROOT/test/crack/000.png                    ID test/crack/000, tag crack
        ROOT/ground_truth/crack/000_mask.png       0 and 255; for evaluation only

    ``settings.masks`` overrides the root's own masks, and ``settings.negatives`` has further names of good parts.
    """
    truth = settings.masks or root / TRUTH
    places = tuple(MaskPlace(truth, suffix, "test/") for suffix in (MASK_ENDING, ".png"))
    listing = Listing("mvtec", root, masks=places)
    there = [name for name in MVTEC_SPLITS if (root / name).is_dir()]
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
                below = f"{folder}/{name}"
                listing.entries.append(Entry(id_of_name(below), inside(root, below), tags, splits=folder))
        listing.splits[folder] = count
    listing.names = in_order(names)
    listing.notes.append(
        f"read as an inspection set: {GOOD}/ holds images of none of the classes, {TRUTH}/ binary masks of the others"
    )
    return listing


def _known_layout(root: Path) -> str | None:
    """Which tool's layout a folder has, and what to do; None if it may be class folders."""
    try:
        items = sorted(item for item in root.iterdir() if not is_hidden(item.name))
    except OSError:  # who reads the folders says so
        return None
    files = {item.name.lower() for item in items if item.is_file()}
    folders = [item for item in items if item.is_dir()]
    names = {folder.name.lower() for folder in folders}
    for test, advice in _TOOLS:
        if test(files, names, folders):
            return advice
    if names and names <= SPLITS:
        inner = sorted(folder for folder in folders if folder.name.lower().startswith("tr")) or folders
        return f"the top folders are splits ({_listed(folders)}); give one as --data.root {inner[0]}, or {_TABLE}"
    if names and names <= PARTS | SPLITS:
        return (
            f"the top folders hold images and what was drawn on them ({_listed(folders)}); give the folder of the "
            f"images as --data.root, that of the masks as --data.masks, and {_TABLE}"
        )
    inspection = next((each for each in folders if (each / "ground_truth").is_dir() and (each / "test").is_dir()), None)
    if inspection is not None:
        return f"each top folder is an inspection set of its own; give one as --data.root {inspection}"
    return None


def _listed(folders: Iterable[Path]) -> str:
    return ", ".join(folder.name for folder in list(folders)[:5])


def _is_labelme(files: set[str], names: set[str], folders: list[Path]) -> bool:
    """Whether a JSON file of LabelMe lies next to its image, in the first folder that has images."""
    for folder in folders[:5]:
        for image in (path for path in sorted(folder.iterdir())[:20] if is_image_name(path.name)):
            try:
                found = json.loads(image.with_suffix(".json").read_bytes()[:50_000_000])
            except (OSError, ValueError, RecursionError):
                continue
            if isinstance(found, dict) and "shapes" in found:
                return True
    return False


_Test = Callable[[set[str], set[str], list[Path]], bool]

_TOOLS: tuple[tuple[_Test, str], ...] = (
    (
        lambda files, names, folders: any((folder / "_annotations.coco.json").is_file() for folder in folders),
        "this is COCO's format as Roboflow writes it; move each SPLIT/_annotations.coco.json to "
        "ROOT/annotations/instances_SPLIT.json",
    ),
    (
        lambda files, names, folders: (
            bool(files & {"obj.names", "obj.data"})
            or {"images", "labels"} <= names
            or bool(files & {"data.yaml", "dataset.yaml"} and names & (PARTS | SPLITS))
        ),
        f"this is YOLO's layout, whose labels are not read; export it as COCO, or {_TABLE}",
    ),
    (
        lambda files, names, folders: (
            {"metadata.json", "samples.json"} <= files or ("labels.json" in files and "data" in names)
        ),
        "this is an export of FiftyOne; move labels.json to ROOT/annotations/instances_data.json if it is COCO's "
        f"format, or {_TABLE}",
    ),
    (
        lambda files, names, folders: (
            ("result.json" in files and "images" in names) or {"notes.json", "classes.txt"} <= files
        ),
        "this is an export of Label Studio; in COCO's format, move result.json to "
        "ROOT/annotations/instances_images.json, or export CSV and give it as --data.tags",
    ),
    (
        lambda files, names, folders: "annotations.xml" in files,
        f"this is an export of CVAT for images; export it as COCO 1.0, or {_TABLE}",
    ),
    (_is_labelme, f"JSON files of LabelMe lie next to the images and are not read; {_TABLE}"),
)
"""How a tool's export is recognised by lower-case names of top files, of top folders, and these; and what to do."""
