"""The layers of a run: its masks, predictions and CAMs, as labels and as heat maps."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tag2mask.cams.kinds import KINDS
from tag2mask.core.errors import UsageError
from tag2mask.data.cam_files import full_resolution, read_ids
from tag2mask.data.images import read_mask, reduced_size
from tag2mask.data.manifest import ImageItem
from tag2mask.report.figures import cam_thresholds, read_splits
from tag2mask.report.pictures import resize_labels
from tag2mask.report.ranking import cam_labels, open_cam
from tag2mask.runs.run_folder import RunFolder

Size = tuple[int, int]

Labels = npt.NDArray[np.uint8]

HEAT_SIDE = 512
"""Longer side of a heat map in pixels: CAMs are smooth, and the browser enlarges them."""


@dataclass(frozen=True)
class Layer:
    """A folder of masks or CAMs.

    Attributes:
        name: in routes.
        title: on the page.
        is_cam: whether the files are CAMs; otherwise they are masks.
        threshold: background threshold of CAMs without background; None if unknown.
    """

    name: str
    title: str
    folder: Path
    is_cam: bool
    threshold: float | None = None

    def has(self, item: ImageItem) -> bool:
        """Whether an image has a file in this layer."""
        return self.file(item).is_file()

    def file(self, item: ImageItem) -> Path:
        """The file of an image; it need not exist."""
        return self.folder / f"{item.id}.{'npz' if self.is_cam else 'png'}"

    def heats(self, item: ImageItem) -> tuple[int, ...]:
        """The classes with a heat map; 0 is background."""
        return (read_ids(self.file(item)) or ()) if self.is_cam else ()

    def has_labels(self, item: ImageItem) -> bool:
        """Whether the layer gives one class per pixel."""
        return not self.is_cam or self.threshold is not None or 0 in self.heats(item)

    def labels(self, item: ImageItem, size: Size, classes: int, long_side: int | None = None) -> Labels:
        """The class of each pixel.

        Args:
            size: (H, W) of the image.
            classes: number of classes without background.
            long_side: longer side of the result in pixels; None: that of the image.

        Returns:
            uint8 (h, w).

        Raises:
            Tag2maskError: the file is missing or damaged, or does not fit.
        """
        file, smaller = self.file(item), reduced_size(size, long_side)
        if not self.is_cam:
            mask = read_mask(file, size=size, classes=classes, pixel_limit=size[0] * size[1])
            return resize_labels(mask, smaller)
        found = cam_labels(open_cam(file, classes=classes, size=size), self.threshold, smaller)
        if found is None:
            raise UsageError(f"{self.title} has no background; `tag2mask evaluate` measures a background threshold")
        return np.asarray(found, dtype=np.uint8)

    def heat(self, item: ImageItem, size: Size, classes: int, class_id: int) -> Labels:
        """The CAM of a class, 255 = 1.

        Returns:
            uint8 (h, w), reduced to `HEAT_SIDE`.

        Raises:
            Tag2maskError: the file is missing or damaged, does not fit, or has no such class.
        """
        if not self.is_cam:
            raise UsageError(f"{self.title} has no heat map")
        cam = open_cam(self.file(item), classes=classes, size=size)
        if class_id not in cam.ids:
            raise UsageError(f"{self.title} of {item.id} has no class {class_id}")
        chosen = np.flatnonzero(cam.ids == class_id)
        one = replace(cam, ids=cam.ids[chosen], cams=cam.cams[chosen], size=reduced_size(size, HEAT_SIDE))
        heat: Labels = np.rint(255 * np.clip(full_resolution(one)[0], 0, 1)).astype(np.uint8)
        return heat


def prediction_folders(run: RunFolder) -> list[str]:
    """The folders with the predictions of a split, relative to the run folder."""
    folder = run / "predictions"
    return sorted(f"predictions/{each.name}" for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []


def layers_of(run: RunFolder) -> dict[str, Layer]:
    """The layers of a run by name: `mask`, then predictions, then CAMs from the last kind to the first."""
    found = [Layer("mask", "Mask of the run", run / "masks", False)]
    predicted = prediction_folders(run)
    for number, folder in enumerate(predicted):
        split = folder.partition("/")[2]
        title = "Prediction" if len(predicted) == 1 else f"Prediction, {split}"
        found.append(Layer(f"prediction-{number}", title, run / folder, False))
    metrics = run.metrics() if (run / "metrics.json").is_file() else {}
    thresholds = cam_thresholds(read_splits(metrics))
    for kind in reversed(KINDS):
        found.append(Layer(f"cam-{kind}", KINDS[kind].heading, run / f"cams/{kind}", True, thresholds.get(kind)))
    found.append(Layer("seeds", "Base CAM", run / "seeds", True, None))
    return {layer.name: layer for layer in found if layer.folder.is_dir()}
