"""Training, validation and models of the diffusion methods, with tiny networks and real files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import ONE_SENTENCE, ROOT, light_noise_training, with_settings
from torch import Generator, Tensor

from DISYRECore.corruption.diffusion import ANOMALOUS, NULL
from DISYRECore.corruption.synomaly_noise import NoiseSettings
from DISYRECore.detection.detector import Detector
from DISYRECore.errors import DisyreError
from DISYRECore.methods.anofpdm import path
from DISYRECore.models.diffusion_unet import DiffusionNetwork, DiffusionSettings
from DISYRECore.models.store import load_model
from DISYRECore.synthesis.anatomy import load_anatomies
from DISYRECore.synthesis.test_set import synthesise_case
from DISYRECore.training.config import TrainingConfig, read_config
from DISYRECore.training.data import TrainingData
from DISYRECore.training.tasks import find_task
from DISYRECore.training.tasks.anofpdm import (
    GUIDANCES,
    AnoFPDMSettings,
    AnoFPDMTask,
    choose_guidance,
    cosine_threshold,
    walk_all,
)
from DISYRECore.training.tasks.base import noise as noise_task
from DISYRECore.training.tasks.base.noise import labels, predictor
from DISYRECore.training.tasks.synomaly import SynomalySettings, SynomalyTask, choose_threshold
from DISYRECore.training.trainer import Trainer

NETWORK = DiffusionSettings((8, 16), blocks=1, groups=4, head_width=8, fold=2)
NOISE = NoiseSettings(sigmas=(1.0,), threshold=150.0, directions=(-1, 1))
ANOFPDM = TrainingConfig(
    name="tiny",
    task="anofpdm",
    settings=AnoFPDMSettings(network=NETWORK, slice_shape=(32, 28)),
    train=("head_[01].nii.gz",),
    validation=("head_2.nii.gz",),
    spacing_mm=6.0,
    batch=4,
    steps=4,
    warmup=1,
    learning_rate=3e-3,
    every=2,
)
SYNOMALY = replace(
    ANOFPDM, task="synomaly", settings=SynomalySettings(network=NETWORK, slice_shape=(32, 28), noise=NOISE)
)
TASKS = {"anofpdm": AnoFPDMTask, "synomaly": SynomalyTask}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    light_noise_training(monkeypatch)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# Batches


def test_labels_say_where_an_anomaly_is_visible_and_some_are_withheld(labelmaps: Path) -> None:
    task = AnoFPDMTask(with_settings(ANOFPDM, unlabelled=0.3), TrainingData(labelmaps=labelmaps), CPU, validates=False)
    made, plain = task.make(200, 7), task.batches.make(200, 7)
    known = made.condition != NULL
    assert 0.6 < float(known.float().mean()) < 0.8
    assert torch.equal(made.condition[known], labels(plain)[known])
    sick = plain.region.flatten(1).any(1)
    assert torch.equal(labels(plain) == ANOMALOUS, sick)
    assert 0.2 < float(sick.float().mean()) < 0.9
    assert torch.equal(made.image, 2 * plain.corrupted[:, 0] - 1)


def test_synomaly_learns_from_healthy_slices_alone(labelmaps: Path) -> None:
    task = SynomalyTask(SYNOMALY, TrainingData(labelmaps=labelmaps), CPU, validates=False)
    made, plain = task.make(16, 3), task.batches.make(16, 3)
    assert not plain.region.any()
    assert torch.equal(made.image, 2 * plain.healthy - 1)
    assert made.condition is None
    spread = float(made.noise.std())
    assert 1.0 < spread < 1.3


def test_regions_inside_leave_the_background_alone(labelmaps: Path) -> None:
    noise = replace(NOISE, inside=True, offset=50.0, span=0.0)
    task = SynomalyTask(with_settings(SYNOMALY, noise=noise), TrainingData(labelmaps=labelmaps), CPU, validates=False)
    made, brain = task.make(16, 3), task.batches.make(16, 3).mask
    shifted = made.noise.abs() > 25
    assert shifted.any()
    assert not (shifted & ~brain).any()


def test_the_step_of_detection_is_chosen_among_those_of_the_config(labelmaps: Path) -> None:
    task = SynomalyTask(
        with_settings(SYNOMALY, highest_step=60, noise_steps=(50,)),
        TrainingData(labelmaps=labelmaps),
        CPU,
        validates=True,
    )
    assert task.validate(task.network())["best_step"] == 50


@pytest.mark.parametrize("settings", [ANOFPDM, SYNOMALY], ids=lambda s: s.task)
def test_the_same_seed_gives_the_same_batch(labelmaps: Path, settings: TrainingConfig) -> None:
    task = TASKS[settings.task](settings, TrainingData(labelmaps=labelmaps), CPU, validates=False)
    one, two, other = (task.make(5, seed) for seed in (1, 1, 2))
    assert all(a is b or torch.equal(a, b) for a, b in zip(vars(one).values(), vars(two).values(), strict=True))
    assert not torch.equal(one.noise, other.noise)
    assert one.step.min() >= 0
    assert one.step.max() < 1000


@pytest.mark.parametrize("settings", [ANOFPDM, SYNOMALY], ids=lambda s: s.task)
def test_steps_above_the_highest_are_never_drawn_and_the_highest_is(labelmaps: Path, settings: TrainingConfig) -> None:
    task = TASKS[settings.task](
        with_settings(settings, highest_step=610, reuse=50), TrainingData(labelmaps=labelmaps), CPU, validates=False
    )
    step = torch.cat([task.make(200, seed).step for seed in range(3)])
    assert step.min() < 15
    assert 595 < step.max() <= 610
    assert float(step.float().mean()) == pytest.approx(305, abs=30)


def test_the_highest_step_itself_is_learnt() -> None:
    generator = Generator().manual_seed(0)
    assert set(noise_task.draw_steps(300, 3, generator).tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("highest", [-1, 0, 150, 1000, 700.5, "many"])
@pytest.mark.parametrize("settings", [ANOFPDM, SYNOMALY], ids=lambda s: s.task)
def test_a_highest_step_that_leaves_out_what_detection_needs_is_refused(
    labelmaps: Path, tmp_path: Path, settings: TrainingConfig, highest: int
) -> None:
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        Trainer(
            with_settings(settings, highest_step=highest), TrainingData(labelmaps=labelmaps), tmp_path, device="cpu"
        )


# Learning


@pytest.mark.parametrize("settings", [ANOFPDM, SYNOMALY, with_settings(SYNOMALY, vlb=True)], ids=lambda s: s.task)
def test_the_loss_falls(labelmaps: Path, settings: TrainingConfig) -> None:
    task = TASKS[settings.task](settings, TrainingData(labelmaps=labelmaps), CPU, validates=False)
    torch.manual_seed(0)
    network, batch = task.network(), task.make(8, 0)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    errors = []
    for _ in range(40):
        loss, parts = task.loss(network, batch)
        errors.append(parts["error"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert 0.8 < errors[0] < 1.6
    assert errors[-1] < 0.6 * errors[0]


@pytest.mark.parametrize("settings", [ANOFPDM, SYNOMALY], ids=lambda s: s.task)
def test_the_bound_comes_on_top_of_the_squared_error(labelmaps: Path, settings: TrainingConfig) -> None:
    plain, bounded = (
        TASKS[settings.task](with_settings(settings, vlb=vlb), TrainingData(labelmaps=labelmaps), CPU, validates=False)
        for vlb in (False, True)
    )
    torch.manual_seed(0)
    network, batch = plain.network(), plain.make(8, 0)
    (error, parts), (both, reported) = (task.loss(network, batch) for task in (plain, bounded))
    assert parts == {"error": float(error.detach())}
    assert reported["error"] == parts["error"]
    assert float(both.detach()) == pytest.approx(reported["error"] + reported["vlb"])
    both.backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("settings", [ANOFPDM, SYNOMALY], ids=lambda s: s.task)
def test_a_killed_run_resumes_exactly(labelmaps: Path, tmp_path: Path, settings: TrainingConfig) -> None:
    whole = Trainer(settings, TrainingData(labelmaps=labelmaps), tmp_path / "whole", device="cpu")
    whole.run()
    killed = Trainer(settings, TrainingData(labelmaps=labelmaps), tmp_path / "killed", device="cpu")
    killed.run(until=2)
    killed.train_step()  # lost: the checkpoint is older
    resumed = Trainer(settings, TrainingData(labelmaps=labelmaps), tmp_path / "killed", device="cpu")
    assert resumed.step == 2
    resumed.run()
    assert equal(resumed.state.tensors(), whole.state.tensors())
    written = [(tmp_path / name / "tiny" / "model.json").read_text() for name in ("whole", "killed")]
    assert written[0] == written[1]


# Models


@pytest.fixture(scope="module")
def scan(labelmaps: Path):
    anatomies = load_anatomies(sorted(labelmaps.glob("*.nii.gz")))
    return synthesise_case(anatomies, 0, 3, contrast="FLAIR", kind="mass", spacing_mm=3.0)


@pytest.mark.parametrize("settings", [ANOFPDM, SYNOMALY], ids=lambda s: s.task)
def test_a_run_ends_with_a_model_that_detects(labelmaps, tmp_path, scan, settings: TrainingConfig) -> None:
    Trainer(replace(settings, steps=2), TrainingData(labelmaps=labelmaps), tmp_path, device="cpu").run()
    model = load_model(str(tmp_path / "tiny"))
    assert isinstance(model.network, DiffusionNetwork)
    assert model.description.method == settings.task
    assert model.description.detection.settings["shape"] == [32, 28]
    found = {"anofpdm": {"guidance", "cosine_threshold", "largest_divergence"}}.get(
        settings.task, {"step", "kernel", "threshold"}
    )
    assert found <= model.description.detection.settings.keys()
    record = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert record["step"] == 2
    assert all(np.isfinite(value) for value in record.values())
    detector = Detector(str(tmp_path / "tiny"), device="cpu")
    one, two = (detector.detect(scan.scan) for _ in range(2))
    assert one.score.shape == scan.scan.shape
    assert np.array_equal(one.score.voxels, two.score.voxels)
    assert one.record["method"] == settings.task
    assert not one.score.voxels[one.brain_mask.voxels == 0].any()
    json.dumps(one.record)


def test_models_are_run_by_their_own_method_only(labelmaps: Path, tmp_path: Path) -> None:
    Trainer(SYNOMALY, TrainingData(labelmaps=labelmaps), tmp_path, device="cpu").save()
    for method in ("anofpdm", "disyre-v2", "dae"):
        with pytest.raises(DisyreError, match="trained for synomaly"):
            Detector(str(tmp_path / "tiny"), method)
    for method in ("anofpdm", "synomaly"):
        with pytest.raises(DisyreError, match="trained for disyre-v2"):
            Detector("brain-restoration", method)


def test_a_method_finds_the_model_that_was_trained_for_it(labelmaps, tmp_path, monkeypatch) -> None:
    Trainer(SYNOMALY, TrainingData(labelmaps=labelmaps), tmp_path, device="cpu").save()
    monkeypatch.setenv("DISYRE_MODELS", str(tmp_path))
    assert Detector(method="synomaly").model.description.id == "tiny"
    assert Detector().model.description.id == "brain-restoration"
    for missing in ({"method": "synomaly", "modality": "liver-ct"}, {"modality": "ultrasound"}, {"modality": "knee"}):
        with pytest.raises(DisyreError, match=ONE_SENTENCE):
            Detector(**missing)


# Validation


def test_the_cosine_threshold_makes_fewest_errors() -> None:
    healthy, sick = np.linspace(0.95, 1, 200), np.linspace(0.5, 0.953, 100)
    cut, accuracy = cosine_threshold(healthy, sick)
    errors = [(sick > c).sum() + (healthy < c).sum() for c in np.quantile(healthy, np.linspace(0.005, 0.095, 100))]
    assert accuracy == pytest.approx(1 - min(errors) / 300)
    assert (sick > cut).sum() + (healthy < cut).sum() == min(errors)
    for one, other in ((healthy, sick[:0]), (healthy[:0], sick)):
        with pytest.raises(DisyreError, match=ONE_SENTENCE):
            cosine_threshold(one, other)


def test_the_strongest_guidance_is_taken_that_costs_little_accuracy() -> None:
    """Four guidances: the second is best, the third within 1 %, the fourth far below."""
    sick = torch.arange(400) < 200
    walks = [walk_of(sick, wrong) for wrong in (9, 3, 6, 60)]
    found, accuracy = choose_guidance(walks, (1.0, 2.0, 3.0, 4.0), sick)
    assert found["guidance"] == 3.0
    assert accuracy == pytest.approx(1 - (6 + 1) / 400, abs=0.005)
    assert found["largest_divergence"] == pytest.approx(0.4)


def walk_of(sick: Tensor, wrong: int):
    """Cosines about .99 in healthy slices and .5 in anomalous ones, of which `wrong` look healthy."""
    walk = walk_all(
        lambda x, *conditioning: (torch.zeros_like(x), None), torch.zeros(len(sick), 2, 2), path(2), (1.0,)
    )[0]
    cosine = torch.where(sick, 0.5, 0.99 + 0.00001 * torch.arange(len(sick))).double()
    cosine[:wrong] = 1.0
    walk.healthy, walk.free, walk.products = torch.ones_like(cosine), torch.ones_like(cosine), cosine
    walk.divergence = torch.where(sick, 0.4, 0.01)
    return walk


def test_one_walk_sees_every_guidance() -> None:
    torch.manual_seed(0)
    network = DiffusionNetwork(replace(NETWORK, labelled=True)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x = torch.rand((3, 16, 12), generator=Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        together = walk_all(predictor(network, CPU), x, path(5), GUIDANCES)
        alone = walk_all(predictor(network, CPU), x, path(5), (2.0,))[0]
    chosen = together[GUIDANCES.index(2.0)]
    assert torch.allclose(chosen.map, alone.map, atol=1e-5)
    divergences = torch.stack([walk.divergence for walk in together])
    assert (divergences.diff(dim=0) >= -1e-6).all()


def test_the_threshold_of_synomaly_is_that_of_the_best_overlap(labelmaps: Path) -> None:
    task = SynomalyTask(SYNOMALY, TrainingData(labelmaps=labelmaps), CPU, validates=True)
    batch = task.held_out.make(24, 5)
    perfect, blind = 2 * batch.healthy - 1, 2 * batch.corrupted[:, 0] - 1
    found, dice = choose_threshold({100: blind, 200: perfect}, batch)
    assert found["step"] == 200
    assert dice > 0.5
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        choose_threshold({100: perfect}, replace(batch, region=torch.zeros_like(batch.region)))


def test_validation_without_held_out_anatomies_is_silent(labelmaps: Path) -> None:
    for settings in (ANOFPDM, SYNOMALY):
        task = TASKS[settings.task](settings, TrainingData(labelmaps=labelmaps), CPU, validates=False)
        assert task.validate(task.network()) == {}


# Configs


@pytest.mark.parametrize("name", ["anofpdm", "synomaly"])
def test_bundled_configs_describe_networks_within_the_weight_budget(name: str) -> None:
    settings = read_config(ROOT / "Resources" / "Configs" / f"{name}.yaml")
    assert settings.task == name
    network = DiffusionNetwork(replace(settings.settings.network, labelled=name == "anofpdm"))
    assert 2 * sum(p.numel() for p in network.parameters()) < 4e6


def test_a_config_says_steps_bound_and_flips(tmp_path: Path) -> None:
    text = "name: a\ntask: synomaly\nsettings:\n  network: {size: synomaly}\n"
    (tmp_path / "usual.yaml").write_text(text)
    (tmp_path / "a.yaml").write_text(f"{text}  highest_step: 600\n  vlb: true\n  flips: [horizontal, vertical]\n")
    usual, own = (read_config(tmp_path / name).settings for name in ("usual.yaml", "a.yaml"))
    assert (own.highest_step, own.vlb, own.flips) == (600, True, ("horizontal", "vertical"))
    assert (usual.highest_step, usual.vlb, usual.flips) == (999, False, ())


@pytest.mark.parametrize("task", TASKS)
def test_a_config_without_a_network_is_refused_in_one_sentence(tmp_path: Path, task: str) -> None:
    (tmp_path / "a.yaml").write_text(f"name: a\ntask: {task}\nsettings: {{vlb: true}}\n")
    with pytest.raises(DisyreError, match="needs the field 'network'"):
        read_config(tmp_path / "a.yaml")
    assert find_task(task).make is TASKS[task]
