"""Broken and hostile inputs at every entrance: a clear line for each, nothing executed, nothing written elsewhere."""

import gc
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from transformers import Dinov2Config

import hostile_arrays
import hostile_exchange
import hostile_images
import hostile_names
import hostile_networks
import hostile_runs
import hostile_tables
import hostile_trees
import hostile_words
from hostile_case import SEED, Case, Yard, bounded, state_of, write
from hostile_images import image
from tag2mask.cli import main, parsing
from tag2mask.cli.commands import Command
from tag2mask.cli.parsing import Parsed
from tag2mask.core.errors import Tag2maskError
from tag2mask.data.corrections import CorrectionsFolder, Decision
from tag2mask.networks import SegmentationNetworkSettings, build_segmentation_network, save_network

MODULES = [hostile_images, hostile_names, hostile_tables, hostile_trees, hostile_arrays]
MODULES += [hostile_networks, hostile_runs, hostile_exchange, hostile_words]
CASES: list[Case] = [case for module in MODULES for case in module.cases(random.Random(SEED))]


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """Where input is as deep as the stack, the collector would run finalisers that have no room left to work in."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_hostile(
    case: Case,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    yard = Yard(tmp_path, request.getfixturevalue)
    yard.data.mkdir(parents=True)
    write(yard.secret, image("PNG"))
    monkeypatch.chdir(yard.data)
    monkeypatch.syspath_prepend(yard.data)
    monkeypatch.setattr(parsing, "parse", _parsed_once)
    words = case.make(yard)
    capsys.readouterr()
    left_out = (yard.out, yard.data / case.writes) if case.writes else (yard.out,)
    before = state_of(yard.top, *left_out)
    with bounded():
        code = main(words)
    said = capsys.readouterr()
    answer = said.out + said.err
    assert code in case.codes, answer
    assert not re.search(r"Traceback|unexpected \w+(Error|Exception)", answer), answer
    assert all(sign.isprintable() or sign == "\n" for sign in answer), repr(answer)
    assert "".join(case.says.split()) in "".join(answer.split()), answer
    assert not code or said.err.strip() or words[:1] in ([], ["check"]), "no word of what is wrong"
    assert not yard.marker.exists() and not (yard.data / "executed").exists(), "it was executed"
    assert state_of(yard.top, *left_out) == before, "something else was written to"


IDS = ("../x", "a/../../x", "/x", "a//x", ".", "..", "", "x/", "a\0b", "corrections")


@pytest.mark.parametrize("image_id", IDS)
def test_a_correction_stays_in_its_folder(image_id: str, tmp_path: Path) -> None:
    folder = tmp_path / "a/b/corrections"
    kept = CorrectionsFolder(folder, ("cat", "dog"))
    for act in (
        lambda: kept.write(image_id, Decision("rejected")),
        lambda: kept.write(image_id, Decision("corrected"), np.zeros((4, 4), np.uint8)),
        lambda: kept.decision(image_id),
        lambda: kept.mask(image_id),
        lambda: kept.forget(image_id),
    ):
        with pytest.raises(Tag2maskError, match=r"is not the ID of an image|rename it"):
            act()
    assert not list(tmp_path.iterdir())


_parse = parsing.parse
_known: dict[tuple[str, ...], Parsed | None] = {}


def _parsed_once(name: str, command: Command, words: Sequence[str]) -> Parsed | None:
    """What many cases have in common is parsed for the first of them, with the files that are read for it."""
    files = [Path(word) for word in words] + [Path(word.lstrip("-")) / "config.yaml" for word in words]
    key = (name, *words, *(_content(path) for path in files))
    if key not in _known:
        _known[key] = _parse(name, command, words)
    return _known[key]


def _content(path: Path) -> str:
    """What a file of settings holds; nothing of other files."""
    try:
        return path.read_bytes().hex() if path.suffix == ".yaml" and path.is_file() else ""
    except (OSError, ValueError):
        return ""


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a tiny segmentation network."""
    folder = tmp_path_factory.mktemp("segmenter")
    config = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 28, "mlp_ratio": 2}
    Dinov2Config(**config).save_pretrained(folder / "model")
    settings = SegmentationNetworkSettings(backbone=str(folder / "model"), weights="none")
    save_network(folder / "network.safetensors", build_segmentation_network(settings, ("cat", "dog"), seed=0))
    return folder / "network.safetensors"
