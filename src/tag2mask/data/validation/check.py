"""The check of a data set: every image and mask is opened, and every problem is listed."""

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
from tag2mask.data.validation.image_check import Notice, check_image, most_pixels, pixel_warnings
from tag2mask.data.validation.near_duplicates import Looks, NearDuplicates, find_near_duplicates
from tag2mask.data.validation.tag_statistics import TagCounts, Verdict, judge

Progress = Callable[[int, int], None]

TAG_LIMIT = 1000  # above this many different tags their spelling is not compared; there are too many classes anyway

MOST_THREADS = 8


@dataclass(frozen=True)
class CheckReport:
    """The result of a check.

    Attributes:
        root: the folder.
        kind: the layout that was read.
        split: the split, None for all images.
        classes: the class list.
        images: images that exist, readable or not.
        counts: images with each class.
        untagged: images without a tag.
        masks: images with a ground-truth mask.
        splits: images in each split of the data set.
        notes: how the data set was understood, a sentence each.
        problems: errors first, then warnings.
        usable: whether the data set can be opened; broken images do not stop that.
        pixels: the mean number of pixels of the images that could be read; None where there are none.
        twins: near duplicates.
        verdict: whether it is worth training on.
    """

    root: str
    kind: str
    split: str | None
    classes: tuple[str, ...]
    images: int
    counts: dict[str, int]
    untagged: int
    masks: int
    splits: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    usable: bool = True
    pixels: int | None = None
    twins: NearDuplicates = field(default_factory=NearDuplicates)
    verdict: Verdict | None = None

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that make the data set unusable, or an image of it."""
        return tuple(errors_of(self.problems))

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The problems that leave it usable."""
        return tuple(problem for problem in self.problems if problem.level == "warning")

    @property
    def sound(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def to_json(self) -> dict[str, Any]:
        """The report as plain values, with ``sound``."""
        return {"sound": self.sound, **asdict(self)}

    def render(self, shown: int = 20) -> str:
        """The report as text: figures, class counts, then a line for each of the first ``shown`` problems of a kind."""
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
        if self.verdict is not None:
            lines.append(str(self.verdict))
        return "\n".join(lines)


@dataclass
class _Shown:
    """What opening the images showed, without problems."""

    looks: Looks
    opened: int = 0
    pixels: int = 0
    noticed: list[tuple[str, list[Notice]]] = field(default_factory=list)


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
    items = found.images.items or Images.of(tuple(_images_without_a_list(listing)))
    tags = TagCounts(found.images.classes, (item.tags for item in found.images.items))
    once = _each_once(items, found)
    shown = _Shown(Looks(len(once)))
    tags_by_hand = found.images.corrections.tags
    problems = [*found.problems, *_file_problems(found, once, settings, shown, progress, threads)]
    problems += pixel_warnings(shown.noticed, root, shown.opened)
    twins = find_near_duplicates(shown.looks, once)
    problems += [*_overall(found, settings, tags.by_name()), *tags.problems(root), *twins.problems(root)]
    problems += _stray_corrections(found.images.corrections, once, settings)
    masked = listing.masks[0].folder if listing.masks else listing.root
    truth = count_truth(found.images)
    problems += truth_problems(truth, listing.shown(masked), painted=listing.painting is not None)
    usable = not errors_of(found.problems)
    several = settings.split is None and len(listing.splits) > 1
    return CheckReport(
        root=root,
        kind=listing.kind,
        split=settings.split,
        classes=found.images.classes,
        images=len(once),
        counts=tags.by_name(),
        untagged=sum(tags_by_hand.get(entry.id, entry.tags) == () for entry in listing.entries),
        masks=sum(item.mask is not None for item in items),
        splits=listing.splits,
        notes=(*listing.notes, *_notes(found), *twins.notes()),
        problems=tuple(sorted(problems, key=lambda problem: problem.level == "warning")),
        usable=usable,
        pixels=round(shown.pixels / shown.opened) if shown.opened else None,
        twins=twins,
        verdict=judge(tags, problems, usable=usable, crossing=twins.across, searched=several),
    )


def _notes(found: Survey) -> Iterator[str]:
    """How many masks are still to be painted, and how many decisions there are."""
    lacking = sum(item.mask is None for item in found.images.items)
    if found.listing.painting is not None and lacking:
        folder = found.listing.shown(found.listing.painting.folder)
        yield f"masks to be painted from the annotations when they are first needed: {lacking}, into {folder}"
    corrections = found.images.corrections
    if corrections.folder is not None:
        yield f"decisions in {corrections.folder}: {corrections.summary() or 'none'}"


def _images_without_a_list(listing: Listing) -> Iterator[ImageItem]:
    """The images below a root whose list is unusable."""
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
    found: Survey, items: Images, settings: DataSettings, shown: _Shown, progress: Progress | None, threads: int | None
) -> Iterator[Problem]:
    """Open every image and its masks, several at once; what the images show is added to ``shown``."""
    check_one = partial(check_image, found, settings=settings, most=most_pixels(settings.pixel_limit))
    threads = threads or min(MOST_THREADS, os.cpu_count() or 1)
    for done, seen in enumerate(map_ahead(check_one, items, threads=threads), 1):
        shown.looks.put(done - 1, seen.look)
        shown.opened += seen.size is not None
        shown.pixels += 0 if seen.size is None else seen.size[0] * seen.size[1]
        if seen.notices:
            shown.noticed.append((found.listing.shown(items[done - 1].path), seen.notices))
        yield from seen.problems
        if progress is not None:
            progress(done, len(items))


def _each_once(items: Images, found: Survey) -> Images:
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

    return items.where(is_first)


def _stray_corrections(corrections: Corrections, items: Images, settings: DataSettings) -> Iterator[Problem]:
    """Decisions about images that are in no split of the data set, and masks without a decision."""
    stray = corrections.ids()
    if stray:
        stray -= {item.id for item in items if item.id in stray}
    if stray and settings.split is not None:
        everywhere = survey(replace(settings, split=None)).images.items
        stray -= {item.id for item in everywhere if item.id in stray}
    if corrections.unused:
        yield warning("bad-corrections", str(corrections.folder), corrections.unused)
    for image_id in sorted(stray):
        message = f"there is no image {image_id}, so the decision about it has no effect"
        yield warning("stray-correction", f"{corrections.folder}/{image_id}", f"{message}; is it renamed, or left out?")


def _overall(found: Survey, settings: DataSettings, counts: dict[str, int]) -> Iterator[Problem]:
    """Problems of the whole data set: spelling of tags, classes without images, files that are not listed."""
    listing, items = found.listing, found.images.items
    root = str(listing.root)
    if settings.classes is None and not listing.official and len(counts) <= TAG_LIMIT:
        for rare, frequent in similar_names(counts):
            there = (listing.where(entry) for entry in listing.entries if rare in (entry.tags or ()))
            place = next(there, root)  # otherwise it comes from a correction
            message = f"the tag `{rare}` ({counts[rare]}×) looks like `{frequent}` ({counts[frequent]}×)"
            yield warning("similar-tags", place, f"{message}; correct it, or give data.classes if both are meant")
    unused = [name for name, count in counts.items() if not count]
    if unused and items:
        yield warning("empty-class", root, f"classes without an image ({len(unused)}): {first_five(unused)}")
    if settings.masks is not None and listing.painting is None:
        for item in items:
            if item.mask is None and settings.masks.is_dir():
                message = f"there is no mask {item.id}.png in {settings.masks}; add it, or evaluate without this image"
                yield warning("missing-mask", listing.shown(item.path), message)
    if listing.kind == "voc" and settings.split is None:
        yield from list_problems(listing.root)
    if listing.kind == "table" and settings.split is None and listing.entries:
        yield from _unlisted(listing, settings.masks)


def _unlisted(listing: Listing, masks: Path | None) -> Iterator[Problem]:
    """Images next to the listed ones that the table does not name, in one line."""
    listed = np.unique(np.fromiter((hash(entry.file) for entry in listing.entries), dtype=np.int64))
    others = []
    for folder in sorted({os.path.dirname(entry.file) for entry in listing.entries}):  # noqa: PTH120
        if masks is None or Path(folder) != masks:
            files = [os.path.join(folder, name) for name in each_file(folder) if is_image_name(name)]  # noqa: PTH118
            is_listed = np.isin(np.array([hash(file) for file in files], dtype=np.int64), listed)
            others += [file for file, known in zip(files, is_listed.tolist(), strict=True) if not known]
    names = sorted(listing.shown(Path(file)) for file in others)
    if names:
        message = f"images beside the listed ones that are not in the table ({len(names)}): {first_five(names)}"
        yield warning("unlisted-image", str(listing.root), message)
