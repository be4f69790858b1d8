"""The command `review`: the page of a run where masks and tags are accepted, rejected and corrected."""

import json
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from html import escape
from pathlib import Path
from tempfile import NamedTemporaryFile

from tag2mask.cli.console import errors, output
from tag2mask.cli.invocation import Invocation
from tag2mask.cli.stages import one_process, require_run
from tag2mask.core.errors import UsageError
from tag2mask.data.corrections import CorrectionsFolder
from tag2mask.review import Desk, Server, reviewed_images
from tag2mask.review.server import refuse_host
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import CORRECTIONS
from tag2mask.runs.lock import terminated_like_interrupted
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages.registry import require_classes


@one_process
def review(call: Invocation, run: Path, *, open: bool = False, host: str = "127.0.0.1", port: int = 0) -> int:
    """Serve the page until Ctrl-C, then say what was decided and what comes next.

    Args:
        run: the run folder
        open: open the page in the browser
        host: 127.0.0.1, ::1 or localhost, and no other
        port: 0 takes the first free one from 8765 on
    """
    refuse_host(host)
    if not 0 <= port <= 65535:
        raise UsageError(f"--port should be a number from 1 to 65535, or 0 for any that is free, received {port}")
    require_run(run)
    desk = _desk(call.config, call.run_folder(), call.given.get("data.split"))
    if call.dry_run:
        _tell(call, f"would serve {_contents(desk)}", desk)
        return 0
    server = Server(desk, run.resolve().name, host=host, port=port)
    _tell(call, f"{_contents(desk)}\nopen {server.address}\nCtrl-C ends it", desk, address=server.address)
    with terminated_like_interrupted(), _opened(server.address) if open else nullcontext():
        server.serve()
    _tell(call, f"\n{_decisions(desk)}; {_next(desk)}", desk)
    return 0


def _desk(config: Config, run: RunFolder, split: str | None) -> Desk:

    images = reviewed_images(config, run, split)
    require_classes(run, images.classes)
    corrections = CorrectionsFolder(run / CORRECTIONS, images.classes)
    return Desk(images, run, corrections, pixel_limit=config.data.pixel_limit, intensity=config.data.intensity)


def _contents(desk: Desk) -> str:
    ranked = "the least confident first" if desk.list.ranking else "in the order of the data set"
    number = len(desk.list)
    images = f"{number:,} image{'s' * (number != 1)} of {desk.run.path}, {ranked}"
    return f"{images}; {_decisions(desk)}; decisions are kept in {desk.corrections.folder}"


def _decisions(desk: Desk) -> str:
    """How many there are."""
    counts = desk.list.counts()
    made = {name: counts[name] for name in ("accepted", "corrected", "rejected") if counts[name]}
    named = [f"{count:,} {name}" for name, count in made.items()]
    named += [f"{counts['tags']:,} with other tags"] if counts["tags"] else []
    return ", ".join(named) or "nothing is decided yet"


def _next(desk: Desk) -> str:
    """Where the decisions are, and the command that learns from them; nothing where there are none."""
    run = desk.run.path
    if desk.list.counts()["undecided"] == len(desk.list) and not desk.list.counts()["tags"]:
        return "nothing was written"
    trained = (run / "segment" / "stage.json").is_file()
    command = f"segment {run} --restart segment" if trained else f"run --out {run}"
    return f"they are in {desk.corrections.folder}; next: `tag2mask {command}`"


def _tell(call: Invocation, sentence: str, desk: Desk, **more: object) -> None:
    """Words, or a line of JSON."""
    if call.as_json:
        said = {"images": len(desk.list), "corrections": str(desk.corrections.folder), **desk.list.counts()}
        print(json.dumps({**more, **said}, ensure_ascii=False), flush=True)
    else:
        output().print(sentence, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _opened(address: str) -> Iterator[None]:
    """Open the browser, where there is one, by a file that leads there: other users see the words of a command."""
    with NamedTemporaryFile("w", prefix="tag2mask-review-", suffix=".html", encoding="utf-8") as file:  # mode 0600
        file.write(f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(address)}"><title>…</title>')
        file.flush()
        if not webbrowser.open(Path(file.name).absolute().as_uri()):
            errors().print("no browser could be opened; open the address yourself", highlight=False)
        yield
