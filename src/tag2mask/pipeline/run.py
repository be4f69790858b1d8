"""`run`: the stages in their order, each doing only what is missing."""

from collections.abc import Callable, Collection, Sequence

from rich.console import Console

from tag2mask.data.photos import PhotoSet
from tag2mask.errors import first_five
from tag2mask.networks.pot_network import build_network
from tag2mask.pipeline.base_cams import seed_path
from tag2mask.pipeline.cams import cams
from tag2mask.pipeline.config import Config
from tag2mask.pipeline.edges import EDGE_NETWORK, LABELS, edges, untrained_edge_network
from tag2mask.pipeline.evaluate import WHOLE, evaluate
from tag2mask.pipeline.predictions import predictions
from tag2mask.pipeline.progress import StageResult
from tag2mask.pipeline.reading import photographs
from tag2mask.pipeline.refine import refine
from tag2mask.pipeline.report import report
from tag2mask.pipeline.run_folder import STAGES, RunFolder
from tag2mask.pipeline.seeds import seeds
from tag2mask.pipeline.segment import check_labels, segment, untrained_segmenter
from tag2mask.pipeline.train import NETWORK, train
from tag2mask.pipeline.truth import truth_plan
from tag2mask.predictor import SEGMENT_NETWORK
from tag2mask.training.engine import check_engine

Stage = Callable[[Config, RunFolder, Console], StageResult]

STAGE_FUNCTIONS: dict[str, Stage] = {
    "seeds": seeds,
    "train": train,
    "cams": cams,
    "edges": edges,
    "refine": refine,
    "segment": segment,
    "predictions": predictions,
    "evaluate": evaluate,
    "report": report,
}
"""The stages in order, by name."""


def stages_of(config: Config) -> list[str]:
    """The stages that `run` does: `seeds` and `edges` where something reads them, `segment` where it is asked for."""
    left_out = {"seeds": not config.external.used, "edges": not config.refine.walks}
    alone = config.segment.enabled and config.shard is None  # it learns from the masks of all shards
    left_out |= {"segment": not alone, "predictions": not alone}
    return [name for name in STAGES if not left_out.get(name)]


def check_ahead(config: Config, run: RunFolder, stages: Sequence[str], again: Collection[str]) -> None:
    """Find what would stop a stage before the first one begins, and before anything is deleted.

    Args:
        config: every setting.
        run: the run folder.
        stages: what is about to be done.
        again: the stages whose outputs are about to be deleted.

    Raises:
        UsageError: settings or weights of a network that is to be trained are wrong.
        Tag2maskError: weights could not be fetched.
    """

    def is_new(stage: str, network: str) -> bool:
        return stage in stages and (stage in again or not (run / network).is_file())

    photos = photographs(config)
    if is_new("train", NETWORK):
        check_engine("train", config.train, config.device)
        build_network(config.network, photos.classes, seed=config.seed)
    if is_new("edges", EDGE_NETWORK) and config.shard is None:
        check_engine("edges", config.edges, config.device)
        stands = (run / NETWORK).is_file() and "train" not in again  # the network that they stand on by default
        if config.edges.backbone is not None or stands:
            untrained_edge_network(config, run)
    if is_new("segment", SEGMENT_NETWORK):
        untrained_segmenter(config, photos)
        check_labels(config, run, photos, refines="refine" in stages or "refine" in again)


def plan(config: Config, run: RunFolder, stages: Sequence[str]) -> list[str]:
    """What each stage would do now, a sentence each; nothing is written."""
    photos = photographs(config)
    lines = [f"{len(photos.photos)} photographs, {len(photos.classes)} classes: {first_five(photos.classes)}"]
    for name in stages:
        lines.append(f"{name}: {_PLANS[name](config, run, photos)}")
    return lines


def _plan_seeds(config: Config, run: RunFolder, photos: PhotoSet) -> str:
    lacking = sum(not seed_path(run, photo).is_file() for photo in photos.photos)
    source = f"the files in {config.seeds.from_npy}" if config.seeds.from_npy else config.seeds.model
    return f"{lacking} base CAMs to take from {source}"


def _plan_train(config: Config, run: RunFolder, photos: PhotoSet) -> str:
    if (run / NETWORK).is_file():
        return "done already"
    saved = " from the saved state on" if (run / "train/state.pt").is_file() else ""
    return f"{config.train.total_steps(len(photos.photos))} steps of {config.train.batch_size} photographs{saved}"


def _plan_cams(config: Config, run: RunFolder, photos: PhotoSet) -> str:
    kinds = config.cams.kinds
    lacking = sum(any(not (run / f"cams/{kind}/{photo.id}.npz").is_file() for kind in kinds) for photo in photos.photos)
    return f"{lacking} photographs to do, each {', '.join(kinds)} at {len(config.cams.scales)} scales"


def _plan_edges(config: Config, run: RunFolder, photos: PhotoSet) -> str:
    if (run / EDGE_NETWORK).is_file():
        return "done already"
    lacking = sum(not (run / LABELS / f"{photo.id}.png").is_file() for photo in photos.photos)
    if config.shard is not None:
        return f"{lacking} labels to write over all shards; no training"
    steps = config.edges.total_steps(len(photos.photos))
    return f"{lacking} labels to write, then {steps} steps of {config.edges.batch_size} photographs"


def _plan_refine(config: Config, run: RunFolder, photos: PhotoSet) -> str:
    lacking = sum(not (run / f"masks/{photo.id}.png").is_file() for photo in photos.photos)
    return f"{lacking} masks to write by {config.refine.method} of {config.refine.cams}"


def _plan_segment(config: Config, run: RunFolder, photos: PhotoSet) -> str:
    if (run / SEGMENT_NETWORK).is_file():
        return "done already"
    own = config.segment
    return f"{own.total_steps(len(photos.photos))} steps of {own.batch_size} photographs on {own.labels}"


def _plan_predictions(config: Config, run: RunFolder, photos: PhotoSet) -> str:
    splits = config.evaluate.split_names(config.data.split)
    lacking = sum(
        not (run / f"predictions/{split or WHOLE}/{photo.id}.png").is_file()
        for split in splits
        for photo in photographs(config, split).photos
    )
    return f"{lacking} photographs to predict"


def _plan_evaluate(config: Config, run: RunFolder, photos: PhotoSet) -> str:
    splits = config.evaluate.split_names(config.data.split)
    counts = [f"{split or WHOLE} ({truth_plan(photographs(config, split))})" for split in splits]
    return f"on {', '.join(counts)}"


def _plan_report(config: Config, run: RunFolder, photos: PhotoSet) -> str:
    return f"write {run / 'report.html'}"


_PLANS: dict[str, Callable[[Config, RunFolder, PhotoSet], str]] = {
    "seeds": _plan_seeds,
    "train": _plan_train,
    "cams": _plan_cams,
    "edges": _plan_edges,
    "refine": _plan_refine,
    "segment": _plan_segment,
    "predictions": _plan_predictions,
    "evaluate": _plan_evaluate,
    "report": _plan_report,
}
