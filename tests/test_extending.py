"""The parts that docs/extending.md adds, put into a copy of the package, and a run with all of them."""

import csv
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from shutil import copytree

from run_tiny import words
from tag2mask.data.cam_files import read_cam

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r'```(python|diff) title="([^"]+)"\n(.*?)```', re.DOTALL)


def test_each_part_is_two_files_and_all_of_them_work(scenes: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs/extending.md").read_text()
    copy = tmp_path / "copy"
    copytree(ROOT / "src", copy / "src")
    touched = defaultdict(list)
    for section in page.split("\n## ")[1:]:
        for kind, name, text in BLOCK.findall(section):
            touched[section.partition("\n")[0]].append(name)
            if kind == "python":
                assert not (copy / name).exists()
                (copy / name).write_text(text)
            else:
                command = ["git", "apply", "--recount", "--unidiff-zero", "-"]
                done = subprocess.run(command, input=text.encode(), cwd=copy, capture_output=True)
                assert not done.returncode, (name, done.stderr.decode())
    assert {part: len(files) for part, files in touched.items()} == {
        "A stage": 2,
        "A kind of CAM": 2,
        "A backbone": 2,
        "A refinement method": 2,
    }
    out = tmp_path / "out"
    changes = {"network__backbone": "patches", "cams__kinds": "[pot,smooth]", "refine__cams": "smooth"}
    command = [sys.executable, "-m", "tag2mask", *words("run", scenes, out, **changes, refine__method="sharpened")]
    environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    with (out / "shares/shares.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13 and all(0 <= float(row["share"]) <= 1 for row in rows)
    pot, smooth = (read_cam(out / f"cams/{kind}/train/0000.npz").cams for kind in ("pot", "smooth"))
    assert pot.shape == smooth.shape and smooth.std() < pot.std()
    assert json.loads((out / "refine/stage.json").read_text())["settings"]["refine.method"] == "sharpened"
    assert (out / "report.html").is_file() and "smooth" in json.loads((out / "metrics.json").read_text())["cams"][
        "train"
    ]
