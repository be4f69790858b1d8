"""The commands on images without a run folder of their own: `check`, `tags`, `predict`."""

from dataclasses import replace
from pathlib import Path

from tag2mask.cli.console import output, print_json, say
from tag2mask.cli.invocation import Invocation
from tag2mask.cli.stages import finish, one_process, require_run, with_data
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages.registry import slow_settings
from tag2mask.workflows.check import TagFinding, audit_tags, check_data, checked_images, require_network
from tag2mask.workflows.plan import duration, recorded_times
from tag2mask.workflows.predict import Predict
from tag2mask.workflows.suggest_tags import suggest_tags


@one_process
def tags(
    call: Invocation,
    photos: Path,
    *,
    classes: str | None = None,
    table: Path = Path("suggested-tags.csv"),
    threshold: float = 0.5,
) -> int:
    """Suggest tags for images.

    Args:
        photos: the folder with the images
        classes: the possible classes: names separated by commas, or a file
        table: the table to write
        threshold: the score from which a class is suggested
    """
    if call.dry_run:
        say(output(), f"would write {table} for the images below {photos}")
        return 0
    work = (suggest_tags(call.config, photos, classes, table, threshold, call.console) for _ in range(1))
    return finish(call, work)


@one_process
def check(call: Invocation, data: Path, *, with_: Path | None = None) -> int:
    """Check a data set; the exit code is 0 if there is no error.

    Args:
        data: the folder with the images, or a tags table
        with_: list the tags that this run's network doubts, and estimate times from its speed
    """
    call = with_data(call, data)
    run, own = None if with_ is None else RunFolder(with_), call.config
    if run is not None:
        require_run(run.path)
        require_network(run)
        own = call.on_top_of(run.path)
        data_settings = replace(call.config.data, classes=call.config.data.classes or own.data.classes)
        call = call.with_config(replace(call.config, data=data_settings, network=own.network, cams=own.cams))
    report = check_data(call.config, data, run, call.console)
    findings, times = list[TagFinding](), dict[str, float]()
    if run is not None and report.usable:
        findings = audit_tags(own, run, checked_images(call.config, data, run), call.console)
        times = recorded_times(own, run, report.images)
    if call.as_json:
        listed: dict[str, object] = {} if run is None else {"suspicions": [vars(finding) for finding in findings]}
        listed |= {"seconds": times} if times else {}
        print_json(report.to_json() | listed)
    else:
        lines = [report.render(), *(f"  {finding}" for finding in findings)]
        if run is not None:
            skipped = "tag audit skipped: fix the errors above first"
            lines.insert(1, f"{len(findings)} doubtful tags" if report.usable else skipped)
        if times:
            parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in times.items())
            lines.append(f"about {duration(sum(times.values()))} at the throughput of that run: {parts}")
        say(output(), "\n".join(lines))
    return 0 if report.sound else 1


@one_process
def predict(call: Invocation, run: Path, photos: str, *, overlays: bool = False, overwrite: bool = False) -> int:
    """Make masks of images with a trained segmentation network.

    Args:
        run: the run that trained the network, or its .safetensors or .onnx file
        photos: a folder, an image, or a quoted pattern such as 'photos/**/*.jpg'
        overlays: also write each mask over its image, as overlays/ID.jpg
        overwrite: delete the existing masks and predict all images again
    """
    stage = Predict(photos, run, overlays=overlays, overwrite=overwrite)
    folder = call.run_folder()
    images = stage.images(call.config, folder)
    if call.dry_run:
        say(output(), f"predict: {stage.plan(call.config, folder, images).work}")
        return 0
    stage.require(call.config, folder, images)
    for sentence in slow_settings(call.config, ["predictions"]):
        say(call.console, f"warning: {sentence}", style="yellow")
    with call.lock():
        return finish(call, (stage.do(call.config, folder, call.console) for _ in range(1)))
