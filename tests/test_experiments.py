"""The experiment runner: error bars by hand, counts against the confusion matrix, wrong tags, and the whole command."""

import ast
import csv
import json
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from tag2mask.core.errors import UsageError
from tag2mask.core.files import write_text
from tag2mask.data import DataSettings
from tag2mask.data.cam_files import CamFile, read_cam, write_cam
from tag2mask.data.validation.check import check
from tag2mask.evaluation import Confusion
from tag2mask.pot import PotSettings
from tag2mask.quality.estimator import Model, class_estimates
from tag2mask.quality.features import FIELDS, MaskFeatures, stored_features, write_features

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

import compare
import confidence
import defects
import error_bars
import maps
import method_table
import methods
import picture
import proposals
import wrong_tags

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("experiments/*.py")])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_names_that_scripts_import_from_tag2mask_exist(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tag2mask":
            module = import_module(node.module)
            assert [each.name for each in node.names if not hasattr(module, each.name)] == []


def random_counts(images: int, classes: int, seed: int) -> np.ndarray:
    """Counts whose intersections are possible."""
    generator = np.random.default_rng(seed)
    truth, predicted = generator.integers(1, 100, (2, images, classes))
    hits = (np.minimum(truth, predicted) * generator.random((images, classes))).astype(np.int64)
    return np.stack([hits, truth, predicted], axis=2)


def test_the_figure_is_the_miou_and_the_interval_covers_it() -> None:
    counts = [random_counts(200, 4, seed) for seed in (0, 1)]
    found = error_bars.estimate(counts, [0, 2])
    by_hand = []
    for own in counts:
        hits, truth, predicted = own.sum(0)[[0, 2]].T
        by_hand.append(100 * np.mean(hits / (truth + predicted - hits)))
    assert found.seeds == pytest.approx(by_hand) and found.mean == pytest.approx(np.mean(by_hand))
    assert found.low < found.mean < found.high
    assert found.spread == pytest.approx(np.std(by_hand, ddof=1))


def test_classes_without_truth_are_left_out() -> None:
    counts = random_counts(50, 3, 2)
    counts[:, 1] = 0
    assert error_bars.estimate([counts], [0, 1, 2]).mean == pytest.approx(error_bars.estimate([counts], [0, 2]).mean)


def test_the_interval_is_as_wide_as_theory_says() -> None:
    # One class, images that are right or wrong as a whole: the share of right ones has a binomial spread.
    generator = np.random.default_rng(0)
    right = generator.random(400) < 0.5
    counts = np.stack([10 * right, np.full(400, 10), 10 * right], axis=1)[:, None]  # IoU = share of right ones
    found = error_bars.estimate([counts], [0])
    assert found.high - found.low == pytest.approx(2 * 1.96 * 100 * np.sqrt(0.25 / 400), rel=0.1)


def test_paired_differences_are_narrower_than_figures_and_zero_for_equals() -> None:
    first = random_counts(100, 3, 0)
    better = first.copy()
    better[:, :, 0] = np.minimum(better[:, :, 0] + 2, better[:, :, 1:].min(2))
    same = error_bars.paired([first], [first], [0, 1, 2])
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    gain, plain = error_bars.paired([better], [first], [0, 1, 2]), error_bars.estimate([first], [0, 1, 2])
    assert 0 < gain.low <= gain.mean <= gain.high
    assert gain.high - gain.low < (plain.high - plain.low) / 3


def kept(ids: list[int], grid: tuple[int, int], seed: int) -> maps.ImageMaps:
    """The maps of one image."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, 4, (grid[0] * 16, grid[1] * 16), generator=generator)
    truth[0, :8] = 255
    cams = torch.rand(1, len(ids), *grid, generator=generator)
    return maps.ImageMaps(
        f"{seed}", torch.tensor(ids, dtype=torch.int64), torch.randn(1, 8, *grid, generator=generator), cams,
        torch.rand(3, generator=generator), truth,
    )  # fmt: skip


def test_counts_of_single_images_sum_to_the_confusion_matrix() -> None:
    images = [kept([1, 3], (4, 5), 0), kept([2], (4, 5), 1), kept([1, 2, 3], (3, 6), 2), kept([], (4, 5), 3)]
    for method in (compare.classifier(0.4), compare.pot("POT", num_prototypes=2)):
        counts, _ = compare.count(method, images, 3)
        alone = [compare.count(method, [image], 3)[0] for image in images]
        assert np.array_equal(counts, np.concatenate(alone))
        assert not counts[1, [1, 3], 2].any() and not counts[3, 1:, 2].any()  # absent classes are never predicted
    # The classifier's CAM by hand.
    image = images[0]
    full = torch.nn.functional.interpolate(image.cams, size=image.truth.shape, mode="bilinear")[0]
    best, winner = full.max(0)
    prediction = torch.where(best > 0.4, image.ids[winner], 0)
    confusion = Confusion(4)
    confusion.update(prediction.numpy().astype(np.uint8), image.truth.numpy().astype(np.uint8))
    counts = compare.count(compare.classifier(0.4), [image], 3)[0][0]
    assert error_bars.miou(counts.astype(float), [0, 1, 2, 3]) == pytest.approx(100 * confusion.miou())


def test_the_methods_of_a_search_have_names_of_their_own() -> None:
    names = [(axis, method.name) for axis, method in methods.search(PotSettings())]
    assert len(set(names)) == len(names) == 102


def test_wrong_tags_are_as_many_as_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, out = tmp_path / "tags.csv", tmp_path / "wrong.csv"
    names = ["cat", "cow", "dog", "sofa"]
    true = {f"{i}.jpg": {names[i % 4], names[(i // 4) % 4]} for i in range(100)}
    table.write_text("image,tags\n" + "".join(f"{image},{';'.join(sorted(tags))}\n" for image, tags in true.items()))
    monkeypatch.setattr(sys, "argv", ["wrong_tags.py", str(table), str(out), "--drop", "0.1", "--add", "0.2"])
    wrong_tags.main()
    total = sum(map(len, true.values()))
    rows = list(csv.DictReader(out.open(newline="")))
    new = {row["image"]: set(filter(None, row["tags"].split(";"))) for row in rows}
    assert sum(len(true[image] - new[image]) for image in true) == round(0.1 * total)
    assert sum(len(new[image] - true[image]) for image in true) == round(0.2 * total)
    for row in rows:
        image = row["image"]
        marks = {f"-{tag}" for tag in true[image] - new[image]} | {f"+{tag}" for tag in new[image] - true[image]}
        assert set(filter(None, row["wrong"].split(";"))) == marks


@pytest.mark.data
def test_the_table_by_one_command(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tag2mask.data import open_images
    from tag2mask.networks import NetworkSettings, build_network, save_network

    root = tmp_path / "voc"
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    source = real_data / "data/voc-animals"
    for folder in ("JPEGImages", "SegmentationClass"):
        (root / folder).symlink_to(source / folder)
    for split in ("train", "val"):
        names = (source / f"ImageSets/Segmentation/{split}.txt").read_text().split()[:4]
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
    classes = open_images(DataSettings(kind="voc", root=root, tags=source / "tags.csv", split="train")).classes
    settings = NetworkSettings(backbone="resnet18", weights="none")
    runs = [tmp_path / f"run-{seed}" for seed in (0, 1)]
    config = {
        "data": {"kind": "voc", "root": str(root), "tags": str(source / "tags.csv"), "split": "train"},
        "network": {"backbone": "resnet18", "weights": "none"},
        "cams": {"scales": [0.5]},
        "evaluate": {"classes": ["background", "cat", "dog"]},
    }
    for seed, folder in enumerate(runs):
        save_network(folder / "train/network.safetensors", build_network(settings, classes, seed=seed))
        write_text(folder / "config.yaml", json.dumps(config))
    both = ",".join(map(str, runs))
    words = ["table", f"animals:train={both}+{both}", f"animals:val={both}"]
    words += ["--maps", str(tmp_path / "maps"), "--out", str(tmp_path / "table"), "--final-only"]
    method_table.main(words)
    result = json.loads((tmp_path / "table.json").read_text())
    assert set(result) == {"minutes", "animals train", "animals val"}
    for split, own in (("train", 1), ("val", 0)):
        values = result[f"animals {split}"]
        assert [len(found["seeds"]) for found in values.values()] == [2] * (3 + 2 * own)
        gain = values["single prototype"]["POT minus this"]["mean"]
        assert gain == pytest.approx(values["POT"]["mean"] - values["single prototype"]["mean"], abs=0.02)
    # Maps are kept: nothing goes through a network again, and another network's are refused.
    for folder in runs:
        kept_there = list((tmp_path / "maps/animals" / folder.name).rglob("*.npz"))
        assert len(kept_there) == 8
    before = (tmp_path / "table.md").read_text()
    monkeypatch.delattr(maps, "image_maps")
    method_table.main(words)
    assert (tmp_path / "table.md").read_text() == before
    save_network(runs[0] / "train/network.safetensors", build_network(settings, classes, seed=7))
    with pytest.raises(SystemExit, match="maps of another network"):
        method_table.main(words)
    monkeypatch.undo()
    # The search: the loss of each setting against the data set's best.
    words = ["search", f"animals:train={runs[1]}", f"animals:val:train={runs[1]}", "--axes", "classifier"]
    method_table.main([*words, "--maps", str(tmp_path / "maps"), "--out", str(tmp_path / "search")])
    found = json.loads((tmp_path / "search.json").read_text())["classifier"]
    rows = [line.split("|")[2:-1] for line in (tmp_path / "search.md").read_text().splitlines()[2:]]
    best = {
        name: max(values[name] for values in found.values()) for name in ("animals train", "animals val without train")
    }
    for name, first, second, loss in rows:
        values = found[name.strip()]
        assert (float(first), float(second)) == tuple(round(value, 1) for value in values.values())
        assert float(loss) == pytest.approx(max(best[key] - value for key, value in values.items()), abs=0.051)


def test_the_fit_of_confidence_finds_the_model_that_made_the_truth() -> None:
    generator = np.random.default_rng(0)
    made = Model(0.5, -0.7, {"cam_expected": 1.2, "share": -0.4, "more_tags": -0.6}, {})
    items = []
    for _ in range(600):
        ids = np.array([0, *range(1, generator.integers(2, 5))], dtype=np.int32)
        evidence = MaskFeatures(ids, generator.uniform(0.02, 0.98, (len(ids), len(FIELDS))).astype(np.float32))
        evidence = without(evidence, "cells")  # no mask is too small
        iou = class_estimates(evidence, made)
        items.append(confidence.MeasuredImage(evidence, iou, float(iou.mean())))
    found = confidence.fit(items, list(made.weights))
    assert found.bias == pytest.approx(0.5, abs=0.05) and found.background == pytest.approx(-0.7, abs=0.02)
    assert found.weights == pytest.approx(made.weights, abs=0.05)
    assert found.means["cam_expected"] == pytest.approx(0, abs=0.1)

    known = [replace(each, evidence=without(each.evidence, "network_expected")) for each in items]
    with pytest.raises(UsageError, match="nothing to fit on"):
        confidence.fit(known, ["network_expected"])
    assert list(confidence.fit_all([known])) == [("cam",)]
    for each in items:
        each.evidence.values[:, FIELDS.index("cam_overlap")] = 0.5
    constant = confidence.fit(items, ["cam_expected", "cam_overlap"])
    assert constant.weights["cam_overlap"] == 0 and constant.weights["cam_expected"] > 1


def test_a_run_is_measured_by_models_of_the_others_without_images_of_small_masks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Confidence orders run a as the truth does, and run b in reverse, so a model of b reverses a."""
    generator, sets = np.random.default_rng(0), {}
    for place, sign in (("a:train", 1), ("b:train", -1)):
        sets[place] = []
        for number in range(60):
            values = generator.uniform(0.1, 0.9, (2, len(FIELDS))).astype(np.float32)
            values[:, FIELDS.index("cells")] = 3 if number < 15 else 30
            values[:, FIELDS.index("network_expected")] = np.nan
            cam = values[:, FIELDS.index("cam_expected")] = generator.uniform(0.1, 0.9)
            values[:, FIELDS.index("share")] = 0.5
            iou = np.full(2, 0.5 + sign * (cam - 0.5))
            evidence = MaskFeatures(np.array([0, 1], dtype=np.int32), values)
            sets[place].append(confidence.MeasuredImage(evidence, iou, float(iou.mean())))
    confidence.across(sets)
    said = capsys.readouterr().out
    assert "a:train: 15 images with 0 to 4 cells, Spearman 1.00" in said
    assert "b:train: 45 images with 16 to inf cells, Spearman -1.00" in said and "network_expected" not in said
    assert "MODELS: a:train, 45 images, Spearman 1.00" in said
    assert "cam_expected + more_tags: a:train, 45 images, Spearman -1.00" in said


def without(evidence: MaskFeatures, field: str) -> MaskFeatures:
    values = evidence.values.copy()
    values[:, FIELDS.index(field)] = np.nan
    return MaskFeatures(evidence.ids, values)


def test_confidence_is_fitted_on_evidence_of_the_run_alone(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(copytree(done, tmp_path / "out"))
    place = f"{out}:train"
    assert len(confidence.measured_images(place)) == 10
    monkeypatch.setattr(sys, "argv", ["confidence.py", "fit", place])
    confidence.main()
    said = capsys.readouterr()
    assert list(json.loads(said.out)) == ["cam"] and "cam + network left out" in said.err  # and no measurement
    path = next((out / "confidence/features").rglob("*.npz"))
    stored = stored_features(path)
    assert stored is not None
    write_features(path, stored[0], json.dumps(["others"]))
    with pytest.raises(UsageError, match="features of other masks"):
        confidence.measured_images(place)
    for path in (out / "confidence/features").rglob("*.npz"):
        write_features(path, stored[0], json.dumps(["others"]))
    with pytest.raises(UsageError, match="features of other masks"):
        confidence.measured_images(place)
    with pytest.raises(SystemExit) as stopped:
        confidence.main()
    assert stopped.value.code == 2


def test_plates_have_one_defect_each_where_their_mask_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, *more in (("several",), ("again",), ("one", "--one-class")):
        monkeypatch.setattr(
            sys, "argv", ["defects.py", str(tmp_path / name), "--good", "3", "--defects", "2", "--size", "96", *more]
        )
        defects.main()
    files = sorted(path.relative_to(tmp_path / "several") for path in (tmp_path / "several").rglob("*.*"))
    assert len(files) == 3 + 4 * 2 * 2
    for file in files:
        content = (tmp_path / "several" / file).read_bytes()
        assert content == (tmp_path / "again" / file).read_bytes()
        folder = "good" if file.parent.name == "good" else "defect"
        assert content == (tmp_path / "one" / folder / file.name).read_bytes()
    for root, classes in (("several", ("chip", "pit", "scratch", "stain")), ("one", ("defect",))):
        report = check(DataSettings(root=tmp_path / root, negatives="good", mask_values="255=tag"))
        assert report.classes == classes and report.untagged == 3 and report.masks == 8 and report.sound
    for kind, defect in defects.DEFECTS.items():
        shares, contrasts = [], []
        for index in range(20):
            with_it, inside = defects.draw_plate(np.random.default_rng(index), 128, defect)
            shares.append(inside.mean())
            ring = np.asarray(Image.fromarray(inside).filter(ImageFilter.MaxFilter(9))) & ~inside
            contrasts.append(abs(with_it[inside].mean() - with_it[ring].mean()))
        assert min(shares) > 0 and max(shares) < (0.08 if kind == "stain" else 0.02)
        assert np.mean(np.array(contrasts) > 10) >= 0.8, kind


def test_the_picture_of_masks_shows_each_image(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = sorted(path.stem for path in (done / "masks/train").glob("*.png"))
    tagged = [f"train/{name}" for name in ids if len(read_cam(done / f"cams/pot/train/{name}.npz").ids) == 2][:3]
    monkeypatch.setattr(sys, "argv", ["picture.py", str(done), str(tmp_path / "out.png"), "--masks", *tagged])
    picture.main()
    width, height = Image.open(tmp_path / "out.png").size
    assert width == 180 * len(tagged) and height == 720 and len(tagged) >= 1


def test_a_vote_is_the_mean_over_a_proposal_and_the_greater_margin_wins() -> None:
    generator = np.random.default_rng(0)
    posterior = generator.dirichlet(np.ones(3), (12, 16)).transpose(2, 0, 1).astype(np.float32)
    several = [proposals.numbered(generator.integers(3, 9, (12, 16))) for _ in range(2)]
    votes, margins = proposals.voted(posterior, several)
    for row, column in np.ndindex(12, 16):
        best = (-1.0, np.zeros(3))
        for segments in several:
            mean = posterior[:, segments == segments[row, column]].mean(1)
            second, first = np.sort(mean)[-2:]
            best = max(best, (float(first - second), mean), key=lambda each: each[0])
        assert margins[row, column] == pytest.approx(best[0], abs=1e-5)
        assert votes[:, row, column] == pytest.approx(best[1], abs=1e-5)


def test_a_proposal_takes_its_class_by_vote_and_abstains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Four blocks of 8 × 8 pixels; an image of one colour, and a CRF without iterations, which leaves the CAMs.
    blocks = np.kron(np.arange(4).reshape(2, 2), np.ones((8, 8), np.intp))
    monkeypatch.setattr(proposals, "superpixels", lambda kind, pixels: [blocks] * 3)
    monkeypatch.setattr(proposals, "dense_crf", lambda image, given, settings, kernels: given)
    foreground = np.zeros((16, 16))
    foreground[:8, :8], foreground[:2, :8] = 0.9, 0.2  # mean 0.725, margin 0.45
    foreground[:8, 8:], foreground[0, 8:] = 0.4, 0.9  # mean 0.4625, margin 0.075
    cams = np.stack([1 - foreground, foreground]).astype(np.float16)
    write_cam(tmp_path / "a.npz", CamFile(np.array([0, 2], np.int32), cams, (16, 16)))
    Image.new("RGB", (16, 16), "grey").save(tmp_path / "a.png")
    truth = np.zeros((16, 16), np.uint8)
    truth[:8, :8], truth[:8, 8:12] = 2, 255
    trial = proposals.Trial(tmp_path / "a.png", tmp_path / "a.npz", truth, ["blocks"])
    plain = np.where(foreground > 0.5, 2, 0)
    assert np.array_equal(trial.labels[proposals.CRF], plain)
    for margin, labels in ((0.0, truth * (truth != 255)), (0.1, np.where(blocks == 0, 2, plain))):
        assert np.array_equal(trial.labels[proposals.Method("vote of CAMs", "blocks", "fine", margin)], labels)
    assert np.array_equal(trial.labels[proposals.Method("best label", "blocks", "fine")], truth * (truth != 255))
    assert trial.changes["blocks", "fine"] == (4, 16 + 4, 0, 0)
    assert (trial.known.sum(), trial.wrong.sum()) == (256 - 32, 16 + 4)
