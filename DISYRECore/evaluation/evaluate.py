"""Measures methods side by side on a dataset with known truth; the z-score baseline is always among them.

A method is run over the cases one by one; what it made of them lies on disk, so that memory does not grow with
their number. Average precision and best Dice are exact over all brain voxels of all cases. Intervals and paired
tests draw subjects: all voxels and lesions of a subject stay together.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from DISYRECore.detection.detector import Detector, RawScore, model_for
from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.datasets import Case, read_dataset
from DISYRECore.evaluation.metrics import (
    LesionCounts,
    binned_ap,
    bootstrap_values,
    froc_curve,
    interval,
    lesion_counts,
    paired_p,
    quantile_edges,
    recall_at,
)
from DISYRECore.evaluation.protocols import PROTOCOLS
from DISYRECore.evaluation.report import Pictures, write_evaluation
from DISYRECore.evaluation.streaming import (
    CachedPrediction,
    PooledCurve,
    SortedCase,
    SortedScores,
    cache_prediction,
    count_reaching,
    pooled_curve,
    pooled_thresholds,
    sample_positives,
)
from DISYRECore.io.files import check_writable, write_text
from DISYRECore.io.volume import Volume
from DISYRECore.methods import find_method
from DISYRECore.models.description import DEFAULT_METHOD, DEFAULT_MODEL, list_models
from DISYRECore.preprocessing.prepare import PreparedBrain, prepare
from DISYRECore.version import __version__

SMALLEST_LESION_MM3 = 100.0
OVERLAP = 0.1
SMALLEST_ML = 0.1
FALSE_POSITIVE_RATES = (0.5, 1.0, 2.0, 4.0, 8.0)
THRESHOLDS = 20
SCAN_QUANTILE = 0.999
BINS = 2048
RESAMPLES = 1000
COMPARED = ("ap", "mean_dice_at_default", "recall_at_1_fp")
RIM_MM = 3.0
KNOWN_CONTRASTS = ("T1", "T2", "FLAIR")
BASELINE = "z-score"
"""Stands in every table."""

USED = "median"
"""The post-processing of the shipped pipeline; all figures but the table of post-processing are made with it."""

RULES = {
    "ap": "average precision over all brain voxels of all cases, exact",
    "oracle_dice": "the best pooled Dice over all thresholds, chosen with the truth in hand: an upper bound",
    "lesions": f"26-connected components of {SMALLEST_LESION_MM3:.0f} mm³ and more; detected when a share of "
    f"{OVERLAP} of the voxels is above the threshold",
    "findings": f"26-connected components above the threshold of {1000 * SMALLEST_ML:.0f} mm³ and more; false when "
    "they touch no lesion voxel",
    "scan_auroc": f"scans with against scans without a lesion by the {SCAN_QUANTILE} quantile of their brain voxels",
    "healthy_rate": "share of brain voxels above the default threshold in scans without a lesion",
    "intervals": f"95 % percentile bootstrap over subjects, {RESAMPLES} draws; paired p-values from the same draws",
    "post-processing": f"{USED} of 3 x 3 x 3 voxels of the model grid, the same for every method",
}


@dataclass
class Measured:
    """What is kept of one case in memory.

    Attributes:
        stored: Score, truth and brain on disk.
        counts: Brain voxels; lesion voxels; voxels and lesion voxels above the default threshold.
        scan_score: See `RULES`.
        curve: Precision and recall of this case alone.
        at_default, unsized: Lesion counts at the default threshold, and those with findings of any size.
        truth_sha256: Of name and truth.
        by_threshold: Lesion counts at the thresholds of the FROC, (T, 4).
    """

    stored: CachedPrediction
    counts: np.ndarray
    scan_score: float
    curve: PooledCurve
    at_default: LesionCounts
    unsized: LesionCounts
    truth_sha256: str
    by_threshold: np.ndarray

    @property
    def sick(self) -> bool:
        """Whether there is a lesion voxel."""
        return bool(self.counts[1])

    @property
    def dice(self) -> float:
        """At the default threshold; NaN without lesion and finding."""
        _, lesion, above, true = self.counts.tolist()
        return 2 * true / (lesion + above) if lesion + above else math.nan


@dataclass
class Scored:
    """One method on one set of cases, on disk.

    Attributes:
        cases: One by one.
        variants: Sorted scores with each kind of post-processing.
        warnings: Sentences.
    """

    cases: list[CachedPrediction]
    variants: dict[str, SortedScores]
    warnings: list[str]


# --- running a method


def score_cases(detector: Detector, cases: Sequence[Case], folder: Path) -> Scored:
    """Runs a detector over cases, with the brain masks and contrasts that the dataset gives.

    A case that cannot be used is left out and named in the warnings.

    Args:
        detector: Model and method.
        cases: Of one dataset.
        folder: Exists; filled.

    Raises:
        DisyreError: No case can be used.
    """
    scored = Scored([], {}, [])
    for number, case in enumerate(cases):
        try:
            scan, truth, maps, brain = _score(detector, case)
        except DisyreError as error:
            scored.warnings.append(f"Left out: {error}")
            continue
        scored.warnings += _notes(case, truth)
        for variant, score in maps.items():
            _store_for(scored.variants, folder, variant).add(score[brain.native_mask], truth[brain.native_mask])
        border = detector.border(brain.contrast)
        own = (maps[USED], truth, brain.native_mask, border)
        scored.cases.append(cache_prediction(folder / f"{number}.npz", case.name, case.subject, scan.affine, *own))
    if not scored.cases:
        raise DisyreError(f"No case could be evaluated. {scored.warnings[0]}")
    return scored


def _score(detector: Detector, case: Case) -> tuple[Volume, np.ndarray, dict[str, np.ndarray], PreparedBrain]:
    scan, truth, mask = case.load()
    brain = prepare(scan, detector.spacing_mm, mask, case.contrast if case.contrast in KNOWN_CONTRASTS else None)
    made, _ = detector.unsmoothed(brain)
    maps = {
        name: detector.native_score(brain, score).voxels for name, score in _variants(detector, made, brain).items()
    }
    if not all(np.isfinite(score).all() for score in maps.values()):
        raise DisyreError(f"{case.name}: the anomaly scores contain NaN; check the scan and the model.")
    return scan, truth, maps, brain


def _variants(detector: Detector, made: RawScore, brain: PreparedBrain) -> dict[str, torch.Tensor]:
    """The score with each kind of post-processing, on the model grid."""
    mask = brain.tensors()[1]
    median = detector.finish(made, brain)
    depth_mm = ndimage.distance_transform_edt(mask.numpy(), sampling=brain.image.spacing_mm[::-1])
    core = torch.from_numpy(depth_mm > RIM_MM)
    return {
        "none": detector.finish(made, brain, median=False),
        USED: median,
        f"{USED}, rim of 3 mm at 0": median * core,
    }


def _store_for(stores: dict[str, SortedScores], folder: Path, variant: str) -> SortedScores:
    if variant not in stores:
        place = folder / f"variant-{len(stores)}"
        place.mkdir()
        stores[variant] = SortedScores(place)
    return stores[variant]


def _notes(case: Case, truth: np.ndarray) -> list[str]:
    notes = []
    if not case.healthy and not truth.any():
        notes.append(f"{case.name}: the lesion mask is empty inside the brain; it counts as a scan without lesion.")
    if truth.any() and len(labels := case.labels()) > 1:
        listed = ", ".join(map(str, labels))
        notes.append(f"{case.name}: the labels {listed} of the lesion mask are taken together as lesion.")
    return notes


# --- measuring it


def measure(scored: Scored) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All figures of one method on one set of cases; see `RULES`.

    Returns:
        Plain values for `metrics.json`, and the bootstrap values of the figures, paired between methods.
    """
    ordered = scored.variants[USED].cases()
    curve = pooled_curve(ordered)
    thresholds = pooled_thresholds(ordered, np.geomspace(2e-5, 0.15, THRESHOLDS))[::-1]
    cases = [_measured(*pair, thresholds) for pair in zip(scored.cases, ordered, strict=True)]
    figures, draws = _with_intervals(cases, ordered, curve)
    recall, rate = froc_curve(np.sum([case.by_threshold for case in cases], axis=0), len(cases))
    found = {
        "cases": len(cases),
        "subjects": len({case.stored.subject for case in cases}),
        "scans_without_lesion": sum(not case.sick for case in cases),
        "lesions": sum(case.at_default.lesions for case in cases),
        "prevalence": curve.prevalence,
        **{name: value for name, (value, _) in figures.items()},
        "intervals": {name: bounds for name, (_, bounds) in figures.items()},
        "truth_sha256": hashlib.sha256("".join(case.truth_sha256 for case in cases).encode()).hexdigest(),
        "oracle_threshold": curve.oracle_threshold,
        "froc": {"thresholds": thresholds, "false_positives": rate, "recall": recall},
        "curve": {"precision": curve.precision, "recall": curve.recall},
        "post_processing": _post_processing(scored, curve, cases),
        "per_case": [_row(case) for case in cases],
        "warnings": [*scored.warnings, *_reservations(cases)],
    }
    return _plain(found), draws


def _measured(stored: CachedPrediction, ordered: SortedCase, thresholds: np.ndarray) -> Measured:
    score, truth, _ = stored.volumes()
    lesion, other = ordered
    cut = np.nextafter(np.float32(stored.threshold), np.float32(np.inf))
    true, false = (int(count_reaching(part, np.array([cut]))[0]) for part in ordered)
    sizes = (SMALLEST_LESION_MM3, 1000 * SMALLEST_ML, OVERLAP)
    count = partial(lesion_counts, score, truth, stored.voxel_ml)
    return Measured(
        stored=stored,
        counts=np.array([lesion.size + other.size, lesion.size, true + false, true]),
        scan_score=_quantile(ordered, SCAN_QUANTILE),
        curve=pooled_curve([ordered]),
        at_default=count(np.array([stored.threshold]), *sizes)[0],
        truth_sha256=hashlib.sha256(stored.name.encode() + np.packbits(truth).tobytes()).hexdigest(),
        unsized=count(np.array([stored.threshold]), sizes[0], 0.0, OVERLAP)[0],
        by_threshold=np.array(count(thresholds, *sizes), float),
    )


def _quantile(ordered: SortedCase, share: float) -> float:
    return float(pooled_thresholds([ordered], np.array([1 - share]))[0])


def _with_intervals(
    cases: list[Measured], ordered: list[SortedCase], curve: PooledCurve
) -> tuple[dict[str, tuple[float, tuple[float, float]]], dict[str, np.ndarray]]:
    """Value, interval and bootstrap values of every figure."""
    names = list(dict.fromkeys(case.stored.subject for case in cases))
    subject_of = np.array([names.index(case.stored.subject) for case in cases])
    exact = {"ap": curve.ap, "oracle_dice": curve.oracle_dice}
    figures, draws = {}, {}
    for name, statistic in _statistics(cases, ordered).items():

        def drawn(draw: np.ndarray, statistic: Callable[[np.ndarray], float] = statistic) -> float:
            return statistic(np.bincount(draw, minlength=len(names))[subject_of].astype(float))

        draws[name] = bootstrap_values(drawn, len(names), RESAMPLES)
        value = exact[name] if name in exact else statistic(np.ones(len(cases)))
        figures[name] = (value, interval(draws[name]))
    return figures, draws


def _statistics(cases: list[Measured], ordered: list[SortedCase]) -> dict[str, Callable[[np.ndarray], float]]:
    """Every figure as a function of how often each case counts, (cases,)."""
    bins = _bins(ordered)
    sick = np.array([case.sick for case in cases])
    counts = np.array([case.counts for case in cases], float)
    lesions = np.array([case.at_default for case in cases], float)
    by_threshold = np.array([case.by_threshold for case in cases])
    subject_dice = np.array([case.dice for case in cases])
    best = np.array([case.curve.oracle_dice for case in cases])
    statistics: dict[str, Callable[[np.ndarray], float]] = {
        "ap": lambda w: binned_ap(np.tensordot(w, bins, 1)),
        "oracle_dice": lambda w: _binned_dice(np.tensordot(w, bins, 1)),
        "mean_best_dice": lambda w: _ratio(w[sick] @ best[sick], w[sick].sum()),
        "pooled_dice_at_default": lambda w: _ratio(2 * w @ counts[:, 3], w @ counts[:, 1:3].sum(1)),
        "mean_dice_at_default": lambda w: _ratio(w[sick] @ subject_dice[sick], w[sick].sum()),
        "recall_at_default": lambda w: _ratio(w @ lesions[:, 0], w @ lesions[:, 1]),
        "precision_at_default": lambda w: _ratio(w @ (lesions[:, 3] - lesions[:, 2]), w @ lesions[:, 3]),
        "false_positives_at_default": lambda w: _ratio(w @ lesions[:, 2], w.sum()),
        "false_positive_rate": lambda w: _ratio(w @ (counts[:, 2] - counts[:, 3]), w @ (counts[:, 0] - counts[:, 1])),
        "healthy_rate": lambda w: _ratio(w[~sick] @ counts[~sick, 2], w[~sick] @ counts[~sick, 0]),
        "scan_auroc": _auroc_of(np.array([case.scan_score for case in cases]), sick),
    }
    for rate in FALSE_POSITIVE_RATES:
        statistics[f"recall_at_{rate:g}_fp"] = partial(_recall_at, by_threshold=by_threshold, rate=rate)
    return statistics


def _bins(ordered: list[SortedCase]) -> np.ndarray:
    """Voxels of each case that reach each of falling edges, (cases, 2, edges)."""
    edges = quantile_edges(sample_positives(ordered, 1 << 19), BINS)[::-1]
    return np.array([[count_reaching(part, edges) for part in case] for case in ordered], float)


def _binned_dice(counts: np.ndarray) -> float:
    true, false = counts
    return float((2 * true / (true + false + true[-1])).max()) if true.size and true[-1] else math.nan


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


def _recall_at(w: np.ndarray, by_threshold: np.ndarray, rate: float) -> float:
    recall, false = froc_curve(np.tensordot(w, by_threshold, 1), w.sum())
    return float(recall_at([rate], false, recall)[0])


def _auroc_of(scores: np.ndarray, sick: np.ndarray) -> Callable[[np.ndarray], float]:
    first, second = scores[sick][:, None], scores[~sick][None]
    wins = (first > second) + (first == second) / 2
    return lambda w: _ratio(w[sick] @ wins @ w[~sick], w[sick].sum() * w[~sick].sum())


def _post_processing(scored: Scored, curve: PooledCurve, cases: list[Measured]) -> list[dict[str, Any]]:
    """What each step does: to the score, then to the findings."""
    curves = {name: curve if name == USED else pooled_curve(store.cases()) for name, store in scored.variants.items()}
    rows: list[dict[str, Any]] = [
        {"step": f"{name} (used)" if name == USED else name, "ap": one.ap, "oracle_dice": one.oracle_dice}
        for name, one in curves.items()
    ]
    sized = f"{USED}, findings of {1000 * SMALLEST_ML:.0f} mm³ and more (used)"
    for step, counts in (
        (f"{USED}, findings of any size", [case.unsized for case in cases]),
        (sized, [case.at_default for case in cases]),
    ):
        detected, lesions, false, findings = np.sum(counts, axis=0).tolist()
        rows.append(
            {
                "step": step,
                "recall_at_default": _ratio(detected, lesions),
                "precision_at_default": _ratio(findings - false, findings),
                "false_positives_at_default": false / len(cases),
            }
        )
    return rows


def _row(case: Measured) -> dict[str, Any]:
    voxels, lesion, above, true = case.counts.tolist()
    return {
        "case": case.stored.name,
        "subject": case.stored.subject,
        "lesion_ml": lesion * case.stored.voxel_ml,
        "ap": case.curve.ap,
        "best_dice": case.curve.oracle_dice,
        "dice_at_default": case.dice,
        "lesions": case.at_default.lesions,
        "detected": case.at_default.detected,
        "findings": case.at_default.findings,
        "false_positives": case.at_default.false_positives,
        "false_positive_rate": _ratio(above - true, voxels - lesion),
        "scan_score": case.scan_score,
    }


def _reservations(cases: list[Measured]) -> list[str]:
    reservations = []
    if len({case.stored.subject for case in cases}) < 2:
        reservations.append("There is only one subject: no intervals and no tests.")
    if not any(case.sick for case in cases):
        reservations.append("No case has a lesion: only false positives can be measured.")
    elif all(case.sick for case in cases):
        reservations.append("Every case has a lesion: no scan-level AUROC and no rate on healthy scans.")
    return reservations


# --- side by side


@dataclass(frozen=True)
class Contestant:
    """A method and the model that it runs with."""

    label: str
    method: str
    model: str


def contestants(methods: Sequence[str], model: str) -> list[Contestant]:
    """From ``NAME`` or ``NAME@MODEL``; the z-score baseline last, and an installed denoising autoencoder before it.

    Args:
        methods: As on the command line.
        model: Of the methods that name none; methods with models of their own take one of these.
    """
    named = [*methods]
    if not any(name.partition("@")[0] == "dae" for name in named):
        named += [f"dae@{one.id}" for one in list_models() if one.method == "dae"][:1]
    labels = dict.fromkeys([*named, BASELINE])
    default = find_method(DEFAULT_METHOD).family
    found = [(label, *label.partition("@")[::2]) for label in labels]
    return [
        Contestant(
            label, method, named or (model if find_method(method).family in (None, default) else model_for(method))
        )
        for label, method, named in found
    ]


def compare(draws: dict[str, dict[str, np.ndarray]], results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Paired bootstrap over subjects between all pairs of methods that saw the same subjects."""
    rows = []
    names = list(draws)
    for first, second in ((a, b) for i, a in enumerate(names) for b in names[i + 1 :]):
        same = [{row["case"] for row in results[name]["per_case"]} for name in (first, second)]
        if same[0] != same[1]:
            continue
        for figure in COMPARED:
            values = draws[first][figure], draws[second][figure]
            rows.append(
                {
                    "first": first,
                    "second": second,
                    "figure": figure,
                    "difference": _number(results[first][figure]) - _number(results[second][figure]),
                    "interval": interval(values[0] - values[1]),
                    "p": paired_p(*values),
                }
            )
    return rows


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def evaluate(
    folder: Path,
    model: str = DEFAULT_MODEL,
    methods: Sequence[str] = ("disyre-v2",),
    report: Path = Path("report"),
    device: str = "auto",
    protocol: str = "exact",
    site: str | None = None,
) -> str:
    """Measures methods and the z-score baseline per contrast; writes `metrics.json`, `table.md` and `report.html`.

    Args:
        folder: The dataset.
        model: Of the methods that name none.
        methods: ``NAME`` or ``NAME@MODEL`` each.
        report: Folder of the results.
        device: See `detection.detector.Detector`.
        protocol: ``exact``, or one of `protocols.PROTOCOLS` to be measured beside it.
        site: Site calibration for every method with a model.

    Returns:
        The table.

    Raises:
        DisyreError: Unusable dataset, model, method or output.
    """
    if protocol not in ("exact", *PROTOCOLS):
        raise DisyreError(f"There is no protocol '{protocol}'; choose one of exact, {', '.join(PROTOCOLS)}.")
    dataset = read_dataset(folder)
    check_writable(report)
    detectors = {one.label: _detector(one, device, site) for one in contestants(methods, model)}
    results, comparisons, pictures = {}, {}, {}
    for contrast in sorted({case.contrast for case in dataset.cases}):
        chosen = [case for case in dataset.cases if case.contrast == contrast]
        results[contrast], draws, pictures[contrast] = _run_all(detectors, chosen, report, protocol)
        comparisons[contrast] = compare(draws, results[contrast])
    warnings = _all_warnings(dataset.warnings, results, detectors)
    for warning in warnings:
        print(f"disyre: {warning}", file=sys.stderr)
    facts = {"disyre": __version__, "layout": dataset.layout, "protocol": protocol, "rules": RULES}
    found = _plain({**facts, "warnings": warnings, "results": results, "comparisons": comparisons})
    write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", report / "metrics.json")
    table = as_table(results)
    write_text(table, report / "table.md")
    write_evaluation(report / "report.html", found, pictures)
    return table


def _run_all(
    detectors: dict[str, Detector], cases: Sequence[Case], folder: Path, protocol: str
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, np.ndarray]], dict[str, Pictures]]:
    """Figures, bootstrap values and pictures by method; the scores lie in a hidden folder meanwhile."""
    results, draws, pictures = {}, {}, {}
    for label, detector in detectors.items():
        with TemporaryDirectory(prefix=".disyre-", dir=folder) as scratch:
            scored = score_cases(detector, cases, Path(scratch))
            figures, draws[label] = measure(scored)
            if protocol != "exact":
                figures["protocol"] = _plain({"name": protocol, **PROTOCOLS[protocol](scored.cases)})
            results[label] = _plain(figures | _identity(detector))
            pictures[label] = Pictures.make(scored.cases, cases, figures["per_case"])
    return results, draws, pictures


def _detector(one: Contestant, device: str, site: str | None) -> Detector:
    return Detector(one.model, one.method, device, site=None if find_method(one.method).family is None else site)


def _identity(detector: Detector) -> dict[str, Any]:
    model = detector.model
    return {
        "method": detector.method,
        "model": model.description.id if model else None,
        "model_sha256": detector.model_sha256,
        "settings": detector.settings,
        "by_contrast": detector.usage.by_contrast,
        "site": detector.site.site if detector.site else None,
    }


def _all_warnings(
    found: Sequence[str], results: dict[str, dict[str, dict[str, Any]]], detectors: dict[str, Detector]
) -> list[str]:
    warnings = [w for by_method in results.values() for figures in by_method.values() for w in figures["warnings"]]
    if not any(detector.method == "dae" for detector in detectors.values()):
        warnings.append("No denoising autoencoder is installed: train one and name it as dae@MODEL to compare with it.")
    return list(dict.fromkeys([*found, *warnings]))


def _plain(value: Any) -> Any:
    """Plain values for JSON; what is not defined becomes None."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


_COLUMNS = (
    "contrast | method | cases | prevalence | AP (95 %) | oracle Dice | Dice at default: pooled | mean per subject "
    "| recall at 1 FP | recall / precision at default | FP per volume | scan AUROC | healthy voxels above"
)


def as_table(results: dict[str, dict[str, Any]]) -> str:
    """A Markdown table, one row per contrast and method, and one of the protocol where there is one."""
    rows = [f"| {_COLUMNS} |", "|---" * (_COLUMNS.count("|") + 1) + "|"]
    for contrast, by_method in results.items():
        for method, m in by_method.items():
            low, high = m["intervals"]["ap"]
            cells = [
                f"{contrast} | {method} | {m['cases']} | {show(m['prevalence'], 4)}",
                f"{show(m['ap'])} ({show(low, 2)} to {show(high, 2)}) | {show(m['oracle_dice'])}",
                f"{show(m['pooled_dice_at_default'])} | {show(m['mean_dice_at_default'])}",
                f"{show(m['recall_at_1_fp'], 2)}",
                f"{show(m['recall_at_default'], 2)} / {show(m['precision_at_default'], 2)}",
                f"{show(m['false_positives_at_default'], 2)} | {show(m['scan_auroc'], 2)}",
                show(m["healthy_rate"], 4),
            ]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, *_protocol_rows(results)]) + "\n"


def _protocol_rows(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    for contrast, by_method in results.items():
        for method, figures in by_method.items():
            if "protocol" in figures:
                named = {key: value for key, value in figures["protocol"].items() if key != "name"}
                listed = ", ".join(f"{key} {show(value)}" for key, value in named.items())
                yield f"\nProtocol {figures['protocol']['name']}, {contrast}, {method}: {listed}"


def show(value: float | None, digits: int = 3) -> str:
    """A figure for a table; a dash where it is not defined."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
