"""The stage `evaluate`: CAMs and masks of a run, or of any folder, against the ground truth."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from tag2mask.data.photos import PhotoSet
from tag2mask.errors import UsageError
from tag2mask.evaluate import Figures, evaluate_cams, evaluate_masks
from tag2mask.evaluate.comparison import compare
from tag2mask.evaluate.folders import EvaluationError
from tag2mask.pipeline.config import Config
from tag2mask.pipeline.progress import StageResult, progress_bar
from tag2mask.pipeline.reading import photographs
from tag2mask.pipeline.run_folder import RunFolder
from tag2mask.pipeline.truth import with_truth

WHOLE = "all"
"""The name under which figures of data without splits are kept."""


def evaluate(config: Config, run: RunFolder, console: Console) -> StageResult:
    """Measure base CAMs, the run's CAMs of every kind and its masks on each split, where there is ground truth.

    Photographs whose files could not be made are left out, and counted in a note.
    """
    result = StageResult("evaluate")
    for split in config.evaluate.split_names(config.data.split):
        photos = with_truth(config, photographs(config, split), console)
        name = split or WHOLE
        if not photos.photos:
            result.notes.append(
                f"no ground truth for split '{name}', so nothing to measure" if split else "no ground truth"
            )
            continue
        if (run / "seeds").is_dir():
            source = "CLIP" if config.seeds.from_npy is None else "imported"
            _measure(config, run / "seeds", photos, ("seeds", name, source), result, console)
        for kind in config.cams.kinds:
            _measure(config, run / "cams" / kind, photos, ("cams", name, kind), result, console)
        method = str(run.setting("refine", "refine.method") or config.refine.method)  # of the masks that are there
        _measure(config, run / "masks", photos, ("refine", name, method), result, console)
        if (run / "predictions" / name).is_dir():
            _measure(config, run / "predictions" / name, photos, ("segment", name, "predictions"), result, console)
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
        UsageError: the folder holds neither, or files are missing or too many, or there is no ground truth.
    """
    photos = with_truth(config, photographs(config), console)
    if not photos.photos:
        raise UsageError("no photograph has a ground-truth mask; --data.masks names their folder")
    return _figures(config, folder, photos, console, allow_extra=config.limit is not None)


def class_ids(names: Sequence[str] | None, classes: Sequence[str]) -> list[int] | None:
    """Class ids of names, `background` included; None for None.

    Raises:
        UsageError: a name is no class.
    """
    if names is None:
        return None
    known = ["background", *classes]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"evaluate.classes: {', '.join(unknown)} is not among the classes {', '.join(known)}")
    return [known.index(name) for name in names]


def _measure(
    config: Config, folder: Path, photos: PhotoSet, place: tuple[str, str, str], result: StageResult, console: Console
) -> None:
    """Add the figures of one folder of the run, over the photographs that have a file there."""
    suffix = ".png" if place[0] in ("refine", "segment") else ".npz"
    made = tuple(photo for photo in photos.photos if (folder / f"{photo.id}{suffix}").is_file())
    if not made:
        result.notes.append(f"{folder.name}: no file of split '{place[1]}', so nothing to measure")
        return
    if len(made) < len(photos.photos):
        lacking = len(photos.photos) - len(made)
        result.notes.append(
            f"{folder.name}: {lacking} of {len(photos.photos)} photographs have no file and are not measured"
        )
    try:
        figures = _figures(config, folder, replace(photos, photos=made), console, allow_extra=True)
    except EvaluationError as error:  # a damaged mask must not cost the rest of the run
        result.failed[folder.name] = str(error)
        return
    stage, split, kind = place
    result.figures.setdefault(stage, {}).setdefault(split, {})[kind] = figures.to_json()
    result.done += figures.images


def _figures(config: Config, folder: Path, photos: PhotoSet, console: Console, *, allow_extra: bool) -> Figures:
    """The figures of a folder, whose kind its files tell."""
    ids = class_ids(config.evaluate.class_names(), photos.classes)
    cams = next(folder.rglob("*.png"), None) is None  # beside painted masks lies an .npz, the index of annotations
    if cams and next(folder.rglob("*.npz"), None) is None:
        raise UsageError(f"{folder} holds neither masks (.png) nor CAM files (.npz)")
    done = 0
    with progress_bar(console, f"evaluate {folder.name}", len(photos.photos)) as advance:

        def on_photo(photo_id: str) -> None:
            nonlocal done
            done += 1
            advance(done)

        if cams:
            thresholds = sorted(config.evaluate.thresholds)
            return evaluate_cams(
                folder, photos, thresholds=thresholds, ids=ids, allow_extra=allow_extra, on_photo=on_photo
            )
        return evaluate_masks(folder, photos, ids=ids, allow_extra=allow_extra, on_photo=on_photo)
