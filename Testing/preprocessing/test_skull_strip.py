"""Skull strip: synthetic heads with the right depth, a network of any size, and a way back to the scan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from DISYRECore.detection.detector import Detector
from DISYRECore.errors import DisyreError
from DISYRECore.io.grid import Grid
from DISYRECore.io.volume import Volume
from DISYRECore.models.description import list_models, read_description
from DISYRECore.models.skull_strip_unet import LIMIT_MM, SkullStripNetwork, SkullStripSettings
from DISYRECore.preprocessing.skull_strip import box_grid, brain_depth, load_skull_strip, normalise_head, roomy_grid
from DISYRECore.training.config import TrainingConfig
from DISYRECore.training.data import TrainingData
from DISYRECore.training.tasks import skull_strip as training
from DISYRECore.training.tasks.skull_strip import (
    LAYERS,
    SPEC,
    STEP_MM,
    VALIDATION_SEED,
    Heads,
    SkullStripTask,
    brain_depth_map,
    depth_loss,
    field_of_view,
    layers,
    thick,
)
from DISYRECore.training.trainer import Trainer

CONFIG = TrainingConfig(
    name="tiny-strip",
    task="skull-strip",
    settings=SPEC.settings(),
    train=("head_[01].nii.gz",),
    validation=("head_2.nii.gz",),
    contrasts=("free", "T1"),
    spacing_mm=6.0,
    batch=2,
    steps=2,
    warmup=1,
    every=2,
)


@pytest.fixture(autouse=True, scope="module")
def _few_heads() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "VALIDATION_HEADS", 2)
        yield


@pytest.fixture(scope="module")
def task(labelmaps: Path) -> SkullStripTask:
    return SkullStripTask(CONFIG, TrainingData(labelmaps=labelmaps), torch.device("cpu"), validates=True)


@pytest.fixture(scope="module")
def run(labelmaps: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A short training run."""
    trainer = Trainer(CONFIG, TrainingData(labelmaps=labelmaps), tmp_path_factory.mktemp("run"), device="cpu")
    trainer.run()
    return trainer


def test_the_depth_map_of_a_ball_is_its_depth() -> None:
    radius = ball()
    depth = brain_depth_map(np.where(radius < 20, 3, 0), 1.0) * STEP_MM
    near = abs(radius - 20) < 10
    np.testing.assert_allclose(depth[near], 20 - radius[near], atol=1.5)


def test_sulci_ventricles_and_nerves_do_not_shape_the_depth_map() -> None:
    radius = ball()
    whole = np.where(radius < 20, 3, 0)
    folded = np.where((radius < 20) & (radius > 6), 3, 0)
    folded[38:43, 40:, :][radius[38:43, 40:, :] < 19] = 0
    folded[38:42, :40, 38:42] = 3
    assert (abs(brain_depth_map(folded, 1.0) - brain_depth_map(whole, 1.0)) * STEP_MM <= 2.0).mean() > 0.99


def ball() -> np.ndarray:
    """Distance from the middle."""
    axis = np.arange(-40, 41)
    return np.sqrt(sum(a.astype(float) ** 2 for a in np.meshgrid(axis, axis, axis, indexing="ij")))


def test_heads_come_with_their_brain(task: SkullStripTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "NO_HEAD", 0.0)
    heads = task.make(4, 0)
    assert heads.image.shape == heads.depth_mm.shape == (4, 32, 37, 32)
    assert 0 <= heads.image.min() <= heads.image.max() <= 1
    assert heads.depth_mm.abs().max() <= LIMIT_MM
    share = (heads.depth_mm > 0).float().mean((1, 2, 3))
    assert ((share > 0.05) & (share < 0.7)).all()


def test_variants_add_brains_with_other_widths_of_fluid(labelmaps: Path) -> None:
    one = replace(CONFIG, train=("head_0.nii.gz",))
    plain, varied = (
        SkullStripTask(
            replace(one, variants=n), TrainingData(labelmaps=labelmaps), torch.device("cpu"), validates=False
        )
        for n in (0, 2)
    )
    assert len(varied.heads.bank) == 3 * len(plain.heads.bank)
    brains = (varied.heads.depth > 0).flatten(1).sum(1)
    assert len(brains.unique()) > len(plain.heads.bank)


def test_some_samples_hold_no_head(task: SkullStripTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "NO_HEAD", 1.0)
    heads = task.make(4, 0)
    assert (heads.depth_mm == -LIMIT_MM).all()
    assert (heads.image.flatten(1).std(1) > 0.01).all()


def test_contrasts_named_twice_are_described_once(labelmaps: Path) -> None:
    settings = replace(CONFIG, contrasts=("free", "free", "T2"), train=("head_0.nii.gz",))
    task = SkullStripTask(settings, TrainingData(labelmaps=labelmaps), torch.device("cpu"), validates=False)
    assert task.describe(1).contrasts == ("free", "T2")


def test_the_same_seed_gives_the_same_heads(task: SkullStripTask) -> None:
    one, two, other = (task.make(2, seed) for seed in (1, 1, 2))
    assert torch.equal(one.image, two.image)
    assert torch.equal(one.depth_mm, two.depth_mm)
    assert not torch.equal(one.image, other.image)


def test_the_field_of_view_is_a_box_and_sometimes_whole() -> None:
    seen = field_of_view(torch.ones(64, 10, 12, 14), Generator().manual_seed(0))
    share = seen.flatten(1).float().mean(1)
    for one in seen:
        sides = [one.any(0).any(0), one.any(0).any(1), one.any(1).any(1)]
        assert one.sum() == np.prod([int(side.sum()) for side in sides])
    assert seen.flatten(1).all(1).any()
    assert 0.1 < share.min() < 0.5


def test_whole_heads_keep_most_of_the_field_of_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "PART", 1.0)
    seen = field_of_view(torch.ones(32, 10, 12, 14), Generator().manual_seed(0))
    assert (seen.flatten(1).float().mean(1) > 0.2).all()
    assert seen.flatten(1).all(1).any()


def test_layers_are_closed_bodies_and_cylinders() -> None:
    made = layers((40, 20, 24, 22), Generator().manual_seed(0))
    assert 0 <= made.min() <= made.max() <= 1
    levels = [len(one.unique()) for one in made]
    assert 3 <= max(levels) <= LAYERS + 1
    is_cylinder = [any((one == one.narrow(a, 0, 1)).all() for a in range(3)) for one in made]
    assert 8 <= sum(is_cylinder) <= 32


def test_some_layered_bodies_are_plain() -> None:
    made = layers((60, 20, 24, 22), Generator().manual_seed(0))
    is_plain = [len(one.unique()) <= 2 for one in made]
    assert 8 <= sum(is_plain) <= 35


def test_thick_slices_keep_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand((2, 24, 24, 24), generator=Generator().manual_seed(0))
    made = [thick(image, Generator().manual_seed(seed)) for seed in range(12)]
    assert any(torch.equal(one, image) for one in made)
    assert any(one.std() < 0.9 * image.std() for one in made)
    assert all(abs(float(one.mean() - image.mean())) < 0.01 for one in made)


@pytest.mark.parametrize("shape", [(20, 33, 17), (32, 32, 32), (64, 40, 48)])
def test_the_network_takes_heads_of_any_size(shape: tuple[int, int, int]) -> None:
    network = SkullStripNetwork(SkullStripSettings((4, 8, 8, 8, 8, 4))).eval()
    assert network(torch.rand(2, *shape)).shape == (2, *shape)


def test_the_normalised_head_does_not_depend_on_units() -> None:
    head = torch.rand((2, 12, 12, 12), generator=Generator().manual_seed(0))
    assert torch.allclose(normalise_head(head), normalise_head(300 * head + 40), atol=1e-4)


def test_a_perfect_depth_costs_nothing_and_the_surface_counts_most() -> None:
    depth = torch.linspace(-10, 10, 200).view(1, 1, 1, -1)
    truth = Heads(depth, depth, torch.ones_like(depth, dtype=torch.bool))
    assert depth_loss(depth, truth) == 0
    near = torch.where(depth.abs() < 2, depth + 1, depth)
    far = torch.where(depth.abs() > 8, depth - depth.sign(), depth)
    assert depth_loss(near, truth) > 4 * depth_loss(far, truth) > 0


def test_only_what_is_wrong_costs_and_only_where_it_is_seen() -> None:
    depth = torch.full((1, 1, 1, 4), LIMIT_MM) * torch.tensor([1, 1, -1, -1])
    truth = Heads(depth, depth, torch.tensor([[[[True, True, True, False]]]]))
    deeper = torch.tensor([[[[30.0, 12.0, -40.0, 50.0]]]])
    assert depth_loss(deeper, truth) == 0
    wild = depth.clone().requires_grad_()
    depth_loss(wild * -4, truth).backward()
    assert wild.grad is not None
    assert (wild.grad.flatten()[:3] != 0).all()
    assert wild.grad.flatten()[3] == 0


def test_the_second_pass_sees_a_box_around_the_brain() -> None:
    whole = Grid((150, 160, 140), np.diag([2.0, 2.0, 2.0, 1.0]))
    box = box_grid(whole, np.array([50.0, 70.0, 90.0]))
    assert box.shape == (96, 112, 96)
    np.testing.assert_allclose(box.affine @ [48, 56, 48, 1], whole.affine @ [50, 70, 90, 1])


def test_the_model_grid_lies_around_the_scan() -> None:
    affine = np.diag([0.9, 1.1, 4.0, 1.0])
    affine[:3, 3] = [-80, -100, -60]
    scan = Volume(np.zeros((180, 200, 30), np.float32), affine)
    grid = roomy_grid(scan, 2.0)
    corners = np.array([[0, 0, 0], [179, 199, 29]]) @ affine[:3, :3] + affine[:3, 3]
    inside = (corners - grid.affine[:3, 3]) / 2.0
    assert (inside >= 0).all()
    assert (inside <= np.array(grid.shape) - 1).all()
    np.testing.assert_allclose(grid.spacing_mm, 2.0)


class Bright(SkullStripNetwork):
    """Takes what is bright for brain."""

    def forward(self, heads: Tensor) -> Tensor:
        return 10 * (heads - 0.5)


def test_depths_come_back_at_their_place() -> None:
    voxels = np.zeros((40, 50, 20), np.float32)
    voxels[10:20, 20:40, 5:15] = 100
    affine = np.array([[0, 2.0, 0, 10], [-2.0, 0, 0, 30], [0, 0, 4.0, -20], [0, 0, 0, 1]])
    depth, agreement = brain_depth(Bright(SkullStripSettings()), Volume(voxels, affine), 2.0)
    centre = np.argwhere(depth.voxels > 0).mean(0) @ depth.affine[:3, :3].T + depth.affine[:3, 3]
    expected = affine @ [14.5, 29.5, 9.5, 1]
    np.testing.assert_allclose(centre, expected[:3], atol=0.3)
    assert agreement == pytest.approx(1.0)


class Mistaken(Bright):
    """Takes a speck in a corner for brain in its first two passes."""

    passes = 0

    def forward(self, heads: Tensor) -> Tensor:
        depth = super().forward(heads)
        self.passes += 1
        if self.passes <= 2:
            depth = torch.full_like(depth, -5.0)
            depth[:, :5, :5, :5] = 5.0
        return depth


def test_a_speck_does_not_lead_the_next_pass_away() -> None:
    voxels = np.zeros((160, 160, 160), np.float32)
    voxels[65:105, 65:105, 65:105] = 100
    scan = Volume(voxels, np.diag([2.0, 2.0, 2.0, 1.0]))
    depth, _ = brain_depth(Mistaken(SkullStripSettings()), scan, 2.0)
    assert (depth.voxels > 0).sum() == pytest.approx((voxels > 0).sum(), rel=0.1)


def test_training_writes_a_model_that_loads(run: Trainer) -> None:
    loaded, spacing_mm = load_skull_strip(str(run.out / "tiny-strip"))
    assert spacing_mm == CONFIG.spacing_mm
    assert read_description(run.out / "tiny-strip").method == "skull-strip"
    heads: Heads = run.task.make(1, 5)
    network = run.averaged_network()
    with torch.no_grad():
        assert torch.allclose(loaded(heads.image), network(heads.image), atol=0.1)


def test_models_for_one_thing_are_not_taken_for_another(run: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISYRE_MODELS", str(run.out))
    with pytest.raises(DisyreError, match="only helps others"):
        Detector("tiny-strip", device="cpu")
    with pytest.raises(DisyreError, match="does not find brains"):
        load_skull_strip("brain-restoration")
    assert "tiny-strip" not in [one.id for one in list_models()]


def test_the_loss_falls(task: SkullStripTask) -> None:
    network = task.network()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    batch = task.make(2, 1)
    losses = []
    for _ in range(8):
        loss, parts = task.loss(network, batch)
        losses.append(parts["error"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.6 * losses[0]


def test_an_oracle_scores_one(task: SkullStripTask) -> None:
    assert task.held_out is not None
    truths = iter([task.held_out.make(1, VALIDATION_SEED + index).depth_mm for index in range(2)])

    class Oracle(torch.nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return next(truths)

    assert task.validate(Oracle()) == {"dice": 1.0, "worst_dice": 1.0}
