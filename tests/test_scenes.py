"""Generated scenes: exact masks, honest tags, and a world in which only the face tells a class."""

import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tag2mask.core.errors import UsageError
from tag2mask.core.files import TEMPORARY_PREFIX, read_json, write_json
from tag2mask.data import DataSettings, open_images, read_image, read_mask
from tag2mask.synthetic import SPECIES, SceneSettings, class_names, composition, render_scene, write_scenes
from tag2mask.synthetic.animals import animal_parts
from tag2mask.synthetic.drawing import Layer, Part, canvas, capsule, convex_polygon, ellipse, overlap, paint
from tag2mask.synthetic.settings import COAT_SHARE
from tag2mask.synthetic.writer import MANIFEST

SMALL = SceneSettings(size=96, train=4, val=2)


def test_distances_are_those_of_the_shapes() -> None:
    x, y = canvas((41, 41), 10.0)
    np.testing.assert_allclose(ellipse(x, y, (0.2, -0.1), (0.7, 0.7)), np.hypot(x - 0.2, y + 0.1) - 0.7, atol=1e-5)
    flat = ellipse(x, y, (0, 0), (1.0, 0.5))
    np.testing.assert_array_equal(flat < 0, (x**2 + 4 * y**2) < 1)
    rod = capsule(x, y, (-0.5, 0), (0.5, 0), (0.25, 0.25))
    np.testing.assert_allclose(rod, np.hypot(x - np.clip(x, -0.5, 0.5), y) - 0.25, atol=1e-5)
    square = convex_polygon(x, y, [(-0.55, -0.55), (0.55, -0.55), (0.55, 0.55), (-0.55, 0.55)])
    np.testing.assert_allclose(square, np.maximum(abs(x), abs(y)) - 0.55, atol=1e-5)


def test_a_layer_covers_what_its_shape_covers() -> None:
    fine, coarse = canvas((320, 320), 80.0), canvas((40, 40), 10.0)
    layer = Layer.of([Part(np.hypot(*coarse) - 1.23, np.ones(3, np.float32))], (40, 40), unit=10.0, roundness=0.1)
    exact = (np.hypot(*fine) < 1.23).reshape(40, 8, 40, 8).mean(axis=(1, 3))  # counted on an eight times finer grid
    rows, columns = np.nonzero(exact > 0)
    exact = exact[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    trim = (exact.shape[0] - layer.alpha.shape[0]) // 2  # a pixel may be touched at a corner alone
    inner = exact[trim : exact.shape[0] - trim, trim : exact.shape[1] - trim]
    assert abs(layer.alpha - inner).max() < 0.1
    assert (layer.inside == (layer.alpha > 0.5)).all()


@pytest.mark.parametrize("corner", [(2, 3), (-2, -3), (6, 7), (-20, 0), (0, 30)])
def test_painting_clips_at_the_border(corner: tuple[int, int]) -> None:
    layer = Layer(np.ones((4, 5, 3), np.float32), np.ones((4, 5), np.float32), *np.ones((2, 4, 5), bool))
    picture = np.zeros((8, 9, 3), np.float32)
    paint(picture, layer, corner)
    rows, columns = np.mgrid[:8, :9]
    inside = (rows >= corner[0]) & (rows < corner[0] + 4) & (columns >= corner[1]) & (columns < corner[1] + 5)
    np.testing.assert_array_equal(picture[..., 0] > 0, inside)
    there, here = overlap((8, 9), layer, corner)
    assert picture[there].shape[:2] == layer.alpha[here].shape


@pytest.mark.parametrize("index", range(12))
def test_masks_are_what_was_painted(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much of each pixel every thing finally covers, recorded while painting: the mask names what prevails."""
    scene = render_scene(SMALL, "train", index)
    covers: list[np.ndarray] = []

    def record(picture: np.ndarray, layer: Layer, corner: tuple[int, int]) -> None:
        paint(picture, layer, corner)
        there, here = overlap((96, 96), layer, corner)
        alpha = np.zeros((96, 96))
        alpha[there] = layer.alpha[here]
        covers[:] = [*(cover * (1 - alpha) for cover in covers), alpha]

    monkeypatch.setattr(composition, "paint", record)
    again = render_scene(SMALL, "train", index)
    np.testing.assert_array_equal(again.image, scene.image)
    animals = [cover for cover in covers if (scene.instances[cover > 0.9] > 0).any()]
    assert len(animals) == scene.instances.max()
    for number, cover in enumerate(animals, start=1):
        shown = scene.instances == number
        assert shown[cover > 0.8].all() and not shown[cover < 0.2].any()
        labels = np.unique(scene.mask[shown])
        assert labels.size == 1 and labels[0] in scene.tags
    np.testing.assert_array_equal(scene.mask > 0, scene.instances > 0)
    edge = np.abs(np.sum(animals, axis=0) - 0.5) < 0.3
    assert edge.sum() < 0.25 * (scene.mask > 0).sum()  # the test above says something about most pixels


def test_tags_are_the_classes_in_the_mask_and_everything_can_be_seen() -> None:
    counts = []
    for index in range(25):
        scene = render_scene(SMALL, "val", index)
        assert scene.image.shape == (96, 96, 3) and scene.image.dtype == np.uint8
        assert scene.tags == tuple(value for value in np.unique(scene.mask).tolist() if value)
        assert scene.tags and max(scene.tags) <= SMALL.classes and not (scene.faces & (scene.mask == 0)).any()
        for number in range(1, int(scene.instances.max()) + 1):
            assert (scene.instances == number).sum() >= 150
            assert ((scene.instances == number) & scene.faces).sum() >= 15
        counts.append(int(scene.instances.max()))
    assert set(counts) == {1, 2, 3}


def test_faces_are_small_and_animals_are_large() -> None:
    scenes = [render_scene(SMALL, "train", index) for index in range(25)]
    share = np.mean([scene.faces.sum() / (scene.mask > 0).sum() for scene in scenes])
    assert 0.1 < share < 0.2
    assert 0.15 < np.mean([(scene.mask > 0).mean() for scene in scenes]) < 0.35


@pytest.mark.parametrize("seed", range(4))
def test_only_the_face_tells_the_species(seed: int) -> None:
    """The same chances give every species the same body, to the last pixel, and another face."""
    x, y = canvas((80, 100), 50.0)

    def parts(*, face: bool) -> list[list[np.ndarray]]:
        drawn = (animal_parts(np.random.default_rng(seed), species, x, y) for species in SPECIES)
        return [[a for part in one if part.face == face for a in (part.distance, part.rgb)] for one in drawn]

    def equal(one: list[np.ndarray], two: list[np.ndarray]) -> bool:
        return len(one) == len(two) and all(map(np.array_equal, one, two))

    bodies, faces = parts(face=False), parts(face=True)
    assert all(equal(bodies[0], other) for other in bodies[1:])
    assert not any(equal(faces[a], faces[b]) for a in range(len(faces)) for b in range(a))


def test_the_coat_share_makes_the_parts_of_a_body_similar() -> None:
    def spread(share: float) -> float:
        x, y = canvas((80, 100), 50.0)
        parts = animal_parts(np.random.default_rng(5), SPECIES[0], x, y, coat_share=share)
        colours = [part.rgb for part in parts if not part.face]
        limbs, neck = colours[2], colours[-2]
        return float(abs(limbs - neck).mean())

    assert spread(COAT_SHARE) > 0.02
    assert spread(1.0) < spread(0.0)


@pytest.mark.parametrize(("bias", "low", "high"), [(0.0, 0.0, 0.0), (0.7, 0.55, 0.85), (1.0, 1.0, 1.0)])
def test_backgrounds_go_with_species(bias: float, low: float, high: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composition, "OBJECTS", (1, 1))
    monkeypatch.setattr(composition, "CLUTTER", (0, 0))
    settings = SceneSettings(size=64, background_bias=bias)
    scenes = [render_scene(settings, "train", index) for index in range(60)]
    home = np.mean([scene.background == SPECIES[scene.tags[0] - 1].background for scene in scenes])
    assert low <= home <= high
    assert {scene.tags[0] for scene in scenes} == set(range(1, settings.classes + 1))


def test_a_scene_depends_on_its_place_alone() -> None:
    one, again = render_scene(SMALL, "train", 3), render_scene(replace(SMALL, train=100, val=7), "train", 3)
    np.testing.assert_array_equal(one.image, again.image)
    np.testing.assert_array_equal(one.mask, again.mask)
    for settings, split, index in ((SMALL, "val", 3), (SMALL, "train", 2), (replace(SMALL, seed=1), "train", 3)):
        assert not np.array_equal(one.image, render_scene(settings, split, index).image)


def test_written_scenes_are_a_data_set(tmp_path: Path) -> None:
    folder, met = tmp_path / "scenes", list[str]()
    assert write_scenes(folder, SMALL, on_scene=met.append)
    assert met == ["train/0000", "train/0001", "train/0002", "train/0003", "val/0000", "val/0001"]
    data = DataSettings(root=folder, masks=folder / "masks", classes=",".join(class_names(SMALL)))
    for split, count in (("train", 4), ("val", 2)):
        images = open_images(data, split=split)
        assert images.classes == class_names(SMALL) and len(images) == count
        for index, item in enumerate(images.items):
            scene = render_scene(SMALL, split, index)
            assert item.id == f"{split}/{index:04d}" and item.tags == scene.tags and item.truth is not None
            np.testing.assert_array_equal(read_mask(item.truth, classes=SMALL.classes), scene.mask)
            assert abs(read_image(item.path).astype(float) - scene.image).mean() < 6  # JPEG
    assert list(class_names(SMALL)) == sorted(class_names(SMALL))


def test_writing_again(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    write_scenes(folder, SMALL)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert not write_scenes(folder, SMALL)
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(UsageError, match=rf"other settings: background_bias \({SMALL.background_bias} there\)"):
        write_scenes(folder, replace(SMALL, background_bias=0.9))

    def stop(name: str) -> None:
        if name == "train/0002":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "killed", SMALL, on_scene=stop)
    assert not (tmp_path / "killed" / "tags.csv").exists()
    assert write_scenes(tmp_path / "killed", SMALL)
    assert (tmp_path / "killed" / "tags.csv").read_bytes() == (folder / "tags.csv").read_bytes()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="other files than generated scenes"):
        write_scenes(tmp_path / "images", SMALL)


def test_settings_name_all_that_is_wrong() -> None:
    with pytest.raises(UsageError, match=r"scenes: classes should lie in \[2, 6\], received 9; size.*; val"):
        SceneSettings(classes=9, size=8, val=-1)


def test_what_a_killed_run_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    settings = SceneSettings(classes=2, size=64, train=1, val=0)
    write_scenes(tmp_path, settings)
    manifest = read_json(tmp_path / MANIFEST)
    write_json(tmp_path / MANIFEST, {**manifest, "complete": False})
    half = tmp_path / "train" / f"{TEMPORARY_PREFIX}{socket.gethostname()}~{dead.pid}~0852a1b8~0000.jpg"
    half.touch()
    write_scenes(tmp_path, settings)
    assert not half.exists() and (tmp_path / "train/0000.jpg").is_file()
