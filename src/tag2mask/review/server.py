"""The server: on the loopback interface only, below a secret path, one thread per request."""

import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from hmac import compare_digest
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, render_template, request
from werkzeug.exceptions import Forbidden
from werkzeug.serving import WSGIRequestHandler, make_server

from tag2mask.core.errors import UsageError
from tag2mask.review.routes import assist_routes, error_answer, reading_routes, writing_routes
from tag2mask.review.session import Session

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LOOPBACK = {"127.0.0.1": "127.0.0.1", "::1": "::1", "localhost": "127.0.0.1"}
"""The address of each allowed host; a name in the printed address could lead the browser to another listener."""

_HTTP = 80
"""The port that browsers omit from an address."""

_READING = ("GET", "HEAD")
"""Methods that only read."""

_TIMEOUT = 20
"""Seconds to wait at the end for requests that are writing."""

_PORTS = range(8765, 8785)
"""The default ports, tried in order, so that the address is usually the same."""

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True)
class Guard:
    """Accepts only requests of the page.

    A request needs the key in its path. Browsers send cookies to all ports of a host, and so to the servers of other
    users of this machine; a path is sent to one port only. Another site does not know the key, so it can neither read
    nor write: requests that write need no further token.

    Attributes:
        address: the numeric address of the server.
        key: the first part of each path.
    """

    address: str
    port: int
    key: str = field(default_factory=partial(token_urlsafe, 24))

    @property
    def origin(self) -> str:
        """The start of the printed address."""
        return f"http://{f'[{self.address}]' if ':' in self.address else self.address}:{self.port}"

    @property
    def hosts(self) -> frozenset[str]:
        """Accepted values of the header Host; they exclude DNS rebinding."""
        host = self.origin.removeprefix("http://")
        return frozenset([host, host.removesuffix(f":{_HTTP}")])

    def protect(self, app: Flask) -> None:
        """Check all requests of an app, and add security headers to all answers."""
        app.before_request(self._check)
        app.after_request(_harden)

    def _check(self) -> None:
        if request.headers.get("Host", "") not in self.hosts:
            raise Forbidden(f"this server answers to {self.origin} only; forward the same port, and open that address")
        if not _same(request.path[1:].partition("/")[0], self.key):
            raise Forbidden(
                "this address is not that of the running `tag2mask review`: open the address that it printed, with "
                f"its key, {self.origin}/KEY/; the key is new at each start"
            )
        page = request.path == f"/{self.key}/"  # a link elsewhere may lead to the page
        if not page and request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise Forbidden("requests from other sites are refused")


def build_app(session: Session, guard: Guard, name: str) -> Flask:
    """The Flask app of a review.

    Args:
        name: the title of the page.
    """
    begin = f"/{guard.key}"
    app = Flask("tag2mask.review", static_folder="static", static_url_path=f"{begin}/static")
    app.json.ensure_ascii = True  # type: ignore[attr-defined]  # escapes file names that are not UTF-8
    app.url_map.merge_slashes = False
    guard.protect(app)
    app.register_error_handler(Exception, error_answer)
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    app.register_blueprint(reading_routes(session), url_prefix=f"{begin}/api")
    app.register_blueprint(writing_routes(session), url_prefix=f"{begin}/api")
    if session.assistant is not None:
        app.register_blueprint(assist_routes(session, session.assistant), url_prefix=f"{begin}/api")

    @app.get(f"{begin}/")
    def page() -> str:
        return render_template("review.html", name=shown, assisted=session.assistant is not None)

    return app


class Server:
    """Serves a review.

    Attributes:
        address: the address with the key, to open in a browser.
    """

    def __init__(self, session: Session, name: str, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """Bind the port.

        Args:
            name: the title of the page.
            host: one of `LOOPBACK`.
            port: 0 for the first free one.

        Raises:
            UsageError: the host is not allowed, or the port is taken.
        """
        refuse_host(host)
        self._socket = _bound(LOOPBACK[host], port)
        self._assistant = session.assistant
        address, number = self._socket.getsockname()[:2]
        guard = Guard(address, number)
        app = build_app(session, guard, name)
        app.wsgi_app = self._writing = _WritingRequests(app.wsgi_app)  # type: ignore[method-assign]
        self.address = f"{guard.origin}/{guard.key}/"
        self._server = make_server(
            address, number, app, threaded=True, request_handler=_Quiet, fd=self._socket.fileno()
        )

    def serve(self) -> None:
        """Answer until an interrupt or `stop`; then finish the requests that are writing, and that of the model."""
        try:
            self._server.serve_forever()
        except KeyboardInterrupt:
            pass  # usually werkzeug catches it
        finally:
            self._socket.close()
            self._writing.wait()
            if self._assistant is not None:
                self._assistant.close()

    @property
    def writing(self) -> bool:
        """Whether a request is writing."""
        return self._writing.open > 0

    def close(self) -> None:
        """Release the port without serving."""
        self._server.server_close()
        self._socket.close()

    def stop(self) -> None:
        """End `serve` from another thread."""
        self._server.shutdown()


class _WritingRequests:
    """Counts the requests that write, from their first byte, because their threads end with the process."""

    def __init__(self, app: "WSGIApplication") -> None:
        self._app, self.open, self._ended = app, 0, threading.Condition()

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Call the app."""
        if environ["REQUEST_METHOD"] in _READING:
            return self._app(environ, start_response)
        with self._ended:
            self.open += 1
        try:
            return self._app(environ, start_response)
        finally:
            with self._ended:
                self.open -= 1
                self._ended.notify_all()

    def wait(self) -> None:
        """Wait until no request is writing, at most `_TIMEOUT`."""
        with self._ended:
            self._ended.wait_for(lambda: not self.open, timeout=_TIMEOUT)


class _Quiet(WSGIRequestHandler):
    """Logs errors only."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing."""

    def log(self, type: str, message: str, *args: Any) -> None:
        """Errors only."""
        if type == "error":
            super().log(type, message, *args)


def refuse_host(host: str) -> None:
    """Refuse to serve to other machines.

    Raises:
        UsageError: the host is not a name of the loopback interface.
    """
    if host not in LOOPBACK:
        raise UsageError(
            f"--host should be {', '.join(LOOPBACK)}, received {host!r}: images are served to this machine only; "
            "from another machine, forward the port: ssh -L 127.0.0.1:PORT:127.0.0.1:PORT MACHINE"
        )


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in (port,) if port else (*_PORTS, 0):
        with suppress(OSError):
            return socket.create_server((host, number), family=family)
    message = f"port {port} of {host} is taken or not allowed" if port else f"no port of {host} is free"
    raise UsageError(f"{message}; choose another with --port")


def _same(given: str, wanted: str) -> bool:
    return compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _harden(answer: Response) -> Response:
    for name, value in _HEADERS.items():
        answer.headers[name] = value
    answer.headers.setdefault("Cache-Control", "no-store")
    return answer
