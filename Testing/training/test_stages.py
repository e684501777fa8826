from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ONE_SENTENCE, save_tiny, with_settings
from support import TINY as NETWORK
from torch import Tensor, nn

from DISYRECore.corruption.families.base import CorruptionSettings
from DISYRECore.corruption.shapes import make_shape_bank
from DISYRECore.errors import DisyreError
from DISYRECore.models.store import load_model
from DISYRECore.training.config import TrainingConfig, read_config
from DISYRECore.training.data import TrainingData
from DISYRECore.training.optimiser import Muon, make_optimisers, orthogonalised
from DISYRECore.training.schedule import FEWEST, SUSTAINED, LossWatch, learning_rate
from DISYRECore.training.tasks import restoration
from DISYRECore.training.tasks.base.batches import Batch
from DISYRECore.training.tasks.base.crops import crop, make_crops
from DISYRECore.training.tasks.restoration import RestorationSettings
from DISYRECore.training.trainer import Trainer

CONFIG = """
name: tiny
task: restoration
train: ["head_[01].nii.gz"]
validation: [head_2.nii.gz]
spacing_mm: 6
batch: 4
warmup: 1
learning_rate: 0.01
every: 2
settings:
  network: {channels: [8, 16], blocks: 1, groups: 4, fold: 2, context: 1, region: true, residual: true}
  corruption: {anomalies: [0.2, 0.8], sizes: published}
  slice_shape: [32, 28]
stages:
  - {steps: 3, batch: 6, settings: {crop: 16}}
  - {steps: 2, settings: {crop: 24, corruption: {anomalies: [0, 1]}}}
  - {steps: 3, learning_rate: 0.002}
"""


@pytest.fixture(autouse=True)
def _few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoration, "make_shape_bank", lambda seed: make_shape_bank(8, seed=seed))


@pytest.fixture
def staged(tmp_path: Path) -> TrainingConfig[RestorationSettings]:
    return read(tmp_path, CONFIG)


def read(folder: Path, text: str) -> TrainingConfig[Any]:
    (folder / "config.yaml").write_text(text)
    return read_config(folder / "config.yaml")


# Configs


def test_a_stage_is_the_run_but_for_what_it_changes(staged: TrainingConfig[RestorationSettings]) -> None:
    first, second, third = staged.stages
    assert staged.steps == 8
    assert [one.settings.crop for one in staged.stages] == [16, 24, None]
    assert (first.batch, second.batch, third.batch) == (6, 4, 4)
    assert second.settings.corruption == CorruptionSettings(anomalies=(0, 1), sizes="published")
    assert replace(third, steps=8, stages=staged.stages, learning_rate=0.01) == staged
    assert [staged.stages.index(staged.at(step)) for step in range(9)] == [0, 0, 0, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("steps: 3, batch", "batch"),
        ("steps: 3, batch", "steps: 3, seed: 4, batch"),
        ("{crop: 16}", "{crop: 30}"),
        ("{crop: 16}", "{crop: 0}"),
        ("{crop: 16}", "{crop: 16, network: {size: compact}}"),
        ("{crop: 16}", "{colour: 3}"),
        ("every: 2", "every: 2\nsteps: 8"),
        ("every: 2", "every: 2\noptimiser: sgd"),
        ("every: 2", "every: 2\nstart: nowhere"),
        ("stages:\n", "stages: 3\nmore:\n"),
    ],
)
def test_stages_that_cannot_be_used_are_refused_in_one_sentence(tmp_path: Path, old: str, new: str) -> None:
    text = CONFIG.replace(old, new)
    if "nowhere" in new:
        text = "\n".join(line for line in text.splitlines() if "network:" not in line)
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        read(tmp_path, text)


def test_one_schedule_spans_the_stages(staged: TrainingConfig[RestorationSettings]) -> None:
    whole = replace(staged, stages=())
    rates, plain = ([learning_rate(step, one) for step in range(9)] for one in (staged, whole))
    assert rates[:5] == plain[:5]
    assert rates[5:] == pytest.approx([0.2 * one for one in plain[5:]])


# Crops


class Slices:
    """Slices in which a voxel says where it is; the first of every two has an anomaly of some pixels."""

    def make(self, count: int, seed: int) -> Batch:
        here = torch.arange(40 * 30).view(1, 40, 30).expand(count, -1, -1).float()
        mask, region = torch.zeros(count, 40, 30, dtype=torch.bool), torch.zeros(count, 40, 30, dtype=torch.bool)
        mask[:, 5:35, 4:26] = True
        region[::2, 30:33, 6:8] = True
        return Batch(here[:, None].repeat(1, 3, 1, 1), here, mask, region, torch.arange(count))


def test_half_of_the_crops_are_around_an_anomaly_and_the_rest_anywhere_in_the_brain() -> None:
    batch = make_crops(Slices(), 400, 0, 12)
    around, anywhere = batch.region[:200:2].flatten(1).any(1), batch.region[200::2].flatten(1).any(1)
    assert around.all()
    assert 0.05 < anywhere.float().mean() < 0.5
    assert batch.mask.flatten(1).any(1).all()
    assert len({int(one[0, 0]) for one in batch.healthy[200:]}) > 100


def test_everything_of_a_slice_is_cropped_alike() -> None:
    batch = make_crops(Slices(), 9, 1, 12)
    whole = Slices().make(1, 0)
    assert batch.corrupted.shape == (9, 3, 12, 12)
    assert batch.step.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert torch.equal(batch.corrupted[:, 1], batch.healthy)
    for image, mask in zip(batch.healthy.long(), batch.mask, strict=True):
        assert torch.equal(image - image[0, 0], torch.arange(12)[:, None] * 30 + torch.arange(12))
        assert torch.equal(mask, whole.mask[0].flatten()[image])


def test_crops_follow_from_the_seed_and_whole_slices_stay_whole() -> None:
    one, two, other = (make_crops(Slices(), 8, seed, 12).healthy for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(make_crops(Slices(), 8, 1, None).healthy, Slices().make(8, 1).healthy)


def test_a_slice_without_brain_can_be_cropped() -> None:
    whole = Slices().make(2, 0)
    cut = crop(whole, torch.zeros_like(whole.mask), 12, torch.Generator().manual_seed(0))
    assert cut.healthy.shape == (2, 12, 12)


# Optimisers


def test_newton_schulz_brings_all_singular_values_near_1() -> None:
    for shape in ((16, 48), (48, 16)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        found = orthogonalised(matrix)
        values = torch.linalg.svdvals(found)
        assert found.shape == shape
        assert 0.6 < values.min() < values.max() < 1.3
        assert torch.nn.functional.cosine_similarity(found.flatten(), (u @ v).flatten(), 0) > 0.97


def test_muon_takes_the_hidden_kernels_and_adamw_the_rest(staged: TrainingConfig[RestorationSettings]) -> None:
    network = restoration.fresh_network(NETWORK)
    adamw, muon = make_optimisers(network, replace(staged, optimiser="muon"))
    taken = [one for optimiser in (adamw, muon) for group in optimiser.param_groups for one in group["params"]]
    assert {id(one) for one in taken} == {id(one) for one in network.parameters()}
    assert len(taken) == len(list(network.parameters()))
    kernels = muon.param_groups[0]["params"]
    ends = (network.unet.conv_in.conv.weight, network.unet.out[2].conv.weight)
    assert all(one.ndim == 4 and not any(one is end for end in ends) for one in kernels)
    assert len(make_optimisers(network, staged)) == 1


def test_muon_fits_a_linear_map() -> None:
    torch.manual_seed(0)
    wanted, layer, x = torch.randn(8, 4, 1, 1), nn.Conv2d(4, 8, 1, bias=False), torch.randn(64, 4, 1, 1)
    optimiser = Muon([layer.weight], weight_decay=0.0)
    for step in range(300):
        optimiser.zero_grad()
        (layer(x) - nn.functional.conv2d(x, wanted)).square().mean().backward()
        optimiser.param_groups[0]["lr"] = 0.3 * (1 - step / 300)
        optimiser.step()
    assert torch.allclose(layer.weight, wanted, atol=0.02)


# Runs


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_run_of_stages_resumes_exactly_in_the_middle_of_one(
    labelmaps: Path, tmp_path: Path, staged: TrainingConfig[RestorationSettings], optimiser: Any
) -> None:
    config = replace(staged, optimiser=optimiser)
    whole = Trainer(config, TrainingData(labelmaps=labelmaps), tmp_path / "whole", "cpu")
    whole.run()
    Trainer(config, TrainingData(labelmaps=labelmaps), tmp_path / "parts", "cpu").run(until=2)
    Trainer(config, TrainingData(labelmaps=labelmaps), tmp_path / "parts", "cpu").run(until=4)
    resumed = Trainer(config, TrainingData(labelmaps=labelmaps), tmp_path / "parts", "cpu")
    resumed.run()
    assert equal(resumed.state.tensors(), whole.state.tensors())
    assert resumed.step == 8
    log = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [one["step"] for one in log] == [2, 4, 6, 8]
    spent = [one["processor_s"] for one in log]
    assert spent == sorted(spent)
    assert spent[-1] > 0


def test_each_stage_learns_from_its_own_batches_and_validation_stays_the_same(
    labelmaps: Path, tmp_path: Path, staged: TrainingConfig[RestorationSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Trainer(staged, TrainingData(labelmaps=labelmaps), tmp_path, "cpu")
    shapes: list[tuple[int, ...]] = []
    loss = restoration.restoration_loss
    monkeypatch.setattr(
        restoration, "restoration_loss", lambda net, batch, w: shapes.append(batch.healthy.shape) or loss(net, batch, w)
    )
    before = run.task.validate(run.averaged_network())
    for _ in range(8):
        run.train_step()
    assert shapes == [(6, 16, 16)] * 3 + [(4, 24, 24)] * 2 + [(4, 32, 28)] * 3
    fresh = Trainer(staged, TrainingData(labelmaps=labelmaps), tmp_path, "cpu")
    assert run.task.validate(fresh.averaged_network()) == before


def test_a_run_starts_from_the_weights_of_a_model(
    labelmaps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISYRE_MODELS", str(tmp_path))
    save_tiny(tmp_path / "begun")
    text = CONFIG.replace("every: 2", "every: 2\nstart: begun")
    config = read(tmp_path, "\n".join(line for line in text.splitlines() if "network:" not in line))
    assert config.settings.network == NETWORK
    run = Trainer(config, TrainingData(labelmaps=labelmaps), tmp_path / "out", "cpu")
    begun = load_model("begun").network.state_dict()
    assert equal(dict(run.state.network.state_dict()), dict(begun))
    assert equal(run.state.average, dict(begun))
    run.run(until=2)
    resumed = Trainer(config, TrainingData(labelmaps=labelmaps), tmp_path / "out", "cpu")
    assert equal(resumed.state.tensors(), run.state.tensors())
    other = with_settings(config, network=replace(NETWORK, channels=(8, 24)))
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        Trainer(other, TrainingData(labelmaps=labelmaps), tmp_path / "other", "cpu")


# Divergence


def test_noise_a_spike_and_a_falling_loss_are_no_divergence() -> None:
    noise = torch.rand(3000, generator=torch.Generator().manual_seed(0)) + 0.2
    watch = LossWatch()
    for step, one in enumerate(noise.tolist()):
        spike = 50.0 if 1000 <= step < 1000 + SUSTAINED // 2 else 1.0
        assert not watch.diverges(one * spike * (1 + 5 / (1 + step)), 1.0)


def test_a_loss_that_stays_high_is_divergence_and_nothing_is_saved_meanwhile() -> None:
    watch = LossWatch()
    assert not any(watch.diverges(1.0, 1.0) for _ in range(2 * FEWEST))
    assert not watch.suspects
    diverged = [watch.diverges(2.5, 1.0) for _ in range(2 * SUSTAINED)]
    assert SUSTAINED <= diverged.index(True) <= SUSTAINED + 10
    assert watch.suspects


@pytest.mark.parametrize(("loss", "gradient"), [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan"))])
def test_what_is_not_finite_is_divergence_at_once(loss: float, gradient: float) -> None:
    assert LossWatch().diverges(loss, gradient)


def test_a_run_that_diverges_stops_at_its_last_checkpoint_and_says_so(
    labelmaps: Path, tmp_path: Path, staged: TrainingConfig[RestorationSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Trainer(staged, TrainingData(labelmaps=labelmaps), tmp_path, "cpu")
    run.run(until=2)
    kept, loss = run.state.tensors(), restoration.restoration_loss
    broken = [False, True]

    def failing(*one: Any) -> tuple[Tensor, dict[str, float]]:
        value, parts = loss(*one)
        return value * (float("nan") if broken.pop(0) else 1.0), parts

    monkeypatch.setattr(restoration, "restoration_loss", failing)
    with pytest.raises(DisyreError, match=r"diverged at step 4 .* step 2\.") as refusal:
        run.run()
    assert refusal.value.kind == "diverged"
    resumed = Trainer(replace(staged, learning_rate=1e-3), TrainingData(labelmaps=labelmaps), tmp_path, "cpu")
    assert equal(resumed.state.tensors(), kept)
    assert load_model(str(tmp_path / "tiny")).description.training["steps"] == 2
