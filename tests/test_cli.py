"""The command line: wrong use exits 2 with a line that helps, and never a traceback."""

import errno
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from run_tiny import TINY_WORDS, Capture
from tag2mask.cli import main
from tag2mask.cli.commands import COMMANDS
from tag2mask.cli.parsing import parse
from tag2mask.runs.config import presets
from tag2mask.stages.registry import STAGES

WRONG = [
    (["chek"], "Unknown command 'chek'. Did you mean 'check'?"),
    (
        ["train", "--pot.num_prototypez", "2"],
        "--pot.num_prototypez is not a setting; did you mean --pot.num_prototypes",
    ),
    (["train", "--edges.max_grad_norm", "2"], "did you mean --segment.max_grad_norm or --train.max_grad_norm"),
    (["train", "--edges.log_every=2"], "--edges.log_every is not a setting; did you mean --train.log_every"),
    (["train", "--pot.num_prototypes", "abc"], "--pot.num_prototypes needs a whole number, got 'abc'"),
    (["train", "--train.steps", "sixty"], "--train.steps needs a whole number, got 'sixty'"),
    (["train", "--cams.flip", "maybe"], "--cams.flip needs true or false, got 'maybe'"),
    (["run", "--repeats", "x"], "--repeats needs a whole number, got 'x'"),
    (["run", "--repeats"], "--repeats needs a value"),
    (["predict", "x", "y", "--overwrit"], "--overwrit is not a setting; did you mean --overwrite"),
    (["train", "--pot.num_prototypes", "0"], "num_prototypes should be at least 1"),
    (["train", "--data.kind", "vok"], "--data.kind needs one of 'auto', 'table', 'folders', 'voc'"),
    (["run", "--config", "vco"], "did you mean voc"),
    (["train"], "--out RUN"),
    (["train", "--out", "x", "--shard", "3/2"], "i/n"),
    (["train", "--out", "x", "--limit", "0"], "limit should be at least 1"),
    (["train", "--out", "x"], "data.root"),
    (["train", "--out", "x", "--data.root", "nowhere"], "nowhere"),
    (["evaluate"], "needs RUN"),
    (["cams", "x", "y"], "takes RUN, not 'y' as well"),
    (["cams", "--out", "x"], "takes the run folder as its argument, `tag2mask cams RUN`"),
    (["predict", "x"], "needs PHOTOS"),
    (["check", "images", "--data.root", "other"], "both name the data"),
    (["run", "", "--out", "x"], "an argument is empty"),
    (["run", "--ou", "x"], "--ou is not a setting; did you mean --out"),
    (["evaluate", ".", "--restart", "evaluate"], "--restart needs a run, and . is not a run folder"),
    (["export", "coco", "x"], "needs --out FOLDER"),
    (["run", "tags.csv", "--data.tags", "other.csv", "--out", "x"], "both name the data"),
    (["run", "images", "--data.root", "other", "--out", "x"], "both name the data"),
    (["evaluate", "nowhere"], "nowhere"),
    (["report", "nowhere"], "not a run folder"),
    (["check", "nowhere"], None),
    (["run", "--out", "x", "--restart", "trian"], "train, cams"),
    (["cams", "x", "--train.steps", "5"], "cams does not read --train.steps"),
    (["cams", "x", "--train.steps=5", "--segment.steps", "1"], "does not read --train.steps, --segment.steps"),
    (["segment", "x", "--train.steps", "5"], "segment does not read --train.steps"),
    (["segment", "x", "--train", "{steps: 5}"], "segment does not read --train"),
    (["refine", "x", "--pot.epsilon", "1"], "refine does not read --pot.epsilon"),
    (["report", "x", "--cams.flip", "true"], "report does not read --cams.flip"),
    (["predict", "x", "y", "--segment.steps", "1", "--out", "z"], "predict does not read --segment.steps"),
    (["check", "x", "--segment.steps", "1"], "check does not read --segment.steps"),
    (["cams", "x", "--cams.kinds", "[pott]"], "cams.kinds"),
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
    [
        ("pot:\n  num_prototypez: 3\n", "--pot.num_prototypez is not a setting; did you mean --pot.num_prototypes"),
        ("pot: [\n", "error:"),
    ],
)
def test_a_file_that_cannot_be_meant_is_wrong_use(text: str, says: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    assert main(["train", "--config", str(tmp_path / "mine.yaml")]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("values", ["first", "last"])
def test_values_override_files_and_later_files_earlier_ones(values: str, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("pot:\n  num_prototypes: 7\ntrain:\n  epochs: 2\n")
    words = ["train", "--config", "voc", "--config", str(file), "--pot.epsilon", "0.4", "--print-config"]
    if values == "first":
        words = ["train", "--pot.epsilon", "0.4", "--print-config", "--config=voc", "--config", str(file)]
    assert main(words) == 0
    said = capsys.readouterr().out
    for line in ("num_prototypes: 7", "epochs: 2", "epsilon: 0.4", "split: train_aug"):
        assert line in said


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_short_and_help_all_has_every_setting(name: str, capsys: Capture) -> None:
    assert main([name, "--help"]) == 0
    said = capsys.readouterr().out
    assert len(said.splitlines()) <= 100
    assert all(len(line) <= 120 for line in said.splitlines())
    examples = re.findall(rf"^  tag2mask {name}\b.*$", said, re.MULTILINE)
    assert len(examples) == len(set(examples)) == (3 if COMMANDS[name].examples else 0)
    for option in ("--dry-run", "--json", "--help-all"):
        assert f"  {option} " in said
    assert main([name, "--help-all"]) == 0
    every = capsys.readouterr().out
    for option in ("--cams.scales", "--pot.epsilon", "--data.root", "--refine.method"):
        assert (f"  {option} " in every) == COMMANDS[name].reads(option.removeprefix("--"))
    assert "  --dry-run " in every and "  --shard " in every
    for option in re.findall(r"(?<!\S)--[a-z][\w.-]+", said):
        assert option in every or option == "--help-all"


def test_help_names_what_a_command_reads_and_nothing_else(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in COMMANDS)
    assert main(["cams", "--help"]) == 0
    said = capsys.readouterr().out
    for option in ("--cams.scales", "--pot.epsilon", "--data.root", "--restart"):
        assert f"  {option} " in said
    assert "--train." not in said and "--segment." not in said
    assert main(["segment", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--segment.steps" in said and "--train.checkpoint_every" in said and "--train.steps" not in said


def test_the_examples_of_help_can_be_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, command in COMMANDS.items():
        for example in command.examples:
            words = shlex.split(example)
            assert words[0] == name
            assert parse(name, command, words[1:]) is not None, example


@pytest.mark.parametrize("words", [["--help"], ["--version"], [], ["chek"]], ids=str)
def test_what_needs_no_torch_does_not_load_it(words: list[str]) -> None:
    program = "import sys; from tag2mask.cli import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_threads_that_wait_leave_the_cores_to_others(tmp_path: Path) -> None:
    words = ["demo", "--quick", "--out", str(tmp_path / "run"), "--dry-run"]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for asked, policy in ({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "active"}, "ACTIVE"):
        done = subprocess.run(
            [sys.executable, "-m", "tag2mask", *words],
            capture_output=True,
            text=True,
            check=True,
            env={**environment, **asked, "OMP_DISPLAY_ENV": "true"},
        )
        assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.sections])
def test_a_command_reads_all_that_its_stages_read(name: str) -> None:
    stages = [STAGES[each] for each in ("segment", "predictions") if name == "segment"] or [STAGES.get(name)]
    for stage in stages:
        assert stage is None or {*stage.sections} <= {*(COMMANDS[name].sections or ())}


def config_of(capsys: Capture, *words: str) -> dict[str, Any]:
    """The settings that a command would work with."""
    assert main([*words, "--print-config"]) == 0
    found: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return found


def test_a_command_reads_what_every_training_records(capsys: Capture) -> None:
    for name in ("segment", "edges"):
        settings = config_of(capsys, name, "x", "--train.checkpoint_every", "7", "--train.log_every", "3")["train"]
        assert (settings["checkpoint_every"], settings["log_every"]) == (7, 3)


def test_the_base_is_own_unless_a_preset_or_a_file_is_named(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("pot: {num_prototypes: 7}\n")
    own, voc = (yaml.safe_load(presets()[name].read_text()) for name in ("own", "voc"))
    found = config_of(capsys, "run")
    assert (found["cams"]["long_side"], found["train"]["epochs"]) == (512, own["train"]["epochs"])
    found = config_of(capsys, "run", "--config", "voc")  # of a published recipe nothing is changed by `own`
    assert found["cams"]["long_side"] is None and found["train"]["epochs"] == voc["train"]["epochs"]
    found = config_of(capsys, "run", "--config", str(file))
    assert found["cams"]["long_side"] is None and found["pot"]["num_prototypes"] == 7
    assert config_of(capsys, "demo", "--config", str(file))["scenes"]["train"] == 320


def test_a_run_remembers_its_data_and_takes_settings_on_top(
    done: Path, scenes: Path, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("pot: {num_prototypes: 7}\n")
    known = yaml.safe_load((done / "config.yaml").read_text())
    del known["format"]
    for words in (["run", "--out", str(done)], ["cams", str(done)], ["segment", str(done)], ["check", str(scenes)]):
        found = config_of(capsys, *words)
        if words[0] != "check":
            assert found == {**known, "limit": None, "shard": None, "out": str(done)}
    for words in (["run", "--out", str(done)], ["cams", str(done)]):
        found = config_of(capsys, *words, "--config", str(file))
        assert found["pot"] == {**known["pot"], "num_prototypes": 7}
        assert found["cams"] == known["cams"] and found["data"] == known["data"]
        assert (
            config_of(capsys, *words, "--config", str(file), "--pot.num_prototypes", "5")["pot"]["num_prototypes"] == 5
        )
    for words in (["predict", str(done), "x"], ["export", "coco", str(done)]):
        found = config_of(capsys, *words)
        assert found["data"] == known["data"] and found["out"] is None  # results go nowhere by themselves
        assert config_of(capsys, *words, "--out", "y")["out"] == "y"


def test_two_recipes_are_never_mixed(done: Path, tmp_path: Path, capsys: Capture) -> None:
    known = yaml.safe_load((done / "config.yaml").read_text())
    fresh = config_of(capsys, "run", "--config", "voc", "--out", str(tmp_path))
    found = config_of(capsys, "run", "--config", "voc", "--out", str(done))
    assert found["data"] == {**known["data"], "kind": "voc", "split": "train_aug"}
    for section in ("seeds", "cams", "predict"):
        fresh[section]["precision"] = known[section]["precision"]  # that of the machine that the run began on
    for section in fresh.keys() - {"data", "out"}:
        assert found[section] == fresh[section]
    found = config_of(capsys, "segment", str(done), "--config", "deeplab-msc")  # a part lies on top of the run's own
    assert found["train"] == known["train"] and found["segment"]["network"]["backbone"] == "resnet101-caffe"


def test_other_data_on_a_run_is_not_read_with_what_the_run_remembers(
    done: Path, scenes: Path, tmp_path: Path, capsys: Capture
) -> None:
    known = yaml.safe_load((done / "config.yaml").read_text())["data"]
    assert known["masks"] == str(scenes / "masks")
    out = ["--out", str(done)]
    assert config_of(capsys, "run", str(scenes), *out)["data"] == known
    found = config_of(capsys, "run", str(tmp_path), *out)["data"]
    assert (found["root"], found["tags"], found["masks"]) == (str(tmp_path), None, None)
    found = config_of(capsys, "run", str(tmp_path), *out, "--data.masks", "own", "--data.tags", "t.csv")["data"]
    assert (found["root"], found["tags"], found["masks"]) == (str(tmp_path), "t.csv", "own")


def test_a_command_works_in_the_run_that_it_names_alone(done: Path, scenes: Path, capsys: Capture) -> None:
    found = config_of(capsys, "cams", str(done / "typo"), "--data.root", str(scenes))
    assert found["out"] == str(done / "typo")
    assert main(["run", str(scenes), "--out", ""]) == 2
    assert "an argument is empty" in capsys.readouterr().err


def test_data_is_an_argument(scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    assert config_of(capsys, "run", str(scenes))["data"]["root"] == str(scenes)
    out = tmp_path / "out"
    base = ["--data.split", "train", "--data.masks", str(scenes / "masks"), "--out", str(out), *TINY_WORDS]
    assert main(["train", str(scenes), *base]) == 0
    known = yaml.safe_load((out / "config.yaml").read_text())
    assert known["data"]["root"] == str(scenes) and known["data"]["tags"] is None
    assert main(["train", str(scenes / "tags.csv"), *base, "--dry-run"]) == 0
    assert main(["run", *base[4:], "--dry-run"]) == 0
    assert "train: done already" in capsys.readouterr().out


def test_names_are_taken_as_they_are(tmp_path: Path) -> None:
    for name in ("null", "1e3", "[a]", "{a: 1}", "caf\udce9", "-", "yes"):
        parsed = parse("export", COMMANDS["export"], ["coco", name, "--ignore-label", name, "--out", "x"])
        assert parsed is not None and parsed[2]["run"] == Path(name) and parsed[2]["ignore_label"] == name
        parsed = parse("run", COMMANDS["run"], [name, "--out", "x"])
        assert parsed is not None and parsed[2]["data"] == Path(name)


@pytest.mark.parametrize(
    "words",
    [
        ["import", "cvat", "file", "--overwrite", "run", "--limit", "3"],
        ["import", "--limit", "3", "cvat", "file", "run", "--overwrite"],
        ["import", "--overwrite", "cvat", "--limit=3", "--", "file", "run"],
    ],
    ids=" ".join,
)
def test_arguments_may_stand_between_options(words: list[str]) -> None:
    parsed = parse("import", COMMANDS["import"], words[1:])
    assert parsed is not None
    assert parsed[2] == {
        "format": "cvat", "file": Path("file"), "run": Path("run"), "ignore_label": "ignored", "overwrite": True,
    }  # fmt: skip
    assert (parsed[1].config.out, parsed[1].config.limit) == (Path("run"), 3)


def test_a_run_without_a_network_says_which_command_trains_one(done: Path, tmp_path: Path, capsys: Capture) -> None:
    for words in (["predict", str(done), str(done), "--out", "x"], ["export", "onnx", str(done), "--out", "x.onnx"]):
        assert main(words) == 2
        assert f"`tag2mask segment {done}` trains the network" in capsys.readouterr().err


def test_an_unwritable_folder_is_a_failure_not_a_traceback(scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "taken"
    file.write_text("")
    assert main(["train", "--out", str(file), "--data.root", str(scenes), "--network.weights", "none"]) == 2
    assert "is a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "images"],
        ["tags", "images", "--classes", "cat"],
        ["predict", "run", "images", "--out", "masks"],
        ["evaluate", "."],
        ["export", "onnx", "run", "--out", "network.onnx"],
        ["export", "voc", "masks", "--out", "voc"],
        ["import", "masks", "corrected", "run"],
        ["demo"],
    ],
    ids=lambda words: words[0],
)
def test_what_one_process_does_is_refused_once_to_several(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
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
    assert said.startswith("error: out of memory (") and "batch_size" in said and "finished files are kept" in said
