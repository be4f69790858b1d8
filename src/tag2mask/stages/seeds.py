"""The stage `seeds`: base CAMs from a text-image model, or from CLIP-ES's files, and their export."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.cams.clip.npy_files import NpyCams, read_npy_cams, write_npy_cams
from tag2mask.cams.clip.prompts import read_prompts
from tag2mask.cams.inputs import patch_grid
from tag2mask.cams.seed_models import TextImageModel, load_seed_model, seed_fingerprint
from tag2mask.core.device import resolve_device
from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.core.prefetch import map_ahead
from tag2mask.core.profile import timed
from tag2mask.core.provenance import image_origin, is_of_image
from tag2mask.data.cam_files import CamFile, CamFileError, full_resolution, read_cam, read_record, write_cam
from tag2mask.data.dataset import ImageSet
from tag2mask.data.images import image_size, read_image
from tag2mask.data.manifest import ImageItem, Images
from tag2mask.runs.base_cams import seed_path
from tag2mask.runs.batches import Batches, readable, with_sizes
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import exclude_damaged
from tag2mask.runs.dataset import reading_workers, run_images
from tag2mask.runs.progress import Console, StageResult, progress_bar
from tag2mask.runs.run_folder import RunFolder
from tag2mask.runs.throughput import timed_progress_bar
from tag2mask.stages.base import Schedule, Settings, Stage, StagePlan

GRID_CELL = 16
"""Pixels per cell of the grid that imported maps are reduced to: CLIP-ES's own."""

_USUAL_PATCHES = 1024
"""Batches of images with more patches are smaller, since attention grows with the square."""

_BLOCK = 16
"""Images that a shard takes together; batches lie within a block, so that they do not depend on the shards."""

_MOST_PADDING = 1.25
"""The largest ratio of the longest sequence of a batch to its shortest."""


class Seeds(Stage):
    """Base CAMs from a text-image model, or imported ones."""

    name = "seeds"
    outputs = ("seeds",)
    version = 3
    distribution = "shard"
    sections = ("seeds",)
    reads_images = True
    enabled_by = "settings `external`"

    def is_wanted(self, config: Config) -> bool:
        """If any setting uses base CAMs."""
        return config.external.used

    def settings(self, config: Config, images: ImageSet) -> Settings:
        """The source of imported base CAMs, or the settings that the model reads, and the content of its files."""
        classes, own = list(images.classes), config.seeds
        if own.from_npy is not None:
            return {"classes": classes, "seeds": {"from_npy": str(own.from_npy)}}
        prompts = read_prompts(own.prompts, images.classes)
        return {"classes": classes, "seeds": seed_fingerprint(own, prompts, resolve_device(config.device))}

    def check(self, config: Config, run: RunFolder, images: ImageSet, schedule: Schedule) -> None:
        """Check the folder of imported base CAMs."""
        _check_source(config)

    def plan(self, config: Config, run: RunFolder, images: ImageSet) -> StagePlan:
        """The missing base CAMs."""
        source = f"the files in {config.seeds.from_npy}" if config.seeds.from_npy else config.seeds.model
        work = f"{{}} base CAMs to take from {source}"
        return self.images_plan(run, images.items, ["seeds"], ".npz", work, lambda item: _missing(item, run))

    def do(self, config: Config, run: RunFolder, console: Console) -> StageResult:
        """Make or import the base CAMs that are missing or stale."""
        result = StageResult(self.name)
        images = run_images(config, run, together=True)
        exclude_damaged(images, result)
        make = _make if config.seeds.from_npy is None else _import
        make(self, config, run, images, result, console)
        return result


def export_npy(config: Config, run: RunFolder, console: Console, *, folder: Path) -> StageResult:
    """Write base CAMs as CLIP-ES's files, ID.npy, with maps at full size and on the grid; ``--shard`` takes every n-th.

    Images without a base CAM have failed.
    """
    images, result = run_images(config, run), StageResult("export")
    number, shards = config.shard_of()
    mine = images.items[number - 1 :: shards]
    with progress_bar(console, "export", len(mine)) as advance:
        for done, item in enumerate(mine, start=1):
            try:
                cam = read_cam(seed_path(run, item))
                full = full_resolution(cam).astype(np.float16)
                write_npy_cams(folder / f"{item.id}.npy", NpyCams(cam.ids.astype(np.int64) - 1, full, cam.cams))
                result.done += 1
            except Tag2maskError as error:
                result.failed[item.id] = str(error)
            advance(done)
    return result


def _make(
    stage: Stage, config: Config, run: RunFolder, images: ImageSet, result: StageResult, console: Console
) -> None:
    settings = config.seeds
    prompts = read_prompts(settings.prompts, images.classes)
    run.check(stage, stage.fingerprint(config, images))
    damaged = images.corrections.damaged
    mine = _in_blocks(images.items, config, result)[0].filter(lambda item: item.id not in damaged)
    if not any(_missing(item, run) for item in mine):
        result.skipped = len(mine)  # without the model, which may be large, or not on this machine
        return
    device = resolve_device(config.device)
    found = load_seed_model(settings, prompts, device, notify=lambda text: console.print(text, highlight=False))
    run.record_fingerprint(stage, stage.fingerprint(config, images))
    result.notes += prompts.notices if found.reads_background else []
    batches = batches_by_patches(found.model, images.items, config, result).without(damaged)
    todo, missing = batches.unfinished(lambda item: _missing(item, run))
    result.skipped = batches.total - missing
    with timed_progress_bar(run, "seeds", console, missing) as advance:
        for batch in prepared_batches(found.model, todo, config, result):
            tags = torch.from_numpy(images.tag_matrix([item.item for item in batch]))
            with timed("network"):
                made = found.cams([item.image for item in batch], tags)
            for item, (labels, cams) in zip(batch, made, strict=True):
                if _missing(item.item, run):
                    ids = np.array(labels, dtype=np.int32) + 1
                    write_cam(seed_path(run, item.item), CamFile(ids, cams.numpy(), item.size, image=item.origin))
                    result.done += 1
            advance(result.done)


def _check_source(config: Config) -> None:
    folder = config.seeds.from_npy
    if folder is not None and not folder.is_dir():
        raise UsageError(f"seeds.from_npy: {folder} is not a folder; name the one with CLIP-ES's files, ID.npy")


def _import(
    stage: Stage, config: Config, run: RunFolder, images: ImageSet, result: StageResult, console: Console
) -> None:
    folder = config.seeds.from_npy or Path()
    _check_source(config)
    run.record_fingerprint(stage, stage.fingerprint(config, images))
    number, shards = config.shard_of()
    damaged = images.corrections.damaged
    mine = images.items[number - 1 :: shards].filter(lambda item: item.id not in damaged)
    todo = mine.filter(lambda item: _missing(item, run))
    result.skipped = len(mine) - len(todo)
    losses: list[float] = []
    untagged = unmapped = 0

    def load(item: ImageItem) -> tuple[CamFile, float | None, int] | Tag2maskError:
        try:
            origin = image_origin(item.path)
            size = image_size(item.path, pixel_limit=config.data.pixel_limit)
            found = read_npy_cams(folder / f"{item.id}.npy", len(images.classes), size)
            cam, loss, left_out = _reduced(found, item, size)
            return replace(cam, image=origin), loss, left_out
        except Tag2maskError as error:
            return error

    loaded = map_ahead(load, todo, threads=max(1, reading_workers(config)))
    with timed_progress_bar(run, "seeds", console, len(todo)) as advance:
        for done, (item, answer) in enumerate(zip(todo, loaded, strict=True), start=1):
            if isinstance(answer, Tag2maskError):
                result.failed[item.id] = str(answer)
            else:
                cam, loss, left_out = answer
                if _is_same(cam, seed_path(run, item)):  # a tag without a map: keep the file, so that nothing is stale
                    result.skipped += 1
                else:
                    write_cam(seed_path(run, item), cam)
                    result.done += 1
                untagged, unmapped = untagged + left_out, unmapped + len(item.tags) - len(cam.ids)
                losses += [] if loss is None else [loss]
            advance(done)
    if losses:
        result.notes.append(
            f"{len(losses)} files hold maps at full size alone; on the grid of {GRID_CELL} pixels, enlarged again, "
            f"they differ by {np.mean(losses):.4f} on average (at most {np.max(losses):.4f} for one image)"
        )
    if untagged:
        result.notes.append(f"{untagged} maps are of classes that their image is not tagged with, and are left out")
    if unmapped:
        result.notes.append(f"{unmapped} tags have no map; the classifier's CAM stands in for it")


def _is_same(cam: CamFile, path: Path) -> bool:
    """Whether a file holds this CAM already."""
    try:
        there = read_cam(path)
        same = np.array_equal(there.ids, cam.ids) and np.array_equal(there.cams, cam.cams)
        unknown = there.image is None or cam.image is None
        return bool(same) and (unknown or np.array_equal(there.image, cam.image))  # type: ignore[arg-type]
    except CamFileError:
        return False


def _reduced(found: NpyCams, item: ImageItem, size: tuple[int, int]) -> tuple[CamFile, float | None, int]:
    """The maps of the image's tags on the grid, the mean error of the reduction, and the number of other maps.

    Maps at full size are enlargements of a grid: they are sampled at the centres of its cells.
    """
    ids = found.classes + 1
    own = [int(place) for place in np.argsort(ids) if ids[place] in item.tags]
    if found.grid is not None:
        return CamFile(ids[own].astype(np.int32), found.grid[own], size), None, len(ids) - len(own)
    grid = (-(-size[0] // GRID_CELL), -(-size[1] // GRID_CELL))
    full = torch.from_numpy(found.full[own].astype(np.float32))[None]
    reduced = F.interpolate(full, size=grid, mode="bilinear")[0] if own else full.new_zeros(0, *grid)
    cam = CamFile(ids[own].astype(np.int32), reduced.half().numpy(), size)
    loss = float((torch.from_numpy(full_resolution(cam)) - full[0]).abs().mean()) if own else None
    return cam, loss, len(ids) - len(own)


def _missing(item: ImageItem, run: RunFolder) -> bool:
    """Whether the base CAM of an image is missing, damaged, or of other tags or another image."""
    path = seed_path(run, item)
    found = read_record(path)
    return found is None or found.ids != item.tags or not is_of_image(found.image, item.path, path)


def _in_blocks(items: Images, config: Config, result: StageResult) -> tuple[Images, npt.NDArray[np.int64]]:
    """This shard's readable images in blocks of similar size, and height << 32 | width of each; without the model."""
    sound, sizes = with_sizes(items, config, result)
    cells = _counts(sizes, lambda size: patch_grid(size, GRID_CELL, config.seeds.long_side))
    number, shards = config.shard_of()
    order = np.argsort(cells, kind="stable")
    mine = order[np.arange(len(order)) // _BLOCK % shards == number - 1]
    return sound.take(mine), sizes[mine]


def _counts(sizes: npt.NDArray[np.int64], grid: Callable[[tuple[int, int]], tuple[int, int]]) -> npt.NDArray[np.int64]:
    """The number of cells of each image's grid, int64 (N,)."""
    grids = (grid((size >> 32, size & 0xFFFFFFFF)) for size in sizes.tolist())
    return np.fromiter((rows * columns for rows, columns in grids), dtype=np.int64, count=len(sizes))


def batches_by_patches(model: TextImageModel, items: Images, config: Config, result: StageResult) -> Batches:
    """This shard's batches of images with about as many patches; they do not depend on which images are done."""
    mine, sizes = _in_blocks(items, config, result)
    counts = _counts(sizes, lambda size: model.grid(size, config.seeds.long_side))
    order = np.lexsort((counts, np.arange(len(counts)) // _BLOCK))
    ordered, counts = mine.take(order), counts[order]
    most = config.seeds.batch_size or (2 if resolve_device(config.device).type == "cpu" else _BLOCK)
    spans: list[tuple[int, int]] = []
    for block in range(0, len(counts), _BLOCK):
        start, stop = block, min(block + _BLOCK, len(counts))
        for place in range(block, stop):
            count = int(counts[place])
            full = (place - start + 1) * count**2 > most * _USUAL_PATCHES**2 or place - start == most
            if place > start and (full or count > _MOST_PADDING * int(counts[start])):
                spans.append((start, place))
                start = place
        spans.append((start, stop))
    return Batches(ordered, np.array(spans, dtype=np.int64).reshape(-1, 2))


@dataclass(frozen=True)
class Prepared:
    """An image prepared for the model, its size (H, W) in pixels, and its `image_origin`."""

    item: ImageItem
    image: Tensor
    size: tuple[int, int]
    origin: np.ndarray | None = None


def prepared_batches(
    model: TextImageModel, batches: Iterable[Sequence[ImageItem]], config: Config, result: StageResult
) -> Iterator[list[Prepared]]:
    """The readable images of each batch; a few batches are prefetched."""

    def prepare(item: ImageItem) -> Prepared:
        origin = image_origin(item.path)
        image = read_image(item.path, pixel_limit=config.data.pixel_limit, intensity=config.data.intensity)
        size = image.shape[0], image.shape[1]
        return Prepared(item, model.prepare(image, config.seeds.long_side), size, origin)

    for good in readable(batches, prepare, config, result):
        yield [prepared for _, prepared in good]
