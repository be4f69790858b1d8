"""Training: the order of draws, exact resume, signals, what is logged, what cannot be read."""

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from run_tiny import BACKBONE
from tag2mask.core.errors import Interrupted, Tag2maskError, UsageError
from tag2mask.data import AugmentSettings, DataSettings, ImageSet, open_images
from tag2mask.data.loading.datasets import TrainingSet
from tag2mask.networks import NetworkSettings, PotNetwork, build_network
from tag2mask.networks.backbones.base import image_cells
from tag2mask.pot import PotSettings
from tag2mask.training import tasks
from tag2mask.training import trainer as engine
from tag2mask.training.batches import DrawOrder
from tag2mask.training.checkpointing import load_state
from tag2mask.training.settings import SegmentSettings, TrainSettings
from tag2mask.training.tasks import objective, pot_task
from tag2mask.training.trainer import TrainingResult, train_network


@dataclass
class Settings(TrainSettings):
    """With the settings that are constants in `TrainSettings`."""

    power: float = 0.9
    lr_update_every: int = 1
    ema_decay: float | None = None
    validate_every: int | None = None
    keep_best: bool = False


SETTINGS = Settings(steps=6, batch_size=4, checkpoint_every=2, log_every=1, consistency_start=0.5)


@pytest.fixture(scope="module")
def images(scenes: Path) -> ImageSet:
    return open_images(DataSettings(root=scenes, split="train"))


def fresh(images: ImageSet, projections: bool = False) -> PotNetwork:
    settings = NetworkSettings(backbone=BACKBONE, weights="none", projections=projections)
    return build_network(settings, images.classes, seed=1)


def views(images: ImageSet) -> TrainingSet:
    return TrainingSet(images, AugmentSettings(crop=48, long_side=(40, 64)), seed=3)


def trained(
    images: ImageSet,
    folder: Path,
    settings: Settings = SETTINGS,
    *,
    stop_at: int | None = None,
    workers: int = 0,
    network: PotNetwork | None = None,
) -> tuple[PotNetwork, TrainingResult]:
    """Train in ``folder``, a fresh network or that; with ``stop_at`` a SIGTERM comes during that step."""

    def on_step(done: int, total: int, values: Mapping[str, float]) -> None:
        if done == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    network = network or fresh(images)
    result = train_network(
        pot_task(network, views(images), settings, PotSettings()),
        settings,
        folder=folder,
        seed=3,
        device="cpu",
        workers=workers,
        records=settings,
        on_step=on_step,
    )
    return network, result


def assert_same(first: PotNetwork, second: PotNetwork) -> None:
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_fitted_batches_do_not_change_the_weights(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(images, tmp_path / "plain")
    middle = float(np.median([entry["classification"] for entry in _log(tmp_path / "plain")]))
    monkeypatch.setattr(tasks, "fitted_loss", lambda tags: middle)
    whole, result = trained(images, tmp_path / "whole")
    assert 0 < result.fitted < 6
    with pytest.raises(Interrupted):
        trained(images, tmp_path / "stopped", stop_at=5)
    resumed, again = trained(images, tmp_path / "stopped")
    assert again.fitted == result.fitted
    assert_same(resumed, whole)
    monkeypatch.setattr(tasks, "fitted_loss", lambda tags: 100.0)
    unchanged, result = trained(images, tmp_path / "fitted")
    assert result.fitted == 6
    for new, old in zip(unchanged.parameters(), fresh(images).parameters(), strict=True):
        assert torch.equal(new, old)


def test_tensorboard_is_an_extra(images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"train.tensorboard needs TensorBoard; pip install 'tag2mask\[tensorboard\]'"):
        trained(images, tmp_path, replace(SETTINGS, tensorboard=True))


def test_every_image_is_drawn_once_an_epoch_and_never_twice_the_same_way() -> None:
    batches = list(DrawOrder(10, 4, seed=0, first_step=0, last_step=10))
    drawn = [index for batch in batches for _, index in batch]
    for epoch in range(4):
        assert sorted(drawn[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert drawn[:10] != drawn[10:20]
    assert [draw for batch in batches for draw, _ in batch] == list(range(40))


def test_the_order_depends_on_seed_and_step_alone() -> None:
    whole = list(DrawOrder(7, 3, seed=5, first_step=0, last_step=9))
    assert list(DrawOrder(7, 3, seed=5, first_step=4, last_step=9)) == whole[4:]
    assert list(DrawOrder(7, 3, seed=6, first_step=0, last_step=9)) != whole


def test_processes_share_out_a_batch() -> None:
    whole = list(DrawOrder(7, 4, seed=0, first_step=0, last_step=5))
    parts = [list(DrawOrder(7, 4, seed=0, first_step=0, last_step=5, rank=rank, world=2)) for rank in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert sorted(batch) == sorted(first + second)
        assert len(first) == len(second) == 2


@pytest.mark.parametrize(
    ("stop_at", "settings"),
    [
        (1, SETTINGS),
        (3, SETTINGS),
        (4, SETTINGS),
        (3, replace(SETTINGS, gradient_accumulation_steps=2, lr_update_every=4)),
    ],
)
def test_an_interrupted_run_ends_with_the_same_weights_bit_for_bit(
    images: ImageSet, tmp_path: Path, stop_at: int, settings: TrainSettings
) -> None:
    expected, _ = trained(images, tmp_path / "whole", settings)
    with pytest.raises(Interrupted, match=f"step {stop_at + 1} of 6|step {stop_at} of 6"):
        trained(images, tmp_path / "stopped", settings, stop_at=stop_at)
    network, result = trained(images, tmp_path / "stopped", settings)
    assert result.resumed_from in (stop_at, stop_at + 1)
    assert_same(expected, network)
    logs = [_log(tmp_path / name) for name in ("whole", "stopped")]
    assert [line["step"] for line in logs[1]] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in logs[0]] == [line["loss"] for line in logs[1]]


def test_the_number_of_reading_workers_changes_nothing(images: ImageSet, tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=2)
    alone, _ = trained(images, tmp_path / "0", settings)
    helped, _ = trained(images, tmp_path / "2", settings, workers=2)
    assert_same(alone, helped)


def test_training_lowers_the_loss_and_changes_every_trainable_weight(images: ImageSet, tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=30, learning_rate=1e-3, head_lr_multiplier=1.0, consistency_weight=0.0)
    network, _ = trained(images, tmp_path, settings)
    losses = [line["classification"] for line in _log(tmp_path)]
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
    before = dict(fresh(images).named_parameters())
    same = [
        name for name, value in network.named_parameters() if value.requires_grad and torch.equal(value, before[name])
    ]
    assert not same


def test_the_consistency_loss_starts_when_it_should(images: ImageSet, tmp_path: Path) -> None:
    trained(images, tmp_path)
    assert ["consistency" in line for line in _log(tmp_path)] == [False] * 3 + [True] * 3


def test_an_unreadable_image_is_named_and_replaced(scenes: Path, tmp_path: Path) -> None:
    images = open_images(DataSettings(root=scenes, split="train"))
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    damaged = replace(images, items=(replace(images.items[0], file=broken), *images.items[1:]))
    _, result = trained(damaged, tmp_path / "run", replace(SETTINGS, steps=3))
    assert list(result.unreadable) == [images.items[0].id]
    assert "broken.jpg" in result.unreadable[images.items[0].id]


@pytest.mark.parametrize("workers", [0, 1])
def test_when_nothing_can_be_read_training_says_so(scenes: Path, tmp_path: Path, workers: int) -> None:
    images = open_images(DataSettings(root=scenes, split="train"))
    none = replace(images, items=tuple(replace(item, file=tmp_path / "absent.jpg") for item in images.items))
    with pytest.raises(Tag2maskError, match=r"^not one image.*lists why$"):
        trained(none, tmp_path / "run", workers=workers)


def test_a_loss_that_is_not_finite_stops_training_and_is_not_saved(images: ImageSet, tmp_path: Path) -> None:
    settings = replace(SETTINGS, optimizer="sgd", learning_rate=1e30, max_grad_norm=None, steps=20)
    with pytest.raises(Tag2maskError, match="not finite"):
        trained(images, tmp_path, settings)
    assert not (tmp_path / "state.pt").is_file() or load_state(tmp_path / "state.pt")["step"] <= 4


def test_a_gpu_without_memory_is_no_damaged_state(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        trained(images, tmp_path, stop_at=1)
    before = (tmp_path / "state.pt").read_bytes()

    def full(*arguments: object, **more: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for name in ("to", "load_state_dict"):
        with monkeypatch.context() as patched, pytest.raises(torch.OutOfMemoryError):
            patched.setattr(PotNetwork, name, full)
            trained(images, tmp_path)
    assert (tmp_path / "state.pt").read_bytes() == before


@pytest.mark.parametrize("content", [b"half a state", None], ids=["damaged", "runs code"])
def test_a_state_that_is_damaged_or_would_run_code_is_refused(
    images: ImageSet, tmp_path: Path, content: bytes | None
) -> None:
    if content is None:
        torch.save({"step": Path}, tmp_path / "state.pt")
    else:
        (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(Tag2maskError, match=r"state\.pt is not a readable resume state"):
        trained(images, tmp_path)


def test_a_batch_in_parts_is_a_batch(images: ImageSet, tmp_path: Path) -> None:
    """Without statistics of the batch, the mean of the parts' gradients is the gradient of a loss that is a mean."""
    weights, losses = [], []
    plain = replace(SETTINGS, steps=3, optimizer="sgd", learning_rate=0.01, max_grad_norm=None, consistency_weight=0.0)
    for parts in (1, 2, 4):
        settings = replace(plain, gradient_accumulation_steps=parts)
        network = build_network(
            NetworkSettings(backbone=BACKBONE, weights="none", batch_norm="fixed"), images.classes, seed=1
        )
        trained(images, tmp_path / str(parts), settings, network=network)
        weights.append(network.state_dict())
        losses.append([line["loss"] for line in _log(tmp_path / str(parts))])
    begun = fresh(images).state_dict()["classifier.weight"]
    for state in weights[1:]:
        assert not torch.equal(state["classifier.weight"], begun)
        for name, value in weights[0].items():
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-6)
    for each in losses[1:]:
        assert each == pytest.approx(losses[0], rel=1e-4)


def test_statistics_are_those_of_a_part(images: ImageSet, tmp_path: Path) -> None:
    sizes = []
    network = fresh(images)
    network.backbone.register_forward_pre_hook(lambda _, images: sizes.append(len(images[0])))
    trained(images, tmp_path, replace(SETTINGS, steps=2, gradient_accumulation_steps=2), network=network)
    assert sizes == [2, 2, 2, 2]
    counts = [value for name, value in network.backbone.named_buffers() if name.endswith("num_batches_tracked")]
    assert counts and all(count == 4 for count in counts)


def test_the_learning_rate_falls_by_steps(images: ImageSet, tmp_path: Path) -> None:
    rates = {}
    for every in (1, 4):
        trained(images, tmp_path / str(every), replace(SETTINGS, lr_update_every=every, consistency_weight=0.0))
        rates[every] = [line["learning_rate"] / 2e-4 for line in _log(tmp_path / str(every))]
    assert rates[1] == pytest.approx([(1 - step / 6) ** 0.9 for step in range(6)])
    assert rates[4] == pytest.approx([1] * 4 + [(1 - 4 / 6) ** 0.9] * 2)


def test_keep_best_ends_with_the_best_weights(images: ImageSet, tmp_path: Path) -> None:
    """A figure that is highest at step 4 of 6; stopped at step 5 and resumed, too."""
    measured: dict[int, dict[str, torch.Tensor]] = {}

    def training(folder: Path, *, stop_at: int | None = None, **changes: object) -> PotNetwork:
        settings = replace(SETTINGS, validate_every=2, **changes)  # type: ignore[arg-type]
        network, steps = fresh(images), iter((2, 4, 6))

        def validate(at: torch.nn.Module) -> dict[str, float]:
            step = next(steps)
            measured[step] = {name: value.clone() for name, value in at.state_dict().items()}
            return {"validation_miou": {2: 0.5, 4: 0.7, 6: 0.6}[step]}

        def on_step(done: int, total: int, values: Mapping[str, float]) -> None:
            if done == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

        task = replace(pot_task(network, views(images), settings, PotSettings()), validate=validate)
        if stop_at is None and (folder / "state.pt").is_file():
            next(steps), next(steps)
        train_network(task, settings, folder=folder, seed=3, device="cpu", records=settings, on_step=on_step)
        return network

    def same(network: PotNetwork, step: int) -> bool:
        return all(torch.equal(value, measured[step][name]) for name, value in network.state_dict().items())

    assert same(training(tmp_path / "last"), 6)
    assert same(training(tmp_path / "best", keep_best=True), 4)
    with pytest.raises(Interrupted):
        training(tmp_path / "stopped", keep_best=True, stop_at=5)
    assert same(training(tmp_path / "stopped", keep_best=True), 4)


@pytest.mark.parametrize("killed_at", [4, 6])
def test_a_validation_that_was_killed_is_repeated(images: ImageSet, tmp_path: Path, killed_at: int) -> None:
    settings, measured = replace(SETTINGS, validate_every=2, keep_best=True), []

    class Killed(Exception):
        pass

    def train(killed: bool) -> PotNetwork:
        network = fresh(images)

        def validate(at: torch.nn.Module) -> dict[str, float]:
            measured.append({name: value.clone() for name, value in at.state_dict().items()})
            if killed and len(measured) == killed_at // 2:
                raise Killed
            return {"validation_miou": 0.1 * len(measured) if len(measured) <= killed_at // 2 else 0.0}

        task = replace(pot_task(network, views(images), settings, PotSettings()), validate=validate)
        train_network(task, settings, folder=tmp_path / "killed", seed=3, device="cpu", records=settings)
        return network

    with pytest.raises(Killed):
        train(killed=True)
    before = measured.pop()
    network = train(killed=False)
    assert len(measured) == 3
    best = measured[killed_at // 2 - 1]
    for name, value in network.state_dict().items():
        assert torch.equal(value, best[name]) and torch.equal(value, before[name]), name
    lines = [
        (line["step"], round(line["validation_miou"], 3)) for line in _log(tmp_path / "killed") if line["step"] % 2 == 0
    ]
    assert lines == [(2, 0.1), (4, 0.2), (6, 0.0 if killed_at == 4 else 0.3)]
    again = train(killed=False)  # what has been measured is not measured again
    assert len(measured) == 3
    assert all(torch.equal(value, best[name]) for name, value in again.state_dict().items())


def test_the_best_weights_need_something_to_measure_on(images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="keep_best needs images with ground truth"):
        trained(images, tmp_path, replace(SETTINGS, keep_best=True, validate_every=2))
    with pytest.raises(UsageError, match="keep_best needs validate_every"):
        SegmentSettings(keep_best=True)


def test_a_batch_has_whole_parts() -> None:
    with pytest.raises(UsageError, match="batch_size 10 should be a multiple of gradient_accumulation_steps, 3"):
        TrainSettings(batch_size=10, gradient_accumulation_steps=3)
    with pytest.raises(UsageError, match=r"gradient_accumulation_steps should be .* 0; lr_update_every should be"):
        SegmentSettings(gradient_accumulation_steps=0, lr_update_every=0)


def test_settings_are_refused_all_at_once() -> None:
    with pytest.raises(UsageError, match=r"batch_size.*learning_rate.*consistency_start"):
        TrainSettings(batch_size=0, learning_rate=-1, consistency_start=2)


def test_gradients_of_the_objective_go_where_they_should(images: ImageSet) -> None:
    network = fresh(images, projections=True)
    valid = torch.ones(2, 64, 64, dtype=torch.bool)
    valid[0, :, 40:] = False
    output = network(torch.rand(2, 3, 64, 64), valid)
    settings = replace(SETTINGS, stop_gradient="none", classification_weight=0.0)
    tags = torch.tensor([[True, False], [True, True]])
    losses = objective(output, tags, valid, settings, PotSettings(), stride=network.stride, progress=0.9)
    losses.total.backward()
    assert losses.consistency is not None and losses.consistency > 0
    lacking = [name for name, value in network.named_parameters() if value.requires_grad and value.grad is None]
    assert not lacking


def test_cells_of_a_sliver_are_those_it_touches() -> None:
    valid = torch.zeros(2, 64, 64, dtype=torch.bool)
    valid[0, :, 30:34] = True
    valid[1, 16:48, 16:50] = True
    cells = image_cells(valid, (4, 4), stride=16)
    assert cells[0].sum() == 8
    assert cells[1].sum() == 4


def _log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stop_at", [None, 2])
def test_the_mean_of_the_weights(images: ImageSet, tmp_path: Path, stop_at: int | None) -> None:
    """Each step's weights as a run of that length ends with them; their mean by hand; and after an interruption."""
    ends = [dict(fresh(images).named_parameters())]
    # With this power the schedule does not depend on the number of steps.
    plain = replace(SETTINGS, steps=4, power=1e-9, consistency_weight=0.0)
    for steps in (1, 2, 3, 4):
        network, _ = trained(images, tmp_path / str(steps), replace(plain, steps=steps))
        ends.append(dict(network.named_parameters()))
    settings = replace(plain, ema_decay=0.6)
    if stop_at is not None:
        with pytest.raises(Interrupted):
            trained(images, tmp_path / "mean", settings, stop_at=stop_at)
    network, _ = trained(images, tmp_path / "mean", settings)
    for name, value in network.named_parameters():
        expected = ends[0][name].double()
        for end in ends[1:]:
            expected = 0.6 * expected + 0.4 * end[name].double()
        assert torch.allclose(value.double(), expected, atol=1e-5), name


def test_figures_while_training_are_logged_and_change_nothing(images: ImageSet, tmp_path: Path) -> None:
    seen = []

    def validate(network: torch.nn.Module) -> dict[str, float]:
        assert not network.training
        seen.append(1)
        return {"validation_miou": 0.5}

    expected, _ = trained(images, tmp_path / "plain")
    network = fresh(images)
    task = replace(pot_task(network, views(images), SETTINGS, PotSettings()), validate=validate)
    settings = replace(SETTINGS, validate_every=4)
    train_network(task, settings, folder=tmp_path / "seen", seed=3, device="cpu", records=settings)
    assert len(seen) == 2  # at step 4 and at the end
    assert [line.get("validation_miou") for line in _log(tmp_path / "seen")] == [None, None, None, 0.5, None, 0.5]
    assert_same(expected, network)
