"""Tars that live in a store: sent when they are full, fetched to be read, kept where that fails."""

import importlib.util
import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from tag2mask.errors import Tag2maskError, UsageError
from tag2mask.outputs import OutputSettings, RunOutputs, TarFolder, file_names, found_folder
from tag2mask.outputs import series as series_module
from tag2mask.outputs.store import Sent, StoreError, tar_url

pytest.importorskip("webdataset")

pytestmark = pytest.mark.extra

NAMES = [f"{number}.png" for number in range(7)]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "a store"


def opened(run: Path, store: Path, **changes: object) -> RunOutputs:
    settings = {"photographs_per_tar": 2, "url": store.as_uri(), "cached_tars": 2, **changes}
    return RunOutputs(run, OutputSettings(**settings))  # type: ignore[arg-type]


def write(run: RunOutputs, names: list[str]) -> None:
    folder = run.folder("cams/pot")
    assert isinstance(folder, TarFolder)
    for name in names:
        folder.write(name, b"of " + name.encode())


def contents(run: RunOutputs) -> dict[str, bytes]:
    folder = run.folder("cams/pot")
    assert isinstance(folder, TarFolder)
    return {name: (folder / name).read_bytes() for name in file_names(folder, ".png")}


EXPECTED = {name: b"of " + name.encode() for name in NAMES}


def local(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "cams/pot/tars").glob("*.tar"))


def test_full_tars_leave_the_run_folder_and_come_back_a_few_at_a_time(tmp_path: Path, store: Path) -> None:
    run = opened(tmp_path / "run", store)
    write(run, NAMES)
    assert local(tmp_path / "run") == ["1-of-1-000003.tar"]
    run.close(send=True)
    assert local(tmp_path / "run") == []
    assert len(list((store / "cams/pot").iterdir())) == 4
    assert contents(run) == EXPECTED
    cached = tmp_path / "run/cams/pot/tars/fetched"
    assert sorted(path.name for path in cached.iterdir()) == ["1-of-1-000002.tar", "1-of-1-000003.tar"]
    (cached / ".partial-other~1~1-of-1-000000.tar").write_bytes(b"what another process is fetching")
    os.utime(cached / ".partial-other~1~1-of-1-000000.tar", (0, 0))
    assert contents(run) == EXPECTED
    assert len(list(cached.iterdir())) == 3 and (cached / ".partial-other~1~1-of-1-000000.tar").is_file()
    run.close(send=True)
    with pytest.raises(StoreError, match=r"1-of-1-000000\.tar lies in a store; say with --outputs\.read_url"):
        contents(RunOutputs(tmp_path / "run"))
    write(run, ["7.png"])
    run.close(send=True)
    assert len(list((store / "cams/pot").iterdir())) == 5  # what lies in the store is never appended to
    assert contents(run) == {**EXPECTED, "7.png": b"of 7.png"}
    run.close(send=False)


def test_each_tar_is_fetched_once_where_files_are_read_as_they_were_written(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def fetch(sent: Sent, url: str, target: Path, own: Any = series_module.fetch) -> None:
        fetched.append(target.name)
        own(sent, url, target)

    monkeypatch.setattr(series_module, "fetch", fetch)
    run = opened(tmp_path / "run", store, cached_tars=1)
    write(run, NAMES)
    run.close(send=True)
    folder = run.folder("cams/pot")
    for name in NAMES:
        assert (folder / name).is_file() and (folder / name).stat().st_size == 8
    assert fetched == []
    for name in NAMES:
        (folder / name).read_bytes()
    assert fetched == [f"1-of-1-00000{number}.tar" for number in range(4)]
    (folder / "0.png").read_bytes()
    assert len(fetched) == 5
    assert isinstance(folder, TarFolder)
    whole = run.folder("cams/pot", at_random=True)
    for name in NAMES * 3:
        (whole / name).read_bytes()
    assert len(fetched) == 8  # the first had been fetched, and all stay
    assert len(list((tmp_path / "run/cams/pot/tars/fetched").iterdir())) == 4
    run.close(send=False)
    assert len(list((tmp_path / "run/cams/pot/tars/fetched").iterdir())) == 1


def test_a_lost_index_is_made_again_from_the_store(tmp_path: Path, store: Path) -> None:
    run = opened(tmp_path / "run", store)
    write(run, NAMES)
    (run.folder("cams/pot") / "3.png").unlink()
    run.close(send=True)
    (tmp_path / "run/cams/pot/tars/1-of-1.sqlite").unlink()
    assert set(contents(run)) == set(NAMES) - {"3.png"}
    run.close(send=False)


def test_a_store_that_cannot_be_written_costs_nothing(tmp_path: Path, store: Path) -> None:
    store.write_text("no folder")
    run = opened(tmp_path / "run", store)
    with pytest.raises(StoreError, match=r"file:.*1-of-1-000000\.tar could not be written.* is kept"):
        write(run, NAMES)
    run.close(send=False)
    assert contents(run) == {"0.png": b"of 0.png", "1.png": b"of 1.png"}
    store.unlink()
    write(run, NAMES[2:])
    run.close(send=True)
    assert local(tmp_path / "run") == [] and contents(run) == EXPECTED
    run.close(send=False)


def test_what_comes_back_as_something_else_is_not_taken_for_sent(tmp_path: Path, store: Path) -> None:
    run = opened(tmp_path / "run", store, url="pipe:cat > /dev/null # {tar}", read_url="pipe:echo other # {tar}")
    with pytest.raises(StoreError, match=r"was written, but .* is not the tar that was sent there"):
        write(run, NAMES)
    run.close(send=False)
    assert len(contents(run)) == 2
    run.close(send=False)


def test_a_kill_after_the_upload_does_no_harm(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = opened(tmp_path / "run", store)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(series_module, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        write(run, NAMES)
    monkeypatch.undo()
    run.close(send=False)
    unlink = Path.unlink  # written down, but not yet deleted
    monkeypatch.setattr(Path, "unlink", lambda path, **how: (killed if path.suffix == ".tar" else unlink)(path, **how))
    with pytest.raises(KeyboardInterrupt):
        opened_again = opened(tmp_path / "run", store)
        opened_again.folder("cams/pot").find("0.png")  # type: ignore[union-attr]
        opened_again.close(send=True)
    monkeypatch.undo()
    assert local(tmp_path / "run") == ["1-of-1-000000.tar"]
    assert json.loads((tmp_path / "run/cams/pot/tars/1-of-1.sent.json").read_text())["tars"].keys() == {"0"}
    write(run, NAMES[2:])
    run.close(send=True)
    assert local(tmp_path / "run") == [] and contents(run) == EXPECTED
    run.close(send=False)


def test_a_tar_that_cannot_be_fetched_is_asked_for_once_and_named(tmp_path: Path, store: Path) -> None:
    run = opened(tmp_path / "run", store)
    write(run, NAMES)
    run.close(send=True)
    gone = store / "cams/pot/1-of-1-000001.tar"
    gone.rename(tmp_path / "elsewhere")
    folder = run.folder("cams/pot")
    with pytest.raises(StoreError, match=r"1-of-1-000001\.tar could not be read"):
        (folder / "2.png").read_bytes()
    (tmp_path / "elsewhere").rename(gone)
    with pytest.raises(StoreError):
        (folder / "3.png").read_bytes()
    assert (folder / "4.png").read_bytes() == b"of 4.png"
    run.close(send=False)
    gone.write_bytes(gone.read_bytes()[:-1])
    with pytest.raises(StoreError, match="is not the tar that was sent"):
        (run.folder("cams/pot") / "2.png").read_bytes()
    run.close(send=False)
    assert not list((tmp_path / "run").rglob(".partial-*"))


def test_pipes_go_both_ways_with_a_command_each(tmp_path: Path, store: Path) -> None:
    store.mkdir()
    place = shlex.quote(str(store))
    name = "$(echo {tar} | tr / _)"
    pipes = {"url": f"pipe:cat > {place}/{name}", "read_url": f"pipe:cat {place}/{name}"}
    run = opened(tmp_path / "run", store, **pipes)
    write(run, NAMES)
    run.close(send=True)
    assert sorted(path.name for path in store.iterdir()) == [f"cams_pot_1-of-1-00000{n}.tar" for n in range(4)]
    assert contents(run) == EXPECTED
    run.close(send=False)
    failing = opened(tmp_path / "other", store, url="pipe:cat > /nowhere/{tar}", read_url=pipes["read_url"])
    with pytest.raises(StoreError, match="could not be written"):
        write(failing, NAMES)
    failing.close(send=False)


def test_a_store_that_moved_is_read_from_where_it_is(tmp_path: Path, store: Path) -> None:
    run = opened(tmp_path / "run", store)
    write(run, NAMES)
    run.close(send=True)
    store.rename(tmp_path / "moved")
    moved = opened(tmp_path / "run", store, read_url=(tmp_path / "moved").as_uri())
    assert contents(moved) == EXPECTED
    moved.close(send=False)


def test_a_url_in_a_run_folder_is_never_opened(tmp_path: Path) -> None:
    tars, canary = tmp_path / "theirs/tars", tmp_path / "canary"
    tars.mkdir(parents=True)
    command = f"pipe:touch {canary}; echo"
    for writer in ("1-of-1", "$(touch canary)", "x"):
        lost = {"url": command, "bytes": 1, "sha256": "0"}
        (tars / f"{writer}.sent.json").write_text(json.dumps({"url": command, "tars": {"0": lost}}))
    with pytest.raises(StoreError, match=r"--outputs\.read_url"):
        list(file_names(found_folder(tmp_path / "theirs"), ".png"))
    elsewhere = OutputSettings(read_url=(tmp_path / "store").as_uri())
    with pytest.raises(StoreError, match=r"store/1-of-1-000000\.tar could not be read"):
        list(file_names(found_folder(tmp_path / "theirs", elsewhere), ".png"))
    assert not canary.exists()


def test_a_folder_of_a_run_in_a_store_is_read_from_the_url_that_is_given(tmp_path: Path, store: Path) -> None:
    run = opened(tmp_path / "run", store)
    write(run, NAMES)
    run.close(send=True)
    found = found_folder(tmp_path / "run/cams/pot", OutputSettings(read_url=(store / "cams/pot").as_uri()))
    assert isinstance(found, TarFolder) and (found / "5.png").read_bytes() == b"of 5.png"
    found.close(send=False)


def test_another_url_is_refused_while_tars_are_at_the_old_one(tmp_path: Path, store: Path) -> None:
    run = opened(tmp_path / "run", store)
    write(run, NAMES)
    run.close(send=True)
    moved = opened(tmp_path / "run", tmp_path / "moved")
    with pytest.raises(UsageError, match="set it back, or move them and change the URL in that file"):
        write(moved, ["7.png"])
    store.rename(tmp_path / "moved")
    record = tmp_path / "run/cams/pot/tars/1-of-1.sent.json"
    record.write_text(record.read_text().replace(store.as_uri(), (tmp_path / "moved").as_uri()))
    assert contents(moved) == EXPECTED
    moved.close(send=False)


@pytest.mark.parametrize(
    "record", ["[]", "{}", '{"url": "a:b", "tars": []}', '{"url": "a:b", "tars": {"-1": {"bytes": 1, "sha256": ""}}}']
)
def test_a_damaged_record_is_named(tmp_path: Path, record: str) -> None:
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/1-of-1.sent.json").write_text(record)
    with pytest.raises(Tag2maskError, match=r"1-of-1\.sent\.json does not say which tars"):
        list(file_names(found_folder(tmp_path), ".png"))


def test_who_is_alone_sends_what_others_could_not(tmp_path: Path, store: Path) -> None:
    for writer in ("1-of-2", "2-of-2"):
        run = RunOutputs(tmp_path / "run", OutputSettings(photographs_per_tar=2), writer=writer)
        write(run, [f"{writer}.png"])
        run.close(send=True)
    second = RunOutputs(tmp_path / "run", OutputSettings(photographs_per_tar=2, url=store.as_uri()), writer="2-of-2")
    assert len(contents(second)) == 2
    second.close(send=True)
    assert local(tmp_path / "run") == ["1-of-2-000000.tar"]
    alone = opened(tmp_path / "run", store)
    assert len(contents(alone)) == 2
    alone.close(send=True)
    assert local(tmp_path / "run") == [] and len(contents(alone)) == 2
    alone.close(send=False)


def test_urls() -> None:
    assert tar_url("gs://bucket/run/", "cams/pot/1.tar") == "gs://bucket/run/cams/pot/1.tar"
    assert tar_url("https://host/{tar}?key=1", "a b/1.tar") == "https://host/a%20b/1.tar?key=1"
    assert tar_url("pipe:put {tar}", "a b/1.tar") == "pipe:put 'a b/1.tar'"


def test_without_webdataset_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tag2mask.outputs.store.find_spec", lambda name: None)
    assert importlib.util.find_spec("webdataset") is not None
    with pytest.raises(UsageError, match=r'pip install "tag2mask\[shards\]"'):
        opened(tmp_path, tmp_path)
