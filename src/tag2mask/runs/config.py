"""All settings of a run, in one tree that YAML and the command line fill."""

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import ClassVar, Literal

import yaml

from tag2mask.cams.clip.settings import SeedSettings
from tag2mask.cams.kinds import CAM_KINDS, CamKind
from tag2mask.core.errors import UsageError
from tag2mask.core.fields import Checked, absolute, plain, setting
from tag2mask.data.settings import DataSettings, scales_problems
from tag2mask.networks.settings import NetworkSettings
from tag2mask.pot import PotSettings
from tag2mask.pot.external import ExternalSettings
from tag2mask.prediction.settings import PredictSettings
from tag2mask.refine.settings import RefineSettings
from tag2mask.report.settings import ReportSettings
from tag2mask.synthetic.settings import SceneSettings
from tag2mask.training.settings import EdgeSettings, SegmentSettings, TrainSettings

__all__ = ["CamSettings", "Config", "EvaluateSettings", "absolute", "plain", "presets", "to_yaml"]


@dataclass
class CamSettings(Checked):
    """How the network makes CAMs.

    Attributes:
        kinds: which CAMs: `classifier`; `anomaly`, the classifier's times the distance to images without tags, which
            needs a frozen backbone; `prototype` (single prototype); `pot`; `fused`, which needs base CAMs. All come
            from the same forward passes. `words` alone are those of `tag2mask masks`, without a network.
        scales: image sizes, as multiples of scale 1; published: 1, 0.5, 1.5, 2.
        flip: average with the mirrored image, as published; doubles the cost.
        merge: what is summed over scales: the `features`, for one plan (ours), or the `maps` of POT and of the single
            prototype at each scale, where a tag then has to exceed 0.2 plus half of the background (published).
        long_side: longer side of the image at scale 1, in pixels; null keeps the image's own size.
        batch_size: images of one size that go through the network together.
        precision: that of the network, `fp32`, `bf16` (autocast), or `auto`: bf16 where processor or GPU has it.
    """

    kinds: list[CamKind] = field(default_factory=lambda: ["classifier", "prototype", "pot"])
    scales: list[float] = field(default_factory=lambda: [1.0, 0.5, 2.0])
    flip: bool = False
    merge: Literal["features", "maps"] = "features"
    long_side: int | None = setting(None, low=32)
    batch_size: int = setting(4, low=1, affects=False)
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    _section: ClassVar[str] = "cams"

    def problems(self) -> list[str]:
        """Lists of kinds and scales."""
        problems = []
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            problems.append(f"kinds should name each of {', '.join(CAM_KINDS)} at most once, and one at least")
        if self.merge == "maps" and self.scales[:1] != [1]:
            problems.append("merge maps needs 1 as the first of scales, whose grid the CAMs have")
        return problems + scales_problems(self.scales)


@dataclass
class EvaluateSettings(Checked):
    """What is measured on images with ground truth.

    Attributes:
        splits: the splits to measure on, names as for data.split, a list or with commas; null takes data.split.
        classes: the classes that mIoU is the mean of, a list or with commas, with `background` if it counts; null
            takes all that occur.
    """

    splits: list[str] | str | None = None
    classes: list[str] | str | None = None

    _section: ClassVar[str] = "evaluate"

    def split_names(self, default: str | None) -> list[str | None]:
        """The splits to measure on; ``default`` alone if none is named."""
        named = _names(self.splits)
        return [*named] if named else [default]

    def class_names(self) -> list[str] | None:
        """The classes that mIoU is the mean of; None for all."""
        return _names(self.classes)


def _names(value: list[str] | str | None) -> list[str] | None:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


@dataclass
class Config(Checked):
    """Every setting of a run.

    Attributes:
        out: the run folder.
        device: `auto` takes the GPU if there is one.
        seed: the seed of every random draw.
        workers: processes or threads that read images; null leaves one core to the network.
        limit: use only this many images, the first of the split; null takes all.
        shard: `i/n` takes every n-th batch of images from the i-th on, counted from 1, in `seeds`, `cams`,
            `refine` and `predict`, and for the labels of `edges`; every n-th image in `evaluate`.
        data: the images.
        seeds: base CAMs from CLIP.
        network: the network.
        pot: the method.
        external: the use of the base CAMs of `seeds`.
        train: training.
        cams: CAMs.
        edges: the edge network of IRN's random walk, and its training labels.
        refine: pseudo masks.
        segment: the segmentation network that is trained on them.
        predict: masks by a segmentation network.
        evaluate: figures.
        report: the page.
        scenes: the generated images of `demo`.
    """

    out: Path | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = setting(0, low=0, below=2**31)
    workers: int | None = setting(None, low=0)
    limit: int | None = setting(None, low=1)
    shard: str | None = None
    data: DataSettings = field(default_factory=DataSettings)
    seeds: SeedSettings = field(default_factory=SeedSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    pot: PotSettings = field(default_factory=PotSettings)
    external: ExternalSettings = field(default_factory=ExternalSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    cams: CamSettings = field(default_factory=CamSettings)
    edges: EdgeSettings = field(default_factory=EdgeSettings)
    refine: RefineSettings = field(default_factory=RefineSettings)
    segment: SegmentSettings = field(default_factory=SegmentSettings)
    predict: PredictSettings = field(default_factory=PredictSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    report: ReportSettings = field(default_factory=ReportSettings)
    scenes: SceneSettings = field(default_factory=SceneSettings)

    _section: ClassVar[str] = "the run"

    def __post_init__(self) -> None:
        """Refuse values out of range, and a shard that is not i/n."""
        super().__post_init__()
        if self.network.freeze and self.cams.merge == "maps":
            raise UsageError("network.freeze true needs cams.merge features: features are summed over scales and kept")
        self.shard_of()

    def shard_of(self) -> tuple[int, int]:
        """The shard as (i, n), 1 ≤ i ≤ n; (1, 1) without one."""
        if self.shard is None:
            return 1, 1
        first, _, count = self.shard.partition("/")
        numbers = first.isdecimal() and count.isdecimal() and max(len(first), len(count)) < 10
        if not numbers or not 1 <= int(first) <= int(count):
            raise UsageError(f"shard should be i/n with 1 ≤ i ≤ n, as in 2/4, received '{self.shard}'")
        return int(first), int(count)


def to_yaml(config: Config) -> str:
    """Every value, resolved, as YAML for `--config`."""
    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)


def presets() -> dict[str, Path]:
    """The YAML presets of the package, by name."""
    folder = Path(str(resources.files("tag2mask") / "presets"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
