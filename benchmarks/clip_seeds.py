"""Base CAMs from CLIP: one batch at a time, compared with one class at a time and the affinity squared on the host.

python benchmarks/clip_seeds.py --threads 2 --repeats 3
python benchmarks/clip_seeds.py --device cuda --precision fp16

ViT-B/16 with random weights, images of 500 × 375 px, three tags each. Both versions and the plain forward pass
alternate in one process. Memory is the peak of a separate process per version.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from measure import hardware, peak_memory, seconds
from tag2mask.cams.clip import Clip, clip_cams

SIZE = (384, 512)
"""375 × 500 pixels, rounded up to whole patches."""

CLASSES, BACKGROUND = 20, 25
BLOCKS, THRESHOLD = 8, 0.4


def problem(images: int, tags: int, device: str) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Random images, tags, class texts and background texts."""
    generator = torch.Generator().manual_seed(0)
    items = [torch.randn(3, *SIZE, generator=generator) for _ in range(images)]
    marks = torch.zeros(images, CLASSES, dtype=torch.bool)
    for row in marks:
        row[torch.randperm(CLASSES, generator=generator)[:tags]] = True
    texts = F.normalize(torch.randn(CLASSES + BACKGROUND, 512, generator=generator), dim=1)
    return [item.to(device) for item in items], marks, texts[:CLASSES], texts[CLASSES:]


def one_class_at_a_time(
    clip: Clip, images: list[Tensor], tags: Tensor, texts: Tensor, background_text_features: Tensor
) -> list[list[Any]]:
    """CLIP-ES as published: batch 1, the last block forward and backward for each class, n × n work on the host."""
    model, vision, device = clip.model, clip.model.vision_model, clip.device
    scale = clip.logit_scale
    results = []
    for image, own in zip(images, tags, strict=True):
        dtype = model.visual_projection.weight.dtype
        with torch.no_grad():
            embed = vision.embeddings
            patches = embed.patch_embedding(image[None].to(dtype)).flatten(2).transpose(1, 2)
            grid = (image.shape[1] // clip.patch, image.shape[2] // clip.patch)
            table = embed.position_embedding.weight
            side = round((len(table) - 1) ** 0.5)
            square = table[1:].float().T.reshape(1, -1, side, side)
            position = F.interpolate(square, grid, mode="bilinear")[0].flatten(1).T.to(dtype)
            first = (embed.class_embedding + table[0])[None, None]
            tokens = vision.pre_layrnorm(torch.cat([first, patches + position], 1))
            maps = []
            for layer in vision.encoder.layers[:-1]:
                attended, weights = layer.self_attn(layer.layer_norm1(tokens))
                maps.append(weights[0].mean(0))
                tokens = tokens + attended
                tokens = tokens + layer.mlp(layer.layer_norm2(tokens))
        last, found = vision.encoder.layers[-1], []
        present = own.nonzero()[:, 0].tolist()
        everything = torch.cat([texts[present], background_text_features]).to(device)
        for number in range(len(present)):
            normed = last.layer_norm1(tokens).detach().requires_grad_()
            attended, weights = last.self_attn(normed)
            x = tokens + attended
            x = x + last.mlp(last.layer_norm2(x))
            feature = F.normalize(model.visual_projection(vision.post_layernorm(x)[0, 1:].mean(0)).float(), dim=0)
            probability = (scale * everything @ feature).softmax(0)[number]
            (gradient,) = torch.autograd.grad(probability, normed)
            cam = (normed[0, 1:].float() @ gradient[0, 1:].float().mean(0)).detach().relu().cpu().numpy()
            cam = (cam - cam.min()) / (cam.max() - cam.min() + 1e-30)
            stack = torch.stack([*maps, weights[0].mean(0).detach()][-BLOCKS:])
            affinity = stack.float().mean(0)[1:, 1:].cpu()
            for _ in range(3):
                affinity = affinity / affinity.sum(0, keepdim=True)
                affinity = affinity / affinity.sum(1, keepdim=True)
            affinity = (affinity + affinity.T) / 2
            squared = affinity @ affinity
            levels = np.floor(cam * 255).reshape(grid)
            regions, _ = ndimage.label(levels > int(THRESHOLD * levels.max()), structure=np.ones((3, 3)))
            mask = np.zeros(grid, dtype=np.float32)
            for box in ndimage.find_objects(regions):
                mask[box] = 1
            refined = (squared @ torch.from_numpy(cam * mask.ravel())).numpy()
            found.append((refined - refined.min()) / (refined.max() - refined.min() + 1e-30))
        results.append(found)
    return results


def plain_forward(clip: Clip, images: list[Tensor], batch: int) -> None:
    """The forward pass of the network, without gradients and attention maps."""
    with torch.no_grad():
        for start in range(0, len(images), batch):
            patches = clip.patches(images[start : start + batch])
            tokens = patches.tokens
            for block in clip.blocks:
                tokens = clip.run_block(block, tokens, None)
            clip.image_features(tokens[:, 0])


def build(options: argparse.Namespace) -> Clip:
    """ViT-B/16 with random weights."""
    from transformers import CLIPConfig, CLIPModel

    vision = {"patch_size": 16, "image_size": 224, "hidden_size": 768, "intermediate_size": 3072}
    vision |= {"num_hidden_layers": 12, "num_attention_heads": 12}
    torch.manual_seed(0)
    config = CLIPConfig(vision_config=vision, projection_dim=512)
    model = CLIPModel._from_config(config, attn_implementation="eager")
    with torch.no_grad():  # makes the attention less uniform, as in a trained network
        for block in model.vision_model.encoder.layers:
            block.self_attn.q_proj.weight *= 6
            block.self_attn.k_proj.weight *= 6
    return Clip(model).to(options.device).precision(options.precision)


def sides(options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """The variants, by name."""
    clip = build(options)
    images, tags, texts, background_text_features = problem(options.images, options.tags, options.device)
    step = options.batch or (2 if options.device == "cpu" else 16)

    def ours() -> list[Any]:
        starts = range(0, len(images), step)
        parts = [
            clip_cams(clip, images[i : i + step], tags[i : i + step], texts, background_text_features) for i in starts
        ]
        return [own for part in parts for own in part]

    def check() -> float:
        fast, slow = ours()[:2], one_class_at_a_time(clip, images[:2], tags[:2], texts, background_text_features)
        pairs = ((a.cams.flatten(1).numpy(), b) for a, b in zip(fast, slow, strict=True))
        return max(float(np.abs(a - np.stack(b)).max()) for a, b in pairs)

    return {
        "ours": ours,
        "one class at a time": lambda: one_class_at_a_time(clip, images, tags, texts, background_text_features),
        "plain forward": lambda: plain_forward(clip, images, step),
        "difference": check,
    }


def peak(side: str, work: Callable[[], Any], device: str) -> int:
    """Peak memory of a variant in MiB, above the memory before it; on a CPU in a separate process."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20)
    words = [sys.executable, __file__, *sys.argv[1:], "--only", side]
    return round(float(subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--tags", type=int, default=3, help="per image")
    parser.add_argument("--batch", type=int, help="images per batch of our variant; 2 on a CPU, 16 on a GPU")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--threads", type=int, help="of torch; by default its own choice")
    parser.add_argument("--repeats", type=int, default=3, help="per variant; the median counts")
    parser.add_argument("--out", type=Path, help="also write a JSON file")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    work = sides(options)
    if options.only:
        print(peak_memory(work[options.only]))
        return
    names = ("plain forward", "ours", "one class at a time")
    work["ours"]()
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.repeats):
        for name in names:
            times[name].append(seconds(work[name]))
    middle = {name: median(values) for name, values in times.items()}
    result = {
        "hardware": hardware(options.device),
        "precision": options.precision,
        "images": options.images,
        "tags": options.tags,
        "seconds": {name: round(value, 2) for name, value in middle.items()},
        "one class at a time / ours": round(middle["one class at a time"] / middle["ours"], 2),
        "share of ours that is not the plain forward": round(1 - middle["plain forward"] / middle["ours"], 3),
        "peak MiB": {name: peak(name, work[name], options.device) for name in names},
        "largest difference between maps": work["difference"](),
    }
    text = json.dumps(result, indent=2)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
