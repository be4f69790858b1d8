"""A hostile input: how it is made, with which command it is met, and the yard that it must not leave."""

import io
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from PIL import Image

SEED = 20261126
MEMORY = 3 << 30
"""Bytes of addresses that a case may add to those of the process; every bomb asks for more."""

PATIENCE = 120
"""Seconds after which a case counts as hanging."""

BAD = (1, 2)
OUT = "../out"
"""The only place that may be written to, from the folder of the input."""


@dataclass(frozen=True)
class Yard:
    """Where a case plays. Everything but ``out`` has to stay as it was.

    Attributes:
        top: holds all; deep enough above ``data`` that a path that climbs some folders still ends in it.
        fixture: gives what several cases share, by its name in the tests; it is made when it is first asked for.
    """

    top: Path
    fixture: Callable[[str], Any]

    @property
    def data(self) -> Path:
        """Where the hostile input lies; the current folder, so that commands can be alike and are parsed once."""
        return self.top / "a/b/c/data"

    @property
    def out(self) -> Path:
        """The only place that may be written to."""
        return self.top / "a/b/c/out"

    @property
    def scenes(self) -> Path:
        """Generated images."""
        return Path(self.fixture("scenes"))

    @property
    def marker(self) -> Path:
        """What a payload makes when it is executed."""
        return self.top / "executed"

    @property
    def secret(self) -> Path:
        """A file that a climbing name may reach."""
        return self.top / "a/b/secret.png"


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Attributes:
        kind: the generator that made it.
        name: what is hostile about it.
        make: makes the files in the yard and gives the words of the command.
        says: what the answer has to contain, apart from blanks; empty where the input is usable.
        codes: the exit codes that are right.
        writes: the folder in the yard's data that the documentation lets the program write to.
    """

    kind: str
    name: str
    make: Callable[[Yard], list[str]]
    says: str = ""
    codes: tuple[int, ...] = field(default=BAD)
    writes: str = ""

    def __str__(self) -> str:
        return f"{self.kind}-{self.name}"


class Executes:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        """Keep which file."""
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def yaml_payload(marker: Path) -> str:
    """YAML that makes a file when it is loaded by a loader that trusts it."""
    return f"!!python/object/apply:os.mkdir ['{marker}']"


def write(path: Path, content: bytes | str) -> Path:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def begun(yard: Yard) -> str:
    """A run over two images of 4 × 4 pixels, in the only place that may be written to; its folder as a word."""
    for name in ("one", "two"):
        image, file = Image.new("RGB", (4, 4)), io.BytesIO()
        image.save(file, "PNG")
        write(yard.data / f"images/{name}.png", file.getvalue())
    write(yard.data / "images/tags.csv", "image,tags\none.png,cat\ntwo.png,dog\n")
    write(yard.out / "config.yaml", "data: {root: images}\n")
    return OUT


def state_of(top: Path, *without: Path) -> dict[str, tuple[int, int, int]]:
    """Kind, size and time of everything below ``top`` but what lies in some folders; links are not followed."""
    found = {}
    closed, parents = {str(path) for path in without}, {str(path.parent) for path in without}
    for folder, folders, files in os.walk(os.fsencode(top)):
        if os.fsdecode(folder) in closed:
            folders.clear()
            continue
        for name in (*folders, *files):
            path = os.path.join(folder, name)  # noqa: PTH118 - names of broken encodings
            if os.fsdecode(path) not in closed:
                status = os.lstat(path)
                is_folder = name in folders
                changes = os.fsdecode(path) in parents  # what comes and goes next to it changes its time
                size, at = 0 if is_folder else status.st_size, 0 if changes else status.st_mtime_ns
                found[os.fsdecode(path)] = (status.st_mode, size, at)
    return found


class Hung(BaseException):
    """A case did not come to an end; no handler of the program takes it for one of its own."""


@contextmanager
def bounded() -> Iterator[None]:
    """No hang, and no more memory than the process has now and `MEMORY`."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hung

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, limits[1]))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)
