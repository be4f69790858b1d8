"""The stages end to end through the command line, on generated scenes: what is written, skipped, refused and redone."""

import json
import platform
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from run_tiny import Capture, figures, files_of, run, words
from tag2mask.cli import main
from tag2mask.cli.commands import COMMANDS
from tag2mask.cli.parsing import parse
from tag2mask.core.device import emulates_bf16
from tag2mask.data import DataSettings, open_images, read_mask, write_mask
from tag2mask.data.cam_files import full_resolution, read_cam
from tag2mask.networks import NetworkSettings, build_network
from tag2mask.runs.config import CamSettings, Config, presets
from tag2mask.stages.registry import slow_settings


def test_a_run_writes_all_that_the_design_names(done: Path, scenes: Path) -> None:
    images = open_images(DataSettings(root=scenes, split="train"))
    for item in images.items:
        size = Image.open(item.path).size[::-1]
        for kind in ("classifier", "prototype", "pot"):
            cam = read_cam(done / f"cams/{kind}/{item.id}.npz")
            assert tuple(cam.ids) == (item.tags if kind == "classifier" else (0, *item.tags))
            assert cam.size == size
            assert cam.cams.shape[1:] == (4, 4)
        assert read_cam(done / f"cams/pot/{item.id}.npz").allocation is not None
        assert read_mask(done / f"masks/{item.id}.png", classes=2).shape == size
    for name in (
        "config.yaml",
        "environment.json",
        "metrics.json",
        "report.html",
        "train/network.safetensors",
        "train/log.jsonl",
    ):
        assert (done / name).is_file(), name


def test_the_masks_are_the_argmax_of_the_cams_at_full_size_and_measured_alike(done: Path, scenes: Path) -> None:
    for item in open_images(DataSettings(root=scenes, split="train")).items:
        cam = read_cam(done / f"cams/pot/{item.id}.npz")
        expected = np.asarray(cam.ids)[full_resolution(cam).argmax(0)]
        assert (read_mask(done / f"masks/{item.id}.png") == expected).all()
    measured = figures(done)
    assert set(measured) == {"cams", "refine"}
    assert set(measured["cams"]["train"]) == {"classifier", "prototype", "pot"}
    masks, cams = measured["refine"]["train"]["argmax"]["miou"], measured["cams"]["train"]["pot"]["miou"]
    assert 0 <= masks <= 1 and masks == pytest.approx(cams)


def test_a_second_run_does_nothing_again(copied: Path, scenes: Path, capsys: Capture) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*.npz")} | {
        path: path.stat().st_mtime_ns for path in copied.rglob("masks/**/*.png")
    }
    assert main([*words("run", scenes, copied), "--json"]) == 0
    results = {result["stage"]: result for result in json.loads(capsys.readouterr().out)["results"]}
    assert results["train"] == {**results["train"], "done": 0, "skipped": 1}
    assert results["cams"] == {**results["cams"], "done": 0, "skipped": 10}
    assert results["refine"] == {**results["refine"], "done": 0, "skipped": 10}
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_what_is_missing_is_made_again_the_same(copied: Path, done: Path, scenes: Path) -> None:
    for path in (*sorted((copied / "cams/pot").rglob("*.npz"))[::3], *sorted((copied / "masks").rglob("*.png"))[::2]):
        path.unlink()
    damaged = sorted((copied / "cams/classifier").rglob("*.npz"))[0]
    damaged.write_bytes(b"half a file")
    assert run("run", scenes, copied) == 0
    for folder in ("cams", "masks"):
        assert files_of(copied / folder) == files_of(done / folder)


def test_files_deleted_under_a_run_cost_themselves_alone(
    done: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    data, out = Path(copytree(scenes, tmp_path / "data")), Path(copytree(done, tmp_path / "out"))
    for mask in (out / "masks").rglob("*.png"):
        mask.unlink()
    images = open_images(DataSettings(root=data, split="train")).items
    cam, image = out / f"cams/pot/{images[-2].id}.npz", images[-1].path
    content = image.read_bytes()

    def write(path: Path, mask: np.ndarray, **options: str) -> None:
        write_mask(path, mask, **options)
        cam.unlink(missing_ok=True)
        image.unlink(missing_ok=True)

    monkeypatch.setattr("tag2mask.stages.refine.write_mask", write)
    assert run("refine", data, out, refine__batch_size="1") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert str(cam.name) in said and str(image.name) in said and "Traceback" not in said
    assert len(list((out / "masks").rglob("*.png"))) == 8
    monkeypatch.undo()
    image.write_bytes(content)
    assert run("run", data, out) == 0
    assert files_of(out / "masks") == files_of(done / "masks")
    assert files_of(out / "cams") == files_of(done / "cams")


def test_shards_make_the_same_files_as_one_process(copied: Path, done: Path, scenes: Path) -> None:
    assert run("cams", scenes, copied, restart="cams", shard="1/3") == 0
    some = len(list((copied / "cams/pot").rglob("*.npz")))
    assert 0 < some < 10
    for shard in ("2/3", "3/3"):
        assert run("cams", scenes, copied, shard=shard) == 0
    assert files_of(copied / "cams") == files_of(done / "cams")


def test_the_run_remembers_its_settings(copied: Path, capsys: Capture) -> None:
    assert main(["run", "--out", str(copied), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "train: done already" in said and "cams: 0 images to do" in said
    assert main(["cams", str(copied), "--print-config"]) == 0
    saved = yaml.safe_load((copied / "config.yaml").read_text())
    assert saved.pop("format") == 5
    assert yaml.safe_load(capsys.readouterr().out) == {**saved, "out": str(copied), "limit": None, "shard": None}


@pytest.mark.parametrize("number", [None, 4, 6])
def test_a_run_of_another_version_is_refused(
    number: int | None, copied: Path, scenes: Path, tmp_path: Path, capsys: Capture
) -> None:
    settings = yaml.safe_load((copied / "config.yaml").read_text())
    assert settings.pop("format") == json.loads((copied / "train/stage.json").read_text())["format"] == 5
    (copied / "config.yaml").write_text(yaml.safe_dump(settings if number is None else {"format": number, **settings}))
    before = files_of(copied)
    named, place = "no format" if number is None else f"format {number}", str(copied)
    for command in (
        ["run", "--out", place],
        ["run", "--out", place, "--config", "own", "--dry-run"],
        ["train", str(scenes), "--out", place, "--restart", "train"],
        ["cams", place],
        ["evaluate", place],
        ["evaluate", f"{place}/masks", "--data.root", str(scenes)],
        ["report", place],
        ["review", place],
        ["predict", place, str(scenes), "--out", str(tmp_path / "masks")],
        ["export", "coco", place, "--out", str(tmp_path / "coco")],
        ["import", "masks", str(scenes / "masks"), place],
        ["check", str(scenes), "--with", place],
    ):
        assert main(command) == 2, command
        assert capsys.readouterr().err.replace("\n", " ").strip() == (
            f"error: {place} was made by another version of tag2mask ({named}, this one reads 5); use that version, "
            "or another --out"
        )
    assert files_of(copied) == before


def test_a_stage_of_another_version_is_refused_and_another_settings_file(
    copied: Path, scenes: Path, tmp_path: Path, capsys: Capture
) -> None:
    record = json.loads((copied / "cams/stage.json").read_text())
    (copied / "cams/stage.json").write_text(json.dumps({**record, "format": 3}))
    assert main(["cams", str(copied)]) == 2
    assert f"{copied} was made by another version of tag2mask (format 3," in capsys.readouterr().err
    settings = (copied / "config.yaml").read_text()
    for number, code in ((5, 0), (3, 2)):
        (tmp_path / "mine.yaml").write_text(settings.replace("format: 5\n", f"format: {number}\n"))
        command = ["run", str(scenes), "--out", str(tmp_path / "new"), "--config", str(tmp_path / "mine.yaml")]
        assert main([*command, "--dry-run"]) == code
    assert "mine.yaml was made by another version of tag2mask (format 3," in capsys.readouterr().err


def test_a_changed_setting_is_refused_by_name_and_restarted_on_request(
    copied: Path, scenes: Path, capsys: Capture
) -> None:
    assert run("cams", scenes, copied, pot__num_prototypes="2") == 2
    said = capsys.readouterr().err
    assert "pot.num_prototypes was 3 and is 2" in said and "--restart cams" in said
    assert run("run", scenes, copied, refine__cams="prototype") == 2
    assert "refine.cams was 'pot' and is 'prototype'" in capsys.readouterr().err
    assert run("run", scenes, copied, cams__flip="true", pot__num_prototypes="2", restart="train") == 0
    assert read_cam(next((copied / "cams/pot").rglob("*.npz"))).clusters == 2


def test_a_restart_redoes_what_reads_the_stage(copied: Path, done: Path, scenes: Path) -> None:
    network = (copied / "train/network.safetensors").stat().st_mtime_ns
    assert run("cams", scenes, copied, restart="cams") == 0
    assert files_of(copied / "cams") == files_of(done / "cams")
    assert not (copied / "masks").exists() and not (copied / "report.html").exists()
    assert (copied / "train/network.safetensors").stat().st_mtime_ns == network


def test_what_is_refused_leaves_the_run_as_it_was(copied: Path, scenes: Path, capsys: Capture) -> None:
    before = files_of(copied)
    assert run("refine", scenes, copied, restart="cams") == 2
    assert "--restart cams would delete what refine does not make again" in capsys.readouterr().err
    assert run("run", scenes, copied, restart="train", data__root="typo") == 2
    assert run("run", scenes, copied, restart="refine", cams__flip="true") == 2  # the CAMs stay, so they must fit
    assert run("run", scenes, copied, cams__flip="true") == 2
    assert files_of(copied) == before
    assert main(["run", "--out", str(copied)]) == 0


@pytest.mark.parametrize(
    ("verb", "name", "value", "said"),
    [
        ("seeds", "seeds__from_npy", "/nowhere", "/nowhere is not a folder"),
        ("cams", "cams__kinds", "[pot,fused]", "`fused` needs base CAMs"),
        ("refine", "refine__cams", "fused", "cams/fused does not exist"),
        ("run", "refine__cams", "fused", "refine.cams fused is none of cams.kinds, classifier, prototype, pot"),
        ("evaluate", "evaluate__splits", "[train,vall]", "vall"),
        ("evaluate", "evaluate__classes", "[unicorn]", "unicorn is not among the classes"),
        ("run", "evaluate__classes", "[unicorn]", "unicorn is not among the classes"),
        ("report", "report__images", "-1", "report: images should not be negative, received -1"),
    ],
)
def test_settings_that_a_stage_refuses_are_not_remembered(
    verb: str, name: str, value: str, said: str, copied: Path, capsys: Capture
) -> None:
    before = files_of(copied)
    place = [str(copied)] if COMMANDS[verb].run else ["--out", str(copied)]
    restart = [] if verb == "report" else ["--restart", verb if verb != "run" else "refine"]
    assert main([verb, *place, f"--{name.replace('__', '.')}", value, *restart]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert files_of(copied) == before


def test_a_stage_run_alone_is_remembered(copied: Path, scenes: Path) -> None:
    assert run("cams", scenes, copied, restart="cams", cams__flip="true", data__split="val") == 0
    saved = yaml.safe_load((copied / "config.yaml").read_text())
    assert saved["cams"]["flip"] is True and saved["data"]["split"] == "train"
    assert main(["cams", str(copied)]) == 0


def test_a_relative_path_means_the_same_when_the_run_is_taken_up(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_network(NetworkSettings(backbone="resnet18", weights="none"), ("any",), seed=0)
    save_file(network.backbone.state_dict(), tmp_path / "weights.safetensors")
    monkeypatch.chdir(tmp_path)
    settings = {"network__backbone": "resnet18", "network__weights": "weights.safetensors"}
    assert run("train", scenes, tmp_path / "out", train__steps="1", **settings) == 0
    monkeypatch.chdir(scenes)
    assert main(["run", "--out", str(tmp_path / "out")]) == 0


def test_a_start_that_fails_does_not_stand_in_the_way(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("train", scenes, out, network__backbone="resnet18", network__weights="typo.pth") in (1, 2)
    assert run("train", scenes, out, train__steps="1") == 0


def test_masks_that_no_run_made_are_never_overwritten(scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    copytree(scenes / "masks", out / "masks")
    before = files_of(out)
    for restart in ({}, {"restart": "refine"}, {"restart": "train"}):
        assert run("run", scenes, out, **restart) == 2
        assert "was not made by a run" in capsys.readouterr().err
        assert files_of(out) == before


def test_a_run_folder_among_the_images_is_refused(scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    data = Path(copytree(scenes, tmp_path / "data"))
    assert run("run", data, data / "run") == 2
    assert "lies inside the data root" in capsys.readouterr().err
    assert not (data / "run").exists()


def test_a_dry_run_writes_nothing(scenes: Path, tmp_path: Path) -> None:
    assert main([*words("run", scenes, tmp_path / "out"), "--dry-run"]) == 0
    assert main(["demo", "--quick", "--out", str(tmp_path / "demo"), "--dry-run"]) == 0
    assert not list(tmp_path.iterdir())


def test_another_class_list_is_refused_by_name(copied: Path, scenes: Path, capsys: Capture) -> None:
    names = open_images(DataSettings(root=scenes)).classes
    assert run("cams", scenes, copied, data__classes=",".join([*names, "unicorn"])) == 2
    said = capsys.readouterr().err
    assert "started with the classes" in said and "new: unicorn" in said


def test_changed_tags_are_noticed_by_image(copied: Path, done: Path, scenes: Path, tmp_path: Path) -> None:
    lines = (scenes / "tags.csv").read_text().splitlines()
    names = open_images(DataSettings(root=scenes)).classes
    changed = next(i for i, line in enumerate(lines) if "train/" in line and ";" not in line)
    image, tag, split = lines[changed].split(",")
    lines[changed] = f"{image},{next(name for name in names if name != tag)},{split}"
    (tmp_path / "tags.csv").write_text("\n".join(lines) + "\n")
    assert run("cams", scenes, copied, data__tags=str(tmp_path / "tags.csv")) == 0
    before, after = files_of(done / "cams/pot"), files_of(copied / "cams/pot")
    assert [name for name in before if before[name] != after[name]] == [image.rsplit(".", 1)[0] + ".npz"]


def test_a_bad_image_is_reported_and_the_rest_is_done(scenes: Path, copied: Path, tmp_path: Path) -> None:
    data = Path(copytree(scenes, tmp_path / "data"))
    broken = sorted((data / "train").glob("*.jpg"))[3]
    broken.write_bytes(broken.read_bytes()[:700])
    assert run("cams", data, copied, restart="cams") == 1
    assert len(list((copied / "cams/pot").rglob("*.npz"))) == 9
    assert run("refine", data, copied) == 1
    assert len(list((copied / "masks").rglob("*.png"))) == 9
    assert run("run", data, copied) == 1  # the figures and the page are made all the same
    assert figures(copied)["refine"]["train"]["argmax"]["images"] == 9


def test_images_without_tags_get_masks_of_background(scenes: Path, tmp_path: Path) -> None:
    lines = (scenes / "tags.csv").read_text().splitlines()
    changed = next(i for i, line in enumerate(lines) if "train/" in line)
    image, _, split = lines[changed].split(",")
    lines[changed] = f"{image},,{split}"
    (tmp_path / "tags.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    assert run("run", scenes, out, data__tags=str(tmp_path / "tags.csv"), train__steps="1") == 0
    assert not read_mask(out / f"masks/{image.rsplit('.', 1)[0]}.png").any()


def test_evaluate_measures_the_run_and_any_folder(
    done: Path, copied: Path, scenes: Path, capsys: Capture, tmp_path: Path
) -> None:
    data = ["--data.root", str(scenes), "--data.masks", str(scenes / "masks"), "--data.split", "train"]
    assert main(["evaluate", str(scenes / "masks" / "train"), *data]) == 2  # the IDs begin with train/
    capsys.readouterr()
    assert main(["evaluate", str(done / "masks"), *data, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["miou"] == pytest.approx(
        figures(done)["refine"]["train"]["argmax"]["miou"]
    )
    (copied / "metrics.json").unlink()
    assert main(["evaluate", str(copied)]) == 0
    assert figures(copied) == figures(done)
    perfect = tmp_path / "perfect"
    copytree(scenes / "masks" / "train", perfect / "train")
    capsys.readouterr()
    assert main(["evaluate", str(perfect), *data, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["miou"] == 1


def test_without_truth_a_run_still_ends_with_masks_and_a_page(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [
        word
        for word in words("run", scenes, out, train__steps="1")
        if word not in ("--data.masks", str(scenes / "masks"))
    ]
    assert main(arguments) == 0
    assert (out / "report.html").is_file() and len(list((out / "masks").rglob("*.png"))) == 10


@pytest.mark.parametrize("name", sorted(presets()))
def test_presets_are_complete_and_known(name: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["run", "--config", name, "--out", str(tmp_path / "x"), "--print-config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    for section, values in yaml.safe_load(presets()[name].read_text()).items():
        for key, value in values.items():
            assert printed[section][key] == value or isinstance(value, dict), f"{section}.{key}"
    assert not (tmp_path / "x").exists()


def test_a_run_keeps_the_precision_of_the_machine_that_it_began_on(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tag2mask.core.device.emulates_bf16", lambda device: False)
    for recipe in ([], ["--config", "own"], ["--config", "frozen"]):
        parsed = parse("run", COMMANDS["run"], ["--out", str(copied), *recipe])
        assert parsed is not None and parsed[1].config.cams.precision == parsed[1].config.predict.precision == "fp32"
    parsed = parse("run", COMMANDS["run"], ["--out", str(copied / "new")])
    assert parsed is not None and parsed[1].config.cams.precision == parsed[1].config.predict.precision == "bf16"


def test_a_processor_is_asked_for_bf16() -> None:
    flags = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not flags.is_file():
        pytest.skip("its flags are not known here")
    has = {"avx512_bf16", "amx_bf16"} & {*flags.read_text(encoding="utf-8").split()}
    assert emulates_bf16(torch.device("cpu")) is not bool(has)


@pytest.mark.parametrize("emulated", [True, False])
def test_bf16_without_instructions_for_it_is_warned_of(emulated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tag2mask.stages.registry.emulates_bf16", lambda device: emulated)
    config = Config(cams=CamSettings(precision="bf16"), device="cpu")
    assert slow_settings(config, ["train"]) == []
    warned = slow_settings(config, ["train", "cams"])
    assert len(warned) == emulated and all("--cams.precision" in sentence for sentence in warned)


FAULTS = """
import resource, torch
from tag2mask.core.device import retained_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(1 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with retained_memory():
    pass
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the thresholds are glibc's")
def test_tensors_are_not_mapped_anew_after_a_training() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 1000  # 4 MB are a thousand pages; ten tensors would be ten thousand
