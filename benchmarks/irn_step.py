"""A training step of IRN's edge network, compared with the forward pass of its frozen backbone. Prints JSON.

python benchmarks/irn_step.py --threads 2 --repeats 3

Both alternate in one process on the same batch. A step is the network's forward pass, the affinity loss, the backward
pass and SGD. Memory is the peak in addition to the model and the batch, as Linux counts it.
"""

import argparse
import json
import time
from statistics import median

import torch

from measure import hardware, peak_memory, seconds
from tag2mask.core.device import channels_last, retained_memory
from tag2mask.networks import NetworkSettings, build_backbone, ceil_grid
from tag2mask.networks.edge_network import EDGE_STRIDE, build_edge_network
from tag2mask.refine.affinity_loss import RADIUS, affinity_loss, reduced_labels

WANTED_RATIO = 1.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50", help="with random weights")
    parser.add_argument("--side", type=int, default=512, help="of the images, in pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--radius", type=int, default=RADIUS, help="of the loss, in cells")
    parser.add_argument("--bf16", action="store_true", help="autocast for both")
    parser.add_argument("--threads", type=int, help="of torch; by default its own choice")
    parser.add_argument("--repeats", type=int, default=3, help="per variant; the median counts")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    backbone = build_backbone(NetworkSettings(backbone=options.backbone, weights="none"))
    network = channels_last(build_edge_network(backbone, seed=0)).train()
    optimiser = torch.optim.SGD(list(network.branch.parameters()), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    images = torch.rand(options.batch, 3, options.side, options.side).contiguous(memory_format=torch.channels_last)
    blocks = torch.randint(0, 4, (options.batch, 1, 8, 8)).float()  # 3 becomes ignored
    labels = torch.nn.functional.interpolate(blocks, size=(options.side, options.side)).squeeze(1).byte()
    labels[labels == 3] = 255
    grid = ceil_grid((options.side, options.side), EDGE_STRIDE)
    taken: list[float] = []  # seconds of the loss, forward and backward to the logits

    def autocast() -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=options.bf16)

    def plain() -> None:
        with torch.no_grad(), autocast():
            network.backbone((images - network.pixel_mean) / network.pixel_std)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with autocast():
            logits = network(images)
        start = time.perf_counter()
        own = logits.detach().requires_grad_()
        affinity_loss(own, reduced_labels(labels, grid), radius=options.radius).total.backward()
        taken.append(time.perf_counter() - start)
        logits.backward(own.grad)
        optimiser.step()

    logits = torch.randn(options.batch, *grid)
    reduced = reduced_labels(labels, grid)
    affinity_loss(logits, reduced, radius=options.radius)  # the paths are computed once and cached
    peaks = {
        "backbone": peak_memory(plain),
        "step": peak_memory(step),
        "loss": peak_memory(
            lambda: affinity_loss(logits.requires_grad_(), reduced, radius=options.radius).total.backward()
        ),
    }
    turns = []
    with retained_memory():  # as in training
        plain(), step()
        taken.clear()
        for _ in range(options.repeats):
            turns.append((seconds(plain), seconds(step)))
    forward, whole = (median(side) for side in zip(*turns, strict=True))
    result = {
        "hardware": hardware(),
        "backbone": options.backbone,
        "batch": options.batch,
        "side": options.side,
        "radius": options.radius,
        "precision": "bf16" if options.bf16 else "fp32",
        "seconds": {
            "backbone, forward": round(forward, 3),
            "training step": round(whole, 3),
            "affinity loss": round(median(taken), 3),
        },
        "peak MiB above the model": {name: round(value) for name, value in peaks.items()},
        "loss / step": round(median(taken) / whole, 3),
        "step / backbone": round(whole / forward, 3),
        "wanted": WANTED_RATIO,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
