"""The server: on the loopback interface alone, a thread for each request, until Ctrl-C."""

import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from werkzeug.serving import WSGIRequestHandler, make_server

from tag2mask.errors import UsageError
from tag2mask.review.desk import Desk
from tag2mask.review.guard import LOOPBACK, READING, Guard
from tag2mask.review.routes import build_app

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PATIENCE = 20
"""Seconds that what is being saved has at the end."""

PORTS = range(8765, 8785)
"""Where a free port is looked for, so that the address is mostly the same."""


class Server:
    """Serves a review.

    Attributes:
        address: with the key, to be opened in a browser.
    """

    def __init__(self, desk: Desk, name: str, *, host: str = LOOPBACK[0], port: int = 0) -> None:
        """Take the port; nothing is answered yet.

        Args:
            desk: of the review.
            name: of the run, for the title.
            host: a name of the loopback interface.
            port: 0 for the first that is free.

        Raises:
            UsageError: another host, or the port is taken.
        """
        self._socket, self._host = _bound(host, port), host
        number = self._socket.getsockname()[1]
        guard = Guard(number)
        app = build_app(desk, guard, name)
        app.wsgi_app = self._saving = _Saving(app.wsgi_app)  # type: ignore[method-assign]
        shown = f"[{host}]" if ":" in host else host
        self.address = f"http://{shown}:{number}/?key={guard.key}"
        self._server = make_server(host, number, app, threaded=True, request_handler=_Quiet, fd=self._socket.fileno())

    def serve(self) -> None:
        """Answer until the process is interrupted, or `stop` is called; what is being saved then is saved."""
        try:
            self._server.serve_forever()
        except KeyboardInterrupt:
            pass  # werkzeug mostly catches it
        finally:
            self._socket.close()
            self._saving.wait()

    @property
    def saving(self) -> bool:
        """Whether something is being saved."""
        return self._saving.open > 0

    def close(self) -> None:
        """Give the port back, where `serve` is not called."""
        self._server.server_close()
        self._socket.close()

    def stop(self) -> None:
        """End `serve`, from another thread."""
        self._server.shutdown()


class _Saving:
    """Counts what is being saved, from the first byte on: the threads of requests do not outlive the process."""

    def __init__(self, app: "WSGIApplication") -> None:
        self._app, self.open, self._ended = app, 0, threading.Condition()

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer a request."""
        if environ["REQUEST_METHOD"] in READING:
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
        """Return when nothing is being saved any more; a browser that sends no further byte is not waited for long."""
        with self._ended:
            self._ended.wait_for(lambda: not self.open, timeout=PATIENCE)


class _Quiet(WSGIRequestHandler):
    """Says nothing of requests that were answered."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing."""

    def log(self, type: str, message: str, *args: Any) -> None:
        """Nothing but errors, which `werkzeug` logs itself."""
        if type == "error":
            super().log(type, message, *args)


def refuse_host(host: str) -> None:
    """Refuse to serve to other machines.

    Raises:
        UsageError: the host is no name of the loopback interface.
    """
    if host not in LOOPBACK:
        raise UsageError(
            f"--host should be {', '.join(LOOPBACK)}, received {host!r}: photographs are served to this machine alone; "
            "from another one, forward the port: ssh -L PORT:localhost:PORT MACHINE"
        )


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens."""
    refuse_host(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in (port,) if port else (*PORTS, 0):
        with suppress(OSError):
            return socket.create_server((host, number), family=family)
    message = f"port {port} of {host} is taken, or not allowed" if port else f"no port of {host} is free"
    raise UsageError(f"{message}; choose another with --port")
