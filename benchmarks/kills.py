"""Kill commands at random moments of their work, and see whether everything goes on without a person. Prints JSON.

python benchmarks/kills.py --kills 20 --out /tmp/kills

Each of `run`, `predict`, `import`, `export` and `review` (while it saves) gets SIGKILL `--kills` times, or as often as
`--minutes` allow, on generated scenes and tiny networks. After each kill another command, then the same command, then
all others must work. The finished outputs must be byte for byte those of an uninterrupted command, and neither a lock
nor a temporary file may stay.
"""

import argparse
import json
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from itertools import product
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import numpy as np

from measure import hardware

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from forked import Command, end_all, started
from run_tiny import BACKBONE, files_of, words
from tag2mask.core.files import TEMPORARY_PREFIX
from tag2mask.synthetic import SceneSettings, write_scenes

SIZE, TRAIN = 64, 10
SETTINGS = {
    "segment__enabled": "true",
    "segment__network__backbone": BACKBONE,
    "segment__network__weights": "none",
    "segment__steps": "4",
    "segment__batch_size": "2",
    "segment__augment__crop": "65",
    "segment__augment__long_side": "[64,96]",
    "evaluate__splits": "[train,val]",
}
VERBS = ("run", "predict", "import", "export", "review")
OTHERS = ("report", "evaluate", "check", "look", "export", "predict")
"""The commands that have to work after any was killed, besides `import`, which changes what they read."""

CHANGING = ("log.jsonl", "state.pt", "environment.json", "report.html", "throughput/")
"""Files that hold times, or how often a training was resumed."""

_AT = re.compile(rb'"at": "[^"]*"')

LOCKED = ("is being written to", "is damaged", "was not made by", "[Errno", "Traceback", "unexpected ")
"""What a command says that needs a person."""


@dataclass
class Yard:
    """The data, an uninterrupted run, and the folder of one kill."""

    scenes: Path
    reference: Path
    folder: Path
    number: int = 0

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def command(self, verb: str) -> Command:
        """Start a command on the run of this kill; ``verb`` may have options."""
        run, folder = str(self.run), self.folder
        predicted, export = folder / "predicted", folder / "export"
        lines = {
            "run": words("run", self.scenes, self.run, **SETTINGS),
            "predict": ["predict", run, str(self.scenes), "--out", str(predicted), "--overlays", "--device", "cpu"],
            "import": ["import", "masks", str(self.reference / "run/masks"), run],
            "export": ["export", "voc", run, "--out", str(export), "--images", "copy", "--overwrite"],
            "review": ["review", run, "--json"],
            "look": ["review", run, "--dry-run"],
            "report": ["report", run],
            "evaluate": ["evaluate", run],
            "check": ["check", str(self.scenes), "--with", run, "--device", "cpu"],
        }
        self.number += 1
        return started(lines[verb.partition(" ")[0]] + verb.split()[1:], folder / f"said/{self.number}")

    def names(self) -> set[Path]:
        """All files of this kill."""
        return {path for path in self.folder.rglob("*") if "said" not in path.parts}

    def prepare(self, verb: str) -> None:
        """The folder before ``verb``: with a finished run for all commands but `run`, and with an earlier export."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if verb != "run":
            shutil.copytree(self.reference / "run", self.run)
        if verb == "export":
            shutil.copytree(self.reference / "export", self.folder / "export")

    def outputs(self, verb: str) -> dict[str, bytes]:
        """The finished outputs of a command."""
        places = {"run": "run", "predict": "predicted", "export": "export"}
        folder = self.folder / places.get(verb, "run/corrections")
        found = files_of(folder) if folder.is_dir() else {}
        return {
            name: _AT.sub(b"", data.replace(str(self.folder).encode(), b"HERE"))  # without place and time
            for name, data in found.items()
            if not any(each in name for each in CHANGING)
        }


def do(yard: Yard, verb: str, strike: Callable[[Command], None] = lambda command: None) -> tuple[Command, float]:
    """Do a command to its end.

    Args:
        verb: the command; `review` serves the page, where a mask is saved for each image.
        strike: called in a thread when the command begins to write.

    Returns:
        the ended command, and the seconds from its first write to its end.
    """
    before = yard.names()
    command = yard.command(verb)
    send = admitted(command) if verb == "review" else None
    while send is None and command.process.is_alive() and yard.names() == before:
        time.sleep(0.005)
    began, striking = time.monotonic(), Thread(target=strike, args=(command,))
    striking.start()
    if send is not None:
        save_all(send)
    seconds = time.monotonic() - began
    if send is not None:
        striking.join()
        command.process.terminate()
    command.process.join()
    striking.join()
    return command, seconds if send is not None else time.monotonic() - began


def admitted(server: Command) -> Callable[[int, bytes], None]:
    """A function that saves a mask on the page of a review, as a browser does."""
    while not server.said.endswith("\n"):
        assert server.process.is_alive(), server.errors
        time.sleep(0.01)
    parts = urlsplit(json.loads(server.said)["address"])
    connection = HTTPConnection("127.0.0.1", parts.port or 0, timeout=30)

    def send(index: int, mask: bytes) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        connection.request("PUT", f"{parts.path}api/images/{index}/mask?verdict=corrected", mask, headers)
        answer = connection.getresponse()
        page = answer.read().decode()
        assert answer.status < 400, page

    return send


def save_all(send: Callable[[int, bytes], None]) -> None:
    """Save a mask for each image, until the server is killed."""
    with suppress(HTTPException, OSError):
        for index in range(TRAIN):
            mask = np.random.default_rng(index).integers(0, 3, (SIZE, SIZE), dtype=np.uint8)
            send(index, mask.tobytes())


def kill(yard: Yard, verb: str, moment: float) -> bool:
    """Kill a command ``moment`` seconds after its first write; whether it was at work."""
    landed = []

    def strike(command: Command) -> None:
        time.sleep(moment)
        landed.append(command.process.is_alive())
        command.process.kill()

    do(yard, verb, strike)
    return landed[0]


def faults_after(yard: Yard, verb: str, expected: dict[str, bytes], other: str, later: Sequence[str]) -> list[str]:
    """What does not work after a kill: ``other`` at once, then the same command, and ``later`` ones."""
    found = []
    first = do(yard, other)[0]
    if (code := first.process.exitcode) not in (0, 1, 2) or any(word in first.errors for word in LOCKED):
        found.append(f"{other}, right after it: {code} {first.errors[-300:]}")
    same = do(yard, verb)[0]
    if same.process.exitcode:
        found.append(f"the same command: {same.process.exitcode} {same.errors[-300:]}")
    made = yard.outputs(verb)
    if differing := sorted(name for name in {*made, *expected} if made.get(name) != expected.get(name)):
        found.append(f"other files than without a kill: {differing[:5]}")
    left = [path for path in yard.folder.rglob("*") if path.name.startswith((TEMPORARY_PREFIX, "run.lock", "run-"))]
    if left:
        found.append(f"left: {[str(path.relative_to(yard.folder)) for path in left[:5]]}")
    for each in later:
        command = do(yard, each)[0]
        if command.process.exitcode:
            found.append(f"{each}, later: {command.process.exitcode} {command.errors[-300:]}")
    return found


def measure(top: Path, kills: int, minutes: float, later: int, seed: int = 0) -> dict[str, object]:
    """Kill each command ``kills`` times, in turn, until ``minutes`` are over; ``later`` others follow each."""
    top = top.absolute()
    write_scenes(top / "scenes", SceneSettings(classes=2, size=SIZE, train=TRAIN, val=4))
    yard = Yard(top / "scenes", top / "reference", top / "reference")
    expected, lasts = {}, {}
    for verb in VERBS:
        shutil.rmtree(yard.run / "corrections", ignore_errors=True)  # of `import`
        command, lasts[verb] = do(yard, verb)
        assert command.process.exitcode == 0, command.errors
        expected[verb] = yard.outputs(verb)
    shutil.rmtree(yard.run / "corrections")
    yard.folder = top / "killed"
    draw, until = random.Random(seed), time.monotonic() + 60 * minutes
    done, faults = dict.fromkeys(VERBS, 0), list[str]()
    for number, verb in product(range(kills), VERBS):
        while done[verb] == number and time.monotonic() < until:
            yard.prepare(verb)
            if kill(yard, verb, draw.random() * lasts[verb]):
                others = draw.sample((*OTHERS, "import --overwrite"), later)
                found = faults_after(yard, verb, expected[verb], draw.choice(OTHERS), others)
                faults += [f"{verb} {number}: {fault}" for fault in found]
                done[verb] += 1
    end_all()
    return {"hardware": hardware(), "kills": done, "failures": faults}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--later", type=int, default=len(OTHERS) + 1, help="other commands after each kill")
    options = parser.parse_args()
    print(json.dumps(measure(options.out, options.kills, options.minutes, options.later), indent=2))


if __name__ == "__main__":
    main()
