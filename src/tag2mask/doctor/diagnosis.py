"""The doctor's round: imports tried elsewhere, facts gathered, stages judged."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tag2mask.doctor.findings import Diagnosis, Finding, Need
from tag2mask.doctor.machine import facts, soundness, versions
from tag2mask.doctor.needs import Weights, needs
from tag2mask.doctor.probes import PROGRAMS, Probe, probe_all
from tag2mask.errors import UsageError

if TYPE_CHECKING:
    from tag2mask.pipeline.config import Config

_STAGES_WITH_WEIGHTS = ("seeds", "train", "segment")


def diagnose(settings: "Callable[[], Config] | None", out: Path) -> Diagnosis:
    """Look at everything.

    Args:
        settings: reads the settings whose weights are looked for; called only where the imports work.
        out: where a run would be written.

    Raises:
        UsageError: the settings are wrong.
    """
    installed = versions()
    probes = probe_all([name for name in PROGRAMS if name != "torchvision" or installed["torchvision"]])
    probes.setdefault("torchvision", Probe(None, reason="not installed"))
    weights = _weights(settings if probes["torch"].works and probes["tag2mask"].works else None)
    own = soundness(installed, probes["torch"], probes["tag2mask"], out)
    found = (Need("machine", own), *needs(probes, installed["torchvision"], weights))
    return Diagnosis(installed, facts(probes["torch"], out), found)


def _weights(settings: "Callable[[], Config] | None") -> list[Weights]:
    """The weights of the settings; unknown where these cannot be read, or where looking for them fails."""
    if settings is None:
        reason = "weights, before tag2mask can be imported"
    else:
        try:
            from tag2mask.doctor.weights import weights_of

            return list(weights_of(settings()))
        except UsageError:
            raise
        except Exception as error:  # a cache in disorder, a broken client of the hub: nothing that should end this
            reason = f"weights ({type(error).__name__}: {error})"
    return [Weights(stage, Finding(reason, "unknown")) for stage in _STAGES_WITH_WEIGHTS]
