"""Class folders: ROOT/CLASS/…, the name of the top folder is the tag. And a folder of photographs without any tags."""

import os
from collections.abc import Iterator
from glob import has_magic, iglob
from pathlib import Path

from tag2mask.data.classes import NONE, did_you_mean, folded_name, in_order, is_negative, negative_names
from tag2mask.data.entries import Entries, Entry
from tag2mask.data.layouts import PARTS, SPLITS, known_layout
from tag2mask.data.listing import (
    IMAGE_SUFFIXES,
    MASK_ENDING,
    UNREAD_SUFFIXES,
    Listing,
    MaskPlace,
    is_hidden,
    is_image_name,
    mask_places,
    walk_files,
)
from tag2mask.data.names import nfc
from tag2mask.data.problems import error, warning
from tag2mask.data.settings import DataSettings
from tag2mask.errors import first_five


def read_folders(settings: DataSettings, root: Path, split: str | None) -> Listing:
    """The photographs in class folders, each with one tag.

    ::

        ROOT/cat/one.jpg            ID cat/one, tag cat
        ROOT/dog/more/one.jpg       ID dog/more/one, tag dog
        ROOT/dog/one_mask.png       the ground truth of dog/one, where that image is there
        ROOT/_none/two.jpg          ID _none/two, no tag: it holds none of the classes

    Hidden files and folders, those of systems, and the folders ``settings.masks`` and ``settings.corrections`` are
    passed over. Further names than ``_none`` are in ``settings.negatives``.

    Args:
        settings: where the masks and corrections are.
        root: the folder with the class folders.
        split: None; class folders have no splits.
    """
    listing = Listing("folders", root, masks=mask_places(settings.masks))
    if split is not None:
        message = f"class folders have no split `{split}`; point data.root at its folder, or use a tags table"
        listing.problems.append(error("bad-split", str(root), message))
    layout = known_layout(root) if settings.kind == "auto" else None
    if layout is not None:
        message = f"{layout}. To read each top folder as a class, give --data.kind folders"
        listing.problems.append(error("known-layout", str(root), message))
        return listing
    negatives: set[str] = set()
    ignored: list[str] = []
    unread: dict[str, int] = {}  # files of kinds that are not read, by top folder
    names: dict[str, None] = {}
    masks = 0
    for name, is_image in _files(listing, settings.masks, settings.corrections):
        class_name, _, rest = nfc(name).partition("/")
        if not is_image:
            ignored.append(name)
            if os.path.splitext(name)[1].lower() in UNREAD_SUFFIXES:  # noqa: PTH122
                unread[class_name if rest else ""] = unread.get(class_name if rest else "", 0) + 1
        elif not rest:
            message = f"a photograph lies beside the class folders; move it to ROOT/CLASS/{name}"
            listing.problems.append(error("outside-class-folder", name, message))
        elif _is_mask_of_another(root, name):
            masks += 1
        else:
            if class_name not in names and is_negative(class_name, settings.negatives):
                negatives.add(class_name)
            tags = () if class_name in negatives else (class_name,)
            listing.entries.append(Entry(_without_suffix(nfc(name)), _inside(root, name), tags))
            names[class_name] = None
    listing.names = in_order(name for name in names if name not in negatives)
    if masks:
        listing.masks = (*listing.masks, MaskPlace(root, MASK_ENDING))
        read = "are read as ground truth, not as photographs"
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
    stem = _inside(root, name.removesuffix(MASK_ENDING))
    return any(os.path.isfile(stem + suffix) for suffix in IMAGE_SUFFIXES)  # noqa: PTH113 - strings


def read_untagged(root: Path, *, skip: Path | None = None) -> Listing:
    """All photographs below ``root``, nothing known of their tags.

    Args:
        root: the folder, or one image.
        skip: a folder that is not entered.
    """
    if root.is_file():
        return Listing("folders", root.parent, Entries([Entry(_without_suffix(nfc(root.name)), str(root), ())]))
    listing = Listing("folders", root)
    for name, is_image in _files(listing, skip):
        if is_image:
            listing.entries.append(Entry(_without_suffix(nfc(name)), _inside(root, name), ()))
    return listing


def read_pattern(pattern: Path, *, skip: Path | None = None) -> Listing:
    """All photographs that a pattern matches, nothing known of their tags; hidden files are passed over.

    Args:
        pattern: as a shell reads it: `*`, `?`, `[abc]` within a name, `**` for folders below folders. The folder
            before the first such part is the root that IDs are relative to.
        skip: a folder whose files do not count.
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
            identity = _without_suffix(nfc(path.relative_to(listing.root).as_posix()))
            listing.entries.append(Entry(identity, str(path), ()))
    return listing


def _files(listing: Listing, *skip: Path | None) -> Iterator[tuple[str, bool]]:
    try:
        yield from walk_files(listing.root, skip=[each for each in skip if each is not None])
    except OSError as reason:
        message = f"the folder could not be read ({reason.strerror}); give it the right to be listed"
        listing.problems.append(error("bad-root", str(reason.filename or listing.root), message))


def _inside(root: Path, name: str) -> str:
    return os.path.join(root, name)  # noqa: PTH118 - as below


def _without_suffix(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122 - a string in, a string out, for each of 100,000 photographs
