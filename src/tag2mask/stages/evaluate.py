"""The stage `evaluate`: CAMs and masks of a run, or of any folder, against ground truth."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tag2mask.core.distributed import gathered, is_main, process_count, process_number
from tag2mask.core.errors import UsageError
from tag2mask.data.dataset import ImageSet
from tag2mask.data.manifest import ImageItem
from tag2mask.evaluation import DEFAULT_THRESHOLDS, Counts, EvaluationError, count_cams, count_masks
from tag2mask.evaluation.comparison import compare
from tag2mask.evaluation.figures import absence
from tag2mask.evaluation.folders import tagged
from tag2mask.runs.config import Config, plain
from tag2mask.runs.dataset import run_images
from tag2mask.runs.ground_truth import check_splits, class_ids, compare_truth_with_tags, truth_plan, with_ground_truth
from tag2mask.runs.progress import Console, StageResult, progress_bar
from tag2mask.runs.run_folder import WHOLE, RunFolder
from tag2mask.stages.base import Schedule, Settings, Stage, StagePlan

NO_SHARD = "evaluate measures all images in one command, which torchrun shares among processes; leave --shard out"


@dataclass(frozen=True)
class Target:
    """A folder to measure, with a mask or a CAM file ID.png or ID.npz per image; the rest names its figures."""

    stage: str
    split: str
    kind: str
    folder: Path

    @property
    def holds_cams(self) -> bool:
        """Whether it holds CAM files instead of masks."""
        return self.stage in ("seeds", "cams")

    def file(self, item: ImageItem) -> Path:
        """The file of an image."""
        return self.folder / f"{item.id}{'.npz' if self.holds_cams else '.png'}"


class Evaluate(Stage):
    """CAMs and masks against ground truth."""

    name = "evaluate"
    outputs = ("metrics.json",)
    reads = ("seeds", "cams", "refine", "predictions")
    always_rerun = True
    distribution = "join"
    sections = ("evaluate",)

    def settings(self, config: Config, images: ImageSet) -> Settings:
        """The settings of evaluation."""
        return {"evaluate": plain(config.evaluate, affecting=True)}

    def is_wanted(self, config: Config) -> bool:
        """Without a shard."""
        return config.shard is None

    def check(self, config: Config, run: RunFolder, images: ImageSet, schedule: Schedule) -> None:
        """Check the classes and splits to measure."""
        if config.shard is not None:
            raise UsageError(NO_SHARD)
        check_splits(config, run, images)

    def plan(self, config: Config, run: RunFolder, images: ImageSet) -> StagePlan:
        """The number of images with ground truth in each split."""
        splits = config.evaluate.split_names(config.data.split)
        counts = [f"{split or WHOLE} ({truth_plan(run_images(config, run, split))})" for split in splits]
        return StagePlan(self.name, f"on {', '.join(counts)}")

    def do(self, config: Config, run: RunFolder, console: Console) -> StageResult:
        """Measure base CAMs, CAMs of every kind, masks and predictions on each split with ground truth.

        Images without a file are counted in a note. Several processes share the images.
        """
        result = StageResult(self.name)
        for split in config.evaluate.split_names(config.data.split):
            images = with_ground_truth(config, run_images(config, run, split, together=True), console)
            name = split or WHOLE
            if not images.items:
                where = f" for split '{name}'" if split else ""
                result.notes.append(f"no ground truth{where}, so nothing to measure; data.masks names it")
                if is_main():
                    run.delete_metrics(name)  # of an earlier ground truth
                continue
            problems = compare_truth_with_tags(images, config)
            result.notes += [f"split '{name}': {problem.message}" for problem in problems if problem.level == "warning"]
            if errors := [problem.message for problem in problems if problem.level == "error"]:
                result.failed[name] = f"split '{name}' is not measured: {errors[0]}"
                if is_main():
                    run.delete_metrics(name)
                continue
            by_hand = images.corrections.count((item.id for item in images.items), "accepted", "corrected")
            if by_hand:
                result.notes.append(
                    f"{by_hand} images of split '{name}' have a mask by hand; figures are of the masks that the method "
                    "made, not of the corrected ones"
                )
            if (run / "seeds").is_dir():
                source = "CLIP" if config.seeds.from_npy is None else "imported"
                _measure(config, images, Target("seeds", name, source, run / "seeds"), result, console)
            for kind in config.cams.kinds:
                _measure(config, images, Target("cams", name, kind, run / f"cams/{kind}"), result, console)
            method = str(run.setting("refine", "refine.method") or config.refine.method)  # of the masks that are there
            _measure(config, images, Target("refine", name, method, run / "masks"), result, console)
            predicted = run / f"predictions/{name}"
            if predicted.is_dir():
                _measure(config, images, Target("segment", name, "predictions", predicted), result, console)
        if is_main():
            run.merge_metrics(result.figures)
        return result


def compare_runs(config: Config, run: RunFolder, console: Console, *, other: Mapping[str, Any]) -> StageResult:
    """Compare the measured figures of the run's segmentation network with ``other``, those of another run.

    Raises:
        UsageError: the two cannot be compared.
    """
    splits = [split or WHOLE for split in config.evaluate.split_names(config.data.split)]
    return StageResult("compare", comparisons=compare(run.metrics(), other, splits))


def _measure(config: Config, images: ImageSet, target: Target, result: StageResult, console: Console) -> None:
    """Add the figures of a folder, over the images that have a file in it."""
    ids = class_ids(config.evaluate.class_names(), images.classes)
    mine = images.of(images.items[process_number() :: process_count()])
    counts, *others = gathered(_counted(target, mine, console))
    for other in others:
        counts.merge(other)
    name = target.folder.name
    if not counts.images:
        result.notes.append(f"{name}: no file of split '{target.split}', so nothing to measure")
        return
    if counts.lacking:
        total = counts.images + counts.lacking
        result.notes.append(f"{name}: {counts.lacking} of {total} images have no file and are not measured")
    try:
        figures = counts.figures(target.folder, images.classes, ids, tagged(images))
    except EvaluationError as error:  # a damaged mask must not stop the rest
        result.failed[name] = str(error)
        return
    for class_name, count in figures.absent.items():
        note = f"split '{target.split}': {class_name} has {absence(count)}, so that nothing about it is measured"
        result.notes += [note] if note not in result.notes else []
    kinds = result.figures.setdefault(target.stage, {}).setdefault(target.split, {})
    kinds[target.kind] = figures.to_json()
    result.done += figures.images


def _counted(target: Target, images: ImageSet, console: Console) -> Counts:
    """The counts of the images that have a file."""
    made = images.items.filter(lambda item: target.file(item).is_file())
    counts = Counts(len(images.classes) + 1, DEFAULT_THRESHOLDS if target.holds_cams else None)
    if made:
        with counted_bar(console, target.folder, len(made)) as on_image:
            found = images.of(made)
            count = count_cams if target.holds_cams else count_masks
            counts = count(target.folder, found, allow_extra=True, on_image=on_image)
    counts.lacking = len(images.items) - len(made)
    return counts


@contextmanager
def counted_bar(console: Console, folder: Path, total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar, as a function to call after each image."""
    done = 0
    with progress_bar(console, f"evaluate {folder.name}", total) as advance:

        def on_image(image_id: str) -> None:
            nonlocal done
            done += 1
            advance(done)

        yield on_image
