"""`evaluate FOLDER`: one folder of masks or CAM files against the ground truth."""

from pathlib import Path

from tag2mask.core.errors import UsageError
from tag2mask.core.files import files_below
from tag2mask.evaluation import Figures, evaluate_cams, evaluate_masks
from tag2mask.runs.config import Config
from tag2mask.runs.dataset import run_images
from tag2mask.runs.ground_truth import class_ids, compare_truth_with_tags, with_ground_truth
from tag2mask.runs.progress import Console
from tag2mask.runs.run_folder import RunFolder, run_of
from tag2mask.stages.evaluate import NO_SHARD, counted_bar
from tag2mask.stages.registry import require_classes


def evaluate_folder(config: Config, folder: Path, console: Console) -> Figures:
    """Evaluate a folder of masks (PNG) or CAM files (NPZ), with exactly one file per image with ground truth.

    Raises:
        UsageError: the folder holds neither, files are missing or unexpected, or ground truth is missing or does not
            fit the tags.
    """
    if config.shard is not None:
        raise UsageError(NO_SHARD)
    images = with_ground_truth(config, run_images(config, RunFolder(config.out or folder)), console)
    if not images.items:
        raise UsageError("no image has a ground-truth mask; --data.masks names their folder")
    if (owner := run_of(folder)) is not None:
        require_classes(RunFolder(owner), images.classes)
    problems = compare_truth_with_tags(images, config)
    for problem in problems:
        if problem.level == "error":
            raise UsageError(problem.message)
        console.print(f"warning: {problem.message}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    ids, extra = class_ids(config.evaluate.class_names(), images.classes), config.limit is not None
    # A folder of rasterised masks holds an .npz too, the index of annotations.
    cams = next(files_below(folder, ".png"), None) is None
    if cams and next(files_below(folder, ".npz"), None) is None:
        raise UsageError(f"{folder} holds neither masks (.png) nor CAM files (.npz)")
    evaluate = evaluate_cams if cams else evaluate_masks
    with counted_bar(console, folder, len(images.items)) as on_image:
        return evaluate(folder, images, ids=ids, allow_extra=extra, on_image=on_image)
