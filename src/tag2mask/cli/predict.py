"""The command `predict`."""

from pathlib import Path

from tag2mask.cli.console import errors, output
from tag2mask.cli.invocation import Invocation
from tag2mask.cli.stages import finish, one_process
from tag2mask.workflows.predict import Predict


@one_process
def predict(call: Invocation, run: Path, photos: str, *, overlays: bool = False, overwrite: bool = False) -> int:
    """Label images with a trained segmentation network.

    Args:
        run: the run that trained the network, or its .safetensors file
        photos: a folder, an image, or a quoted pattern such as 'photos/**/*.jpg'
        overlays: also write each mask over its image, as overlays/ID.jpg
        overwrite: delete the masks that are there and make them all again
    """
    stage = Predict(photos, run, overlays=overlays, overwrite=overwrite)
    folder = call.run_folder()
    images = stage.images(call.config, folder)
    if call.dry_run:
        plan = stage.plan(call.config, folder, images)
        output().print(f"predict: {plan.work}", highlight=False, markup=False, soft_wrap=True)
        return 0
    stage.require(call.config, folder, images)
    with call.lock():
        return finish(call, [stage.do(call.config, folder, errors())])
