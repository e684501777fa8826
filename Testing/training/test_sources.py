"""Every task from label maps, scans, or both."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import ONE_SENTENCE, ROOT, light_noise_training, with_settings
from support import TINY as NETWORK

from DISYRECore.corruption.shapes import make_shape_bank
from DISYRECore.corruption.synomaly_noise import NoiseSettings
from DISYRECore.errors import DisyreError
from DISYRECore.io.average_head import AVERAGE_HEAD
from DISYRECore.models.diffusion_unet import DiffusionSettings
from DISYRECore.models.store import load_model
from DISYRECore.training.config import TrainingConfig, read_config
from DISYRECore.training.data import TrainingData
from DISYRECore.training.tasks import restoration
from DISYRECore.training.tasks.anofpdm import AnoFPDMSettings
from DISYRECore.training.tasks.base import sources as source_module
from DISYRECore.training.tasks.base.batches import Batches, leave_healthy
from DISYRECore.training.tasks.base.sources import Sources, load_bank, prepare_scans, split_scans
from DISYRECore.training.tasks.denoising import DenoisingSettings
from DISYRECore.training.tasks.restoration import RestorationSettings
from DISYRECore.training.tasks.synomaly import SynomalySettings
from DISYRECore.training.trainer import Trainer

CPU, SHAPE = torch.device("cpu"), (32, 28)
NOISE_NETWORK = DiffusionSettings((8, 16), blocks=1, groups=4, head_width=8, fold=2)
SETTINGS = {
    "restoration": RestorationSettings(network=NETWORK, slice_shape=SHAPE),
    "denoising": DenoisingSettings(network=replace(NETWORK, region=False), slice_shape=SHAPE),
    "anofpdm": AnoFPDMSettings(network=NOISE_NETWORK, slice_shape=SHAPE),
    "synomaly": SynomalySettings(
        network=NOISE_NETWORK, slice_shape=SHAPE, noise=NoiseSettings(sigmas=(1.0,), threshold=150.0)
    ),
}
CONFIG: TrainingConfig[Any] = TrainingConfig(
    name="tiny",
    task="restoration",
    settings=SETTINGS["restoration"],
    images=1.0,
    contrasts=("T1",),
    spacing_mm=6.0,
    batch=4,
    steps=2,
    warmup=1,
    every=2,
)


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    light_noise_training(monkeypatch)
    monkeypatch.setattr(restoration, "make_shape_bank", lambda seed: make_shape_bank(8, seed=seed))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def data(scans: Path, cache: Path) -> TrainingData:
    return TrainingData(scans, cache=cache)


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("task", SETTINGS)
def test_each_task_learns_from_scans_and_from_a_mixture(
    data: TrainingData, labelmaps: Path, tmp_path: Path, task: str, share: float
) -> None:
    config = replace(CONFIG, task=task, settings=SETTINGS[task], images=share)
    if share < 1:
        data = replace(data, labelmaps=labelmaps)
    run = Trainer(config, data, tmp_path, device="cpu")
    run.run()
    assert load_model(str(tmp_path / "tiny")).description.training["steps"] == 2
    one, two, other = (run.task.make(4, seed) for seed in (1, 1, 2))
    same = [torch.equal(a, b) for a, b in zip(vars(one).values(), vars(two).values(), strict=True) if a is not None]
    assert all(same)
    assert not torch.equal(next(iter(vars(one).values())), next(iter(vars(other).values())))


def test_slabs_of_scans_are_neighbouring_slices_as_detection_sees_them(data: TrainingData) -> None:
    sources = Sources(CONFIG, data, CPU, context=2)
    slabs = sources.training()
    drawn = slabs.draw(40, 3)
    assert drawn.image.shape == drawn.mask.shape == (40, 5, *SHAPE)
    assert not drawn.image[~drawn.mask].any()
    volumes = [torch.from_numpy(np.array(scan.open("image"), np.float32)) for scan in slabs.scans]
    which = torch.randint(len(slabs.places), (40,), generator=torch.Generator().manual_seed(3)).tolist()
    for image, (index, z) in zip(drawn.image, [slabs.places[n] for n in which], strict=True):
        volume = volumes[index]
        for offset in range(-2, 3):
            inside = 0 <= z + offset < len(volume)
            expected = volume[z + offset].sum() if inside else torch.tensor(0.0)
            assert float(image[offset + 2].sum()) == pytest.approx(float(expected), rel=1e-5)


def test_flips_turn_scans_in_training_alone(data: TrainingData) -> None:
    plain, turned = (
        Sources(with_settings(CONFIG, flips=flips), data, CPU).training().draw(60, 1) for flips in ((), ("horizontal",))
    )
    was_turned = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(plain.image, turned.image, strict=True)])
    same = torch.tensor([torch.equal(a, b) for a, b in zip(plain.image, turned.image, strict=True)])
    assert (was_turned ^ same).all()
    assert 15 < int(was_turned.sum()) < 45
    assert torch.equal(turned.mask, torch.where(was_turned.view(-1, 1, 1, 1), plain.mask.flip(-1), plain.mask))
    assert Sources(with_settings(CONFIG, flips=("horizontal",)), data, CPU).validation().flips == ()


def test_a_mixture_holds_the_shares_that_are_stated(data: TrainingData, labelmaps: Path) -> None:
    config = replace(with_settings(CONFIG, reuse=1), images=0.3)
    mixture = Sources(config, replace(data, labelmaps=labelmaps), CPU).training()
    counts = []
    for seed in range(60):
        drawn = mixture.draw(5, seed)
        assert len(drawn.image) == len(drawn.mask) == 5
        known = mixture.images.draw(5, seed).image
        counts.append(sum(any(torch.equal(one, other) for other in known) for one in drawn.image))
    assert set(counts) == {1, 2}
    assert np.mean(counts) == pytest.approx(1.5, abs=0.2)


def test_validation_sees_held_out_patients_alone(data: TrainingData) -> None:
    parts = prepare_scans(CONFIG, data)
    sources = Sources(CONFIG, data, CPU)
    train, held = ({scan.scan for scan in slabs.scans} for slabs in (sources.training(), sources.validation()))
    assert not train & held
    assert len(train | held | {scan.scan for scan in parts["calibration"]}) == 6


def test_patterns_name_scans_where_all_samples_are_of_scans(data: TrainingData) -> None:
    config = replace(CONFIG, train=("p[0-3]*",), validation=("p4*",), exclude=("p1_*",))
    split = split_scans(config, data.images)
    assert [scan.path.name[:2] for scan in split.train] == ["p0", "p2", "p3"]
    assert [scan.path.name[:2] for scan in split.validation] == ["p4"]
    mixed = split_scans(replace(config, images=0.5), data.images)
    assert sum(len(part) for part in vars(mixed).values()) == 5


def test_the_same_scan_on_both_sides_is_refused(scans: Path, tmp_path: Path) -> None:
    for name in ("p0", "p1", "p2"):
        shutil.copy(scans / f"{name}_T1.nii.gz", tmp_path)
    shutil.copy(scans / "p0_T1.nii.gz", tmp_path / "q_T1.nii.gz")
    config = replace(CONFIG, train=("p*",), validation=("q*",))
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        prepare_scans(config, TrainingData(tmp_path, cache=tmp_path / "cache"))


def test_scans_of_other_contrasts_are_left_out_or_refused(
    data: TrainingData, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        prepare_scans(replace(CONFIG, contrasts=("FLAIR",)), data)


@pytest.mark.parametrize(
    ("share", "images", "maps"),
    [(1, False, False), (1, False, True), (1, True, True), (0.5, False, True), (0, True, True), (0, False, False)],
)
def test_folders_that_do_not_fit_the_config_are_refused_in_one_sentence(
    data: TrainingData, labelmaps: Path, share: float, images: bool, maps: bool
) -> None:
    folders = TrainingData(data.images if images else None, labelmaps if maps else None, data.cache)
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        Sources(replace(CONFIG, images=share), folders, CPU)


def test_lesion_labels_go_with_scans_alone(data: TrainingData) -> None:
    config = replace(CONFIG, task="anofpdm", settings=replace(SETTINGS["anofpdm"], labels="lesions"), images=0.5)
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        Sources(config, data, CPU)


def test_without_label_maps_the_average_head_is_aged_and_deformed(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "AVERAGE_VARIANTS", 2)
    monkeypatch.setattr(source_module, "FOLDED_HEAD", AVERAGE_HEAD)  # coarser
    config = replace(with_settings(CONFIG, reuse=1), images=0.5)
    bank = load_bank(config, data, "train", CPU)
    assert len(bank) == 3
    fluid = torch.tensor([value in (4, 24) for value in bank.label_values])
    sizes = [int(fluid[one.long()].sum()) for one in bank.classes]
    assert len(set(sizes)) == 3
    batch = Batches(Sources(config, data, CPU).training(), leave_healthy).make(6, 0)
    assert batch.mask.any()


def test_label_maps_without_patterns_are_split(labelmaps: Path) -> None:
    config = replace(CONFIG, images=0.0)
    banks = [load_bank(config, TrainingData(labelmaps=labelmaps), part, CPU) for part in ("train", "validation")]
    assert [len(bank) for bank in banks] == [2, 1]
    beside = load_bank(replace(config, images=0.5), TrainingData(labelmaps, labelmaps), "train", CPU)
    assert len(beside) == 3


def test_own_scans_is_a_config_that_fits_the_bundled_model() -> None:
    config = read_config(ROOT / "Resources" / "Configs" / "own-scans.yaml")
    bundled = load_model("brain-restoration").description
    assert (config.task, config.spacing_mm) == ("restoration", bundled.spacing_mm)
    assert config.settings.network.to_dict() == bundled.network
    assert 0 < config.images < 1
