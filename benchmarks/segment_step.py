"""Loss and cost of training steps of a segmentation network on one fixed batch. Prints JSON.

python benchmarks/segment_step.py --config deeplab-msc --side 321 --steps 20 --threads 2
python benchmarks/segment_step.py --config deeplab-largefov --side 448 --batch 10 --device cuda --bf16

Weights are random. Batch norm is fixed at the statistics of the batch; without normalisation, activations of random
weights grow from block to block. A step is the network's forward pass, the loss at every pixel, the backward pass and
SGD. It alternates with a forward and backward pass of the backbone in one process. On a CPU, memory is the peak in
addition to the weights, as Linux counts it; on a GPU, the peak that torch allocated.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from measure import hardware, peak_memory, seconds
from tag2mask.cli.parsing import build_parser, expand_presets, to_config
from tag2mask.core.device import channels_last
from tag2mask.networks.segmentation import SegmentationNetwork, build_segmentation_network
from tag2mask.training.tasks import segmentation_loss

CLASSES = tuple(f"class {number}" for number in range(1, 21))
WANTED_RATIO = 1.25


def network_of(config: str, device: str) -> SegmentationNetwork:
    """The segmentation network of a preset, with random weights and fixed norms."""
    fixed = ("weights=none", "batch_norm=fixed", "head_batch_norm=fixed")
    words = ["--config", config, *(f"--segment.network.{each}" for each in fixed)]
    parser = build_parser("segment")
    settings = to_config(parser, parser.parse_args(expand_presets(words))).segment.network
    return channels_last(build_segmentation_network(settings, CLASSES, seed=0)).to(device).train()


@torch.no_grad()
def settle(network: SegmentationNetwork, images: Tensor) -> None:
    """Set the statistics of fixed norms to those of the images."""
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = None  # the mean over all batches, here one
    network(images)
    for norm in norms:
        norm.eval()


def peak(work: Callable[[], object], device: str) -> float:
    """Peak memory of some work, in MiB."""
    if device == "cpu":
        return peak_memory(work)
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() / 2**20


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="deeplab-msc", help="a preset or file with a segmentation network")
    parser.add_argument("--side", type=int, default=321, help="of the images, in pixels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--repeats", type=int, default=3, help="of the backbone passes; the median counts; 0: none")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--bf16", action="store_true", help="autocast for both")
    parser.add_argument("--threads", type=int, help="of torch; by default its own choice")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device, side = options.device, options.side
    network = network_of(options.config, device)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(options.batch, 3, side, side, generator=generator).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    blocks = torch.randint(0, 22, (options.batch, 1, 8, 8), generator=generator)  # 21 becomes ignored
    labels = F.interpolate(blocks.float(), size=(side, side))[:, 0].byte().to(device)
    labels[labels == 21] = 255
    settle(network, images)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=options.learning_rate, momentum=0.9)
    losses: list[float] = []

    def autocast() -> torch.autocast:
        return torch.autocast(device, torch.bfloat16, enabled=options.bf16)

    def step() -> None:
        with autocast():
            logits = network(images)
            if isinstance(logits, Tensor):
                logits = network.to_pixels(logits, (side, side))
            loss = segmentation_loss(logits, labels).total
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))

    def plain() -> None:
        with autocast():
            last = network.backbone((images - network.pixel_mean) / network.pixel_std)[-1]
        last.float().mean().backward()

    memory = peak(step, device)
    steps = [seconds(step) for _ in range(options.steps - 1)]
    passes = [seconds(plain) for _ in range(options.repeats)]
    result = {
        "hardware": hardware(device),
        "network": options.config,
        "batch": options.batch,
        "side": side,
        "precision": "bf16" if options.bf16 else "fp32",
        "loss": {"first": losses[0], "last": losses[-1], "falls": losses[-1] < losses[0]},
        "seconds per step": round(median(steps), 3) if steps else None,
        "images per second": round(options.batch / median(steps), 3) if steps else None,
        "seconds, backbone forward and backward": round(median(passes), 3) if passes else None,
        "step / backbone": round(median(steps) / median(passes), 3) if steps and passes else None,
        "wanted": WANTED_RATIO,
        "MiB": round(memory),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
