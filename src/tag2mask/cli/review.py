"""The command `review`: accept, reject and correct masks and tags in the browser."""

import json
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

from tag2mask.cams.kinds import command_of
from tag2mask.cli.console import errors, output, say
from tag2mask.cli.invocation import Invocation
from tag2mask.cli.stages import one_process, require_run
from tag2mask.core.device import resolve_device
from tag2mask.core.errors import UsageError
from tag2mask.data.corrections import CorrectionsFolder
from tag2mask.data.images import read_image
from tag2mask.networks.backbones.hub import check_name
from tag2mask.networks.promptable import load_promptable
from tag2mask.review import Assistant, Server, Session, reviewed_images
from tag2mask.review.server import refuse_host
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import CORRECTIONS
from tag2mask.runs.lock import sigterm_as_interrupt
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages.registry import require_classes


@one_process
def review(
    call: Invocation,
    run: Path,
    *,
    open: bool = False,
    host: str = "127.0.0.1",
    port: int = 0,
    assist: str | None = None,
) -> int:
    """Serve the page until Ctrl-C, then print the decisions and the next command.

    Args:
        run: the run folder
        open: open the page in the browser
        host: 127.0.0.1, ::1 or localhost
        port: the port; 0: the first free port from 8765 on
        assist: the model of the tool Object: a SAM 2.1, SAM, SAM-HQ or EdgeTAM, by folder or by name on the hub
    """
    refuse_host(host)
    if not 0 <= port <= 65535:
        raise UsageError(f"--port should be a number from 1 to 65535, or 0 for a free one, received {port}")
    require_run(run)
    session = _session(call.config, call.run_folder(), call.given.get("data.split"))
    if call.dry_run:
        if assist is not None:
            check_name(assist, "assist")
        _print(call, f"would serve {_contents(session)}", session)
        return 0
    session.assistant = None if assist is None else _assistant(call, assist)
    session.corrections.remove_partial()
    server = Server(session, run.resolve().name, host=host, port=port)
    _print(call, f"{_contents(session)}\nopen {server.address}\nCtrl-C ends it", session, address=server.address)
    with sigterm_as_interrupt(), _opened(server.address) if open else nullcontext():
        server.serve()
    _print(call, f"\n{_decisions(session)}; {_next(session)}", session)
    return 0


def _session(config: Config, run: RunFolder, split: str | None) -> Session:
    images = reviewed_images(config, run, split)
    require_classes(run, images.classes)
    corrections = CorrectionsFolder(run / CORRECTIONS, images.classes)
    return Session(images, run, corrections, pixel_limit=config.data.pixel_limit, intensity=config.data.intensity)


def _assistant(call: Invocation, name: str) -> Assistant:
    def notify(text: str) -> None:
        call.console.print(text, highlight=False)

    data, device = call.config.data, resolve_device(call.config.device)
    notify(f"loading {name}")
    model = load_promptable(name, "assist", notify=notify).to(device)
    return Assistant(model, partial(read_image, pixel_limit=data.pixel_limit, intensity=data.intensity))


def _contents(session: Session) -> str:
    ranked = "least certain first" if session.list.ranking.by_id else "in the order of the data set"
    number = len(session.list)
    images = f"{number:,} image{'s' * (number != 1)} of {session.run.path}, {ranked}"
    return f"{images}; {_decisions(session)}; decisions are kept in {session.corrections.folder}"


def _decisions(session: Session) -> str:
    counts = session.list.counts()
    made = {name: counts[name] for name in ("accepted", "corrected", "rejected") if counts[name]}
    named = [f"{count:,} {name}" for name, count in made.items()]
    named += [f"{counts['tags']:,} with other tags"] if counts["tags"] else []
    return ", ".join(named) or "no decisions yet"


def _next(session: Session) -> str:
    """The folder of the decisions and the command that trains with them."""
    run = session.run.path
    if session.list.counts()["undecided"] == len(session.list) and not session.list.counts()["tags"]:
        return "nothing was written"
    trained = (run / "segment" / "stage.json").is_file()
    command = f"tag2mask segment {run} --restart segment" if trained else command_of(run)
    return f"they are in {session.corrections.folder}; next: `{command}`"


def _print(call: Invocation, sentence: str, session: Session, **more: object) -> None:
    if call.as_json:
        state = {"images": len(session.list), "corrections": str(session.corrections.folder), **session.list.counts()}
        print(json.dumps({**more, **state}, ensure_ascii=False), flush=True)
    else:
        say(output(), sentence)


@contextmanager
def _opened(address: str) -> Iterator[None]:
    """Open the browser with a file that redirects: other users can see the arguments of a command, so no key there."""
    # Of mode 0700. Not a file that stays open: no other program can open one on Windows.
    with TemporaryDirectory(prefix="tag2mask-review-") as folder:
        page = Path(folder) / "review.html"
        page.write_text(
            f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(address)}"><title>…</title>',
            encoding="utf-8",
        )
        if not webbrowser.open(page.absolute().as_uri()):
            say(errors(), "no browser could be opened; open the address yourself")
        yield
