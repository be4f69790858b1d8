"""How the files that stages write for each photograph are kept."""

import re
from dataclasses import dataclass, replace

from tag2mask.errors import UsageError

TAR_PLACE = "{tar}"
"""Where the name of a tar goes in a URL; at the end, after a slash, where it is not given."""


@dataclass
class OutputSettings:
    """One file a photograph, or tars of many, on this disk or in a store. What the files hold does not depend on it.

    Attributes:
        photographs_per_tar: files that a tar takes; 1000 are 2 to 4 MB of masks or CAMs. null writes single files.
        url: where finished tars are sent, anything that `webdataset` opens for writing: `file:/…`, `gs://…`, or
            `pipe:` and a command that takes the tar from standard input. `{tar}` stands for its name, as in
            `pipe:aws s3 cp - s3://bucket/run/{tar}`; without it the name is added at the end. Each run needs a URL of
            its own. null keeps the tars in the run folder. Needs the extra `shards`.
        read_url: from where they are read again, such as `https://…`, or `pipe:` and a command that writes the tar to
            standard output; null reads from `url`.
        cached_tars: fetched tars of a folder that lie in the run folder at a time; training, which reads in random
            order, keeps all that it fetches until it ends.
    """

    photographs_per_tar: int | None = None
    url: str | None = None
    read_url: str | None = None
    cached_tars: int = 16

    def __post_init__(self) -> None:
        """Refuse values out of range, all at once."""
        problems = []
        if self.photographs_per_tar is not None and self.photographs_per_tar < 1:
            problems.append("photographs_per_tar should be at least 1")
        if self.url is not None and self.photographs_per_tar is None:
            problems.append("url is for tars; set photographs_per_tar as well")
        if self.cached_tars < 1:
            problems.append("cached_tars should be at least 1")
        for name, url in (("url", self.url), ("read_url", self.read_url)):
            if url is not None and not re.match(r"file:/|(?!file:)[a-z][a-z0-9+.-]*:.", url):
                problems.append(f"{name} should begin with a scheme, as file:/folder or gs://bucket, received '{url}'")
            elif url is not None and url.startswith("pipe:") and TAR_PLACE not in url:
                problems.append(f"{name} should say with {TAR_PLACE} where the command takes the tar's name")
        if self.url is not None and self.url.startswith("pipe:") and self.read_url is None:
            problems.append("a pipe goes one way; read_url should say how tars are read again")
        if problems:
            raise UsageError("settings of outputs: " + "; ".join(problems))

    def below(self, name: str) -> "OutputSettings":
        """The same for a run of that name among several: a place of its own in the store."""
        return replace(self, url=_below(self.url, name), read_url=_below(self.read_url, name))


def _below(url: str | None, name: str) -> str | None:
    if url is None:
        return None
    return url.replace(TAR_PLACE, f"{name}/{TAR_PLACE}") if TAR_PLACE in url else f"{url.rstrip('/')}/{name}"
