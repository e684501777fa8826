from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import ROOT
from torch import Generator, Tensor

from DISYRECore.corruption.families import CorruptionSettings, apply_corruption, draw_corruption
from DISYRECore.corruption.severity import step_of
from DISYRECore.corruption.shapes import ShapeBank, make_shape_bank
from DISYRECore.errors import DisyreError
from DISYRECore.models.restoration_unet import NetworkSettings, RestorationNetwork
from DISYRECore.models.store import load_model
from DISYRECore.synthesis.anatomy import AnatomyBank
from DISYRECore.synthesis.images import BRIGHTENED, CONTRASTS, draw_scan, fluid_mask, render_scan
from DISYRECore.training.config import TrainingSettings, learning_rate, read_config
from DISYRECore.training.tasks import restoration
from DISYRECore.training.tasks.restoration import (
    RARE,
    VALIDATION_SEED,
    Batch,
    RestorationTask,
    SyntheticBatches,
    hide_health,
    restoration_loss,
    sign_weights,
    slice_dice_loss,
    small_region_weight,
)
from DISYRECore.training.trainer import CHECKPOINT, Trainer

ONE_SENTENCE = r"^[^\n]+\.$"
TINY = TrainingSettings(
    name="tiny",
    train=("head_[01].nii.gz",),
    validation=("head_2.nii.gz",),
    network=NetworkSettings(channels=(8, 16), blocks=1, groups=4, fold=2, context=1, region=True, residual=True),
    spacing_mm=6.0,
    slice_shape=(32, 28),
    batch=4,
    steps=6,
    warmup=2,
    learning_rate=1e-2,
    every=3,
)
CONFIG = """
name: tiny
train: [head_0.nii.gz, head_1.nii.gz]
validation: [head_2.nii.gz]
network: {channels: [8, 16], blocks: 1, groups: 4, fold: 2, context: 1, region: true, residual: true}
corruption: {anomalies: [0.2, 0.8], sizes: published}
spacing_mm: 6
slice_shape: [32, 28]
batch: 4
steps: 4
warmup: 1
learning_rate: 0.01
every: 2
"""


@pytest.fixture
def batches(bank: AnatomyBank, shape_bank: ShapeBank) -> SyntheticBatches:
    return SyntheticBatches(TINY, bank, shape_bank)


@pytest.fixture
def _few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoration, "make_shape_bank", lambda seed: make_shape_bank(8, seed=seed))


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def trainer(labelmaps: Path, out: Path, settings: TrainingSettings = TINY) -> Trainer:
    return Trainer(settings, labelmaps, out, device="cpu")


# Batches


def test_the_same_seed_gives_the_same_batch(batches: SyntheticBatches) -> None:
    one, two, other = (batches.make(6, seed) for seed in (1, 1, 2))
    assert equal(vars(one), vars(two))
    assert not torch.equal(one.corrupted, other.corrupted)


@pytest.mark.parametrize(("count", "reuse"), [(6, 2), (5, 2), (4, 1), (5, 3)])
def test_batches_have_the_size_asked_for(batches: SyntheticBatches, count: int, reuse: int) -> None:
    batches.settings = replace(TINY, reuse=reuse)
    batch = batches.make(count, 0)
    assert batch.corrupted.shape == (count, 3, 32, 28)
    assert all(value.shape == (count, 32, 28) for value in (batch.healthy, batch.mask, batch.region))
    assert batch.step.shape == (count,)
    assert torch.equal(batch.healthy[0], batch.healthy[1]) is (reuse > 1)


def test_a_batch_differs_from_healthy_only_in_its_anomalies(batches: SyntheticBatches) -> None:
    batch = batches.make(64, 0)
    change = (batch.corrupted[:, 1] - batch.healthy).abs()
    assert not change[~batch.mask].any()
    assert not batch.region[~batch.mask].any()
    clean = ~change.flatten(1).any(1)
    assert 0.02 < clean.float().mean() < 0.4
    assert not batch.region[clean].any()
    assert change[batch.region].mean() > 5 * change[batch.mask & ~batch.region].mean()


def test_contrasts_named_twice_are_described_once(labelmaps: Path, tmp_path: Path) -> None:
    settings = replace(TINY, contrasts=("T1", "T2", "T1"))
    assert settings.contrasts_once == ("T1", "T2")
    assert trainer(labelmaps, tmp_path, settings).task.describe(1).contrasts == ("T1", "T2")


@pytest.mark.parametrize("direction", ["monotone", "published-code"])
def test_the_network_is_told_the_step_of_the_severity(batches: SyntheticBatches, direction: str) -> None:
    settings = replace(TINY, direction=direction, reuse=1)
    batches.settings = settings
    parameters = draw_scan(batches.bank, 16, 3)
    scan = render_scan(batches.bank, parameters, batches.lattice)
    brighter = torch.tensor([BRIGHTENED[CONTRASTS[i]] for i in parameters.contrast])
    random, corruption = Generator().manual_seed(3), settings.corruption
    anomalies = draw_corruption(batches.shapes, scan.mask, 6.0, random, corruption, brighter)
    fluid = fluid_mask(batches.bank, scan.classes)
    made = apply_corruption(batches.shapes, scan.image, scan.mask, anomalies, 6.0, corruption, fluid)
    batch = batches.make(16, 3)
    assert torch.equal(batch.corrupted, made.image)
    anomalous = made.severity > 0
    assert torch.equal(batch.step[anomalous], step_of(made.severity, direction)[anomalous])
    assert (batch.step[~anomalous] != (0 if direction == "monotone" else 99)).any()


def test_the_severity_does_not_tell_clean_slices_from_anomalous_ones() -> None:
    severity = torch.cat([torch.zeros(400), torch.linspace(0.01, 1, 100)])
    told = hide_health(severity, Generator().manual_seed(0))
    assert torch.equal(told[400:], severity[400:])
    assert told[:400].mean() == pytest.approx(0.5, abs=0.05)
    assert told[:400].min() < 0.02
    assert told[:400].max() > 0.98


def test_slices_without_brain_cost_nothing(batches: SyntheticBatches) -> None:
    batch = batches.make(4, 0)
    nothing = replace(batch, mask=torch.zeros_like(batch.mask), region=torch.zeros_like(batch.region))
    network = RestorationNetwork(TINY.network)
    assert restoration_loss(network, nothing, TINY)[0] == 0


# Learning


def test_learning_rate_warms_up_and_falls_to_nought() -> None:
    settings = replace(TINY, warmup=10, steps=110, learning_rate=0.5)
    rates = [learning_rate(step, settings) for step in range(111)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[10] == max(rates) == pytest.approx(0.5)
    assert rates[60] == pytest.approx(0.25)
    assert rates[110] == pytest.approx(0, abs=1e-9)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_loss_looks_at_brain_voxels_only_and_weighs_its_parts(batches: SyntheticBatches) -> None:
    class Fixed(torch.nn.Module):
        def forward(self, slices: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
            return torch.where(batch.mask, batch.healthy + 0.1, 7.0), torch.where(batch.mask, 0.0, 50.0)

    batch = batches.make(4, 0)
    settings = replace(TINY, image_weight=3.0, region_weight=2.0, dice_weight=0.5)
    loss, parts = restoration_loss(Fixed(), batch, settings)
    assert parts["error"] == pytest.approx(0.01, rel=1e-3)
    assert parts["region"] == pytest.approx(math.log(2), rel=1e-3)
    assert float(loss) == pytest.approx(3 * 0.01 + 2 * math.log(2) + 0.5 * (1 - parts["dice"]), rel=1e-3)
    assert parts["dice"] == pytest.approx(1 - float(slice_dice_loss(0.5 * batch.mask, batch.region)), rel=1e-3)


def test_a_small_network_learns_one_batch_by_heart(bank: AnatomyBank, shape_bank: ShapeBank) -> None:
    """Mean squared error below 1e-4."""
    network = NetworkSettings(channels=(16, 32), blocks=1, groups=8, fold=2, context=1, residual=True)
    corruption = CorruptionSettings(anomalies=(0.0, 1.0))
    settings = replace(TINY, network=network, corruption=corruption, reuse=1)
    batch = SyntheticBatches(settings, bank, shape_bank).make(2, 5)
    torch.manual_seed(0)
    model = RestorationNetwork(network)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    errors = []
    for _ in range(400):
        loss, parts = restoration_loss(model, batch, settings)
        errors.append(parts["error"])
        if errors[-1] < 1e-4:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert errors[0] > 1e-3
    assert errors[-1] < 1e-4


@pytest.mark.usefixtures("_few_shapes")
def test_a_killed_run_resumes_exactly(labelmaps: Path, tmp_path: Path) -> None:
    whole = trainer(labelmaps, tmp_path / "whole")
    whole.run()
    killed = trainer(labelmaps, tmp_path / "killed")
    killed.run(until=3)
    killed.train_step()  # lost: the checkpoint is older
    resumed = trainer(labelmaps, tmp_path / "killed")
    assert resumed.step == 3
    resumed.run()
    assert resumed.step == whole.step == 6
    assert equal(resumed.network.state_dict(), whole.network.state_dict())
    assert equal(resumed.average, whole.average)
    assert equal(resumed._state(), whole._state())
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "killed")]
    whole_log, killed_log = ([{**json.loads(line), "time": 0} for line in lines] for lines in logs)
    assert whole_log == killed_log


@pytest.mark.usefixtures("_few_shapes")
def test_training_changes_the_network_and_keeps_a_slower_average(labelmaps: Path, tmp_path: Path) -> None:
    run = trainer(labelmaps, tmp_path, replace(TINY, ema=0.9))
    start = {key: value.clone() for key, value in run.network.state_dict().items()}
    for _ in range(4):
        run.train_step()
    far = sum(float((value - start[key]).square().sum()) for key, value in run.network.state_dict().items())
    near = sum(float((value - start[key]).square().sum()) for key, value in run.average.items())
    assert 0 < near < far


@pytest.mark.usefixtures("_few_shapes")
def test_a_run_ends_with_a_model_that_loads(labelmaps: Path, tmp_path: Path) -> None:
    run = trainer(labelmaps, tmp_path, replace(TINY, steps=2, licence="CC0", data="ellipsoids"))
    run.run()
    model = load_model(str(tmp_path / "tiny"))
    assert model.description.training["steps"] == 2
    assert (model.description.training["data"], model.description.training["licence"]) == ("ellipsoids", "CC0")
    assert (model.description.spacing_mm, model.description.contrasts) == (6.0, TINY.contrasts)
    for key, value in run.average.items():
        assert torch.allclose(model.network.state_dict()[key], value, rtol=1e-3, atol=1e-4)
    assert not list(tmp_path.rglob("*.part"))
    record = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert record["step"] == 2
    assert all(math.isfinite(value) for value in record.values())
    assert {"error", "region", "removed", "ap_residual", "ap_region"} <= record.keys()


@pytest.mark.usefixtures("_few_shapes")
def test_validation_rewards_the_perfect_network(labelmaps: Path, tmp_path: Path) -> None:
    task = RestorationTask(TINY, labelmaps, torch.device("cpu"), validates=True)
    assert task.validate(task.network(), 16)["removed"] == pytest.approx(0, abs=1e-6)  # a fresh one is the identity

    class Oracle(torch.nn.Module):
        def forward(self, slices: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
            return batch.healthy, 20 * batch.region.float() - 10

    assert task.held_out is not None
    batch = task.held_out.make(16, seed=VALIDATION_SEED)
    scores = task.validate(Oracle(), 16)
    assert scores["removed"] == pytest.approx(1, abs=1e-6)
    assert scores["ap_region"] == pytest.approx(1)
    assert scores["ap_residual"] > 5 * float(batch.region[batch.mask].float().mean())


def test_small_regions_count_like_large_ones() -> None:
    region = torch.zeros(3, 20, 20, dtype=torch.bool)
    region[0, :2, :2] = region[1, :16, :16] = True
    perfect = slice_dice_loss(region.float(), region)
    without_small = slice_dice_loss(region.float() * torch.tensor([0.0, 1.0, 1.0]).view(3, 1, 1), region)
    without_large = slice_dice_loss(region.float() * torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1), region)
    assert perfect == 0
    assert float(without_small) == pytest.approx(float(without_large), abs=0.15)
    assert slice_dice_loss(torch.rand(3, 20, 20), torch.zeros_like(region)) == 0


def test_a_voxel_weighs_more_the_smaller_its_region() -> None:
    region = torch.zeros(1, 60, 60, dtype=torch.bool)
    region[0, 10:14, 10:14] = region[0, 30:, 30:] = True
    weight = small_region_weight(region)[0]
    assert weight[12, 12] == pytest.approx(0.25 / (16 / 441), rel=1e-4)
    assert weight[45, 45] == 1
    assert (weight[~region[0]] == 1).all()
    speck = torch.zeros(1, 60, 60, dtype=torch.bool)
    speck[0, 30, 30] = True
    assert small_region_weight(speck).max() == 12


def test_denoising_batches_hold_noise_and_no_anomalies(bank: AnatomyBank, shape_bank: ShapeBank) -> None:
    batch = SyntheticBatches(replace(TINY, task="denoising"), bank, shape_bank).make(8, 0)
    noise = (batch.corrupted[:, 1] - batch.healthy)[batch.mask]
    assert 0.05 < float(noise.std()) < 0.2
    assert not batch.region.any()
    assert not batch.step.any()


@pytest.mark.usefixtures("_few_shapes")
def test_a_denoising_run_makes_a_model_of_the_method_dae(labelmaps: Path, tmp_path: Path) -> None:
    settings = replace(TINY, task="denoising", steps=2, network=replace(TINY.network, region=False))
    trainer(labelmaps, tmp_path, settings).run()
    assert load_model(str(tmp_path / "tiny")).description.method == "dae"


# Two processes

SCRIPT = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from DISYRECore.training.config import read_config
from DISYRECore.corruption.shapes import make_shape_bank
from DISYRECore.training.tasks import restoration
from DISYRECore.training.trainer import Trainer

restoration.make_shape_bank = lambda seed: make_shape_bank(8, seed=seed)
config, labelmaps, out = map(Path, sys.argv[1:])
for steps in (2, 4):
    run = Trainer(read_config(config), labelmaps, out, "cpu")
    run.run(until=steps)
weights = torch.cat([p.detach().flatten() for p in run.network.parameters()])
both = [torch.empty_like(weights) for _ in range(run.world)]
dist.all_gather(both, weights)
assert run.world == 2 and torch.equal(*both), "the processes disagree"
dist.barrier()
run.close()
assert not dist.is_initialized()
"""


def two_process_reference(labelmaps: Path, out: Path, settings: TrainingSettings) -> dict[str, Tensor]:
    """What two processes should compute: the mean of both shares' gradients, in one process."""
    run = trainer(labelmaps, out, settings)
    for step in range(settings.steps):
        for group in run.optimiser.param_groups:
            group["lr"] = learning_rate(step, settings)
        run.optimiser.zero_grad()
        for rank in range(2):
            batch = run.task.make(settings.batch // 2, settings.seed + 2 * step + rank + 1)
            (restoration_loss(run.network, batch, settings)[0] / 2).backward()
        torch.nn.utils.clip_grad_norm_(run.network.parameters(), settings.clip)
        run.optimiser.step()
    return run.network.state_dict()


@pytest.mark.usefixtures("_few_shapes")
def test_two_processes_train_as_one_and_resume(labelmaps: Path, tmp_path: Path) -> None:
    script, config, out = tmp_path / "script.py", tmp_path / "config.yaml", tmp_path / "out"
    script.write_text(SCRIPT)
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(script), str(config), str(labelmaps), str(out)],
        env=environment, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    settings = read_config(config)
    resumed = trainer(labelmaps, out, settings)
    assert resumed.step == 4
    expected = two_process_reference(labelmaps, tmp_path / "reference", settings)
    for key, value in resumed.network.state_dict().items():
        assert torch.allclose(value, expected[key], atol=2e-3)
    assert [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()] == [2, 4]
    assert math.isfinite(resumed.train_step()["error"])
    assert load_model(str(out / "tiny")).description.id == "tiny"


# Configs


def test_a_config_says_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    settings = read_config(tmp_path / "config.yaml")
    assert settings.network == TINY.network
    assert settings.corruption == CorruptionSettings(anomalies=(0.2, 0.8), sizes="published")
    assert (settings.slice_shape, settings.train) == ((32, 28), ("head_0.nii.gz", "head_1.nii.gz"))
    assert settings.weight_decay == TrainingSettings("x").weight_decay


def test_numbers_may_be_written_as_people_do(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: a\nlearning_rate: 6e-4\nspacing_mm: 2")
    settings = read_config(tmp_path / "config.yaml")
    assert (settings.learning_rate, settings.spacing_mm) == (0.0006, 2.0)


@pytest.mark.parametrize("path", sorted((ROOT / "Resources" / "Configs").glob("*.yaml")), ids=lambda p: p.name)
def test_bundled_configs_are_read(path: Path) -> None:
    settings = read_config(path)
    assert settings.steps > settings.warmup
    assert isinstance(settings.learning_rate, float)
    assert all(size % 4 == 0 for size in settings.slice_shape)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just words",
        "- name\n- steps",
        "steps: 3",
        "name: [unclosed",
        "name: a\n\tsteps: 3",
        "name: a\nspeed: 3",
        "name: a\nnetwork: {size: huge}",
        "name: a\nnetwork: {size: compact, wings: 2}",
        "name: a\nnetwork: compact",
        "name: a\nnetwork:",
        "name: a\ncorruption: {colour: red}",
        "name: a\ncorruption: strong",
        "name: a\nlearning_rate: fast",
        b"name: \xff\xfe\x9d",
    ],
)
def test_a_config_that_cannot_be_used_is_refused_in_one_sentence(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        read_config(path)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_config_that_cannot_be_read_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        read_config(tmp_path / name)


@pytest.mark.usefixtures("_few_shapes")
def test_training_without_label_maps_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        trainer(tmp_path, tmp_path / "out")


@pytest.mark.usefixtures("_few_shapes")
def test_a_damaged_checkpoint_is_refused_in_one_sentence(labelmaps: Path, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"half a checkpoint")
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        trainer(labelmaps, tmp_path)


@pytest.mark.usefixtures("_few_shapes")
def test_a_checkpoint_of_another_network_is_refused_in_one_sentence(labelmaps: Path, tmp_path: Path) -> None:
    trainer(labelmaps, tmp_path).save()
    other = replace(TINY, network=replace(TINY.network, channels=(8, 24)))
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        trainer(labelmaps, tmp_path, other)


def test_batches_are_split_without_loss(batches: SyntheticBatches) -> None:
    batch = batches.make(7, 0)
    parts: list[Batch] = list(restoration._split(batch, 3))
    assert [len(part.step) for part in parts] == [3, 3, 1]
    for name, value in vars(batch).items():
        np.testing.assert_array_equal(torch.cat([getattr(part, name) for part in parts]), value)


def test_changes_that_pathology_rarely_makes_in_a_contrast_count_less() -> None:
    weights = sign_weights(("T1", "T2", "FLAIR", "free", "CT"))
    assert weights == {"T1": {"bright": RARE}, "T2": {"dark": RARE}, "FLAIR": {"dark": RARE}}
