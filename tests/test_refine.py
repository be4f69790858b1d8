"""From CAMs to masks: the rules for labels, each method on problems whose answer is known."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tag2mask.core.errors import UsageError
from tag2mask.core.prefetch import map_computing
from tag2mask.core.profile import read_profile, start_profile, timed
from tag2mask.refine import masks
from tag2mask.refine.crf import CrfSettings, dense_crf, label_probabilities
from tag2mask.refine.masks import IGNORED, ClassMaps, refined_mask, sure_labels
from tag2mask.refine.random_walk import propagate
from tag2mask.refine.settings import RefineSettings, SureSettings, WalkSettings

SIZE = (72, 96)


def square() -> tuple[torch.Tensor, torch.Tensor]:
    """A bright square of class 3 on a dark ground, uint8 (72, 96, 3), and its truth."""
    truth = torch.zeros(SIZE, dtype=torch.uint8)
    truth[16:56, 24:64] = 3
    noise = torch.randint(0, 12, (*SIZE, 3), generator=torch.Generator().manual_seed(0))
    return ((truth > 0)[..., None] * 150 + 40 + noise).byte(), truth


def coarse(truth: torch.Tensor, *, background: bool, lit: float = 0.9) -> ClassMaps:
    """What a CAM knows of the truth: a blob on a grid of 6 × 8 at the left of the square, soft all around."""
    blob = F.interpolate((truth > 0).float()[None, None], size=(6, 8), mode="area")[0, 0]
    blob = lit * blob.clone()
    blob[:, 4:] *= 0.5  # the classifier looks at one side
    maps = torch.stack([1 - blob, blob]) * 0.8 if background else blob[None]
    return ClassMaps(torch.tensor([0, 3] if background else [3], dtype=torch.uint8), maps)


def iou(labels: torch.Tensor, truth: torch.Tensor) -> float:
    both = ((labels == 3) & (truth == 3)).sum()
    return float(both / ((labels == 3) | (truth == 3)).sum())


def test_backgrounds() -> None:
    own = ClassMaps(torch.tensor([2, 5], dtype=torch.uint8), torch.tensor([[[0.1, 0.9]], [[0.2, 0.3]]]))
    level = own.with_background(0.15)
    assert level.ids.tolist() == [0, 2, 5]
    assert level.labels().tolist() == [[5, 2]]
    assert level.with_background(1.0).maps is level.maps  # it has one already
    assert level.labels(confidence=0.25).tolist() == [[IGNORED, 2]]
    nothing = ClassMaps(torch.zeros(0, dtype=torch.uint8), torch.zeros(0, 2, 3))
    assert nothing.with_background(0.3).labels().tolist() == [[0] * 3] * 2
    assert nothing.with_background(0.3).resized((4, 6)).labels().shape == (4, 6)


def test_argmax_is_the_highest_map_at_full_size() -> None:
    maps = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([0, 4, 9], dtype=torch.uint8)
    mask = refined_mask(
        torch.zeros(1, 1, 3, dtype=torch.uint8), ClassMaps(ids, maps), SIZE, RefineSettings(method="argmax")
    )
    full = F.interpolate(maps[None], size=SIZE, mode="bilinear")[0].numpy()
    assert (mask.numpy() == np.array([0, 4, 9])[full.argmax(0)]).all()


@pytest.mark.parametrize("background", [True, False])
def test_the_crf_brings_a_coarse_cam_to_the_border(background: bool) -> None:
    image, truth = square()
    cam = coarse(truth, background=background)
    before = refined_mask(image, cam, SIZE, RefineSettings(method="argmax", background_threshold=0.4))
    after = refined_mask(image, cam, SIZE, RefineSettings(method="crf", background_threshold=0.4))
    assert iou(before, truth) < 0.7
    assert iou(after, truth) > 0.95
    expected = dense_crf(image, cam.resized(SIZE).with_background(0.4).maps)
    assert torch.equal(after, torch.tensor([0, 3], dtype=torch.uint8)[expected.argmax(0)])


def test_an_unsure_pixel_is_ignored() -> None:
    image, truth = square()
    cam = coarse(truth, background=True)
    whole = refined_mask(image, cam, SIZE, RefineSettings(method="crf"))
    sure = refined_mask(image, cam, SIZE, RefineSettings(method="crf", ignore_below=0.95))
    marginals = dense_crf(image, cam.resized(SIZE).maps)
    assert torch.equal(sure == IGNORED, marginals.amax(0) < 0.95)
    assert torch.equal(sure[sure != IGNORED], whole[sure != IGNORED])
    assert 0 < int((sure == IGNORED).sum()) < sure.numel() / 2


def edge_map(truth: torch.Tensor) -> torch.Tensor:
    """1 in the cells around the square, on the grid of stride 4: (18, 24)."""
    inside = F.avg_pool2d((truth > 0).float()[None, None], 4)
    return (F.max_pool2d(inside, 3, 1, 1) - inside)[0, 0]


@pytest.mark.parametrize("background", [True, False])
def test_the_walk_fills_what_the_edges_enclose(background: bool) -> None:
    image, truth = square()
    cam, edge = coarse(truth, background=background), edge_map(truth)
    settings = RefineSettings(method="irn", walk=WalkSettings(background_level=0.3))
    mask = refined_mask(image, cam, SIZE, settings, edge)
    before = refined_mask(image, cam, SIZE, RefineSettings(method="argmax", background_threshold=0.4))
    assert iou(mask, truth) > iou(before, truth) + 0.05
    # As published: the CAM on the grid to the power 1.5, walked, enlarged, one factor for the image.
    walked = propagate(cam.resized((18, 24)).maps ** 1.5, edge)
    full = F.interpolate((walked / walked.max())[None], size=SIZE, mode="bilinear")[0]
    if not background:
        full = torch.cat([torch.full((1, *SIZE), 0.3), full])
    assert torch.equal(mask, torch.tensor([0, 3], dtype=torch.uint8)[full.argmax(0)])
    both = refined_mask(image, cam, SIZE, RefineSettings(method="irn+crf"), edge)
    assert iou(both, truth) > 0.95


@pytest.mark.parametrize("size", [(72, 96), (71, 93), (41, 50)])
def test_cells_stay_where_they_are_after_the_walk(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Enlarged by four and cut, as published: stretching the grid onto the image would shift its far side."""
    maps = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(2))
    cam = ClassMaps(torch.tensor([0, 2], dtype=torch.uint8), maps)
    grid = (-(-size[0] // 4), -(-size[1] // 4))
    edge = torch.zeros(grid)
    monkeypatch.setattr(masks, "STEPS", 0)
    settings = RefineSettings(method="irn")
    mask = refined_mask(torch.zeros(*size, 3, dtype=torch.uint8), cam, size, settings, edge)
    cells = F.interpolate(maps[None], size=grid, mode="bilinear") ** 1.5
    full = F.interpolate(cells, scale_factor=4.0, mode="bilinear")[0, :, : size[0], : size[1]]
    assert torch.equal(mask, torch.tensor([0, 2], dtype=torch.uint8)[full.argmax(0)])


def test_images_without_a_tag_and_of_many_sizes() -> None:
    image, truth = square()
    small = image[:17, :23].contiguous()
    none = ClassMaps(torch.zeros(0, dtype=torch.uint8), torch.zeros(0, 3, 4))
    alone = ClassMaps(torch.zeros(1, dtype=torch.uint8), torch.ones(1, 3, 4))
    cams = [coarse(truth, background=True), none, alone]
    images, sizes = [image, small, small], [SIZE, (34, 46), (17, 23)]
    edges = [edge_map(truth), torch.zeros(5, 6), torch.zeros(5, 6)]
    for method in ("argmax", "crf", "irn", "irn+crf"):
        settings = RefineSettings(method=method)
        masks = [refined_mask(*each, settings, edge) for *each, edge in zip(images, cams, sizes, edges, strict=True)]
        assert [tuple(mask.shape) for mask in masks] == sizes
        assert not masks[1].any() and not masks[2].any()


def test_masks_of_images_side_by_side_have_the_same_bytes_and_order() -> None:
    image, truth = square()
    before, seen, taken = torch.get_num_threads(), [], []
    torch.set_num_threads(2)

    def refined(turns: int) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        if turns == 9:
            raise UsageError("the ninth")
        cam = coarse(truth.roll(turns), background=True)
        return refined_mask(image.roll(turns, 0), cam, SIZE, RefineSettings(method="irn+crf"), edge_map(truth))

    def items() -> Iterator[int]:
        for turns in range(4):
            taken.append((threading.get_ident(), torch.get_num_threads()))
            yield turns

    def of_new_thread() -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    try:
        one = list(map_computing(refined, range(4), threads=1))
        assert seen == [2] * 4
        seen.clear()
        assert all(map(torch.equal, map_computing(refined, items(), threads=3), one))
        assert seen == [1] * 4 and taken == [(threading.get_ident(), 2)] * 4
        assert (torch.get_num_threads(), of_new_thread()) == (2, 2)
        with pytest.raises(UsageError, match="the ninth"):
            list(map_computing(refined, [0, 9, *range(100)], threads=2))
        assert len(seen) < 20 and (torch.get_num_threads(), of_new_thread()) == (2, 2)
    finally:
        torch.set_num_threads(before)


def test_the_profile_counts_the_wait_for_threads_and_not_their_work() -> None:
    @timed("network")
    def work(_: int) -> None:
        with timed("writing"):
            torch.rand(1000, 100).sort()

    start_profile()
    list(map_computing(work, range(4), threads=2))
    found = read_profile()
    assert found["method"] > 0 and (found["network"], found["writing"]) == (0, 0)


@pytest.mark.parametrize("background", [True, False])
def test_sure_labels_are_those_of_two_passes(background: bool) -> None:
    image, truth = square()
    maps = coarse(truth, background=background).resized(SIZE)
    settings = SureSettings(background_factors=(1.4, 0.5))
    labels = sure_labels(image, maps, settings)
    # The same in plain words.
    found = []
    for factor, level in ((1.4, 0.3), (0.5, 0.05)):
        cam = maps.maps[-1]
        ground = maps.maps[0] * factor if background else torch.full(SIZE, level)
        start = (cam > ground).long()
        found.append(dense_crf(image, label_probabilities(start, 2, 0.7), CrfSettings("irn")).argmax(0))
    strict, loose = found
    expected = torch.full(SIZE, IGNORED, dtype=torch.uint8)
    expected[strict == 1] = 3
    expected[(strict == 0) & (loose == 0)] = 0
    assert torch.equal(labels, expected)


def test_the_two_passes_of_an_image_share_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    image, truth = square()
    maps = coarse(truth, background=True).resized(SIZE)
    alone = sure_labels(image, maps, SureSettings())
    built: list[torch.Tensor] = []
    build = masks.crf_kernels
    monkeypatch.setattr(masks, "crf_kernels", lambda image, *rest: built.append(image) or build(image, *rest))
    assert torch.equal(sure_labels(image, maps, SureSettings()), alone)
    assert len(built) == 1


def test_the_two_passes_leave_unsure_pixels_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain image, whose colours decide nothing: only the passes do."""
    image = torch.full((*SIZE, 3), 90, dtype=torch.uint8)
    ramp = torch.linspace(0, 1, SIZE[1]).expand(SIZE)
    maps = ClassMaps(torch.tensor([0, 7], dtype=torch.uint8), torch.stack([torch.full(SIZE, 0.5), ramp]))
    monkeypatch.setattr(masks, "LABEL_CRF", CrfSettings("irn", bilateral_weight=0.0))
    labels = sure_labels(image, maps, SureSettings(background_factors=(1.6, 0.4)))
    assert labels[:, :14].eq(0).all() and labels[:, 26:66].eq(IGNORED).all() and labels[:, 82:].eq(7).all()
    same = sure_labels(image, maps, SureSettings(background_factors=(1.0, 1.0)))
    assert not same.eq(IGNORED).any()  # passes that do not differ leave nothing out


def test_settings_that_cannot_be_meant() -> None:
    with pytest.raises(UsageError, match="which method argmax does not have"):
        RefineSettings(method="argmax", ignore_below=0.95)
    with pytest.raises(UsageError, match=r"crf_power should be above 0, received 0; long_side should be at least 32"):
        RefineSettings(method="crf", crf_power=0, long_side=8)
    with pytest.raises(UsageError, match="beta should be above 0, received 0; background_level should lie in"):
        WalkSettings(beta=0, background_level=2)
    with pytest.raises(UsageError, match="second not above the first"):
        SureSettings(background_factors=(0.5, 1.0))
