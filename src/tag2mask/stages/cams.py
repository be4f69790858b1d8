"""The stage `cams`: CAMs of several kinds from one pass over each image."""

from collections.abc import Iterable
from itertools import product
from typing import ClassVar

import numpy as np
import torch

from tag2mask.cams.inference import NO_KNOWN_BACKGROUND, ImageMaps, frozen_maps, image_maps, resize_long_side
from tag2mask.cams.kinds import KINDS, WORDS, CamKind, cams_command
from tag2mask.core.device import channels_last, precision_on, resolve_device
from tag2mask.core.errors import UsageError
from tag2mask.core.profile import timed
from tag2mask.core.provenance import cam_origin, is_of_image
from tag2mask.data.cam_files import PADDING, CamFile, read_record, write_cam
from tag2mask.data.dataset import ImageSet
from tag2mask.data.manifest import ImageItem
from tag2mask.networks.checkpoint import load_network
from tag2mask.pot import PotSettings, TransportCams
from tag2mask.runs.base_cams import read_external_maps, require_seeds, seed_path
from tag2mask.runs.batches import read_batches, sized_batches
from tag2mask.runs.config import Config, plain
from tag2mask.runs.corrections import exclude_damaged
from tag2mask.runs.dataset import run_images
from tag2mask.runs.features import FeatureFiles
from tag2mask.runs.progress import Console, StageResult
from tag2mask.runs.run_folder import TRAIN_NETWORK, RunFolder
from tag2mask.runs.throughput import timed_progress_bar
from tag2mask.stages.base import Schedule, Settings, Stage, StagePlan


class Cams(Stage):
    """CAMs of several kinds from one pass over each image."""

    name = "cams"
    outputs = ("cams",)
    reads: ClassVar[tuple[str, ...]] = ("train",)
    optional_inputs: ClassVar = {"seeds": "external"}
    version = 3
    distribution = "shard"
    sections = ("cams", "pot", "external")
    reads_images = True

    def settings(self, config: Config, images: ImageSet) -> Settings:
        """The settings of CAMs, of the method, and of base CAMs if they are used."""
        _check_kinds(config)
        cams = plain(config.cams, affecting=True)
        external = {"external": plain(config.external, affecting=True)} if config.external.used else {}
        return {"cams": cams, "pot": plain(config.pot, affecting=True)} | external

    def check(self, config: Config, run: RunFolder, images: ImageSet, schedule: Schedule) -> None:
        """Refuse CAMs that need images without tags where there are none."""
        if "train" in schedule.stages and _needs_known_background(config) and all(item.tags for item in images.items):
            raise UsageError(NO_KNOWN_BACKGROUND)

    def plan(self, config: Config, run: RunFolder, images: ImageSet) -> StagePlan:
        """CAM files that are missing."""
        kinds = config.cams.kinds
        work = f"{{}} images to do, each {', '.join(kinds)} at {len(config.cams.scales)} scales"
        folders = [f"cams/{kind}" for kind in kinds]
        return self.images_plan(run, images.items, folders, ".npz", work, lambda item: _missing(item, run, config))

    def do(self, config: Config, run: RunFolder, console: Console) -> StageResult:
        """Make the CAM files that are missing or stale.

        Images of one size form fixed batches. A batch with a missing file goes through the network as a whole, so that
        no file depends on which others existed already.
        """
        result, settings = StageResult(self.name), config.cams
        images = run_images(config, run, together=True)
        exclude_damaged(images, result)
        if not (run / TRAIN_NETWORK).is_file():
            raise UsageError(f"{run / TRAIN_NETWORK} does not exist; run `tag2mask train --out {run.path}` first")
        network = load_network(run / TRAIN_NETWORK, classes=images.classes)
        if _needs_known_background(config) and not network.background_cells:
            raise UsageError(NO_KNOWN_BACKGROUND)
        device = resolve_device(config.device)
        run.record_fingerprint(self, self.fingerprint(config, images))
        network = channels_last(network).to(device).eval()
        if config.external.used:
            require_seeds(run, images, result)
        batches = sized_batches(images.items, config, result).without(images.corrections.damaged)
        todo, missing = batches.unfinished(lambda item: _missing(item, run, config))
        result.skipped = batches.total - missing
        dropped = 0
        origins: dict[str, np.ndarray | None] = {}
        files = FeatureFiles(run, config, network) if network.settings.freeze else None
        with timed_progress_bar(run, "cams", console, missing) as advance:
            for batch, pixels in read_batches(todo, config, result, origins):
                tags = torch.from_numpy(images.tag_matrix(batch)).to(device)
                joint = files.read_batch(batch) if files is not None else None
                if joint is not None:
                    maps = frozen_maps(network, joint.to(device), tags)
                else:
                    maps = image_maps(
                        network,
                        resize_long_side(pixels.to(device), settings.long_side),
                        tags,
                        scales=settings.scales,
                        flip=settings.flip,
                        bf16=precision_on(settings.precision, device) == "bf16",
                        apart=settings.merge == "maps",
                    )
                damaged: dict[str, str] = {}
                if config.external.used:
                    grid = (maps.cams.shape[2], maps.cams.shape[3])
                    outside, damaged = read_external_maps(run, batch, len(images.classes), grid)
                    maps = maps.with_external(outside.to(device), config.external)
                    result.failed.update(damaged)
                    for image_id, kind in product(damaged, settings.kinds):  # made from an earlier base CAM
                        (run / f"cams/{kind}/{image_id}.npz").unlink(missing_ok=True)
                kinds = _kinds(maps, settings.kinds, config.pot)
                for number, item in enumerate(batch):
                    origin = origins.pop(item.id, None)
                    if item.id not in damaged and _missing(item, run, config):
                        made_from = origin, _base(item, run, config)
                        _write(run, item, tuple(pixels.shape[2:]), number, kinds, made_from)
                        result.done += 1
                dropped += int((~maps.base.flatten(2).any(2) & tags).sum()) if not damaged else 0
                advance(result.done)
        if dropped:
            result.notes.append(
                f"{dropped} tags have an empty CAM to begin from, so POT leaves them out of their images"
            )
        return result


def _check_kinds(config: Config) -> None:
    """Refuse kinds that no network makes, and those that need base CAMs where there are none."""
    if WORDS in config.cams.kinds:
        raise UsageError(
            "cams.kinds: `words` are the probabilities of a text-image model, which no trained network makes; "
            f"`{'tag2mask masks' if config.out is None else cams_command(WORDS, config.out)}` does"
        )
    needing = [kind for kind in config.cams.kinds if KINDS[kind].needs_base_cams]
    if needing and not config.external.used:
        raise UsageError(f"cams.kinds: `{needing[0]}` needs base CAMs from outside; see the settings `external`")
    if _needs_known_background(config) and not config.network.freeze:
        raise UsageError(NO_KNOWN_BACKGROUND)


def _needs_known_background(config: Config) -> bool:
    return any(KINDS[kind].needs_known_background for kind in config.cams.kinds)


def _missing(item: ImageItem, run: RunFolder, config: Config) -> bool:
    """Whether a CAM file of the image is missing, damaged, or of other tags, another image or another base CAM."""
    base = _base(item, run, config)
    for kind in config.cams.kinds:
        ids = (0, *item.tags) if KINDS[kind].has_background else item.tags
        path = run / f"cams/{kind}/{item.id}.npz"
        found = read_record(path)
        if found is None or found.ids != ids or found.base != base:
            return True
    # All kinds are written together: one check of the image is enough.
    return found is not None and not is_of_image(found.image, item.path, path)


def _base(item: ImageItem, run: RunFolder, config: Config) -> str:
    """The record of the image's base CAM; empty without one."""
    return (cam_origin(seed_path(run, item)) or "") if config.external.used else ""


@timed("method")
def _kinds(maps: ImageMaps, kinds: Iterable[CamKind], pot: PotSettings) -> dict[CamKind, ImageMaps | TransportCams]:
    """The CAMs of each kind for a batch."""
    return {kind: KINDS[kind].make(maps, pot) for kind in kinds}


def _write(
    run: RunFolder,
    item: ImageItem,
    size: tuple[int, ...],
    number: int,
    kinds: dict[CamKind, ImageMaps | TransportCams],
    made_from: tuple[np.ndarray | None, str],
) -> None:
    """Write the CAM files of image ``number`` of a batch, with the records of image and base CAM."""
    for kind, made in kinds.items():
        allocation = clusters = None
        if isinstance(made, ImageMaps):
            ids = np.array(item.tags, dtype=np.int32)
            maps = made.cams[number][[tag - 1 for tag in item.tags]]
        else:
            ids = np.array((0, *item.tags), dtype=np.int32)
            maps = made.cams[number][[0, *item.tags]]
            clusters = made.prototypes.shape[2]
            # Without a plan there is no allocation; more prototypes than a byte can name are left undrawn.
            if KINDS[kind].has_allocation and len(ids) * clusters <= PADDING:
                cells = made.allocation[number].cpu().numpy()
                allocation = np.where(cells < 0, PADDING, cells)
        drawn = clusters if allocation is not None else None
        cam = CamFile(ids, maps.cpu().numpy(), (size[0], size[1]), allocation, drawn, *made_from)
        write_cam(run / f"cams/{kind}/{item.id}.npz", cam)
