"""Small anomalies: invariants, small lesions, the network that reads them, and how a model listens to it."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import ROOT
from torch import Generator, Tensor

from DISYRECore.apps import cli
from DISYRECore.corruption.blur import blur_volume
from DISYRECore.corruption.shapes import ShapeBank
from DISYRECore.detection.detector import Detector, smooth
from DISYRECore.errors import DisyreError
from DISYRECore.io.volume import Volume
from DISYRECore.methods.base.score import either
from DISYRECore.models import store as model_module
from DISYRECore.models.description import EXTRACTION_MODEL, SPOT_MODEL, ModelDescription, list_models
from DISYRECore.models.hessian_features import COUNT, SCALES, eigenvalues, halve, hessian_features
from DISYRECore.models.restoration_unet import NetworkSettings, RestorationNetwork
from DISYRECore.models.small_lesion_network import (
    FEATURES,
    OPINIONS,
    ROOM,
    STRIDE,
    UNSEEN,
    Cut,
    Neighbourhoods,
    Opinions,
    SmallLesionNetwork,
    SmallLesionSettings,
    brain_box,
    cut_out,
    spot_logit,
)
from DISYRECore.models.store import load_model, save_model
from DISYRECore.preprocessing.prepare import prepare
from DISYRECore.synthesis.anatomy import AnatomyBank
from DISYRECore.synthesis.small_lesions import CHANGES, add_small_lesions, draw_small_lesions
from DISYRECore.training.config import TrainingSettings, read_config
from DISYRECore.training.tasks import restoration
from DISYRECore.training.tasks import small_lesions as spots
from DISYRECore.training.tasks.small_lesions import BrainSamples, SyntheticBrains, train_small_lesions

ONE_SENTENCE = r"^[^\n]+\.$"
TINY = TrainingSettings(
    name=SPOT_MODEL,
    task="spots",
    train=("head_[01].nii.gz",),
    validation=("head_2.nii.gz",),
    contrasts=("T1", "T2"),
    spacing_mm=3.0,
    brains=3,
    batch=1024,
    steps=12,
    every=4,
    warmup=2,
    learning_rate=0.01,
    weight_bits=8,
    seed=5,
)
CURVED = slice(3, 6)
"""The curvatures among the invariants of the finer scale."""


def smooth_field(shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    return blur_volume(torch.rand(shape, generator=Generator().manual_seed(seed)), 1.5)


def ball(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> Tensor:
    axes = [torch.arange(n) - c for n, c in zip(shape, centre, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt() <= radius


def network(looks: int = 2, seed: int = 0) -> SmallLesionNetwork:
    torch.manual_seed(seed)
    made = SmallLesionNetwork(SmallLesionSettings(widths=(8, 4), looks=looks)).eval()
    for look in made.looks:
        torch.nn.init.normal_(look.last.weight)  # type: ignore[union-attr]
    return made


# Invariants


def test_eigenvalues_are_those_of_lapack() -> None:
    m = torch.randn(500, 3, 3, generator=Generator().manual_seed(0))
    m = torch.cat([m + m.mT, torch.eye(3)[None], torch.diag(torch.tensor([2.0, -1.0, -1.0]))[None]])
    found = eigenvalues(m[:, 0, 0], m[:, 1, 1], m[:, 2, 2], m[:, 0, 1], m[:, 0, 2], m[:, 1, 2])
    assert torch.allclose(torch.stack(found, 1), torch.linalg.eigvalsh(m).flip(1), atol=1e-4)


@pytest.mark.parametrize("turn", [lambda v: v.flip(0), lambda v: v.transpose(-1, -2), lambda v: v.rot90(1, (-3, -1))])
def test_invariants_do_not_care_how_the_brain_is_turned(turn: object) -> None:
    image = smooth_field((20, 20, 20))
    mask = ball((20, 20, 20), (9, 10, 11), 7)
    here = hessian_features(image, mask)
    assert here.shape == (COUNT, 20, 20, 20)
    assert callable(turn)
    there = hessian_features(turn(image), turn(mask))
    turned = torch.stack([turn(one) for one in here])
    assert torch.allclose(there, turned, atol=1e-4)


def test_a_ball_curves_in_all_directions_and_a_sheet_in_one() -> None:
    shape = (24, 24, 24)
    everywhere = torch.ones(shape, dtype=torch.bool)
    blob = 0.3 + 0.5 * ball(shape, (12, 12, 12), 2).float()
    sheet = torch.full(shape, 0.3)
    sheet[:, 11:14] = 0.8
    of_blob = hessian_features(blob, everywhere)[CURVED, 12, 12, 12]
    of_sheet = hessian_features(sheet, everywhere)[CURVED, 12, 12, 12]
    assert (of_blob < -0.1).all()
    assert of_sheet[2] < -0.1
    assert of_sheet[:2].abs().max() < 1e-4


def test_invariants_see_nothing_outside_the_brain() -> None:
    image, mask = smooth_field((16, 18, 20)), ball((16, 18, 20), (8, 9, 10), 6)
    here = hessian_features(image, mask)
    there = hessian_features(torch.where(mask, image, 5.0), mask)
    assert torch.equal(here, there)
    assert not here[:, ~mask].any()


def test_a_blur_keeps_the_sum_and_widens_by_its_sigma() -> None:
    point = torch.zeros(25, 25, 25)
    point[12, 12, 12] = 1
    blurred = blur_volume(point, SCALES[1])
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-5)
    along = blurred.sum((1, 2)) * (torch.arange(25) - 12) ** 2
    assert float(along.sum()) ** 0.5 == pytest.approx(SCALES[1], rel=0.05)


def test_a_coarser_grid_is_of_brain_voxels_alone() -> None:
    image, mask = torch.full((4, 4, 4), 9.0), torch.zeros(4, 4, 4, dtype=torch.bool)
    image[:2, :2, 0], mask[:2, :2, 0] = 0.5, True
    image[0, 2, 2], mask[0, 2, 2] = 0.5, True
    coarse, brain = halve(image, mask)
    assert coarse[0, 0, 0] == 0.5
    assert brain.tolist() == [[[True, False], [False, False]], [[False, False], [False, False]]]


# The cut and what is read of it


def test_a_brain_is_cut_out_with_room_and_found_again() -> None:
    volume, mask = torch.rand(21, 30, 26), torch.zeros(21, 30, 26, dtype=torch.bool)
    mask[3:18, 5:28, 1:24] = True
    box = brain_box(mask)
    assert box == (slice(3, 18), slice(5, 28), slice(1, 24))
    cut = cut_out(volume, box)
    assert all(n % STRIDE == 0 for n in cut.shape)
    inner = cut[ROOM : ROOM + 15, ROOM : ROOM + 23, ROOM : ROOM + 23]
    assert torch.equal(inner, volume[box])
    assert float(cut.sum()) == pytest.approx(float(volume[box].sum()), rel=1e-5)


def whole_cut(image: Tensor, mask: Tensor) -> Cut:
    box = brain_box(mask)
    return Cut(cut_out(image * mask, box), cut_out(mask, box), box)


def test_left_and_right_are_alike_and_the_mirrored_place_is_the_other_one() -> None:
    image, mask = smooth_field((20, 24, 24)), ball((20, 24, 24), (9.5, 11.5, 11.5), 9.9)
    one, other = whole_cut(image, mask), whole_cut(image.flip(2), mask)
    voxels = one.voxels
    assert torch.equal(one.mirrored(one.mirrored(voxels)), voxels)
    here, there = Neighbourhoods(one).of(voxels), Neighbourhoods(other).of(one.mirrored(voxels))
    assert here.shape == (len(voxels), FEATURES)
    turned = slice(0, 3 * COUNT)
    assert torch.allclose(here[:, turned], there[:, turned], atol=1e-4)
    assert torch.allclose(here[:, -5:], there[:, -5:], atol=1e-4)


def test_an_opinion_is_told_of_its_surroundings_and_of_the_other_side() -> None:
    mask = torch.ones(24, 24, 24, dtype=torch.bool)
    cut = whole_cut(torch.full((24, 24, 24), 0.4), mask)
    logit = torch.full(cut.mask.shape, -8.0)
    voxel = torch.tensor([[ROOM + 12, ROOM + 12, ROOM + 4]])
    logit[voxel.unbind(1)] = 6.0
    far = torch.tensor([[ROOM + 3, ROOM + 3, ROOM + 12]])
    at = Opinions(logit, cut).of(torch.cat([voxel, cut.mirrored(voxel), far]))
    assert at.shape == (3, OPINIONS)
    assert at[0, 0] == pytest.approx(14 / 3)
    assert at[1, 0] == 0
    assert at[1, -4] == pytest.approx(14 / 3)
    assert at[2, 0] == 0
    assert (at[2] <= at[0] + at[1]).all()
    assert float(at[2].sum()) < 0.1 * float(at[0].sum())


def test_a_logit_does_not_depend_on_where_the_brain_lies_in_the_volume() -> None:
    image, mask = smooth_field((20, 24, 26)), ball((20, 24, 26), (9, 11, 12), 8)
    made = network()
    here = spot_logit(made, image, mask, "T2")
    room = (3, 2, 1, 5, 0, 7)
    there = spot_logit(made, torch.nn.functional.pad(image, room), torch.nn.functional.pad(mask, room), "T2")
    assert torch.equal(there[:20, 1:25, 3:29], here)
    assert (here[~mask] == UNSEEN).all()
    assert here[mask].std() > 0
    assert not torch.equal(here, spot_logit(made, image, mask, "T1"))


def test_no_brain_has_no_spots() -> None:
    image = torch.rand(8, 8, 8)
    assert (spot_logit(network(), image, torch.zeros_like(image, dtype=torch.bool), "T1") == UNSEEN).all()


def test_a_brain_of_one_voxel_is_read() -> None:
    image, mask = torch.rand(6, 6, 6), torch.zeros(6, 6, 6, dtype=torch.bool)
    mask[2, 3, 4] = True
    logit = spot_logit(network(looks=3), image, mask, "T1")
    assert logit[2, 3, 4].isfinite()
    assert (logit[~mask] == UNSEEN).all()


def test_everything_stays_on_the_device_of_the_brain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor left on the CPU cannot be combined with one on the device without values, nor with one on a GPU."""
    monkeypatch.setattr("torch.fx.experimental._config.meta_nonzero_assume_all_nonzero", True)
    image, mask = (torch.ones((16, 16, 16), device="meta", dtype=dtype) for dtype in (torch.float32, torch.bool))
    network = SmallLesionNetwork(SmallLesionSettings()).to("meta")
    logit = network(Neighbourhoods(Cut(image, mask, (slice(ROOM, 12),) * 3)), 1)
    assert logit.device.type == "meta"
    assert logit.shape == image.shape


def test_settings_survive_json() -> None:
    settings = SmallLesionSettings(widths=(8, 4), looks=2, contrasts=("T2",))
    assert SmallLesionSettings(json.loads(json.dumps(settings.to_dict()))) == settings
    with pytest.raises(TypeError):
        SmallLesionSettings({"width": 3})


# Implants


@pytest.fixture(scope="module")
def brains(bank: AnatomyBank, shape_bank: ShapeBank) -> SyntheticBrains:
    return SyntheticBrains(replace(TINY, spacing_mm=2.0), bank, shape_bank)


def test_the_same_seed_gives_the_same_brain(brains: SyntheticBrains) -> None:
    one, two, other = (brains.make(seed) for seed in (3, 3, 4))
    assert torch.equal(one.made.image, two.made.image)
    assert torch.equal(one.made.region, two.made.region)
    assert one.made.image.shape != other.made.image.shape or not torch.equal(one.made.image, other.made.image)


def test_implants_change_the_brain_alone_where_they_say(brains: SyntheticBrains, shape_bank: ShapeBank) -> None:
    shape = (40, 44, 42)
    image, mask = 0.2 + 0.4 * smooth_field(shape), ball(shape, (20, 22, 21), 17)
    fluid = ball(shape, (20, 22, 14), 5)
    white = ball(shape, (20, 22, 26), 6)
    drawn = [one for seed in range(6) for one in draw_small_lesions(Generator().manual_seed(seed), 0.5)]
    assert {one.change for one in drawn} == set(CHANGES)
    made = add_small_lesions(shape_bank, image * mask, mask, fluid, white, drawn, 1.5)
    change = (made.image - image * mask).abs()
    assert not change[~mask].any()
    assert not made.region[~mask].any()
    assert float(change[made.region].mean()) > 3 * float(change[mask & ~made.region].mean())
    assert made.weight[made.region].max() > 1
    assert (made.weight[~made.region & mask] == 1).any()
    sparing = [replace(one, spares=True) for one in drawn]
    spared = add_small_lesions(shape_bank, image * mask, mask, fluid, white, sparing, 1.5)
    assert torch.equal(spared.image[fluid], (image * mask)[fluid])


@pytest.mark.parametrize("brighter", [0.0, 1.0])
def test_biases_and_levels_have_the_sign_asked_for(shape_bank: ShapeBank, brighter: float) -> None:
    shape = (40, 44, 42)
    image, mask = 0.3 + 0.2 * smooth_field(shape), ball(shape, (20, 22, 21), 17)
    nothing = torch.zeros(shape, dtype=torch.bool)
    drawn = [one for seed in range(4) for one in draw_small_lesions(Generator().manual_seed(seed), brighter)]
    some = [replace(one, texture=0.0) for one in drawn if one.change in ("level", "bias") and one.largest_mm < 20]
    made = add_small_lesions(shape_bank, image * mask, mask, nothing, nothing, some, 1.5)
    change = (made.image - image)[made.region]
    assert float((change > 0).float().mean()) == pytest.approx(brighter, abs=0.1)


def test_some_brains_have_no_anomalies_and_none_has_too_many() -> None:
    counts = [len(draw_small_lesions(Generator().manual_seed(seed), 0.5)) for seed in range(300)]
    assert 0.03 < np.mean([count == 0 for count in counts]) < 0.15
    assert max(counts) == 21
    assert min(count for count in counts if count) == 4


# Training


def test_healthy_voxels_stand_for_all_there_are(brains: SyntheticBrains) -> None:
    numbers, anomalous, weight, contrast = BrainSamples(brains, 1, 3, network(), 0)[0]
    brain = brains.make(3)
    healthy = int((brain.cut.mask & ~brain.made.region).sum())
    assert numbers.shape == (len(weight), FEATURES)
    assert numbers.isfinite().all()
    assert float(weight[~anomalous].sum()) == pytest.approx(healthy, rel=1e-4)
    assert (contrast == brain.contrast).all()
    more, anomalous, weight, _ = BrainSamples(brains, 1, 3, network(), 1)[0]
    assert more.shape == (len(weight), FEATURES + OPINIONS)
    assert float(weight[~anomalous].sum()) == pytest.approx(healthy, rel=0.2)


@pytest.fixture(scope="module")
def trained(labelmaps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a short run leaves."""
    out = tmp_path_factory.mktemp("spots")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spots, "VALIDATION_BRAINS", 2)
        train_small_lesions(TINY, labelmaps, out, "cpu")
    return out


def test_a_run_leaves_a_helper_that_detects_nothing_by_itself(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISYRE_MODELS", str(trained))
    assert SPOT_MODEL not in [one.id for one in list_models()]
    with pytest.raises(DisyreError, match="only helps others"):
        load_model(str(trained / SPOT_MODEL))
    log = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert {"ap_1", "ap_2", "ap_3"} <= log[-1].keys()
    assert all(np.isfinite(record.get("loss", 0)) for record in log)


def test_the_panel_does_not_offer_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "DISYRE"))
    offered = [one.id for one in importlib.import_module("DISYRELib.models").installed_models()]
    assert "brain-restoration" in offered
    assert not {SPOT_MODEL, EXTRACTION_MODEL} & set(offered)


def test_fitting_brings_the_loss_down(trained: Path) -> None:
    log = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    first = [record["loss"] for record in log if "loss" in record][:3]
    assert first[-1] < first[0]


def test_a_stopped_run_goes_on_and_ends_alike(
    trained: Path, labelmaps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spots, "VALIDATION_BRAINS", 1)
    for name in ("look-1.safetensors", "look-2.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    train_small_lesions(TINY, labelmaps, tmp_path, "cpu")
    weights = f"{SPOT_MODEL}/weights.safetensors"
    assert (tmp_path / weights).read_bytes() == (trained / weights).read_bytes()


def test_a_look_of_another_recipe_is_refused(labelmaps: Path, tmp_path: Path) -> None:
    (tmp_path / "look-1.safetensors").write_bytes(b"nothing")
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        train_small_lesions(TINY, labelmaps, tmp_path, "cpu")


def test_several_processes_are_refused(labelmaps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        train_small_lesions(TINY, labelmaps, tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()


def test_the_command_trains_it(labelmaps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spots, "VALIDATION_BRAINS", 1)
    config = tmp_path / "spots.yaml"
    fields = {"name": "own-spots", "task": "spots", "train": ["head_0.nii.gz"], "contrasts": ["T2"]}
    fields |= {"spacing_mm": 3.0, "brains": 1, "batch": 64, "steps": 2}
    config.write_text(json.dumps(fields))
    assert cli.main(["train", str(config), "--labelmaps", str(labelmaps), "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "own-spots" / "model.json").is_file()


def test_the_bundled_recipe_is_read() -> None:
    settings = read_config(ROOT / "Resources/Configs/brain-spots.yaml")
    assert (settings.task, settings.name, settings.contrasts_once) == ("spots", SPOT_MODEL, ("T1", "T2"))


# Listening to it


def test_either_is_a_probability_that_neither_can_lower() -> None:
    p, q = torch.rand(100), torch.rand(100)
    both = either(p, q)
    assert torch.allclose(both, 1 - (1 - p) * (1 - q))
    assert (both >= torch.maximum(p, q) - 1e-6).all()
    assert (both <= 1).all()
    assert torch.equal(either(p, torch.zeros(100)), p)


LISTENING = ModelDescription(
    id="listening",
    title="For tests",
    version="1",
    method="disyre-v2",
    settings={"severities": [0.5], "score": "fused"},
    network=NetworkSettings(channels=(8, 16), blocks=1, groups=4, fold=2, context=1, region=True, residual=True),
    spacing_mm=3.0,
    contrasts=("T1", "T2"),
    score_scale={"T1": 1.0, "T2": 1.0},
    thresholds={"T1": 0.5, "T2": 0.5},
    contrast_settings={"T2": {"spots": 3.0}},
)


@pytest.fixture
def models(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model that listens and the network that it listens to."""
    save_model(tmp_path / "listening", LISTENING, fresh_weights())
    save_model(tmp_path / "deaf", replace(LISTENING, id="deaf", contrast_settings={}), fresh_weights())
    (tmp_path / SPOT_MODEL).symlink_to(trained / SPOT_MODEL)
    monkeypatch.setenv("DISYRE_MODELS", str(tmp_path))
    return tmp_path


def fresh_weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return RestorationNetwork(LISTENING.network).state_dict()


@pytest.fixture
def scan() -> Volume:
    shape = (48, 56, 44)
    voxels = (100 + 200 * smooth_field(shape)) * ball(shape, (24, 28, 22), 20)
    return Volume(voxels.numpy().astype(np.float32), np.diag([3.0, 3.0, 3.0, 1.0]))


def scores(model: str, scan: Volume, contrast: str, **how: str) -> tuple[Tensor, Detector]:
    detector = Detector(model, device="cpu", **how)  # type: ignore[arg-type]
    brain = prepare(scan, detector.spacing_mm, scan.voxels > 0, contrast)
    return detector.restoration(brain)[0].score, detector


def test_small_anomalies_count_in_the_contrast_that_says_so(models: Path, scan: Volume) -> None:
    for contrast, listens in (("T1", False), ("T2", True)):
        heard, detector = scores("listening", scan, contrast)
        plain, _ = scores("deaf", scan, contrast)
        assert torch.equal(heard, plain) is not listens
        assert (heard >= plain - 1e-6).all()
    brain = prepare(scan, 3.0, scan.voxels > 0, "T2")
    x, mask = brain.tensors()
    assert detector.model is not None
    assert detector.model.spots is not None
    small = torch.sigmoid(spot_logit(detector.model.spots, x, mask, "T2") + 3.0) * mask
    assert torch.allclose(heard, either(plain, smooth(small)) * mask, atol=1e-5)
    made, _ = detector.unsmoothed(brain)
    assert torch.allclose(detector.finish(made, brain, median=False), either(made.score, small), atol=1e-5)


@pytest.mark.parametrize("how", [{"method": "disyre"}, {"score": "residual"}])
def test_other_methods_and_scores_do_not_listen(models: Path, scan: Volume, how: dict[str, str]) -> None:
    assert torch.equal(scores("listening", scan, "T2", **how)[0], scores("deaf", scan, "T2", **how)[0])


def test_the_hash_and_the_record_tell_of_it(models: Path, scan: Volume) -> None:
    listening, deaf = load_model("listening"), load_model("deaf")
    assert listening.sha256 != deaf.sha256
    assert deaf.spots is None
    record = Detector("listening", device="cpu").detect(scan, mask=scan.voxels > 0, contrast="T2").record
    assert record["spot_offset"] == 3.0


def test_a_helper_of_another_grid_is_named(models: Path) -> None:
    save_model(models / "fine", replace(LISTENING, id="fine", spacing_mm=1.0), fresh_weights())
    with pytest.raises(DisyreError, match=ONE_SENTENCE) as refusal:
        load_model("fine")
    assert SPOT_MODEL in str(refusal.value)


def test_a_missing_helper_is_named(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "model_folders", lambda: [models])
    assert load_model("listening").spots is not None
    (models / SPOT_MODEL).unlink()
    with pytest.raises(DisyreError, match=ONE_SENTENCE) as refusal:
        load_model("listening")
    assert SPOT_MODEL in str(refusal.value)
    assert load_model("deaf").spots is None


def test_new_models_listen_where_the_grid_is_that_of_the_bundled_helper(labelmaps: Path) -> None:
    settings = TrainingSettings("own", network=LISTENING.network, train=("head_0.nii.gz",))
    for spacing_mm, listens in ((1.5, True), (3.0, False)):
        task = restoration.RestorationTask(
            replace(settings, spacing_mm=spacing_mm), labelmaps, torch.device("cpu"), False
        )
        assert ("spots" in task.describe(1).contrast_settings["T1"]) is listens
