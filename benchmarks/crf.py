"""The dense CRF compared with pydensecrf2, alternating per image. Prints JSON.

pip install -e ".[bench]" && python benchmarks/crf.py --folder VOC2012/JPEGImages --threads 2

Images are resized to 375 × 500 px; probabilities are random and smooth; ten iterations. Both versions compute the
marginals from the image and the probabilities. Ours caches the lattice of positions for images of the same size, as in
a data set; `--cold` disables the cache. pydensecrf2 uses one thread. With a GPU, ours is measured there too.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median

import numpy as np
import pydensecrf.densecrf as densecrf
import torch
from PIL import Image
from torch.nn import functional as F

from measure import hardware
from tag2mask.refine.crf import PUBLISHED, CrfPreset, CrfSettings, CrfValues, _kept_spatial, dense_crf

HEIGHT, WIDTH = 375, 500


def sample_images(folder: Path | None, count: int) -> list[np.ndarray]:
    """uint8 (H, W, 3); generated without a folder."""
    if folder is None:
        coarse = np.random.default_rng(0).integers(0, 256, (count, 12, 16, 3), dtype=np.uint8)
        return [np.array(Image.fromarray(each).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) for each in coarse]
    paths = sorted(folder.glob("*.jpg"))
    chosen = paths[:: max(1, len(paths) // count)][:count]
    return [np.array(Image.open(path).convert("RGB").resize((WIDTH, HEIGHT))) for path in chosen]


def probabilities(labels: int, seed: int) -> torch.Tensor:
    """Smooth random probabilities, (K, H, W)."""
    coarse = 2 * torch.randn(1, labels, 12, 16, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bilinear")[0].softmax(0)


def peer(image: np.ndarray, given: torch.Tensor, values: CrfValues) -> np.ndarray:
    """pydensecrf2's marginals, (K, H, W)."""
    crf = densecrf.DenseCRF2D(WIDTH, HEIGHT, len(given))
    crf.setUnaryEnergy(np.ascontiguousarray(-given.clamp(1e-5, 1).log().flatten(1).numpy()))
    crf.addPairwiseGaussian(sxy=values.gaussian_sxy, compat=values.gaussian_weight)
    crf.addPairwiseBilateral(
        sxy=values.bilateral_sxy, srgb=values.bilateral_srgb, rgbim=image, compat=values.bilateral_weight
    )
    return np.array(crf.inference(values.iterations)).reshape(given.shape)


def measure(
    image: np.ndarray, given: torch.Tensor, preset: CrfPreset, devices: list[str], *, cold: bool
) -> tuple[dict[str, float], float]:
    """Seconds of each variant, and the share of pixels with equal labels from pydensecrf2 and the first device."""
    start = time.perf_counter()
    theirs = peer(image, given, PUBLISHED[preset]).argmax(0)
    seconds, shares = {"pydensecrf2": time.perf_counter() - start}, []
    for device in devices:
        pixels, initial = torch.from_numpy(image).to(device), given.to(device)
        if cold:
            _kept_spatial.cache_clear()
        start = time.perf_counter()
        ours = dense_crf(pixels, initial, CrfSettings(preset)).argmax(0).cpu().numpy()
        seconds[device] = time.perf_counter() - start
        shares.append(float((ours == theirs).mean()))
    return seconds, shares[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="with .jpg files; by default images are generated")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--threads", type=int, help="of torch; by default its own choice")
    parser.add_argument("--repeats", type=int, default=3, help="per image; the fastest counts")
    parser.add_argument("--cold", action="store_true", help="clear the cache before each image")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    images = sample_images(options.folder, options.images)
    rows = []
    presets: tuple[CrfPreset, ...] = ("deeplab", "irn")
    for labels in (3, 21):
        for preset in presets:
            seconds: dict[str, list[float]] = {name: [] for name in ("pydensecrf2", *devices)}
            agreement = []
            for seed, image in enumerate(images):
                given = probabilities(labels, seed)
                runs = [measure(image, given, preset, devices, cold=options.cold) for _ in range(options.repeats)]
                for name, found in seconds.items():
                    found.append(min(run[0][name] for run in runs))
                agreement.append(runs[0][1])
            ratios = {
                device: [own / other for own, other in zip(seconds[device], seconds["pydensecrf2"], strict=True)]
                for device in devices
            }
            rows.append(
                {
                    "labels": labels,
                    "preset": preset,
                    "pydensecrf2, seconds": round(median(seconds["pydensecrf2"]), 3),
                    **{f"{name}, seconds": round(median(seconds[name]), 3) for name in devices},
                    **{f"{name} / pydensecrf2": round(median(ratios[name]), 2) for name in devices},
                    **{
                        f"{name} / pydensecrf2, from to": [round(min(ratios[name]), 2), round(max(ratios[name]), 2)]
                        for name in devices
                    },
                    "pixels with equal labels": round(min(agreement), 6),
                }
            )
    result = {"hardware": hardware(devices[-1]), "cold": options.cold, "size": [HEIGHT, WIDTH], "rows": rows}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
