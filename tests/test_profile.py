"""Where time goes: parts of a command, nested and in threads."""

from pathlib import Path
from time import sleep

import pytest

from run_tiny import Capture
from tag2mask.cli.main import main
from tag2mask.core import profile
from tag2mask.core.prefetch import map_ahead
from tag2mask.core.profile import read_profile, start_profile, timed


def test_parts_do_not_overlap_and_threads_count_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(profile, "perf_counter", lambda: now)
    start_profile()
    with timed("network"):
        now += 2
        with timed("method"):
            now += 5
            with pytest.raises(ValueError, match="within"), timed("writing"):
                now += 7
                raise ValueError("within")
        now += 11
    now += 100  # of no part
    assert read_profile() == {"network": 13, "method": 5, "writing": 7, "waiting": 0, "reading": 0}
    monkeypatch.undo()
    start_profile()
    assert list(map_ahead(lambda number: sleep(0.02), range(3), threads=3)) == [None] * 3
    found = read_profile()
    assert found["reading"] >= 0.05 and 0 < found["waiting"] < found["reading"] and not found["network"]


def test_the_flag_says_where_the_time_of_each_stage_went(copied: Path, capsys: Capture) -> None:
    assert main(["report", str(copied), "--profile"]) == 0
    assert "other" in capsys.readouterr().err
