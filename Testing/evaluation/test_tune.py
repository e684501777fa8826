"""Choosing settings: the parts that need no network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from DISYRECore.detection.evidence import HealthyFindings
from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.tune import (
    FOLDS,
    OFFSETS,
    RULES,
    WORTH,
    Choice,
    Rule,
    Sample,
    Terms,
    choose,
    choose_offset,
    choose_rule,
    find_healthy,
    find_patients,
    findings_elsewhere,
    folds_of,
    leave_out,
    outcome,
    pooled_ap,
)

SHAPE = (14, 14, 14)
PLAIN = RULES[0]


def region(scan: Terms) -> np.ndarray:
    return scan.region


def scan_of(
    patient: str,
    group: str = "lgg",
    seed: int = 0,
    separation: float = 3.0,
    rise: Callable[[np.ndarray], np.ndarray] | None = None,
    brightness: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Terms:
    """A brain that fills its array, with a cube as lesion; terms that are not given say nothing."""
    random = np.random.default_rng(seed)
    truth = np.zeros(SHAPE, bool)
    truth[3:9, 3:9, 3:9] = True
    truth = truth.ravel()

    def noise(scale: float) -> np.ndarray:
        return (scale * random.normal(size=truth.size)).astype(np.float32)

    return Terms(
        Sample(group, patient, "FLAIR", Path("scan"), Path("mask"), Path("place")),
        noise(1.5) - 4 + separation * truth,
        rise(truth) if rise else np.zeros(truth.size, np.float32),
        brightness(truth) if brightness else np.zeros(truth.size, np.float32),
        truth,
        np.ones(SHAPE, bool),
        np.diag([3.0, 3.0, 3.0, 1.0]),
        0,
    )


# --- the figure


def test_average_precision_is_pooled_within_a_set_and_averaged_over_sets() -> None:
    scans = [scan_of("1", "lgg", 1), scan_of("2", "lgg", 2, 1.0), scan_of("1", "ms", 3, 0.5)]
    truth, odds = (np.concatenate([getattr(s, name) for s in scans[:2]]) for name in ("truth", "region"))
    expected = average_precision_score(truth, odds), average_precision_score(scans[2].truth, scans[2].region)
    assert pooled_ap(scans, region) == pytest.approx(np.mean(expected), abs=1e-6)


# --- the rule


def test_rules_are_sorted_from_the_simplest_and_say_only_what_they_add() -> None:
    assert [rule.extra for rule in RULES] == sorted(rule.extra for rule in RULES)
    assert Rule(0, 0.0, 0.0) == PLAIN
    assert PLAIN.settings() == {}
    assert Rule(1, 0.0, 2.0).settings() == {"z_weight": 2.0}


def test_terms_that_say_nothing_are_left_out() -> None:
    assert choose_rule([scan_of(str(n), seed=n) for n in range(3)]) == PLAIN


def test_a_term_that_helps_is_taken_and_the_other_is_not() -> None:
    def helps(truth: np.ndarray) -> np.ndarray:
        return (truth - 0.5).astype(np.float32)

    by_rise = choose_rule([scan_of(str(n), seed=n, separation=1.0, rise=lambda t: 0.1 * t) for n in range(3)])
    by_brightness = choose_rule([scan_of(str(n), seed=n, separation=1.0, brightness=helps) for n in range(3)])
    assert (by_rise.residual_weight > 0, by_rise.z_weight) == (True, 0)
    assert (by_brightness.residual_weight, by_brightness.z_weight > 0) == (0, True)


@pytest.mark.parametrize(("gain", "extra"), [(0.9 * WORTH, 0), (1.1 * WORTH, 1)])
def test_the_simplest_rule_within_a_hundredth_is_preferred(
    gain: float, extra: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = scan_of("1")

    def reached(scans: list[Terms], odds: Callable[[Terms], np.ndarray]) -> float:
        used = odds(scans[0])
        return 0.5 + gain * bool((used != scan.region).any())

    terms = scan_of("1", brightness=lambda truth: truth.astype(np.float32))
    monkeypatch.setattr("DISYRECore.evaluation.tune.pooled_ap", reached)
    assert choose_rule([terms]).extra == extra


@pytest.mark.parametrize(("each", "extra"), [(0.9 * WORTH, 0), (1.1 * WORTH, 2)])
def test_two_terms_must_earn_twice_as_much(each: float, extra: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = scan_of("1", rise=lambda truth: np.full(truth.size, 1e-3, np.float32), brightness=np.ones_like)

    def reached(scans: list[Terms], odds: Callable[[Terms], np.ndarray]) -> float:
        added = float((odds(scans[0]) - scan.region).mean())
        by_brightness = added > 0.5
        by_rise = added - round(added) > 0.01
        return 0.5 + each * (by_brightness + by_rise)

    monkeypatch.setattr("DISYRECore.evaluation.tune.pooled_ap", reached)
    assert choose_rule([scan]).extra == extra


# --- border and findings


def test_the_offset_puts_the_border_where_dice_is_best() -> None:
    scans = [scan_of(str(n), seed=n) for n in range(3)]
    chosen = choose_offset(scans, region)
    assert chosen in OFFSETS

    def dice(offset: float) -> float:
        drawn = [scan.region + offset > 0 for scan in scans]
        both = zip(drawn, scans, strict=True)
        return float(np.mean([2 * (d & s.truth).sum() / (d.sum() + s.truth.sum()) for d, s in both]))

    assert dice(chosen) == max(map(dice, OFFSETS))
    assert dice(chosen) > 0.5
    assert choose_offset(scans, lambda scan: scan.region + 1.0) == chosen - 1


def test_every_set_has_the_same_say_in_the_offset() -> None:
    """The larger set does not outvote the smaller."""
    few, many = [scan_of("1", "ms", 1, 6.0)], [scan_of(str(n), "lgg", 0, 2.0) for n in range(6)]
    assert choose_offset([*few, *many], region) == choose_offset([*few, *many[:1]], region)


def test_findings_of_patients_count_where_they_touch_no_lesion() -> None:
    odds = np.full(SHAPE, -9.0, np.float32)
    odds[4:7, 4:7, 4:7] = odds[11:13, 11:13, 11:13] = 2.0
    found = findings_elsewhere([scan_of("1")], lambda scan: odds.ravel())
    assert (found.scans, found.low) == (1, 0.5)
    assert found.evidence == pytest.approx([8 * 0.027 * 2], rel=2e-3)


def test_healthy_scans_are_counted_where_there_are_some() -> None:
    patients, healthy = [scan_of(str(n), seed=n) for n in range(3)], [scan_of("h", seed=9, separation=0.0)] * 2
    assert choose(patients, healthy).healthy.scans == 2
    assert choose(patients, []).healthy.scans == 3
    assert choose(patients, healthy).offset == choose(patients, []).offset


def test_an_outcome_counts_hits_dice_and_false_findings() -> None:
    odds = np.full(SHAPE, -9.0, np.float32)
    odds[3:6, 3:9, 3:9] = odds[11:13, 11:13, 11:13] = 2.0
    scan = replace(scan_of("1"), region=odds.ravel())
    made = outcome(scan, Choice(PLAIN, 0.0, HealthyFindings(0.5, 10, (2.0, 0.1))))
    assert made.hit is True
    assert made.false_findings == 1
    assert made.dice == pytest.approx(2 * 108 / (108 + 8 + 216))
    strict = outcome(scan, Choice(PLAIN, 0.0, HealthyFindings(0.5, 10, (900.0,) * 9)))
    assert (strict.dice, strict.hit, strict.false_findings) == (0.0, False, 0)
    assert outcome(scan, Choice(PLAIN, -3.0, HealthyFindings(0.5, 10, (2.0,)))).dice == 0


# --- folds


def test_folds_spread_the_patients_of_each_set_evenly() -> None:
    scans = [scan_of(str(n), group) for group, count in (("lgg", 12), ("ms", 6)) for n in range(count)]
    folds = folds_of(scans)
    assert len(folds) == 18
    for group in ("lgg", "ms"):
        sizes = np.bincount([fold for (own, _), fold in folds.items() if own == group], minlength=FOLDS)
        assert sizes.max() - sizes.min() <= 1


def test_contrasts_of_a_patient_share_a_fold_and_no_choice_has_seen_it() -> None:
    scans = [scan_of(str(n // 2)) for n in range(20)]
    folds, seen = folds_of(scans), list[set[tuple[str, str]]]()

    def choose(some: list[Terms]) -> Choice:
        seen.append({scan.patient for scan in some})
        return Choice(PLAIN, float(len(some)), HealthyFindings(0.5, 1, ()))

    chosen = leave_out(scans, folds, choose)
    assert sorted(chosen) == list(range(FOLDS))
    for fold, patients in zip(chosen, seen, strict=True):
        assert patients == {patient for patient, own in folds.items() if own != fold}
        assert chosen[fold].offset == 16


# --- what it is given


def test_patients_and_healthy_scans_are_found_by_folder_and_pattern(tmp_path: Path) -> None:
    for name in (
        "lgg/a/FLAIR",
        "lgg/a/T1",
        "lgg/a/mask",
        "lgg/b/T2",
        "lgg/b/mask",
        "lgg/c/T2",
        "well/x_T1",
        "well/y_T1",
    ):
        path = tmp_path / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    patients = find_patients([tmp_path / "lgg"], tmp_path, "model")
    assert [(s.group, s.patient, s.contrast) for s in patients] == [
        ("lgg", "a", "T1"),
        ("lgg", "a", "FLAIR"),
        ("lgg", "b", "T2"),
    ]
    healthy = find_healthy([f"T1={tmp_path}/well/*_T1.nii.gz"], tmp_path, "model")
    assert [(s.contrast, s.mask) for s in healthy] == [("T1", None)] * 2
    places = {s.place for s in [*patients, *healthy]}
    assert len(places) == 5
    assert find_patients([tmp_path / "lgg"], tmp_path, "another")[0].place not in places


@pytest.mark.parametrize("text", ["T1", "PD=*.nii.gz", "T1=nowhere/*.nii.gz", "T1="])
def test_healthy_scans_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(DisyreError, match="CONTRAST=PATTERN"):
        find_healthy([text], tmp_path, "model")


def test_folders_without_patients_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DisyreError, match="No patient was found"):
        find_patients([tmp_path], tmp_path, "model")
