"""When the network had fitted the tags, read from the log of its training: later steps only change the CAMs."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tag2mask.training.state import log_lines

FITTED = 0.03
"""The mean classification loss below which the tags count as fitted. Ours: with 10, 50 and 136 photographs of two or
three classes the POT CAMs lost 30 to 70 % of their mIoU where half of the steps and more came after; six epochs of 437
photographs ended at 0.05."""

_SPAN = 10
"""Steps whose losses are averaged, where lines are closer: the loss of a single batch says little."""

_STAYED = 0.75
"""The share of later spans that must be below it too: a photograph that is hard to classify comes back every epoch."""


def fitted_loss(tags: npt.NDArray[np.bool_]) -> float:
    """The classification loss below which tags count as fitted: `FITTED`, or a tenth of what their rates alone give.

    Args:
        tags: bool (N, C). Where most of it is False, a network that knows the rates and nothing else has a low loss.
    Source: ours.
    """
    rates = np.clip(tags.mean(axis=0), 1e-6, 1 - 1e-6)
    return min(FITTED, 0.1 * float(-(rates * np.log(rates) + (1 - rates) * np.log(1 - rates)).mean()))


def fitted_after(path: Path, below: float = FITTED) -> int | None:
    """The number of steps after which the classification loss fell below `FITTED`, mostly to stay there.

    Args:
        path: log.jsonl; each line's losses are means over the steps since the line before, so the answer is the step of
            a line.
        below: the loss from which the tags count as fitted.

    Returns:
        None where it never did.
    Source: ours.
    """
    spans: list[tuple[int, int, float]] = []  # (first step, last step, sum of losses)
    done = 0
    for line in log_lines(path):
        entry = json.loads(line)
        loss, step = entry.get("classification"), int(entry["step"])
        if not isinstance(loss, int | float) or step <= done:
            continue
        joins = bool(spans) and done - spans[-1][0] < _SPAN
        first, before = (spans[-1][0], spans.pop()[2]) if joins else (done, 0.0)
        spans.append((first, step, before + (step - done) * loss))
        done = step
    fitted, found = 0, None
    for count, (first, last, losses) in enumerate(reversed(spans), start=1):
        fitted += (is_low := losses < below * (last - first))
        if is_low and fitted >= _STAYED * count:
            found = first or last  # lines far apart say no more than their end
    return found
