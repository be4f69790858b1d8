"""Speed of POT, compared with a direct implementation and with training without POT. Prints ratios as JSON.

Two measurements. In each, both versions alternate in one process, and medians are compared:

- `block`: `transport_cams`, compared with the same steps written as loops over images and classes, with the k-means of
  `kmeans-pytorch` and the Sinkhorn of PythonOT. 16 images, 3 tags per image; the published settings at 32 × 32 cells of
  768 channels, and with self-affinity at 22 × 22 cells of 3,840 channels.
- `step`: a training step of the POT network (joint feature, POT, both losses), compared with a step of the same network
  with the classifier only; both with channels last, as in training.

    python benchmarks/transport.py --threads 2 --repeats 5 --out transport.json
    python benchmarks/transport.py --device cuda --dtype bfloat16 --batch 16
"""

import argparse
import contextlib
import functools
import io
import json
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import kmeans_pytorch
import numpy as np
import ot
import torch
from torch import Tensor
from torch.nn import functional as F

from measure import hardware, seconds
from tag2mask.core.device import channels_last, retained_memory
from tag2mask.core.files import write_json
from tag2mask.networks import NetworkSettings, PotNetwork, build_network
from tag2mask.pot import PotSettings, normalised_cams, transport_cams
from tag2mask.training.settings import TrainSettings
from tag2mask.training.tasks import objective

WANTED_BLOCK_RATIO, WANTED_STEP_RATIO = 5.0, 1.10
CLASSES = 20


def median_seconds(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of two alternating pieces of work, after a warm-up round."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for work, taken in zip((first, second), times, strict=True):
            duration = seconds(work)
            if turn:
                taken.append(duration)
    return statistics.median(times[0]), statistics.median(times[1])


def problem(images: int, grid: int, channels: int, tags_each: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random features (N, D, h, w) with an object per tag, base CAMs (N, C, h, w) on part of it, and tags (N, C)."""
    generator = torch.Generator().manual_seed(0)
    tags = torch.zeros(images, CLASSES, dtype=torch.bool)
    activations = torch.zeros(images, CLASSES, grid, grid)
    features = torch.randn(images, channels, grid, grid, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(grid) / grid, torch.arange(grid) / grid, indexing="ij")
    for image in range(images):
        for tag in torch.randperm(CLASSES, generator=generator)[:tags_each].tolist():
            y, x = torch.rand(2, generator=generator).tolist()
            blob = torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 0.03)
            tags[image, tag], activations[image, tag] = True, blob
            features[image] += torch.randn(channels, 1, 1, generator=generator) * (blob > 0.3)
    return features, normalised_cams(activations), tags


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the library's prints and progress bars."""
    bar = kmeans_pytorch.tqdm
    kmeans_pytorch.tqdm = functools.partial(bar, disable=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        kmeans_pytorch.tqdm = bar


def plain_affinity(points: Tensor, base: Tensor, grid: Sequence[int], settings: PotSettings) -> tuple[Tensor, Tensor]:
    """The self-affinity step of one image: features (n, D) and base CAMs (J, n)."""
    rows, columns = torch.meshgrid(*(torch.arange(side, device=points.device) for side in grid), indexing="ij")
    places = torch.stack([rows, columns], 2).flatten(0, 1).float()
    near = -torch.cdist(places, places).square() / (2 * settings.affinity_radius**2)
    weights = torch.softmax(settings.affinity * (points @ points.T) + near, 1)
    base = base @ weights.T
    return F.normalize(weights @ points, dim=1), base / (base.amax(1, keepdim=True) + 1e-5)


def plain_pot(features: Tensor, cams: Tensor, tags: Tensor, settings: PotSettings) -> Tensor:
    """The published method with public libraries, in loops over images, classes and clusters: (N, C + 1, h, w)."""
    maps = torch.zeros(len(tags), tags.shape[1] + 1, *features.shape[2:], device=features.device)
    for image in range(len(tags)):
        points = F.normalize(features[image].float().flatten(1), dim=0).T  # (n, D)
        present = tags[image].nonzero().flatten().tolist()
        base = cams[image, present].float().flatten(1)  # (J, n)
        if settings.affinity is not None:
            points, base = plain_affinity(points, base, features.shape[2:], settings)
        base = torch.cat([1 - base.amax(0, keepdim=True), base])
        winner = base.argmax(0)
        prototypes, similarities = [], []
        for slot in range(len(base)):
            seeds = points[winner == slot]
            if len(seeds) < settings.min_seeds:
                seeds = points[base[slot].topk(settings.min_seeds).indices]
            _, centres = kmeans_pytorch.kmeans(seeds, settings.num_prototypes, distance="cosine", device=points.device)
            for centre in F.normalize(centres.to(points.device), dim=1):
                prototypes.append(centre)
                similarities.append(max(float(F.normalize(seeds.mean(0), dim=0) @ centre), 1e-3))
        cost = 1 - points @ torch.stack(prototypes).T  # (n, (J + 1) K)
        rows, columns = np.full(len(cost), 1 / len(cost)), np.array(similarities) / np.sum(similarities)
        plan = torch.as_tensor(
            ot.sinkhorn(rows, columns, cost.double().cpu().numpy(), settings.epsilon, numItermax=settings.iterations),
            dtype=torch.float32,
            device=points.device,
        )
        best = plan.argmax(1)
        for slot, class_id in enumerate([0, *(tag + 1 for tag in present)]):
            total = torch.zeros(len(points), device=points.device)
            for column in range(slot * settings.num_prototypes, (slot + 1) * settings.num_prototypes):
                chosen = best == column
                mean = (plan[chosen, column, None] * points[chosen]).sum(0)
                prototype = F.normalize(mean, dim=0) if chosen.any() else prototypes[column]
                total += plan[:, column] / plan.sum(1) * (points @ prototype).relu()
            maps[image, class_id] = (total / (total.max() + 1e-5)).view(maps.shape[2:])
    return maps


@torch.no_grad()
def measure_block(options: argparse.Namespace, clusters: int, *, affinity: bool) -> dict[str, Any]:
    """The POT block with the published settings, compared with the plain version.

    With ``affinity`` it has our self-affinity step, and the joint feature of ResNet-50 for an image of 352 px.
    """
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    grid, channels = (22, 3840) if affinity else (32, 768)
    features, cams, tags = (value.to(device) for value in problem(16, grid, channels, 3))
    features = features.to(dtype, memory_format=torch.channels_last)  # as networks return them
    settings = replace(PotSettings().paper(), num_prototypes=clusters)
    if affinity:
        settings = replace(settings, affinity=PotSettings().affinity, background="tags")
    np.random.seed(0)
    with quiet():
        ours, plain = median_seconds(
            lambda: transport_cams(features, cams, tags, settings),
            lambda: plain_pot(features, cams, tags, settings),
            options.repeats,
        )
        maps = transport_cams(features, cams, tags, settings).cams
        difference = (maps - plain_pot(features, cams, tags, settings)).abs()
    present = torch.cat([torch.ones_like(tags[:, :1]), tags], 1)
    return {
        "images": 16,
        "grid": [grid, grid],
        "channels": channels,
        "tags": 3,
        "clusters": clusters,
        "self-affinity": affinity,
        "dtype": options.dtype,
        "seconds": {"tag2mask": ours, "plain": plain},
        "mean difference of the maps": float(difference[present].mean()),
        "ratio": plain / ours,
        "wanted": WANTED_BLOCK_RATIO,
    }


def training_step(
    network: PotNetwork, images: Tensor, tags: Tensor, dtype: torch.dtype, pot: PotSettings | None, stop_gradient: Any
) -> Callable[[], object]:
    """One step of SGD; with ``pot`` including the joint feature and the consistency loss."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9)
    autocast = functools.partial(torch.autocast, images.device.type, dtype=dtype, enabled=dtype != torch.float32)

    def plain() -> Tensor:
        with autocast():
            stages = network.backbone((images - network.pixel_mean) / network.pixel_std)
            logits = network.classifier(stages[-1]).float().mean((2, 3))
        return F.multilabel_soft_margin_loss(logits, tags.float())

    def with_pot(settings: PotSettings) -> Tensor:
        with autocast():
            output = network(images)
        losses = TrainSettings(stop_gradient=stop_gradient)
        valid = torch.ones_like(images[:, 0], dtype=torch.bool)
        return objective(output, tags, valid, losses, settings, stride=network.stride, progress=0.9).total

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss = plain() if pot is None else with_pot(pot)
        loss.backward()
        optimiser.step()

    return step


def measure_step(options: argparse.Namespace, projections: bool) -> dict[str, Any]:
    """A POT training step compared with a classification step of the same network without side projections."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    batch, size = options.batch or (16 if device.type == "cuda" else 2), options.size
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, size, size, generator=generator).to(device, memory_format=torch.channels_last)
    tags = torch.zeros(batch, CLASSES, dtype=torch.bool)
    for image in range(batch):
        tags[image, torch.randperm(CLASSES, generator=generator)[:3]] = True
    tags = tags.to(device)
    classes = tuple(f"class {index}" for index in range(CLASSES))
    settings = NetworkSettings(backbone=options.backbone, weights="none", batch_norm="fixed")
    network, joint = (
        channels_last(build_network(replace(settings, projections=with_projections), classes, seed=0))
        .to(device)
        .train()
        for with_projections in (False, projections)
    )
    pot = PotSettings()
    # Only the transport CAM trains the projections, so it needs gradients.
    stop_gradient = "none" if projections else "pot"
    plain, with_pot = median_seconds(
        training_step(network, images, tags, dtype, None, stop_gradient),
        training_step(joint, images, tags, dtype, pot, stop_gradient),
        options.repeats,
    )
    return {
        "network": asdict(joint.settings),
        "batch": batch,
        "size": [size, size],
        "dtype": options.dtype,
        "pot": asdict(pot),
        "stop_gradient": stop_gradient,
        "seconds": {"plain": plain, "pot": with_pot},
        "ratio": with_pot / plain,
        "wanted": WANTED_STEP_RATIO,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["block", "step"], help="one of the two measurements")
    parser.add_argument("--clusters", type=int, nargs="+", default=[2, 5], help="of the block, K")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, …")
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "bfloat16"], help="features; autocast of steps"
    )
    parser.add_argument("--threads", type=int, help="of torch; by default its own choice")
    parser.add_argument("--repeats", type=int, default=5, help="per variant; the median counts")
    parser.add_argument("--backbone", default="resnet50", help="of the training step")
    parser.add_argument("--batch", type=int, help="of the training step; 16 on an accelerator, 2 on a CPU")
    parser.add_argument("--size", type=int, default=512, help="of the training step's images, in pixels")
    parser.add_argument("--out", type=Path, help="also write a JSON file")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    report: dict[str, Any] = {
        "hardware": hardware(options.device) | {"pythonot": ot.__version__},
        "repeats": options.repeats,
    }
    with retained_memory():  # as in training
        if options.only != "step":
            report["block"] = [
                measure_block(options, clusters, affinity=affinity)
                for affinity in (False, True)
                for clusters in options.clusters
            ]
        if options.only != "block":
            report["step"] = [measure_step(options, projections) for projections in (False, True)]
    print(json.dumps(report, indent=2))
    if options.out:
        write_json(options.out, report)


if __name__ == "__main__":
    main()
