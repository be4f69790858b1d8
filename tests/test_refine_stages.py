"""The stages `edges` and `refine` end to end on generated scenes: what is written, resumed, shared out and refused."""

import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import copy2, copytree
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from clip_tiny import tiny_folder, tiny_model, tiny_sam3
from run_tiny import figures, files_of, run, words
from sam_tiny import tiny_sam_folder
from tag2mask.cams.clip.settings import SeedSettings
from tag2mask.cli import main
from tag2mask.core.provenance import UNKNOWN
from tag2mask.data import AugmentSettings, DataSettings, ImageError, open_images, read_mask, write_mask
from tag2mask.data.cam_files import full_resolution, read_cam, write_cam
from tag2mask.data.corrections import CorrectionsFolder, Decision
from tag2mask.data.loading.datasets import LabelledSet
from tag2mask.data.manifest import ImageItem
from tag2mask.networks import load_network, read_network_info
from tag2mask.networks.checkpoint import NetworkFileError, load_edge_network
from tag2mask.refine.crf import CrfSettings, dense_crf
from tag2mask.refine.masks import ClassMaps
from tag2mask.refine.proposal_models import load_proposals
from tag2mask.refine.proposals import named
from tag2mask.stages import base as stages_base

IRN = {
    "refine__method": "irn+crf",
    "edges__steps": "3",
    "edges__batch_size": "3",
    "edges__augment__crop": "64",
    "edges__augment__long_side": "[56,80]",
    "edges__labels__background_factors": "[1.2,0.6]",
    "cams__kinds": "[classifier,pot]",
}


@pytest.fixture(scope="module")
def done(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run by way of the edge network."""
    out = tmp_path_factory.mktemp("irn") / "out"
    assert run("run", scenes, out, **IRN) == 0
    return out


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(copytree(done, tmp_path / "out"))


def test_what_is_written(done: Path, scenes: Path) -> None:
    for item in open_images(DataSettings(root=scenes, split="train")).items:
        size = Image.open(item.path).size[::-1]
        allowed = {0, 255, *item.tags}
        assert set(np.unique(read_mask(done / f"edges/labels/{item.id}.png", size=size))) <= allowed
        assert set(np.unique(read_mask(done / f"masks/{item.id}.png", size=size))) <= {0, *item.tags}
        with Image.open(done / f"refine/edges/{item.id}.png") as edge:
            assert (edge.mode, edge.size) == ("L", (-(-size[1] // 4), -(-size[0] // 4)))
    lines = [json.loads(line) for line in (done / "edges/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert {"loss", "background", "foreground", "negative"} <= set(lines[0])
    assert set(figures(done)["refine"]["train"]) == {"irn+crf"}
    page = (done / "report.html").read_text()
    assert "Labels for edges" in page and ">Edges<" in page and "Loss of the edge network" in page


def test_the_edge_network_stands_on_the_trained_backbone(done: Path) -> None:
    network = load_edge_network(done / "edges/network.safetensors")
    trained = load_network(done / "train/network.safetensors").backbone.state_dict()
    for name, value in network.backbone.state_dict().items():
        assert torch.equal(value, trained[name]), name
    assert read_network_info(done / "edges/network.safetensors").kind == "edges"
    with pytest.raises(NetworkFileError, match="kind 'edges'; `tag2mask train` makes"):
        load_network(done / "edges/network.safetensors")
    with pytest.raises(NetworkFileError, match="kind 'pot'; `tag2mask edges` makes"):
        load_edge_network(done / "train/network.safetensors")


def test_a_second_run_does_nothing_and_what_is_missing_comes_back_the_same(
    copied: Path, done: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words("run", scenes, copied, **IRN), "--json"]) == 0
    results = {result["stage"]: result for result in json.loads(capsys.readouterr().out)["results"]}
    assert (results["edges"]["done"], results["edges"]["skipped"]) == (0, 1)
    assert (results["refine"]["done"], results["refine"]["skipped"]) == (0, 10)
    for path in sorted((copied / "masks").rglob("*.png"))[::2]:
        path.unlink()
    assert run("refine", scenes, copied, **IRN) == 0
    assert files_of(copied / "masks") == files_of(done / "masks")


def test_shards_make_the_same_labels_and_masks(copied: Path, done: Path, scenes: Path) -> None:
    for shard in ("1/2", "2/2"):
        restart = {"restart": "edges"} if shard == "1/2" else {}
        assert run("edges", scenes, copied, shard=shard, **IRN, **restart) == 0
        assert not (copied / "edges/network.safetensors").exists()
    assert run("edges", scenes, copied, **IRN) == 0
    for shard in ("1/2", "2/2"):
        assert run("refine", scenes, copied, shard=shard, **IRN) == 0
        assert (len(list((copied / "masks").rglob("*.png"))) == 10) == (shard == "2/2")
    for folder in ("edges/labels", "masks"):
        assert files_of(copied / folder) == files_of(done / folder)


def test_an_interrupted_training_goes_on_to_the_same_network(
    copied: Path, done: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = stages_base.train_network

    def stopped(*arguments: object, **named: object) -> object:
        def on_step(step: int, total: int, values: Mapping[str, float]) -> None:
            if step == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        return real(*arguments, **{**named, "on_step": on_step})

    monkeypatch.setattr(stages_base, "train_network", stopped)
    assert run("edges", scenes, copied, restart="edges", **IRN) == 1
    assert "the state is saved" in capsys.readouterr().err
    monkeypatch.undo()
    labels = files_of(copied / "edges/labels")
    assert run("edges", scenes, copied, **IRN) == 0
    assert "resumed at step" in capsys.readouterr().err
    assert files_of(copied / "edges/labels") == labels
    name = "edges/network.safetensors"
    assert (copied / name).read_bytes() == (done / name).read_bytes()


def test_a_mask_follows_its_cam(copied: Path, scenes: Path) -> None:
    cam = sorted((copied / "cams/pot").rglob("*.npz"))[0]
    mask = copied / "masks" / cam.relative_to(copied / "cams/pot").with_suffix(".png")
    before = {path: path.stat().st_mtime_ns for path in (copied / "masks").rglob("*.png")}
    later = max(before.values()) + 10**9
    os.utime(sorted((copied / "cams/pot").rglob("*.npz"))[1], ns=(later, later))  # written again, the same
    found = read_cam(cam)
    write_cam(cam, replace(found, cams=found.cams[:, ::-1]))
    os.utime(cam, ns=(10**9, 10**9))  # by a clock that was set back
    assert run("refine", scenes, copied, **IRN) == 0
    assert [path for path, time in before.items() if path.stat().st_mtime_ns != time] == [mask]


def test_crf_masks_are_those_of_the_cams(copied: Path, scenes: Path) -> None:
    changed = {**IRN, "refine__method": "crf", "refine__crf__preset": "irn", "refine__ignore_below": "0.9"}
    assert run("refine", scenes, copied, restart="refine", **changed) == 0
    for item in open_images(DataSettings(root=scenes, split="train")).items[:3]:
        cam = read_cam(copied / f"cams/pot/{item.id}.npz")
        image = torch.from_numpy(np.array(Image.open(item.path).convert("RGB")))
        maps = ClassMaps(torch.from_numpy(cam.ids).byte(), torch.from_numpy(cam.cams).float()).resized(cam.size)
        marginals = dense_crf(image, maps.maps, CrfSettings("irn"))
        expected = ClassMaps(maps.ids, marginals).labels(0.9)
        assert (read_mask(copied / f"masks/{item.id}.png") == expected.numpy()).all()


def test_masks_by_proposals_resume_and_are_shared_out(
    copied: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_sam_folder(tmp_path / "sam", "sam2", seed=2)
    settings = {**IRN, "refine__method": "proposals", "refine__proposals": str(folder)}
    names = files_of(copied / "masks").keys()
    assert run("refine", scenes, copied, restart="refine", **settings) == 0
    whole = files_of(copied / "masks")
    assert whole.keys() == names
    changed = 0
    images = open_images(DataSettings(root=scenes, split="train"))
    propose = load_proposals(str(folder), SeedSettings(), images.classes, torch.device("cpu"))
    for item in images.items:
        cam = read_cam(copied / f"cams/pot/{item.id}.npz")
        image = torch.from_numpy(np.array(Image.open(item.path).convert("RGB")))
        maps = ClassMaps(torch.from_numpy(cam.ids).byte(), torch.from_numpy(cam.cams).float()).resized(cam.size)
        posterior = dense_crf(image, maps.maps)
        voted = named(posterior, propose(image, maps.ids, maps.maps, posterior))
        expected = maps.ids[voted.argmax(0)]
        changed += int((voted.argmax(0) != posterior.argmax(0)).sum())
        assert (read_mask(copied / f"masks/{item.id}.png") == expected.numpy()).all()
    assert changed
    for path in sorted((copied / "masks").rglob("*.png"))[::2]:
        path.unlink()
    for shard in ("1/2", "2/2"):
        assert run("refine", scenes, copied, shard=shard, **settings) == 0
    assert files_of(copied / "masks") == whole
    capsys.readouterr()
    other = tiny_folder(tmp_path / "clip", tiny_model())
    assert run("refine", scenes, copied, **{**settings, "refine__proposals": str(other)}) == 2
    assert f"refine.proposals was '{folder}' and is '{other}'" in capsys.readouterr().err
    assert run("refine", scenes, copied, restart="refine", **{**settings, "refine__proposals": str(other)}) == 2
    assert "is a model of type 'clip'" in capsys.readouterr().err
    assert files_of(copied / "masks") == whole  # found out before anything was deleted


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that a hub has of every model; the hub's client is replaced."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    files, cache = tmp_path / "hub", tmp_path / "cache"
    files.mkdir()

    def snapshot_download(_: str, *, allow_patterns: Sequence[str] = (), local_files_only: bool = False) -> str:
        if local_files_only and not cache.is_dir():
            raise LocalEntryNotFoundError("nothing here")
        cache.mkdir(exist_ok=True)
        for name in allow_patterns:
            copy2(files / name, cache / name)
        return str(cache)

    def model_info(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=each.name, size=9) for each in files.iterdir()])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "model_info", model_info)
    return files


def test_a_model_by_name_is_recorded_with_all_of_its_files(copied: Path, scenes: Path, hub: Path) -> None:
    tiny_folder(hub, tiny_sam3(3))
    model = {"refine__method": "proposals", "refine__proposals": "someone/sam3"}
    assert run("refine", scenes, copied, restart="refine", **model) == 0
    record = (copied / "refine/stage.json").read_bytes()
    assert run("refine", scenes, copied, **model) == 0
    assert (copied / "refine/stage.json").read_bytes() == record
    assert UNKNOWN not in json.loads(record)["settings"].values()


def test_masks_by_sam3_keep_their_words_and_need_no_model_once_they_are_made(
    copied: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = tiny_folder(tmp_path / "sam3", tiny_sam3(3)), tmp_path / "words.yaml"
    classes = open_images(DataSettings(root=scenes, split="train")).classes
    file.write_text(f"classes:\n  {classes[0]}: [a thing, mug]\n")
    model = {"refine__method": "proposals", "refine__proposals": str(folder)}
    before = files_of(copied / "masks")
    for path, damage in ((folder / "vocab.json", b""), (folder / "model.safetensors", b"{}"), (file, b"class: 3\n")):
        kept = path.read_bytes()
        path.write_bytes(damage)
        assert run("refine", scenes, copied, restart="refine", seeds__prompts=str(file), **model) in (1, 2)
        assert path.parent.name in capsys.readouterr().err and files_of(copied / "masks") == before
        path.write_bytes(kept)
    assert run("refine", scenes, copied, restart="refine", seeds__prompts=str(file), **model) == 0
    made, record = files_of(copied / "masks"), (copied / "refine/stage.json").read_bytes()
    assert made != before
    next((copied / "masks").rglob("*.png")).unlink()
    assert run("refine", scenes, copied, **model) == 0  # the words are those of the run
    assert files_of(copied / "masks") == made and (copied / "refine/stage.json").read_bytes() == record
    folder.rename(tmp_path / "away")
    assert run("refine", scenes, copied, **model) == 0
    assert (copied / "refine/stage.json").read_bytes() == record
    (tmp_path / "away").rename(folder)
    for name, value in (("prompts", "coco"), ("precision", "bf16")):
        capsys.readouterr()
        assert run("refine", scenes, copied, **model, **{f"seeds__{name}": value}) == 2
        assert f"seeds.{name} was" in capsys.readouterr().err


def test_three_masks_by_hand_give_the_threshold_of_their_class(
    copied: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"refine__cams": "classifier", "refine__background_threshold": "0.3", "refine__method": "argmax"}
    assert run("refine", scenes, copied, restart="refine", **settings) == 0
    images = open_images(DataSettings(root=scenes, split="train"))
    own = next(number for number in (1, 2, 3) if sum(item.tags == (number,) for item in images.items) >= 3)
    alone = [item for item in images.items if item.tags == (own,)]

    def above(item: ImageItem, threshold: float) -> np.ndarray:
        found: np.ndarray = own * (full_resolution(read_cam(copied / f"cams/classifier/{item.id}.npz"))[0] > threshold)
        return found.astype(np.uint8)

    def decide(number: int) -> None:
        folder = CorrectionsFolder(copied / "corrections", images.classes)
        folder.write(alone[number].id, Decision.now("corrected"), above(alone[number], 0.62))

    before = files_of(copied / "masks")
    for number in (0, 1):
        decide(number)
    assert run("refine", scenes, copied, **settings) == 0
    assert files_of(copied / "masks") == before  # two are too few
    assert run("confidence", scenes, copied) == 0
    confident = files_of(copied / "confidence/features")
    decide(2)
    assert main([*words("refine", scenes, copied, **settings), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["results"][0]
    assert f"{images.classes[own - 1]} 0.62" in " ".join(result["notes"])
    assert result["done"] == sum(own in item.tags for item in images.items)
    for item in alone:
        assert (read_mask(copied / f"masks/{item.id}.png") == above(item, 0.62)).mean() > 0.999
    assert run("confidence", scenes, copied) == 0
    now = files_of(copied / "confidence/features")
    assert [name for name, data in confident.items() if now[name] == data] == []
    masks = files_of(copied / "masks")
    assert run("refine", scenes, copied, restart="refine", **{**settings, "refine__long_side": "40"}) == 0
    found = files_of(copied / "masks")
    assert {name for name in masks if name.endswith(".png") and found[name] != masks[name]} == set()
    assert main([*words("refine", scenes, copied, **{**settings, "data__split": "val"}), "--json"]) == 1
    assert f"{images.classes[own - 1]} 0.62" in capsys.readouterr().out  # they count for other splits, too


def test_an_image_is_refined_at_the_size_asked_for(copied: Path, scenes: Path) -> None:
    """Masks keep the image's size; edges show the size of the work."""
    assert run("run", scenes, copied, restart="edges", **{**IRN, "refine__long_side": "40"}) == 0
    item = open_images(DataSettings(root=scenes, split="train")).items[0]
    with Image.open(copied / f"refine/edges/{item.id}.png") as edge:
        assert max(edge.size) == 10
    assert max(Image.open(copied / f"edges/labels/{item.id}.png").size) == 40
    assert Image.open(copied / f"masks/{item.id}.png").size == Image.open(item.path).size


def test_what_is_refused_says_what_to_do(
    copied: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("refine", scenes, copied, **{**IRN, "refine__method": "crf"}) == 2
    assert "refine.method was 'irn+crf' and is 'crf'" in capsys.readouterr().err
    assert run("refine", scenes, copied, **{**IRN, "refine__walk__beta": "8"}) == 2
    assert "walk.beta was 10.0 and is 8.0" in capsys.readouterr().err
    assert run("edges", scenes, copied, **{**IRN, "edges__learning_rate": "7"}) == 2
    assert "edges.learning_rate was 0.1 and is 7.0" in capsys.readouterr().err
    assert run("edges", scenes, copied, **{**IRN, "data__split": "val"}) == 2
    assert "data.split was 'train' and is 'val'" in capsys.readouterr().err
    for name, value, said in (
        ("edges__backbone", "resnet51", "edges.backbone should be one of resnet18"),
        ("edges__precision", "fp16", "edges.precision fp16 needs a GPU"),
    ):
        again = Path(copytree(copied, tmp_path / name))
        assert run("edges", scenes, again, restart="edges", **{**IRN, name: value}) == 2
        assert said in capsys.readouterr().err
        assert files_of(again / "edges") == files_of(copied / "edges")  # found out before anything was deleted
    assert run("run", scenes, copied, restart="edges", **{**IRN, "refine__method": "crf"}) == 2
    assert "it does with --refine.method irn or irn+crf" in capsys.readouterr().err
    (copied / "edges/network.safetensors").unlink()
    assert run("refine", scenes, copied, **IRN) == 2
    assert "run `tag2mask edges " in capsys.readouterr().err
    assert run("edges", scenes, tmp_path / "new", **IRN) == 2
    assert "run `tag2mask cams " in capsys.readouterr().err


def test_settings_without_effect_are_not_held_against_a_run(copied: Path, scenes: Path) -> None:
    for name, value in (
        ("refine__background_threshold", "0.5"),  # POT's CAMs have a background of their own
        ("refine__walk__background_level", "0.1"),
        ("edges__weights", "none"),  # of another backbone than the run's own
        ("edges__epochs", "9"),  # the steps are given
        ("train__log_every", "2"),
    ):
        for stage in ("edges", "refine"):
            assert run(stage, scenes, copied, **{**IRN, name: value}) == 0, name


def test_figures_carry_the_method_of_the_masks_that_are_there(copied: Path, scenes: Path) -> None:
    (copied / "metrics.json").unlink()
    assert run("edges", scenes, copied, **{**IRN, "refine__method": "crf"}) == 0
    assert main(["refine", str(copied), "--dry-run"]) == 0
    assert run("evaluate", scenes, copied, **{**IRN, "refine__method": "crf"}) == 0
    assert set(figures(copied)["refine"]["train"]) == {"irn+crf"}


def test_changed_and_missing_cams_are_noted(copied: Path, scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cams = sorted((copied / "cams/pot").rglob("*.npz"))
    found = read_cam(cams[0])
    write_cam(cams[0], replace(found, cams=found.cams[:, ::-1]))
    assert run("edges", scenes, copied, **IRN) == 0
    assert "1 CAM files changed since the labels were written" in capsys.readouterr().err
    (copied / "edges/network.safetensors").unlink()
    (copied / "edges/state.pt").unlink()
    cams[1].unlink()
    assert run("edges", scenes, copied, **IRN) == 1  # nine teach, the tenth is named
    assert "does not exist, so it has no labels" in capsys.readouterr().err
    assert (copied / "edges/network.safetensors").is_file()


def test_labels_of_another_shape_are_no_labels(scenes: Path, tmp_path: Path) -> None:
    images = open_images(DataSettings(root=scenes, split="train"))
    for number, item in enumerate(images.items):
        shape = (20, 60) if number == 0 else (32, 32)
        write_mask(tmp_path / f"{item.id}.png", np.ones(shape, dtype=np.uint8))
    samples = LabelledSet(images, tmp_path, AugmentSettings(crop=16, long_side=(16, 24)), seed=0)
    assert samples[0, 1]["labels"].shape == (16, 16)
    with pytest.raises(ImageError, match="60 × 20 pixels do not have the proportions"):
        samples[0, 0]


def test_an_edge_network_made_again_makes_the_masks_stale(
    copied: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("edges", scenes, copied, restart="edges", **{**IRN, "edges__learning_rate": "0.05"}) == 0
    assert not (copied / "masks").exists()  # what read the old one went with it
    assert run("run", scenes, copied, **{**IRN, "edges__learning_rate": "0.05"}) == 0
    capsys.readouterr()


def test_a_damaged_cam_and_a_missing_image_cost_one_mask_each(
    copied: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cams = sorted((copied / "cams/pot").rglob("*.npz"))
    cams[0].write_bytes(b"half a file")
    cams[1].unlink()
    assert run("refine", scenes, copied, restart="refine", **IRN) == 1
    said = capsys.readouterr().err
    assert "is damaged" in said and "does not exist" in said and "refine: 8 done, 2 failed" in said


def test_the_plan_names_the_edges_where_they_are_needed(
    copied: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words("run", scenes, tmp_path / "new", **IRN), "--dry-run"]) == 0
    assert "edges: 10 labels to write, then 3 steps of 3 images" in capsys.readouterr().out
    assert main([*words("run", scenes, tmp_path / "new"), "--dry-run"]) == 0
    assert "edges:" not in capsys.readouterr().out
