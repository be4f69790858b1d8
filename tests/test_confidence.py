"""Confidence without truth: the overlaps against slow loops, evidence, the estimate, the tables, how well it ranks."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from tag2mask.confidence.evidence import FIELDS, Evidence, gather
from tag2mask.confidence.evidence_files import read_evidence, write_evidence
from tag2mask.confidence.model import MODELS, Model, estimates, judge, predictor
from tag2mask.confidence.overlap import expected_iou, overlap
from tag2mask.confidence.quality import calibration, ranking_quality, shared_tenth, spearman, spearman_interval
from tag2mask.confidence.table import CLASSES, IMAGES, read_ranking, written_tables
from tag2mask.errors import UsageError
from tag2mask.refine.labels import ClassMaps

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


@pytest.mark.parametrize("seed", range(4))
def test_expected_iou_is_that_of_a_slow_loop(seed: int) -> None:
    labels, p = scene(seed)
    assert expected_iou(labels, IDS, p).tolist() == pytest.approx(slow_expected_iou(labels, IDS, p))


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_with_sure_probabilities_it_is_the_iou_and_the_iou_is_symmetric(one: int, two: int) -> None:
    (labels, _), (other, _) = scene(one), scene(two)
    sure = (other == IDS[:, None, None]).float()
    assert torch.equal(expected_iou(labels, IDS, sure), overlap(labels, other, IDS))
    assert torch.equal(overlap(labels, other, IDS), overlap(other, labels, IDS))
    present = (labels == IDS[:, None, None]).any(2).any(1).double()
    assert torch.equal(overlap(labels, labels, IDS), present)


@given(st.integers(0, 10_000))
def test_of_all_masks_the_expected_iou_is_greatest_for_the_one_that_is_meant(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth = disc((20, 25), 6 + 8 * float(torch.rand(1, generator=generator)))
    p = torch.where(truth, 0.9, 0.1)[None].expand(1, -1, -1)
    ids = torch.tensor([1], dtype=torch.uint8)
    shifts = [expected_iou(truth.roll(step, 1).byte(), ids, p).item() for step in (0, 2, 4, 8)]
    assert shifts == sorted(shifts, reverse=True) and shifts[0] > shifts[-1]
    assert expected_iou(torch.zeros_like(truth).byte(), ids, p).item() == 0


def test_shapes_that_do_not_fit_are_refused() -> None:
    labels, p = scene(0)
    with pytest.raises(UsageError, match=r"probabilities \(K, h, w\) for 3 classes"):
        expected_iou(labels, IDS, p[:2])
    with pytest.raises(UsageError, match="two label maps should be"):
        overlap(labels, labels[1:], IDS)


def evidence_of(mask: torch.Tensor, truth: torch.Tensor, *, network: bool = True, cams: bool = True) -> Evidence:
    """Of a mask of class 2, where CAMs and network know the truth, the network has class 1 as well."""
    ids = torch.tensor([0, 2], dtype=torch.uint8)
    near = torch.where(truth, 0.8, 0.1)
    maps = ClassMaps(ids, torch.stack([1 - near, near])[:, ::2, ::2])
    logits = torch.stack([4.0 * ~truth, torch.full(truth.shape, -2.0), 4.0 * truth])
    return gather(2 * mask.byte(), ids, maps if cams else None, logits if network else None)


def test_evidence_says_what_was_seen() -> None:
    truth = disc((20, 25), 10)
    found = evidence_of(truth, truth)
    assert found.ids.tolist() == [0, 2] and found.values.shape == (2, len(FIELDS))
    assert found.of("share")[1] == pytest.approx(float(truth.float().mean()))
    assert found.of("network_overlap").tolist() == [1, 1] and found.of("pieces").tolist() == [1, 1]
    assert (found.of("network_free") < found.of("network_expected")).all()  # some of it goes to class 1
    assert found.stray == 1 and 0 < found.stray_share < 0.02
    two = evidence_of(disc((10, 10), 5) | disc((30, 40), 5), truth)
    assert two.of("pieces").tolist() == [1, 2]
    alone = evidence_of(truth, truth, network=False)
    assert np.isnan(alone.of("network_free")).all() and not np.isnan(alone.of("cam_expected")).any()
    assert alone.stray == 0


def test_a_tag_without_a_cam_has_an_empty_one_and_ignored_pixels_are_of_no_class() -> None:
    ids = torch.tensor([0, 1, 2], dtype=torch.uint8)
    labels = torch.zeros(4, 6, dtype=torch.uint8)
    labels[:, :3], labels[:2, 3:] = 2, 255
    cams = ClassMaps(ids[[0, 2]], torch.ones(2, 2, 3) * torch.tensor([0.5, 0.25])[:, None, None])
    found = gather(labels, ids, cams)
    assert found.of("cam_expected").tolist() == pytest.approx([4 / (6 + 12), 0, 4 / (12 + 4)], abs=1e-6)
    assert found.of("share").tolist() == [0.25, 0, 0.5]


@pytest.mark.parametrize(("network", "cams"), [(True, True), (True, False), (False, True)])
def test_the_more_a_mask_is_spoiled_the_less_certain_it_is(network: bool, cams: bool) -> None:
    truth = disc((20, 25), 12)
    masks = [truth, truth.roll(4, 1), truth.roll(8, 1), truth.roll(14, 1), torch.zeros_like(truth)]
    found = [judge(evidence_of(mask, truth, network=network, cams=cams)) for mask in masks]
    confidences = [each.confidence for each in found]
    assert confidences == sorted(confidences, reverse=True) and len(set(confidences)) == len(masks)
    assert all(0 <= each <= 1 for each in confidences)
    assert found[-1].of_classes[1] == 0 and found[-1].worst == 1
    assert all(each.confidence == pytest.approx(each.of_classes.mean()) for each in found)


def test_every_estimate_grows_with_agreement_and_falls_with_more_tags() -> None:
    for model in MODELS.values():
        agreement = [weight for name, weight in model.weights.items() if name.endswith("_expected")]
        assert agreement and all(weight > 0 for weight in agreement) and model.weights["more_tags"] < 0
        assert set(model.weights) == set(model.usual)


def test_estimates_are_the_formula() -> None:
    truth = disc((20, 25), 12)
    found = evidence_of(truth.roll(3, 1), truth)
    model = Model(0.5, -0.25, {"cam_expected": 2.0, "share": -0.5, "more_tags": 3.0}, {})
    for place, class_id in enumerate((0, 2)):
        cam, share = float(found.of("cam_expected")[place]), float(found.of("share")[place])
        score = 0.5 - 0.25 * (class_id == 0) + 2 * math.log((cam + 0.02) / (1.02 - cam)) - 0.5 * math.log(share)
        assert estimates(found, model)[place] == pytest.approx(1 / (1 + math.exp(-score)))
    several = Evidence(np.array([0, 1, 4, 9], dtype=np.int32), np.ones((4, len(FIELDS)), dtype=np.float32))
    assert predictor(several, "more_tags").tolist() == [2, 2, 2, 2]
    assert predictor(Evidence(several.ids[:1], several.values[:1]), "more_tags").tolist() == [0]


def test_reasons_are_words() -> None:
    names, truth = ("background", "cat", "dog"), disc((20, 25), 12)
    empty, speck = torch.zeros_like(truth), disc((20, 25), 1)
    for mask, words in ((empty, "no pixel of dog"), (speck, "mask of dog nearly empty"), (truth, "")):
        found = evidence_of(mask, truth)
        assert judge(found).reason(found, names) == words
    away = evidence_of(truth.roll(14, 1), truth)
    assert judge(away).reason(away, names).endswith(" on dog")
    seen = Evidence(away.ids, away.values, 1, 0.3)
    assert judge(seen).reason(seen, names) == "network sees cat, which is no tag"


def test_without_cams_and_network_nothing_is_judged() -> None:
    with pytest.raises(UsageError, match="evidence of neither"):
        judge(gather(torch.zeros(3, 3, dtype=torch.uint8), torch.tensor([0], dtype=torch.uint8)))


def test_evidence_comes_back_from_its_file_and_damage_is_none(tmp_path: Path) -> None:
    truth = disc((20, 25), 10)
    found, path = evidence_of(truth, truth, network=False), tmp_path / "a/b.npz"
    write_evidence(path, found, "these")
    again = read_evidence(path, "these")
    assert again is not None and again.stray == found.stray
    assert again.ids.tolist() == found.ids.tolist()
    np.testing.assert_array_equal(again.values, found.values)
    assert read_evidence(path, "others") is None and read_evidence(tmp_path / "none.npz", "these") is None
    path.write_bytes(path.read_bytes()[:-40])
    assert read_evidence(path, "these") is None


def test_tables_are_sorted_and_come_back_whatever_the_names(tmp_path: Path) -> None:
    truth = disc((20, 25), 12)
    ids = ["sub/sure", 'a "worse", one', "line\nbreak", "caf\udce9"]
    masks = [truth, truth.roll(9, 1), torch.zeros_like(truth), truth.roll(5, 1)]
    with written_tables(tmp_path, ("background", "cat", "dog")) as tables:
        for name, mask in zip(ids, masks, strict=True):
            found = evidence_of(mask, truth)
            tables.add(name, found, judge(found))
    ranked = list(read_ranking(tmp_path))
    assert [each.image for each in ranked] == [ids[2], ids[1], ids[3], ids[0]]
    assert [each.confidence for each in ranked] == sorted(each.confidence for each in ranked)
    assert ranked[0].class_name == "dog" and ranked[0].class_confidence == 0 and ranked[0].reason == "no pixel of dog"
    rows = (tmp_path / CLASSES).read_text("utf-8", "surrogateescape").splitlines()
    assert rows[0].startswith("image,class,confidence,share,pieces,") and rows[1].startswith("sub/sure,background,0.")


def test_an_unfinished_table_leaves_the_old_one_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    found = evidence_of(disc((20, 25), 12), disc((20, 25), 12))
    with pytest.raises(UsageError, match="tag2mask confidence"):
        list(read_ranking(tmp_path))
    for names in (["first"], ["second", None]):
        try:
            with written_tables(tmp_path, ("background", "cat", "dog")) as tables:
                for name in names:
                    if name is None:
                        raise KeyboardInterrupt
                    tables.add(name, found, judge(found))
        except KeyboardInterrupt:
            pass
    assert [each.image for each in read_ranking(tmp_path)] == ["first"]
    assert sorted(path.name for path in (tmp_path / "confidence").iterdir()) == ["classes.csv", "images.csv"]
    (tmp_path / IMAGES).write_text("image,confidence\na,none\n")
    with pytest.raises(UsageError, match=r"images\.csv is damaged"):
        list(read_ranking(tmp_path))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=30))
def test_spearman_is_scipys_also_with_ties(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs, dtype=np.float64).T
    if len(set(first)) > 1 and len(set(second)) > 1:
        assert spearman(first, second) == pytest.approx(spearmanr(first, second)[0])
    else:
        assert np.isnan(spearman(first, second))


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
    assert constant.spearman is None and "nothing ranks" in constant.sentence()


def test_the_shared_tenth_and_calibration_by_hand() -> None:
    iou = np.arange(30) / 30
    assert shared_tenth(iou, iou) == 1 and shared_tenth(-iou, iou) == 0
    moved = iou.copy()
    moved[0] = 1  # of the three worst, two are among the three least certain
    assert shared_tenth(moved, iou) == pytest.approx(2 / 3)
    parts = calibration(iou, iou**2, parts=3)
    assert parts == [(pytest.approx(p.mean()), pytest.approx((p**2).mean())) for p in np.split(iou, 3)]
