"""`tag2mask masks`: masks by the names of classes with a tiny CLIPSeg, and what other commands do with such a run."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from clip_tiny import tiny_clipseg, tiny_clipseg_folder, tiny_folder, tiny_model, tiny_sam3
from run_tiny import Capture, files_of
from tag2mask import Run, masks
from tag2mask.cams.clip.prompts import read_prompts
from tag2mask.cams.clip.settings import SeedSettings
from tag2mask.cams.seed_models import SeedModel, load_seed_model
from tag2mask.cli import main
from tag2mask.core.errors import UsageError
from tag2mask.data import read_mask, write_mask
from tag2mask.data.cam_files import read_cam
from tag2mask.data.corrections import CorrectionsFolder, Decision
from tag2mask.runs.run_folder import FORMAT

CLASSES = ("cat", "tall dog")
SIZES = {"a": (40, 90), "sub/b": (64, 64), "sub/c": (7, 3), "grey": (33, 21), "plain": (50, 50)}
LEVEL = 0.67
"""Probability from which the random model finds each class in some of the images alone."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clipseg_folder(tmp_path_factory.mktemp("clipseg") / "model", tiny_clipseg(3))


def photos(folder: Path) -> Path:
    """Images of odd sizes in folders, one with a mask next to it."""
    for number, (name, size) in enumerate(SIZES.items()):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        image = Image.fromarray(np.full_like(pixels, 128) if name == "plain" else pixels)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (image.convert("L") if name == "grey" else image).save(folder / f"{name}.png")
    write_mask(folder / "a_mask.png", np.zeros(SIZES["a"], np.uint8))
    return folder


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The images, and a run over them."""
    folder = tmp_path_factory.mktemp("words")
    assert main(words(photos(folder / "images"), folder / "run", model)) == 0
    return folder / "images", folder / "run"


def words(images: Path, out: Path, model: Path, *more: object) -> list[str]:
    fixed = ("--workers", 0, "--device", "cpu", "--refine.background_threshold", LEVEL)
    return [
        str(word)
        for word in ("masks", images, "--classes", ",".join(CLASSES), "--model", model, "--out", out, *fixed, *more)
    ]


def refused(capsys: Capture, *command: object, code: int = 2) -> str:
    capsys.readouterr()
    assert main([str(word) for word in command]) == code
    return " ".join(capsys.readouterr().err.split())


def maps_of(model: Path, image: Path) -> torch.Tensor:
    """The probabilities of each class on the model's grid, rounded as in CAM files: (C, h, w)."""
    seeds = load_seed_model(SeedSettings(str(model)), read_prompts(None, CLASSES), torch.device("cpu"))
    assert seeds.probabilities is not None
    pixels = np.asarray(Image.open(image).convert("RGB"))
    ((_, maps),) = seeds.probabilities([seeds.model.prepare(pixels)], torch.ones(1, len(CLASSES), dtype=torch.bool))
    return maps.half().float()


def test_masks_are_where_the_model_finds_a_class(made: tuple[Path, Path], model: Path) -> None:
    """A pixel has the class of the highest probability above the threshold; classes that are not found do not count."""
    images, out = made
    tags = dict(list(csv.reader((out / "tags.csv").open()))[1:])
    assert {name.removesuffix(".png") for name in tags} == {*SIZES}, "a mask next to an image is not an image"
    for name, size in SIZES.items():
        mask, cam = read_mask(out / f"masks/{name}.png"), read_cam(out / f"cams/words/{name}.npz")
        maps = maps_of(model, images / f"{name}.png")
        kept = [place for place, each in enumerate(maps) if each.max() > LEVEL]
        assert [CLASSES[place] for place in kept] == [each for each in tags[f"{name}.png"].split(";") if each]
        assert mask.shape == cam.size == size and cam.ids.tolist() == [place + 1 for place in kept]
        found = F.interpolate(maps[None], size, mode="bilinear")[0, kept]
        highest = torch.cat([torch.full((1, *size), LEVEL), found]).argmax(0)
        expected = torch.tensor([0, *(place + 1 for place in kept)])[highest]
        assert (expected.numpy() != mask).mean() < 0.001
    shown = {len([each for each in own.split(";") if each]) for own in tags.values()}
    assert shown == {0, 1, 2}, "the threshold tells nothing apart"
    none = next(name for name, own in tags.items() if not own)
    assert not read_mask(out / "masks" / none).any()
    ids = json.loads((out / "masks/classes.json").read_text())["classes"]
    assert ids == {name: number for number, name in enumerate(CLASSES, 1)}
    assert (out / "report.html").is_file() and (out / "config.yaml").is_file()


def test_it_resumes_and_takes_new_images(made: tuple[Path, Path], model: Path, tmp_path: Path, capsys: Capture) -> None:
    images = photos(tmp_path / "images")
    assert main([*words(images, tmp_path / "run", model, "--limit", 2), "--dry-run"]) == 0
    assert "for cat, tall dog in 2 of 2 images, then do refine," in " ".join(capsys.readouterr().out.split())
    assert main(words(images, tmp_path / "run", model, "--limit", 2)) == 0
    write_mask(images / "truth/a.png", np.zeros(SIZES["a"], np.uint8))
    assert main([*words(images, tmp_path / "run", model, "--data.masks", images / "truth"), "--dry-run"]) == 0
    assert "in 3 of 5 images" in " ".join(capsys.readouterr().out.split())
    (images / "truth/a.png").unlink()
    (images / "grey.png").replace(images / "moved.png")
    capsys.readouterr()
    assert main(["masks", "--out", str(tmp_path / "run"), "--workers", "0"]) == 0
    assert "words: 4 done, 1 already there" in capsys.readouterr().err
    (images / "moved.png").replace(images / "grey.png")
    before = files_of(tmp_path / "run/masks")
    capsys.readouterr()
    (tmp_path / "run/cams/words/sub/c.npz").write_bytes(b"damaged")
    assert main(["masks", str(images), "--out", str(tmp_path / "run"), "--workers", "0", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [each["stage"] for each in answer["results"]] == ["words", "refine", "confidence", "evaluate", "report"]
    assert answer["results"][0]["done"] == 1 and answer["paths"]["masks"].endswith("masks")
    whole = files_of(made[1] / "masks")
    again = files_of(tmp_path / "run/masks")
    assert {name: again[name] for name in whole} == whole
    assert again.keys() - whole.keys() == before.keys() - whole.keys() == {"moved.png"}
    assert main(["masks", "--out", str(tmp_path / "run"), "--restart", "train", "--workers", "0"]) == 2
    assert "one of cams, refine, confidence, evaluate, report, received 'train'" in capsys.readouterr().err
    changed = ("masks", "--out", tmp_path / "run", "--refine.background_threshold", 0.6)
    assert "refine.background_threshold was 0.67 and is 0.6" in refused(capsys, *changed)
    assert main([*map(str, changed), "--restart", "cams", "--workers", "0"]) == 0
    assert "cat in 4, tall dog in 4 images; none of the classes in 1" in capsys.readouterr().err


def test_corrected_tags_are_asked_for(made: tuple[Path, Path], model: Path, tmp_path: Path, capsys: Capture) -> None:
    images = photos(tmp_path / "images")
    assert main(words(images, tmp_path / "run", model)) == 0
    kept = CorrectionsFolder(tmp_path / "run/corrections", CLASSES)
    kept.write("plain", Decision.now(None, tags=CLASSES))
    said = refused(capsys, "refine", tmp_path / "run", "--workers", 0, code=1)
    assert f"run `tag2mask masks --out {tmp_path / 'run'}` first" in said and "does not exist" not in said
    assert main(["masks", "--out", str(tmp_path / "run"), "--workers", "0"]) == 0
    assert read_cam(tmp_path / "run/cams/words/plain.npz").ids.tolist() == [1, 2]
    assert (tmp_path / "run/tags.csv").read_text() == (made[1] / "tags.csv").read_text()
    assert Run(tmp_path / "run")["plain"].tags == CLASSES
    corrected = np.zeros(SIZES["plain"], np.uint8)
    corrected[:20] = 2
    kept.write("plain", Decision.now("corrected", tags=CLASSES), corrected)
    assert main(["export", "coco", str(tmp_path / "run"), "--out", str(tmp_path / "coco")]) == 0
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "run"), str(made[1]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["agreement"]
    assert found[0]["image"] == "plain" and all(each["agreement"] == 1 for each in found[1:])


def test_sam3_in_a_voc_root_with_ground_truth(tmp_path: Path, capsys: Capture) -> None:
    """Tags of the data set are not read, found ones do not contradict the ground truth, and figures are right."""
    root, sam3 = tmp_path / "voc", tiny_folder(tmp_path / "sam3", tiny_sam3(3))
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / f"JPEGImages/{number}.png")
        write_mask(root / f"SegmentationClass/{number}.png", np.full((40, 60), 17, np.uint8))
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/val.txt").write_text("0\n1\n")
    outs = [tmp_path / name for name in ("a", "b")]
    for out, threshold in zip(outs, ("0.5", "0.6"), strict=True):
        of_model = ("--model", str(sam3), "--refine.background_threshold", threshold, "--workers", "0")
        assert main(["masks", str(root), "--data.split", "val", "--out", str(out), *of_model]) == 0
        assert sorted(path.name for path in (out / "masks").glob("*.png")) == ["0.png", "1.png"]
        figures = json.loads((out / "metrics.json").read_text())["refine"]["val"]["argmax"]
        right = [(read_mask(out / f"masks/{number}.png") == 17).mean() for number in range(2)]
        assert figures["images"] == 2 and figures["pixel_accuracy"] == pytest.approx(np.mean(right))
    assert len((outs[0] / "tags.csv").read_text().splitlines()) == 4, "a review reads the images of all splits"
    assert main(["report", str(outs[0]), "--data.split", "null"]) == 0
    capsys.readouterr()
    assert main(["compare", *map(str, outs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 2 and 0 < found["pixels_that_differ"] < 1
    for out, side in zip(outs, ("a", "b"), strict=True):
        figures = json.loads((out / "metrics.json").read_text())["refine"]["val"]["argmax"]
        assert found["truth"][side]["miou"] == pytest.approx(figures["miou"])


def test_classes_of_a_voc_root_keep_their_ids(tmp_path: Path, model: Path, capsys: Capture) -> None:
    """Masks of a root have the ids of its own list; other images than those asked for have no tags, which is said."""
    root = tmp_path / "voc"
    for name in ("0", "1"):
        (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(
            root / f"JPEGImages/{name}.png"
        )
        write_mask(root / f"SegmentationClass/{name}.png", np.full((40, 60), 12, np.uint8))
    command = [*words(root, tmp_path / "run", model), "--limit", "1", "--refine.background_threshold", "0.01"]
    assert "has ground truth with the ids of its own 20 classes" in refused(capsys, *command)
    assert main([*command, "--data.mask_values", "12=tall dog"]) == 0
    assert "1 images that the model was not asked for have no tags" in " ".join(capsys.readouterr().err.split())
    figures = json.loads((tmp_path / "run/metrics.json").read_text())["refine"]["all"]["argmax"]
    assert figures["images"] == 1
    assert figures["pixel_accuracy"] == pytest.approx((read_mask(tmp_path / "run/masks/0.png") == 2).mean())


def test_an_inspection_set_has_the_found_tags(tmp_path: Path, model: Path, capsys: Capture) -> None:
    for place in ("train/good/0", "test/crack/0", "ground_truth/crack/0_mask"):
        (tmp_path / "set" / place).parent.mkdir(parents=True)
        Image.new("RGB", (40, 40), "red").save(tmp_path / f"set/{place}.png")
    command = [*words(tmp_path / "set", tmp_path / "run", model), "--refine.background_threshold", "0.01"]
    assert main([*command, "--data.kind", "mvtec"]) == 0
    assert "ground truth of the inspection set is not used" in " ".join(capsys.readouterr().err.split())
    run = Run(tmp_path / "run")
    assert {image.id: image.tags for image in run} == {"test/crack/0": CLASSES, "train/good/0": CLASSES}
    assert main(["masks", "--out", str(tmp_path / "run"), "--workers", "0"]) == 0


def test_only_images_that_were_asked_for_are_listed(tmp_path: Path, model: Path, capsys: Capture) -> None:
    """An image beyond --limit, a damaged one, and one that changed and is damaged now have no known tags."""
    images = photos(tmp_path / "images")
    (images / "a_mask.png").unlink()
    (images / "damaged.png").write_bytes(b"damaged")
    assert main(words(images, tmp_path / "run", model)) == 1
    assert "damaged.png" not in (tmp_path / "run/tags.csv").read_text()
    assert len(Run(tmp_path / "run")) == 5
    (images / "plain.png").write_bytes(b"damaged, too")
    assert main(words(images, tmp_path / "run", model, "--limit", 2)) == 1
    assert {path.partition(",")[0] for path in (tmp_path / "run/tags.csv").read_text().splitlines()[1:]} == {
        *(f"{name}.png" for name in SIZES if name != "plain")
    }


def test_a_map_of_nan_is_not_an_absent_class(
    tmp_path: Path, model: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: object) -> SeedModel:
        found = load_seed_model(*given[:3])  # type: ignore[arg-type]
        nan = [((0, 1), torch.full((2, 4, 4), torch.nan))]
        return replace(found, probabilities=lambda images, asked: nan * len(images))

    monkeypatch.setattr("tag2mask.workflows.words.load_seed_model", lambda *given, **more: broken(*given))
    images = photos(tmp_path / "images")
    assert "`cams` hold NaN or infinity" in refused(capsys, *words(images, tmp_path / "run", model), code=1)


def test_a_moved_run_goes_on(made: tuple[Path, Path], tmp_path: Path) -> None:
    """The table of a run is found in the run folder, wherever that is; also through a link."""
    run = Path(copytree(made[1], tmp_path / "copy"))
    (tmp_path / "copy").rename(tmp_path / "moved")
    run = tmp_path / "moved"
    before = files_of(run / "masks")
    (tmp_path / "link").symlink_to(run)
    assert main(["report", str(run), "--quiet"]) == 0
    assert main(["masks", "--out", str(tmp_path / "link"), "--workers", "0", "--quiet"]) == 0
    assert Run(run).config.data.tags == run / "tags.csv"
    assert files_of(run / "masks") == before


def test_settings_of_a_file_keep_what_masks_needs(tmp_path: Path, model: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"seeds:\n  model: {model}\nreport:\n  images: 1\n")
    images = photos(tmp_path / "images")
    command = ["masks", str(images), "--classes", "cat", "--config", str(tmp_path / "own.yaml"), "--workers", "0"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    config = Run(tmp_path / "run").config
    assert config.cams.kinds == ["words"] and config.refine.cams == "words"
    assert config.refine.method == "argmax" and config.refine.background_threshold == 0.5


def test_other_classes_after_an_interruption(
    made: tuple[Path, Path], tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    run = Path(copytree(made[1], tmp_path / "run"))
    command = words(made[0], run, model, "--classes", "tall dog")

    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("tag2mask.workflows.words._ask", interrupted)
        assert main([*command, "--restart", "cams"]) == 1
    assert "restart: deleted the outputs of" in " ".join(capsys.readouterr().err.split())
    assert main(["masks", "--out", str(run), "--workers", "0"]) == 0
    assert Run(run).classes == ("tall dog",)


def test_a_run_with_tags_stays_one(tmp_path: Path, model: Path, capsys: Capture) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(f"format: {FORMAT}\ncams:\n  kinds: [pot]\n")
    before = (tmp_path / "run/config.yaml").read_text()
    images = photos(tmp_path / "images")
    assert "is a run with tags, not one of `tag2mask masks`" in refused(capsys, *words(images, tmp_path / "run", model))
    assert (tmp_path / "run/config.yaml").read_text() == before


@pytest.mark.parametrize("name", [" lead.png", "back\\slash.png", "\udcff.png"])
def test_names_that_a_table_cannot_hold(tmp_path: Path, name: str, capsys: Capture) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / name)
    said = refused(capsys, "masks", tmp_path / "images", "--classes", "cat", "--out", tmp_path / "run")
    assert "1 images have names that a table of tags cannot hold: " in said


def test_a_plan_as_json(made: tuple[Path, Path], capsys: Capture) -> None:
    capsys.readouterr()
    assert main(["masks", "--out", str(made[1]), "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["classes"] == [*CLASSES] and planned["images"] == 5 and planned["lacking"] == 0


def test_mistakes(made: tuple[Path, Path], model: Path, tmp_path: Path, capsys: Capture) -> None:
    images, out = made
    new = ("--out", tmp_path / "run")
    assert "masks needs --classes" in refused(capsys, "masks", images, *new)
    assert "masks needs IMAGES" in refused(capsys, "masks", "--classes", "cat", *new)
    assert "named twice: cat" in refused(capsys, "masks", images, "--classes", "cat,dog,cat", *new)
    (tmp_path / "empty").mkdir()
    assert "there is no image below it" in refused(capsys, "masks", tmp_path / "empty", "--classes", "cat", *new)
    assert "lies inside the data root" in refused(capsys, "masks", images, "--classes", "cat", "--out", images / "run")
    table = ("masks", out / "tags.csv", "--classes", "cat", *new)
    assert "finds their tags by itself" in refused(capsys, *table)
    clip = tiny_folder(tmp_path / "clip", tiny_model())
    said = refused(capsys, "masks", images, "--classes", "cat", "--model", clip, *new)
    assert f"{clip} is a CLIP, which makes no masks by itself: use a CLIPSeg, a SAM 3 or a TIPSv2" in said
    assert not (tmp_path / "run/config.yaml").exists()
    none = words(images, tmp_path / "run", model, "--refine.background_threshold", 0.99)
    assert "finds none of cat, tall dog in 5 images" in refused(capsys, *none, code=1)
    assert "is not a folder" in refused(capsys, "masks", images / "*.png", "--classes", "cat", *new)
    walk = refused(capsys, "masks", "--out", out, "--refine.method", "irn", "--restart", "cams")
    assert "edges/network.safetensors does not exist" in walk and (out / "cams/words/plain.npz").is_file()
    assert "--shard does not apply" in refused(capsys, "masks", "--out", out, "--shard", "1/2")
    assert "does not read --train.steps" in refused(capsys, "masks", "--out", out, "--train.steps", 3)
    assert "has none; name the class" in refused(capsys, "masks", "--out", out, "--data.mask_values", "255=tag")
    assert "was made with other settings: seeds.model" in refused(capsys, "masks", "--out", out, "--model", clip)
    assert "in another order" in refused(capsys, "masks", "--out", out, "--classes", "tall dog,cat")
    for command in ("cams", "run"):
        place = [out] if command == "cams" else ["--out", out]
        assert f"`tag2mask masks --out {out}` does" in refused(capsys, command, *place)


def test_the_same_from_python(made: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    images, out = made
    refine = {"background_threshold": LEVEL}
    run = masks(images, CLASSES, out=tmp_path / "run", model=model, quiet=True, workers=0, device="cpu", refine=refine)
    assert run.classes == CLASSES and len(run) == 5 and not run.failed
    assert files_of(run.masks) == files_of(out / "masks")
    with pytest.raises(UsageError, match="`red, round` holds a comma"):
        masks(images, ["red, round", "dog"], out=tmp_path / "other")
    one = masks(images, ["cat/kitten"], out=tmp_path / "one", model=model, quiet=True, workers=0, limit=1)
    assert one.classes == ("cat/kitten",)
    with pytest.raises(UsageError, match="masks needs --classes"):
        masks(images, out=tmp_path / "other", quiet=True)
