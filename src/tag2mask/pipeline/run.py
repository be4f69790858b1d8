"""`run`: the stages in their order, each doing only what is missing."""

from collections.abc import Callable, Collection, Sequence

from rich.console import Console

from tag2mask.data.photos import PhotoSet
from tag2mask.device import emulates_bf16, resolve_device
from tag2mask.errors import UsageError
from tag2mask.networks.pot_network import build_network
from tag2mask.pipeline.cams import cams, check_kinds
from tag2mask.pipeline.confidence import confidence
from tag2mask.pipeline.config import Config
from tag2mask.pipeline.edges import edges, untrained_edge_network
from tag2mask.pipeline.evaluate import evaluate
from tag2mask.pipeline.paths import EDGE_NETWORK, TRAIN_NETWORK
from tag2mask.pipeline.predictions import predictions
from tag2mask.pipeline.progress import StageResult
from tag2mask.pipeline.reading import photographs
from tag2mask.pipeline.refinable import cam_folder
from tag2mask.pipeline.refine import refine
from tag2mask.pipeline.report import report
from tag2mask.pipeline.run_folder import STAGES, RunFolder
from tag2mask.pipeline.seeds import check_source, seeds
from tag2mask.pipeline.segment import check_labels, segment, untrained_segmenter
from tag2mask.pipeline.train import train
from tag2mask.pipeline.truth import class_ids
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
    "confidence": confidence,
    "evaluate": evaluate,
    "report": report,
}
"""The stages in order, by name."""


def stages_of(config: Config) -> list[str]:
    """The stages that `run` does: `seeds` and `edges` where something reads them, `segment` where it is asked for."""
    left_out = {"seeds": not config.external.used, "edges": not config.refine.walks}
    alone = config.segment.enabled and config.shard is None  # it learns from the masks of all shards
    left_out |= {"segment": not alone, "predictions": not alone}
    left_out |= {"confidence": config.segment.enabled and not alone}  # it asks the network that comes of them
    return [name for name in STAGES if not left_out.get(name)]


def check_ahead(config: Config, run: RunFolder, stages: Sequence[str], again: Collection[str]) -> None:
    """Find what would stop a stage before the first one begins, and before anything is deleted.

    Args:
        config: every setting.
        run: the run folder.
        stages: what is about to be done.
        again: the stages whose outputs are about to be deleted.

    Raises:
        UsageError: settings of a stage, or weights of a network that is to be trained, are wrong.
        Tag2maskError: weights could not be fetched.
    """

    def is_new(stage: str, network: str) -> bool:
        return stage in stages and (stage in again or not (run / network).is_file())

    photos = photographs(config)
    _check_settings(config, run, stages, again, photos)
    if is_new("train", TRAIN_NETWORK):
        check_engine("train", config.train, config.device)
        build_network(config.network, photos.classes, seed=config.seed)
    if is_new("edges", EDGE_NETWORK) and config.shard is None:
        check_engine("edges", config.edges, config.device)
        stands = (run / TRAIN_NETWORK).is_file() and "train" not in again  # the network that they stand on by default
        if config.edges.backbone is not None or stands:
            untrained_edge_network(config, run)
    if is_new("segment", SEGMENT_NETWORK):
        untrained_segmenter(config, photos)
        check_labels(config, run, photos, refines="refine" in stages or "refine" in again)


def slow_settings(config: Config, stages: Sequence[str]) -> list[str]:
    """What to tell before a stage begins: settings that make this machine slow for no gain."""
    precisions = {
        "train": config.train.precision,
        "cams": config.cams.precision,
        "edges": config.edges.precision,
        "segment": config.segment.precision,
        "predict": config.predict.precision,
    }
    done = {"predict" if name == "predictions" else name for name in stages}
    asked = [name for name, precision in precisions.items() if name in done and precision == "bf16"]
    if not asked or not emulates_bf16(resolve_device(config.device)):
        return []
    settings = ", ".join(f"--{name}.precision" for name in asked)
    return [f"this processor has no instructions for bf16 and takes many times as long; use fp32 for {settings}"]


def _check_settings(
    config: Config, run: RunFolder, stages: Sequence[str], again: Collection[str], photos: PhotoSet
) -> None:
    """Find settings that a stage would refuse when its turn comes: they should be neither waited for nor remembered.

    Raises:
        UsageError: there are such.
    """
    if "seeds" in stages:
        check_source(config)
    if "cams" in stages:
        check_kinds(config)
    if "edges" in stages or "refine" in stages:
        kept = "cams" not in again and (run / "cams" / config.refine.cams).is_dir()
        if "cams" not in stages:
            cam_folder(config, run)
        elif config.refine.cams not in config.cams.kinds and not kept:
            raise UsageError(f"refine.cams {config.refine.cams} is none of cams.kinds, {', '.join(config.cams.kinds)}")
    if "predictions" in stages or "evaluate" in stages:
        class_ids(config.evaluate.class_names(), photos.classes)
        for split in config.evaluate.split_names(config.data.split):
            if split != config.data.split:
                photographs(config, split)
    if "report" in stages:
        config.report.validate()
