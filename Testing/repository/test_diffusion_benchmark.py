"""The benchmark of the diffusion methods: its measures and baselines where the answer is known, and one real run."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import ROOT, light_noise_training
from torch import Generator, Tensor

from DISYRECore.corruption.diffusion import HEALTHY, coefficients, to_signed
from DISYRECore.corruption.synomaly_noise import NoiseSettings
from DISYRECore.evaluation.datasets import read_dataset
from DISYRECore.models.diffusion_unet import DiffusionSettings
from DISYRECore.models.store import load_model
from DISYRECore.synthesis.test_set import write_test_set
from DISYRECore.training.config import TrainingConfig
from DISYRECore.training.data import TrainingData
from DISYRECore.training.tasks.anofpdm import AnoFPDMSettings
from DISYRECore.training.tasks.synomaly import SynomalySettings
from DISYRECore.training.trainer import Trainer

SCRIPT = ROOT / "Testing" / "benchmarks" / "diffusion.py"
SPECIFICATION = importlib.util.spec_from_file_location("diffusion_benchmark", SCRIPT)
benchmark = importlib.util.module_from_spec(SPECIFICATION)
sys.modules["diffusion_benchmark"] = benchmark
SPECIFICATION.loader.exec_module(benchmark)

OF_SLICES = {
    "network": DiffusionSettings((8, 16), blocks=1, groups=4, head_width=8, fold=2),
    "slice_shape": (32, 28),
}
NOISE = NoiseSettings(sigmas=(1.0,), threshold=150.0, directions=(-1, 1))
ANOFPDM = TrainingConfig(
    name="tiny",
    task="anofpdm",
    settings=AnoFPDMSettings(**OF_SLICES, path_length=120),
    train=("head_[01].nii.gz",),
    validation=("head_2.nii.gz",),
    spacing_mm=6.0,
    batch=4,
    steps=2,
    warmup=1,
    every=2,
)
SYNOMALY = replace(ANOFPDM, task="synomaly", settings=SynomalySettings(**OF_SLICES, noise=NOISE))


def phantom(count: int = 6, seed: int = 0) -> tuple[benchmark.Slices, Tensor]:
    """Discs, every second one with a brighter blob, and the same without."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(56), indexing="ij")
    generator = Generator().manual_seed(seed)
    mask = ((y - 32) ** 2 + (x - 28) ** 2 < 24**2).expand(count, -1, -1)
    clean = (0.3 + 0.1 * torch.rand((count, 64, 56), generator=generator)) * mask
    blob = (y - 30) ** 2 + (x - 25) ** 2 < 64
    truth = blob & (torch.arange(count) % 2 == 0).view(-1, 1, 1)
    sick = clean + 0.3 * truth
    return benchmark.Slices(sick, mask, truth, sick, torch.zeros(len(sick), dtype=torch.long)), clean


class Knowing:
    """Knows slices and their healthy counterparts."""

    def __init__(self, slices: benchmark.Slices, clean: Tensor) -> None:
        self.slices, self.clean = slices, clean

    def __call__(self, x_t: Tensor, step: int, condition: int) -> tuple[Tensor, None]:
        a, s = coefficients("linear", step)
        return (x_t - a * to_signed(self.clean if condition == HEALTHY else self.slices.x)) / s, None


# Measures


def test_the_truth_itself_scores_one_and_the_empty_mask_the_share_of_healthy_slices() -> None:
    slices, _ = phantom()
    perfect = benchmark.figures(benchmark.Judged(slices.truth.float(), slices.truth, slices.truth), slices)
    assert len(perfect) == 6
    assert list(perfect.values()) == pytest.approx([1.0] * 6)
    nothing = benchmark.figures(benchmark.empty(slices)[1], slices)
    assert nothing["mixed_dice"] == nothing["mixed_iou"] == pytest.approx(0.5)
    assert nothing["unhealthy_dice"] == pytest.approx(0, abs=1e-6)
    assert nothing["mixed_ap"] == pytest.approx(float(slices.truth.sum() / slices.mask.sum()))


def test_each_setup_takes_its_own_marks_and_average_precision_the_score() -> None:
    slices, _ = phantom()
    nothing = torch.zeros_like(slices.truth)
    found = benchmark.figures(benchmark.Judged(-slices.truth.float(), nothing, slices.truth), slices)
    assert found["mixed_dice"] == pytest.approx(0.5)
    assert found["unhealthy_dice"] == pytest.approx(1)
    assert found["unhealthy_ap"] < 0.2


def test_mixed_dice_is_that_of_the_protocol() -> None:
    slices, _ = phantom()
    marked = torch.rand(slices.x.shape, generator=Generator().manual_seed(1)) < 0.3
    found = marked & slices.mask
    protocol = benchmark.figures(benchmark.Judged(slices.x, found, found), slices)["mixed_dice"]
    assert benchmark.mixed_dice(found, slices.truth) == pytest.approx(protocol, abs=1e-6)


# Baselines


def test_the_search_takes_the_settings_and_the_threshold_of_the_best_mixed_dice() -> None:
    slices, _ = phantom()
    noise = torch.rand(slices.x.shape, generator=Generator().manual_seed(0))
    candidates = [((100, 1.0), noise), ((200, 2.0), 0.5 * slices.truth + 0.3 * noise), ((300, 3.0), 1 - slices.x)]
    choice = benchmark.search(candidates, slices, [0.1, 0.4, 0.6])
    assert (choice.settings, choice.threshold) == ((200, 2.0), 0.4)
    assert choice.dice == pytest.approx(1)
    found = benchmark.marked(candidates[1][1], slices, 0.4)
    assert choice.dice == pytest.approx(benchmark.mixed_dice(found, slices.truth))


def test_a_threshold_marks_no_specks_and_nothing_outside_the_brain() -> None:
    slices, _ = phantom(2)
    score = torch.zeros_like(slices.x)
    score[0, 28:31, 24:26] = 1
    score[1, :, :28] = 1
    found = benchmark.marked(score, slices, 0.5)
    assert not found[0].any()
    assert torch.equal(found[1], (score[1] > 0) & slices.mask[1])


@pytest.mark.parametrize("name", ["one step", "DDIM"])
@pytest.mark.parametrize("level", [100, 310])
def test_baselines_restore_what_an_oracle_knows(name: str, level: int) -> None:
    slices, clean = phantom()
    x = to_signed(slices.x)
    plain, strong = benchmark.BASELINES[name](Knowing(slices, clean), x, level, (0.0, 1.0))
    assert torch.allclose(plain, to_signed(clean), atol=2e-3)
    expected = (2 * to_signed(clean) - x).clamp(-1, 1)
    if name == "one step":
        assert torch.allclose(strong, expected, atol=2e-3)
    assert (strong[slices.truth] < plain[slices.truth]).all()


@pytest.mark.parametrize("name", ["one step", "DDIM"])
def test_a_tuned_baseline_finds_the_blobs_of_an_oracle(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "LEVELS", (100, 200))
    monkeypatch.setattr(benchmark, "GUIDANCES", (0.0, 1.0))
    slices, clean = phantom()
    label, judged = benchmark.baseline(name, Knowing(slices, clean), slices, slices)
    assert label.startswith(f"{name}: t ")
    found = benchmark.figures(judged, slices)
    assert found["mixed_dice"] > 0.95
    assert found["unhealthy_ap"] > 0.95
    assert torch.equal(judged.mixed, judged.unhealthy)


def test_slices_for_the_whole_path_run_from_the_largest_lesion_to_none() -> None:
    slices, _ = phantom(9)
    slices.truth[4] = False
    slices.truth[2, :32] = False
    sizes = slices.spread(3).truth.flatten(1).sum(1)
    assert sizes[0] == slices.truth.flatten(1).sum(1).max()
    assert sizes[-1] == 0
    assert len(slices.spread(100).x) == 9


# The whole script


@pytest.fixture(scope="module")
def dataset(labelmaps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("testset")
    write_test_set(folder, [labelmaps / "head_2.nii.gz"], 2, 3, contrasts=("FLAIR",), kinds=("mass", "none"))
    return folder


@pytest.fixture(scope="module")
def models(labelmaps: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, made = tmp_path_factory.mktemp("models"), {}
    with pytest.MonkeyPatch.context() as patch:
        light_noise_training(patch)
        for config in (ANOFPDM, SYNOMALY):
            Trainer(config, TrainingData(labelmaps=labelmaps), folder / config.task, device="cpu").run()
            made[config.task] = folder / config.task / "tiny"
    return made


def test_slices_carry_the_lesion_of_their_scan(dataset: Path, models: dict[str, Path]) -> None:
    case = next(case for case in read_dataset(dataset).cases if not case.name.endswith("none"))
    model = load_model(str(models["anofpdm"]))
    slices = benchmark.read_slices(case, model, 1000)
    assert slices.x.shape[1:] == (32, 28)
    _, truth, brain = case.load()
    assert float(slices.truth.sum()) * 6**3 == pytest.approx(truth.sum(), rel=0.3)
    assert float(slices.mask.sum()) * 6**3 == pytest.approx(brain.sum(), rel=0.1)
    healthy = slices.mask & ~slices.truth
    assert slices.x[slices.truth].mean() > slices.x[healthy].mean() + slices.x[healthy].std()
    assert len(benchmark.read_slices(case, model, 3).x) == 3


def test_the_script_prints_all_tables(dataset, models, monkeypatch, capsys) -> None:
    monkeypatch.setattr(benchmark, "LEVELS", (100,))
    monkeypatch.setattr(benchmark, "GUIDANCES", (1.0,))
    arguments = ["--anofpdm", models["anofpdm"], "--synomaly", models["synomaly"], "--slices", 4]
    arguments = ["script", dataset, dataset, *arguments, "--faithful-slices", 1, "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
    benchmark.main()
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("|")]
    widths = [row.count("|") for row in rows]
    assert set(widths) == {5, 8}
    for label in ("empty mask", "z-score: its own", "one step: t 100", "DDIM: t 100", "AnoFPDM, 6 steps", "Synomaly"):
        assert sum(row.startswith(f"| {label}") for row in rows) == 1
    evaluations = {row.split("|")[1].strip(): row.split("|")[4].strip() for row in rows if row.count("|") == 8}
    assert {label: evaluations[label] for label in ("25", "50", "120, faithful")} == {
        "25": "50", "50": "100", "120, faithful": "240",
    }  # fmt: skip
    assert "nan" not in out


def test_models_of_the_wrong_method_are_refused_in_one_sentence(dataset, models, monkeypatch, capsys) -> None:
    swapped = ["--anofpdm", models["synomaly"], "--synomaly", models["anofpdm"]]
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in ("script", dataset, dataset, *swapped)])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert "is of synomaly; give one of anofpdm." in capsys.readouterr().err


def test_stages_tell_how_many_clean_slices_stop_early(models: dict[str, Path], monkeypatch) -> None:
    """A network that takes blobs away and, at every stage, adds a larger one to the first healthy slice."""
    slices, clean = phantom()

    def predict(x_t: Tensor, step: int) -> tuple[Tensor, None]:
        a, s = coefficients("cosine", step)
        kind = clean[~slices.sick] if seen["kind"] == 0 else clean[slices.sick]
        wanted = kind[: len(x_t)].clone()
        if seen["kind"] == 0:
            seen["call"] += 1
            wanted[0, 20 : 20 + 5 * seen["call"], 20:40] += 0.4
        return (x_t - a * to_signed(wanted)) / s, None

    seen = {"kind": -1, "call": 0}

    def network_of(_model: object) -> benchmark.Counted:
        seen["kind"] += 1
        return benchmark.Counted(predict)

    monkeypatch.setattr(benchmark, "network_of", network_of)
    model = load_model(str(models["synomaly"]))
    detection = replace(model.description.detection, by_contrast={})
    model = replace(model, description=replace(model.description, detection=detection))
    rows = benchmark.stages(model, slices).splitlines()[2:]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert cells[0] == ["healthy", "3", f"{(3 + 3 + 1 + 1 + 1) / 3:.2f}", "0.67"]
    assert cells[1] == ["with a lesion", "3", "2.00", "1.00"]


def test_slices_of_each_contrast_have_its_settings() -> None:
    slices, _ = phantom()
    slices = replace(slices, contrast=torch.tensor([0, 2, 0, 2, 2, 0]))
    model = load_model("brain-synomaly")
    found = {tuple(where.nonzero()[:, 0].tolist()): s for where, s in benchmark.settings_by_contrast(model, slices)}
    assert found.keys() == {(0, 2, 5), (1, 3, 4)}
    t1, flair = found[0, 2, 5], found[1, 3, 4]
    assert (t1["bright"], t1["stages"]) == (0.25, 3)
    assert flair["dark"] == 0.25
    assert "stages" not in flair
    assert t1["threshold"] == flair["threshold"]


def test_evaluations_are_counted_slice_by_slice() -> None:
    network = benchmark.Counted(lambda x, *conditioning: (x, None))
    network(torch.zeros(3, 2, 2), 1)
    network(torch.zeros(1, 2, 2), 1, 0)
    assert network.sizes == [3, 1]
