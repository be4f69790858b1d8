"""Data sets of every layout, as images with their tags."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from glob import has_magic
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tag2mask.core.errors import UsageError
from tag2mask.data.classes import class_problems, did_you_mean, negative_problems, read_classes
from tag2mask.data.corrections import Corrections
from tag2mask.data.file_names import leads_out
from tag2mask.data.ground_truth import MaskValues, parse_mask_values, read_truth
from tag2mask.data.images import PIXEL_LIMIT, read_image
from tag2mask.data.manifest import ImageItem, Images, Manifest, ManifestWriter
from tag2mask.data.pixel_formats import Intensity
from tag2mask.data.problems import Problem, error, errors_of, one_line, refuse_errors
from tag2mask.data.readers.coco import annotation_files, read_coco
from tag2mask.data.readers.entries import Entry
from tag2mask.data.readers.folders import MASK_VALUES, is_mvtec, read_folders, read_mvtec, read_pattern, read_untagged
from tag2mask.data.readers.rasterise import Rasterisation, has_external_masks, record_problems
from tag2mask.data.readers.scan import FolderIndex, Listing, similar_files
from tag2mask.data.readers.table import TABLE_NAME, read_table_images
from tag2mask.data.readers.voc import is_voc, read_voc
from tag2mask.data.settings import DataSettings, Kind


@dataclass(frozen=True)
class ImageSet:
    """The images of a split.

    Attributes:
        classes: the C names without background; the id of a class is its index + 1.
        items: the images, in the order of the table or the list, or sorted by path in folders.
        root: the folder that IDs are relative to.
        rasterisation: annotations from which missing masks are rasterised when they are needed; None without them.
        corrections: decisions by hand; the images have the corrected tags.
        mask_values: the mapping of values of ground-truth masks to classes.
        pixel_limit: an image or mask with more pixels is refused before it is decoded.
        intensity: the values that become black and white in images of more than 8 bits; None: 0 to 65535.
        notes: how the reader interpreted the data set, and its warnings, a sentence each.
    """

    classes: tuple[str, ...]
    items: Images
    root: Path
    rasterisation: Rasterisation | None = None
    corrections: Corrections = field(default_factory=Corrections)
    mask_values: MaskValues = field(default_factory=MaskValues)
    pixel_limit: int = PIXEL_LIMIT
    intensity: Intensity | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Accept any sequence of images."""
        object.__setattr__(self, "items", Images.from_list(self.items))

    def of(self, items: Sequence[ImageItem]) -> "ImageSet":
        """The same set with only these images."""
        return replace(self, items=Images.from_list(items))

    def corrected(self, corrections: Corrections) -> "ImageSet":
        """The same set, which has the tags of the data set, with corrections."""
        return replace(self, items=self.items.with_tags(corrections.tags), corrections=corrections)

    def __len__(self) -> int:
        return len(self.items)

    def tag_matrix(self, items: Sequence[ImageItem] | None = None) -> npt.NDArray[np.bool_]:
        """The tags of images, None for all, as a matrix, bool (N, C): column c is the class with id c + 1."""
        chosen = self.items if items is None else items
        matrix = np.zeros((len(chosen), len(self.classes)), dtype=np.bool_)
        cells = [(row, tag - 1) for row, item in enumerate(chosen) for tag in item.tags]
        rows, columns = np.array(cells, dtype=np.intp).reshape(-1, 2).T
        matrix[rows, columns] = True
        return matrix

    def read_image(self, item: ImageItem) -> npt.NDArray[np.uint8]:
        """The pixels of an image, uint8 (H, W, 3), as `tag2mask.data.images.read_image` reads them."""
        return read_image(item.path, pixel_limit=self.pixel_limit, intensity=self.intensity)

    def read_truth(self, item: ImageItem, *, size: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
        """The ground truth of an image with a mask, as `tag2mask.data.ground_truth.read_truth` reads it."""
        path, values = item.truth or Path(), self.mask_values
        return read_truth(path, item.tags, len(self.classes), values, size=size, pixel_limit=self.pixel_limit)

    def by_id(self, image_id: str) -> ImageItem:
        """The image with that ID; a `UsageError` that offers the nearest one if there is none."""
        found = next((item for item in self.items if item.id == image_id), None)
        if found is None:
            hint = did_you_mean(image_id, (item.id for item in self.items))
            raise UsageError(f"no image below {self.root} has the ID `{image_id}`{hint}")
        return found


@dataclass(frozen=True)
class Survey:
    """A data set with all its problems, before any image is opened.

    Attributes:
        images: usable if no problem is an error.
        listing: the result of the reader.
        problems: of the reader, the tags and the files.
    """

    images: ImageSet
    listing: Listing
    problems: tuple[Problem, ...]

    def require_usable(self) -> None:
        """Raise `UsageError` if a problem is an error."""
        refuse_errors(self.problems, self.listing.root)


def open_images(settings: DataSettings, *, split: str | None = None) -> ImageSet:
    """The images of a split with their tags. No image is opened.

    Args:
        settings: the data set.
        split: overrides ``settings.split``.

    Raises:
        UsageError: the data set is unusable; names the first five problems of each kind.
    """
    found = survey(settings, split=split)
    found.require_usable()
    return found.images


def find_images(root: Path, *, skip: Path | None = None) -> ImageSet:
    """All images below a folder (or one image, or all of a pattern), without classes and tags.

    Args:
        root: the folder, or one image, or a pattern with `*`, `?`, `[abc]` or `**`.
        skip: a folder below it that is not entered, such as the run folder.

    Raises:
        UsageError: there is no image, or two have one ID.
    """
    pattern = not root.exists()
    if pattern and not has_magic(str(root)):
        raise UsageError(f"{root} does not exist; give a folder with images, or one image")
    listing = read_pattern(root, skip=skip) if pattern else read_untagged(root, skip=skip)
    problems = [*listing.problems, *_duplicates(listing)]
    if not listing.entries and not problems:
        nothing = "it matches no image" if pattern else "there is no image below it"
        message = f"{nothing}; give a folder with images"
        problems.append(error("no-images", str(root), message))
    refuse_errors(problems)
    manifest, faults = _manifest(listing, ())
    refuse_errors(faults)
    return ImageSet((), Images(manifest), listing.root)


def survey(settings: DataSettings, *, split: str | None = None) -> Survey:
    """Read a data set without opening images; problems are collected.

    Args:
        settings: the data set.
        split: overrides ``settings.split``.
    """
    split = settings.split if split is None else split
    listing = _read(settings, split)
    problems = list(listing.problems)
    if split is not None and leads_out(split):  # its name is that of a folder of predictions
        message = f"the split `{one_line(split)}` is not the name of a folder; rename it, without `..` and empty parts"
        problems.append(error("bad-split", str(listing.root), message))
    if not listing.entries and not errors_of(problems):
        message = "there are no images; check data.root, data.kind and data.split"
        problems.append(error("no-images", str(listing.root), message))
    masks = settings.masks
    # A folder that masks are rasterised into need not exist yet.
    if masks is not None and not masks.is_dir() and (listing.rasterisation is None or masks.exists()):
        problems.append(error("missing-mask", str(masks), "data.masks is not a folder; name the one with ID.png"))
    problems += _duplicates(listing)
    classes, closed, class_faults = _classes(settings, listing)
    problems += class_faults
    if not closed:
        problems += negative_problems(classes, str(listing.root))
    if listing.rasterisation is not None and not errors_of(problems):
        problems += record_problems(listing.rasterisation, classes)
    values, value_faults = _mask_values(settings, listing, classes)
    problems += [*value_faults, *_tag_problems(listing, classes, closed)]
    manifest, missing = _manifest(listing, classes)
    warnings = tuple(f"warning: {problem}" for problem in problems if problem.level == "warning")
    found = ImageSet(
        classes,
        Images(manifest),
        listing.root,
        listing.rasterisation,
        mask_values=values,
        pixel_limit=settings.pixel_limit,
        intensity=settings.intensity,
        notes=(*listing.notes, *warnings),
    )
    return Survey(found, listing, (*problems, *missing))


def _mask_values(
    settings: DataSettings, listing: Listing, classes: tuple[str, ...]
) -> tuple[MaskValues, list[Problem]]:
    """The mapping of ground-truth values by the settings, otherwise by the layout."""
    binary = listing.kind == "mvtec" or (settings.masks is None and listing.kind == "folders" and listing.masks)
    text = settings.mask_values or (MASK_VALUES if binary else None)
    if text is not None and listing.rasterisation is not None and not has_external_masks(listing.rasterisation.folder):
        message = "these masks are rasterised from annotations, and their values are classes already; leave it out"
        return MaskValues(), [error("bad-classes", "data.mask_values", message)]
    return parse_mask_values(text, classes)


def detect_layout(settings: DataSettings) -> Kind:
    """The layout by the settings, otherwise by the files in the root."""
    root, kind = settings.root, settings.kind
    if root is not None and (kind == "voc" or (kind == "auto" and is_voc(root))):
        return "voc"
    if root is not None and (kind == "coco" or (kind == "auto" and annotation_files(root))):
        return "coco"
    has_table = settings.tags is not None or (kind == "auto" and root is not None and (root / TABLE_NAME).is_file())
    if root is not None and not has_table and (kind == "mvtec" or (kind == "auto" and is_mvtec(root))):
        return "mvtec"
    return "table" if root is None or kind == "table" or has_table else "folders"


def _read(settings: DataSettings, split: str | None) -> Listing:
    """Read the layout."""
    root, kind = settings.root, settings.kind
    if root is None and (settings.tags is None or kind in ("voc", "coco")):
        message = "data.root is missing; name the folder with the images"
        return Listing(kind, Path(), problems=[error("bad-root", "data.root", message)])
    if root is not None and not root.is_dir():
        fault = "is a file; a table is named as data.tags" if root.is_file() else "does not exist"
        message = f"data.root {fault}; name the folder with the images"
        return Listing(kind, root, problems=[error("bad-root", str(root), message)])
    found = detect_layout(settings)
    if root is None or found == "table":
        return read_table_images(settings, split)
    readers = {"voc": read_voc, "coco": read_coco, "mvtec": read_mvtec, "folders": read_folders}
    return readers[found](settings, root, split)


def _classes(settings: DataSettings, listing: Listing) -> tuple[tuple[str, ...], bool, list[Problem]]:
    """The class list, whether tags must be in it, and its problems."""
    given, problems = (None, []) if settings.classes is None else read_classes(settings.classes)
    classes = listing.names if given is None else given
    subject = "data.classes" if given is not None else str(listing.root)
    readable = listing.kind in ("folders", "table") and given is None
    faults = class_problems(classes, subject, negatives=readable)
    return classes, given is not None or listing.official, [*problems, *faults]


def _duplicates(listing: Listing) -> Iterable[Problem]:
    first: dict[str, Entry] = {}
    for entry in listing.entries.repeated():
        before = first.setdefault(entry.id, entry)
        if before is not entry:
            one, other = listing.shown(before.path), listing.shown(entry.path)
            named = f"{other} is listed twice" if one == other else f"{one} and {other} have one ID, `{entry.id}`"
            place = f" (before: {listing.where(before)})" if entry.line else ""
            yield error("duplicate-id", listing.where(entry), f"{named}{place}; keep or rename one of them")


def _tag_problems(listing: Listing, classes: tuple[str, ...], closed: bool) -> Iterable[Problem]:
    """Tags outside a closed list, each once, images without tags, and data sets without any."""
    unknown: dict[str, tuple[str, int]] = {}  # first place and count
    known, tagged = set(classes), False
    untagged, first = 0, ""
    for entry in listing.entries:
        for tag in entry.tags or ():
            if closed and tag not in known:
                place, times = unknown.get(tag, (listing.where(entry), 0))
                unknown[tag] = place, times + 1
        tagged = tagged or entry.tags != ()
        if entry.tags == ():
            untagged, first = untagged + 1, first or listing.where(entry)
    if untagged and tagged:
        named = f"{untagged} image{'s have' if untagged > 1 else ' has'} no tags (first: {first})"
        listing.notes.append(f"{named}, which says that they hold none of the classes; add tags where they do")
    for tag, (place, times) in unknown.items():
        count = f"{times} images, first here" if times > 1 else "1 image"
        hint = did_you_mean(tag, classes) or "; the classes are listed in data.classes"
        joined = "; several tags are joined by `;`" if "," in tag else ""
        yield error("unknown-tag", place, f"the tag `{tag}` is not in the class list ({count}){hint}{joined}")
    if listing.entries and not tagged:
        yield error("no-tags", str(listing.root), "no image has a tag, so nothing can be learned; fill the tags")


def _manifest(listing: Listing, classes: tuple[str, ...]) -> tuple[Manifest, list[Problem]]:
    """The manifest of the images that exist, and the problems of the others."""
    images, truths = FolderIndex(), FolderIndex()
    ids = {name: number for number, name in enumerate(classes, 1)}
    writer = ManifestWriter()
    missing: list[Entry] = []
    outside: list[Problem] = []
    for entry in listing.entries:
        if leads_out(entry.id):  # files are named by it
            message = f"the ID `{one_line(entry.id)}` leads out of a folder; name the image by its path below the root"
            outside.append(error("outside-root", listing.where(entry), message))
            continue
        if not images.has(entry.file):
            missing.append(entry)
            continue
        tags = sorted(ids[tag] for tag in entry.tags or () if tag in ids)
        masks = (place.path(entry.id) for place in listing.masks)
        mask = next((path for path in masks if truths.has(path)), None)
        writer.append((entry.id, entry.file, tags, entry.splits, mask))
    return Manifest(writer.finish()), [*outside, *_missing_images(listing, missing)]


def _missing_images(listing: Listing, missing: Sequence[Entry]) -> Iterable[Problem]:
    similar = similar_files(entry.file for entry in missing)
    for entry in missing:
        nearest = similar.get(entry.file)
        hint = f"did you mean {nearest}?" if nearest else "add the image, or remove it from the list"
        message = f"the image {listing.shown(entry.path)} does not exist; {hint}"
        yield error("missing-image", listing.where(entry), message)
