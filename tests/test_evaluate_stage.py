"""`evaluate` in a run folder: what is missing or damaged, and counts that merge exactly."""

from pathlib import Path
from shutil import copytree

import numpy as np
import pytest

from run_tiny import figures, run
from tag2mask.cli import main
from tag2mask.evaluation.figures import ExampleCounter

KINDS = {"cams__kinds": "[classifier,pot]"}
METRICS = "metrics.json"


@pytest.fixture(scope="module")
def done(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with CAMs of either kind and masks, measured by one process."""
    out = tmp_path_factory.mktemp("measured") / "out"
    assert run("run", scenes, out, train__steps="1", **KINDS) == 0
    return out


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    """A copy of it without its figures."""
    out = Path(copytree(done, tmp_path / "out"))
    (out / METRICS).unlink()
    return out


def test_a_damaged_mask_costs_the_figures_of_the_masks_alone(
    copied: Path, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = sorted((copied / "masks").rglob("*.png"))[2]
    damaged.write_bytes(b"no image")
    assert main(["evaluate", str(copied)]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "1 of 10 images cannot be compared" in said and damaged.name in said
    assert "refine" not in figures(copied) and figures(copied)["cams"] == figures(done)["cams"]


def test_images_without_a_mask_are_counted(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted((copied / "masks").rglob("*.png"))[:3]:
        path.unlink()
    assert main(["evaluate", str(copied)]) == 0
    assert "masks: 3 of 10 images have no file" in " ".join(capsys.readouterr().err.split())
    assert figures(copied)["refine"]["train"]["argmax"]["images"] == 7


@pytest.mark.parametrize("place", ["run", "folder"])
def test_a_part_of_the_images_is_not_measured(done: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    where = [str(done if place == "run" else done / "masks")]
    assert main(["evaluate", *where, "--shard", "1/2"]) == 2
    assert "measures all images in one command" in " ".join(capsys.readouterr().err.split())


def test_offenders_are_the_same_five_however_they_are_dealt() -> None:
    names = [f"{number:02}" for number in np.random.default_rng(0).permutation(20)]
    whole, parts = ExampleCounter(), [ExampleCounter() for _ in range(3)]
    for place, name in enumerate(names):
        whole.add(name)
        parts[place % 3].add(name)
    for part in parts[1:]:
        parts[0].merge(part)
    assert parts[0] == whole == ExampleCounter(20, ["00", "01", "02", "03", "04"])
    assert whole.text(", ", " and ") == "00, 01, 02, 03, 04 and 15 more"
