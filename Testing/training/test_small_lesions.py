"""Training of the small-lesion detector."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import ONE_SENTENCE, ROOT, small_lesion_network

from DISYRECore.apps import cli
from DISYRECore.corruption.shapes import ShapeBank
from DISYRECore.errors import DisyreError
from DISYRECore.models.description import SMALL_LESIONS, list_models, read_description
from DISYRECore.models.small_lesion_network import FEATURES, OPINIONS
from DISYRECore.synthesis.anatomy import AnatomyBank
from DISYRECore.training.config import TrainingConfig, read_config
from DISYRECore.training.data import TrainingData
from DISYRECore.training.tasks import small_lesions
from DISYRECore.training.tasks.small_lesions import (
    BrainSamples,
    SmallLesionTraining,
    SyntheticBrains,
    train_small_lesions,
)

NAME = "brain-small-lesions"
TINY = TrainingConfig(
    name=NAME,
    task="small-lesions",
    settings=SmallLesionTraining(brains=3),
    train=("head_[01].nii.gz",),
    validation=("head_2.nii.gz",),
    contrasts=("T1", "T2"),
    spacing_mm=3.0,
    batch=1024,
    steps=12,
    every=4,
    warmup=2,
    learning_rate=0.01,
    weight_bits=8,
    seed=5,
)


@pytest.fixture(scope="module")
def brains(bank: AnatomyBank, shape_bank: ShapeBank) -> SyntheticBrains:
    return SyntheticBrains(TINY, bank, shape_bank)


def test_the_same_seed_gives_the_same_brain(brains: SyntheticBrains) -> None:
    one, two, other = (brains.make(seed) for seed in (3, 3, 4))
    assert torch.equal(one.made.image, two.made.image)
    assert torch.equal(one.made.region, two.made.region)
    assert one.made.image.shape != other.made.image.shape or not torch.equal(one.made.image, other.made.image)


def test_healthy_voxels_stand_for_all_there_are(bank: AnatomyBank, shape_bank: ShapeBank) -> None:
    brains = SyntheticBrains(replace(TINY, spacing_mm=2.0), bank, shape_bank)
    network = small_lesion_network()
    numbers, anomalous, weight, contrast = BrainSamples(brains, 1, 3, network, 0)[0]
    brain = brains.make(3)
    healthy = int((brain.cut.mask & ~brain.made.region).sum())
    assert numbers.shape == (len(weight), FEATURES)
    assert numbers.isfinite().all()
    assert float(weight[~anomalous].sum()) == pytest.approx(healthy, rel=1e-4)
    assert (contrast == brain.contrast).all()
    more, anomalous, weight, _ = BrainSamples(brains, 1, 3, network, 1)[0]
    assert more.shape == (len(weight), FEATURES + OPINIONS)
    assert float(weight[~anomalous].sum()) == pytest.approx(healthy, rel=0.2)


@pytest.fixture(scope="module")
def trained(labelmaps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a short run leaves."""
    out = tmp_path_factory.mktemp("small-lesions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_lesions, "VALIDATION_BRAINS", 2)
        train_small_lesions(TINY, TrainingData(labelmaps=labelmaps), out, "cpu")
    return out


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_leaves_a_helper_that_no_user_chooses(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISYRE_MODELS", str(trained))
    assert NAME not in [one.id for one in list_models()]
    assert read_description(trained / NAME).method == SMALL_LESIONS
    assert {"ap_1", "ap_2", "ap_3"} <= log(trained)[-1].keys()
    assert all(np.isfinite(record.get("loss", 0)) for record in log(trained))


def test_fitting_brings_the_loss_down(trained: Path) -> None:
    first = [record["loss"] for record in log(trained) if "loss" in record][:3]
    assert first[-1] < first[0]


def test_a_stopped_run_resumes_and_ends_alike(
    trained: Path, labelmaps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_lesions, "VALIDATION_BRAINS", 1)
    for name in ("stage-1.safetensors", "stage-2.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    train_small_lesions(TINY, TrainingData(labelmaps=labelmaps), tmp_path, "cpu")
    weights = f"{NAME}/weights.safetensors"
    assert (tmp_path / weights).read_bytes() == (trained / weights).read_bytes()


def test_a_stage_of_another_training_config_is_refused(labelmaps: Path, tmp_path: Path) -> None:
    (tmp_path / "stage-1.safetensors").write_bytes(b"nothing")
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        train_small_lesions(TINY, TrainingData(labelmaps=labelmaps), tmp_path, "cpu")


def test_several_processes_are_refused(labelmaps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        train_small_lesions(TINY, TrainingData(labelmaps=labelmaps), tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()


def test_the_command_trains_it(labelmaps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_lesions, "VALIDATION_BRAINS", 1)
    config = tmp_path / "own.yaml"
    fields = {"name": "own", "task": "small-lesions", "train": ["head_0.nii.gz"], "contrasts": ["T2"]}
    fields |= {"spacing_mm": 3.0, "batch": 64, "steps": 2, "settings": {"brains": 1}}
    config.write_text(json.dumps(fields))
    assert cli.main(["train", str(config), "--labelmaps", str(labelmaps), "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "own" / "model.json").is_file()


def test_the_bundled_config_is_read() -> None:
    config = read_config(ROOT / "Resources/Configs/brain-small-lesions.yaml")
    assert (config.task, config.name, config.contrasts_once) == ("small-lesions", NAME, ("T1", "T2"))
