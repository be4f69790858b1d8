"""What the doctor finds: facts and judgements with remedies, as text and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "missing", "unknown"]
"""``missing``: it does not work without; ``warning``: it may not; ``unknown``: that could not be found out."""

_WORST: tuple[State, ...] = ("missing", "warning", "unknown", "ok")

USUAL_PATH = ("train", "cams", "refine", "segment")


@dataclass(frozen=True)
class Finding:
    """One thing that a stage needs, or the machine should have.

    Attributes:
        what: it is.
        state: whether it is there.
        remedy: the command or setting that mends it; empty where nothing is to be mended.
    """

    what: str
    state: State = "ok"
    remedy: str = ""


@dataclass(frozen=True)
class Need:
    """A stage, or something beside them, and all that it needs.

    Attributes:
        name: of the stage.
        findings: what it needs, each with its state.
    """

    name: str
    findings: tuple[Finding, ...]

    @property
    def state(self) -> State:
        """The worst of them."""
        states = {finding.state for finding in self.findings}
        return next((state for state in _WORST if state in states), "ok")


@dataclass(frozen=True)
class Diagnosis:
    """All that the doctor found.

    Attributes:
        versions: of packages and of Python; None where one is not installed.
        machine: facts, in words.
        needs: the machine's own soundness, and that of each stage.
    """

    versions: dict[str, str | None]
    machine: dict[str, str]
    needs: tuple[Need, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is missing on the usual path, nor from the machine itself."""
        return not any(need.state == "missing" for need in self.needs if need.name in ("machine", *USUAL_PATH))

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        needs = {
            need.name: {"state": need.state, "findings": [asdict(each) for each in need.findings]}
            for need in self.needs
        }
        return {"sound": self.sound, "versions": self.versions, "machine": self.machine, "needs": needs}

    def render(self) -> str:
        """The same for people: versions, the machine, a line a stage, remedies below those that want some."""
        shown = {name: version or "not installed" for name, version in self.versions.items()}
        verdict = "sound: the usual path (train, cams, refine, segment) works here"
        verdict = (
            verdict if self.sound else "not sound: the usual path (train, cams, refine, segment) does not work here"
        )
        return "\n".join([*_columns("versions", shown), *_columns("machine", self.machine), *self._stages(), verdict])

    def _stages(self) -> Iterator[str]:
        yield "needs"
        width = max(len(need.name) for need in self.needs)
        for need in self.needs:
            told = "; ".join(finding.what for finding in need.findings if finding.state == need.state)
            yield f"  {need.name:{width}}  {need.state:7}  {told}"
            for finding in need.findings:
                if finding.state != need.state and finding.state != "ok":
                    yield f"  {'':{width}}  {finding.state:7}  {finding.what}"
            remedies = dict.fromkeys(finding.remedy for finding in need.findings if finding.remedy)
            yield from (f"  {'':{width}}  remedy:  {remedy}" for remedy in remedies)


def _columns(title: str, values: dict[str, str]) -> Iterator[str]:
    yield title
    width = max(len(name) for name in values)
    yield from (f"  {name:{width}}  {value}" for name, value in values.items())
