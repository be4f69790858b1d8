"""The doctor: it answers on broken machines too, names what mends them, and asks no network."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tag2mask.cli import main
from tag2mask.core import hardware
from tag2mask.doctor import diagnosis, machine
from tag2mask.doctor.diagnosis import needs
from tag2mask.doctor.findings import Finding, Requirements, Weights
from tag2mask.doctor.machine import PROGRAMS, Probe, probe
from tag2mask.runs.config import Config

TORCH = Probe(True, {"cuda": None, "hip": None, "gpus": [], "threads": 2})
SOUND = {name: TORCH if name == "torch" else Probe(True) for name in PROGRAMS}


@pytest.fixture
def well(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which every import works, with memory to spare."""
    monkeypatch.setattr(diagnosis, "Probes", lambda names: {name: SOUND[name] for name in PROGRAMS})
    monkeypatch.setattr(diagnosis, "memory", lambda: (64_000_000_000, 60_000_000_000))


def stage(answer: dict[str, Any], name: str) -> tuple[str, str, str]:
    """State of a stage, what was found, and its remedies."""
    found = answer["needs"][name]
    words = ("; ".join(each[key] for each in found["findings"] if each[key]) for key in ("what", "remedy"))
    return (found["state"], *words)


def ask(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> dict[str, Any]:
    assert main(["doctor", "--json", *words]) == code
    return dict(json.loads(capsys.readouterr().out))


def test_text_and_json_say_the_same(well: None, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask(capsys, 0)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert found["sound"] and text.splitlines()[-1].startswith("sound: ")
    for name in ("seeds", "train", "cams", "edges", "refine", "segment", "export onnx", "tensorboard"):
        state, _, remedies = stage(found, name)
        assert any(line.split(f"  {name} ")[-1].strip().startswith(state) for line in text.splitlines())
        assert all(remedy in text for remedy in remedies.split("; ") if remedy)
    for name, version in found["versions"].items():
        assert name in text and (version or "not installed") in text


def test_weights_are_those_of_the_settings_and_looked_for_in_caches_alone(
    well: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    config = tmp_path / "mine.yaml"
    config.write_text("network:\n  backbone: resnet34\n")
    found = ask(capsys, 0, "--config", str(config))
    state, what, remedy = stage(found, "train")
    assert state == "download" and "weights of resnet34 (83.3 MiB) are downloaded" in what
    assert f"{tmp_path}/hub/checkpoints/resnet34-b627a593.pth" in remedy
    file = tmp_path / "hub/checkpoints/resnet34-b627a593.pth"
    file.parent.mkdir(parents=True)
    file.touch()
    assert stage(ask(capsys, 0, "--config", str(config)), "train")[0] == "ok"
    found = ask(capsys, 1, "--network.weights", str(tmp_path / "gone.pth"))
    assert stage(found, "train")[0] == "missing" and not found["sound"]
    found = ask(capsys, 0, "--network.backbone", "nobody/no-such-model", "--network.weights", "none")
    assert "hf download nobody/no-such-model" in stage(found, "train")[2]
    found = ask(capsys, 0, "--seeds.model", "facebook/sam3", "--config", str(config))
    assert "when it is first needed (licence: SAM License, gated: ask for access at" in stage(found, "seeds")[1]


@pytest.mark.parametrize(("kind", "without_words"), [("sam3_video", "download"), ("sam2_video", "ok")])
def test_a_sam3_of_proposals_needs_its_tokenizer(
    well: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    without_words: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    (tmp_path / "model.safetensors").touch()
    words = ("--refine.method", "proposals", "--refine.proposals", "some/model")
    assert stage(ask(capsys, 0, *words), "refine")[0] == without_words
    (tmp_path / "tokenizer.json").touch()
    assert stage(ask(capsys, 0, *words), "refine")[0] == "ok"


def test_each_line_is_shown_when_it_is_known(well: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown: list[str] = []
    asked: dict[str, int] = {}

    class Slow:
        def __init__(self, names: object) -> None: ...

        def __getitem__(self, name: str) -> Probe:
            asked.setdefault(name, len(shown))
            return SOUND[name]

    monkeypatch.setattr(diagnosis, "Probes", Slow)
    found = diagnosis.diagnose(Config, tmp_path, shown.append)
    assert any("disk of" in line for line in shown[: asked["torch"]]), "what needs no torch does not wait for it"
    assert any(line.split()[:2] == ["refine", "ok"] for line in shown[: asked["onnx"]])
    assert "after a download for train, segment" in found.verdict()


def test_a_broken_torch_is_reported_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')\n")
    paths = os.pathsep.join([str(tmp_path), *(path for path in sys.path if path)])
    asked = {"capture_output": True, "text": True, "env": {**os.environ, "PYTHONPATH": paths}}
    done = subprocess.run([sys.executable, "-m", "tag2mask", "doctor", "--json", "--config", "own"], **asked)
    assert (done.returncode, done.stderr) == (1, "")
    found = json.loads(done.stdout)
    for name in ("train", "cams", "refine", "segment"):
        state, what, remedy = stage(found, name)
        assert state == "missing" and "libcudart.so.13" in what and "pip install --force-reinstall 'torch" in remedy
    assert "libcudart.so.13" in found["machine"]["torch"]
    assert found["versions"]["numpy"]
    done = subprocess.run([sys.executable, "-m", "tag2mask", "train", "--out", str(tmp_path / "run")], **asked)
    assert done.returncode == 1 and "`tag2mask doctor` shows what is missing" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("program", "works", "reason"),
    [
        ("values = {'a': 1}", True, ""),
        ("raise RuntimeError('no such operator')", False, "RuntimeError: no such operator"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", False, "torch was ended by signal 11"),
        ("import sys\nsys.exit(3)", False, "exit code 3"),
    ],
)
def test_an_import_that_ends_its_process_is_only_a_finding(
    program: str, works: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "PROGRAMS", {"torch": program})
    found = probe("torch")
    assert found.works is works and reason in found.reason
    assert found.values == ({"a": 1} if works else {})


def test_a_torchvision_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "memory", lambda: (None, None))
    vision, broken = Probe(False, reason="operator torchvision::nms does not exist"), Probe(False, reason="no module")
    weights = [Weights("train", Finding("a model"), hub=True)]

    def of(transformers: Probe, torchvision: Probe, installed: str | None) -> dict[str, Requirements]:
        found = SOUND | {"transformers": transformers, "torchvision": torchvision}
        return {need.name: need for need in needs(found, installed, weights)}

    found = of(broken, vision, "0.20")
    assert found["train"].state == found["seeds"].state == "missing"
    assert any("pip uninstall torchvision" in each.remedy for each in found["train"].findings)
    assert found["cams"].state == "unknown"  # memory; transformers is not needed there
    assert of(Probe(True), vision, "0.20")["train"].state == "warning"
    alone = of(broken, Probe(None), None)["seeds"]
    assert not any("torchvision" in each.remedy for each in alone.findings)


def test_little_memory_and_no_extras_are_told_and_do_not_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = {name: Probe(False, reason=f"No module named '{name}'") for name in ("onnx", "tensorboard", "webdataset")}
    monkeypatch.setattr(diagnosis, "Probes", lambda names: SOUND | gone)
    monkeypatch.setattr(diagnosis, "memory", lambda: (4_000_000_000, 3_000_000_000))
    found = ask(capsys, 0)
    assert "3.0 GB of memory free, about 6.0 GB wanted" in stage(found, "train")[1]
    assert "--train.gradient_accumulation_steps 4" in stage(found, "train")[2]
    assert stage(found, "refine")[0] == "ok"
    for name, extra in (("export onnx", "onnx"), ("tensorboard", "tensorboard"), ("export shards", "shards")):
        assert stage(found, name)[0] == "missing" and f"pip install 'tag2mask[{extra}]'" in stage(found, name)[2]


def test_gpus_and_what_cannot_be_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpu = Probe(True, TORCH.values | {"cuda": "12.8", "gpus": [["H200", 140e9, 130e9, True]]})
    known = machine.devices(gpu)
    assert known["GPU 0"] == "H200, 140.0 GB, 130.0 GB free, bf16 yes" and "CUDA 12.8" in known["torch"]
    monkeypatch.setattr(machine, "memory", lambda: (None, None))
    monkeypatch.setattr(machine, "cores", lambda: None)
    monkeypatch.setattr(machine, "disk_free", lambda folder: None)
    known = machine.facts(tmp_path) | machine.devices(Probe(None, reason="it took too long"))
    assert known["memory"] == "unknown, unknown free" and known["GPU"] == "unknown"
    assert known["processor cores"] == "unknown"


def test_a_temporary_folder_that_cannot_be_written_to(
    well: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    found = ask(capsys, 1)
    state, what, remedy = stage(found, "machine")
    assert state == "missing" and "No space left on device" in what and "TMPDIR=" in remedy


def test_wrong_settings_are_wrong_use(well: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--config", "nowhere"]) == 2
    assert main(["doctor", "--trian.steps", "3"]) == 2
    assert "train.steps" in capsys.readouterr().err


def test_memory_and_cores_are_those_of_the_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = SimpleNamespace(total=8_192_000_000, available=6_144_000_000)
    monkeypatch.setattr("psutil.virtual_memory", lambda: machine)
    monkeypatch.setattr(hardware, "_groups", lambda: [tmp_path / "own", tmp_path])
    assert hardware.memory() == (8_192_000_000, 6_144_000_000)
    files = {
        "memory.max": "2000000000",
        "memory.current": "1500000000",
        "memory.stat": "anon 5\ninactive_file 200000000",
    }
    for name, content in {**files, "cpu.max": "100000 100000"}.items():
        (tmp_path / name).write_text(content + "\n")
    assert hardware.memory() == (2_000_000_000, 700_000_000)
    assert hardware.cores() == 1
    (tmp_path / "memory.max").write_text("max\n")
    assert hardware.memory() == (8_192_000_000, 6_144_000_000)
    assert hardware.disk_free(tmp_path / "not/yet/there") == pytest.approx(hardware.disk_free(tmp_path), rel=0.05)


def test_a_process_is_in_its_control_group_and_in_those_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"/proc/self/cgroup": ["4:memory:/old", "0::/slice/job"]}
    monkeypatch.setattr(hardware, "_words", lambda path: words[str(path)])
    root = Path("/sys/fs/cgroup")
    assert hardware._groups() == [root / "slice/job", root / "slice", root]


def test_no_more_memory_and_cores_than_the_machine_has() -> None:
    total, free = hardware.memory()
    assert total and free and 0 < free <= total <= psutil.virtual_memory().total
    assert hardware.cores() in range(1, psutil.cpu_count() + 1)
