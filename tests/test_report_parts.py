"""The parts of the report: colours, curves, figures, pictures and the ranking, each against a value known otherwise."""

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from report_run import CLUSTERS, IDS, build_run, make_cam, write_ranking
from tag2mask.core.errors import Tag2maskError
from tag2mask.data import ImageSet, palette
from tag2mask.data.cam_files import CamFile, full_resolution, write_cam
from tag2mask.evaluation import Confusion, ThresholdSweep
from tag2mask.quality.ranking import Ranking
from tag2mask.report import ReportSettings
from tag2mask.report.charts import HEIGHT, WIDTH, Chart, Line, draw, number, ticks
from tag2mask.report.figures import read_log, read_splits
from tag2mask.report.pictures import (
    activation_uri,
    allocation_uri,
    heat_colours,
    label_uri,
    outline,
    picture_size,
    shades,
)
from tag2mask.report.ranking import Selection, cam_labels, compare, open_cam, select


def decoded(uri: str) -> np.ndarray:
    """The picture of a data URI: RGBA, uint8 (h, w, 4)."""
    data = base64.b64decode(uri.split(",", 1)[1])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def test_the_heat_scale_gets_lighter_all_the_way() -> None:
    """By the luminance that CIE defines for sRGB, and from step to step by about as much to the eye (L*)."""
    colours = heat_colours()
    assert colours.shape == (256, 3) and colours.dtype == np.uint8
    encoded = colours / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    lightness = np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27)
    assert (np.diff(luminance) > 0).all()
    assert lightness[0] < 20 and lightness[-1] > 90
    tenths = np.diff(lightness[np.linspace(0, 255, 11).round().astype(int)])
    assert tenths.min() > 0.6 * tenths.mean() and tenths.max() < 1.4 * tenths.mean()


def test_classes_differ_and_shades_get_darker() -> None:
    colours = palette()[1:21].astype(float)
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 1000 * np.eye(20)
    assert distances[:8, :8].min() > 60
    assert distances.min() > 25
    for class_id in (0, 3):
        brightness = [sum(shade) for shade in shades(class_id, 4).tolist()]
        assert brightness == sorted(brightness, reverse=True)
        assert len(set(brightness)) == 4
        assert class_id == 0 or (shades(class_id, 1) == palette()[class_id]).all()


@given(st.floats(-1000, 1000), st.floats(1e-4, 1e6))
def test_ticks_cover_the_range_in_equal_steps(low: float, span: float) -> None:
    values = np.array(ticks(low, low + span))
    step = values[1] - values[0]
    assert values[0] <= low + 1e-6 * step and values[-1] >= low + span - 1e-6 * step
    assert np.allclose(np.diff(values), step, rtol=1e-3)
    assert 2 <= len(values) <= 9


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1.5e-4, "1.5e-4"), (0.25, "0.25"), (12_500, "12.5k"), (-3, "−3"), (20, "20")]
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize("count", [1, 2, 3, 50, 900])
def test_a_straight_line_stays_straight(count: int) -> None:
    """Binning and smoothing must not bend it, at the ends neither."""
    line = Line("x", "plain", [(step, 2 + 3 * step) for step in range(count)], smooth=count > 2)
    drawing = draw(Chart("title", "step", [line]))
    places = np.array(re.findall(r"([\d.]+) ([\d.]+)", drawing.lines[0].path), dtype=float)
    assert (places >= 0).all() and (places <= (WIDTH, HEIGHT)).all()
    if count > 2:
        rise = np.polyfit(places[:, 0], places[:, 1], 1)
        assert np.abs(np.polyval(rise, places[:, 0]) - places[:, 1]).max() < 0.2
    shown = json.loads(drawing.values)[0]["points"]
    assert len(shown) == min(count, 240)


def test_splits_in_the_order_of_the_method(tmp_path: Path) -> None:
    run, _ = build_run(tmp_path)
    split = read_splits(json.loads((run / "metrics.json").read_text()))[0]
    assert [result.kind for result in split.results] == ["classifier", "prototype", "pot", "argmax"]
    assert [result.difference for result in split.results] == pytest.approx([None, -0.025, 0.15, 0.16])
    assert [result.other_means for result in split.results] == [
        *("", ""),
        *("mean IoU 41.0 over classes in truth or prediction", ""),
    ]
    assert split.class_names[-1] == '<script>alert("class")</script>'
    assert "box & co" not in split.class_names  # null: it occurs nowhere
    assert split.results[0].sweep == ((0.2, 0.35), (0.3, 0.4), (0.4, 0.3))


@pytest.mark.parametrize(
    "metrics",
    [
        None,
        3,
        [],
        {"cams": []},
        {"cams": {"train": {"pot": {"miou": "high"}}}},
        {"cams": {"train": {"pot": {"miou": 7}}}},
    ],
)
def test_figures_of_another_form_are_passed_over(metrics: object) -> None:
    assert read_splits(metrics) == ()


def test_log_after_a_kill_and_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"step": 10, "loss": 1.0}\n{"step": 20, "loss": 9.0}\n{"step": 20, "loss": 0.5}\n'
        '{"step": 30, "loss": NaN}\n\n[1]\n{"step": 40, "lo'
    )
    log, notices = read_log(path)
    assert log == [{"step": 10, "loss": 1}, {"step": 20, "loss": 0.5}, {"step": 30}]
    assert len(notices) == 2 and "2 lines" in notices[0] and "1 value is" in notices[1]


def test_picture_size() -> None:
    assert picture_size((300, 400), 200) == (150, 200)
    assert picture_size((30, 40), 200) == (30, 40)  # never enlarged
    height, width = picture_size((5000, 100), 200)
    assert height <= 320 and width >= 1


def test_outline_leaves_out_ignored_borders() -> None:
    labels = np.array([[0, 0, 1, 1, 255, 2, 2]], dtype=np.uint8)
    assert outline(labels).tolist() == [[False, True, True, False, False, False, False]]


def test_masks_are_coloured_and_255_hatched() -> None:
    labels = np.zeros((20, 30), dtype=np.uint8)
    labels[:, 10:20], labels[:, 20:] = 2, 255
    picture = decoded(label_uri(labels))
    assert picture[5, 5, 3] == 0
    assert tuple(picture[5, 15, :3]) == tuple(palette()[2])
    assert tuple(picture[5, 10]) == (255, 255, 255, 235)
    assert len(np.unique(picture[:, 20:].reshape(-1, 4), axis=0)) == 2


def test_allocation_shows_each_cell_in_its_shade() -> None:
    colours = np.concatenate([shades(0, 2), shades(1, 2)])
    cells = np.array([[0, 1, 2], [3, 255, 0]], dtype=np.uint8)
    picture = decoded(allocation_uri(cells, colours, (20, 30)))
    centres = picture[5::10, 5::10]  # (2, 3, 4)
    assert centres[1, 1, 3] == 0
    for (row, column), prototype in np.ndenumerate(cells):
        if prototype != 255:
            assert (centres[row, column, :3] == colours[prototype]).all()


def test_the_strongest_class_colours_a_cam_and_its_value_is_the_opacity() -> None:
    maps = np.zeros((2, 32, 64), dtype=np.float32)
    maps[0, :, :32], maps[1, :, 32:] = 0.4, 0.9
    picture = decoded(activation_uri(maps, np.array([1, 2]))).astype(int)
    assert np.abs(picture[16, 16, :3] - palette()[1].astype(int)).max() < 25  # the picture is compressed
    assert np.abs(picture[16, 48, :3] - palette()[2].astype(int)).max() < 25
    assert 1.8 < picture[16, 48, 3] / picture[16, 16, 3] < 2.4


def test_cams_are_read_as_the_evaluation_reads_them() -> None:
    truth = np.random.default_rng(0).integers(0, 4, (80, 96)).astype(np.uint8)
    cam = make_cam("classifier", [1, 3], 0)
    sweep = ThresholdSweep(4, (0.3, 0.5))
    sweep.update(cam.ids, full_resolution(cam), truth)
    labels = cam_labels(cam, 0.5)
    assert labels is not None
    confusion = Confusion(4)
    confusion.update(labels, truth)
    assert (confusion.matrix == sweep.confusion(0.5).matrix).all()
    miou, iou = compare(labels, truth, 3)
    assert miou == pytest.approx(confusion.miou())
    assert iou[1] == pytest.approx(confusion.iou()[1])
    assert cam_labels(cam, None) is None


def test_regions_of_cams_are_the_strongest_class_one_enlarged_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = np.random.default_rng(3).integers(0, 5, (4, 6, 7)).astype(np.float16) / 4  # with ties
    background, without = (CamFile(np.array(ids), maps, (60, 70)) for ids in ([0, 2, 5, 9], [2, 5, 9, 11]))
    enlarged = []

    def enlarge(cam: CamFile) -> np.ndarray:
        enlarged.append(len(cam.ids))
        return full_resolution(cam)

    monkeypatch.setattr("tag2mask.report.ranking.full_resolution", enlarge)
    whole = full_resolution(background)
    np.testing.assert_array_equal(cam_labels(background, 0.5), background.ids[whole.argmax(axis=0)])
    above = np.where(whole.max(axis=0) > 0.5, without.ids[whole.argmax(axis=0)], 0)
    np.testing.assert_array_equal(cam_labels(without, 0.5), above)
    assert set(enlarged) == {1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": (80, 95)}, "95 × 80"),
        ({"ids": np.array([0, 9], dtype=np.int32)}, "class ids"),
        ({"allocation": np.full((5, 6), 4, dtype=np.uint8)}, "prototype"),
    ],
)
def test_a_cam_file_that_does_not_fit(tmp_path: Path, change: dict[str, object], words: str) -> None:
    cam = replace(make_cam("pot", [1], 0), **change)  # type: ignore[arg-type]
    assert CLUSTERS * 2 == 4  # prototypes are 0 to 3
    write_cam(tmp_path / "x.npz", cam)
    with pytest.raises(Tag2maskError, match=words):
        open_cam(tmp_path / "x.npz", classes=3, size=(80, 96))


def test_worst_first_and_evenly_to_the_best(tmp_path: Path) -> None:
    run, items = build_run(tmp_path)
    everything = _select(run, items)
    scores = [entry.miou for entry in everything.shown]
    assert everything.order == "truth" and None not in scores
    assert scores == sorted(scores)  # type: ignore[type-var]
    assert everything.shown[-1].item.id == "a"  # its mask is its truth
    assert scores[-1] == 1
    three = _select(run, items, 3).shown
    assert (three[0], three[-1], len(three)) == (everything.shown[0], everything.shown[-1], 3)
    assert _select(run, items, 0).shown == ()


def test_least_certain_first_without_truth(tmp_path: Path) -> None:
    run, items = build_run(tmp_path, truth=False)
    assert [each.item.id for each in _select(run, items).shown] == list(IDS)  # the order of the data set
    write_ranking(run, (IDS[4], IDS[1]))
    selection = _select(run, items)
    assert selection.order == "confidence"
    assert [each.item.id for each in selection.shown] == [IDS[4], IDS[1], IDS[0], IDS[2], IDS[3], IDS[5]]
    assert [each.ranked and each.ranked.confidence for each in selection.shown] == [0.01, 0.11, None, None, None, None]


def _select(run: Path, images: ImageSet, count: int = 24) -> Selection:
    return select(run, images, Ranking.of(run), ReportSettings(images=count), print)
