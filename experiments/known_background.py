"""What good images tell about defects: scores of cells on frozen features, at the best threshold for each class.

python experiments/known_background.py NET --data.root tiles --data.masks tiles/masks

NET: a `transformers` folder of a MobileNetV2. Per class, over the tagged images of `val`: the IoU of each score at the
threshold that is best on the truth, an upper bound; then the IoU of all classes with one threshold for all, and with
Otsu's.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from tag2mask.cams.inference import image_maps, resize_long_side
from tag2mask.data.dataset import ImageSet, open_images
from tag2mask.data.images import read_image, read_mask
from tag2mask.data.manifest import ImageItem
from tag2mask.data.settings import DataSettings
from tag2mask.networks import NetworkSettings, PotNetwork, build_network
from tag2mask.networks.cell_classifier import CellClassifier
from tag2mask.pot import PotSettings
from tag2mask.training.frozen import FeatureSet, train_classifier
from tag2mask.training.settings import TrainSettings

LONG_SIDE, STAGES = 512, (2, 4, 8, 11)

Score = Callable[[ImageItem, int], Tensor]
"""The score (h, w) of a class id in an image."""


def best_iou(scores: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_]) -> float:
    """The IoU at the threshold that is best on the truth, in per cent."""
    order = np.argsort(-scores)
    hits, taken = np.cumsum(truth[order]), np.arange(1, len(order) + 1)
    return 100 * float((hits / (taken + truth.sum() - hits)).max())


def otsu(values: npt.NDArray[np.float32]) -> float:
    """Otsu's threshold."""
    counts, edges = np.histogram(values, 256)
    centres, below = (edges[1:] + edges[:-1]) / 2, np.cumsum(counts)
    sums, total = np.cumsum(counts * centres), below[-1]
    between = (sums[-1] * below - sums * total) ** 2 / np.maximum(below * (total - below), 1)
    return float(centres[between.argmax()])


def features_of(images: ImageSet, network: PotNetwork) -> dict[str, Tensor]:
    """The joint feature of each image, float16 (D, h, w), at one scale."""
    found = {}
    for item in images.items:
        pixels = torch.from_numpy(read_image(item.path)).permute(2, 0, 1)[None].float() / 255
        tags = torch.from_numpy(images.tag_matrix([item]))
        maps = image_maps(network, resize_long_side(pixels, LONG_SIDE), tags, scales=[1.0], flip=False)
        found[item.id] = maps.features[0].half()
    return found


def full(score: Tensor, truth: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """A score at the size of the truth."""
    enlarged: npt.NDArray[np.float32] = F.interpolate(score[None, None], size=truth.shape, mode="bilinear")[
        0, 0
    ].numpy()
    return enlarged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net")
    parser.add_argument("--data.root", dest="root", type=Path, required=True)
    parser.add_argument("--data.masks", dest="masks", type=Path, required=True)
    options = parser.parse_args()
    train, val = (
        open_images(DataSettings(root=options.root, masks=options.masks, split=split)) for split in ("train", "val")
    )
    settings = NetworkSettings(backbone=options.net, freeze=True, output_stride=8, out_indices=STAGES)
    network = build_network(settings, train.classes, seed=0).eval()
    features = features_of(train, network) | features_of(val, network)
    data = FeatureSet(lambda index: features[train.items[index].id], train.tag_matrix())
    on_tags = TrainSettings(steps=300, batch_size=64, learning_rate=1e-2, consistency_weight=0.0)
    train_classifier(network, data, on_tags, PotSettings(), seed=0)

    def tags(item: ImageItem, class_id: int) -> Tensor:
        return network.classified(features[item.id][None].float()).cams[0, class_id - 1].detach()

    def novelty(item: ImageItem, class_id: int) -> Tensor:
        assert isinstance(network.classifier, CellClassifier)
        return network.classifier.novelty(features[item.id][None].float())[0]

    def both(item: ImageItem, class_id: int) -> Tensor:
        return tags(item, class_id) * novelty(item, class_id)

    def relative(item: ImageItem, class_id: int) -> Tensor:
        score = both(item, class_id)
        return score / score.max()

    tagged = [(item, item.tags[0], np.asarray(read_mask(item.truth))) for item in val.items if item.tags and item.truth]
    scores: dict[str, Score] = {"tags": tags, "novelty": novelty, "both": both, "both, over its maximum": relative}
    print("| score at its best threshold | " + " | ".join(val.classes) + " |\n|" + "---|" * (len(val.classes) + 1))
    for name, score in scores.items():
        cells = []
        for class_id in range(1, len(val.classes) + 1):
            own = [
                (full(score(item, class_id), truth), truth == class_id)
                for item, tag, truth in tagged
                if tag == class_id
            ]
            cells.append(best_iou(*(np.concatenate([each[part].ravel() for each in own]) for part in (0, 1))))
        print(f"| {name} | " + " | ".join(f"{cell:.0f}" for cell in cells) + " |")
    print("\n| rule for all classes | mIoU | IoU of background and classes |\n|---|---|---|")
    for name, fixed in (("0.4", 0.4), ("0.6", 0.6), ("0.8", 0.8), ("Otsu", None)):
        counts = np.zeros((len(val.classes) + 1, 3))
        for item, tag, truth in tagged:
            map_ = relative(item, tag)
            threshold = otsu(map_.numpy().ravel()) if fixed is None else fixed
            labels = np.where(full(map_, truth) > threshold, tag, 0)
            for class_id in range(len(counts)):
                found, real = labels == class_id, truth == class_id
                counts[class_id] += (found & real).sum(), found.sum(), real.sum()
        shares = 100 * counts[:, 0] / np.maximum(counts[:, 1] + counts[:, 2] - counts[:, 0], 1)
        print(f"| {name} | {shares.mean():.1f} | " + " · ".join(f"{share:.0f}" for share in shares) + " |")


if __name__ == "__main__":
    main()
