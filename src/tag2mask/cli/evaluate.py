"""The command `evaluate`: all that a run made, or one folder of masks or CAMs, against the ground truth."""

from functools import partial
from pathlib import Path

from tag2mask.cli.console import errors, output, print_json
from tag2mask.cli.invocation import Invocation
from tag2mask.cli.stages import do_stages, one_process
from tag2mask.core.errors import UsageError
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages.evaluate import compare_runs
from tag2mask.workflows.evaluate_folder import evaluate_folder


def evaluate(call: Invocation, run: Path, *, compare: Path | None = None, restart: str | None = None) -> int:
    """Measure against ground truth.

    Args:
        run: the run folder, or any folder of masks (.png) or CAM files (.npz)
        compare: put the segmentation network next to that of this run, class by class
        restart: delete the figures and measure again
    """
    if (run / "config.yaml").is_file():
        if compare is None:
            return do_stages(call, ["evaluate"], restart=restart)
        other = RunFolder(compare).metrics()  # before anything is measured
        return do_stages(call, ["evaluate"], partial(compare_runs, other=other), restart=restart)
    if compare is not None or restart is not None:
        option = "--restart" if compare is None else "--compare"
        raise UsageError(f"{option} goes with a run, and {run} is no run folder: it has no config.yaml")
    return _folder(call, run)


@one_process
def _folder(call: Invocation, folder: Path) -> int:
    if not folder.is_dir():
        raise UsageError(f"{folder} is no run folder, and no folder of masks or CAMs")
    figures = evaluate_folder(call.config, folder, errors())
    if call.as_json:
        print_json(figures.to_json())
    else:
        output().print(figures.render(str(folder)))
    return 0
