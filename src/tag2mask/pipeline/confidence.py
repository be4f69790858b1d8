"""The stage `confidence`: how sure each mask is, without truth, and which photographs to look at first."""

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from rich.console import Console

from tag2mask.cam_files import CamFile, read_cam
from tag2mask.confidence.evidence import Evidence, gather
from tag2mask.confidence.evidence_files import read_evidence, write_evidence
from tag2mask.confidence.model import judge
from tag2mask.confidence.quality import ranking_quality
from tag2mask.confidence.table import IMAGES, QUALITY, written_tables
from tag2mask.data.images import read_image, read_mask
from tag2mask.data.photo import Photo, Photos
from tag2mask.data.photos import PhotoSet
from tag2mask.distributed import is_main, process_count
from tag2mask.errors import Tag2maskError, UsageError
from tag2mask.evaluate import Confusion
from tag2mask.files import is_newer, remove_partial, write_json
from tag2mask.networks.checkpoint import load_segmentation_network
from tag2mask.outputs import File, Folder
from tag2mask.pipeline.batches import as_written
from tag2mask.pipeline.config import Config, plain
from tag2mask.pipeline.evaluate import WHOLE
from tag2mask.pipeline.pace import paced_bar
from tag2mask.pipeline.progress import StageResult
from tag2mask.pipeline.read_bounded import read_bounded
from tag2mask.pipeline.reading import photographs, reading_workers
from tag2mask.pipeline.refinable import shard_of
from tag2mask.pipeline.run_folder import STAGES, RunFolder
from tag2mask.predictor import SEGMENT_NETWORK, Predictor
from tag2mask.refine.labels import ClassMaps

EVIDENCE = "confidence/evidence"
"""The folder with what is known of each photograph's mask."""

LONG_SIDE = 256
"""Pixels of the longer side at which masks, CAMs and the network are compared, at most; ours."""


@dataclass(frozen=True)
class _Compared:
    """What is read of a photograph.

    Attributes:
        labels: uint8 (h, w), its mask, reduced.
        cam: None without one.
        image: uint8 (H, W, 3); None where no network looks at it.
    """

    labels: npt.NDArray[np.uint8]
    cam: CamFile | None
    image: npt.NDArray[np.uint8] | None


@dataclass(frozen=True)
class _Sources:
    """Where the evidence comes from, and goes to."""

    masks: Folder
    cams: Folder
    evidence: Folder
    network: Predictor | None
    made_by: str

    @classmethod
    def of(cls, config: Config, run: RunFolder, photos: PhotoSet) -> "_Sources":
        """Those of a run: its masks, the CAMs that they were made from, and its segmentation network if it has one."""
        path = run / SEGMENT_NETWORK
        network = None
        made_by: dict[str, Any] = {
            "version": STAGES["confidence"].version,
            "long_side": LONG_SIDE,
            "masks": run.fingerprint("refine"),
        }
        if path.is_file():
            own = load_segmentation_network(path, classes=photos.classes)
            network = Predictor(own, config.device, config.predict, pixel_limit=config.data.pixel_limit)
            predict = {name: value for name, value in plain(config.predict).items() if not name.startswith("crf")}
            predict.pop("batch_size")
            made_by |= {"network": run.fingerprint("segment"), "predict": predict}
        kind = run.setting("refine", "refine.cams") or config.refine.cams
        folders = run.folder("masks"), run.folder(f"cams/{kind}"), run.folder(EVIDENCE)
        return cls(*folders, network, json.dumps(made_by, sort_keys=True))

    def is_stale(self, network: Path, photo: Photo) -> bool:
        """Whether the evidence of a photograph is missing, of something else, or older than what it was made from."""
        file = self.evidence / f"{photo.id}.npz"
        read = (self.masks / f"{photo.id}.png", self.cams / f"{photo.id}.npz", network)
        return any(is_newer(each, file) for each in read) or read_evidence(file, self.made_by) is None


def confidence(config: Config, run: RunFolder, console: Console) -> StageResult:
    """Gather the evidence that is missing or stale, then write both tables and measure the ranking where truth is.

    A shard gathers the evidence of its photographs and leaves the tables to the command without one.

    Raises:
        UsageError: there are no masks, or the network knows other classes.
    """
    photos, result = photographs(config), StageResult("confidence")
    if not run.folder("masks").is_dir():
        raise UsageError(f"{run / 'masks'} does not exist; run `tag2mask refine` with the same --out first")
    if process_count() > 1 and config.shard is None and not is_main():
        return result  # what is left when every process has done its shard
    remove_partial(run / "confidence")
    sources = _Sources.of(config, run, photos)
    mine = as_written(shard_of(photos.photos, config, result), sources.masks, ".png")
    masked = mine.where(lambda photo: (sources.masks / f"{photo.id}.png").is_file())
    todo = masked.where(partial(sources.is_stale, run / SEGMENT_NETWORK))
    result.skipped = len(masked) - len(todo)
    _gather(todo, sources, config, run, result, console)
    if config.shard is not None:
        result.notes.append("the tables are written by `tag2mask confidence` without --shard")
        return result
    if len(mine) > len(masked):
        result.notes.append(f"{len(mine) - len(masked)} photographs have no mask and are not ranked")
    _write_tables(masked, sources, run, config, ("background", *photos.classes), result)
    return result


def _gather(
    photos: Photos, sources: _Sources, config: Config, run: RunFolder, result: StageResult, console: Console
) -> None:
    """Write the evidence of photographs; what cannot be read has failed."""
    compared = read_bounded(
        photos,
        partial(_read, sources, config),
        workers=max(1, reading_workers(config)),
        pixel_limit=config.data.pixel_limit,
    )
    with paced_bar(run, "confidence", console, len(photos)) as advance:
        for photo, found in compared:
            file = sources.evidence / f"{photo.id}.npz"
            if isinstance(found, str):
                result.failed[photo.id] = found
                file.unlink(missing_ok=True)
                continue
            write_evidence(file, _evidence(photo, found, sources, config), sources.made_by)
            result.done += 1
            advance(result.done)


def _read(sources: _Sources, config: Config, photo: Photo) -> _Compared | str:
    """What is compared, or why it cannot be."""
    limit, image = config.data.pixel_limit, None
    file = sources.cams / f"{photo.id}.npz"
    try:
        mask = read_mask(sources.masks / f"{photo.id}.png", pixel_limit=limit)
        cam = read_cam(file) if file.is_file() else None
        if sources.network is not None:
            image = read_image(photo.path, pixel_limit=limit)
    except Tag2maskError as error:
        return str(error)
    sizes = {mask.shape, *([] if cam is None else [cam.size]), *([] if image is None else [image.shape[:2]])}
    if len(sizes) > 1:
        return f"{photo.id}: mask, CAM file and photograph differ in size; delete its mask and do its stage again"
    if cam is None and image is None:
        return f"{file} does not exist and there is no segmentation network, so nothing to judge the mask by"
    return _Compared(_reduced(mask), cam, image)


def _reduced(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A mask, no longer than `LONG_SIDE`: the label in the middle of each cell; itself where it is not longer."""
    longer = max(mask.shape)
    if longer <= LONG_SIDE:
        return mask
    height, width = (max(1, round(side * LONG_SIDE / longer)) for side in mask.shape)
    return np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def _evidence(photo: Photo, found: _Compared, sources: _Sources, config: Config) -> Evidence:
    """What the CAMs and the network say of a mask."""
    ids, cams, logits = torch.tensor((0, *photo.tags), dtype=torch.uint8), None, None
    if found.cam is not None:
        own = ClassMaps(torch.from_numpy(found.cam.ids).byte(), torch.from_numpy(found.cam.cams).float())
        cams = own.with_background(config.refine.background_threshold, config.refine.background_power)
    if found.image is not None and sources.network is not None:
        size = (found.labels.shape[0], found.labels.shape[1])
        logits = sources.network.reduced_logits(found.image, size)
    return gather(torch.from_numpy(found.labels), ids, cams, logits)


def _write_tables(
    photos: Photos, sources: _Sources, run: RunFolder, config: Config, names: Sequence[str], result: StageResult
) -> None:
    """Both tables, and how well they rank where there is truth."""
    confidences, ious = array("d"), array("d")
    with written_tables(run.path, names) as tables:
        for photo in photos:
            evidence = read_evidence(sources.evidence / f"{photo.id}.npz", sources.made_by)
            if evidence is None:  # it has failed
                continue
            judgement = judge(evidence)
            tables.add(photo.id, evidence, judgement)
            if photo.mask is None or not photo.mask.is_file():
                continue
            try:
                iou = _true_iou(sources.masks / f"{photo.id}.png", photo.mask, len(names))
            except Tag2maskError as error:
                result.failed[photo.id] = str(error)
                continue
            if not np.isnan(iou):
                confidences.append(judgement.confidence)
                ious.append(iou)
    result.notes.append(f"look here first: {run / IMAGES}")
    (run / QUALITY).unlink(missing_ok=True)
    if len(ious) > 1:
        quality = ranking_quality(np.array(confidences), np.array(ious))
        result.notes.append(quality.sentence())
        write_json(run / QUALITY, {"split": config.data.split or WHOLE, **quality.to_json()})


def _true_iou(mask: File, truth: Path, classes: int) -> float:
    """The mean IoU of a mask over the classes in its truth, background counted; NaN if that is all 255."""
    confusion = Confusion(classes)
    true = read_mask(truth, classes=classes - 1)
    confusion.update(read_mask(mask, size=true.shape, classes=classes - 1), true)
    return confusion.miou()
