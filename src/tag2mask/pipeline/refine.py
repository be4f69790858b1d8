"""The stage `refine`: CAMs to masks."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console

from tag2mask.cam_files import read_cam
from tag2mask.data.images import write_mask
from tag2mask.data.photos import Photo
from tag2mask.errors import Tag2maskError, UsageError
from tag2mask.files import is_newer
from tag2mask.pipeline.cams import shard_batches
from tag2mask.pipeline.claims import stage_settings
from tag2mask.pipeline.config import Config
from tag2mask.pipeline.progress import StageResult, progress_bar
from tag2mask.pipeline.run_folder import RunFolder
from tag2mask.pipeline.train import photographs, reading_workers
from tag2mask.refine import argmax_mask


def refine(config: Config, run: RunFolder, console: Console) -> StageResult:
    """Write the masks that are missing, or older than their CAM file.

    Raises:
        UsageError: there are no CAMs of the chosen kind, or the folder holds masks of other settings.
    """
    photos = photographs(config)
    source = run / "cams" / config.refine.cams
    if not source.is_dir():
        raise UsageError(f"{source} does not exist; run `tag2mask cams` with --cams.kinds that include it first")
    run.claim("refine", stage_settings("refine", config, photos))
    result = StageResult("refine")
    mine: Sequence[Photo] = photos.photos
    if config.shard is not None:  # the same shares as the CAMs were made in
        mine = [photo for batch in shard_batches(photos.photos, config, result) for photo in batch]

    def stale(photo: Photo) -> bool:
        target, cam = run / f"masks/{photo.id}.png", source / f"{photo.id}.npz"
        return not target.is_file() or is_newer(cam, target)

    def mask(photo: Photo) -> str | None:
        try:
            cam = read_cam(source / f"{photo.id}.npz")
            write_mask(run / f"masks/{photo.id}.png", argmax_mask(cam, config.refine.background_threshold))
        except Tag2maskError as error:
            return str(error)
        return None

    todo = [photo for photo in mine if stale(photo)]
    result.skipped = len(mine) - len(todo)
    with (
        progress_bar(console, "refine", len(todo)) as advance,
        ThreadPoolExecutor(max(1, reading_workers(config))) as pool,
    ):
        for done, (photo, problem) in enumerate(zip(todo, pool.map(mask, todo), strict=True), start=1):
            if problem:
                result.failed[photo.id] = problem
            else:
                result.done += 1
            advance(done)
    return result
