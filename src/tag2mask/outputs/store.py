"""A store outside the run folder: finished tars go there, and come back to be read."""

import hashlib
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlparse

from tag2mask.errors import Tag2maskError, UsageError
from tag2mask.files import atomic_path
from tag2mask.outputs.settings import TAR_PLACE

_CHUNK = 1 << 20
_FAILURES = (OSError, ValueError, subprocess.SubprocessError)
"""What opening, reading and writing a URL raises where it fails."""


class StoreError(Tag2maskError):
    """A tar that could not be sent or fetched; the message names its URL."""


@dataclass(frozen=True)
class Sent:
    """A tar that lies in the store.

    Where it lies is for the settings alone to say: a URL can be a command, and this is read from a run folder, which
    may come from anybody.

    Attributes:
        bytes: its size.
        sha256: its digest.
    """

    bytes: int
    sha256: str


def require_webdataset() -> None:
    """Find out whether what opens URLs is installed.

    Raises:
        UsageError: it is not.
    """
    if find_spec("webdataset") is None:
        raise UsageError('outputs.url needs webdataset; pip install "tag2mask[shards]"')


def tar_url(url: str, name: str) -> str:
    """The URL of a tar.

    Args:
        url: of all of them, as `outputs.url` has it.
        name: of the tar, with folders.
    """
    name = shlex.quote(name) if url.startswith("pipe:") else quote(name)
    return url.replace(TAR_PLACE, name) if TAR_PLACE in url else f"{url.rstrip('/')}/{name}"


def send(path: Path, url: str, read_url: str) -> Sent:
    """Send a tar, then read it back: only what came back as it was is safe there.

    Args:
        path: the tar.
        url: where it goes; what lies there is overwritten.
        read_url: where it is read.

    Raises:
        StoreError: it could not be sent, or came back as something else.
    """
    digest = hashlib.sha256()
    kept = f"{path} is kept, and the same command tries again"
    try:
        _make_folder(url)
        with path.open("rb") as source, _opened(url, "wb") as target:
            while chunk := source.read(_CHUNK):
                target.write(chunk)
                digest.update(chunk)
    except _FAILURES as error:
        raise StoreError(f"{url} could not be written ({error}); {kept}") from error
    sent = Sent(path.stat().st_size, digest.hexdigest())
    try:
        for _ in _checked(sent, read_url):
            pass
    except StoreError as error:
        raise StoreError(f"{url} was written, but {error}; {kept}") from error
    return sent


def fetch(sent: Sent, url: str, target: Path) -> None:
    """Bring a tar back to ``target``, atomically.

    Args:
        sent: what was sent.
        url: where it is read.
        target: where it goes.

    Raises:
        StoreError: it could not be read, or is not what was sent.
    """
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        for chunk in _checked(sent, url):
            file.write(chunk)


def _checked(sent: Sent, url: str) -> Iterator[bytes]:
    """The bytes of a tar in the store; at the end they must have been those that were sent."""
    digest, size = hashlib.sha256(), 0
    try:
        with _opened(url, "rb") as source:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                yield chunk
    except _FAILURES as error:
        raise StoreError(f"{url} could not be read ({error}); once it can be, the same command goes on") from error
    if (size, digest.hexdigest()) != (sent.bytes, sent.sha256):
        raise StoreError(
            f"{url} is not the tar that was sent there ({size} bytes, not {sent.bytes}, or other ones); do two "
            "runs share outputs.url?"
        )


@contextmanager
def _opened(url: str, mode: str) -> Iterator[IO[bytes]]:
    require_webdataset()
    from webdataset.gopen import gopen

    stream: Any = gopen(url, mode)
    with stream:
        yield stream


def _make_folder(url: str) -> None:
    """The folder of a `file:` URL; other stores have none, or make theirs."""
    if url.startswith("file:"):
        from urllib.request import url2pathname  # takes as long to import as all else here

        Path(url2pathname(urlparse(url).path)).parent.mkdir(parents=True, exist_ok=True)
