"""The confusion matrix against scikit-learn and by hand; the sweep against thresholding once for each threshold."""

from io import StringIO

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rich.console import Console
from sklearn.metrics import confusion_matrix, jaccard_score

from tag2mask.cli.console import classes_table, figures_table
from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.evaluation import Confusion, Figures, ThresholdSweep
from tag2mask.evaluation.figures import other_means

CLASSES = 4
LABELS = st.sampled_from([0, 1, 2, 3, 255])
MASKS = hnp.arrays(np.uint8, (6, 7), elements=LABELS)


@given(prediction=MASKS, truth=MASKS)
def test_matrix_and_iou_are_scikit_learns(prediction: np.ndarray, truth: np.ndarray) -> None:
    ours = Confusion(CLASSES)
    ours.update(prediction, truth)
    counted = truth != 255
    labels = [0, 1, 2, 3, 255]
    if not counted.any():
        assert ours.matrix.sum() == 0 and np.isnan(ours.miou()) and np.isnan(ours.pixel_accuracy())
        return
    theirs = confusion_matrix(truth[counted], prediction[counted], labels=labels)
    np.testing.assert_array_equal(ours.matrix, theirs[:CLASSES, :CLASSES])
    np.testing.assert_array_equal(ours.ignored_predictions, theirs[:CLASSES, CLASSES])
    expected = jaccard_score(truth[counted], prediction[counted], labels=labels, average=None, zero_division=0)
    met = np.isin(range(CLASSES), [truth[counted], prediction[counted]])
    np.testing.assert_allclose(ours.iou()[met], expected[:CLASSES][met])
    assert np.isnan(ours.iou()[~met]).all()
    assert ours.pixel_accuracy() == pytest.approx((truth == prediction)[counted].mean())


@given(prediction=MASKS, truth=MASKS)
def test_iou_and_its_two_errors_sum_to_one(prediction: np.ndarray, truth: np.ndarray) -> None:
    confusion = Confusion(CLASSES)
    confusion.update(prediction, truth)
    total = confusion.iou() + confusion.over_activation() + confusion.under_activation()
    np.testing.assert_allclose(total[~np.isnan(total)], 1.0)
    np.testing.assert_array_equal(np.isnan(total), np.isnan(confusion.iou()))


@given(masks=hnp.arrays(np.uint8, (6, 4, 5), elements=LABELS), cut=st.integers(0, 3))
def test_merging_is_counting_together(masks: np.ndarray, cut: int) -> None:
    together, first, second = Confusion(CLASSES), Confusion(CLASSES), Confusion(CLASSES)
    for index in range(3):
        together.update(masks[2 * index], masks[2 * index + 1])
        (first if index < cut else second).update(masks[2 * index], masks[2 * index + 1])
    first.merge(second)
    np.testing.assert_array_equal(first.matrix, together.matrix)
    np.testing.assert_array_equal(first.ignored_predictions, together.ignored_predictions)


def test_figures_by_hand() -> None:
    truth = np.array([[0, 0, 1, 1, 255]], dtype=np.uint8)
    prediction = np.array([[0, 2, 1, 255, 1]], dtype=np.uint8)
    confusion = Confusion(4)
    confusion.update(prediction, truth)
    np.testing.assert_allclose(confusion.iou(), [0.5, 0.5, 0.0, np.nan])
    np.testing.assert_allclose(confusion.over_activation(), [0.0, 0.0, 1.0, np.nan])
    np.testing.assert_allclose(confusion.under_activation(), [0.5, 0.5, 0.0, np.nan])
    assert confusion.pixel_accuracy() == 0.5
    assert confusion.miou() == 0.5  # class 2 is only in the prediction: it is not in the mean
    assert confusion.miou([1]) == 0.5
    assert np.isnan(confusion.miou([2, 3]))


def slow_means(prediction: np.ndarray, truth: np.ndarray, classes: int) -> list[float]:
    """The mean IoU of CLIP-ES, of IRN, SIPE and POT, and of HSC_WSSS, class by class."""
    pairs = [(p, t) for p, t in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True) if t != 255]
    in_truth, in_either, everything = [], [], []
    for number in range(classes):
        hits = sum(p == number and t == number for p, t in pairs)
        true, predicted = sum(t == number for _, t in pairs), sum(p == number for p, _ in pairs)
        union = true + predicted - hits
        in_truth += [hits / union] if true else []
        in_either += [hits / union] if union else []
        everything.append(hits / (union + 1e-10))
    return [float(np.mean(values)) for values in (in_truth, in_either, everything)]


def test_the_means_of_three_rules() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, (30, 40), dtype=np.uint8)  # 4 of 21 classes occur in the truth, 6 in the prediction
    prediction = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, 6, truth.shape)).astype(np.uint8)
    truth[0] = 255
    confusion = Confusion(21)
    confusion.update(prediction, truth)
    figures = Figures.of(confusion, [f"class {number}" for number in range(1, 21)], images=1)
    found = [figures.miou, figures.miou_present, figures.miou_all]
    np.testing.assert_allclose(found, slow_means(prediction, truth, 21), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found, [0.642, 0.428, 0.122], atol=5e-4)
    assert [figures.to_json()[name] for name in ("miou", "miou_present", "miou_all")] == found
    note = "mean IoU 42.8 over classes in truth or prediction, 12.2 over all classes"
    assert other_means(figures.to_json()) == note
    console = Console(width=120, file=StringIO())
    console.print(classes_table(figures), figures_table({"cams": {"val": {"pot": figures.to_json()}}}))
    text = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "mean IoU │ 64.2" in text and f"images: 1; {note}" in text and f"val, POT CAM: {note}" in text
    chosen = Figures.of(confusion, [f"class {number}" for number in range(1, 21)], images=1, ids=[0, 1, 5, 9])
    sums = [np.nansum(confusion.iou()[[0, 1, 5, 9]]) / count for count in (2, 3, 4)]
    np.testing.assert_allclose([chosen.miou, chosen.miou_present, chosen.miou_all], sums)


@given(prediction=hnp.arrays(np.uint8, (6, 7), elements=st.integers(0, 5)), truth=MASKS)
def test_means_against_the_slow_ones(prediction: np.ndarray, truth: np.ndarray) -> None:
    assume((truth != 255).any())
    confusion = Confusion(7)
    confusion.update(prediction, truth)
    found = [confusion.miou(), confusion.miou(rule="present"), confusion.miou(rule="all")]
    np.testing.assert_allclose(found, slow_means(prediction, truth, 7), rtol=0, atol=1e-9)


def test_counts_do_not_overflow_32_bits() -> None:
    confusion = Confusion(2)
    confusion.matrix[0, 0] = 2**33
    confusion.matrix[1, 1] = 2**33
    confusion.update(np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8))
    assert confusion.matrix[1, 0] == 4 and confusion.matrix[0, 0] == 2**33
    assert confusion.iou()[0] == 2**33 / (2**33 + 4)
    confusion.merge(confusion)
    assert confusion.matrix[1, 1] == 2**34


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (np.zeros((2, 2), np.int64), np.zeros((2, 2), np.uint8), "`prediction` should be uint8"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), "same shape"),
        (np.full((2, 2), 4, np.uint8), np.zeros((2, 2), np.uint8), "prediction has values that are not classes: 4"),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), 200, np.uint8), "truth has values that are not classes: 200"),
    ],
)
def test_wrong_arrays_are_refused_and_not_counted(prediction: np.ndarray, truth: np.ndarray, message: str) -> None:
    confusion = Confusion(CLASSES)
    with pytest.raises(Tag2maskError, match=message):
        confusion.update(prediction, truth)
    assert confusion.matrix.sum() == 0


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(UsageError, match="between 1 and 255"):
        Confusion(256)
    with pytest.raises(UsageError, match="between 0 and 3; got 4, 9"):
        Confusion(4).miou([0, 9, 4])
    with pytest.raises(UsageError, match="cannot merge counts of 4 classes"):
        Confusion(4).merge(Confusion(5))
    for thresholds in ([], [0.2, 0.1], [0.1, 0.1], [-0.1], [0.5, 1.5], [float("nan")]):
        with pytest.raises(UsageError, match="ascending numbers"):
            ThresholdSweep(4, thresholds)
    sweep = ThresholdSweep(4, [0.1])
    truth = np.zeros((2, 2), np.uint8)
    for ids in ([0, 1], [4], [1, 1]):
        with pytest.raises(UsageError, match="without background"):
            sweep.update(np.array(ids), np.zeros((len(ids), 2, 2), np.float32), truth)
    with pytest.raises(UsageError, match=r"should be \(K, H, W\)"):
        sweep.update(np.array([1]), np.zeros((1, 2, 3), np.float32), truth)
    with pytest.raises(UsageError, match="not one of the thresholds of this sweep"):
        sweep.confusion(0.3)
    with pytest.raises(UsageError, match="can be merged only"):
        sweep.merge(ThresholdSweep(4, [0.2]))


THRESHOLDS = (0.0, 0.25, 0.3, 0.5, 0.75, 1.0)


@given(data=st.data())
def test_sweep_is_thresholding_separately(data: st.DataObject) -> None:
    ids = np.array(sorted(data.draw(st.sets(st.integers(1, CLASSES - 1)))), dtype=np.int32)
    # values on and beside the thresholds, so that ties between classes and with thresholds happen
    values = st.sampled_from([0.0, 0.25, 0.3, float(np.nextafter(np.float32(0.3), np.float32(1))), 0.5, 0.6, 1.0])
    cams = data.draw(hnp.arrays(np.float32, (len(ids), 5, 6), elements=values.map(np.float32).map(float)))
    truth = data.draw(hnp.arrays(np.uint8, (5, 6), elements=LABELS))
    sweep = ThresholdSweep(CLASSES, THRESHOLDS)
    sweep.update(ids, cams, truth)
    for threshold in THRESHOLDS:
        maps = np.concatenate([np.full((1, 5, 6), threshold, np.float32), cams])  # background first: it wins ties
        separately = Confusion(CLASSES)
        separately.update(np.array([0, *ids], np.uint8)[maps.argmax(axis=0)], truth)
        np.testing.assert_array_equal(sweep.confusion(threshold).matrix, separately.matrix)


def test_sweep_merges_and_finds_the_best_threshold() -> None:
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 1]], dtype=np.uint8)
    cams = np.array([[[0.1, 0.4, 0.5, 0.9]] * 2], dtype=np.float32)
    sweep, other = ThresholdSweep(2), ThresholdSweep(2)
    sweep.update(np.array([1]), cams, truth)
    other.update(np.array([], dtype=np.int32), np.zeros((0, 2, 4), np.float32), truth * 0)
    sweep.merge(other)
    threshold, confusion = sweep.best()
    assert threshold == 0.4  # 0.45 is as good: the smaller one of equals
    assert confusion.miou() == 1.0 and confusion.matrix.sum() == 16
    assert sweep.miou()[0.95] == pytest.approx((12 / 16 + 0) / 2)
    assert len(sweep.thresholds) == 19 and sweep.thresholds[0] == 0.05 and sweep.thresholds[-1] == 0.95


def test_figures_in_json_and_as_a_table() -> None:
    confusion = Confusion(4)
    confusion.update(np.array([[0, 2, 1, 1]], np.uint8), np.array([[0, 0, 1, 255]], np.uint8))
    figures = Figures.of(confusion, ["cat", "dog", "owl"], images=1, ids=[0, 1])
    json = figures.to_json()
    assert json["miou"] == 0.75 and json["images"] == 1 and json["chosen"] == ["background", "cat"]
    assert json["iou"] == {"background": 0.5, "cat": 1.0, "dog": 0.0, "owl": None}
    assert json["over_activation"]["dog"] == 1.0 and json["under_activation"]["background"] == 0.5
    assert json["threshold"] is None and json["sweep"] is None
    console = Console(width=100, file=StringIO())
    console.print(classes_table(figures, "val"))
    text = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "background" in text and "75.0" in text and "–" in text and "mean over 2 of 4 classes" in text
    sweep = ThresholdSweep(2, [0.1, 0.35])
    sweep.update(np.array([1]), np.full((1, 1, 1), 0.3, np.float32), np.ones((1, 1), np.uint8))
    json = Figures.of(sweep, ["cat"], images=1).to_json()
    assert json["threshold"] == 0.1 and json["sweep"] == {"0.1": 1.0, "0.35": 0.0}
