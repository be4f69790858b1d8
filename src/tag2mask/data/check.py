"""Whether a data set is sound: every image and mask is opened, every problem is listed, nothing stops at the first."""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask.ahead import map_ahead
from tag2mask.data.classes import similar_names
from tag2mask.data.decided_check import correction_notes, correction_problems, stray_corrections
from tag2mask.data.likeness import Looks
from tag2mask.data.listing import Listing, each_file, is_image_name, walk_files
from tag2mask.data.opened import Seen, mask_problems, most_pixels, open_photo
from tag2mask.data.photo import Photo, Photos
from tag2mask.data.photos import Survey, survey
from tag2mask.data.pixel_kinds import Notice, pixel_warnings
from tag2mask.data.problems import Problem, grouped_lines, warning
from tag2mask.data.settings import DataSettings
from tag2mask.data.tag_counts import TagCounts
from tag2mask.data.truth_tags import count_truth, truth_problems
from tag2mask.data.twins import Twins, find_twins
from tag2mask.data.verdict import Verdict, judge
from tag2mask.data.voc import IMAGES, list_problems
from tag2mask.errors import first_five

Progress = Callable[[int, int], None]

TAG_LIMIT = 1000
"""Above this many different tags their spelling is not compared; there are too many classes anyway."""

MOST_THREADS = 8


@dataclass(frozen=True)
class CheckReport:
    """What the check of a data set found.

    Attributes:
        root: the folder.
        kind: the layout that was read.
        split: the split, None for all photographs.
        classes: the class list.
        images: photographs that exist, readable or not.
        counts: photographs with each class.
        untagged: photographs without a tag.
        masks: photographs with a ground-truth mask.
        splits: photographs in each split of the data set.
        notes: what is worth telling and not wrong.
        problems: errors first, then warnings.
        usable: whether the data set can be opened; broken images do not stop that.
        pixels: of a photograph, the mean over those that could be read; None where there are none.
        twins: photographs that look the same.
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
    twins: Twins = field(default_factory=Twins)
    verdict: Verdict | None = None

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that make the data set unusable, or an image of it."""
        return tuple(problem for problem in self.problems if problem.level == "error")

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
        values = asdict(self)
        values["classes"], values["notes"] = list(self.classes), list(self.notes)
        values["problems"] = [asdict(problem) for problem in self.problems]
        return {"sound": self.sound, **values}

    def render(self, shown: int = 20) -> str:
        """The report as text: figures, class counts, then one line a problem.

        Args:
            shown: problems of one kind that get a line; the rest is counted.
        """
        split = "" if self.split is None else f", split {self.split}"
        lines = [
            f"{self.root}: {self.kind}{split}",
            f"photographs: {self.images}, without tags: {self.untagged}, with a ground-truth mask: {self.masks}",
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
    """What opening the photographs showed besides problems: their hashes, how many could be read, and their pixels."""

    looks: Looks
    opened: int = 0
    pixels: int = 0
    noticed: list[tuple[str, list[Notice]]] = field(default_factory=list)


def check(settings: DataSettings, *, progress: Progress | None = None, threads: int | None = None) -> CheckReport:
    """Check a data set: its tags, its files, and every image and mask to the last pixel.

    Args:
        settings: where it is.
        progress: called with (files done, files in all) after each photograph.
        threads: images decoded at once; None: one a core, at most 8.
    """
    found = survey(settings)
    listing, root = found.listing, str(found.listing.root)
    photos = found.photos.photos or Photos.of(tuple(_photos_without_a_list(listing)))
    tags = TagCounts(found.photos.classes, (photo.tags for photo in found.photos.photos))
    once = _each_once(photos, found)
    shown = _Shown(Looks(len(once)))
    decided = found.photos.decided
    problems = [*found.problems, *_file_problems(found, once, settings, shown, len(tags.counts), progress, threads)]
    problems += pixel_warnings(shown.noticed, root, shown.opened)
    twins = find_twins(shown.looks, once)
    problems += [*_overall(found, settings, tags.by_name()), *tags.problems(root), *twins.problems(root)]
    problems += stray_corrections(decided, once, settings)
    masked = listing.masks[0].folder if listing.masks else listing.root
    truth = count_truth(found.photos, pixel_limit=settings.pixel_limit)
    problems += truth_problems(truth, listing.shown(masked), painted=listing.painting is not None)
    usable = not any(problem.level == "error" for problem in found.problems)
    several = settings.split is None and len(listing.splits) > 1
    return CheckReport(
        root=root,
        kind=listing.kind,
        split=settings.split,
        classes=found.photos.classes,
        images=len(once),
        counts=tags.by_name(),
        untagged=sum(decided.tags.get(entry.id, entry.tags) == () for entry in listing.entries),
        masks=sum(photo.mask is not None for photo in photos),
        splits=listing.splits,
        notes=(*listing.notes, *_painting_notes(found), *correction_notes(decided), *twins.notes()),
        problems=tuple(sorted(problems, key=lambda problem: problem.level == "warning")),
        usable=usable,
        pixels=round(shown.pixels / shown.opened) if shown.opened else None,
        twins=twins,
        verdict=judge(tags, problems, usable=usable, crossing=twins.across, searched=several),
    )


def _painting_notes(found: Survey) -> Iterator[str]:
    """How many masks are still to be painted, where they are painted at all."""
    lacking = sum(photo.mask is None for photo in found.photos.photos)
    if found.listing.painting is not None and lacking:
        folder = found.listing.shown(found.listing.painting.folder)
        yield f"masks to be painted from the annotations when they are first needed: {lacking}, into {folder}"


def _photos_without_a_list(listing: Listing) -> Iterator[Photo]:
    """The images below a root whose list is unusable, so that they are checked all the same."""
    folder = listing.root / IMAGES if listing.kind == "voc" else listing.root
    if not folder.is_dir() or listing.entries:
        return
    try:
        for name, is_image in walk_files(folder, skip=[place.folder for place in listing.masks[:1]]):
            if is_image:
                yield Photo(name, folder / name, ())
    except OSError:
        return  # the reader has reported the folder


def _file_problems(
    found: Survey,
    photos: Photos,
    settings: DataSettings,
    shown: _Shown,
    classes: int,
    progress: Progress | None,
    threads: int | None,
) -> Iterator[Problem]:
    """Open every image and its masks, several at once; what the images show is added to ``shown``."""
    listing, decided = found.listing, found.photos.decided
    most = most_pixels(settings.pixel_limit)

    def opened(photo: Photo) -> Seen:
        seen = open_photo(listing, photo, settings, most)
        seen.problems.extend(mask_problems(listing, photo, seen.size, settings, found.photos))
        seen.problems.extend(correction_problems(decided, photo, seen.size, settings, classes))
        return seen

    threads = threads or min(MOST_THREADS, os.cpu_count() or 1)
    for done, seen in enumerate(map_ahead(opened, photos, threads=threads), 1):
        shown.looks.put(done - 1, seen.look)
        shown.opened += seen.size is not None
        shown.pixels += 0 if seen.size is None else seen.size[0] * seen.size[1]
        if seen.notices:
            shown.noticed.append((listing.shown(photos[done - 1].path), seen.notices))
        yield from seen.problems
        if progress is not None:
            progress(done, len(photos))


def _each_once(photos: Photos, found: Survey) -> Photos:
    """The photographs without those that are listed again."""
    if not any(problem.kind == "duplicate-id" for problem in found.problems):
        return photos
    twice = {entry.id for entry in found.listing.entries.repeated()}
    seen: set[Path] = set()

    def is_first(photo: Photo) -> bool:
        if photo.id not in twice:
            return True
        first = photo.path not in seen
        seen.add(photo.path)
        return first

    return photos.where(is_first)


def _overall(found: Survey, settings: DataSettings, counts: dict[str, int]) -> Iterator[Problem]:
    """What only the whole data set shows: spelling, classes without photographs, files that nothing lists."""
    listing, photos = found.listing, found.photos.photos
    root = str(listing.root)
    if settings.classes is None and not listing.official and len(counts) <= TAG_LIMIT:
        for rare, frequent in similar_names(counts):
            there = (listing.where(entry) for entry in listing.entries if rare in (entry.tags or ()))
            place = next(there, root)  # else somebody decided it
            message = f"the tag `{rare}` ({counts[rare]}×) looks like `{frequent}` ({counts[frequent]}×)"
            yield warning("similar-tags", place, f"{message}; correct it, or give data.classes if both are meant")
    unused = [name for name, count in counts.items() if not count]
    if unused and photos:
        yield warning("empty-class", root, f"classes without a photograph ({len(unused)}): {first_five(unused)}")
    if settings.masks is not None and listing.painting is None:
        for photo in photos:
            if photo.mask is None and settings.masks.is_dir():
                message = (
                    f"there is no mask {photo.id}.png in {settings.masks}; add it, or evaluate without this photograph"
                )
                yield warning("missing-mask", listing.shown(photo.path), message)
    if listing.kind == "voc" and settings.split is None:
        yield from list_problems(listing.root)
    if listing.kind == "table" and settings.split is None and listing.entries:
        yield from _unlisted(listing, settings.masks)


def _unlisted(listing: Listing, masks: Path | None) -> Iterator[Problem]:
    """Images beside the listed ones that the table does not name, in one line."""
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
