"""Settings describe themselves: ranges, fingerprints and paths follow from the fields alone."""

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from tag2mask.core.errors import UsageError
from tag2mask.core.fields import Checked, absolute, plain, setting
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
