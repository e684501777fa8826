from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import ONE_SENTENCE, ROOT, with_settings
from support import TINY as NETWORK
from torch import Generator, Tensor

from DISYRECore.corruption.families.base import CorruptionSettings
from DISYRECore.corruption.forward import Corrupted, apply_corruption, draw_corruption
from DISYRECore.corruption.severity import step_of
from DISYRECore.corruption.shapes import ShapeBank, make_shape_bank
from DISYRECore.errors import DisyreError
from DISYRECore.models.restoration_unet import NetworkSettings, RestorationNetwork
from DISYRECore.models.store import load_model
from DISYRECore.synthesis.anatomy import AnatomyBank
from DISYRECore.synthesis.images import BRIGHTENED, CONTRASTS, draw_scan, fluid_mask, render_scan
from DISYRECore.training import tasks, train
from DISYRECore.training.checkpoint import CHECKPOINT
from DISYRECore.training.config import TrainingConfig, read_config
from DISYRECore.training.data import TrainingData
from DISYRECore.training.schedule import learning_rate
from DISYRECore.training.tasks import find_task, restoration, task_names
from DISYRECore.training.tasks.base.batches import Anomalies, Batch, Batches, SyntheticSlabs, hide_health
from DISYRECore.training.tasks.denoising import DenoisingSettings, add_coarse_noise
from DISYRECore.training.tasks.restoration import (
    VALIDATION_SEED,
    LossWeights,
    RestorationSettings,
    RestorationTask,
    restoration_loss,
    slice_dice_loss,
    small_region_weight,
)
from DISYRECore.training.trainer import Trainer, check_shares

TINY = TrainingConfig(
    name="tiny",
    task="restoration",
    settings=RestorationSettings(network=NETWORK, slice_shape=(32, 28)),
    train=("head_[01].nii.gz",),
    validation=("head_2.nii.gz",),
    spacing_mm=6.0,
    batch=4,
    steps=6,
    warmup=2,
    learning_rate=1e-2,
    every=3,
)
CONFIG = """
name: tiny
task: restoration
train: [head_0.nii.gz, head_1.nii.gz]
validation: [head_2.nii.gz]
spacing_mm: 6
batch: 4
steps: 4
warmup: 1
learning_rate: 0.01
every: 2
settings:
  network: {channels: [8, 16], blocks: 1, groups: 4, fold: 2, context: 1, region: true, residual: true}
  corruption: {anomalies: [0.2, 0.8], sizes: published}
  slice_shape: [32, 28]
"""


def make_batches(bank: AnatomyBank, shapes: ShapeBank, config: TrainingConfig[RestorationSettings] = TINY) -> Batches:
    anomalies = Anomalies(shapes, config.spacing_mm, config.settings.corruption)
    context, direction = config.settings.network.context, config.settings.direction
    slabs = SyntheticSlabs(bank, config, context)
    return Batches(slabs, lambda *one: hide_health(anomalies(*one), one[1]), direction)


@pytest.fixture
def batches(bank: AnatomyBank, shape_bank: ShapeBank) -> Batches:
    return make_batches(bank, shape_bank)


@pytest.fixture
def _few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoration, "make_shape_bank", lambda seed: make_shape_bank(8, seed=seed))


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def trainer(labelmaps: Path, out: Path, config: TrainingConfig[Any] = TINY) -> Trainer:
    return Trainer(config, TrainingData(labelmaps=labelmaps), out, device="cpu")


# Batches


def test_the_same_seed_gives_the_same_batch(batches: Batches) -> None:
    one, two, other = (batches.make(6, seed) for seed in (1, 1, 2))
    assert equal(vars(one), vars(two))
    assert not torch.equal(one.corrupted, other.corrupted)


@pytest.mark.parametrize(("count", "reuse"), [(6, 2), (5, 2), (4, 1), (5, 3)])
def test_batches_have_the_size_asked_for(bank: AnatomyBank, shape_bank: ShapeBank, count: int, reuse: int) -> None:
    batch = make_batches(bank, shape_bank, with_settings(TINY, reuse=reuse)).make(count, 0)
    assert batch.corrupted.shape == (count, 3, 32, 28)
    assert all(value.shape == (count, 32, 28) for value in (batch.healthy, batch.mask, batch.region))
    assert batch.step.shape == (count,)
    assert torch.equal(batch.healthy[0], batch.healthy[1]) is (reuse > 1)


def test_a_batch_differs_from_healthy_only_in_its_anomalies(batches: Batches) -> None:
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
def test_the_timestep_is_that_of_the_severity(bank: AnatomyBank, shape_bank: ShapeBank, direction: str) -> None:
    config = with_settings(TINY, direction=direction, reuse=1)
    batches, corruption = make_batches(bank, shape_bank, config), config.settings.corruption
    parameters = draw_scan(bank, 16, 3)
    scan = render_scan(bank, parameters, batches.slabs.lattice)
    brighter = torch.tensor([BRIGHTENED[CONTRASTS[i]] for i in parameters.contrast])
    anomalies = draw_corruption(shape_bank, scan.mask, 6.0, Generator().manual_seed(3), corruption, brighter)
    fluid = fluid_mask(bank, scan.classes)
    made = apply_corruption(shape_bank, scan.image, scan.mask, anomalies, 6.0, corruption, fluid)
    batch = batches.make(16, 3)
    assert torch.equal(batch.corrupted, made.image)
    anomalous = made.severity > 0
    assert torch.equal(batch.step[anomalous], step_of(made.severity, direction)[anomalous])
    assert (batch.step[~anomalous] != (0 if direction == "monotone" else 99)).any()


def test_the_severity_does_not_tell_clean_slices_from_anomalous_ones() -> None:
    severity, nothing = torch.cat([torch.zeros(400), torch.linspace(0.01, 1, 100)]), torch.zeros(500, 1, 1, 1)
    hidden = hide_health(Corrupted(nothing, nothing > 0, severity), Generator().manual_seed(0)).severity
    assert torch.equal(hidden[400:], severity[400:])
    assert hidden[:400].mean() == pytest.approx(0.5, abs=0.05)
    assert hidden[:400].min() < 0.02
    assert hidden[:400].max() > 0.98


def test_slices_without_brain_cost_nothing(batches: Batches) -> None:
    batch = batches.make(4, 0)
    nothing = replace(batch, mask=torch.zeros_like(batch.mask), region=torch.zeros_like(batch.region))
    network = RestorationNetwork(NETWORK)
    assert restoration_loss(network, nothing, LossWeights())[0] == 0


# Learning


def test_learning_rate_warms_up_and_falls_to_0() -> None:
    settings = replace(TINY, warmup=10, steps=110, learning_rate=0.5)
    rates = [learning_rate(step, settings) for step in range(111)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[10] == max(rates) == pytest.approx(0.5)
    assert rates[60] == pytest.approx(0.25)
    assert rates[110] == pytest.approx(0, abs=1e-9)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_loss_looks_at_brain_voxels_only_and_weighs_its_parts(batches: Batches) -> None:
    class Fixed(torch.nn.Module):
        def forward(self, slices: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
            return torch.where(batch.mask, batch.healthy + 0.1, 7.0), torch.where(batch.mask, 0.0, 50.0)

    batch = batches.make(4, 0)
    loss, parts = restoration_loss(Fixed(), batch, LossWeights(image=3.0, region=2.0, dice=0.5))
    assert parts["error"] == pytest.approx(0.01, rel=1e-3)
    assert parts["region"] == pytest.approx(math.log(2), rel=1e-3)
    assert float(loss) == pytest.approx(3 * 0.01 + 2 * math.log(2) + 0.5 * (1 - parts["dice"]), rel=1e-3)
    assert parts["dice"] == pytest.approx(1 - float(slice_dice_loss(0.5 * batch.mask, batch.region)), rel=1e-3)


def test_a_small_network_learns_one_batch_by_heart(bank: AnatomyBank, shape_bank: ShapeBank) -> None:
    """Mean squared error below 1e-4."""
    network = NetworkSettings(channels=(16, 32), blocks=1, groups=8, fold=2, context=1, residual=True)
    corruption = CorruptionSettings(anomalies=(0.0, 1.0))
    config = with_settings(TINY, network=network, corruption=corruption, reuse=1)
    batch = make_batches(bank, shape_bank, config).make(2, 5)
    torch.manual_seed(0)
    model = RestorationNetwork(network)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    errors = []
    for _ in range(400):
        loss, parts = restoration_loss(model, batch, config.settings.loss)
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
    assert equal(resumed.state.network.state_dict(), whole.state.network.state_dict())
    assert equal(resumed.state.average, whole.state.average)
    assert equal(resumed.state.tensors(), whole.state.tensors())
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "killed")]
    whole_log, killed_log = ([{**json.loads(line), "time": 0, "processor_s": 0} for line in lines] for lines in logs)
    assert whole_log == killed_log


@pytest.mark.usefixtures("_few_shapes")
def test_training_changes_the_network_and_keeps_a_slower_average(labelmaps: Path, tmp_path: Path) -> None:
    run = trainer(labelmaps, tmp_path, replace(TINY, ema=0.9))
    start = {key: value.clone() for key, value in run.state.network.state_dict().items()}
    for _ in range(4):
        run.train_step()
    far = sum(float((value - start[key]).square().sum()) for key, value in run.state.network.state_dict().items())
    near = sum(float((value - start[key]).square().sum()) for key, value in run.state.average.items())
    assert 0 < near < far


@pytest.mark.usefixtures("_few_shapes")
def test_a_run_ends_with_a_model_that_loads(labelmaps: Path, tmp_path: Path) -> None:
    run = trainer(labelmaps, tmp_path, replace(TINY, steps=2, licence="CC0", data="ellipsoids"))
    run.run()
    model = load_model(str(tmp_path / "tiny"))
    assert model.description.training["steps"] == 2
    assert (model.description.training["data"], model.description.training["licence"]) == ("ellipsoids", "CC0")
    assert (model.description.spacing_mm, model.description.contrasts) == (6.0, TINY.contrasts)
    for key, value in run.state.average.items():
        assert torch.allclose(model.network.state_dict()[key], value, rtol=1e-3, atol=1e-4)
    assert not list(tmp_path.rglob("*.part"))
    record = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert record["step"] == 2
    assert all(math.isfinite(value) for value in record.values())
    assert {"error", "region", "removed", "ap_residual", "ap_region"} <= record.keys()


@pytest.mark.usefixtures("_few_shapes")
def test_validation_rewards_the_perfect_network(labelmaps: Path, tmp_path: Path) -> None:
    task = RestorationTask(TINY, TrainingData(labelmaps=labelmaps), torch.device("cpu"), validates=True)
    identity = task.network()
    assert task.validate(identity, count=16)["removed"] == pytest.approx(0, abs=1e-6)

    class Oracle(torch.nn.Module):
        def forward(self, slices: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
            return batch.healthy, 20 * batch.region.float() - 10

    assert task.held_out is not None
    batch = task.held_out.make(16, seed=VALIDATION_SEED)
    scores = task.validate(Oracle(), count=16)
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
    batch = Batches(SyntheticSlabs(bank, TINY, NETWORK.context), add_coarse_noise).make(8, 0)
    noise = (batch.corrupted[:, 1] - batch.healthy)[batch.mask]
    assert 0.05 < float(noise.std()) < 0.2
    assert not batch.region.any()
    assert not batch.step.any()


@pytest.mark.usefixtures("_few_shapes")
def test_a_denoising_run_makes_a_model_of_the_method_dae(labelmaps: Path, tmp_path: Path) -> None:
    settings = DenoisingSettings(network=replace(NETWORK, region=False), slice_shape=(32, 28))
    trainer(labelmaps, tmp_path, replace(TINY, task="denoising", steps=2, settings=settings)).run()
    assert load_model(str(tmp_path / "tiny")).description.method == "dae"


@pytest.mark.usefixtures("_few_shapes")
def test_one_call_trains_any_task(labelmaps: Path, tmp_path: Path) -> None:
    train(replace(TINY, steps=2), TrainingData(labelmaps=labelmaps), tmp_path / "steps", "cpu")
    assert load_model(str(tmp_path / "steps" / "tiny")).description.method == "disyre-v2"
    lesions = replace(TINY, task="small-lesions", settings=find_task("small-lesions").settings(brains=1))
    lesions = replace(lesions, contrasts=("T1",), validation=(), steps=2, spacing_mm=3.0)
    train(lesions, TrainingData(labelmaps=labelmaps), tmp_path / "own", "cpu")
    assert (tmp_path / "own" / "tiny" / "model.json").is_file()
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        Trainer(lesions, TrainingData(labelmaps=labelmaps), tmp_path / "none", "cpu")


def test_a_new_module_is_a_new_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = "DISYRECore.training.tasks"
    lines = [f"from {package}.base import TaskSpec", f"from {package}.skull_strip import NoSettings", "DONE = []"]
    lines.append("SPEC = TaskSpec('my-task', NoSettings, run=lambda *one: DONE.append(one))")
    (tmp_path / "my_task.py").write_text("\n".join(lines))
    (tmp_path / "config.yaml").write_text("name: a\ntask: my-task")
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    config = read_config(tmp_path / "config.yaml")
    train(config, tmp_path, tmp_path, "cpu")
    assert [(config, tmp_path, tmp_path, "cpu")] == sys.modules[f"{package}.my_task"].DONE


# Two processes

SCRIPT = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from DISYRECore.training.config import read_config
from DISYRECore.corruption.shapes import make_shape_bank
from DISYRECore.training.tasks import restoration
from DISYRECore.training.data import TrainingData
from DISYRECore.training.trainer import Trainer

restoration.make_shape_bank = lambda seed: make_shape_bank(8, seed=seed)
config, labelmaps, out = map(Path, sys.argv[1:])
run = Trainer(read_config(config), TrainingData(labelmaps=labelmaps), out, "cpu")
run.task.loss(run.parallel, run.task.make(2, run.rank + 1))[0].backward()
if run.rank == 0:
    save_file({name: p.grad for name, p in run.state.network.named_parameters()}, out / "gradients.safetensors")
for steps in (2, 4):
    run = Trainer(read_config(config), TrainingData(labelmaps=labelmaps), out, "cpu")
    run.run(until=steps)
weights = torch.cat([p.detach().flatten() for p in run.state.network.parameters()])
both = [torch.empty_like(weights) for _ in range(run.world)]
dist.all_gather(both, weights)
assert run.world == 2 and torch.equal(*both), "the processes disagree"
dist.barrier()
run.close()
assert not dist.is_initialized()
"""


def whole_batch_gradients(labelmaps: Path, out: Path, settings: TrainingConfig[Any]) -> dict[str, Tensor]:
    """Of the first step, with both shares as one batch."""
    run = trainer(labelmaps, out, settings)
    shares = [vars(run.task.make(2, seed)) for seed in (1, 2)]
    both = Batch(**{name: torch.cat([share[name] for share in shares]) for name in shares[0]})
    run.task.loss(run.state.network, both)[0].backward()
    return {name: p.grad for name, p in run.state.network.named_parameters() if p.grad is not None}


def two_process_reference(
    labelmaps: Path, out: Path, settings: TrainingConfig[RestorationSettings]
) -> dict[str, Tensor]:
    """What two processes should compute, share after share in one process."""
    run = trainer(labelmaps, out, settings)
    for step in range(settings.steps):
        (optimiser,) = run.state.optimisers
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, settings)
        optimiser.zero_grad()
        shares = [run.task.make(settings.batch // 2, settings.seed + 2 * step + rank + 1) for rank in range(2)]
        for share in shares:
            (loss_of_a_share(run, share, shares) / 2).backward()
        torch.nn.utils.clip_grad_norm_(run.state.network.parameters(), settings.clip)
        optimiser.step()
    return run.state.network.state_dict()


def loss_of_a_share(run: Trainer, share: Batch, shares: list[Batch]) -> Tensor:
    """The loss of one share of a batch with the denominators of all."""
    totals: list[list[Tensor]] = []
    with pytest.MonkeyPatch.context() as patch:
        for each in shares:
            totals.append([])
            patch.setattr(restoration, "over_processes", lambda total: totals[-1].append(total) or total)
            run.task.loss(run.state.network, each)
        means = iter([torch.stack(pair).mean() for pair in zip(*totals, strict=True)])
        patch.setattr(restoration, "over_processes", lambda _total: next(means))
        return run.task.loss(run.state.network, share)[0]


def test_a_batch_that_cannot_be_shared_equally_is_refused() -> None:
    check_shares(TINY, 2)
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        check_shares(TINY, 3)
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        check_shares(replace(TINY, stages=(TINY, replace(TINY, batch=7))), 2)


@pytest.mark.slow
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
    gradients = load_file(out / "gradients.safetensors")
    for name, value in whole_batch_gradients(labelmaps, tmp_path / "one", settings).items():
        assert torch.allclose(gradients[name], value, rtol=1e-4, atol=1e-6)
    expected = two_process_reference(labelmaps, tmp_path / "reference", settings)
    for key, value in resumed.state.network.state_dict().items():
        assert torch.allclose(value, expected[key], atol=2e-3)
    assert [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()] == [2, 4]
    assert math.isfinite(resumed.train_step()["error"])
    assert load_model(str(out / "tiny")).description.id == "tiny"


# Configs


def test_a_config_says_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    settings = read_config(tmp_path / "config.yaml")
    assert settings.settings.network == NETWORK
    assert settings.settings.corruption == CorruptionSettings(anomalies=(0.2, 0.8), sizes="published")
    assert (settings.settings.slice_shape, settings.train) == ((32, 28), ("head_0.nii.gz", "head_1.nii.gz"))
    assert (settings.weight_decay, settings.settings.loss) == (TINY.weight_decay, LossWeights())


def test_numbers_may_be_written_as_people_do(tmp_path: Path) -> None:
    text = "name: a\ntask: restoration\nlearning_rate: 6e-4\nspacing_mm: 2\nsettings: {corruption: {anomalies: [0, 1]}}"
    (tmp_path / "config.yaml").write_text(text)
    config = read_config(tmp_path / "config.yaml")
    assert (config.learning_rate, config.spacing_mm) == (0.0006, 2.0)
    assert config.settings.corruption == CorruptionSettings(anomalies=(0.0, 1.0))
    assert all(isinstance(one, float) for one in config.settings.corruption.anomalies)


def test_a_size_names_a_network_and_its_fields_can_be_changed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "{name: a, task: restoration, settings: {network: {size: paper, context: 2}}}"
    )
    network = read_config(tmp_path / "config.yaml").settings.network
    assert network == replace(restoration.NETWORKS["paper"], context=2)


def test_fields_of_the_task_beside_it_are_refused_in_one_sentence_that_says_where_they_belong(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{name: a, task: restoration, network: {size: compact}}")
    with pytest.raises(DisyreError, match=ONE_SENTENCE) as refusal:
        read_config(tmp_path / "config.yaml")
    assert "'network'" in str(refusal.value)
    assert "under 'settings'" in str(refusal.value)


def test_an_unknown_field_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    for settings, names in (("{speed: 3}", RestorationSettings), ("{corruption: {speed: 3}}", CorruptionSettings)):
        (tmp_path / "config.yaml").write_text(f"{{name: a, task: restoration, settings: {settings}}}")
        with pytest.raises(DisyreError, match="'speed'") as refusal:
            read_config(tmp_path / "config.yaml")
        assert all(one.name in str(refusal.value) for one in fields(names))


@pytest.mark.parametrize("name", task_names())
def test_a_task_is_found_by_its_name_and_trains_in_one_way(name: str) -> None:
    spec = find_task(name)
    assert spec.name == name
    assert (spec.make is None) is not (spec.run is None)


@pytest.mark.parametrize("path", sorted((ROOT / "Resources" / "Configs").glob("*.yaml")), ids=lambda p: p.name)
def test_bundled_configs_are_read(path: Path) -> None:
    settings = read_config(path)
    assert settings.steps > settings.warmup
    assert isinstance(settings.learning_rate, float)
    assert find_task(settings.task).settings is type(settings.settings)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just words",
        "- name\n- steps",
        "steps: 3",
        "name: [unclosed",
        "name: a\n\tsteps: 3",
        "name: a",
        "name: a\ntask: cooking",
        "name: a\ntask: anofpdm",
        *(
            f"name: a\ntask: restoration\n{rest}"
            for rest in (
                "speed: 3",
                "name: 5",
                "batch: 3.5",
                "batch: true",
                "train: head_0.nii.gz",
                "learning_rate: fast",
                "learning_rate: .nan",
                "weight_bits: 4",
                "settings: strong",
                "settings: {slice_shape: [32]}",
                "settings: {direction: sideways}",
                "settings: {network: {size: huge}}",
                "settings: {network: {size: compact, wings: 2}}",
                "settings: {network: {blocks: 2}}",
                "settings: {network: compact}",
                "settings: {network: }",
                "settings: {corruption: {colour: red}}",
                "settings: {corruption: strong}",
                "settings: {corruption: {anomalies: []}}",
                "settings: {corruption: {anomalies: [0, -1]}}",
                "settings: {corruption: {families: {blob: 1}}}",
                "settings: {corruption: {families: [fpi]}}",
                "settings: {corruption: {families: {fpi: 0}}}",
            )
        ),
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
    other = with_settings(TINY, network=replace(NETWORK, channels=(8, 24)))
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        trainer(labelmaps, tmp_path, other)


def test_batches_are_split_without_loss(batches: Batches) -> None:
    batch = batches.make(7, 0)
    parts: list[Batch] = list(restoration._split(batch, 3))
    assert [len(part.step) for part in parts] == [3, 3, 1]
    for name, value in vars(batch).items():
        np.testing.assert_array_equal(torch.cat([getattr(part, name) for part in parts]), value)
