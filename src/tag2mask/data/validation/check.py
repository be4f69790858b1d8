"""The check of a data set: all images and masks are decoded, and all problems are listed."""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask.core.errors import first_five
from tag2mask.core.prefetch import map_ahead
from tag2mask.data.classes import similar_names
from tag2mask.data.corrections import Corrections, read_corrections
from tag2mask.data.dataset import Survey, survey
from tag2mask.data.file_names import is_image_name
from tag2mask.data.ground_truth import count_truth, truth_problems
from tag2mask.data.manifest import ImageItem, Images
from tag2mask.data.problems import Problem, errors_of, grouped_lines, warning
from tag2mask.data.readers.scan import Listing, each_file, walk_files
from tag2mask.data.readers.voc import IMAGES, list_problems
from tag2mask.data.settings import DataSettings
from tag2mask.data.validation.image_check import PixelNotice, check_image, most_pixels, pixel_warnings
from tag2mask.data.validation.near_duplicates import ImageHashes, NearDuplicates, find_near_duplicates
from tag2mask.data.validation.tag_statistics import TagCounts, TagSummary, summarise

Progress = Callable[[int, int], None]

TAG_LIMIT = 1000  # with more different tags their spelling is not compared

MOST_THREADS = 8


@dataclass(frozen=True)
class CheckReport:
    """The result of a check."""

    root: str
    kind: str  # the layout of the data set
    split: str | None  # None for all images
    classes: tuple[str, ...]
    images: int  # images that exist, readable or not
    counts: dict[str, int]  # images with each class
    untagged: int  # images without a tag
    masks: int  # images with a ground-truth mask
    splits: dict[str, int] = field(default_factory=dict)  # images in each split
    notes: tuple[str, ...] = ()  # how the data set was interpreted, a sentence each
    problems: tuple[Problem, ...] = ()  # errors first, then warnings
    usable: bool = True  # whether the data set can be opened; damaged images do not prevent that
    pixels: int | None = None  # the mean number of pixels of the readable images; None if there are none
    long_side: int | None = None  # the mean of their longer sides
    near_duplicates: NearDuplicates = field(default_factory=NearDuplicates)
    summary: TagSummary | None = None  # whether the data set is suitable for training

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that make the data set, or one of its images, unusable."""
        return tuple(errors_of(self.problems))

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The other problems."""
        return tuple(problem for problem in self.problems if problem.level == "warning")

    @property
    def sound(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def to_json(self) -> dict[str, Any]:
        """The report as plain values, with the key ``sound``."""
        return {"sound": self.sound, **asdict(self)}

    def render(self, shown: int = 20) -> str:
        """The report as text: figures, class counts, and the first ``shown`` problems of each kind."""
        split = "" if self.split is None else f", split {self.split}"
        lines = [
            f"{self.root}: {self.kind}{split}",
            f"images: {self.images}, without tags: {self.untagged}, with a ground-truth mask: {self.masks}",
        ]
        if self.splits:
            lines.append("splits: " + ", ".join(f"{name} {count}" for name, count in self.splits.items()))
        lines += self.notes
        width = max((len(name) for name in self.counts), default=0)
        numbered = enumerate(self.counts.items(), 1)
        lines += [f"  {number:>3} {name:{width}} {count:>7}" for number, (name, count) in numbered]
        for title, problems in (("error", self.errors), ("warning", self.warnings)):
            if problems:
                lines.append(f"{len(problems)} {title}{'s' if len(problems) > 1 else ''}")
                lines += [f"  {line}" for line in grouped_lines(problems, shown)]
        if not self.problems:
            lines.append("no problems")
        if self.summary is not None:
            lines.append(str(self.summary))
        return "\n".join(lines)


@dataclass
class _Totals:
    """Results of decoding all images, except problems."""

    hashes: ImageHashes
    opened: int = 0
    pixels: int = 0
    long_sides: int = 0
    noticed: list[tuple[str, list[PixelNotice]]] = field(default_factory=list)


def check(
    settings: DataSettings,
    *,
    corrections: Path | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
) -> CheckReport:
    """Check a data set: its tags, its files, and every image and mask to the last pixel.

    Args:
        settings: where it is.
        corrections: a folder of decisions about its images, which is checked as well.
        progress: called with (images done, images in all) after each image.
        threads: images decoded at once; None: one per core, at most 8.
    """
    found = survey(settings)
    if corrections is not None:
        decisions, faults = read_corrections(corrections, found.images.classes)
        found = replace(found, images=found.images.corrected(decisions), problems=(*found.problems, *faults))
    listing, root = found.listing, str(found.listing.root)
    items = found.images.items or Images.from_list(tuple(_unlisted_images(listing)))
    tags = TagCounts(found.images.classes, (item.tags for item in found.images.items))
    unique = _unique(items, found)
    totals = _Totals(ImageHashes(len(unique)))
    tags_by_hand = found.images.corrections.tags
    problems = [*found.problems, *_file_problems(found, unique, settings, totals, progress, threads)]
    problems += pixel_warnings(totals.noticed, root, totals.opened)
    duplicates = find_near_duplicates(totals.hashes, unique)
    problems += [*_overall(found, settings, tags.by_name()), *tags.problems(root), *duplicates.problems(root)]
    problems += _unexpected_corrections(found.images.corrections, unique, settings)
    masked = listing.masks[0].folder if listing.masks else listing.root
    truth = count_truth(found.images)
    problems += truth_problems(truth, listing.shown(masked), rasterised=listing.rasterisation is not None)
    usable = not errors_of(found.problems)
    several_splits = settings.split is None and len(listing.splits) > 1
    return CheckReport(
        root=root,
        kind=listing.kind,
        split=settings.split,
        classes=found.images.classes,
        images=len(unique),
        counts=tags.by_name(),
        untagged=sum(tags_by_hand.get(entry.id, entry.tags) == () for entry in listing.entries),
        masks=sum(item.truth is not None for item in items),
        splits=listing.splits,
        notes=(*listing.notes, *_notes(found), *duplicates.notes()),
        problems=tuple(sorted(problems, key=lambda problem: problem.level == "warning")),
        usable=usable,
        pixels=round(totals.pixels / totals.opened) if totals.opened else None,
        long_side=round(totals.long_sides / totals.opened) if totals.opened else None,
        near_duplicates=duplicates,
        summary=summarise(tags, problems, usable=usable, crossing=duplicates.across, several_splits=several_splits),
    )


def _notes(found: Survey) -> Iterator[str]:
    lacking = sum(item.truth is None for item in found.images.items)
    if found.listing.rasterisation is not None and lacking:
        folder = found.listing.shown(found.listing.rasterisation.folder)
        yield f"masks to be rasterised from the annotations when they are first needed: {lacking}, into {folder}"
    corrections = found.images.corrections
    if corrections.folder is not None:
        yield f"decisions in {corrections.folder}: {corrections.summary() or 'none'}"


def _unlisted_images(listing: Listing) -> Iterator[ImageItem]:
    """The images below a root with an unusable list."""
    folder = listing.root / IMAGES if listing.kind == "voc" else listing.root
    if not folder.is_dir() or listing.entries:
        return
    try:
        for name, is_image in walk_files(folder, skip=[place.folder for place in listing.masks[:1]]):
            if is_image:
                yield ImageItem(name, folder / name, ())
    except OSError:
        return  # the reader has reported the folder


def _file_problems(
    found: Survey,
    items: Images,
    settings: DataSettings,
    totals: _Totals,
    progress: Progress | None,
    threads: int | None,
) -> Iterator[Problem]:
    check_one = partial(check_image, found, settings=settings, most=most_pixels(settings.pixel_limit))
    threads = threads or min(MOST_THREADS, os.cpu_count() or 1)
    for done, result in enumerate(map_ahead(check_one, items, threads=threads), 1):
        totals.hashes.put(done - 1, result.hash)
        if result.size is not None:
            totals.opened += 1
            totals.pixels += result.size[0] * result.size[1]
            totals.long_sides += max(result.size)
        if result.notices:
            totals.noticed.append((found.listing.shown(items[done - 1].path), result.notices))
        yield from result.problems
        if progress is not None:
            progress(done, len(items))


def _unique(items: Images, found: Survey) -> Images:
    """The images without those that are listed again."""
    if not any(problem.kind == "duplicate-id" for problem in found.problems):
        return items
    twice = {entry.id for entry in found.listing.entries.repeated()}
    seen: set[Path] = set()

    def is_first(item: ImageItem) -> bool:
        if item.id not in twice:
            return True
        first = item.path not in seen
        seen.add(item.path)
        return first

    return items.filter(is_first)


def _unexpected_corrections(corrections: Corrections, items: Images, settings: DataSettings) -> Iterator[Problem]:
    """Decisions about images that are in no split of the data set, and masks without a decision."""
    unknown = corrections.ids()
    if unknown:
        unknown -= {item.id for item in items if item.id in unknown}
    if unknown and settings.split is not None:
        everywhere = survey(replace(settings, split=None)).images.items
        unknown -= {item.id for item in everywhere if item.id in unknown}
    if corrections.unused:
        yield warning("bad-corrections", str(corrections.folder), corrections.unused)
    for image_id in sorted(unknown):
        message = f"there is no image {image_id}, so the decision about it has no effect"
        yield warning(
            "unknown-correction", f"{corrections.folder}/{image_id}", f"{message}; was it renamed or left out?"
        )


def _overall(found: Survey, settings: DataSettings, counts: dict[str, int]) -> Iterator[Problem]:
    listing, items = found.listing, found.images.items
    root = str(listing.root)
    if settings.classes is None and not listing.official and len(counts) <= TAG_LIMIT:
        for rare, frequent in similar_names(counts):
            places = (listing.where(entry) for entry in listing.entries if rare in (entry.tags or ()))
            place = next(places, root)  # a tag may come from a correction alone
            message = f"the tag `{rare}` ({counts[rare]}×) looks like `{frequent}` ({counts[frequent]}×)"
            yield warning("similar-tags", place, f"{message}; correct it, or give data.classes if both are meant")
    unused = [name for name, count in counts.items() if not count]
    if unused and items:
        yield warning("empty-class", root, f"classes without an image ({len(unused)}): {first_five(unused)}")
    if settings.masks is not None and listing.rasterisation is None:
        for item in items:
            if item.truth is None and settings.masks.is_dir():
                message = f"there is no mask {item.id}.png in {settings.masks}; add it, or evaluate without this image"
                yield warning("missing-mask", listing.shown(item.path), message)
    if listing.kind == "voc" and settings.split is None:
        yield from list_problems(listing.root)
    if listing.kind == "table" and settings.split is None and listing.entries:
        yield from _unlisted(listing, settings.masks)


def _unlisted(listing: Listing, masks: Path | None) -> Iterator[Problem]:
    listed = np.unique(np.fromiter((hash(entry.file) for entry in listing.entries), dtype=np.int64))
    others: list[str] = []
    for folder in sorted({os.path.dirname(entry.file) for entry in listing.entries}):  # noqa: PTH120
        if masks is None or Path(folder) != masks:
            files = [os.path.join(folder, name) for name in each_file(folder) if is_image_name(name)]  # noqa: PTH118
            is_listed = np.isin(np.array([hash(file) for file in files], dtype=np.int64), listed)
            others += [file for file, known in zip(files, is_listed.tolist(), strict=True) if not known]
    names = sorted(listing.shown(Path(file)) for file in others)
    if names:
        message = f"images next to the listed ones that are not in the table ({len(names)}): {first_five(names)}"
        yield warning("unlisted-image", str(listing.root), message)
