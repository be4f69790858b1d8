"""What a review keeps, what its server answers, and to whom."""

import errno
import gzip
import io
import itertools
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import webbrowser
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from shutil import copytree
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from review_run import CLASSES, IDS, SIZE, TAGS, VALUES, build_run, every_value, open_session
from tag2mask.cli import main
from tag2mask.core.errors import UsageError
from tag2mask.data import ImageItem, ImageSet, palette, read_image, read_mask, write_mask
from tag2mask.data.corrections import CorrectionsFolder, Decision
from tag2mask.data.settings import DataSettings
from tag2mask.quality.ranking import IMAGES, Ranking
from tag2mask.review import Server, Session, reviewed_images
from tag2mask.review.image_list import Query, ReviewList
from tag2mask.review.server import Guard, build_app
from tag2mask.runs.config import Config
from tag2mask.runs.corrections import run_corrections
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages.registry import STAGES

PORT = 8765
BASE = f"http://127.0.0.1:{PORT}"


@dataclass
class Page:
    """A browser's side of a review, for tests."""

    client: FlaskClient
    guard: Guard
    session: Session

    def get(self, address: str, **options: Any) -> TestResponse:
        return self.client.get(f"/{self.guard.key}{address}", base_url=BASE, **options)

    def put(self, address: str, body: object, **headers: str) -> TestResponse:
        raw = isinstance(body, bytes)
        sent = {"Content-Type": "application/octet-stream" if raw else "application/json", **headers}
        data = body if raw else json.dumps(body)
        return self.client.put(f"/{self.guard.key}{address}", base_url=BASE, data=data, headers=sent)

    def index(self, image_id: str) -> int:
        index = self.session.list.index(image_id)
        assert index is not None
        return index


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("review")).parent


@pytest.fixture
def run(built: Path, tmp_path: Path) -> Path:
    return Path(copytree(built, tmp_path / "review")) / "run"


@pytest.fixture
def page(run: Path) -> Page:
    return _page(run)


def _page(run: Path) -> Page:
    session, guard = open_session(run), Guard("127.0.0.1", PORT)
    return Page(build_app(session, guard, "run").test_client(), guard, session)


def _stored(run: Path) -> dict[str, bytes]:
    folder = run / "corrections"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_printed_address_alone_lets_in(page: Page, run: Path) -> None:
    client, key = page.client, page.guard.key
    paths = ("/", "/api/review", "/api/images/0/picture", "/static/main.js", "//", "/favicon.ico")
    for path in (
        *paths,
        *(f"/wrong{path}" for path in paths),
        f"/?key={key}",
        f"//{key}/",
        f"/x/../{key}/",
        f"/{key}x/",
    ):
        answer = client.get(path, base_url=BASE, headers={"Cookie": f"key={key}", "Referer": f"{BASE}/{key}/"})
        assert answer.status_code == 403 and "it printed" in answer.get_json()["error"], path
        assert key not in answer.text
    assert client.put("/api/images/0/verdict", base_url=BASE, json={"verdict": "rejected"}).status_code == 403
    assert not (run / "corrections").exists()
    shown = page.get("/")
    assert shown.status_code == 200 and key not in shown.text
    assert {"default-src 'none'", "frame-ancestors 'none'"} < set(shown.headers["Content-Security-Policy"].split("; "))
    assert "http" not in shown.headers["Content-Security-Policy"]
    for path in ("/", "/api/review", "/static/main.js", "/api/images/0/picture"):
        answer = page.get(path)
        assert answer.status_code == 200 and "Set-Cookie" not in answer.headers
        assert (
            answer.headers["Referrer-Policy"] == "no-referrer" and answer.headers["X-Content-Type-Options"] == "nosniff"
        )


@pytest.mark.parametrize(
    ("host", "origin"),
    [("127.0.0.1", "http://127.0.0.1:"), ("localhost", "http://127.0.0.1:"), ("::1", "http://[::1]:")],
)
def test_the_printed_address_is_a_number(run: Path, host: str, origin: str) -> None:
    server = Server(open_session(run), "run", host=host)
    assert server.address.startswith(origin) and urlsplit(server.address).path.count("/") == 2
    server.close()


def test_a_person_gets_a_page_and_a_script_gets_json(page: Page) -> None:
    person = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"}
    for path in ("/", "/key-of-an-earlier-start/", f"/{page.guard.key}/nowhere"):
        shown = page.client.get(path, base_url=BASE, headers=person)
        assert shown.status_code in (403, 404) and shown.mimetype == "text/html"
        assert (
            "<h1>tag2mask review</h1>" in shown.text
            and "default-src 'none'" in shown.headers["Content-Security-Policy"]
        )
        assert set(page.client.get(path, base_url=BASE, headers={"Accept": "*/*"}).get_json()) == {"error"}
    assert "the key is new at each start" in page.client.get("/earlier/", base_url=BASE, headers=person).text
    with_markup = page.get("/api/images/0/labels/<script>", headers=person)  # the message quotes the name
    assert with_markup.status_code == 400 and "&lt;script&gt;" in with_markup.text and "<script" not in with_markup.text


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8765",
        "127.0.0.1",
        "127.0.0.1:9999",
        "localhost:8765",
        "[::1]:8765",
        "127.0.0.1:8765.evil.example",
        "",
    ],
)
def test_other_hosts_are_refused(page: Page, run: Path, host: str) -> None:
    for answer in (
        page.get("/", headers={"Host": host}),
        page.put("/api/images/0/verdict", {"verdict": "rejected"}, Host=host),
    ):
        assert answer.status_code == 403 and "answers to http://127.0.0.1:8765 only" in answer.get_json()["error"]
    assert not (run / "corrections").exists()


def test_a_class_has_the_colour_of_the_mask_files(page: Page) -> None:
    shown = [each["colour"] for each in page.get("/api/review").get_json()["classes"]]
    assert shown == ["#{:02x}{:02x}{:02x}".format(*colour) for colour in palette()[1 : len(CLASSES) + 1]]


def test_the_port_that_browsers_leave_out() -> None:
    assert Guard("127.0.0.1", 80).hosts == {"127.0.0.1", "127.0.0.1:80"}
    assert Guard("::1", 8080).hosts == {"[::1]:8080"}


def test_other_sites_cannot_change_or_read_anything(page: Page, run: Path) -> None:
    address, body = "/api/images/0/verdict", {"verdict": "rejected"}
    for site in ("cross-site", "same-site"):  # even with the key; other ports of this machine are the same site
        assert page.put(address, body, **{"Sec-Fetch-Site": site}).status_code == 403
        assert page.get("/api/images/0/picture", headers={"Sec-Fetch-Site": site}).status_code == 403
        assert page.get("/", headers={"Sec-Fetch-Site": site}).status_code == 200  # a link to the page
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):  # what a form can send
        assert page.put(address, body, **{"Content-Type": kind}).status_code == 415
        assert (
            page.client.post(f"/{page.guard.key}{address}", base_url=BASE, data="{}", content_type=kind).status_code
            == 405
        )
    asked = page.client.options(f"/{page.guard.key}{address}", base_url=BASE, headers={"Origin": "http://evil.example"})
    assert not [name for name, _ in asked.headers if name.startswith("Access-Control")]
    assert not (run / "corrections").exists()
    assert page.put(address, body).status_code == 200


@pytest.mark.parametrize(
    "address",
    [
        "/api/images/../../etc/passwd",
        "/api/images/-1",
        "/api/images/5",
        "/api/images/99999999999999999999",
        "/api/images/one",
        "/api/images/0/labels/..%2f..%2fconfig",
        "/api/images/0/labels/%2e%2e%5c%2e%2e%5cconfig",
        "/api/images/0/labels/%00",
        "/api/images/" + "9" * 5000,
        "/api/images?after=" + "9" * 5000,
        "/api/images/0/labels/..",
        "/api/images/0/labels/nothing",
        "/api/images/0/heat/mask/1",
        "/api/images/0/heat/cam-pot/7",
        "/api/images/0/original",
        "/static/../routes.py",
        "/static/..%2froutes.py",
        "/static/%2e%2e/routes.py",
        "/static/..\\routes.py",
        "/static/%00",
        "/static//../../../../etc/passwd",
        "/static//etc/passwd",
        "/api/index?id=../config",
        "/api/images?class=99",
        "/api/images?state=../x",
        "/api/images?after=x",
    ],
)
def test_what_is_not_of_the_review_is_not_answered(page: Page, address: str) -> None:
    answer = page.get(address)
    assert answer.status_code in (400, 404)
    assert set(answer.get_json()) == {"error"} and answer.get_json()["error"]


@pytest.mark.parametrize("image_id", ["one", "trip/two & 東京", "turned", "last"])
def test_every_value_of_a_mask_goes_through_unchanged(page: Page, run: Path, image_id: str) -> None:
    index = page.index(image_id)
    start = page.get(f"/api/images/{index}").get_json()["start"]
    assert start == ("prediction-0" if image_id == "last" else "mask")
    shown = page.get(f"/api/images/{index}/labels/{start}")
    pixels = np.frombuffer(gzip.decompress(shown.data), dtype=np.uint8).reshape(SIZE)
    assert set(np.unique(pixels)) == set(VALUES)
    assert (shown.headers["X-Height"], shown.headers["X-Width"]) == ("60", "80")
    drawn = every_value(77)
    answer = page.put(f"/api/images/{index}/mask?verdict=corrected", drawn.tobytes())
    assert answer.get_json()["verdict"] == "corrected" and answer.get_json()["counts"]["corrected"] == 1
    np.testing.assert_array_equal(read_mask(run / "corrections" / f"{image_id}.png"), drawn)
    again = gzip.decompress(page.get(f"/api/images/{index}/labels/correction").data)
    np.testing.assert_array_equal(np.frombuffer(again, dtype=np.uint8).reshape(SIZE), drawn)
    assert _page(run).get(f"/api/images/{index}").get_json()["start"] == "correction"


@pytest.mark.parametrize(
    ("body", "query", "code"),
    [
        (every_value(1).tobytes()[:-1], "verdict=corrected", 400),
        (every_value(1).tobytes() + b"\0", "verdict=corrected", 413),
        (b"", "verdict=corrected", 411),
        (np.full(SIZE, 21, dtype=np.uint8).tobytes(), "verdict=corrected", 422),
        (np.full(SIZE, 254, dtype=np.uint8).tobytes(), "verdict=accepted", 422),
        (every_value(1).tobytes(), "verdict=rejected", 400),
        (every_value(1).tobytes(), "", 400),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(page: Page, run: Path, body: bytes, query: str, code: int) -> None:
    answer = page.put(f"/api/images/0/mask?{query}", body)
    assert answer.status_code == code and answer.get_json()["error"]
    assert not (run / "corrections").exists()


@pytest.mark.parametrize(
    ("address", "body"),
    [
        ("verdict", {"verdict": "accepted"}),
        ("verdict", {"verdict": 3}),
        ("verdict", ["rejected"]),
        ("verdict", {}),
        ("verdict", b"rejected"),
        ("tags", {"tags": [0]}),
        ("tags", {"tags": [21]}),
        ("tags", {"tags": ["cat"]}),
        ("tags", {"tags": [True]}),
        ("tags", {"tags": list(range(1, 20)) * 9000}),
    ],
)
def test_what_is_not_a_decision_is_refused(page: Page, run: Path, address: str, body: object) -> None:
    answer = page.put(f"/api/images/0/{address}", body)
    assert 400 <= answer.status_code < 500 and answer.get_json()["error"]
    assert not (run / "corrections").exists()


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 60_000,
        b'{"verdict":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"tags": [' + b"9" * 60_000 + b"]}",
        b'{"tags": [1e999]}',
        b'{"tags": [NaN]}',
        b'{"verdict": -Infinity}',
        b'{"verdict": "\xff"}',
        b'{"verdict": {"rejected": 1}}',
        b'\x1f\x8b{"verdict": "rejected"}',
        b"null",
        b"\0",
    ],
    ids=lambda body: body[:16].decode("ascii", "replace"),
)
def test_a_body_that_is_not_json_gets_a_line(page: Page, run: Path, body: bytes) -> None:
    for address in ("verdict", "tags"):
        answer = page.put(f"/api/images/0/{address}", body, **{"Content-Type": "application/json"})
        assert answer.status_code == 400 and answer.get_json()["error"]
    assert not (run / "corrections").exists()


def test_decisions_replace_each_other_and_tags_stay(page: Page, run: Path) -> None:
    index, mask = page.index("one"), every_value(3)
    base = f"/api/images/{index}"
    assert page.put(f"{base}/mask?verdict=accepted", mask.tobytes()).get_json()["verdict"] == "accepted"
    said = page.put(f"{base}/tags", {"tags": [5, 1]}).get_json()
    assert (said["verdict"], said["tags"], said["other_tags"]) == ("accepted", [1, 5], True)
    kept = CorrectionsFolder(run / "corrections", CLASSES)
    decision = kept.decision("one")
    assert decision is not None and (decision.verdict, decision.tags) == ("accepted", (CLASSES[0], CLASSES[4]))
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), mask)
    assert page.put(f"{base}/verdict", {"verdict": "rejected"}).get_json()["tags"] == [1, 5]
    assert kept.mask("one") is None and not (run / "corrections/one.png").exists()
    assert page.put(f"{base}/verdict", {"verdict": None}).get_json()["counts"]["tags"] == 1
    decision = kept.decision("one")
    assert decision is not None and (decision.verdict, decision.tags) == (None, (CLASSES[0], CLASSES[4]))
    assert not page.put(f"{base}/tags", {"tags": [20, 1]}).get_json()["other_tags"]  # the data set's own
    assert kept.decision("one") is None and set(_stored(run)) == {"corrections.json"}


def test_no_rerun_touches_a_correction(page: Page, run: Path) -> None:
    page.put("/api/images/0/mask?verdict=corrected", every_value(5).tobytes())
    before = _stored(run)
    RunFolder(run).delete(STAGES.values())
    assert not (run / "masks").exists()
    assert _stored(run) == before and "one.png" in before


@pytest.mark.parametrize("writer", ["write_text", "write_bytes"])
def test_a_save_on_a_full_disk_leaves_the_earlier_decision(
    page: Page, run: Path, writer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.put("/api/images/0/mask?verdict=accepted", every_value(1).tobytes())
    page.put("/api/images/0/tags", {"tags": [4]})
    before, counts = _stored(run), page.session.list.counts()

    def full(path: Path, *_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(Path, writer, full)
        for index in (0, 1):
            answer = page.put(f"/api/images/{index}/mask?verdict=corrected", every_value(2).tobytes())
            assert answer.status_code == 500 and "no space left" in answer.get_json()["error"]
    assert _stored(run) == before
    assert page.session.list.counts() == counts == _page(run).session.list.counts()
    assert page.put("/api/images/0/mask?verdict=corrected", every_value(2).tobytes()).status_code == 200
    assert read_mask(run / "corrections/one.png").tobytes() == every_value(2).tobytes()


def _killed_at(run: Path, number: int) -> bool:
    """Whether a process was killed while it replaced a decision, before or after one of its renames."""
    child = os.fork()
    if child == 0:
        kept, rename, made = CorrectionsFolder(run / "corrections", CLASSES), Path.replace, itertools.count()

        def replace(path: Path, target: Path) -> Path:
            for step in (lambda: None, lambda: rename(path, target)):
                step()
                if next(made) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return target

        Path.replace = replace  # type: ignore[method-assign, assignment]
        kept.write("one", Decision.now("corrected", (CLASSES[3],)), every_value(2))
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_kill_during_a_save_leaves_whole_files(page: Page, run: Path) -> None:
    seen = []
    for number in itertools.count():
        page.put("/api/images/0/mask?verdict=accepted", every_value(1).tobytes())
        page.put("/api/images/0/tags", {"tags": None})
        killed = _killed_at(run, number)
        decision, mask = CorrectionsFolder(run / "corrections", CLASSES).decision("one"), run / "corrections/one.png"
        assert decision is not None
        tags, pixels = decision.tags is not None, read_mask(mask).tobytes()
        seen.append((decision.verdict, tags, 1 + [every_value(1).tobytes(), every_value(2).tobytes()].index(pixels)))
        assert not run_corrections(RunFolder(run), CLASSES).damaged
        if not killed:
            break
    assert len(seen) > 4 and seen[0] == ("accepted", False, 1) and seen[-1] == ("corrected", True, 2)
    assert set(seen) == {("accepted", False, 1), ("accepted", False, 2), ("corrected", True, 2)}


def test_concurrent_saves_lose_nothing(run: Path) -> None:
    server = Server(open_session(run), "run")
    serving = threading.Thread(target=server.serve)
    serving.start()
    address = urlsplit(server.address)
    codes: list[int] = []

    def save(index: int, what: str) -> None:
        for number in range(1, 11):
            connection = HTTPConnection("127.0.0.1", address.port or 0, timeout=60)
            body = every_value(number).tobytes() if what.startswith("mask") else json.dumps({"tags": [number]})
            kind = "application/octet-stream" if what.startswith("mask") else "application/json"
            connection.request("PUT", f"{address.path}api/images/{index}/{what}", body, {"Content-Type": kind})
            answer = connection.getresponse()
            answer.read()
            codes.append(answer.status)
            connection.close()

    jobs = [(index, what) for index in (0, 1, 2, 4) for what in ("mask?verdict=corrected", "tags")]
    threads = [threading.Thread(target=save, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.stop()
    serving.join()
    assert codes == [200] * 80
    kept = CorrectionsFolder(run / "corrections", CLASSES)
    for image_id in ("one", "trip/two & 東京", "turned", "last"):
        decision = kept.decision(image_id)
        assert decision is not None and (decision.verdict, decision.tags) == ("corrected", (CLASSES[9],))
        assert read_mask(run / "corrections" / f"{image_id}.png").tobytes() == every_value(10).tobytes()


def test_a_decision_of_another_review_is_not_overwritten_unseen(run: Path) -> None:
    first, second = _page(run), _page(run)  # two servers of one run, or one server and an import
    seen = [page.get("/api/images/0").get_json()["decision_version"] for page in (first, second)]
    assert seen == ["", ""]
    saved = first.put("/api/images/0/mask?verdict=corrected&seen=", every_value(7).tobytes()).get_json()
    before = _stored(run)
    late = [
        second.put("/api/images/0/mask?verdict=accepted&seen=", every_value(0).tobytes()),
        second.put("/api/images/0/verdict?seen=", {"verdict": "rejected"}),
        second.put("/api/images/0/tags?seen=", {"tags": [4]}),
    ]
    assert [answer.status_code for answer in late] == [409] * 3
    assert all("somebody else has decided about one" in answer.get_json()["error"] for answer in late)
    assert _stored(run) == before
    version = second.get("/api/images/0").get_json()["decision_version"]
    assert version == saved["decision_version"] != ""
    assert second.put(f"/api/images/0/tags?seen={version}", {"tags": [4]}).status_code == 200
    assert first.put(f"/api/images/0/verdict?seen={version}", {"verdict": "rejected"}).status_code == 409
    assert first.put("/api/images/0/verdict", {"verdict": "rejected"}).status_code == 200  # `Try again`


def test_an_image_that_changes_under_the_page(page: Page, run: Path) -> None:
    opened = page.get("/api/images/0").get_json()
    path = page.session.list.item(0).path
    Image.new("RGB", SIZE).save(path)  # as many pixels, on its side
    address = f"/api/images/0/mask?verdict=accepted&of={opened['image_version']}"
    answer = page.put(address, every_value(1).tobytes())
    assert answer.status_code == 409 and "one has changed" in answer.get_json()["error"]
    again = page.get("/api/images/0").get_json()
    assert again["size"] == [*reversed(opened["size"])] and again["image_version"] != opened["image_version"]
    assert page.get("/api/images/0/labels/mask").status_code == 422  # the run's mask is of the earlier image
    Path(path).unlink()
    assert page.put(address, every_value(1).tobytes()).status_code == 409
    assert "fault" in page.get("/api/images/0").get_json()
    assert not (run / "corrections").exists()


def test_a_mask_that_unpacks_to_gigabytes_is_not_unpacked(page: Page, run: Path) -> None:
    page.put("/api/images/0/mask?verdict=accepted", every_value(1).tobytes())
    size, at = struct.pack(">II", 60_000, 60_000), 16
    for path in (run / "corrections/one.png", run / "masks/one.png"):
        content = path.read_bytes()
        header = content[at - 4 : at] + size + content[at + 8 : at + 13]
        path.write_bytes(content[: at - 4] + header + struct.pack(">I", zlib.crc32(header)) + content[at + 17 :])
    for layer in ("correction", "mask"):
        answer = page.get(f"/api/images/0/labels/{layer}")
        assert answer.status_code == 422 and "60000" in answer.get_json()["error"]
    assert page.put("/api/images/0/tags", {"tags": [4]}).status_code == 422


def test_a_run_that_goes_on_while_its_review_is_open(page: Page, run: Path) -> None:
    shown = gzip.decompress(page.get("/api/images/0/labels/mask").data)
    write_mask(run / "masks/one.png", every_value(30))
    assert page.put("/api/images/0/mask?verdict=accepted", shown).status_code == 200
    assert read_mask(run / "corrections/one.png").tobytes() == shown  # what the person saw
    RunFolder(run).delete(STAGES.values())
    details = page.get("/api/images/1").get_json()
    assert details["start"] is None and details["layers"] == []
    assert "mask" in page.get("/api/images/1/labels/mask").get_json()["error"]
    assert read_mask(run / "corrections/one.png").tobytes() == shown


def test_a_failing_disk_is_named(page: Page, run: Path) -> None:
    (run / "corrections").write_text("in the way")
    answer = page.put("/api/images/0/mask?verdict=corrected", every_value(5).tobytes())
    assert answer.status_code == 500 and "run/corrections" in answer.get_json()["error"]


def test_an_image_that_cannot_be_read_is_shown_as_such(page: Page) -> None:
    index = page.index("broken")
    said = page.get(f"/api/images/{index}").get_json()
    assert said["size"] is None and "not an image" in said["fault"]
    assert page.get(f"/api/images/{index}/thumbnail").status_code == 422
    assert page.put(f"/api/images/{index}/mask?verdict=accepted", every_value(1).tobytes()).status_code == 422
    assert page.put(f"/api/images/{index}/verdict", {"verdict": "rejected"}).status_code == 200
    assert [item["id"] for item in page.get("/api/images").get_json()["images"]] == list(IDS)


def test_pictures_are_upright_and_cams_speak(page: Page) -> None:
    index = page.index("turned")
    assert page.get(f"/api/images/{index}").get_json()["size"] == list(SIZE)
    picture = page.get(f"/api/images/{index}/picture")
    assert picture.mimetype == "image/jpeg" and picture.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    upright = read_image(page.session.list.item(index).path).astype(int)
    with Image.open(io.BytesIO(picture.data)) as shown:
        assert shown.size == (SIZE[1], SIZE[0])
        assert np.abs(np.asarray(shown).astype(int) - upright).mean() < 3
    with Image.open(page.session.list.item(index).path) as stored:
        assert stored.size == SIZE  # on its side, and so the test is one
    one = page.index("one")
    labels = page.get(f"/api/images/{one}/labels/cam-pot?side=40")
    regions = np.frombuffer(gzip.decompress(labels.data), dtype=np.uint8).reshape(30, 40)
    assert [regions[15, column] for column in (3, 20, 36)] == [0, *TAGS["one"]]
    heat = page.get(f"/api/images/{one}/heat/cam-pot/20")
    values = np.frombuffer(gzip.decompress(heat.data), dtype=np.uint8).reshape(SIZE)
    assert values[30, 75] == round(255 * float(np.float16(0.8))) and values[30, 5] == 0


def _many(count: int) -> ImageSet:
    items = [ImageItem(f"trip {n % 7}/{n:03d}", f"/nowhere/{n}.jpg", (1 + n % 3,)) for n in range(count)]
    return ImageSet(("cat", "dog", "owl"), tuple(items), Path("/nowhere"))


def test_pages_miss_nothing_while_decisions_are_made() -> None:
    listed = ReviewList(_many(250), Ranking({}))
    query = Query(class_id=2, state="undecided")
    wanted = [index for index in range(250) if index % 3 == 1]
    seen: list[int] = []
    after, more = -1, True
    while more:
        page = listed.page(query, after=after, count=20)
        assert page.total == len(wanted) - len(seen)
        for index in page.indices:
            listed.record(index, Decision("accepted"))
        seen += page.indices
        after, more = page.ranks[-1], page.more
    assert seen == wanted
    assert listed.counts() == {"undecided": 250 - 83, "accepted": 83, "corrected": 0, "rejected": 0, "tags": 0}
    assert listed.page(query).indices == ()


def test_filters_by_changed_tags_verdict_and_id() -> None:
    listed = ReviewList(_many(30), Ranking({}))
    listed.record(4, Decision("corrected", ("owl", "cat")))
    listed.record(5, Decision(None, ()))
    listed.record(6, Decision("rejected"))
    assert listed.page(Query(state="tags")).indices == (4, 5)
    assert listed.page(Query(state="corrected")).indices == (4,)
    assert listed.page(Query(state="rejected")).indices == (6,)
    assert 4 in listed.page(Query(class_id=1)).indices and 4 not in listed.page(Query(class_id=2)).indices
    assert 5 not in listed.page(Query(class_id=3)).indices
    assert listed.page(Query(find="TRIP 2/0")).indices == (2, 9, 16, 23)
    assert [listed.index(f"trip {n % 7}/{n:03d}") for n in range(30)] == list(range(30))
    assert listed.index("trip") is None


def test_the_least_confident_come_first(tmp_path: Path) -> None:
    items = (*_many(4).items, ImageItem('two,\n"lines"', "/nowhere/x.jpg", ()))
    (tmp_path / "confidence").mkdir()
    (tmp_path / IMAGES).write_text(
        "image,confidence,class,class_confidence,extra,reason\r\n"
        "trip 2/002,0.1,owl,0.1,7,small\r\n"
        '"two,\n""lines""",0.25,dog,0.2,7,"a, b"\r\n'
        "gone,0.3,owl,0.3,7,\r\n"
        "trip 0/000,nan,cat,0.4,7,\r\n",
        encoding="utf-8",
    )
    listed = ReviewList(ImageSet(("cat", "dog", "owl"), items, tmp_path), Ranking.of(tmp_path))
    assert listed.page(Query(order="confidence")).indices == (2, 4, 0, 1, 3)
    assert listed.page(Query(order="list")).indices == (0, 1, 2, 3, 4)
    assert listed.rank(0, "confidence") == 2
    ranked = listed.ranked(4)
    assert ranked is not None and (ranked.confidence, ranked.class_name, ranked.reason) == (0.25, "dog", "a, b")
    assert listed.ranked(1) is None
    assert (unknown := listed.ranked(0)) is not None and unknown.confidence is None  # not a number in JSON


def test_two_reviews_of_one_folder(run: Path) -> None:
    first, second = _page(run), _page(run)

    def draw(page: Page, seed: int) -> None:
        for index in (0, 1, 2) * 5:
            assert (
                page.put(f"/api/images/{index}/mask?verdict=corrected", every_value(seed).tobytes()).status_code == 200
            )

    threads = [threading.Thread(target=draw, args=pair) for pair in ((first, 50), (second, 51))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for image_id in IDS[:3]:  # whole, whoever was last
        mask = read_mask(run / "corrections" / f"{image_id}.png")
        assert any((mask == every_value(seed)).all() for seed in (50, 51))
    second.put("/api/images/0/verdict", {"verdict": "rejected"})
    assert first.get("/api/images").get_json()["images"][0]["verdict"] == "rejected"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "this machine only"),
        (["--host", "192.168.0.1"], "this machine only"),
        (["--port", "70000"], "--port should be"),
        (["--port", "9" * 5000], "--port needs a whole number"),
        (["--data.split", "test"], "split"),
    ],
)
def test_wrong_use(run: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["review", str(run), *options]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["review", str(tmp_path)]) == 2
    assert "not a run folder" in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_served(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["review", str(run), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "5 images" in said and "no decisions yet" in said
    _page(run).put("/api/images/0/verdict", {"verdict": "rejected"})
    assert main(["review", str(run), "--dry-run", "--json", "--limit", "2"]) == 0
    said_json = json.loads(capsys.readouterr().out)
    assert (said_json["images"], said_json["rejected"], said_json["undecided"]) == (2, 1, 1)


def test_no_mask_of_an_image_that_was_replaced_or_deleted_is_saved(page: Page, run: Path) -> None:
    file, index, mask = run.parent / "data/one.jpg", page.index("one"), every_value(1).tobytes()
    address = f"/api/images/{index}/mask?verdict=corrected"
    assert page.put(address, mask).status_code == 200
    status = file.stat()
    for place, other in ((file, (SIZE[1] + 10, SIZE[0])), (file.with_name("new.jpg"), (SIZE[0], SIZE[1] // 2))):
        Image.new("RGB", other).save(place)
        os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a copy that keeps the time
        place.replace(file)
        assert page.put(address, mask).status_code in (400, 413)
        assert page.put(address, bytes(other[0] * other[1])).status_code == 200
    before = _stored(run)
    file.unlink()
    answer = page.put(address, mask)
    assert answer.status_code == 422 and "does not exist" in answer.get_json()["error"]
    assert page.get(f"/api/images/{index}").get_json()["size"] is None
    assert _stored(run) == before


def test_an_id_that_is_taken(run: Path) -> None:
    images = ImageSet(("cat",), (ImageItem("corrections", "/nowhere/corrections.jpg", (1,)),), Path("/nowhere"))
    with pytest.raises(UsageError, match="rename it"):
        Session(images, RunFolder(run), CorrectionsFolder(run / "corrections", ("cat",)), pixel_limit=100)


def test_a_port_that_is_taken(run: Path) -> None:
    server = Server(open_session(run), "run")
    port = urlsplit(server.address).port
    assert port is not None
    with pytest.raises(UsageError, match=f"port {port} of 127.0.0.1 is taken"):
        Server(open_session(run), "run", port=port)
    other = Server(open_session(run), "run")
    assert urlsplit(other.address).port != port


def hear_ctrl_c() -> None:
    """A process that a shell started in the background hears no Ctrl-C, and neither do those that it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def served(run: Path) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-m", "tag2mask", "review", str(run), "--json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c)
    yield process
    process.kill()
    process.communicate()


def test_ctrl_c_ends_it_with_what_was_decided(run: Path, served: subprocess.Popen[str]) -> None:
    assert served.stdout is not None
    first = json.loads(served.stdout.readline())
    address = urlsplit(first["address"])
    assert address.hostname == "127.0.0.1" and first["undecided"] == 5
    connection = HTTPConnection("127.0.0.1", address.port or 0, timeout=30)
    headers = {"Content-Type": "application/octet-stream"}
    path = f"{address.path}api/images/0/mask?verdict=corrected"
    connection.request("PUT", path, every_value(8).tobytes(), headers)
    assert connection.getresponse().read()
    served.send_signal(signal.SIGINT)
    out, error = served.communicate(timeout=60)
    assert served.returncode == 0 and error == ""
    assert json.loads(out)["corrected"] == 1
    np.testing.assert_array_equal(read_mask(run / "corrections/one.png"), every_value(8))
    assert run_corrections(RunFolder(run), CLASSES).has_mask("one")  # later commands over the run read them


def test_tags_that_were_decided_are_not_taken_for_the_data_sets_own(run: Path) -> None:
    page = _page(run)
    own = page.get("/api/images/0").get_json()
    assert page.put("/api/images/0/tags", {"tags": [3]}).status_code == 200
    again = _page(run).get("/api/images/0").get_json()
    assert again["tags"] == [3] and own["tags"] != [3]
    data = run.parent / "data"
    settings = DataSettings(root=data, classes=str(data / "classes.txt"))
    images = reviewed_images(Config(out=run, data=settings), RunFolder(run))
    assert images.items[0].tags == tuple(own["own_tags"])


def test_a_picture_is_cached_under_the_version_of_its_image(page: Page) -> None:
    version = page.get("/api/images/0").get_json()["image_version"]
    assert page.get("/api/images").get_json()["images"][0]["image_version"] == version
    for kind in ("picture", "thumbnail"):
        address = f"/api/images/0/{kind}"
        assert page.get(f"{address}?of={version}").headers["Cache-Control"] == "private, max-age=600"
        assert page.get(f"{address}?of=other").headers["Cache-Control"] == "no-store"


def test_a_damaged_decision_stops_one_image_and_can_be_made_again(page: Page, run: Path) -> None:
    drawn = every_value(40)
    for image_id in IDS[:3]:
        page.put(f"/api/images/{page.index(image_id)}/mask?verdict=corrected", drawn.tobytes())
        (run / "corrections" / f"{image_id}.json").write_text("{", encoding="utf-8")
    again = _page(run)
    assert [each["verdict"] for each in again.get("/api/images").get_json()["images"]] == [None] * len(IDS)
    said = again.get("/api/images/0").get_json()
    assert "one.json could not be read" in said["fault_of_decision"] and said["start"] == "correction"
    assert gzip.decompress(again.get("/api/images/0/labels/correction").data) == drawn.tobytes()  # it is not lost
    answers = [
        again.put("/api/images/0/mask?verdict=accepted", drawn.tobytes()),
        again.put("/api/images/1/tags", {"tags": [4]}),
        again.put("/api/images/2/verdict", {"verdict": "rejected"}),
    ]
    assert [answer.get_json()["verdict"] for answer in answers] == ["accepted", "corrected", "rejected"]
    np.testing.assert_array_equal(read_mask(run / "corrections" / f"{IDS[1]}.png"), drawn)
    assert again.get("/api/images/0").get_json()["fault_of_decision"] is None
    assert _page(run).session.list.counts() == {"undecided": 2, "accepted": 1, "corrected": 1, "rejected": 1, "tags": 1}


def test_a_decision_is_not_forgotten_by_who_read_before_it(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, written = threading.Event(), threading.Event()
    read = CorrectionsFolder.decision

    def slow(kept: CorrectionsFolder, image_id: str) -> Decision | None:
        found = read(kept, image_id)
        if threading.current_thread() is reader:
            reading.set()
            written.wait(0.3)
        return found

    reader = threading.Thread(target=lambda: page.session.decision(0))
    monkeypatch.setattr(CorrectionsFolder, "decision", slow)
    reader.start()
    assert reading.wait(30)
    page.session.delete_mask(0, "rejected")
    written.set()
    reader.join()
    assert page.session.list.counts()["rejected"] == 1


def test_what_comes_before_a_rank(page: Page) -> None:
    listed = ReviewList(_many(250), Ranking({}))
    query = Query(class_id=2)
    last = listed.page(query, before=200, count=20)
    assert last.indices == tuple(index for index in range(250) if index % 3 == 1 and index < 200)[-20:] and last.more
    first = listed.page(query, before=10, count=20)
    assert first.indices == (1, 4, 7) and not first.more
    said = page.get("/api/images?before=2").get_json()
    assert [each["rank"] for each in said["images"]] == [0, 1] and not said["more"]


def test_what_is_being_sent_at_the_end_is_saved(run: Path) -> None:
    server = Server(open_session(run), "run")
    thread = threading.Thread(target=server.serve)
    thread.start()
    address, mask = urlsplit(server.address), every_value(12).tobytes()
    connection = HTTPConnection("127.0.0.1", address.port or 0, timeout=30)
    connection.putrequest("PUT", f"{address.path}api/images/0/mask?verdict=corrected")
    connection.putheader("Content-Length", str(len(mask)))
    connection.endheaders(mask[:100])
    while not server.writing:
        thread.join(0.01)
    server.stop()
    thread.join(0.3)
    assert thread.is_alive()
    connection.send(mask[100:])
    thread.join()
    assert read_mask(run / "corrections/one.png").tobytes() == mask
    connection.close()


def test_the_key_is_no_word_of_the_browsers_command(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def serve(server: Server) -> None:
        (path,) = opened
        assert path.parent.stat().st_mode & 0o777 == 0o700 and server.address in path.read_text(encoding="utf-8")
        assert urlsplit(server.address).path.strip("/") not in str(path)
        server.close()

    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(Path(urlsplit(address).path)) or True)
    monkeypatch.setattr(Server, "serve", serve)
    assert main(["review", str(run), "--open"]) == 0
    assert not opened[0].parent.exists()


def test_a_run_whose_name_is_no_utf_8(page: Page) -> None:
    app = build_app(page.session, page.guard, os.fsdecode(b"r\xfcn"))
    shown = app.test_client().get(f"/{page.guard.key}/", base_url=BASE)
    assert shown.status_code == 200 and "<h1>r\N{REPLACEMENT CHARACTER}n</h1>" in shown.text
