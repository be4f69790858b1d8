"""When the network had fitted the tags, read from the log of its training: later steps only change the CAMs."""

import json
from pathlib import Path

from tag2mask.training.state import log_lines

FITTED = 0.03
"""The mean classification loss below which the tags count as fitted. Ours: with 10, 50 and 136 photographs of two or
three classes the POT CAMs lost 30 to 70 % of their mIoU where half of the steps and more came after; six epochs of 437
photographs ended at 0.05."""

_SPAN = 10
"""Steps whose losses are averaged, where lines are closer: the loss of a single batch says little."""

_STAYED = 0.75
"""The share of later spans that must be below it too: a photograph that is hard to classify comes back every epoch."""


def fitted_after(path: Path) -> int | None:
    """The number of steps after which the classification loss fell below `FITTED`, mostly to stay there.

    Args:
        path: log.jsonl; each line's losses are means over the steps since the line before, so the answer is the step of
            a line, or 0.

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
        fitted += (below := losses < FITTED * (last - first))
        if below and fitted >= _STAYED * count:
            found = first
    return found
