"""Settings describe themselves: ranges, fingerprints and paths follow from the fields alone."""

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from tag2mask.core.errors import UsageError
from tag2mask.core.fields import Checked, Fixed, absolute, constants, current, plain, setting
from tag2mask.runs.config import Config


@dataclass
class Inner(Checked):
    share: float = setting(0.5, above=0, high=1)
    _section: ClassVar[str] = "inner"


@dataclass
class Outer(Checked):
    count: int | None = setting(None, low=1, null="null is all")
    start: float = setting(0.0, low=0)
    kind: Literal["a", "b"] = "a"
    batch_size: int = setting(4, low=1, affects=False)
    name: str = setting("", path=True)
    file: Path | None = None
    inner: Inner = field(default_factory=Inner)
    _section: ClassVar[str] = "outer"

    def problems(self) -> list[str]:
        return ["count and start are one"] if self.count == self.start else []


def test_every_problem_is_named_in_one_message() -> None:
    with pytest.raises(UsageError) as caught:
        Outer(count=0, start=-1, kind="c", batch_size=0)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "settings of outer: count should be at least 1, received 0; null is all; "
        "start should not be negative, received -1; "
        "kind should be one of 'a', 'b', received 'c'; batch_size should be at least 1, received 0"
    )
    with pytest.raises(UsageError, match="count and start are one"):
        Outer(count=1, start=1)


@pytest.mark.parametrize("share", [0.0, 1.0001, float("nan"), float("inf"), -1.0])
def test_numbers_out_of_range_and_no_numbers_are_refused(share: float) -> None:
    with pytest.raises(UsageError, match=r"of inner: share should (lie in \(0, 1\]|be a finite number), received"):
        Inner(share=share)


def test_a_fingerprint_leaves_out_what_results_do_not_depend_on() -> None:
    assert "batch_size" in plain(Outer())
    assert plain(Outer(), affecting=True) == {
        "count": None, "start": 0.0, "kind": "a", "name": "", "file": None, "inner": {"share": 0.5},
    }  # fmt: skip


def test_paths_are_absolute_and_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    anchored = absolute(Outer(name="weights", file=Path("later.csv")))
    assert anchored.name == str(tmp_path / "weights")
    assert anchored.file == tmp_path / "later.csv"
    assert absolute(Outer(name="organisation/model")).name == "organisation/model"


def _checked(settings: Any) -> Iterator[tuple[str, Field[Any]]]:
    """Every field of the settings that say ranges, with the name of its class."""
    for each in fields(settings):
        value = getattr(settings, each.name)
        if is_dataclass(value):
            yield from _checked(value)
        else:
            assert isinstance(settings, Checked), type(settings)
            yield f"{type(settings).__name__}.{each.name}", each


def test_every_number_of_checked_settings_has_a_range() -> None:
    numbers = {
        name: each.metadata.get("bounds", {})
        for name, each in _checked(Config())
        if each.type in (int, float, int | None, float | None)
    }
    assert len(numbers) > 40
    assert [name for name, bounds in numbers.items() if all(bound is None for bound in bounds.values())] == []


@dataclass
class Loop(Checked):
    steps: int = setting(3, low=1)
    every = Fixed(10)
    average = Fixed[float | None](None)
    lines = Fixed(5, affects=False, instead="other.lines")
    pair = Fixed((0.3, 0.05))
    part = Fixed(Inner())
    _section: ClassVar[str] = "loop"


@dataclass
class Longer(Loop):
    every: int = setting(20, low=1)


@dataclass
class Whole(Checked):
    loop: Loop = field(default_factory=Loop)
    longer: Longer = field(default_factory=Longer)
    _section: ClassVar[str] = "whole"


def test_a_constant_reads_like_a_field_and_a_subclass_may_have_the_field() -> None:
    assert (Loop().every, Longer().every, Longer(every=4).every) == (10, 20, 4)
    assert plain(Loop()) == {"steps": 3}
    assert [name for name, _ in constants(Whole())] == [
        *(f"loop.{name}" for name in ("every", "average", "lines", "pair", "part")),
        *(f"longer.{name}" for name in ("average", "lines", "pair", "part")),
    ]


def test_fingerprints_hold_constants() -> None:
    affecting = {"steps": 3, "every": 10, "average": None, "pair": [0.3, 0.05], "part": {"share": 0.5}}
    assert plain(Loop(), affecting=True) == affecting
    assert plain(Loop(), whole=True) == affecting | {"lines": 5}


def test_earlier_settings_with_the_value_of_the_constant_are_dropped() -> None:
    earlier = {"steps": 4, "every": 10, "average": None, "lines": 5, "pair": [0.3, 0.05], "part": {"share": "5e-1"}}
    assert current(Whole(), {"loop": earlier, "longer": {"every": 7, "pair": (0.3, 0.05)}, "unknown": {"a": 1}}) == {
        "loop": {"steps": 4}, "longer": {"every": 7}, "unknown": {"a": 1},
    }  # fmt: skip


def test_every_setting_of_the_first_version_is_read() -> None:
    earlier = plain(Config(), whole=True)
    assert earlier["edges"]["labels"]["crf"]["iterations"] is None and earlier["scenes"]["looks"] == 3
    assert current(Config(), earlier) == plain(Config())


def test_earlier_settings_with_another_value_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        current(Whole(), {"loop": {"every": 9, "lines": 1, "part": {"share": 0.4}}, "longer": {"average": 0.9}})
    assert str(caught.value) == (
        "take out what is not a setting any more: loop.every is 9, now a constant, 10; "
        "loop.lines is 1, now other.lines is in its place; loop.part is {'share': 0.4}, now a constant, "
        '{"share": 0.5}; longer.average is 0.9, now a constant, null'
    )
