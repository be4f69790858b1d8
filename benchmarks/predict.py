"""Prediction compared with plain torch, one image and one direction per forward pass. Prints JSON.

python benchmarks/predict.py IMAGES --threads 1
python benchmarks/predict.py IMAGES --backbone /models/mobilenet_v2 --onnx --published

IMAGES is a folder. The network has the default head and 9 classes, and random weights or, with the folder of a
`transformers` model as backbone, its weights; or it is a checkpoint (--checkpoint). The plain version keeps the
network in torch's own memory order; it resizes and pads the image, enlarges the logits of each pass to the image,
adds them, and takes the maximum of the softmax and its class. Each image is predicted by all versions in turn.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from measure import hardware
from tag2mask.cams.inference import resize
from tag2mask.data.dataset import find_images
from tag2mask.data.images import read_image
from tag2mask.export.onnx import export_onnx
from tag2mask.networks.checkpoint import load_segmentation_network
from tag2mask.networks.segmentation import SegmentationNetwork, build_segmentation_network
from tag2mask.networks.settings import SegmentationNetworkSettings
from tag2mask.prediction.multiscale import padded_side
from tag2mask.prediction.predictor import Predictor, load
from tag2mask.prediction.settings import PredictSettings

PUBLISHED = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]


@torch.no_grad()
def plain(network: SegmentationNetwork, pixels: np.ndarray, scales: Sequence[float], *, flip: bool) -> np.ndarray:
    """The labels, (H, W), of an image, uint8 (H, W, 3)."""
    image = torch.from_numpy(pixels).to(network.pixel_mean.device).permute(2, 0, 1)[None].float().contiguous() / 255
    total: Tensor | float = 0.0
    for scale in scales:
        scaled = resize(image, scale)
        height, width = scaled.shape[2:]
        padded = network.pixel_mean.repeat(1, 1, padded_side(network, height), padded_side(network, width))
        padded[..., :height, :width] = scaled
        for mirrored in (False, True)[: 1 + flip]:
            logits = network.full_logits(padded.flip(3) if mirrored else padded)
            logits = (logits.flip(3) if mirrored else logits)[..., :height, :width]
            total = total + F.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=False)
    _, labels = total[0].softmax(0).max(0)  # type: ignore[index]
    return labels.byte().cpu().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--checkpoint", type=Path, help="instead of a backbone")
    parser.add_argument("--count", type=int, default=10, help="of images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--published", action="store_true", help="the six published scales with mirror images")
    parser.add_argument("--onnx", action="store_true", help="also the exported network, on the CPU")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.checkpoint:
        network = load_segmentation_network(options.checkpoint)
    else:
        weights = "pretrained" if Path(options.backbone).is_dir() else "none"
        settings = SegmentationNetworkSettings(backbone=options.backbone, weights=weights)
        network = build_segmentation_network(settings, tuple(f"class{number}" for number in range(9)), seed=0).eval()
    flip = bool(options.published)
    predict = PredictSettings(scales=PUBLISHED if flip else [1.0], flip=flip, precision="fp32")
    own = deepcopy(network).to(options.device)
    torchs = Predictor(deepcopy(network), options.device, predict)
    sides: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "plain": lambda image: plain(own, image, predict.scales, flip=flip),
        "torch": torchs.predict,
    }
    if options.onnx:
        with TemporaryDirectory() as folder:
            export_onnx(network, Path(folder) / "network.onnx")
            sides["onnx"] = load(Path(folder) / "network.onnx", "cpu", predict).predict
    images = [read_image(item.path) for item in find_images(options.images).items[: options.count]]
    times: dict[str, list[float]] = {side: [] for side in sides}
    equal: dict[str, list[float]] = {side: [] for side in sides}
    for number, image in enumerate([images[0], *images]):
        labels: dict[str, np.ndarray] = {}
        for side, work in sides.items():
            start = time.perf_counter()
            labels[side] = work(image)
            if number:  # the first round allocates
                times[side].append(time.perf_counter() - start)
        for side in sides if number else ():
            equal[side].append(float((labels[side] == labels["torch"]).mean()))
    result = {
        "hardware": hardware(options.device),
        "network": str(options.checkpoint or options.backbone),
        "scales": predict.scales,
        "mirror images": flip,
        "images": len(images),
        "seconds per image": {side: round(median(values), 4) for side, values in times.items()},
        "plain / this": {
            side: round(median(slow / fast for slow, fast in zip(times["plain"], values, strict=True)), 2)
            for side, values in times.items()
        },
        "labels equal to torch's": {side: float(np.mean(values)) for side, values in equal.items()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
