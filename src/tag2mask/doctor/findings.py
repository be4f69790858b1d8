"""Findings of `doctor` and their remedies, as text and as JSON."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "download", "warning", "missing", "unknown"]
"""``missing``: the stage does not work; ``warning``: it may fail; ``download``: it works after a download, which it
does by itself; ``unknown``: this could not be determined."""

_WORST: tuple[State, ...] = ("missing", "warning", "download", "unknown", "ok")

_WIDTH = 13
"""Characters of the longest name of `Requirements`."""

_USUAL_STAGES = ("train", "cams", "refine", "segment")


@dataclass(frozen=True)
class Finding:
    """The result of checking one requirement; ``remedy`` is a command or setting, if one is needed."""

    what: str
    state: State = "ok"
    remedy: str = ""


@dataclass(frozen=True)
class Weights:
    """Availability of a stage's initial weights; ``hub``: they belong to a model of `transformers`."""

    stage: str
    finding: Finding
    hub: bool = False


@dataclass(frozen=True)
class Requirements:
    """The checked requirements of a stage, of an extra or of the machine."""

    name: str
    findings: tuple[Finding, ...]

    @property
    def state(self) -> State:
        """The worst state among the findings."""
        states = {finding.state for finding in self.findings}
        return next((state for state in _WORST if state in states), "ok")


@dataclass(frozen=True)
class Diagnosis:
    """All findings.

    Attributes:
        versions: of packages and of Python; None if not installed.
        machine: descriptions by name.
        needs: of the machine and of each stage.
    """

    versions: dict[str, str | None]
    machine: dict[str, str]
    needs: tuple[Requirements, ...]

    @property
    def sound(self) -> bool:
        """Whether the machine and the usual stages have everything that they need."""
        return not any(need.state == "missing" for need in self.needs if need.name in ("machine", *_USUAL_STAGES))

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as a JSON object."""
        needs = {
            need.name: {"state": need.state, "findings": [asdict(each) for each in need.findings]}
            for need in self.needs
        }
        return {"sound": self.sound, "versions": self.versions, "machine": self.machine, "needs": needs}

    def verdict(self) -> str:
        """Whether the usual path works here, in a sentence."""
        if not self.sound:
            return "not sound: the usual path (train, cams, refine, segment) does not work here"
        waiting = [need.name for need in self.needs if any(each.state == "download" for each in need.findings)]
        waiting = [name for name in waiting if name in _USUAL_STAGES]
        first = f" after a download for {', '.join(waiting)}; without a network, see the remedy" if waiting else ""
        return f"sound: the usual path (train, cams, refine, segment) works here{first}"


def lines_of(need: Requirements) -> Iterator[str]:
    """A line with the state of a requirement, and lines with other findings and remedies."""
    worst = "; ".join(finding.what for finding in need.findings if finding.state == need.state)
    yield f"  {need.name:{_WIDTH}}  {need.state:8}  {worst}"
    for finding in need.findings:
        if finding.state != need.state and finding.state != "ok":
            yield f"  {'':{_WIDTH}}  {finding.state:8}  {finding.what}"
    remedies = dict.fromkeys(finding.remedy for finding in need.findings if finding.remedy)
    yield from (f"  {'':{_WIDTH}}  remedy:   {remedy}" for remedy in remedies)


def columns(values: Mapping[str, str | None]) -> Iterator[str]:
    """A line per name and value."""
    width = max(len(name) for name in values)
    yield from (f"  {name:{width}}  {value or 'not installed'}" for name, value in values.items())
