"""Refinement by proposals: prompts, vote and abstention against slow versions, and what whole objects are worth."""

import json
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPTokenizer, Sam3Model

from clip_tiny import tiny_folder, tiny_sam3
from sam_tiny import tiny_sam_folder
from tag2mask.cams.clip.settings import SeedSettings
from tag2mask.core.provenance import UNKNOWN
from tag2mask.networks.promptable import full_size, load_promptable
from tag2mask.refine.masks import ClassMaps, refined_mask
from tag2mask.refine.proposal_models import load_proposals, proposal_fingerprint
from tag2mask.refine.proposals import named, region_prompts, soft_vote
from tag2mask.refine.settings import RefineSettings

SIZE = (24, 30)


def _posterior(classes: int, seed: int, size: tuple[int, int] = SIZE) -> torch.Tensor:
    """Blobs of classes: uneven noise, so that regions of several sizes occur."""
    noise = torch.randn(1, classes, 7, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(4 * noise, size=size, mode="bilinear")[0].softmax(0)


def _slow_regions(labels: np.ndarray) -> list[tuple[int, set[tuple[int, int]]]]:
    """Class and pixels of the regions that make prompts, by flooding over sides and corners."""
    seen, found = set(), []
    for start in np.ndindex(*labels.shape):
        if start in seen or not labels[start]:
            continue
        region, queue = {start}, deque([start])
        while queue:
            y, x = queue.popleft()
            for near in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                inside = 0 <= near[0] < labels.shape[0] and 0 <= near[1] < labels.shape[1]
                if inside and near not in region and labels[near] == labels[start]:
                    region.add(near)
                    queue.append(near)
        seen |= region
        if len(region) >= 0.01 * labels.size:
            found.append((int(labels[start]), region))
    found.sort(key=lambda each: (each[0], -len(each[1])))
    return found


def _slow_named(
    posterior: np.ndarray, proposals: np.ndarray, margin: float, covered: float, weight: float
) -> np.ndarray:
    """The class of each pixel."""
    labels = posterior.argmax(0)
    voted, weighed = np.full(labels.shape, -1), labels.copy()
    for y, x in np.ndindex(*labels.shape):
        greatest = -1.0
        for proposal in proposals:
            means = [own[proposal].mean() for own in posterior]
            first, second = sorted(means, reverse=True)[:2]
            if proposal[y, x] and means[0] < first and first - second >= margin and first - second > greatest:
                greatest, voted[y, x] = first - second, int(np.argmax(means))
                pairs = zip(posterior[:, y, x], means, strict=True)
                both = [max(own, 1e-3) ** (1 - weight) * max(mean, 1e-3) ** weight for own, mean in pairs]
                weighed[y, x] = int(np.argmax(both))
    found = np.where(voted >= 0, weighed, labels)
    for class_, region in _slow_regions(labels):
        if sum(voted[pixel] == class_ for pixel in region) >= covered * len(region):
            for pixel in region:
                if voted[pixel] < 0:
                    others = posterior[:, pixel[0], pixel[1]].copy()
                    others[class_] = -1
                    found[pixel] = others.argmax()
    return found


def _discs(count: int, seed: int) -> torch.Tensor:
    random = np.random.default_rng(seed)
    grid = np.mgrid[: SIZE[0], : SIZE[1]]
    centres = random.uniform(0, 1, (count, 2)) * SIZE
    discs = [np.hypot(*(grid - each[:, None, None])) < random.integers(3, 9) for each in centres]
    return torch.from_numpy(np.stack(discs))


@pytest.mark.parametrize("seed", range(4))
def test_prompts_are_the_boxes_and_peaks_of_regions(seed: int) -> None:
    posterior = _posterior(3, seed)
    cams = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(seed))
    found = region_prompts(cams, posterior)
    regions = _slow_regions(posterior.argmax(0).numpy())
    assert len(regions) == len(found.boxes) == len(found.points) > 1
    boxes, points = [], []
    for class_, region in regions:
        rows, columns = [pixel[0] for pixel in region], [pixel[1] for pixel in region]
        boxes.append((min(columns), min(rows), max(columns), max(rows)))
        y, x = max(region, key=lambda pixel, class_=class_: float(cams[class_][pixel]))
        points.append(((x, y),))
    assert {tuple(each) for each in found.boxes.tolist()} == set(boxes)
    assert {tuple(map(tuple, each)) for each in found.points.tolist()} == set(points)


def test_only_large_regions_make_prompts_and_not_too_many() -> None:
    labels = torch.zeros(100, 100, dtype=torch.long)
    labels[::8, ::8] = 1  # single pixels
    posterior = torch.nn.functional.one_hot(labels, 2).permute(2, 0, 1).float()
    assert region_prompts(posterior, posterior).boxes.shape == (0, 4)
    for number in range(9):
        labels[number // 3 * 30 : number // 3 * 30 + 11 + number, number % 3 * 30 : number % 3 * 30 + 20] = 1
    posterior = torch.nn.functional.one_hot(labels, 2).permute(2, 0, 1).float()
    assert region_prompts(posterior, posterior).boxes.shape == (8, 4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("margin", "covered", "weight"), [(0.0, 0.5, 1.0), (0.2, 0.7, 0.5), (0.3, 2.0, 0.7)])
def test_the_vote_is_that_of_a_slow_version(seed: int, margin: float, covered: float, weight: float) -> None:
    posterior, proposals = _posterior(3, seed), _discs(6, seed)
    found = named(posterior, proposals, margin=margin, covered=covered, weight=weight)
    torch.testing.assert_close(found.sum(0), torch.ones(SIZE))
    expected = _slow_named(posterior.numpy(), proposals.numpy(), margin, covered, weight)
    assert (found.argmax(0).numpy() == expected).all()


def test_no_proposals_and_no_classes() -> None:
    none = torch.zeros(0, *SIZE, dtype=torch.bool)
    torch.testing.assert_close(named(_posterior(3, 0), none), _posterior(3, 0))
    alone = torch.ones(1, *SIZE)
    assert torch.equal(named(alone, _discs(2, 0)), alone)
    assert region_prompts(alone, alone).points.shape == (0, 1, 2)
    empty = torch.zeros(1, *SIZE, dtype=torch.bool)
    assert (soft_vote(_posterior(3, 0), empty).margin == -1).all()


def test_whole_objects_correct_a_mask_that_colours_mislead() -> None:
    """A disc of two colours on ground of two colours; the CAM lies on its left and on ground of its colour."""
    size = (48, 64)
    grid = np.mgrid[: size[0], : size[1]]
    disc = np.hypot(grid[0] - 24, grid[1] - 32) < 14
    image = np.full((*size, 3), 40, np.uint8)
    image[18:30, 6:24] = 120
    image[disc & (grid[1] < 40)] = 120
    image[disc & (grid[1] >= 40)] = 220
    cam = torch.zeros(2, *size)
    cam[1] = torch.from_numpy(((np.abs(grid[0] - 24) < 20) & (np.abs(grid[1] - 22) < 18)).astype(np.float32))
    cam[0] = 1 - cam[1]
    maps = ClassMaps(torch.tensor([0, 5], dtype=torch.uint8), 0.6 * cam + 0.2)
    settings = RefineSettings(method="crf")
    before = refined_mask(torch.from_numpy(image), maps, size, settings)
    asked = []

    def propose(image: torch.Tensor, ids: torch.Tensor, cams: torch.Tensor, posterior: torch.Tensor) -> torch.Tensor:
        asked.append((tuple(image.shape), ids.tolist(), region_prompts(cams, posterior)))
        return torch.from_numpy(disc)[None]

    settings = RefineSettings(method="proposals")
    after = refined_mask(torch.from_numpy(image), maps, size, settings, propose=propose)
    assert asked[0][:2] == ((*size, 3), [0, 5]) and len(asked[0][2].boxes) == 1
    wrong = ((before.numpy() == 5) != disc).mean()
    assert wrong > 0.04 and ((after.numpy() == 5) != disc).mean() < 0.1 * wrong


def test_proposals_of_a_model_are_its_best_masks_by_point_and_box(tmp_path: Path) -> None:
    model = load_promptable(str(tiny_sam_folder(tmp_path / "sam2", "sam2")), "refine.proposals")
    image = torch.randint(0, 256, (*SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    posterior, cams = _posterior(3, 1), _posterior(3, 2)
    ids = torch.tensor([0, 2, 4], dtype=torch.uint8)
    unread = SeedSettings(prompts="no such file")
    propose = load_proposals(str(tmp_path / "sam2"), unread, ("a", "b", "c", "d"), torch.device("cpu"))
    found = propose(image, ids, cams, posterior)
    boxes, points = region_prompts(cams, posterior)
    assert found.shape == (len(points), *SIZE) and found.dtype == torch.bool
    encoded = model.encode(image.numpy())
    for place in range(len(points)):
        one = model.masks(encoded, points[place][None], np.ones((1, 1), dtype=int), boxes[place][None])
        best = full_size(one.logits, encoded)[0, int(one.scores[0].argmax())]
        assert (found[place] != best).float().mean() < 1e-3
    nothing = propose(image, ids[:1], torch.ones(1, *SIZE), torch.ones(1, *SIZE))
    assert nothing.shape == (0, *SIZE)


def test_masks_of_sam3_are_proposals_without_their_names(tmp_path: Path) -> None:
    """Every mask that the library finds for a phrase of a tag, at the size of the image; no other phrase is asked."""
    folder = tiny_folder(tmp_path / "sam3", tiny_sam3(3))
    (tmp_path / "words.yaml").write_text("classes:\n  dab: dab, small dab fish\n  fen: fen\n  cod: cod\n")
    seeds = SeedSettings(prompts=str(tmp_path / "words.yaml"))
    propose = load_proposals(str(folder), seeds, ("dab", "fen", "cod"), torch.device("cpu"))
    image = torch.randint(0, 256, (*SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    posterior = _posterior(3, 0)
    found = propose(image, torch.tensor([0, 1, 3], dtype=torch.uint8), posterior, posterior)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    model = Sam3Model.from_pretrained(folder, attn_implementation="eager").eval()
    pixels = np.asarray(Image.fromarray(image.numpy()).resize((56, 56), Image.Resampling.BILINEAR)) / 127.5 - 1
    expected = []
    for phrase in ("dab", "small dab fish", "cod"):
        with torch.no_grad():
            text = tokenizer(phrase, return_tensors="pt", padding="max_length", max_length=77)
            said = model(pixel_values=torch.tensor(pixels).permute(2, 0, 1)[None].float(), **text)
        scores = said.pred_logits[0].sigmoid() * said.presence_logits[0].sigmoid()
        for mask, score in zip(said.pred_masks[0].sigmoid(), scores, strict=True):
            if score >= 0.3:
                whole = torch.nn.functional.interpolate(mask[None, None], size=SIZE, mode="bilinear")[0, 0] > 0.5
                expected.append((float(score), whole))
    assert len(found) == len(expected) > 0 and found.dtype == torch.bool
    expected.sort(key=lambda each: -each[0])
    for own, (_, whole) in zip(found, expected, strict=True):
        assert (own != whole).float().mean() < 0.01
    nothing = propose(image, torch.zeros(1, dtype=torch.uint8), torch.ones(1, *SIZE), torch.ones(1, *SIZE))
    assert nothing.shape == (0, *SIZE)


def test_the_fingerprint_follows_the_files_and_for_sam3_words_and_precision(tmp_path: Path) -> None:
    def of(model: Path | str, *classes: str, **seeds: Any) -> tuple[str, dict[str, Any]]:
        return proposal_fingerprint(str(model), SeedSettings(**seeds), classes, torch.device("cpu"))

    sam = tiny_sam_folder(tmp_path / "sam", "sam2")
    files, read = of(sam, "dab", "fen", prompts="no such file")
    assert read == {}
    tiny_sam_folder(tmp_path / "sam", "sam2", seed=1)
    assert of(sam, "dab", "fen")[0] != files
    (tmp_path / "words.yaml").write_text("classes:\n  dab: [a dab, flatfish]\n")
    sam3 = tiny_folder(tmp_path / "sam3", tiny_sam3(3))
    _, read = of(sam3, "dab", "fen", prompts=str(tmp_path / "words.yaml"))
    assert json.loads(json.dumps(read)) == read == {"prompts": [["a dab", "flatfish"], "fen"], "precision": "fp32"}
    assert of(sam3, "dab", "fen", precision="fp16")[1] == {"prompts": ["dab", "fen"], "precision": "bf16"}
    assert of("nobody/nothing", "dab") == (UNKNOWN, {"prompts": ["dab"], "precision": "fp32"})
