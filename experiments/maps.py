"""Features, CAMs and scores of each tagged image of a split of a run, computed once per network and cached.

python experiments/maps.py RUN OUT [--split train_aug] [--without train]

One `.npz` per image on the grid of scale 1: `features` float16 (D, h, w), `cams` float16 (J, h, w) of its tags, `ids`
int32 (J,), `scores` float32 (C,). Data, scales, image size and precision are those of RUN; existing files are kept.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tag2mask.cams.inference import image_maps, resize_long_side
from tag2mask.cli.commands import COMMANDS
from tag2mask.cli.parsing import parse
from tag2mask.core.device import channels_last, retained_memory
from tag2mask.core.files import atomic_path, read_json, write_json
from tag2mask.data.dataset import ImageItem, ImageSet, open_images
from tag2mask.data.settings import DataSettings
from tag2mask.networks.checkpoint import load_network
from tag2mask.runs.batches import read_batches, sized_batches
from tag2mask.runs.config import Config, plain
from tag2mask.runs.dataset import run_images
from tag2mask.runs.progress import StageResult
from tag2mask.runs.run_folder import RunFolder

RECORD = "made-from.json"


@dataclass(frozen=True)
class ImageMaps:
    """The maps of one image with J tags.

    Attributes:
        id: of the image.
        ids: (J,) int64, class ids of its tags, ascending.
        features: (1, D, h, w) float32.
        cams: (1, J, h, w) float32.
        scores: (C,) float32.
        truth: (H, W) int64, the ground truth.
    """

    id: str
    ids: Tensor
    features: Tensor
    cams: Tensor
    scores: Tensor
    truth: Tensor


def open_split(root: Path, tags: Path | None, split: str) -> tuple[ImageSet, list[ImageItem]]:
    """The images of a split of a folder in the layout of VOC."""
    images = open_images(DataSettings(kind="voc", root=root, tags=tags, split=split))
    return images, list(images.items)


def open_run(run: Path, split: str | None, without: str | None = None) -> tuple[Config, ImageSet]:
    """The settings of a run, and its images of a split that have tags and are not in another split."""
    parsed = parse("cams", COMMANDS["cams"], [str(run), *(["--data.split", split] if split else [])])
    if parsed is None:
        raise SystemExit(f"{run} asks for help; name a run folder")
    config, folder = parsed[1].config, RunFolder(run)
    images = run_images(config, folder)
    excluded = {item.id for item in run_images(config, folder, without).items} if without else set()
    return config, images.of(images.items.filter(lambda item: bool(item.tags) and item.id not in excluded))


def make_maps(run: Path, config: Config, images: ImageSet, out: Path) -> int:
    """Write the maps that are missing or have other tags; return their number.

    Raises:
        SystemExit: the folder has maps of another network or other settings.
    """
    network_file, cams = run / "train/network.safetensors", config.cams
    record = {"network": sha256(network_file.read_bytes()).hexdigest(), "cams": plain(cams, affecting=True)}
    if (out / RECORD).is_file() and read_json(out / RECORD) != record:
        raise SystemExit(f"{out} has maps of another network or other settings; delete it, or name another folder")
    write_json(out / RECORD, record)
    result, made = StageResult("maps"), 0
    todo, missing = sized_batches(images.items, config, result).unfinished(
        lambda item: _tags_of(out / f"{item.id}.npz") != item.tags
    )
    if not missing:
        return 0
    network = channels_last(load_network(network_file, classes=images.classes)).eval()
    with retained_memory():
        for batch, pixels in read_batches(todo, config, result):
            tags = torch.from_numpy(images.tag_matrix(batch))
            maps = image_maps(
                network,
                resize_long_side(pixels, cams.long_side),
                tags,
                scales=cams.scales,
                flip=cams.flip,
                bf16=cams.precision == "bf16",
            )
            for number, item in enumerate(batch):
                arrays = {
                    "ids": np.array(item.tags, dtype=np.int32),
                    "features": maps.features[number].half().numpy(),
                    "cams": maps.cams[number][tags[number]].half().numpy(),
                    "scores": maps.scores[number].numpy(),
                }
                with atomic_path(out / f"{item.id}.npz") as temporary, temporary.open("wb") as file:
                    np.savez(file, **arrays)
                made += 1
    if result.failed:
        raise SystemExit(next(iter(result.failed.values())))
    return made


def _tags_of(path: Path) -> tuple[int, ...] | None:
    """The tags of existing maps; None if there are none."""
    if not path.is_file():
        return None
    with np.load(path) as arrays:
        return tuple(arrays["ids"].tolist())


def read_maps(images: ImageSet, folder: Path) -> Iterator[ImageMaps]:
    """The cached maps with the ground truth."""
    for item in images.items:
        with np.load(folder / f"{item.id}.npz") as arrays:
            features, cams, scores, ids = (arrays[name] for name in ("features", "cams", "scores", "ids"))
        yield ImageMaps(
            item.id,
            torch.from_numpy(ids.astype(np.int64)),
            torch.from_numpy(features)[None].float(),
            torch.from_numpy(cams)[None].float(),
            torch.from_numpy(scores),
            torch.from_numpy(images.read_truth(item).astype(np.int64)),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--split")
    parser.add_argument("--without")
    known = parser.parse_args()
    config, images = open_run(known.run, known.split, known.without)
    made = make_maps(known.run, config, images, known.out)
    print(f"{made} made, {len(images.items) - made} existed: {known.out}")


if __name__ == "__main__":
    main()
