"""Settings that describe themselves: which values a field may have, whether results depend on it, whether it is a path.

Range checks, fingerprints and absolute paths are generic walks over this metadata.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

from tag2mask.core.errors import UsageError

Kind = TypeVar("Kind")


def setting(
    default: Any = MISSING,
    *,
    factory: Any = MISSING,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    null: str = "",
    affects: bool = True,
    path: bool = False,
) -> Any:
    """A field of a settings dataclass.

    Args:
        factory: makes a mutable default.
        low: the least value.
        above: an exclusive lower bound.
        high: the greatest value.
        below: an exclusive upper bound.
        null: the meaning of null, for messages about the range; null itself is always allowed.
        affects: whether results depend on it, so that it enters the fingerprint of a stage.
        path: the text is a name or a path: an existing path becomes absolute. Fields of type `Path` need no mark.
    """
    bounds = {"low": low, "above": above, "high": high, "below": below}
    metadata = {"bounds": bounds, "null": null, "affects": affects, "path": path}
    if factory is not MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Checked:
    """Base of settings dataclasses; one message refuses all values that are out of range.

    Attributes:
        _section: the name of the section in messages: `network`, `the random walk`.
    """

    _section: ClassVar[str]

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            UsageError: with all problems.
        """
        problems = [*range_problems(self), *self.problems()]
        if problems:
            raise UsageError(f"settings of {self._section}: " + "; ".join(problems))

    def problems(self) -> list[str]:
        """Problems that no single field shows, one clause for each."""
        return []


def range_problems(settings: Any) -> list[str]:
    """The fields of a settings dataclass that are out of range, one clause for each."""
    return [*filter(None, (_problem(each, getattr(settings, each.name)) for each in fields(settings)))]


def _problem(each: Field[Any], value: Any) -> str:
    if get_origin(each.type) is Literal and value not in get_args(each.type):
        allowed = ", ".join(repr(choice) for choice in get_args(each.type))
        return f"{each.name} should be one of {allowed}, received {value!r}"
    for part in value if isinstance(value, list | tuple) else [value]:
        if isinstance(part, float) and not isfinite(part):
            return f"{each.name} should be a finite number, received {part}"
        if isinstance(part, str | Path) and "\0" in str(part):
            return f"{each.name} holds a null byte, which no path and no name can"
    bounds = {name: bound for name, bound in each.metadata.get("bounds", {}).items() if bound is not None}
    if value is None or not bounds or _is_within(value, bounds):
        return ""
    null = each.metadata["null"]
    return f"{each.name} should {_rule(bounds)}, received {value!r}" + (f"; {null}" if null else "")


def _is_within(value: float, bounds: Mapping[str, float]) -> bool:
    return (
        value >= bounds.get("low", value)
        and value <= bounds.get("high", value)
        and ("above" not in bounds or value > bounds["above"])
        and ("below" not in bounds or value < bounds["below"])
    )


def _rule(bounds: Mapping[str, float]) -> str:
    least, most = bounds.get("low", bounds.get("above")), bounds.get("high", bounds.get("below"))
    if least is not None and most is not None:
        return f"lie in {'[' if 'low' in bounds else '('}{least}, {most}{']' if 'high' in bounds else ')'}"
    if bounds.get("low") == 0:
        return "not be negative"
    if "low" in bounds:
        return f"be at least {least}"
    return f"be above {least}" if "above" in bounds else f"be at most {most}"


def plain(value: Any, *, affecting: bool = False) -> Any:
    """Settings as nested dictionaries of plain values, ready for YAML and JSON.

    Args:
        value: a settings dataclass, or a value in one.
        affecting: only the fields that results depend on, for a fingerprint.
    """
    if is_dataclass(value) and not isinstance(value, type):
        kept = [each for each in fields(value) if not affecting or each.metadata.get("affects", True)]
        return {each.name: plain(getattr(value, each.name), affecting=affecting) for each in kept}
    if isinstance(value, Mapping):
        return {key: plain(item, affecting=affecting) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, affecting=affecting) for item in value]
    return str(value) if isinstance(value, Path) else value


def absolute(settings: Kind) -> Kind:
    """The settings with every path absolute, so that they mean the same from any folder."""
    changes: dict[str, Any] = {}
    for each in fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, each.name)
        if is_dataclass(value):
            changes[each.name] = absolute(value)
        elif isinstance(value, Path):
            changes[each.name] = value.absolute()
        elif each.metadata.get("path") and value and Path(value).exists():
            changes[each.name] = str(Path(value).absolute())
    return replace(settings, **changes) if changes else settings  # type: ignore[type-var]
