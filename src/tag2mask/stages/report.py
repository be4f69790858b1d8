"""The stage `report`: one page for a run."""

from tag2mask.data.dataset import ImageSet
from tag2mask.report import write_report
from tag2mask.runs.config import Config
from tag2mask.runs.dataset import run_images
from tag2mask.runs.ground_truth import rasterise_missing_truth, without_mismatched_truth
from tag2mask.runs.progress import Console, StageResult
from tag2mask.runs.run_folder import RunFolder
from tag2mask.stages.base import Stage, StagePlan


class Report(Stage):
    """One page for a run."""

    name = "report"
    outputs = ("report.html",)
    reads = ("train", "cams", "refine", "segment", "confidence", "evaluate")
    always_rerun = True
    distribution = "main"
    sections = ("report",)

    def plan(self, config: Config, run: RunFolder, images: ImageSet) -> StagePlan:
        """The page, which is always written again."""
        return StagePlan(self.name, f"write {run / 'report.html'}")

    def do(self, config: Config, run: RunFolder, console: Console) -> StageResult:
        """Write report.html over the images of the first split that is evaluated."""
        split = config.evaluate.split_names(config.data.split)[0]
        images = rasterise_missing_truth(config, run_images(config, run, split), console)
        images, errors = without_mismatched_truth(images, config)
        ranked = without_mismatched_truth(run_images(config, run), config)[0] if split != config.data.split else None
        page = write_report(
            run.path,
            images,
            config.report,
            ranked=ranked,
            notices=(*errors, *images.notes),
        )
        return StageResult(self.name, done=1, notes=[f"the page: {page}"])
