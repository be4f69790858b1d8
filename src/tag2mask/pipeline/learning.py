"""The training of a stage: the loop with its progress, the network that it ends with, and what is worth telling."""

from collections.abc import Mapping
from typing import cast

from rich.console import Console

from tag2mask.distributed import is_main
from tag2mask.networks.checkpoint import SavedNetwork, save_network
from tag2mask.pipeline.config import Config
from tag2mask.pipeline.progress import StageResult, progress_bar
from tag2mask.pipeline.reading import reading_workers
from tag2mask.pipeline.run_folder import RunFolder
from tag2mask.training.engine import Task, train_network
from tag2mask.training.settings import LoopSettings


def learn(
    task: Task, settings: LoopSettings, config: Config, run: RunFolder, console: Console, result: StageResult
) -> int:
    """Train, or go on training, and save STAGE/network.safetensors.

    Args:
        task: what is trained, a network that a checkpoint can hold; its stage names the folder.
        settings: of the loop.
        config: seed, device and workers.
        run: where state, log and network go.
        console: for progress.
        result: of the stage; unreadable photographs and notes are added to it.

    Returns:
        the steps done in all.

    Raises:
        Interrupted: the user stopped it; the state is saved.
        Tag2maskError: loss or weights are not finite, or no photograph can be read.
    """
    total = settings.total_steps(len(task.samples))
    with progress_bar(console, task.stage, total) as advance:

        def on_step(done: int, total: int, values: Mapping[str, float]) -> None:
            measured = f", mIoU {100 * values['validation_miou']:.1f}" if "validation_miou" in values else ""
            advance(done, f"loss {values['loss']:.4f}, {values['images_per_second']:.1f} images/s{measured}")

        trained = train_network(
            task,
            settings,
            folder=run / task.stage,
            seed=config.seed,
            device=config.device,
            workers=reading_workers(config),
            on_step=on_step,
        )
    if is_main():
        save_network(run / f"{task.stage}/network.safetensors", cast("SavedNetwork", task.network))
    result.failed.update(trained.unreadable)
    if trained.resumed_from:
        result.notes.append(f"went on from step {trained.resumed_from} of {trained.steps}")
    return trained.steps
