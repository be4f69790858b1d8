"""Features, CAMs and scores of each image of a split, computed once per network and cached.

python experiments/maps.py NETWORK.safetensors OUT --data.root ROOT --split train_aug --without train

One `.npz` per image on the grid of scale 1: `features` float16 (D, h, w), `cams` float16 (J, h, w) of its tags, `ids`
int32 (J,), `scores` float32 (C,). The network runs in bf16 (autocast); existing files are kept.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tag2mask.cams.inference import image_maps
from tag2mask.core.device import channels_last, retained_memory
from tag2mask.core.files import atomic_path, read_json, write_json
from tag2mask.data.dataset import ImageItem, ImageSet, open_images
from tag2mask.data.images import image_size, read_image, read_mask
from tag2mask.data.settings import DataSettings
from tag2mask.networks.checkpoint import load_network

SCALES = (1.0, 0.5, 1.5, 2.0)
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


def open_split(root: Path, tags: Path | None, split: str, without: str | None) -> tuple[ImageSet, list[ImageItem]]:
    """The images of a split that are not in another one."""
    images = open_images(DataSettings(kind="voc", root=root, tags=tags, split=split))
    if without is None:
        return images, list(images.items)
    excluded = {item.id for item in open_images(DataSettings(kind="voc", root=root, tags=tags, split=without)).items}
    return images, [item for item in images.items if item.id not in excluded]


def make_maps(
    network_file: Path, images: ImageSet, chosen: Sequence[ImageItem], out: Path, *, batch_size: int = 4
) -> int:
    """Write the maps that are missing or have other tags; return their number.

    Raises:
        SystemExit: the folder has maps of another network or other scales.
    """
    record = {"network": sha256(network_file.read_bytes()).hexdigest(), "scales": list(SCALES)}
    if (out / RECORD).is_file() and read_json(out / RECORD) != record:
        raise SystemExit(f"{out} has maps of another network or other scales; delete it, or name another folder")
    write_json(out / RECORD, record)
    groups: dict[tuple[int, int], list[ImageItem]] = defaultdict(list)
    for item in chosen:
        if _tags_of(out / f"{item.id}.npz") != item.tags:
            groups[image_size(item.path)].append(item)
    if not groups:
        return 0
    network = channels_last(load_network(network_file, classes=images.classes)).eval()
    made = 0
    with retained_memory():
        for group in groups.values():
            for first in range(0, len(group), batch_size):
                batch = group[first : first + batch_size]
                pixels = torch.from_numpy(np.stack([read_image(item.path) for item in batch]))
                pixels = pixels.permute(0, 3, 1, 2).float() / 255
                tags = torch.from_numpy(images.tag_matrix(batch))
                maps = image_maps(network, pixels, tags, scales=SCALES, flip=True, bf16=True)
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
    return made


def _tags_of(path: Path) -> tuple[int, ...] | None:
    """The tags of existing maps; None if there are none."""
    if not path.is_file():
        return None
    with np.load(path) as arrays:
        return tuple(arrays["ids"].tolist())


def read_maps(items: Sequence[ImageItem], folder: Path) -> Iterator[ImageMaps]:
    """The cached maps with the ground truth."""
    for item in items:
        with np.load(folder / f"{item.id}.npz") as arrays:
            features, cams, scores, ids = (arrays[name] for name in ("features", "cams", "scores", "ids"))
        if item.truth is None:
            raise SystemExit(f"{item.id} has no ground truth")
        truth = torch.from_numpy(np.asarray(read_mask(item.truth)).astype(np.int64))
        yield ImageMaps(
            item.id,
            torch.from_numpy(ids.astype(np.int64)),
            torch.from_numpy(features)[None].float(),
            torch.from_numpy(cams)[None].float(),
            torch.from_numpy(scores),
            truth,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data.root", dest="root", type=Path, required=True)
    parser.add_argument("--data.tags", dest="tags", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--without")
    known = parser.parse_args()
    items, chosen = open_split(known.root, known.tags, known.split, known.without)
    made = make_maps(known.network, items, chosen, known.out)
    print(f"{made} made, {len(chosen) - made} existed: {known.out}")


if __name__ == "__main__":
    main()
