"""A network with a frozen backbone: its classifier of cells, its features on disk, and the stages on top."""

from dataclasses import replace
from pathlib import Path
from shutil import copytree, rmtree

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

from run_tiny import BACKBONE, Capture, run
from tag2mask.cli import main
from tag2mask.core.errors import UsageError
from tag2mask.data.cam_files import full_resolution, read_cam
from tag2mask.data.images import read_mask
from tag2mask.networks import NetworkSettings, PotNetwork, build_network, load_network, save_network
from tag2mask.networks.cell_classifier import CellClassifier, image_logits, local_means
from tag2mask.pot import PotSettings, normalised_cams
from tag2mask.training.frozen import FeatureSet, assignments, known_background, train_classifier
from tag2mask.training.settings import TrainSettings

TRAIN = TrainSettings(steps=120, batch_size=8, learning_rate=1e-2, consistency_weight=1.0, consistency_start=0.5)
POT = PotSettings(affinity=None, foreground_threshold=0.7, background_threshold=0.1)
CHANNELS = 12


def frozen(pretrained: str, classes: int = 2) -> PotNetwork:
    names = tuple(f"class {number}" for number in range(classes))
    return build_network(NetworkSettings(backbone=pretrained, freeze=True), names, seed=0).eval()


def objects(seed: int = 0, images: int = 30) -> tuple[list[torch.Tensor], np.ndarray, list[torch.Tensor]]:
    """Features (D, 6, 7) with noise, tags, and the class id of each cell: an object fills two to six cells."""
    generator = torch.Generator().manual_seed(seed)
    looks = F.normalize(torch.randn(4, CHANNELS, generator=generator), dim=1)  # two backgrounds, two classes
    features, tags, truth = [], np.zeros((images, 2), dtype=bool), []
    for number in range(images):
        labels = torch.zeros(6, 7, dtype=torch.int64)
        kind = number % 3  # 0: none of the classes
        if kind:
            tags[number, kind - 1] = True
            row, column = int(torch.randint(5, (), generator=generator)), int(torch.randint(4, (), generator=generator))
            labels[row : row + 1 + number % 2, column : column + 3] = kind
        place = torch.where(labels == 0, torch.full_like(labels, number % 2), labels + 1)
        cells = looks[place] + 0.15 * torch.randn(6, 7, CHANNELS, generator=generator)
        features.append(F.normalize(cells, dim=2).permute(2, 0, 1).half())
        truth.append(labels)
    return features, tags, truth


def with_channels(pretrained: str) -> PotNetwork:
    network = frozen(pretrained)
    network.classifier = CellClassifier(CHANNELS, 2)
    return network


def test_the_logit_of_an_image_is_the_log_of_the_mean_odds_of_its_cells() -> None:
    cells, inside = (
        torch.randn(3, 5, 2, dtype=torch.float64),
        torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [1, 0, 0, 0, 0]]),
    )
    pooled = image_logits(cells, inside.bool())
    for image in range(3):
        for number in range(2):
            odds = [float(cells[image, cell, number].exp()) for cell in range(5) if inside[image, cell]]
            assert float(pooled[image, number]) == pytest.approx(np.log(np.mean(odds)), abs=1e-12)
    torch.testing.assert_close(image_logits(cells), image_logits(cells, torch.ones(3, 5, dtype=torch.bool)))


def test_cells_of_small_objects_are_found_by_tags_alone(pretrained: str) -> None:
    features, tags, truth = objects()
    network = with_channels(pretrained)
    steps: list[int] = []
    train_classifier(
        network, FeatureSet(features.__getitem__, tags), TRAIN, POT, seed=0, on_step=lambda step, _: steps.append(step)
    )
    assert steps == list(range(1, 121))
    right, total = 0, 0
    for joint, labels, own in zip(features, truth, tags, strict=True):
        cams = network.classified(joint[None].float()).cams[0]
        found = (cams > 0.5) & torch.from_numpy(own)[:, None, None]
        expected = torch.stack([labels == 1, labels == 2])
        right, total = right + int((found == expected).sum()), total + found.numel()
    assert right / total > 0.97


def test_assignments_are_classes_of_the_image_and_background_alone_without_tags(pretrained: str) -> None:
    features, tags, truth = objects()
    network = with_channels(pretrained)
    data = FeatureSet(features.__getitem__, tags)
    train_classifier(network, data, replace(TRAIN, consistency_weight=0.0), POT, seed=0)
    for number in range(3):
        one = FeatureSet(lambda _, number=number: features[number], tags[number : number + 1])
        cells, labels = assignments(network, one, POT, torch.Generator().manual_seed(0))
        assert set(labels.tolist()) <= {0, *(np.flatnonzero(tags[number]) + 1)}
        assert len(cells) == len(labels) > 20
    _, labels = assignments(network, data, POT, torch.Generator().manual_seed(0))
    every = torch.stack(truth)
    assert 0.5 < (labels > 0).sum() / (every > 0).sum() < 1.5


def test_a_class_without_a_sure_cell_is_not_forgotten(pretrained: str) -> None:
    features, tags, _ = objects()
    network = with_channels(pretrained)  # untrained: every cell has the same probability, so POT is sure of nothing
    unsure = replace(POT, transport=False)
    _, labels = assignments(network, FeatureSet(features.__getitem__, tags), unsure, torch.Generator().manual_seed(0))
    assert torch.bincount(labels, minlength=3)[1:].tolist() == (4 * tags.sum(0)).tolist()


def test_other_weights_of_the_backbone_are_other_features(
    pretrained: str, scenes: Path, tmp_path: Path, capsys: Capture
) -> None:
    backbone, out = tmp_path / "backbone", tmp_path / "run"
    copytree(pretrained, backbone)
    settings = {"network__backbone": str(backbone), "network__weights": "imagenet", "network__freeze": "true"}
    assert run("train", scenes, out, **settings) == 0
    before = {path: path.read_bytes() for path in (out / "features").rglob("*.npz")}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        AutoModel.from_config(AutoConfig.from_pretrained(BACKBONE)).save_pretrained(backbone)
    assert run("train", scenes, out, **settings, restart="train") == 0
    assert all(path.read_bytes() != content for path, content in before.items())
    assert main(["check", str(scenes), "--data.split", "train", "--with", str(out)]) != 0
    assert "has a frozen backbone" in " ".join(capsys.readouterr().err.split())


def test_one_seed_one_classifier(pretrained: str) -> None:
    features, tags, _ = objects()
    weights = []
    for seed in (0, 0, 1):
        network = with_channels(pretrained)
        train_classifier(network, FeatureSet(features.__getitem__, tags), replace(TRAIN, steps=12), POT, seed=seed)
        weights.append(network.classifier.weight.detach().clone())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_frozen_network_is_saved_and_gives_the_same_from_pixels_and_from_features(
    pretrained: str, tmp_path: Path
) -> None:
    network = frozen(pretrained)
    torch.nn.init.normal_(network.classifier.weight)
    network.classifier.background = torch.randn(7, network.feature_channels).half()
    assert not network.backbone_parameters() and len(network.head_parameters()) == 2
    save_network(tmp_path / "n.safetensors", network)
    again = load_network(tmp_path / "n.safetensors")
    assert torch.equal(again.classifier.background, network.classifier.background)
    images = torch.rand(2, 3, 64, 80)
    out = again(images)
    torch.testing.assert_close(out.cams, network(images).cams)
    torch.testing.assert_close(again.classified(out.features).cams, out.cams)
    torch.testing.assert_close(again.classified(out.features).logits, out.logits)
    assert out.cams.min().item() >= 0 and out.cams.max().item() <= 1
    valid = torch.ones(2, 64, 80, dtype=torch.bool)
    valid[1, :, 48:] = False
    assert (again(images, valid).logits[1] - out.logits[1]).abs().max().item() > 1e-4
    torch.testing.assert_close(normalised_cams(out.cams).amax((2, 3)), torch.ones(2, 2), atol=1e-3, rtol=0)


@pytest.mark.data
def test_a_frozen_backbone_keeps_its_strides_on_a_finer_grid(real_data: Path, tmp_path: Path) -> None:
    backbone = str(real_data / "weights/mobilenet_v2_1.0_224")
    settings = NetworkSettings(backbone=backbone, freeze=True, output_stride=8, out_indices=(4, 8, 11))
    network = build_network(settings, ("a",), seed=0).eval()
    coarse = build_network(replace(settings, output_stride=16), ("a",), seed=0).eval()
    assert (network.stride, coarse.stride) == (8, 16) and network.backbone.stages[-1].stride == 16
    images = torch.rand(1, 3, 64, 96)
    for fine, other in zip(network.backbone(images), coarse.backbone(images), strict=True):
        assert torch.equal(fine, other)
    save_network(tmp_path / "n.safetensors", network)
    again = load_network(tmp_path / "n.safetensors")
    assert again.stride == 8 and torch.equal(again(images).features, network(images).features)


def test_features_are_kept_and_made_again_for_another_image(
    pretrained: str, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = tmp_path / "scenes", tmp_path / "run"
    copytree(scenes, root)
    settings = {"network__backbone": pretrained, "network__weights": "imagenet", "network__freeze": "true"}
    assert run("train", root, out, **settings) == 0
    assert run("cams", root, out, **settings) == 0
    files = sorted((out / "features").rglob("*.npz"))
    cams = sorted((out / "cams/pot").rglob("*.npz"))
    assert len(files) == len(cams) > 4
    network, before = (
        (out / "train/network.safetensors").read_bytes(),
        {path: path.stat().st_mtime_ns for path in files},
    )
    assert run("train", root, out, **settings, restart="train") == 0
    assert (out / "train/network.safetensors").read_bytes() == network
    assert {path: path.stat().st_mtime_ns for path in files} == before

    assert run("cams", root, out, **settings) == 0
    for path in cams:
        path.unlink()
    with monkeypatch.context() as patch:  # without a forward pass of the backbone
        patch.delattr("tag2mask.stages.cams.image_maps")
        assert run("cams", root, out, **settings) == 0
    from_features = [read_cam(path).cams.astype(np.float32) for path in cams]
    rmtree(out / "features")
    assert run("cams", root, out, **settings, restart="cams") == 0
    for path, kept in zip(cams, from_features, strict=True):
        assert (read_cam(path).cams == kept).all()

    assert run("train", root, out, **settings, restart="train") == 0
    image = next(path for path in root.rglob("*") if path.stem == files[0].stem and "masks" not in path.parts)
    with Image.open(image) as opened:
        opened.transpose(Image.Transpose.ROTATE_180).save(image)
    before = {path: path.read_bytes() for path in files}
    assert run("train", root, out, **settings, restart="train") == 0
    assert [path for path in files if path.read_bytes() != before[path]] == [files[0]]


def test_novelty_is_the_distance_to_the_nearest_cells_of_images_without_tags(pretrained: str) -> None:
    features, tags, truth = objects()
    network = with_channels(pretrained)
    train_classifier(network, FeatureSet(features.__getitem__, tags), replace(TRAIN, steps=12), POT, seed=0)
    classifier = network.classifier
    assert isinstance(classifier, CellClassifier)
    bank = classifier.background.float()
    untagged = torch.cat([local_means(features[index][None])[0].flatten(1).T.half() for index in range(0, 30, 3)])
    assert sorted(map(tuple, bank.tolist())) == sorted(map(tuple, untagged.float().tolist()))  # each cell once
    joint = torch.stack([features[1], features[2]]).float()
    novelty = classifier.novelty(joint)
    for image, row, column in ((0, 0, 0), (0, 3, 2), (1, 5, 6), (1, 2, 4)):
        window = joint[image, :, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].flatten(1).mean(1)
        cosines = sorted((float(F.normalize(window, dim=0) @ cell) for cell in bank), reverse=True)
        assert float(novelty[image, row, column]) == pytest.approx(1 - np.mean(cosines[:3]), abs=1e-4)
    inside = torch.cat(
        [classifier.novelty(each[None].float())[0][own > 0] for each, own in zip(features, truth, strict=True)]
    )
    outside = torch.cat(
        [classifier.novelty(each[None].float())[0][own == 0] for each, own in zip(features, truth, strict=True)]
    )
    assert inside.quantile(0.2) > outside.quantile(0.8)


def test_the_known_background_is_bounded_and_comes_from_all_images_without_tags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, tags, _ = objects()
    data = FeatureSet(features.__getitem__, tags)
    monkeypatch.setattr("tag2mask.training.frozen.BACKGROUND_CELLS", 25)
    found = known_background(data, torch.Generator().manual_seed(0))
    assert found.shape == (20, CHANNELS)  # 25 // 10 = 2 of each of the 10 images without tags
    for number in range(0, 30, 3):
        cells = local_means(features[number][None])[0].flatten(1).T.half()
        assert sum(bool((cells == cell).all(1).any()) for cell in found) == 2
    none = known_background(FeatureSet(features.__getitem__, tags | True), torch.Generator())
    assert none.shape == (0, CHANNELS)


def test_anomaly_cams_are_those_of_the_classifier_times_novelty(
    pretrained: str, scenes: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "run"
    settings = {"network__backbone": pretrained, "network__weights": "imagenet", "network__freeze": "true"}
    kinds = {"cams__kinds": "[classifier,anomaly]", "refine__cams": "anomaly"}
    assert run("train", scenes, out, **settings) == 0
    assert run("cams", scenes, out, **kinds) == 2
    assert "trained with images without tags" in " ".join(capsys.readouterr().err.split())
    assert not (out / "cams").exists()

    table = (scenes / "tags.csv").read_text().splitlines()
    negative = [
        f"{line.split(',')[0]},,{line.split(',')[2]}" if number % 3 == 0 else line
        for number, line in enumerate(table)
        if number
    ]
    tags = tmp_path / "tags.csv"
    tags.write_text("\n".join([table[0], *negative]) + "\n")
    assert run("train", scenes, out, **settings, data__tags=str(tags), restart="train") == 0
    network = load_network(out / "train/network.safetensors")
    assert isinstance(network.classifier, CellClassifier) and network.background_cells > 20
    assert run("cams", scenes, out, **kinds, data__tags=str(tags)) == 0
    assert run("refine", scenes, out, **kinds, data__tags=str(tags)) == 0
    tagged = [path for path in sorted((out / "cams/anomaly").rglob("*.npz")) if len(read_cam(path).ids)][:4]
    assert len(tagged) == 4
    for path in tagged:
        name = path.relative_to(out / "cams/anomaly")
        found, classifier = read_cam(path), read_cam(out / "cams/classifier" / name)
        with np.load(out / "features" / name) as arrays:
            novelty = network.classifier.novelty(torch.from_numpy(arrays["features"])[None].float())[0].numpy()
        expected = classifier.cams.astype(np.float32) * novelty
        expected /= expected.max((1, 2), keepdims=True, initial=1e-9) + 1e-5
        assert found.ids.tolist() == classifier.ids.tolist() and np.abs(found.cams - expected).max() < 2e-3
        level = np.full((1, *found.size), 0.3, dtype=np.float32)
        labels = np.array([0, *found.ids])[np.concatenate([level, full_resolution(found)]).argmax(0)]
        assert (read_mask(out / "masks" / name.with_suffix(".png")) == labels).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network__projections": "true"}, "freeze true needs projections false"),
        ({"network__weights": "none"}, "freeze true needs pretrained weights"),
        ({"train__consistency_start": "0"}, "needs train.consistency_start above 0"),
        ({"cams__merge": "maps"}, "network.freeze true needs cams.merge features"),
        ({"external__base": "external"}, "network.freeze true does not read base CAMs"),
    ],
)
def test_settings_that_do_not_go_with_a_frozen_backbone_are_refused(
    pretrained: str, scenes: Path, tmp_path: Path, capsys: Capture, changes: dict[str, str], words: str
) -> None:
    settings = {"network__backbone": pretrained, "network__weights": "imagenet", "network__freeze": "true"} | changes
    assert run("train", scenes, tmp_path / "run", **settings) != 0
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run/features").exists()


def test_only_a_frozen_network_is_trained_on_features(pretrained: str) -> None:
    network = build_network(NetworkSettings(backbone=pretrained), ("a", "b"), seed=0)
    with pytest.raises(UsageError, match=r"network\.freeze is false"):
        train_classifier(
            network, FeatureSet(lambda _: torch.zeros(4, 2, 2), np.ones((1, 2), dtype=bool)), TRAIN, POT, seed=0
        )
