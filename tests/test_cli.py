"""The command line: wrong use exits 2 with a line that helps, and never a traceback."""

import errno
from importlib import import_module
from pathlib import Path

import pytest
import torch

from run_tiny import Capture
from tag2mask.cli import main

WRONG = [
    (["trian"], "did you mean train"),
    (["train", "--pot.clusterz", "2"], "--pot.clusterz is no setting; did you mean --pot.clusters"),
    (["train", "--edges.clip", "2"], "--edges.clip is not a setting any more, now a constant, null; leave it out"),
    (["train", "--edges.log_every=2"], "--edges.log_every is not a setting any more, now train.log_every is in its"),
    (["train", "--pot.clusters", "abc"], "--pot.clusters should be int, received abc"),
    (["train", "--pot.clusters", "0"], "clusters should be at least 1"),
    (["train", "--data.kind", "vok"], "--data.kind should be one of 'auto', 'table', 'folders', 'voc'"),
    (["run", "--config", "vco"], "did you mean voc"),
    (["train"], "--out RUN"),
    (["train", "--out", "x", "--shard", "3/2"], "i/n"),
    (["train", "--out", "x", "--limit", "0"], "limit should be at least 1"),
    (["train", "--out", "x"], "data.root"),
    (["train", "--out", "x", "--data.root", "nowhere"], "nowhere"),
    (["evaluate"], "folder"),
    (["evaluate", "nowhere"], "nowhere"),
    (["report", "nowhere"], "no run folder"),
    (["check", "nowhere"], None),
    (["run", "--out", "x", "--restart", "trian"], "train, cams"),
    (["cams", "--out", "x", "--cams.kinds", "[pott]"], "cams.kinds"),
]


@pytest.mark.parametrize(
    ("arguments", "expected"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_wrong_use_exits_2_with_a_helpful_line(
    arguments: list[str], expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(arguments)
    said = capsys.readouterr()
    if expected is None:
        assert code in (1, 2)
    else:
        assert code == 2
        assert expected in said.err
    assert "Traceback" not in said.err + said.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "says"),
    [("pot:\n  clusterz: 3\n", "--pot.clusterz is no setting; did you mean --pot.clusters"), ("pot: [\n", "error:")],
)
def test_a_file_that_cannot_be_meant_is_wrong_use(text: str, says: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    assert main(["train", "--config", str(tmp_path / "mine.yaml")]) == 2
    assert says in capsys.readouterr().err


def test_values_override_files_and_later_files_earlier_ones(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("pot:\n  clusters: 7\ntrain:\n  epochs: 2\n")
    assert main(["train", "--config", "voc", "--config", str(file), "--pot.epsilon", "0.4", "--print-config"]) == 0
    said = capsys.readouterr().out
    for line in ("clusters: 7", "epochs: 2", "epsilon: 0.4", "split: train_aug"):
        assert line in said


def test_help_names_every_verb_and_every_setting(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for verb in ("check", "train", "cams", "refine", "evaluate", "report", "run", "demo"):
        assert f"  {verb} " in said
    assert main(["cams", "--help"]) == 0
    said = capsys.readouterr().out
    for option in ("--cams.scales", "--pot.epsilon", "--data.root", "--restart", "--dry-run", "--json", "--shard"):
        assert option in said
    assert "entropic regularisation" in said


def test_an_unwritable_folder_is_a_failure_not_a_traceback(scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "taken"
    file.write_text("")
    assert main(["train", "--out", str(file), "--data.root", str(scenes), "--network.weights", "none"]) == 2
    assert "is a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "photographs"],
        ["tags", "photographs", "--classes", "cat"],
        ["predict", "photographs", "--model", "run", "--out", "masks"],
        ["evaluate", "."],
        ["export", "onnx", "--model", "run", "--out", "network.onnx"],
        ["export", "voc", "--masks", "masks", "--out", "voc"],
        ["import", "masks", "corrected", "--out", "masks"],
        ["demo"],
    ],
    ids=lambda words: words[0],
)
def test_what_one_process_does_is_refused_once_to_several(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(arguments) == 0  # were it to fail, too, torchrun might end the main process before it can say why
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert "is for one process; torchrun goes with the stages of a run" in said.err and said.err.count("\n") == 1
    assert said.out == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
    ids=["python", "system", "gpu", "cpu"],
)
def test_a_lack_of_memory_says_what_needs_less(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def lacking(words: list[str]) -> int:
        raise error

    monkeypatch.setattr(import_module("tag2mask.cli.main"), "_dispatch", lacking)
    assert main(["cams"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("error: out of memory (") and "batch_size" in said and "what is finished is kept" in said
