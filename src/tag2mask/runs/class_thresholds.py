"""The thresholds of classes against background, from masks by hand."""

from collections import Counter

import numpy as np

from tag2mask.cams.kinds import cams_command
from tag2mask.core.errors import Tag2maskError
from tag2mask.data.cam_files import full_resolution, read_cam
from tag2mask.data.dataset import ImageSet
from tag2mask.data.images import IGNORED, read_mask
from tag2mask.evaluation import ThresholdSweep
from tag2mask.refine.settings import RefineSettings
from tag2mask.runs.progress import StageResult
from tag2mask.runs.run_folder import RunFolder

LEAST_BY_HAND = 3
"""Masks by hand that show a class, from which on they give its threshold; ours."""

THRESHOLDS = (*(percent / 100 for percent in range(1, 11)), *(percent / 100 for percent in range(12, 99, 2)))
"""The thresholds to choose from; fine near 0, where the best ones of wide classes are. Ours."""


def class_thresholds(
    run: RunFolder, images: ImageSet, settings: RefineSettings, result: StageResult | None = None
) -> dict[int, float]:
    """The threshold of each class that at least `LEAST_BY_HAND` masks by hand show: the one with their highest IoU.

    Masks of all splits count, if the run has the CAMs of their images; ``result`` receives a note about the others.
    Empty for kinds of CAM with a background, and for methods with a random walk, which has its own level.

    Returns:
        class ids and thresholds in (0, 1).
    Source: ours.
    """
    if settings.has_background or settings.walks or not 0 < settings.background_threshold < 1:
        return {}
    sweeps: dict[int, ThresholdSweep] = {}
    shown: Counter[int] = Counter()
    without = 0
    for image_id in sorted(images.corrections.verdicts):
        if not images.corrections.has_mask(image_id):
            continue
        try:
            cam = read_cam(run / f"cams/{settings.cams}/{image_id}.npz")
            labels = read_mask(run / f"corrections/{image_id}.png", size=cam.size, pixel_limit=images.pixel_limit)
        except Tag2maskError:  # whatever needs the file reports it
            without += 1
            continue
        for class_id, own in zip(cam.ids.tolist(), full_resolution(cam), strict=True):
            truth = np.where(labels == IGNORED, IGNORED, labels == class_id).astype(np.uint8)
            sweeps.setdefault(class_id, ThresholdSweep(2, THRESHOLDS)).update(np.ones(1, np.int64), own[None], truth)
            shown[class_id] += bool((truth == 1).any())
    if without and result is not None:
        result.notes.append(
            f"{without} masks by hand do not count for the thresholds of their classes: their CAMs cannot be read; run "
            f"`{cams_command(settings.cams, run.path)}` for their images, then `refine` again"
        )
    return {
        class_id: max(THRESHOLDS, key=lambda value, sweep=sweep: sweep.confusion(value).iou()[1])  # type: ignore[misc]
        for class_id, sweep in sorted(sweeps.items())
        if shown[class_id] >= LEAST_BY_HAND
    }
