"""Findings of the doctor with their remedies, as text and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "missing", "unknown"]
"""``missing``: the stage does not work; ``warning``: it may not; ``unknown``: that could not be determined."""

_WORST: tuple[State, ...] = ("missing", "warning", "unknown", "ok")

_USUAL_PATH = ("train", "cams", "refine", "segment")


@dataclass(frozen=True)
class Finding:
    """A requirement of a stage or of the machine.

    Attributes:
        what: in words.
        state: whether it is met.
        remedy: a command or setting that helps; empty if none is needed.
    """

    what: str
    state: State = "ok"
    remedy: str = ""


@dataclass(frozen=True)
class Weights:
    """Initial weights of a stage.

    Attributes:
        stage: its name.
        finding: whether they are on this machine.
        hub: whether they belong to a model of `transformers`.
    """

    stage: str
    finding: Finding
    hub: bool = False


@dataclass(frozen=True)
class Need:
    """All requirements of a stage, of an extra or of the machine, by its name."""

    name: str
    findings: tuple[Finding, ...]

    @property
    def state(self) -> State:
        """The worst state among the findings."""
        states = {finding.state for finding in self.findings}
        return next((state for state in _WORST if state in states), "ok")


@dataclass(frozen=True)
class Diagnosis:
    """All findings of the doctor.

    Attributes:
        versions: of packages and of Python; None if not installed.
        machine: facts, in words.
        needs: of the machine and of each stage.
    """

    versions: dict[str, str | None]
    machine: dict[str, str]
    needs: tuple[Need, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is missing for the usual stages, or on the machine."""
        return not any(need.state == "missing" for need in self.needs if need.name in ("machine", *_USUAL_PATH))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        needs = {
            need.name: {"state": need.state, "findings": [asdict(each) for each in need.findings]}
            for need in self.needs
        }
        return {"sound": self.sound, "versions": self.versions, "machine": self.machine, "needs": needs}

    def render(self) -> str:
        """As text: versions, the machine, a line per stage with its remedies below."""
        shown = {name: version or "not installed" for name, version in self.versions.items()}
        verdict = "not sound: the usual path (train, cams, refine, segment) does not work here"
        if self.sound:
            verdict = "sound: the usual path (train, cams, refine, segment) works here"
        return "\n".join([*_columns("versions", shown), *_columns("machine", self.machine), *self._stages(), verdict])

    def _stages(self) -> Iterator[str]:
        yield "needs"
        width = max(len(need.name) for need in self.needs)
        for need in self.needs:
            worst = "; ".join(finding.what for finding in need.findings if finding.state == need.state)
            yield f"  {need.name:{width}}  {need.state:7}  {worst}"
            for finding in need.findings:
                if finding.state != need.state and finding.state != "ok":
                    yield f"  {'':{width}}  {finding.state:7}  {finding.what}"
            remedies = dict.fromkeys(finding.remedy for finding in need.findings if finding.remedy)
            yield from (f"  {'':{width}}  remedy:  {remedy}" for remedy in remedies)


def _columns(title: str, values: dict[str, str]) -> Iterator[str]:
    yield title
    width = max(len(name) for name in values)
    yield from (f"  {name:{width}}  {value}" for name, value in values.items())
