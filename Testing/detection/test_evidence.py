"""How unusual a finding is: evidence, and what healthy scans say of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from DISYRECore.detection.evidence import CAP, TAIL, HealthyFindings, strongest
from DISYRECore.detection.findings import component_evidence
from DISYRECore.io.volume import Volume

LOW = 0.05
NONE_KNOWN = HealthyFindings(LOW, 1, ())
EXTENT_MM = 48.0

tables = st.lists(st.floats(0.01, 500), min_size=1, max_size=60).map(lambda found: tuple(sorted(found, reverse=True)))


def blob(radius_mm: float, odds: float, spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.0)) -> Volume:
    """A soft ball in the middle whose log odds fall from `odds` to -6."""
    axes = [(np.arange(round(EXTENT_MM / s)) + 0.5) * s - EXTENT_MM / 2 for s in spacing_mm]
    distance = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
    logit = -6 + (odds + 6) / (1 + np.exp((distance - radius_mm) / 1.5))
    return Volume((1 / (1 + np.exp(-logit))).astype(np.float32), np.diag([*spacing_mm, 1.0]))


def evidence(score: Volume, healthy: HealthyFindings = NONE_KNOWN) -> float:
    """Of the strongest component."""
    return float(component_evidence(score, np.ones(score.shape, bool), healthy)[1].max())


def test_evidence_is_its_equation() -> None:
    score = np.full((8, 8, 8), 0.01, np.float32)
    score[2:4, 2:4, 2:4] = 0.5
    made = evidence(Volume(score, np.diag([2.0, 2.0, 2.0, 1.0])))
    assert made == pytest.approx(8 * 0.008 * (0.0 - np.log(0.05 / 0.95)), rel=1e-5)


def test_evidence_grows_with_volume_and_with_score() -> None:
    by_size = [evidence(blob(radius, 1.0)) for radius in (3, 5, 8, 13, 20)]
    by_score = [evidence(blob(8, odds)) for odds in (-2.0, -1.0, 0.0, 2.0, 5.0)]
    for found in (by_size, by_score):
        assert (np.diff(found) > 0).all()


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (3.0, 3.0, 3.0), (1.0, 1.0, 4.0), (0.75, 4.0, 1.5)])
@pytest.mark.parametrize(("radius", "odds"), [(8.0, 1.0), (14.0, 4.0)])
def test_evidence_is_that_of_the_lesion_and_not_of_the_grid(
    spacing_mm: tuple[float, float, float], radius: float, odds: float
) -> None:
    assert evidence(blob(radius, odds, spacing_mm)) == pytest.approx(evidence(blob(radius, odds)), rel=0.1)


def test_what_lies_at_or_below_the_low_score_has_none() -> None:
    odds = NONE_KNOWN.log_odds(np.array([0.0, 0.01, LOW, 0.06, 0.5, 1.0]))
    assert odds.dtype == np.float32
    assert not odds[:3].any()
    assert (np.diff(odds[2:]) > 0).all()
    assert odds[-1] == pytest.approx(np.log((1 - CAP) / CAP) - np.log(LOW / (1 - LOW)), rel=1e-4)


def test_scores_without_odds_count_by_how_few_healthy_voxels_are_above_them() -> None:
    shares = ((0.1, 0.5), (0.2, 0.02), (0.4, 0.001), (0.8, 0.0001))
    healthy = HealthyFindings(0.2, 1, (), shares)
    odds = healthy.log_odds(np.array([0.1, 0.2, 0.4, 0.8, 3.0]))
    assert odds == pytest.approx([0, 0, np.log(20), np.log(200), np.log(200)], abs=1e-5)
    rising = healthy.log_odds(np.linspace(0, 1, 50))
    assert (np.diff(rising) >= 0).all()
    score = Volume(blob(8, 2.0).voxels, blob(8, 2.0).affine)
    assert evidence(score, healthy) > evidence(blob(5, 2.0), healthy) > 0


@given(tables, st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_stronger_findings_are_rarer(table: tuple[float, ...], scans: int) -> None:
    healthy = HealthyFindings(LOW, scans, table)
    grid = np.linspace(0, 3 * table[0], 200)
    found = np.array([healthy.false_findings(one) for one in grid])
    assert (np.diff(found) <= 1e-12).all()
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert found[0] == len(table) / scans


@given(tables, st.integers(1, 40), st.sampled_from([0.01, 0.05, 0.25, 0.5, 1.0, 2.0]))
@settings(max_examples=100, deadline=None)
def test_what_is_needed_leaves_no_more_than_was_accepted(table: tuple[float, ...], scans: int, accepted: float) -> None:
    healthy = HealthyFindings(LOW, scans, table)
    needed = healthy.needed(accepted)
    assert (np.array(table) >= needed).sum() / scans <= accepted + 1e-12
    if needed > 0:
        assert healthy.false_findings(needed) <= accepted * (1 + 1e-6)
        assert healthy.needed(accepted / 2) >= needed


def test_what_is_needed_is_no_more_than_need_be() -> None:
    healthy = HealthyFindings(LOW, 10, tuple(np.linspace(100, 5, 20).tolist()))
    for accepted, left in ((0.5, 5), (1.0, 10), (0.19, 1), (3.0, 20)):
        assert (np.array(healthy.evidence) >= healthy.needed(accepted)).sum() == left


def test_beyond_the_strongest_the_number_falls_without_end_as_it_fell_before() -> None:
    strong = np.sort(np.random.default_rng(0).exponential(10, 400))[::-1]
    healthy = HealthyFindings(LOW, 100, tuple(strong.tolist()))
    above = [healthy.false_findings(strong[0] + more) for more in (0.0, 5.0, 10.0, 50.0, 1e6)]
    assert above[0] == 1 / 100
    assert (np.diff(above) < 0).all()
    assert 0.1 < above[2] / above[0] < 0.8
    scale = (strong[:TAIL] - strong[TAIL - 1]).sum() / (TAIL - 1)
    assert above[1] == pytest.approx(np.exp(-5 / scale) / 100)


@pytest.mark.parametrize("table", [(), (3.0,), (3.0, 3.0, 3.0)])
def test_few_or_equal_components_are_no_trouble(table: tuple[float, ...]) -> None:
    healthy = HealthyFindings(LOW, 4, table)
    for accepted in (0.001, 0.2, 0.5, 5.0):
        needed = healthy.needed(accepted)
        assert np.isfinite(needed)
        assert (np.array(table) >= needed).sum() / 4 <= accepted
        assert needed <= 3.01
    assert 0 <= healthy.false_findings(100.0) <= 0.25


@given(st.lists(st.lists(st.floats(1e-6, 1e4), max_size=6).map(np.array), max_size=6))
@settings(max_examples=40, deadline=None)
def test_the_strongest_are_pooled_falling_and_never_rounded_down(by_scan: list[np.ndarray]) -> None:
    found = strongest(by_scan, most=10)
    plain = np.sort(np.concatenate([*by_scan, np.zeros(0)]))[::-1][:10]
    assert list(found) == sorted(found, reverse=True)
    assert (np.array(found) >= plain).all()
    assert np.array(found) == pytest.approx(plain, rel=2e-3)
