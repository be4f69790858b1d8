"""What a killed command leaves keeps no later command out, and needs no person."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import copytree
from socket import gethostname
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from run_tiny import files_of, run
from tag2mask.cli import main
from tag2mask.core.files import TEMPORARY_PREFIX
from tag2mask.data import write_mask
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages.registry import STAGES
from tag2mask.workflows.predict import _clear

ROOT = Path(__file__).parent.parent


@pytest.fixture
def left(tmp_path: Path) -> Callable[[Path], str]:
    """The temporary name that a killed process leaves for a file or folder."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    return lambda path: f"{TEMPORARY_PREFIX}{gethostname()}~{dead.pid}~0badcafe~{path.name}"


def test_kills_of_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import kills

    found = kills.measure(tmp_path, kills=3, minutes=10, later=1)
    assert found["failures"] == []
    assert found["kills"] == dict.fromkeys(kills.VERBS, 3)


@pytest.mark.parametrize("verb", ["refine", "run"])
def test_a_folder_that_a_killed_export_left_in_a_run_is_removed(
    verb: str, copied: Path, scenes: Path, left: Callable[[Path], str]
) -> None:
    for folder in (copied, copied / "masks"):
        copytree(copied / "masks", folder / left(Path("seed-1-voc")))
    (copied / "throughput" / left(Path("predictions.json"))).touch()
    assert run(verb, scenes, copied) == 0
    assert not list(copied.rglob(f"{TEMPORARY_PREFIX}*"))


@contextmanager
def killed_at(deletion: int) -> Iterator[None]:
    """Nothing more is deleted or renamed after so many files."""
    done = 0

    def killing(act: Callable[..., None]) -> Callable[..., None]:
        def counted(*arguments: Any, **options: Any) -> None:
            nonlocal done
            if done == deletion:
                raise KeyboardInterrupt
            done += 1
            act(*arguments, **options)

        return counted

    with (
        patch("os.unlink", killing(os.unlink)),
        patch("os.rename", killing(os.rename)),
        suppress(KeyboardInterrupt),
    ):
        yield


@pytest.mark.parametrize("deletion", range(60))
def test_a_restart_that_was_killed_while_it_deletes_can_be_repeated(deletion: int, copied: Path) -> None:
    stages = [stage for name, stage in STAGES.items() if name != "seeds"]
    with killed_at(deletion):
        RunFolder(copied).delete(stages)
    for stage in stages:
        RunFolder(copied).check(stage, {}, restart=True)


def test_a_restart_of_predict_that_was_killed_while_it_deletes_can_be_repeated(tmp_path: Path) -> None:
    write_mask(tmp_path / "one.png", np.zeros((4, 4), np.uint8), prediction="{}")
    (tmp_path / "overlays").mkdir()
    (tmp_path / "overlays/one.jpg").touch()
    with killed_at(1):
        _clear(RunFolder(tmp_path))
    _clear(RunFolder(tmp_path))
    assert not files_of(tmp_path)


def test_an_export_killed_between_two_renames_is_repeated(
    copied: Path, tmp_path: Path, left: Callable[[Path], str]
) -> None:
    words = ["export", "voc", str(copied), "--out", str(tmp_path / "voc")]
    assert main(words) == 0
    before = files_of(tmp_path / "voc")
    other = tmp_path / left(Path("other"))
    for overwrite in ([], ["--overwrite"]):
        (tmp_path / "voc").rename(tmp_path / left(Path("voc")))
        other.mkdir(exist_ok=True)  # of another export
        assert main([*words, *overwrite]) == 0
        assert files_of(tmp_path / "voc") == before
        assert list(tmp_path.glob(f"{TEMPORARY_PREFIX}*")) == [other]


def test_an_import_removes_what_a_killed_save_left(copied: Path, left: Callable[[Path], str]) -> None:
    for folder in (copied / "corrections", copied / "corrections/train"):
        folder.mkdir()
        (folder / left(Path("0000.png"))).touch()
    assert main(["import", "masks", str(copied / "masks"), str(copied)]) == 0
    assert not list(copied.rglob(f"{TEMPORARY_PREFIX}*"))
