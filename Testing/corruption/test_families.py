from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Generator, Tensor

from DISYRECore.corruption import families, forward
from DISYRECore.corruption.blur import blur_within, gaussian_blur
from DISYRECore.corruption.families import family_names, find_family
from DISYRECore.corruption.families.base import CorruptionSettings
from DISYRECore.corruption.families.dag import (
    CLASSES,
    PUBLISHED_CENTROIDS,
    add_bias,
    bias_mask,
    intensity_class,
    match_range,
)
from DISYRECore.corruption.families.flat import flatten_patch
from DISYRECore.corruption.forward import (
    FULL_MM2,
    AnomalyParameters,
    Corrupted,
    apply_corruption,
    draw_corruption,
    foreign_patch,
    interpolate,
)
from DISYRECore.corruption.severity import step_of
from DISYRECore.corruption.shapes import ShapeBank, render_shapes
from DISYRECore.corruption.windows import Window, window_around
from DISYRECore.errors import DisyreError
from DISYRECore.synthesis.anatomy import AnatomyBank
from DISYRECore.synthesis.images import Lattice, Scan, draw_scan, render_scan
from DISYRECore.synthesis.intensity import expand

SPACING_MM = 3.0


def only(family: str, **changes: object) -> CorruptionSettings:
    return replace(CorruptionSettings(families={family: 1.0}, anomalies=(0.0, 1.0)), **changes)


def with_own(p: AnomalyParameters, family: str, **changes: Tensor) -> AnomalyParameters:
    return replace(p, own={**p.own, family: replace(p.own[family], **changes)})


def without_bias(p: AnomalyParameters) -> AnomalyParameters:
    return with_own(p, "dag", bias=torch.zeros_like(p.alpha)) if "dag" in p.own else p


@pytest.fixture(scope="module")
def scan(bank: AnatomyBank) -> Scan:
    """24 slabs of three slices."""
    parameters = draw_scan(bank, 24, 0, reach_mm=(-30.0, 30.0))
    return render_scan(bank, parameters, Lattice((3, 64, 56), SPACING_MM))


class Process:
    """The forward process on one set of slabs."""

    def __init__(self, scan: Scan, shapes: ShapeBank) -> None:
        self.image, self.mask, self.shapes = scan.image, scan.mask, shapes

    def draw(self, settings: CorruptionSettings, seed: int = 0) -> list[AnomalyParameters]:
        return draw_corruption(self.shapes, self.mask, SPACING_MM, Generator().manual_seed(seed), settings)

    def apply(self, anomalies: list[AnomalyParameters], settings: CorruptionSettings) -> Corrupted:
        return apply_corruption(self.shapes, self.image, self.mask, anomalies, SPACING_MM, settings)

    def masks(self, p: AnomalyParameters) -> Tensor:
        return render_shapes(self.shapes, p.shape, self.image.shape[1:], SPACING_MM) * self.mask


@pytest.fixture(scope="module")
def process(scan: Scan, shape_bank: ShapeBank) -> Process:
    return Process(scan, shape_bank)


def test_families_are_found_by_their_names() -> None:
    assert set(CorruptionSettings().families) <= set(family_names())
    assert all(find_family(name) is find_family(name) for name in family_names())
    for wrong in ({"blob": 1.0}, {"base": 1.0}, {}, {"fpi": 0.0}, {"fpi": -1.0, "dag": 2.0}):
        with pytest.raises(DisyreError):
            CorruptionSettings(families=wrong)


BLANK = """
from DISYRECore.corruption.families.base import Family, FamilyParameters

class Blank(Family):
    def draw(self, lots, settings):
        return FamilyParameters()

    def patch(self, moved, x, m, p):
        return moved * 0

FAMILY = Blank()
"""


def test_a_new_module_is_a_new_family(process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blank.py").write_text(BLANK)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    settings = only("blank")
    (p,) = process.draw(settings)
    x, weight = process.image, p.alpha.view(-1, 1, 1, 1) * process.masks(p)
    assert torch.allclose(process.apply([p], settings).image, (1 - weight) * x, atol=1e-5)


@pytest.mark.parametrize("weights", [{"flat": 1.0}, {"fpi": 0.0, "dag": 0.0, "flat": 1.0}, {"flat": 1.0, "dag": 0.0}])
def test_a_family_that_is_never_drawn_changes_nothing(process: Process, weights: dict[str, float]) -> None:
    alone, among = only("flat"), only("flat", families=weights)
    assert torch.equal(process.apply(process.draw(alone), alone).image, process.apply(process.draw(among), among).image)


@pytest.mark.parametrize("family", [*family_names(), None])
def test_nothing_changes_outside_the_brain(process: Process, family: str | None) -> None:
    settings = only(family) if family else CorruptionSettings()
    made = process.apply(process.draw(settings), settings)
    assert torch.equal(made.image[~process.mask], process.image[~process.mask])
    assert not torch.equal(made.image, process.image)
    assert not (made.region & ~process.mask).any()
    assert 0 <= made.image.min() <= made.image.max() <= 1
    assert 0 <= made.severity.min() <= made.severity.max() <= 1


@pytest.mark.parametrize("family", family_names())
def test_no_severity_and_no_bias_is_the_identity(process: Process, family: str) -> None:
    settings = only(family)
    (p,) = process.draw(settings)
    made = process.apply([replace(without_bias(p), alpha=torch.zeros_like(p.alpha))], settings)
    assert torch.equal(made.image, process.image)
    assert not made.region.any()
    assert not made.severity.any()


def test_clean_slabs_come_at_their_rate_and_have_no_severity(shape_bank: ShapeBank) -> None:
    random = Generator().manual_seed(1)
    image, mask = torch.rand(4000, 1, 8, 8, generator=random), torch.ones(4000, 1, 8, 8, dtype=torch.bool)
    settings = CorruptionSettings(anomalies=(0.15, 0.4, 0.3, 0.15))
    anomalies = draw_corruption(shape_bank, mask, 20.0, random, settings)
    made = apply_corruption(shape_bank, image, mask, anomalies, 20.0, settings)
    count = torch.stack([p.active for p in anomalies]).sum(0)
    rates = torch.bincount(count, minlength=4) / len(image)
    assert rates.tolist() == pytest.approx(settings.anomalies, abs=0.03)
    clean = count == 0
    assert torch.equal(made.image[clean], image[clean])
    assert not made.severity[clean].any()
    assert not made.region[clean].any()


def test_the_region_can_be_asked_for_in_some_slices_alone(process: Process) -> None:
    settings = CorruptionSettings()
    anomalies = process.draw(settings)
    whole = process.apply(anomalies, settings)
    middle = apply_corruption(
        process.shapes, process.image, process.mask, anomalies, SPACING_MM, settings, marked=slice(1, 2)
    )
    assert whole.region[:, 1].any()
    assert torch.equal(middle.region[:, 0], whole.region[:, 1])
    assert torch.equal(middle.image, whole.image)


def test_slices_with_little_brain_are_spared_in_proportion(shape_bank: ShapeBank) -> None:
    mask = torch.zeros(600, 1, 32, 32, dtype=torch.bool)
    mask[:200, :, :4, :5] = mask[200:400, :, :10, :20] = mask[400:] = True
    settings = CorruptionSettings(anomalies=(0.2, 0.8), by_area=True)
    (drawn,) = draw_corruption(shape_bank, mask, 4.0, Generator().manual_seed(0), settings)
    rates = drawn.active.float().view(3, 200).mean(1)
    area_mm2 = torch.tensor([20.0, 200.0, 1024.0]) * 16
    assert rates.tolist() == pytest.approx((0.8 * (area_mm2 / FULL_MM2).clamp(max=1)).tolist(), abs=0.08)


def test_the_texture_is_no_fainter_than_asked_for(shape_bank: ShapeBank) -> None:
    mask = torch.ones(200, 1, 16, 16, dtype=torch.bool)
    settings = CorruptionSettings(anomalies=(0.0, 1.0), faintest=0.3)
    (drawn,) = draw_corruption(shape_bank, mask, 4.0, Generator().manual_seed(0), settings)
    assert 0.3 <= drawn.alpha.min() < 0.35
    assert 0.95 < drawn.alpha.max() <= 1


def test_slabs_without_brain_stay_clean(shape_bank: ShapeBank) -> None:
    image, mask = torch.rand(6, 1, 16, 16), torch.zeros(6, 1, 16, 16, dtype=torch.bool)
    settings = only("dag")
    anomalies = draw_corruption(shape_bank, mask, 5.0, Generator().manual_seed(0), settings)
    made = apply_corruption(shape_bank, image, mask, anomalies, 5.0, settings)
    assert torch.equal(made.image, image)
    assert not made.severity.any()


def test_fpi_is_its_equation(process: Process) -> None:
    """x_c = (1 - alpha m) x + alpha m fp, with the patch moved by SciPy and mixed by hand."""
    settings = only("fpi")
    (p,) = process.draw(settings)
    x, m, alpha = process.image, process.masks(p), p.alpha.view(-1, 1, 1, 1)
    patch = torch.from_numpy(np.stack([moved(x[p.source[i]].numpy(), p.motion[i].numpy()) for i in range(len(x))]))
    expected = (1 - alpha * m) * x + alpha * m * patch
    assert torch.allclose(process.apply([p], settings).image, expected, atol=2e-4)


def moved(slab: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """A slab seen through an affine map of the plane, whose sides are at -1 and 1; mirrored beyond them."""
    size = np.array(slab.shape[:0:-1])
    x, y = ((np.arange(n) + 0.5) / n * 2 - 1 for n in size)
    target = np.stack(np.broadcast_arrays(x[None, :], y[:, None], 1.0))
    source = np.einsum("ij,jyx->iyx", motion, target)
    column, row = ((s + 1) / 2 * n - 0.5 for s, n in zip(source, size, strict=True))
    return np.stack([ndimage.map_coordinates(z, [row, column], order=1, mode="reflect") for z in slab])


def test_dag_texture_stays_within_the_range_under_the_mask(process: Process) -> None:
    settings = only("dag")
    (p,) = process.draw(settings)
    p = replace(without_bias(p), alpha=torch.ones_like(p.alpha))
    made, m = process.apply([p], settings), process.masks(p)
    for before, after, mask in zip(process.image, made.image, m, strict=True):
        under, inside = before[mask > 0], after[mask == 1]
        assert inside.numel() == 0 or under.min() - 1e-3 <= inside.min() <= inside.max() <= under.max() + 1e-3
    assert (made.image != process.image).flatten(1).any(1).all()


def test_dag_texture_uses_the_whole_range_under_the_mask_and_nothing_beyond() -> None:
    target = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    m = torch.zeros(1, 1, 8, 8)
    m[..., 2:5, :] = 1.0
    patch = torch.rand(1, 1, 8, 8, generator=Generator().manual_seed(0))
    matched = match_range(patch, target, m)[m > 0]
    low, high = target[m > 0].aminmax()
    assert (float(matched.min()), float(matched.max())) == pytest.approx((float(low), float(high)), abs=2e-3)


def test_flat_patch_has_the_level_and_share_of_texture_asked_for() -> None:
    random = Generator().manual_seed(0)
    patch, m = 0.3 + 0.2 * torch.rand(2, 1, 16, 16, generator=random), torch.rand(2, 1, 16, 16, generator=random)
    flat = flatten_patch(patch, m, torch.tensor([0.5, 0.6]), torch.tensor([0.0, 0.5]))
    assert torch.allclose(flat[0], torch.full_like(flat[0], 0.5))
    assert float((flat[1] * m[1]).sum() / m[1].sum()) == pytest.approx(0.6, abs=1e-5)
    assert float(flat[1].std()) == pytest.approx(0.5 * float(patch[1].std()), rel=1e-4)


def test_flat_anomaly_is_a_step_away_from_what_it_covers(process: Process) -> None:
    settings = only("flat")
    (p,) = process.draw(settings)
    plain = with_own(replace(p, alpha=torch.ones_like(p.alpha)), "flat", contrast=torch.zeros_like(p.alpha))
    made, m = process.apply([plain], settings), process.masks(p)
    mean = (process.image * m).flatten(1).sum(1) / m.flatten(1).sum(1)
    for after, mask, expected in zip(made.image, m, (mean + p.own["flat"].step).clamp(0, 1), strict=True):
        inside = after[mask == 1]
        assert torch.allclose(inside, expected.expand_as(inside), atol=1e-5)


def striped(low: float, high: float) -> Tensor:
    """A dark left half and a bright right half."""
    return torch.cat([torch.full((1, 1, 24, 20), low), torch.full((1, 1, 24, 20), high)], -1)


@pytest.mark.parametrize("centroids", [None, PUBLISHED_CENTROIDS])
@pytest.mark.parametrize("target", ["dark", "bright"])
def test_bias_of_one_class_leaves_the_other_alone(target: str, centroids: tuple[float, ...] | None) -> None:
    x, m = striped(0.35, 0.95), torch.ones(1, 1, 24, 40)
    bright = bool(target == "bright")
    chosen = int(intensity_class(x, centroids)[0, 0, 0, -1 if bright else 0])
    selected = torch.ones(1, CLASSES)
    selected[0, chosen] = 0.0
    biased = add_bias(x, bias_mask(x, m, selected, centroids), torch.tensor([-0.3]))
    change = (biased - x)[0, 0] if bright else (biased - x)[0, 0].flip(-1)
    assert torch.allclose(change[:, 23:], torch.tensor(-0.3), atol=1e-6)
    assert not change[:, :17].any()


@pytest.mark.parametrize("centroids", [None, PUBLISHED_CENTROIDS])
def test_bias_reaches_every_class_when_none_is_selected(centroids: tuple[float, ...] | None) -> None:
    x, m = striped(0.1, 0.9), torch.rand(1, 1, 24, 40, generator=Generator().manual_seed(0))
    assert torch.allclose(bias_mask(x, m, torch.ones(1, CLASSES), centroids), m)


def test_classes_are_selected_by_their_share_under_the_mask() -> None:
    """v_k / (sum v + 1000): 240 of the 480 voxels under m are dark, whatever lies beside m."""
    x, m = striped(0.1, 0.9), torch.zeros(1, 1, 24, 40)
    m[..., 14:26] = 1.0
    m[..., :6, :] = 0.0
    share = 108 / (216 + 1000)
    dark, bright = (int(intensity_class(x, None)[0, 0, 0, column]) for column in (0, -1))
    for margin, reached in ((-1e-3, True), (1e-3, False)):
        selected = torch.ones(1, CLASSES)
        selected[0, dark], selected[0, bright] = share + margin, 0.0
        assert bool(bias_mask(x, m, selected, None)[..., 10:16].any()) is reached


def test_published_classes_are_those_of_the_nearest_centroid() -> None:
    x = torch.rand(1, 1, 40, 40, generator=Generator().manual_seed(0))
    nearest = (x[..., None] - torch.tensor(PUBLISHED_CENTROIDS)).abs().argmin(-1)
    assert torch.equal(intensity_class(x, PUBLISHED_CENTROIDS), nearest)


def test_the_same_parameters_give_the_same_images(process: Process) -> None:
    settings, before = CorruptionSettings(), process.image.clone()
    anomalies = process.draw(settings, seed=7)
    one, two = process.apply(anomalies, settings), process.apply(process.draw(settings, seed=7), settings)
    assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(two).values(), strict=True))
    assert torch.equal(process.image, before)


def test_what_is_drawn_does_not_depend_on_what_is_applied(process: Process) -> None:
    settings, lonely, busy = CorruptionSettings(), Generator().manual_seed(3), Generator().manual_seed(3)
    torch.manual_seed(0)
    for _ in range(2):
        expected = draw_corruption(process.shapes, process.mask, SPACING_MM, lonely, settings)
        drawn = draw_corruption(process.shapes, process.mask, SPACING_MM, busy, settings)
        assert all(torch.equal(a.alpha, b.alpha) for a, b in zip(expected, drawn, strict=True))
        assert all(torch.equal(a.shape.radii, b.shape.radii) for a, b in zip(expected, drawn, strict=True))
        process.apply(drawn, settings)
    assert torch.equal(torch.get_rng_state(), torch.manual_seed(0).get_state())


def test_slabs_do_not_influence_each_other_but_through_the_patch(process: Process) -> None:
    settings = only("flat")
    (p,) = process.draw(settings)
    together = process.apply([replace(p, source=torch.arange(len(p.alpha)))], settings)
    part = slice(3, 7)
    who = torch.arange(part.start, part.stop)
    alone = replace(p.subset(who), source=torch.arange(len(who)))
    made = apply_corruption(process.shapes, process.image[part], process.mask[part], [alone], SPACING_MM, settings)
    assert torch.allclose(made.image, together.image[part], atol=1e-6)
    assert torch.equal(made.severity, together.severity[part])


def test_region_is_where_the_change_can_be_seen(process: Process) -> None:
    settings = CorruptionSettings()
    made = process.apply(process.draw(settings), settings)
    change = (made.image - process.image).abs().numpy()
    smooth = ndimage.gaussian_filter(change, (0, 0, 1.5, 1.5), mode="nearest", truncate=2.0)
    certain = np.abs(smooth - settings.visible) > 1e-4
    expected = (smooth > settings.visible) & process.mask.numpy()
    assert np.array_equal(made.region.numpy()[certain], expected[certain])
    assert 0.005 < made.region[process.mask].float().mean() < 0.5


def test_severity_is_that_of_texture_or_bias_whichever_is_larger(process: Process) -> None:
    settings = only("dag")
    (p,) = process.draw(settings)
    textured = process.apply([without_bias(p)], settings)
    both = process.apply([p], settings)
    realised = (both.image - textured.image).abs().flatten(1).amax(1)
    assert torch.allclose(textured.severity, p.alpha)
    assert torch.allclose(both.severity, torch.maximum(p.alpha, realised), atol=1e-6)
    assert (realised > p.alpha).any()


def whole(image: Tensor) -> Window:
    """A window that is all of the slabs."""
    size = (image.shape[2], image.shape[3])
    return Window(torch.zeros(len(image), 2, dtype=torch.long), size, size)


@pytest.mark.parametrize("family", family_names())
def test_a_window_holds_all_that_an_anomaly_changes(
    process: Process, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small anomalies are made in windows of the slabs; the outcome is as if they were made in the whole slabs."""
    settings = only(family, largest_mm=(14.0,))
    (p,) = process.draw(settings)
    window = window_around(p.shape, process.image.shape[2:], SPACING_MM)
    assert window.size[0] < process.image.shape[2]
    made = process.apply([p], settings)
    monkeypatch.setattr(forward, "window_around", lambda shape, *_: whole(process.image[: len(shape.centre)]))
    same = process.apply([p], settings)
    assert (made.image != process.image).any()
    assert torch.allclose(made.image, same.image, atol=1e-5)
    assert torch.allclose(made.severity, same.severity, atol=1e-5)


def test_patch_comes_from_the_slab_that_was_drawn(process: Process) -> None:
    (p,) = process.draw(only("fpi"))
    still = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(len(p.alpha), 2, 3)
    p = replace(p, motion=still)
    patch = foreign_patch(process.image, process.image, process.masks(p), p, whole(process.image))
    assert torch.allclose(patch, process.image[p.source], atol=1e-4)
    assert len(set(p.source.tolist())) == len(p.source)


def test_interpolation_ends_at_image_and_patch() -> None:
    x, patch, m = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    mixed = interpolate(x, patch, m, torch.tensor([0.0, 1.0]))
    assert torch.equal(mixed[0], x[0])
    assert torch.equal(mixed[1], patch[1])


def test_anomalies_are_centred_on_the_brain(process: Process) -> None:
    (p,) = process.draw(only("dag"))
    size = torch.tensor(process.mask.shape[2:])
    row, column = (p.shape.centre[:, 1:] / SPACING_MM + (size - 1) / 2).round().long().T
    assert process.mask[torch.arange(len(row)), 1, row, column].all()
    assert not p.shape.centre[:, 0].any()


@pytest.mark.parametrize("centroids", [None, PUBLISHED_CENTROIDS])
def test_dag_changes_images_as_much_as_the_published_generator(
    bank: AnatomyBank, shape_bank: ShapeBank, centroids: tuple[float, ...] | None
) -> None:
    """Percentiles 5/25/50/75/95 of the largest change, of the share of pixels that change, and of the step.

    Intensities are brought to the published scale, which saturates 9 % of the brain. The reference numbers are of
    another toy brain: agreement is asked to .15 in the change, to 50 % or .01 in the share, and to 5 steps of 100.
    """
    parameters = draw_scan(bank, 90, 0, contrasts=("T1",), reach_mm=(-40.0, 40.0))
    scan = render_scan(bank, parameters, Lattice((1, 128, 128), 1.0))
    linear = expand(scan.image)
    white = torch.stack([one[inside].quantile(0.91) for one, inside in zip(linear, scan.mask, strict=True)])
    published = (linear / white.view(-1, 1, 1, 1)).clamp(0, 1)
    image, mask = (values.repeat_interleave(8, 0) for values in (published, scan.mask))
    settings = only("dag", sizes="published", bias_power=1.0, centroids=centroids)
    anomalies = draw_corruption(shape_bank, mask, 1.0, Generator().manual_seed(0), settings)
    made = apply_corruption(shape_bank, image, mask, anomalies, 1.0, settings)
    change = (made.image - image).abs().flatten(1)
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    largest = torch.quantile(change.amax(1), levels)
    share = torch.quantile((change > 0.01).float().mean(1), levels)
    step = torch.quantile(step_of(made.severity, "published-code").float(), levels)
    assert largest.tolist() == pytest.approx([0.15, 0.39, 0.62, 0.83, 0.86], abs=0.15)
    assert share.tolist() == pytest.approx([0.010, 0.033, 0.058, 0.091, 0.191], rel=0.5, abs=0.01)
    assert step.tolist() == pytest.approx([10, 19, 27, 35, 55], abs=5)
    assert (change.amax(1) > 0).float().mean() > 0.99


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.3])
def test_gaussian_blur_is_scipy_s(sigma: float) -> None:
    image = torch.rand(2, 3, 20, 17, generator=Generator().manual_seed(0))
    expected = ndimage.gaussian_filter(image.numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=2.0)
    np.testing.assert_allclose(gaussian_blur(image, sigma).numpy(), expected, atol=1e-6)


def test_gaussian_blur_takes_one_width_per_slab() -> None:
    image = torch.rand(2, 1, 20, 20, generator=Generator().manual_seed(0))
    both = gaussian_blur(image, torch.tensor([0.0, 1.5]), radius=3)
    assert torch.allclose(both[0], image[0], atol=1e-6)
    assert torch.allclose(both[1:], gaussian_blur(image[1:], 1.5), atol=1e-6)


def test_flat_anomalies_spare_the_fluid_only_where_they_should(process: Process) -> None:
    settings = only("flat")
    anomalies = process.draw(settings)
    fluid = torch.zeros_like(process.mask)
    fluid[..., : fluid.shape[-1] // 2] = True
    made = apply_corruption(process.shapes, process.image, process.mask, anomalies, SPACING_MM, settings, fluid)
    changed = ((made.image != process.image) & fluid).flatten(1).any(1)
    spares = anomalies[0].own["flat"].spares
    assert spares.any()
    assert not spares.all()
    assert not (changed & spares).any()
    assert (changed & ~spares).any()


@pytest.mark.parametrize("brighter", [0.0, 1.0])
def test_the_direction_of_the_change_can_be_chosen(process: Process, brighter: float) -> None:
    draw = Generator().manual_seed(0)
    (p,) = draw_corruption(process.shapes, process.mask, SPACING_MM, draw, only("flat"), torch.full((24,), brighter))
    assert ((p.own["flat"].step > 0) == bool(brighter)).all()


def test_blur_within_a_mask_is_scipy_s_and_sees_nothing_outside() -> None:
    volume = torch.rand((12, 14, 10), generator=Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.zeros(12, 14, 10, dtype=torch.bool)
    mask[2:9, 3:12, 1:8] = True

    def blurred(values: Tensor) -> np.ndarray:
        return ndimage.gaussian_filter(values.double().numpy(), 1.2, mode="constant", radius=2)

    expected = np.where(mask, blurred(volume * mask) / np.maximum(blurred(mask), 1e-9), 0)
    assert np.allclose(blur_within(volume, mask, 1.2), expected, atol=1e-6)
    assert torch.equal(blur_within(volume + 9 * ~mask, mask, 1.2), blur_within(volume, mask, 1.2))
