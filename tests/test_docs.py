"""The pages say what is there: messages, verbs, settings, presets, files; and their Python runs."""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from shutil import copy

import numpy as np
import pytest
import torch
from PIL import Image

import tag2mask
from run_tiny import TINY_WORDS
from segmenters import TinySegmenter
from tag2mask.cli import main
from tag2mask.cli.commands import COMMANDS
from tag2mask.cli.parsing import build_parser, parse
from tag2mask.export.onnx import MODULES, find_spec
from tag2mask.networks import NetworkSettings, build_network, save_network
from tag2mask.runs.config import presets

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md")), *sorted((ROOT / "experiments").glob("*.md"))]
_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"``(.+?)``|`([^`\n]+)`")


def _shown(node: ast.AST) -> str | None:
    """A text of the program as people see it: `…` for what is put in when it is shown."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.replace("{}", "…")
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return None


def _texts() -> Iterator[str]:
    """Every text of the program but docstrings, which are no messages, and parts of longer ones."""
    for path in (ROOT / "src/tag2mask").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        passed = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        passed |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            text = None if id(node) in passed else _shown(node)
            if text is not None:
                yield _one_gap(text)


def _one_gap(text: str) -> str:
    return re.sub("…+", "…", text)


def test_every_message_that_troubleshooting_explains_is_in_the_program() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    found = re.findall(r"^### (?:`` (.+) ``|`([^`]+)`)$", page, re.MULTILINE)  # two marks where it has some of its own
    assert len(found) == page.count("\n### ")
    messages = [_one_gap(double or single) for double, single in found]
    assert len(messages) == len(set(messages)) >= 30
    assert not [message for message in messages if len(re.findall(r"[A-Za-z]{2,}", message)) < 3]
    program = list(_texts())
    assert not [message for message in messages if not any(message in text for text in program)]


def _code(page: str) -> Iterator[str]:
    """Blocks and inline code; messages, with their gaps, are no commands."""
    yield from _BLOCK.findall(page)
    for double, single in _INLINE.findall(_BLOCK.sub("", page)):
        if double or single:
            yield double or single


@cache
def _settings() -> frozenset[str]:
    """The settings that any verb has, as `cams.scales`."""
    parser = build_parser("run")
    return frozenset(option.lstrip("-") for action in parser._actions for option in action.option_strings)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for code in _code(text):
        verbs = set(re.findall(r"(?:^|[&|(;] ?)tag2mask ([a-z]+)\b", code, re.MULTILINE))
        assert verbs <= set(COMMANDS), code
        settings = set(re.findall(r"(?<![\w-])--([a-z_]+(?:\.[a-z_0-9]+)+)\b", code))
        assert settings <= _settings(), code
        for name in re.findall(r"--config ([a-z][\w-]*)(?![\w./-])", code):
            assert name in presets(), code
    for path in re.findall(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)", _BLOCK.sub("", text)):
        assert (page.parent / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_can_be_parsed(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments in the right number, and no setting that the command does not read."""
    monkeypatch.chdir(ROOT)
    values = {"$STAGE": "cams", "$METHOD": "crf", "$SEED": "1", "FILE": "file", "RUN/config.yaml": "own"}
    for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        text = block.replace("\\\n", " ").replace("runs/animals/config.yaml", "own")
        for name, value in values.items():
            text = text.replace(name, value)
        for line in re.findall(r"(?:^ *|[;&] *|do |-m )tag2mask ([a-z][^#;&\n]+)", text, re.MULTILINE):
            words = shlex.split(line.strip(' "') if line.count('"') % 2 else line)
            own = "patches" in words  # names of the page itself
            if "…" not in words and not own:
                assert parse(words[0], COMMANDS[words[0]], words[1:]) is not None, line


def _python(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_python_of_the_readme_runs(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("cat/one", "cat/two", "dog/three")):  # the folder that the README shows
        target = tmp_path / f"images/{name}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        copy(scenes / f"train/000{number}.jpg", target)
    assert main(["run", "images", "--out", "runs/mine", *TINY_WORDS]) == 0  # small settings, which the next call keeps
    (code,) = _python("../README.md")
    names: dict[str, object] = {}
    exec(code, names)
    mask = np.array(Image.open("runs/mine/masks/cat/one.png"))
    assert names["cat"].any() and np.array_equal(names["cat"], mask == 1)
    assert Image.open("least-certain.png").size == (64, 64)
    listed = tag2mask.run(["images/cat/one.jpg"], [["cat"]], out="runs/a", quiet=True, config="runs/mine/config.yaml")
    assert [(image.id, image.tags) for image in listed] == [("one", ("cat",))]


def test_the_python_for_researchers_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = build_network(NetworkSettings(backbone="resnet18", weights="none"), ("cat", "dog"), seed=0)
    save_network(tmp_path / "runs/mine/train/network.safetensors", network)
    names: dict[str, object] = {}
    for code in _python("quickstart-research.md"):
        exec(code, names)
    mine, result = names["mine"], names["result"]
    assert tuple(mine.cams.shape) == (2, 6, 20, 30)
    assert tuple(mine.plan.shape) == (2, 600, 6)
    assert mine.transport.converged.dtype == torch.bool
    assert tuple(result.cams.shape) == (1, 3, 14, 20)
    assert tuple(result.plan.shape) == (1, 280, 6)
    assert tuple(result.allocation.shape) == (1, 14, 20)


@pytest.mark.extra
@pytest.mark.skipif(any(find_spec(name) is None for name in MODULES), reason="needs the extra onnx")
def test_the_python_for_engineers_runs_and_onnx_says_what_torch_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    network = TinySegmenter()  # of random weights, as what is compared are two ways to the same answer
    network.classes = ("cat", "dog")
    for module in ("tag2mask.prediction.predictor", "tag2mask.cli.exchange"):
        monkeypatch.setattr(f"{module}.load_segmentation_network", lambda path: network)
    (tmp_path / "runs/mine/segment").mkdir(parents=True)
    (tmp_path / "runs/mine/segment/network.safetensors").write_bytes(b"weights")
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    for name, size in (("one.jpg", (90, 70)), ("two.jpg", (64, 64))):
        Image.fromarray(pixels).resize(size).save(tmp_path / name)
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "one.jpg").read_bytes()[:200])
    assert main(["export", "onnx", "runs/mine", "--out", "network.onnx"]) == 0
    names: dict[str, object] = {}
    for code in _python("quickstart-engineering.md"):
        exec(code, names)
    said = capsys.readouterr().out
    assert "cat: " in said and "broken.jpg" in said
    assert names["classes"] == ["background", "cat", "dog"]
    expected = tag2mask.load("runs/mine", device="cpu").predict("one.jpg")
    assert len(np.unique(expected)) > 1
    assert names["from_onnx"].shape == expected.shape
    assert (names["from_onnx"] == expected).mean() > 0.99  # bf16 where the machine has it


def test_notebooks_are_stored_without_what_they_said() -> None:
    notebooks = list(DOCS.rglob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
        assert any("assert " in "".join(cell["source"]) for cell in cells)
