"""The Synomaly noise generator against its published settings' statistics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Generator, Tensor

from DISYRECore.corruption.blur import blur_slices
from DISYRECore.corruption.diffusion import add_noise, estimate
from DISYRECore.corruption.synomaly_noise import NoiseSettings, synomaly_noise
from DISYRECore.errors import DisyreError

SIZE = 128
PUBLISHED = NoiseSettings()
RESAMPLES = 200


def largest_region(mask: Tensor) -> int:
    return int(np.bincount(ndimage.label(mask.numpy())[0].ravel())[1:].max(initial=0))


def draw(settings: NoiseSettings, count: int = RESAMPLES, size: int = SIZE, seed: int = 0) -> tuple[Tensor, Tensor]:
    return synomaly_noise((count, size, size), settings, Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("sigma", "threshold", "area", "regions", "largest", "inside"),
    [
        (3, 175, 10.5, 33.2, 263, 0.34),
        (7, 150, 31.7, 7.6, 3030, 0.10),
        (3, 150, 26.7, 34.8, 1154, 0.24),
        (5, 175, 12.8, 13.5, 629, 0.20),
        (1, 175, 7.4, 238, 35, 1.08),
    ],
)
def test_statistics_are_those_of_the_published_generator(
    sigma: float, threshold: float, area: float, regions: float, largest: float, inside: float
) -> None:
    """Area, regions, size of the largest and mean of the noise in them; 400 samples of another implementation."""
    noise, mask = draw(NoiseSettings(sigmas=(sigma,), threshold=threshold))
    plain = torch.randn(noise.shape, generator=Generator().manual_seed(0))
    counts = [ndimage.label(one)[1] for one in mask.numpy()]
    biggest = [largest_region(one) for one in mask]
    assert 100 * float(mask.float().mean()) == pytest.approx(area, rel=0.12)
    assert np.mean(counts) == pytest.approx(regions, rel=0.1)
    assert np.mean(biggest) == pytest.approx(largest, rel=0.2)
    means = [float(n[m].mean()) for n, m in zip(plain, mask, strict=True) if m.any()]
    assert np.mean(means) == pytest.approx(inside, abs=0.04)


def test_half_the_side_and_half_the_blur_make_the_same_picture() -> None:
    _, mask = draw(NoiseSettings(sigmas=(1.5,)), size=64)
    assert 100 * float(mask.float().mean()) == pytest.approx(11.2, rel=0.15)
    assert np.mean([ndimage.label(one)[1] for one in mask.numpy()]) == pytest.approx(33, rel=0.12)


@pytest.mark.parametrize("directions", [(1,), (-1,), (-1, 1)])
def test_the_shift_is_one_number_a_slice_within_its_range(directions: tuple[int, ...]) -> None:
    settings = replace(PUBLISHED, directions=directions)
    noise, mask = draw(settings, 64)
    plain = torch.randn(noise.shape, generator=Generator().manual_seed(0))
    shift = noise - plain
    assert not shift[~mask].any()
    of_slice = torch.stack([one[m].mean() for one, m in zip(shift, mask, strict=True)])
    assert all(torch.allclose(one[m], mean) for one, m, mean in zip(shift, mask, of_slice, strict=True))
    assert set(of_slice.sign().int().tolist()) == set(directions)
    assert 0.5 <= float(of_slice.abs().min()) < 0.6
    assert 1.4 < float(of_slice.abs().max()) <= 1.5


def test_every_slice_has_regions() -> None:
    _, mask = draw(PUBLISHED)
    assert mask.flatten(1).any(1).float().mean() > 0.99


def test_regions_stay_within_an_organ() -> None:
    organ = torch.zeros(8, SIZE, SIZE, dtype=torch.bool)
    organ[:, 30:90, 20:70] = True
    settings, generators = PUBLISHED, [Generator().manual_seed(1) for _ in range(2)]
    _, everywhere = synomaly_noise((8, SIZE, SIZE), settings, generators[0])
    _, within = synomaly_noise((8, SIZE, SIZE), settings, generators[1], organ)
    assert torch.equal(within, everywhere & organ)


def test_the_image_is_recovered_exactly_with_the_true_noise() -> None:
    x = 2 * torch.rand((4, 32, 32), generator=Generator().manual_seed(3)) - 1
    noise, _ = draw(PUBLISHED, 4, 32)
    assert torch.allclose(estimate(add_noise(x, noise, 200, "cosine"), noise, 200, "cosine"), x, atol=1e-5)


def test_the_same_seed_gives_the_same_noise() -> None:
    assert torch.equal(draw(PUBLISHED, 4)[0], draw(PUBLISHED, 4)[0])
    assert not torch.equal(draw(PUBLISHED, 4)[0], draw(PUBLISHED, 4, seed=1)[0])


def test_the_blur_is_that_of_scipy() -> None:
    image = torch.randn((2, 40, 33), generator=Generator().manual_seed(0))
    expected = [ndimage.gaussian_filter(one.numpy(), 2.5, mode="mirror", truncate=4) for one in image]
    assert np.allclose(blur_slices(image, 2.5), expected, atol=1e-5)


def test_small_slices_are_blurred_as_far_as_they_reach() -> None:
    assert torch.isfinite(blur_slices(torch.rand(1, 5, 4), 7.0)).all()


@pytest.mark.parametrize(
    "bad", [{"threshold": 255.0}, {"threshold": 0.0}, {"sigmas": (0.0,)}, {"sigmas": ()}, {"directions": ()}]
)
def test_settings_without_regions_are_refused_in_one_sentence(bad: dict) -> None:
    with pytest.raises(DisyreError, match=r"^[^\n]+\.$"):
        draw(replace(PUBLISHED, **bad), 1)


# Beyond the published settings


def test_regions_of_several_sizes_are_drawn() -> None:
    small, both = (draw(NoiseSettings(sigmas=sigmas), count=64)[1] for sigmas in ((1.0,), (1.0, 7.0)))
    largest = [[largest_region(m) for m in mask] for mask in (small, both)]
    assert max(largest[0]) < 150
    assert 0.25 < np.mean(np.array(largest[1]) > 300) < 0.75


def test_regions_of_their_own_field_do_not_favour_bright_noise() -> None:
    noise, mask = draw(NoiseSettings(own_field=True, offset=0.0, span=0.0))
    assert abs(float(noise[mask].mean())) < 0.02


def test_the_shift_spans_what_is_asked_for() -> None:
    noise, mask = draw(NoiseSettings(own_field=True, offset=2.0, span=6.0), count=200)
    shifts = torch.stack([n[m].mean() for n, m in zip(noise, mask, strict=True) if m.sum() > 300])
    assert 1.8 < float(shifts.min()) < 2.6
    assert 7.4 < float(shifts.max()) < 8.2


def test_clean_slices_are_plain_noise() -> None:
    noise, mask = draw(NoiseSettings(clean=0.4, offset=5.0), count=300)
    is_clean = ~mask.flatten(1).any(1)
    assert 0.3 < float(is_clean.float().mean()) < 0.5
    assert float(noise[is_clean].std()) == pytest.approx(1.0, abs=0.01)
