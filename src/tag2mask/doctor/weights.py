"""Checks whether the initial weights of a config are on this machine, in caches alone, without network access."""

from collections.abc import Iterator
from pathlib import Path

from tag2mask.cams.sam3 import SAM3_CLASSES
from tag2mask.doctor.findings import Finding, Weights
from tag2mask.networks.backbones.hub import TOKENIZER_FILES, cached_folder, licence_note, read_model_config
from tag2mask.networks.backbones.registry import NAMES, family_of
from tag2mask.runs.config import Config


def weights_of(config: Config) -> Iterator[Weights]:
    """The weights of each stage with initial weights."""
    folder = config.seeds.from_npy
    if folder is None:
        yield Weights("seeds", _hub_model(config.seeds.model, "seeds.model", True, TOKENIZER_FILES), hub=True)
    elif folder.is_dir():
        yield Weights("seeds", Finding(f"base CAMs in {folder}"))
    else:
        missing = Finding(f"no base CAMs in {folder}", "missing", "--seeds.from_npy FOLDER, with CLIP-ES's files")
        yield Weights("seeds", missing)
    yield _backbone("train", "network", config.network.backbone, config.network.weights)
    if config.edges.backbone is not None:
        yield _backbone("edges", "edges", config.edges.backbone, config.edges.weights)
    if config.refine.method == "proposals":
        yield Weights("refine", _proposals(config.refine.proposals), hub=True)
    segment = config.segment.network
    yield _backbone("segment", "segment.network", segment.backbone, segment.weights)


def _backbone(stage: str, section: str, backbone: str, weights: str) -> Weights:
    """The weights of a backbone."""
    family = family_of(backbone)
    by_name, setting = weights in ("imagenet", "pretrained"), f"--{section}.weights"
    if backbone not in NAMES:
        return Weights(stage, _hub_model(backbone, f"{section}.backbone", by_name, ()), hub=True)
    hub = family.needs_transformers
    if weights == "none":
        return Weights(stage, Finding(f"{backbone} starts from random weights"), hub)
    if not by_name:
        there = Path(weights).expanduser().is_file()
        found = Finding(f"weights {weights}") if there else Finding(f"no file {weights}", "missing", f"{setting} FILE")
        return Weights(stage, found, hub)
    public = family.public.get(backbone)
    if public is None:
        return Weights(
            stage, Finding(f"weights of {backbone} are not downloaded automatically", "missing", f"{setting} FILE"), hub
        )
    if public.cached.is_file():
        return Weights(stage, Finding(f"weights of {backbone} are on this machine"), hub)
    message = f"weights of {backbone} ({public.megabytes} MiB) are downloaded when they are first needed"
    remedy = f"without a network: put {public.url} at {public.cached}, or {setting} FILE"
    return Weights(stage, Finding(message, "download", remedy), hub)


def _proposals(name: str) -> Finding:
    """The model of proposals; a SAM 3 needs its tokenizer, too."""
    folder = cached_folder(name, True, ())
    by_words = folder is not None and read_model_config(folder, "refine.proposals")["model_type"] in SAM3_CLASSES
    return _hub_model(name, "refine.proposals", True, TOKENIZER_FILES if by_words else ())


def _hub_model(name: str, setting: str, weights: bool, also: tuple[str, ...]) -> Finding:
    """Whether a model of `transformers` is a folder or cached."""
    if Path(name).expanduser().is_dir():
        return Finding(f"the folder {name}")
    if cached_folder(name, weights, also) is not None:
        return Finding(f"{name} is on this machine")
    message = f"{name} is not on this machine; it is downloaded when it is first needed ({licence_note(name)})"
    return Finding(message, "download", f"hf download {name}, or without a network --{setting} FOLDER")
