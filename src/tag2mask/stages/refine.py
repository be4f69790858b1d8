"""The stage `refine`: CAMs to masks."""

from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from tag2mask.core.device import channels_last, resolve_device
from tag2mask.core.errors import UsageError
from tag2mask.core.prefetch import map_computing
from tag2mask.core.profile import timed
from tag2mask.data.classes import write_class_ids
from tag2mask.data.dataset import ImageSet
from tag2mask.data.images import write_fractions, write_mask
from tag2mask.networks.checkpoint import load_edge_network
from tag2mask.networks.edge_network import EdgeNetwork
from tag2mask.refine.masks import refined_mask
from tag2mask.refine.proposal_models import load_proposals, proposal_fingerprint
from tag2mask.runs.class_thresholds import class_thresholds
from tag2mask.runs.config import Config, plain
from tag2mask.runs.corrections import exclude_damaged
from tag2mask.runs.dataset import run_images
from tag2mask.runs.progress import Console, StageResult
from tag2mask.runs.run_folder import EDGE_NETWORK, RunFolder
from tag2mask.runs.throughput import timed_progress_bar
from tag2mask.stages.base import Schedule, Settings, Stage, StagePlan
from tag2mask.stages.refine_inputs import (
    RefineInput,
    cam_folder,
    current_items,
    is_stale,
    read_refine_inputs,
    require_cams,
    shard_of,
    stale,
    threads_of_images,
)


class Refine(Stage):
    """CAMs to masks."""

    name = "refine"
    outputs = ("refine", "masks", "overlays")
    reads = ("cams",)
    optional_inputs: ClassVar = {"edges": "walk"}
    version = 2
    distribution = "shard"
    sections = ("refine", "seeds.prompts", "seeds.precision")
    reads_images = True

    def settings(self, config: Config, images: ImageSet) -> Settings:
        """The settings that the method reads."""
        refine, settings = plain(config.refine, affecting=True), config.refine
        walk = refine.pop("walk")
        unread = set() if settings.method == "proposals" else {"proposals"}
        if not settings.uses_crf:
            unread |= {"crf", "crf_power", "ignore_below"}
        if settings.method == "argmax":
            unread.add("long_side")
        if settings.walks or settings.has_background:
            unread.add("background_threshold")
        if settings.has_background:
            walk.pop("background_level")
        refine = {key: value for key, value in refine.items() if key not in unread}
        read = {"refine": refine}
        if settings.method == "proposals":
            device = resolve_device(config.device)
            files, seeds = proposal_fingerprint(settings.proposals, config.seeds, images.classes, device)
            read = {"refine": {**refine, "proposals_files": files}, "seeds": seeds}
        return read | ({"walk": walk} if settings.walks else {})

    def check(self, config: Config, run: RunFolder, images: ImageSet, schedule: Schedule) -> None:
        """Check the CAMs, and load the model of proposals."""
        require_cams(config, run, schedule)
        if config.refine.walks and "edges" not in schedule.stages:
            _require_edges(run)
        if config.refine.method == "proposals" and ("refine" in schedule.restarted or not run.has_record("refine")):
            load_proposals(config.refine.proposals, config.seeds, images.classes, torch.device("cpu"))

    def plan(self, config: Config, run: RunFolder, images: ImageSet) -> StagePlan:
        """The missing masks."""
        work = f"{{}} masks to write by {config.refine.method} of {config.refine.cams}"
        thresholds = class_thresholds(run, images, config.refine)
        is_to_do = partial(is_stale, run / f"cams/{config.refine.cams}", run / "masks", thresholds)
        return self.images_plan(run, images.items, ["masks"], ".png", work, is_to_do)

    def do(self, config: Config, run: RunFolder, console: Console) -> StageResult:
        """Write the masks that are missing, damaged, or made from another CAM file."""
        result = StageResult(self.name)
        images = run_images(config, run, together=True)
        exclude_damaged(images, result)
        cams = cam_folder(config, run)
        device = resolve_device(config.device)
        network = _edge_network(run, device) if config.refine.walks else None
        run.check(self, self.fingerprint(config, images))
        whole = shard_of(images.items, config, result, damaged=images.corrections.damaged)
        mine = current_items(whole, cams, result)
        thresholds = class_thresholds(run, images, config.refine, result)
        if thresholds:
            named = (f"{images.classes[class_id - 1]} {value:g}" for class_id, value in thresholds.items())
            result.notes.append(f"thresholds of CAMs from masks by hand: {', '.join(named)}")
        todo = stale(mine, cams, run / "masks", thresholds)
        propose = None
        if config.refine.method == "proposals" and todo:
            notify = partial(console.print, highlight=False)
            propose = load_proposals(config.refine.proposals, config.seeds, images.classes, device, notify=notify)
        if config.refine.method != "proposals" or todo:  # without work, the model may not be on this machine
            run.record_fingerprint(self, self.fingerprint(config, images))
            write_class_ids(run / "masks", images.classes)
        result.skipped = len(mine) - len(todo)
        inputs = read_refine_inputs(todo, cams, config, device, result, thresholds)
        threads = 1 if propose else threads_of_images(config, device)  # a model takes all cores, and much memory

        # In this thread: a network takes all cores, and its result must not depend on `refine.batch_size`.
        with_edges = ((each, None if network is None else _edge(network, each.image)) for each in inputs)

        def refined(pair: tuple[RefineInput, Tensor | None]) -> tuple[RefineInput, Tensor | None, Tensor]:
            each, edge = pair
            return each, edge, refined_mask(each.image, each.cams, each.size, config.refine, edge, propose)

        with timed_progress_bar(run, "refine", console, len(todo)) as advance:
            for each, edge, mask in map_computing(refined, with_edges, threads=threads):
                if edge is not None:
                    write_fractions(run / f"refine/edges/{each.item.id}.png", edge.cpu().numpy())
                write_mask(run / f"masks/{each.item.id}.png", mask.cpu().numpy(), made_from=each.origin)
                result.done += 1
                advance(result.done)
        return result


def _require_edges(run: RunFolder) -> Path:
    path = run / EDGE_NETWORK
    if not path.is_file():
        raise UsageError(
            f"{path} does not exist; run `tag2mask edges {run.path}` first, without --shard once all shards "
            "have their labels"
        )
    return path


def _edge_network(run: RunFolder, device: torch.device) -> EdgeNetwork:
    return channels_last(load_edge_network(_require_edges(run))).to(device)


@timed("network")
def _edge(network: EdgeNetwork, image: Tensor) -> Tensor:
    """The edges of an image, uint8 (H, W, 3): (ceil(H / 4), ceil(W / 4)) in [0, 1]."""
    return network.mean_logits(image.permute(2, 0, 1)[None].float() / 255)[0].sigmoid()
