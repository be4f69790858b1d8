"""Mask quality without truth: overlaps against slow loops, features, estimates, tables, the quality of the ranking."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.quality.calibration import (
    calibration,
    covers_ranking,
    ranking_quality,
    shared_tenth,
    spearman,
    spearman_interval,
)
from tag2mask.quality.estimator import FEW_CELLS, MODELS, Model, class_estimates, estimate_quality, predictor
from tag2mask.quality.features import (
    FIELDS,
    MaskFeatures,
    class_shares,
    expected_iou,
    mask_features,
    read_features,
    stored_features,
    write_features,
)
from tag2mask.quality.ranking import CLASSES, IMAGES, Tables, read_ranking
from tag2mask.refine.masks import ClassMaps

IDS = torch.tensor([0, 2, 5], dtype=torch.uint8)


def scene(seed: int, size: tuple[int, int] = (7, 9)) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels with some ignored pixels, and probabilities of the classes of `IDS`."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor([0, 2, 5, 255], dtype=torch.uint8)
    labels = values[torch.randint(4, size, generator=generator)]
    return labels, torch.rand(3, *size, generator=generator).softmax(0)


def disc(centre: tuple[int, int], radius: float, size: tuple[int, int] = (40, 50)) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def slow_expected_iou(labels: torch.Tensor, ids: torch.Tensor, p: torch.Tensor) -> list[float]:
    found = []
    for place, class_id in enumerate(ids.tolist()):
        inside = union = 0.0
        for row in range(labels.shape[0]):
            for column in range(labels.shape[1]):
                chance = float(p[place, row, column])
                own = int(labels[row, column]) == class_id
                inside += chance if own else 0.0
                union += 1.0 if own else chance
        found.append(inside / union if union else 0.0)
    return found


def shares(labels: torch.Tensor, ids: torch.Tensor = IDS) -> torch.Tensor:
    return (labels == ids[:, None, None]).float()


@pytest.mark.parametrize("seed", range(4))
def test_expected_iou_is_that_of_a_slow_loop(seed: int) -> None:
    labels, p = scene(seed)
    assert expected_iou(shares(labels), p).tolist() == pytest.approx(slow_expected_iou(labels, IDS, p))


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_with_sure_probabilities_it_is_the_iou_and_the_iou_is_symmetric(one: int, two: int) -> None:
    own, other = (shares(scene(seed)[0]) for seed in (one, two))
    both, either = ((own * other).sum((1, 2)).double(), own.maximum(other).sum((1, 2)).double())
    assert torch.allclose(expected_iou(own, other), torch.where(either > 0, both / either.clamp_min(1), 0))
    assert torch.equal(expected_iou(own, other), expected_iou(other, own))
    assert torch.equal(expected_iou(own, own), own.amax((1, 2)).double())


def test_shapes_that_do_not_fit_are_refused() -> None:
    labels, p = scene(0)
    with pytest.raises(UsageError, match=r"should both be \(K, h, w\)"):
        expected_iou(shares(labels), p[:2])


@pytest.mark.parametrize("at", range(8))
def test_a_thin_part_keeps_its_share_where_a_mask_is_reduced(at: int) -> None:
    labels = torch.zeros(48, 64, dtype=torch.uint8)
    labels[:, 8 + at] = 2
    ids = torch.tensor([0, 2], dtype=torch.uint8)
    reduced = class_shares(labels, ids, (6, 8))
    assert reduced.sum(0).allclose(torch.ones(6, 8)) and reduced[1].mean().item() == pytest.approx(1 / 64)
    line = (labels == 2)[None, ::8, ::8].float()
    maps = ClassMaps(ids, torch.cat([1 - line, line]))
    found = mask_features(labels, ids, maps, size=(6, 8))
    assert found.of("share")[1] == pytest.approx(1 / 64) and found.of("pieces")[1] == 1
    assert estimate_quality(found).reason(found, ("background", "cat", "dog")) != "no pixel of dog"


def features_of(mask: torch.Tensor, truth: torch.Tensor, *, network: bool = True, cams: bool = True) -> MaskFeatures:
    """Of a mask of class 2, where CAMs and network know the truth, the network has class 1 as well."""
    ids = torch.tensor([0, 2], dtype=torch.uint8)
    near = torch.where(truth, 0.8, 0.1)
    maps = ClassMaps(ids, torch.stack([1 - near, near])[:, ::2, ::2])
    logits = torch.stack([4.0 * ~truth, torch.full(truth.shape, -2.0), 4.0 * truth])
    return mask_features(2 * mask.byte(), ids, maps if cams else None, logits if network else None)


def test_features_of_a_mask() -> None:
    truth = disc((20, 25), 10)
    found = features_of(truth, truth)
    assert found.ids.tolist() == [0, 2] and found.values.shape == (2, len(FIELDS))
    assert found.of("share")[1] == pytest.approx(float(truth.float().mean()))
    assert found.of("network_overlap").tolist() == [1, 1] and found.of("pieces").tolist() == [1, 1]
    assert (found.of("network_free") < found.of("network_expected")).all()  # some of it goes to class 1
    assert found.unexpected_class == 1 and 0 < found.unexpected_share < 0.02
    two = features_of(disc((10, 10), 5) | disc((30, 40), 5), truth)
    assert two.of("pieces").tolist() == [1, 2]
    alone = features_of(truth, truth, network=False)
    assert np.isnan(alone.of("network_free")).all() and not np.isnan(alone.of("cam_expected")).any()
    assert alone.unexpected_class == 0


def test_a_tag_without_a_cam_has_an_empty_one_and_ignored_pixels_are_of_no_class() -> None:
    ids = torch.tensor([0, 1, 2], dtype=torch.uint8)
    labels = torch.zeros(4, 6, dtype=torch.uint8)
    labels[:, :3], labels[:2, 3:] = 2, 255
    cams = ClassMaps(ids[[0, 2]], torch.ones(2, 2, 3) * torch.tensor([0.5, 0.25])[:, None, None])
    found = mask_features(labels, ids, cams)
    assert found.of("cam_expected").tolist() == pytest.approx([4 / (6 + 12), 0, 4 / (12 + 4)], abs=1e-6)
    assert found.of("share").tolist() == [0.25, 0, 0.5]


@pytest.mark.parametrize(("network", "cams"), [(True, True), (True, False), (False, True)])
def test_the_more_a_mask_is_spoiled_the_less_certain_it_is(network: bool, cams: bool) -> None:
    truth = disc((20, 25), 12)
    masks = [truth, truth.roll(4, 1), truth.roll(8, 1), truth.roll(14, 1), torch.zeros_like(truth)]
    found = [estimate_quality(features_of(mask, truth, network=network, cams=cams)) for mask in masks]
    confidences = [each.confidence for each in found]
    assert confidences == sorted(confidences, reverse=True) and len(set(confidences)) == len(masks)
    assert all(0 <= each <= 1 for each in confidences)
    assert found[-1].of_classes[1] == 0 and found[-1].worst == 1
    assert all(each.confidence == pytest.approx(each.of_classes.mean()) for each in found)


def test_every_estimate_grows_with_agreement_and_falls_with_more_tags() -> None:
    for model in MODELS.values():
        agreement = [weight for name, weight in model.weights.items() if name.endswith("_expected")]
        assert agreement and all(weight > 0 for weight in agreement) and model.weights["more_tags"] < 0
        assert set(model.weights) == set(model.means)


def test_estimates_are_the_formula() -> None:
    truth = disc((20, 25), 12)
    found = features_of(truth.roll(3, 1), truth)
    model = Model(0.5, -0.25, {"cam_expected": 2.0, "share": -0.5, "more_tags": 3.0}, {})
    for place, class_id in enumerate((0, 2)):
        cam, share = float(found.of("cam_expected")[place]), float(found.of("share")[place])
        score = 0.5 - 0.25 * (class_id == 0) + 2 * math.log((cam + 0.02) / (1.02 - cam)) - 0.5 * math.log(share)
        assert class_estimates(found, model)[place] == pytest.approx(1 / (1 + math.exp(-score)))
    several = MaskFeatures(np.array([0, 1, 4, 9], dtype=np.int32), np.ones((4, len(FIELDS)), dtype=np.float32))
    assert predictor(several, "more_tags").tolist() == [2, 2, 2, 2]
    assert predictor(MaskFeatures(several.ids[:1], several.values[:1]), "more_tags").tolist() == [0]


def test_reasons_are_words() -> None:
    names, truth = ("background", "cat", "dog"), disc((20, 25), 12)
    empty, speck = torch.zeros_like(truth), disc((20, 25), 1)
    for mask, words in ((empty, "no pixel of dog"), (speck, "mask of dog nearly empty"), (truth, "")):
        found = features_of(mask, truth, cams=False)
        assert estimate_quality(found).reason(found, names) == words
    away = features_of(truth.roll(14, 1), truth)
    assert estimate_quality(away).reason(away, names).endswith(" on dog")
    seen = MaskFeatures(away.ids, away.values, 1, 0.3)
    assert estimate_quality(seen).reason(seen, names) == "network sees cat, which is not a tag"


def test_without_cams_and_network_there_is_no_estimate() -> None:
    with pytest.raises(UsageError, match="there are neither"):
        estimate_quality(mask_features(torch.zeros(3, 3, dtype=torch.uint8), torch.tensor([0, 1], dtype=torch.uint8)))


def test_an_image_without_tags_is_estimated_by_the_network_alone() -> None:
    labels, ids = torch.zeros(40, 50, dtype=torch.uint8), torch.tensor([0], dtype=torch.uint8)
    cams = ClassMaps(ids, torch.ones(1, 5, 5))
    names, seen = ("background", "cat", "dog"), disc((20, 25), 10)
    alone = mask_features(labels, ids, cams)
    assert (
        math.isnan(estimate_quality(alone).confidence)
        and estimate_quality(alone).reason(alone, names) == "no CAMs and no network"
    )
    away, dog = torch.full(seen.shape, -5.0), torch.where(seen, 9.0, -9.0)
    empty = mask_features(labels, ids, cams, torch.stack([-away, away, away]))
    missed = mask_features(labels, ids, cams, torch.stack([-dog, away - 9, dog]))
    assert estimate_quality(empty).confidence > 0.95 and estimate_quality(empty).reason(empty, names) == ""
    assert estimate_quality(missed).confidence < 0.5
    assert estimate_quality(missed).reason(missed, names) == "network sees dog, which is not a tag"


@pytest.mark.parametrize(("network", "cams"), [(True, True), (True, False), (False, True)])
def test_a_mask_that_fills_the_image_is_certain_where_nobody_sees_background(network: bool, cams: bool) -> None:
    ids, labels = torch.tensor([0, 2], dtype=torch.uint8), torch.full((40, 50), 2, dtype=torch.uint8)
    found = []
    for background in (0.005, 0.4):
        p = torch.tensor([background, 1 - background])[:, None, None].expand(2, 40, 50)
        logits = torch.stack([p[0].log(), torch.full((40, 50), -9.0), p[1].log()])
        own = mask_features(labels, ids, ClassMaps(ids, p) if cams else None, logits if network else None)
        found.append(estimate_quality(own).confidence)
    assert found[0] > 0.85 and found[1] < 0.45


def test_a_network_without_finite_numbers_is_refused() -> None:
    ids, labels = torch.tensor([0, 2], dtype=torch.uint8), torch.zeros(4, 6, dtype=torch.uint8)
    for value in (torch.nan, torch.inf):
        logits = torch.zeros(3, 4, 6)
        logits[1, 0, 0] = value
        with pytest.raises(Tag2maskError, match="not finite"):
            mask_features(labels, ids, None, logits)


def test_features_come_back_from_their_file_and_damage_is_none(tmp_path: Path) -> None:
    truth = disc((20, 25), 10)
    found, path = features_of(truth, truth, network=False), tmp_path / "a/b.npz"
    write_features(path, found, "these")
    again = read_features(path, "these")
    assert again is not None and again.unexpected_class == found.unexpected_class
    assert again.ids.tolist() == found.ids.tolist()
    np.testing.assert_array_equal(again.values, found.values)
    assert read_features(path, "others") is None and read_features(tmp_path / "none.npz", "these") is None
    write_features(path, MaskFeatures(found.ids, found.values[:, :7]), "before there was more")
    older = stored_features(path)
    assert older is not None and np.isnan(older[0].of("network_share")).all()
    assert older[0].of("cam_expected").tolist() == found.of("cam_expected").tolist()
    path.write_bytes(path.read_bytes()[:-40])
    assert read_features(path, "these") is None


@pytest.mark.parametrize(
    "change",
    [
        {"ids": np.array([0, 300], dtype=np.int32)},
        {"ids": np.array([2, 0], dtype=np.int32)},
        {"ids": np.array([0.0, 2.0])},
        {"values": np.array([["a"] * len(FIELDS)] * 2)},
        {"values": np.full((2, len(FIELDS)), np.inf, dtype=np.float32)},
        {"values": np.zeros((3, len(FIELDS)), dtype=np.float32)},
        {"unexpected": np.int32(-1)},
        {"unexpected": np.array([1, 2], dtype=np.int32)},
        {"unexpected_share": np.float32("nan")},
        {"made_by": np.float32(1)},
    ],
)
def test_features_of_another_kind_count_as_none(tmp_path: Path, change: dict[str, np.ndarray]) -> None:
    whole = {
        "ids": np.array([0, 2], dtype=np.int32),
        "values": np.zeros((2, len(FIELDS)), dtype=np.float32),
        "unexpected": np.int32(0),
        "unexpected_share": np.float32(0),
        "made_by": np.str_("these"),
    }
    np.savez(tmp_path / "whole.npz", **whole)
    assert read_features(tmp_path / "whole.npz", "these") is not None
    np.savez(tmp_path / "other.npz", **whole | change)
    assert read_features(tmp_path / "other.npz", "these") is None


def test_tables_are_sorted_and_come_back_whatever_the_names(tmp_path: Path) -> None:
    truth = disc((20, 25), 12)
    ids = ["sub/sure", 'a "worse", one', "line\nbreak", "caf\udce9"]
    masks = [truth, truth.roll(9, 1), torch.zeros_like(truth), truth.roll(5, 1)]
    tables = Tables(("background", "cat", "dog"))
    for number in (3, 1, 0, 2):  # in any order
        found = features_of(masks[number], truth)
        tables.add(ids[number], found, estimate_quality(found), number=number, decided="accepted" if number else "")
    tables.write(tmp_path)
    ranked = list(read_ranking(tmp_path))
    assert [each.image for each in ranked] == [ids[2], ids[1], ids[3], ids[0]]
    assert [each.confidence for each in ranked] == sorted(each.confidence for each in ranked)
    assert ranked[0].class_name == "dog" and ranked[0].class_confidence == 0 and ranked[0].reason == "no pixel of dog"
    rows = (tmp_path / CLASSES).read_text("utf-8", "surrogateescape").splitlines()
    assert rows[0].startswith("image,class,confidence,share,pieces,") and rows[1].startswith("sub/sure,background,0.")
    with (tmp_path / IMAGES).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [row["correction"] for row in csv.DictReader(file)] == ["accepted"] * 3 + [""]


def test_unknown_ones_come_first_and_equally_certain_ones_in_the_order_of_the_data_set(tmp_path: Path) -> None:
    truth = disc((20, 25), 12)
    found, small = features_of(truth, truth), features_of(dot := disc((20, 25), 2), dot)
    nothing = mask_features(torch.zeros(3, 3, dtype=torch.uint8), torch.tensor([0], dtype=torch.uint8))
    tables = Tables(("background", "cat", "dog"))
    for number, own in ((5, small), (2, found), (0, nothing), (4, small), (3, found), (1, found)):
        tables.add(f"={number}", own, estimate_quality(own), number=number)
    tables.write(tmp_path)
    ranked = list(read_ranking(tmp_path))
    assert [each.image for each in ranked] == ["=4", "=5", "=1", "=2", "=3", "=0"]
    assert (ranked[0].confidence, ranked[0].class_confidence, ranked[0].class_name) == (None, None, "dog")
    assert ranked[0].reason == f"mask of dog covers fewer than {FEW_CELLS} CAM cells" and ranked[0].is_to_check
    assert ranked[-1].confidence is None and ranked[-1].reason == "no CAMs and no network"
    assert not ranked[-1].by_network and ranked[0].by_network and not ranked[-1].is_to_check
    assert [each.is_small for each in ranked] == [True, True, False, False, False, False]


def test_few_cells_of_a_class_make_the_image_unknown_but_no_pixel_is_the_worst_mask() -> None:
    ids = torch.tensor([0, 1, 2], dtype=torch.uint8)
    labels = torch.zeros(40, 60, dtype=torch.uint8)
    labels[:20, :30] = 1
    for side in (0, 9, 10):  # a cell has 10 × 6 pixels, so 4 cells are 10 × 24
        labels[20:] = 0
        labels[20 : 20 + side, :24] = 2
        maps = F.one_hot(labels.long(), 3).permute(2, 0, 1)[:, ::10, ::6].float() * 0.8 + 0.1
        estimate = estimate_quality(mask_features(labels, ids, ClassMaps(ids, maps), size=(40, 60)))
        unknown = np.isnan(estimate.of_classes).tolist()
        assert unknown == [False, False, side == 9] and math.isnan(estimate.confidence) == (side == 9)
        assert (estimate.of_classes[2] == 0) == (side == 0) and (estimate.worst == 2 or side == 10)


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tag2mask confidence"):
        list(read_ranking(tmp_path))
    (tmp_path / "confidence").mkdir()
    for damage in ("image,confidence\na,none\n", f"image,confidence\n{'a' * 200_000},1\n"):
        (tmp_path / IMAGES).write_text(damage)
        with pytest.raises(UsageError, match=r"images\.csv is damaged"):
            list(read_ranking(tmp_path))


def slow_spearman(first: np.ndarray, second: np.ndarray) -> float:
    """The correlation of mean ranks, counted one by one; NaN where one of the two is constant."""
    ranks = [[np.mean(np.flatnonzero(np.sort(row) == value)) for value in row] for row in (first, second)]
    constant = any(len(set(row)) == 1 for row in (first, second))
    return float("nan") if constant else float(np.corrcoef(*ranks)[0, 1])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=30))
def test_spearman_gives_equal_values_their_mean_rank(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs, dtype=np.float64).T
    assert spearman(first, second) == pytest.approx(slow_spearman(first, second), nan_ok=True)


def test_the_interval_is_that_of_the_draws_that_rank() -> None:
    first = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1.0, 1.0])  # of some draws all are equal
    second = np.random.default_rng(3).random(10)
    chosen = np.random.default_rng(7).integers(0, 10, (1000, 10))
    found = np.array([slow_spearman(first[draw], second[draw]) for draw in chosen])
    found = found[~np.isnan(found)]
    assert 800 < len(found) < 1000
    expected = np.quantile(found, [0.025, 0.975])
    assert spearman_interval(first, second, seed=7) == pytest.approx(tuple(expected))
    assert np.isnan(spearman_interval(np.ones(10), second)).all()


def test_quality_of_a_good_a_useless_and_a_constant_ranking() -> None:
    generator = np.random.default_rng(0)
    iou = generator.random(200)
    good, useless = np.clip(iou + generator.normal(0, 0.1, 200), 0, 1), generator.random(200)
    found = ranking_quality(good, iou)
    assert found.spearman is not None and found.low is not None and found.high is not None
    assert 0.85 < found.low < found.spearman < found.high and found.worst_tenth >= 0.5
    assert found.mean_iou == pytest.approx(iou.mean()) and found.calibration_error < 0.05
    assert "rank correlation" in found.sentence()
    low, high = spearman_interval(useless, iou)
    assert low < 0 < high and high - low == pytest.approx(2 * 1.96 / np.sqrt(200), rel=0.15)
    constant = ranking_quality(np.full(200, 0.5), iou)
    assert constant.spearman is None and constant.ranks is None and "not measured" in constant.sentence()


@pytest.mark.parametrize(
    ("low", "correlation", "ranks"),
    [(0.01, 0.5, True), (0.0, 0.9, False), (0.3, 0.49, False), (-0.9, -0.7, False), (None, None, None)],
)
def test_a_ranking_is_confirmed_by_the_target_and_an_interval_above_0(
    low: float | None, correlation: float | None, ranks: bool | None
) -> None:
    found = replace(ranking_quality(np.arange(20.0), np.arange(20.0)), low=low, high=low, spearman=correlation)
    assert found.ranks is ranks and found.to_json()["ranks"] is ranks
    assert ("is unknown" in found.sentence()) == (ranks is False)


def test_a_ranking_is_measured_if_both_halves_have_images_with_an_iou() -> None:
    confidence, iou = np.append(np.arange(40.0), [np.nan] * 10), np.full(50, np.nan)
    iou[:20] = iou[40:] = 1  # the least certain half, and images of unknown confidence
    assert not covers_ranking(confidence, iou)
    iou[-20:-16] = 1
    assert not covers_ranking(confidence, iou)
    iou[20] = 1
    assert covers_ranking(confidence, iou)
    iou[5:20] = np.nan
    assert covers_ranking(confidence, iou)
    iou[0] = np.nan
    assert not covers_ranking(confidence, iou) and not covers_ranking(confidence[-3:], iou[-3:])


def test_the_shared_tenth_and_calibration_by_hand() -> None:
    iou = np.arange(30) / 30
    assert shared_tenth(iou, iou) == 1 and shared_tenth(-iou, iou) == 0
    moved = iou.copy()
    moved[0] = 1  # of the three worst, two are among the three least certain
    assert shared_tenth(moved, iou) == pytest.approx(2 / 3)
    assert shared_tenth(np.ones(30), iou) == pytest.approx(0.1)  # equal ones: as by chance, wherever they stand
    tied = np.array([0, *[0.5] * 5, *[1.0] * 24])  # the two places after the first are shared by five
    assert shared_tenth(tied, iou) == pytest.approx((1 + 2 * 2 / 5) / 3)
    found = ranking_quality(iou[:11], iou[:11])
    assert found.chance == pytest.approx(2 / 11) and "(18% by chance)" in found.sentence()
    parts = calibration(iou, iou**2, parts=3)
    assert parts == [(pytest.approx(p.mean()), pytest.approx((p**2).mean())) for p in np.split(iou, 3)]
