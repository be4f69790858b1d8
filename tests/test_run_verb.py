"""The verb `run`: what a dry run says, published figures next to its own, and runs with several seeds."""

import json
import os
import statistics
from pathlib import Path

import pytest
import yaml

from forked import together
from run_tiny import Capture, figures, files_of, run, words
from tag2mask.cli import main
from tag2mask.cli.commands import COMMANDS
from tag2mask.cli.console import output, show_published
from tag2mask.evaluation.comparison import compare_with_published
from tag2mask.runs.lock import run_lock
from tag2mask.workflows.repeats import spread


def planned(arguments: list[str], capsys: Capture) -> dict[str, dict[str, object]]:
    """What a dry run says of each stage."""
    capsys.readouterr()
    assert main([*arguments, "--dry-run", "--json"]) == 0
    return {stage["stage"]: stage for stage in json.loads(capsys.readouterr().out)["stages"]}


def test_a_page_waits_for_the_run_that_is_at_work(copied: Path, capsys: Capture) -> None:
    before = files_of(copied)
    with run_lock(copied, "train"):
        assert main(["report", str(copied)]) == 2
        said = capsys.readouterr().err
        assert f"is being written to by `tag2mask train`, process {os.getpid()} on " in said
        assert "wait for its end, or stop it. If that process is dead, delete" in " ".join(said.split())
        assert main(["run", "--out", str(copied), "--dry-run"]) == 0
        assert main(["evaluate", str(copied)]) == 2
    assert files_of(copied) == before
    assert main(["report", str(copied)]) == 0


def test_a_new_run_has_no_invented_sizes_and_times(scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    stages = planned(words("run", scenes, tmp_path / "out"), capsys)
    assert stages["train"]["steps"] == 4 and stages["cams"]["lacking"] == stages["refine"]["lacking"] == 10
    assert all(stages[name]["bytes"] is None for name in ("cams", "refine"))
    assert all(stages[name]["seconds"] is None for name in ("train", "cams", "refine"))
    assert main([*words("run", scenes, tmp_path / "out"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "10 images to do" in said and "disk unknown here; time unknown here" in said
    assert "in all: 0 kB of files by image; time unknown here of train, cams, refine, confidence" in said


def test_a_started_run_estimates_sizes_and_times_from_its_records(copied: Path, scenes: Path, capsys: Capture) -> None:
    assert all(stage["seconds"] == 0 for stage in planned(["run", "--out", str(copied)], capsys).values())
    capsys.readouterr()
    assert main(["run", "--out", str(copied), "--dry-run"]) == 0
    assert "nothing is left to do but to measure and to report" in capsys.readouterr().out
    for name in ("cams", "refine"):
        record = json.loads((copied / f"throughput/{name}.json").read_text())
        assert record["images"] == 10
        (copied / f"throughput/{name}.json").write_text(json.dumps({**record, "seconds": 25.0}))
    gone = sorted((copied / "cams/pot").rglob("*.npz"))[:4]
    for path in gone:
        path.unlink()
    (copied / "train/network.safetensors").unlink()
    log = [{"step": step, "images_per_second": speed} for step, speed in ((1, 1.0), (2, 8.0), (3, 8.0))]
    (copied / "train/log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    stages = planned(["run", "--out", str(copied)], capsys)
    kept = [path.stat().st_size for path in (copied / "cams/pot").rglob("*.npz")]
    assert stages["cams"]["bytes"] == round(4 * statistics.mean(kept))
    assert stages["cams"]["seconds"] == pytest.approx(4 * 2.5)
    assert stages["train"]["steps"] == 1  # of 4; the log goes up to 3
    assert stages["train"]["seconds"] == pytest.approx(4 / 8)  # a batch of 4
    (copied / "train/state.pt").unlink()
    assert planned(["run", "--out", str(copied)], capsys)["train"]["steps"] == 4


def measured(images: int, classes: int = 21, chosen: list[str] | None = None) -> dict[str, object]:
    iou = {str(number): 0.5 for number in range(classes)}
    return {"miou": 0.5, "pixel_accuracy": 0.9, "iou": iou, "images": images, "chosen": chosen, "threshold": None}


def test_published_figures_stand_beside_those_of_the_same_images(capsys: Capture) -> None:
    own = {
        "seeds": {"train": {"CLIP": measured(1464)}},
        "cams": {"train": {"classifier": measured(1464), "pot": measured(1464)}, "val": {"pot": measured(1449)}},
        "refine": {"train": {"irn+crf": measured(1464)}},
        "segment": {"train": {"predictions": measured(1464)}, "val": {"predictions": measured(1449)}},
    }
    published = compare_with_published(own, "voc")
    assert published is not None
    assert {place: figure.miou for place, figure in published.figures.items()} == {
        ("seeds", "train", "CLIP"): 70.8,
        ("cams", "train", "pot"): 75.0,
        ("refine", "train", "irn+crf"): 79.3,
        ("segment", "val", "predictions"): 76.1,
    }
    assert "as others cite it" in published.note and "CLIP-ES" in published.note
    assert "not comparable" not in published.note
    show_published(output(), own, published)
    said = capsys.readouterr().out
    rows = [row.strip("│ ").split() for row in said.splitlines() if "50.0" in row]
    assert (
        ["train", "│", "POT", "CAM", "│", "50.0", "│", "75.0", "POT"] in rows
        and len(rows) == 4
        and published.note in said
    )
    assert compare_with_published(own, "table") is None
    coco = {"segment": {"val2014": {"predictions": measured(40137, 81)}}}
    found = compare_with_published(coco, "coco")
    assert found is not None and found.figures["segment", "val2014", "predictions"].miou == 47.9


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (measured(1000), "over 1000 of the 1464 images"),
        (measured(1464, 21, ["0", "1"]), "over 2 of the 21 classes"),
        (measured(1464, 6), "over 6 of the 21 classes"),
    ],
)
def test_what_cannot_be_compared_is_not_shown(values: dict[str, object], why: str, capsys: Capture) -> None:
    published = compare_with_published({"refine": {"train": {"crf": values}}}, "voc")
    assert published is not None and not published.figures
    assert why in published.note and "not comparable" in published.note
    show_published(output(), {"refine": {"train": {"crf": values}}}, published)
    assert capsys.readouterr().out == f"{published.note}\n"


def test_the_spread_of_figures_by_hand() -> None:
    runs = [
        {
            "cams": {
                "train": {"pot": {"miou": value, "iou": {"cat": value, "dog": other}, "chosen": None, "kept": ["a"]}}
            }
        }
        for value, other in ((0.5, 0.1), (0.6, None), (0.9, 0.3))
    ]
    runs[0]["refine"] = {"train": {"crf": {"miou": 0.3}}}  # the others have none
    found = spread(runs)
    assert set(found) == {"cams"} and set(found["cams"]["train"]["pot"]) == {"miou", "iou"}
    miou = found["cams"]["train"]["pot"]["miou"]
    assert miou["mean"] == pytest.approx(2 / 3) and miou["values"] == [0.5, 0.6, 0.9]
    assert miou["deviation"] == pytest.approx(((1 / 6) ** 2 + (1 / 15) ** 2 + (7 / 30) ** 2) ** 0.5 / 2**0.5)
    assert found["cams"]["train"]["pot"]["iou"]["dog"] == {"mean": None, "deviation": None, "values": [0.1, None, 0.3]}
    assert spread([{"miou": 0.5}]) == {"miou": {"mean": 0.5, "deviation": None, "values": [0.5]}}


def test_repeats_are_runs_of_their_own_and_taken_up_again(scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "repeats"
    assert run("run", scenes, out, repeats="2", seed="5") == 0
    said = capsys.readouterr()
    assert "mean ± standard deviation over seeds 5, 6" in said.out and " ± " in said.out
    alone = tmp_path / "alone"
    assert run("run", scenes, alone, seed="6") == 0
    assert files_of(out / "seed-6/masks") == files_of(alone / "masks")
    assert files_of(out / "seed-5/cams") != files_of(alone / "cams")
    before = files_of(out)
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("seed-*/report.html")}
    capsys.readouterr()
    assert main([*words("run", scenes, out, repeats="3", seed="5"), "--json"]) == 0  # one more
    summary = json.loads(capsys.readouterr().out)
    assert summary["seeds"] == [5, 6, 7]
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}  # those that are done were left alone
    assert {name: data for name, data in files_of(out).items() if name in before and name != "repeats.json"} == {
        name: data for name, data in before.items() if name != "repeats.json"
    }
    values = [figures(out / f"seed-{seed}")["refine"]["train"]["argmax"]["miou"] for seed in (5, 6, 7)]
    written = json.loads((out / "repeats.json").read_text())
    assert written["figures"] == summary["figures"]
    found = written["figures"]["refine"]["train"]["argmax"]["miou"]
    assert found["values"] == values and found["mean"] == pytest.approx(statistics.mean(values))
    assert found["deviation"] == pytest.approx(statistics.stdev(values))
    (out / "seed-6/metrics.json").unlink()  # as if it had been stopped
    (out / "seed-6/masks/train").rename(tmp_path / "gone")
    assert main(["run", "--out", str(out), "--repeats", "3", "--dry-run"]) == 0
    assert "refine: 10 masks to write" in capsys.readouterr().out
    assert main(["run", "--out", str(out), "--repeats", "3"]) == 0  # by the settings that are remembered
    assert yaml.safe_load((out / "seed-6/config.yaml").read_text())["seed"] == 6
    assert files_of(out / "seed-6/masks") == files_of(alone / "masks")
    assert json.loads((out / "repeats.json").read_text()) == written
    assert main(["run", "--out", str(out), "--repeats", "3", "--cams.flip", "true"]) == 2
    assert "cams.flip was False and is True" in capsys.readouterr().err
    before = files_of(out)
    for verb in ("run", "cams"):
        assert main([verb, str(out)] if COMMANDS[verb].run else [verb, "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert "holds the runs of --repeats (repeats.json, seed-5, seed-6, seed-7)" in said
        assert f"`run --repeats N` to go on with them, {out / 'seed-5'} for one of them" in said
    assert files_of(out) == before
    (out / "repeats.json").unlink()  # as if the first run had been stopped
    assert main(["run", "--out", str(out), "--dry-run"]) == 2
    assert main(["run", "--out", str(out / "seed-5"), "--dry-run"]) == 0


def test_what_repeats_refuse(scenes: Path, copied: Path, tmp_path: Path, capsys: Capture) -> None:
    for out, more, expected in (
        (copied, {}, "holds a single run"),
        (tmp_path / "new", {"shard": "1/2"}, "leave --shard out"),
        (tmp_path / "new", {"repeats": "0"}, "at least 1, received 0"),
        (tmp_path / "new", {"repeats": "many"}, "needs a whole number, got 'many'"),
        (tmp_path / "new", {"seed": str(2**31 - 1)}, "seed should lie in"),
    ):
        assert run("run", scenes, out, **{"repeats": "2", **more}) == 2
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    with run_lock(tmp_path / "new", "run"):
        assert run("run", scenes, tmp_path / "new", repeats="2") == 2
    with run_lock(tmp_path / "new/seed-0", "train"):
        assert run("run", scenes, tmp_path / "new", repeats="2") == 2
    assert not (tmp_path / "new").exists()


def test_processes_of_one_run_hold_one_lock_and_repeat_together(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = words("run", scenes, out, repeats="2", network__batch_norm="fixed")
    first, other = together(2, arguments, tmp_path / "first")
    assert first.code() == other.code() == 0, first.errors + other.errors
    assert json.loads((out / "repeats.json").read_text())["seeds"] == [0, 1]
    assert first.errors.count("run 1 of 2") == first.said.count("mean ± standard deviation") == 1
    assert "run 1 of 2" not in other.errors and not other.said
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("seed-*/report.html")}
    again = together(2, arguments, tmp_path / "again")
    assert len(stamps) == 2 and [command.code() for command in again] == [0, 0], again[0].errors
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    with run_lock(out / "seed-0", "train"):
        refused = together(2, words("run", scenes, out / "seed-0"), tmp_path / "refused")
    assert refused[0].code() == 2
    assert f"process {os.getpid()} on " in refused[0].errors, refused[0].errors
