"""`compare`: two ways of making masks on the same images, where they differ, and whether agreement shows quality."""

import csv
import io
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tag2mask.core.errors import Tag2maskError, UsageError, first_five
from tag2mask.core.files import write_bytes
from tag2mask.core.prefetch import map_ahead
from tag2mask.core.provenance import crc_of
from tag2mask.data.classes import read_classes
from tag2mask.data.dataset import ImageSet, open_images
from tag2mask.data.file_names import nfc
from tag2mask.data.ground_truth import parse_mask_values
from tag2mask.data.images import IGNORED
from tag2mask.data.manifest import ImageItem, Images
from tag2mask.data.problems import refuse_errors
from tag2mask.evaluation.confusion import Confusion
from tag2mask.evaluation.figures import BACKGROUND, Figures
from tag2mask.evaluation.folders import file_of
from tag2mask.export.formats.registry import MaskSource, Source
from tag2mask.quality.calibration import LEAST, RankingQuality, ranking_quality
from tag2mask.report.agreement import SHOWN, write_record
from tag2mask.runs.config import Config
from tag2mask.runs.ground_truth import rasterise_missing_truth, without_mismatched_truth
from tag2mask.runs.progress import Console, progress_bar
from tag2mask.runs.run_folder import RunFolder, run_of
from tag2mask.workflows.export_masks import mask_source

Mask = npt.NDArray[np.uint8]
"""(H, W): 0 background, 1..C the classes in the order of A, 255 ignored."""


@dataclass(frozen=True)
class ImageAgreement:
    """Agreement of the two masks of an image.

    Attributes:
        image: its ID.
        agreement: mean IoU over the classes in either mask, in [0, 1]; NaN if no pixel has a class in both.
        class_name: the class with the smallest IoU; empty without one.
        class_iou: its IoU.
    """

    image: str
    agreement: float
    class_name: str
    class_iou: float

    @classmethod
    def of(cls, image_id: str, counts: Confusion, names: Sequence[str]) -> "ImageAgreement":
        """The agreement by the counts of one image."""
        iou, mean = counts.iou(), counts.miou(rule="present")
        if math.isnan(mean):
            return cls(image_id, mean, "", math.nan)
        least = int(np.nanargmin(iou))
        return cls(image_id, mean, names[least], float(iou[least]))


@dataclass(frozen=True)
class TruthComparison:
    """Two ways against the ground truth.

    Attributes:
        a, b: the figures of each way.
        ranking: agreement of an image as its confidence, with the mean IoU of the better way; None with fewer than
            `LEAST` images.
    """

    a: Figures
    b: Figures
    ranking: RankingQuality | None

    @property
    def better(self) -> str:
        """The way with the larger mean IoU over all images."""
        return "B" if self.b.miou > self.a.miou else "A"

    def sentence(self) -> str:
        """Whether agreement is evidence of quality, in words."""
        subject = f"rank correlation of agreement with the mean IoU of {self.better}, the better way"
        if self.ranking is None:
            return f"{subject}: not measured on fewer than {LEAST} images with agreement and ground truth"
        if self.ranking.spearman is None:
            return f"{subject}: not measured, because agreement or IoU is constant"
        interval = "" if self.ranking.low is None else f" [{self.ranking.low:.2f}, {self.ranking.high:.2f}]"
        tenth = f"{self.ranking.worst_tenth:.0%} of the worst tenth ({self.ranking.chance:.0%} by chance)"
        doubt = "" if self.ranking.ranks else "; agreement is not reliable evidence of quality on these images"
        return (
            f"{subject}: {self.ranking.spearman:.2f}{interval} on {self.ranking.images} images; "
            f"the tenth that agrees least holds {tenth}{doubt}"
        )

    def to_json(self) -> dict[str, Any]:
        """The figures by name."""
        ranking = None if self.ranking is None else self.ranking.to_json()
        return {"a": self.a.to_json(), "b": self.b.to_json(), "better": self.better, "ranking": ranking}


@dataclass(frozen=True)
class MaskComparison:
    """Two ways of making masks, A and B, on the same images.

    Attributes:
        a, b: where the masks are.
        names: of the classes, background first.
        counts: pixels with a class in both masks, A as prediction and B as truth.
        images: all that were compared, least agreement first; those with an unknown one last.
        only_a, only_b: IDs with a mask in one of them alone.
        rejected: number of images that are left out because a mask was rejected.
        failed: reasons by ID.
        truth: None without ground truth.
        remarks: about the ground truth.
    """

    a: Path
    b: Path
    names: tuple[str, ...]
    counts: Confusion
    images: list[ImageAgreement]
    only_a: list[str]
    only_b: list[str]
    rejected: int
    failed: dict[str, str]
    truth: TruthComparison | None
    remarks: list[str]

    @property
    def differing(self) -> float:
        """The share of pixels whose class differs, of those with a class in both; NaN without any."""
        return 1 - self.counts.pixel_accuracy()

    def notes(self) -> list[str]:
        """What was not compared, a sentence each."""
        sides = (("A", self.a, self.only_a), ("B", self.b, self.only_b))
        notes = [f"{len(ids):,} images only in {name} ({path}): {first_five(ids)}" for name, path, ids in sides if ids]
        notes += [f"{self.rejected:,} images with a rejected mask are left out"] if self.rejected else []
        return [*notes, *self.remarks]

    def to_json(self) -> dict[str, Any]:
        """All figures by name; NaN becomes null."""
        shares = (self.counts.iou(), self.counts.over_activation(), self.counts.under_activation())
        rows = zip(self.names, *(map(_number, each.tolist()) for each in shares), strict=True)
        return {
            "a": str(self.a),
            "b": str(self.b),
            "images": len(self.images),
            "only_a": self.only_a,
            "only_b": self.only_b,
            "rejected": self.rejected,
            "failed": self.failed,
            "mean_iou": _number(self.counts.miou(rule="present")),
            "pixels_that_differ": _number(self.differing),
            "classes": {name: {"iou": iou, "only_a": a, "only_b": b} for name, iou, a, b in rows},
            "agreement": [
                {name: _number(value) if isinstance(value, float) else value for name, value in asdict(each).items()}
                for each in self.images
            ],
            "truth": None if self.truth is None else self.truth.to_json(),
            "notes": self.notes(),
        }


class _Side(NamedTuple):
    """The masks of one way: `table` maps their ids to those of A."""

    path: Path
    config: Config
    source: MaskSource
    split: str | None
    masks: dict[str, Source]
    table: Mask  # (256,)

    def read(self, image_id: str) -> Mask:
        mask: Mask = self.table[self.source.read(self.masks[image_id]).mask]
        return mask


class Pairs(NamedTuple):
    """The masks of two ways, and the IDs of the images that both have, up to ``--limit``."""

    a: _Side
    b: _Side
    ids: list[str]


def pair_masks(settings: Callable[[Path | None], Config], paths: tuple[Path, Path]) -> Pairs:
    """Find the masks of two ways, and the images that both have.

    Args:
        settings: the settings of a command on a run; on None, those of a folder in no run.
        paths: A and B: a run, a folder of it, an output folder of `predict`, or any folder of ID.png. Such a folder has
            the classes of its classes.json, otherwise of `data.classes`, otherwise of the other way.

    Raises:
        UsageError: a folder is missing, nothing says what the classes are, the names of the classes differ, or no image
            has a mask in both.
    """
    runs = [run_of(path) for path in paths]
    known = [RunFolder(run or path).classes() for run, path in zip(runs, paths, strict=True)]
    sources = []
    for run, path, own, other in zip(runs, paths, known, reversed(known), strict=True):
        config = replace(settings(run), limit=None)
        named = own or (other if config.data.classes is None else None)
        searched = config
        if run is None and (named or config.data.classes):  # all masks, also of images that the data do not list
            searched = replace(config, data=replace(config.data, root=None, tags=None))
        sources.append((path, config, *mask_source(searched, path, classes=named)))
    classes = sources[0][2].classes
    a, b = (
        _Side(path, config, source, split, source.masked(), class_table(source.classes, path, classes, paths[0]))
        for path, config, source, split in sources
    )
    both = [image_id for image_id in a.masks if image_id in b.masks]
    if not both:
        found = "; ".join(f"{side.path} has {len(side.masks)} masks: {first_five(side.masks)}" for side in (a, b))
        raise UsageError(f"no image has a mask in both; masks with the same name, ID.png, are compared. {found}")
    return Pairs(a, b, both[: settings(None).limit])


def class_table(own: Sequence[str], place: Path, classes: Sequence[str], other: Path) -> Mask:
    """The id in the list `classes` of every id in the list `own`: (256,).

    Raises:
        UsageError: the names differ.
    """
    ids = {nfc(name): number for number, name in enumerate(classes, 1)}
    if {*map(nfc, own)} != ids.keys():
        raise UsageError(
            f"the classes of {other} are {', '.join(classes)}, and those of {place} are {', '.join(own)}; only masks "
            "of the same classes can be compared"
        )
    table = np.arange(256, dtype=np.uint8)
    table[1 : len(own) + 1] = [ids[nfc(name)] for name in own]
    return table


class _Counts(NamedTuple):
    """The counts of an image: B as truth of A, and both against the ground truth if there is some."""

    agreement: Confusion
    truths: tuple[Confusion, Confusion] | None
    fault: str  # of the ground truth


def compare_masks(pairs: Pairs, console: Console) -> MaskComparison:
    """Compare the masks of two ways on all images that both have, and with ground truth where it is known.

    The ground truth is that of the data of A's run, otherwise of B's, otherwise of the command.

    Raises:
        UsageError: the data cannot be used.
        Tag2maskError: no image could be compared.
    """
    names = (BACKGROUND, *pairs.a.source.classes)
    truth, remarks = _ground_truth(pairs, console)
    items = {item.id: item for item in truth.items}
    table = class_table(truth.classes, truth.root, names[1:], pairs.a.path)

    def count(image_id: str) -> tuple[str, _Counts | str]:
        try:
            a, b = pairs.a.read(image_id), pairs.b.read(image_id)
            if a.shape != b.shape:
                sizes = " and ".join(f"{mask.shape[1]} × {mask.shape[0]}" for mask in (a, b))
                raise Tag2maskError(f"{image_id}: the masks in A and B differ in size: {sizes} pixels")
        except Tag2maskError as error:
            return image_id, str(error)
        truths, fault = None, ""
        if image_id in items:
            try:
                right = table[truth.read_truth(items[image_id], size=(a.shape[0], a.shape[1]))]
                truths = _confusion(a, right, names), _confusion(b, right, names)
            except Tag2maskError as error:
                fault = str(error)
        b[a == IGNORED] = IGNORED
        return image_id, _Counts(_confusion(a, b, names), truths, fault)

    total, sums = Confusion(len(names)), (Confusion(len(names)), Confusion(len(names)))
    images, failed, faults = list[ImageAgreement](), dict[str, str](), list[str]()
    ious = list[tuple[float, float, float]]()  # agreement, mean IoU of A and of B, of the images with ground truth
    with progress_bar(console, "compare", len(pairs.ids)) as advance:
        for image_id, found in map_ahead(count, pairs.ids, threads=min(8, os.cpu_count() or 1)):
            advance(len(images) + len(failed) + 1)
            if isinstance(found, str):
                failed[image_id] = found
                continue
            faults += [found.fault] if found.fault else []
            total.merge(found.agreement)
            images.append(ImageAgreement.of(image_id, found.agreement, names))
            if found.truths is not None:
                for whole, part in zip(sums, found.truths, strict=True):
                    whole.merge(part)
                ious.append((images[-1].agreement, found.truths[0].miou(), found.truths[1].miou()))
    if not images:
        raise Tag2maskError(f"no image could be compared; {next(iter(failed.values()))}")
    if faults:
        remarks = [*remarks, f"ground truth of {len(faults)} images is not used, the first: {faults[0]}"]
    images.sort(key=lambda each: (math.isnan(each.agreement), each.agreement))
    rejected = {*pairs.a.source.rejected, *pairs.b.source.rejected}
    return MaskComparison(
        pairs.a.path,
        pairs.b.path,
        names,
        total,
        images,
        [image_id for image_id in pairs.a.masks if image_id not in pairs.b.masks and image_id not in rejected],
        [image_id for image_id in pairs.b.masks if image_id not in pairs.a.masks and image_id not in rejected],
        len(rejected),
        failed,
        _against_truth(sums, ious, names[1:]) if ious else None,
        remarks,
    )


def record_agreement(pairs: Pairs, compared: MaskComparison) -> list[str]:
    """Record a comparison of a run's final masks for the report of the run; a sentence about that, if A is a run."""
    (a, b), run, owner = pairs[:2], run_of(pairs.a.path), run_of(pairs.b.path) or pairs.b.path
    if run is None or not _is_final(a.path, run):
        return []
    other = owner if _is_final(b.path, owner) else b.path
    name = Path(owner.resolve().name, other.absolute().relative_to(owner.absolute())).as_posix()
    record = {
        "name": name,
        "at": datetime.now().astimezone().isoformat(timespec="seconds"),
        "images": len(compared.images),
        "mean_iou": _number(compared.counts.miou(rule="present")),
        "classes": [*a.source.classes],
        "ids": b.table[: len(b.source.classes) + 1].tolist(),
        "least": [
            {"image": each.image, "agreement": each.agreement, "other": str(file), "crc": crc_of(file)}
            for each in compared.images[:SHOWN]
            if each.agreement < 1
            for file in [_file(b, each.image)]
        ],
        "masks": {each.image: crc_of(_file(a, each.image)) for each in compared.images},
    }
    try:
        write_record(run, other, record)
    except (OSError, Tag2maskError) as error:
        return [f"not recorded for the report of {run}: {error}"]
    return [f"`tag2mask report {run}` shows the agreement with {name}"]


def _is_final(path: Path, run: Path) -> bool:
    """Whether a folder stands for the final masks of a run."""
    return path.resolve() in (run.resolve(), (run / "masks").resolve())


def write_agreement(path: Path, images: Sequence[ImageAgreement]) -> None:
    """Write a table of the images with `ImageAgreement`'s values; unknown ones are empty."""
    rows = [("image", "agreement", "class", "class_iou")]
    for each in images:
        numbers = ["" if math.isnan(value) else f"{value:.4f}" for value in (each.agreement, each.class_iou)]
        rows.append((each.image, numbers[0], each.class_name, numbers[1]))
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))


def _ground_truth(pairs: Pairs, console: Console) -> tuple[ImageSet, list[str]]:
    """The compared images that have ground truth, and why ground truth is not used."""
    ids = {*pairs.ids}
    in_runs_first = sorted(pairs[:2], key=lambda each: run_of(each.path) is None)
    side = next((each for each in in_runs_first if each.config.data.root or each.config.data.tags), pairs.a)
    config, data = side.config, side.config.data
    if data.root is None and data.tags is None:
        return _masks_alone(pairs), []
    images = open_images(data, split=side.split)
    images = images.of(images.items.filter(lambda item: item.id in ids))
    images, errors = without_mismatched_truth(rasterise_missing_truth(config, images, console), config)
    known = images.items.filter(lambda item: item.truth is not None and item.truth.is_file())
    return images.of(known), [f"ground truth is not used: {error}" for error in errors]


def _masks_alone(pairs: Pairs) -> ImageSet:
    """The images with a mask in `data.masks`, of which nothing else is known; none without it."""
    data, classes = pairs.a.config.data, pairs.a.source.classes
    if data.masks is None:
        return ImageSet(classes, Images.from_list(()), Path())
    if not data.masks.is_dir():
        raise UsageError(f"data.masks {data.masks} is not a folder; name the one with ID.png")
    if data.classes is not None:
        named, problems = read_classes(data.classes)
        refuse_errors(problems)
        classes = named or classes
    elif own := RunFolder(data.masks).classes():
        classes = tuple(own)
    elif classes != pairs.b.source.classes:
        raise UsageError(
            f"nothing says the order of the classes of {data.masks}: A and B differ; name it by data.classes"
        )
    values, problems = parse_mask_values(data.mask_values, classes)
    refuse_errors(problems)
    files = {image_id: file_of(data.masks, image_id, ".png") for image_id in pairs.ids}
    items = [ImageItem(image_id, file, (), file) for image_id, file in files.items() if file.is_file()]
    return ImageSet(classes, Images.from_list(items), data.masks, mask_values=values, pixel_limit=data.pixel_limit)


def _against_truth(
    sums: tuple[Confusion, Confusion], ious: Sequence[tuple[float, float, float]], classes: Sequence[str]
) -> TruthComparison:
    """The figures of both ways, and how well agreement ranks the better one."""
    a, b = (Figures.of(counts, classes, images=len(ious)) for counts in sums)
    found = TruthComparison(a, b, None)
    agreement, *ways = np.array(ious).T
    iou = ways["AB".index(found.better)]
    known = ~np.isnan(agreement) & ~np.isnan(iou)
    if np.count_nonzero(known) < LEAST:
        return found
    return replace(found, ranking=ranking_quality(agreement[known], iou[known]))


def _file(side: _Side, image_id: str) -> Path:
    """The file of a mask, absolute."""
    return side.source.path(side.masks[image_id][0]).absolute()


def _confusion(prediction: Mask, truth: Mask, names: Sequence[str]) -> Confusion:
    counts = Confusion(len(names))
    counts.update(prediction, truth)
    return counts


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
