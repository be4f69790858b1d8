"""Who may talk to the server: this machine's browser, by the address that was printed, and no other site through it."""

from dataclasses import dataclass, field
from hmac import compare_digest
from secrets import token_urlsafe

from flask import Flask, Request, Response, redirect, request
from werkzeug.exceptions import Forbidden, UnsupportedMediaType
from werkzeug.wrappers import Response as AnyResponse

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""The names of this machine under which it serves."""

HTTP = 80
"""The port that an address means where it says none."""

BODIES = ("application/json", "application/octet-stream")
"""What a request that changes something may carry; a form of another site can send neither."""

READING = ("GET", "HEAD")
"""The requests that change nothing."""

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


def _secret() -> str:
    return token_urlsafe(24)


@dataclass(frozen=True)
class Guard:
    """Lets through what comes from the page.

    Attributes:
        port: where the server listens.
        key: part of the printed address; a cookie keeps it, so that other users of this machine are kept out.
        token: part of the page; goes with every request that changes something.
    """

    port: int
    key: str = field(default_factory=_secret)
    token: str = field(default_factory=_secret)

    @property
    def hosts(self) -> frozenset[str]:
        """The values of the header Host that are meant for this server; a name that was bound anew has another."""
        names = [f"[{name}]" if ":" in name else name for name in LOOPBACK]
        without_port = names if self.port == HTTP else []  # browsers leave that one out
        return frozenset([*(f"{name}:{self.port}" for name in names), *without_port])

    @property
    def cookie(self) -> str:
        """Its name; browsers share cookies between the ports of a machine."""
        return f"tag2mask-review-{self.port}"

    def protect(self, app: Flask) -> None:
        """Look at every request before the app does, and say in every answer what the browser must not do."""
        app.before_request(self._look)
        app.after_request(_harden)

    def _look(self) -> AnyResponse | None:
        if request.headers.get("Host", "") not in self.hosts:
            raise Forbidden(f"this server answers to localhost:{self.port} alone; forward the same port where you must")
        offered = request.args.get("key")
        if request.path == "/" and offered is not None and _same(offered, self.key):
            return self._admitted()
        if not _same(request.cookies.get(self.cookie, ""), self.key):
            raise Forbidden("open the address that `tag2mask review` printed when it started, the key included")
        if request.path != "/" and request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise Forbidden("another site asks for this")
        if request.method not in READING:
            self._require_token(request)
        return None

    def _admitted(self) -> AnyResponse:
        """Keep the key in a cookie, and take it out of the address."""
        answer = redirect("/")
        answer.set_cookie(self.cookie, self.key, httponly=True, samesite="Lax")
        return answer

    def _require_token(self, asked: Request) -> None:
        if not _same(asked.headers.get("X-Review-Token", ""), self.token):
            raise Forbidden("the page is not of this start of `tag2mask review`; open the address that it printed")
        if asked.mimetype not in BODIES:
            raise UnsupportedMediaType(f"the body should be {' or '.join(BODIES)}, received {asked.mimetype!r}")


def _same(given: str, wanted: str) -> bool:
    return compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _harden(answer: Response) -> Response:
    for name, value in _HEADERS.items():
        answer.headers[name] = value
    answer.headers.setdefault("Cache-Control", "no-store")
    return answer
