"""The stage `evaluate`: CAMs and masks of a run, or of any folder, against the ground truth."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from tag2mask.data.photos import PhotoSet
from tag2mask.distributed import gathered, is_main, process_count, process_number
from tag2mask.errors import UsageError
from tag2mask.evaluate import (
    Counts,
    EvaluationError,
    Figures,
    count_cams,
    count_masks,
    evaluate_cams,
    evaluate_masks,
)
from tag2mask.evaluate.comparison import compare
from tag2mask.evaluate.figures import absence
from tag2mask.evaluate.folders import tagged
from tag2mask.files import files_below
from tag2mask.pipeline.config import Config
from tag2mask.pipeline.paths import WHOLE
from tag2mask.pipeline.progress import StageResult, progress_bar
from tag2mask.pipeline.reading import photographs
from tag2mask.pipeline.run_folder import RunFolder, run_of
from tag2mask.pipeline.shard_counts import ShardCounts, Target
from tag2mask.pipeline.truth import class_ids, truth_against_tags, with_truth


def evaluate(config: Config, run: RunFolder, console: Console) -> StageResult:
    """Measure base CAMs, the run's CAMs of every kind and its masks on each split, where there is ground truth.

    Photographs whose files could not be made are left out, and counted in a note. Several processes share the
    photographs; a shard counts its own and leaves the figures to the command without one.
    """
    result = StageResult("evaluate")
    for split in config.evaluate.split_names(config.data.split):
        photos = with_truth(config, photographs(config, split, together=True), console)
        name = split or WHOLE
        if not photos.photos:
            result.notes.append(
                f"no ground truth for split '{name}', so nothing to measure" if split else "no ground truth"
            )
            continue
        problems = truth_against_tags(photos, config)
        result.notes += [f"split '{name}': {problem.message}" for problem in problems if problem.level == "warning"]
        if errors := [problem.message for problem in problems if problem.level == "error"]:
            result.failed[name] = f"split '{name}' is not measured: {errors[0]}"
            if is_main():
                run.forget_metrics(name)
            continue
        by_hand = photos.decided.count((photo.id for photo in photos.photos), "accepted", "corrected")
        if by_hand:
            result.notes.append(
                f"{by_hand} photographs of split '{name}' have a mask by hand; figures are of what the method made, "
                "not of what people corrected"
            )
        if (run / "seeds").is_dir():
            source = "CLIP" if config.seeds.from_npy is None else "imported"
            _measure(config, run, photos, Target("seeds", name, source, run / "seeds"), result, console)
        for kind in config.cams.kinds:
            _measure(config, run, photos, Target("cams", name, kind, run / f"cams/{kind}"), result, console)
        method = str(run.setting("refine", "refine.method") or config.refine.method)  # of the masks that are there
        _measure(config, run, photos, Target("refine", name, method, run / "masks"), result, console)
        predicted = run / f"predictions/{name}"
        if predicted.is_dir():
            _measure(config, run, photos, Target("segment", name, "predictions", predicted), result, console)
    if config.shard is not None:
        result.notes.append(
            f"counted shard {config.shard}; `tag2mask evaluate` without --shard puts all shards together"
        )
    elif is_main():
        run.merge_metrics(result.figures)
    return result


def compare_runs(config: Config, run: RunFolder, console: Console, *, other: Mapping[str, Any]) -> StageResult:
    """The run's segmentation network beside another run's, from what was measured of both.

    Args:
        config: the splits.
        run: this run.
        console: not written to.
        other: the figures of the other run.

    Raises:
        UsageError: the two cannot be compared.
    """
    splits = [split or WHOLE for split in config.evaluate.split_names(config.data.split)]
    return StageResult("compare", comparisons=compare(run.metrics(), other, splits))


def evaluate_folder(config: Config, folder: Path, console: Console) -> Figures:
    """Measure one folder of masks (PNG) or CAM files (NPZ): one file for each photograph with ground truth, no other.

    Raises:
        UsageError: the folder holds neither, or files are missing or too many, or there is no ground truth, or it
            does not fit the tags.
    """
    if config.shard is not None:
        raise UsageError("--shard is for the folders of a run, which `evaluate --out RUN` measures; leave it out")
    photos = with_truth(config, photographs(config), console)
    if not photos.photos:
        raise UsageError("no photograph has a ground-truth mask; --data.masks names their folder")
    if (owner := run_of(folder)) is not None:
        RunFolder(owner).require_classes(photos.classes)
    problems = truth_against_tags(photos, config)
    for problem in problems:
        if problem.level == "error":
            raise UsageError(problem.message)
        console.print(f"warning: {problem.message}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    return _figures(config, folder, photos, console)


def _measure(
    config: Config, run: RunFolder, photos: PhotoSet, target: Target, result: StageResult, console: Console
) -> None:
    """Add the figures of one folder of the run, over the photographs that have a file there."""
    ids = class_ids(config.evaluate.class_names(), photos.classes)
    counts = _counts(config, run, photos, target, result, console)
    name = target.folder.name
    if not counts.images:
        result.notes.append(f"{name}: no file of split '{target.split}', so nothing to measure")
        return
    if counts.lacking:
        total = counts.images + counts.lacking
        result.notes.append(f"{name}: {counts.lacking} of {total} photographs have no file and are not measured")
    try:
        figures = counts.figures(target.folder, photos.classes, ids, tagged(photos))
    except EvaluationError as error:  # a damaged mask must not cost the rest of the run
        result.failed[name] = str(error)
        return
    for class_name, count in figures.absent.items():
        note = f"split '{target.split}': {class_name} has {absence(count)}, so that nothing about it is measured"
        result.notes += [note] if note not in result.notes else []
    if config.shard is None:
        kinds = result.figures.setdefault(target.stage, {}).setdefault(target.split, {})
        kinds[target.kind] = figures.to_json()
    result.done += figures.images


def _counts(
    config: Config, run: RunFolder, photos: PhotoSet, target: Target, result: StageResult, console: Console
) -> Counts:
    """The counts of this shard, which are kept; or those of all: what the shards kept, or counted by all processes."""
    kept = ShardCounts(run, target, photos, sorted(config.evaluate.thresholds))
    if config.shard is not None:
        number, shards = config.shard_of()
        state = kept.state(number, shards)  # before anything is read: what is written anew from now on has another
        counts = _counted(config, target, kept.part(number, shards), console)
        kept.write(number, shards, counts, state)
        return counts
    merged, note = gathered(kept.merged() if is_main() else (None, ""))[0]
    if note:
        result.notes.append(f"{target.folder.name}: {note}")
    if merged is not None:
        return merged
    parts = gathered(_counted(config, target, kept.part(process_number() + 1, process_count()), console))
    for part in parts[1:]:
        parts[0].merge(part)
    return parts[0]


def _counted(config: Config, target: Target, photos: PhotoSet, console: Console) -> Counts:
    """The counts of those of the photographs that have a file."""
    made = photos.photos.where(lambda photo: target.file(photo).is_file())
    made = made
    thresholds = sorted(config.evaluate.thresholds) if target.holds_cams else None
    counts = Counts(len(photos.classes) + 1, thresholds)
    if made:
        with _progress(console, target.folder, len(made)) as on_photo:
            found = photos.of(made)
            if thresholds is None:
                counts = count_masks(target.folder, found, allow_extra=True, on_photo=on_photo)
            else:
                counts = count_cams(target.folder, found, thresholds=thresholds, allow_extra=True, on_photo=on_photo)
    counts.lacking = len(photos.photos) - len(made)
    return counts


def _figures(config: Config, folder: Path, photos: PhotoSet, console: Console) -> Figures:
    """The figures of a folder, whose kind its files tell."""
    ids = class_ids(config.evaluate.class_names(), photos.classes)
    extra = config.limit is not None
    cams = (
        next(files_below(folder, ".png"), None) is None
    )  # beside painted masks lies an .npz, the index of annotations
    if cams and next(files_below(folder, ".npz"), None) is None:
        raise UsageError(f"{folder} holds neither masks (.png) nor CAM files (.npz)")
    photos = photos.of(photos.photos)
    with _progress(console, folder, len(photos.photos)) as on_photo:
        if cams:
            thresholds = sorted(config.evaluate.thresholds)
            return evaluate_cams(folder, photos, thresholds=thresholds, ids=ids, allow_extra=extra, on_photo=on_photo)
        return evaluate_masks(folder, photos, ids=ids, allow_extra=extra, on_photo=on_photo)


@contextmanager
def _progress(console: Console, folder: Path, total: int) -> Iterator[Callable[[str], None]]:
    """What moves the bar on by a photograph."""
    done = 0
    with progress_bar(console, f"evaluate {folder.name}", total) as advance:

        def on_photo(photo_id: str) -> None:
            nonlocal done
            done += 1
            advance(done)

        yield on_photo
