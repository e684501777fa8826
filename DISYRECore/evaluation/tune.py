"""Chooses how a model is used, on development patients and healthy scans, and writes it into `model.json`.

Networks never learn from patients; what is chosen here are a few numbers: for each contrast the weights of the terms of
the score and the border of findings, for studies the weights of the contrasts, and from healthy scans how unusual a
finding is. The network runs once over every scan; its terms are cached, so that choosing takes minutes. Every choice is
made five times with a fifth of the patients left out, and the figures of those stand beside those of all.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from DISYRECore.detection.detector import Detector, sigmoid
from DISYRECore.detection.evidence import DEFAULT_FALSE_FINDINGS, HealthyFindings, strongest
from DISYRECore.detection.findings import component_evidence, label_findings
from DISYRECore.detection.runner import VolumeRestorer
from DISYRECore.detection.study import fuse, set_name
from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.metrics import average_precision
from DISYRECore.io.files import check_writable, write_text
from DISYRECore.io.read import read_mask, read_volume
from DISYRECore.io.volume import Volume
from DISYRECore.methods.disyre_v2 import restore_all, terms
from DISYRECore.models.description import DEFAULT_METHOD, DESCRIPTION, read_description
from DISYRECore.preprocessing.prepare import LOWEST_ODDS, prepare, within_brain

CONTRASTS = ("T1", "T2", "FLAIR")
FOLDS = 5
SMOOTH = 1.0
RESIDUAL_WEIGHTS, Z_WEIGHTS = (0.0, 40.0, 80.0), (0.0, 2.0, 5.0)
OFFSETS = tuple(np.arange(-4.0, 4.5, 0.5).tolist())
"""What is tried."""

WORTH = 0.01
"""Average precision that a further term of the score must earn."""

HALF = 0.5
"""Where the offset of its score puts the border of every contrast; that of a study follows."""

TUNED = ("residual_weight", "z_weight", "offset")

LESION_ML, HIT = 5.0, 0.1
"""A patient with a lesion of this size is hit if this share of its voxels is drawn."""


@dataclass(frozen=True)
class Sample:
    """A scan for tuning.

    Attributes:
        group: Its set; patients of all sets are spread over the folds.
        patient: Its name within the set.
        contrast: Known.
        image, mask: Files; no mask for a healthy scan.
        place: Of its terms in the cache.
    """

    group: str
    patient: str
    contrast: str
    image: Path
    mask: Path | None
    place: Path


@dataclass(frozen=True, eq=False)
class Terms:
    """The terms of a scan within its brain, on its own grid, N voxels; see `disyre_v2.Terms`.

    Attributes:
        sample: The scan.
        region, rise, brightness: (N,) float32.
        truth: (N,) bool.
        brain: (X, Y, Z) bool.
        affine: (4, 4).
        missed: Lesion voxels outside the brain mask.
    """

    sample: Sample
    region: np.ndarray
    rise: np.ndarray
    brightness: np.ndarray
    truth: np.ndarray
    brain: np.ndarray
    affine: np.ndarray
    missed: int

    def odds(self, rule: Rule) -> np.ndarray:
        """Log odds of the voxels, (N,)."""
        return self.region + rule.residual_weight * self.rise + rule.z_weight * self.brightness

    def volume(self, odds: np.ndarray) -> Volume:
        """Display score (X, Y, Z) of log odds."""
        voxels = np.zeros(self.brain.shape, np.float32)
        voxels[self.brain] = sigmoid(odds)
        return Volume(voxels, self.affine)

    @property
    def patient(self) -> tuple[str, str]:
        """Set and name of the patient."""
        return self.sample.group, self.sample.patient


@dataclass(frozen=True, order=True)
class Rule:
    """The score of a contrast; simpler rules come first.

    Attributes:
        extra: How many terms there are beside the region.
        residual_weight, z_weight: See `disyre_v2`.
    """

    extra: int
    residual_weight: float
    z_weight: float

    def settings(self) -> dict[str, Any]:
        """Settings of the method that say so."""
        weights = {"residual_weight": self.residual_weight, "z_weight": self.z_weight}
        return {name: value for name, value in weights.items() if value}


RULES = tuple(sorted(Rule((r > 0) + (z > 0), r, z) for r, z in product(RESIDUAL_WEIGHTS, Z_WEIGHTS)))


# --- samples and their terms


def find_patients(folders: Sequence[Path], cache: Path, model: str) -> list[Sample]:
    """Scans of patients: ``FOLDER/PATIENT/{T1,T2,FLAIR}.nii.gz`` with the lesion in ``mask.nii.gz``.

    Raises:
        DisyreError: There are none.
    """
    found = []
    for folder in folders:
        for mask in sorted(folder.glob("*/mask.nii.gz")):
            scans = [(contrast, mask.with_name(f"{contrast}.nii.gz")) for contrast in CONTRASTS]
            found += [
                _sample(folder.name, mask.parent.name, contrast, scan, mask, cache, model)
                for contrast, scan in scans
                if scan.exists()
            ]
    if not found:
        raise DisyreError("No patient was found; give folders of PATIENT/T1.nii.gz … with PATIENT/mask.nii.gz.")
    return found


def find_healthy(listed: Sequence[str], cache: Path, model: str) -> list[Sample]:
    """Healthy scans from ``CONTRAST=PATTERN`` each, a pattern of files.

    Raises:
        DisyreError: Another form, or a pattern without files.
    """
    found = []
    for text in listed:
        contrast, _, pattern = text.partition("=")
        files = sorted(Path(pattern).parent.glob(Path(pattern).name)) if pattern else []
        if contrast not in CONTRASTS or not files:
            raise DisyreError(f"'{text}' names no healthy scans; give CONTRAST=PATTERN, such as T1='healthy/*.nii.gz'.")
        found += [_sample("healthy", file.name, contrast, file, None, cache, model) for file in files]
    return found


def _sample(group: str, patient: str, contrast: str, image: Path, mask: Path | None, cache: Path, model: str) -> Sample:
    key = hashlib.sha256(f"{model} {contrast} {image.resolve()} {image.stat().st_size}".encode()).hexdigest()[:20]
    return Sample(group, patient, contrast, image, mask, cache / f"{key}.npz")


def cached_terms(sample: Sample, detector: Detector) -> Terms:
    """The terms of a scan: from the cache, or made by the network and stored there."""
    if not sample.place.exists():
        _store_terms(sample, detector)
    with np.load(sample.place) as stored:
        brain = np.unpackbits(stored["brain"], count=int(np.prod(stored["shape"]))).reshape(stored["shape"]) > 0
        region, rise, brightness = (stored[n].astype(np.float32) for n in ("region", "rise", "brightness"))
        return Terms(sample, region, rise, brightness, stored["truth"], brain, stored["affine"], int(stored["missed"]))


def _store_terms(sample: Sample, detector: Detector) -> None:
    scan = read_volume(sample.image)
    brain = prepare(scan, detector.spacing_mm, None, sample.contrast)
    lesion = read_mask(sample.mask, scan.grid) if sample.mask else np.zeros(scan.shape, bool)
    x, mask = brain.tensors()
    assert detector.model is not None
    severities = detector.settings_for(sample.contrast)["severities"]
    restore = VolumeRestorer(detector.model.network, detector.batch, len(severities))
    made = terms(restore_all(restore, x, severities), x, mask, SMOOTH)

    def native(values: torch.Tensor) -> np.ndarray:
        volume = Volume(np.ascontiguousarray(values.numpy().T), brain.image.affine)
        return within_brain(volume, brain.mask, scan.grid)[0][brain.native_mask].astype(np.float16)

    np.savez(
        sample.place,
        region=native(made.region),
        rise=native(made.rise),
        brightness=native(made.brightness),
        truth=lesion[brain.native_mask],
        missed=(lesion & ~brain.native_mask).sum(),
        brain=np.packbits(brain.native_mask),
        shape=scan.shape,
        affine=scan.affine,
    )


# --- choosing


def pooled_ap(scans: Sequence[Terms], odds: Callable[[Terms], np.ndarray]) -> float:
    """Average precision over the brain voxels of scans, mean over their sets."""
    groups = {scan.sample.group for scan in scans}
    return float(
        np.mean([_ap([scan for scan in scans if scan.sample.group == group], odds) for group in sorted(groups)])
    )


def _ap(scans: Sequence[Terms], odds: Callable[[Terms], np.ndarray]) -> float:
    return average_precision(np.concatenate([odds(s) for s in scans]), np.concatenate([s.truth for s in scans]))


def choose_rule(scans: Sequence[Terms]) -> Rule:
    """The simplest rule whose average precision each further term would raise by less than `WORTH`."""
    reached = {rule: pooled_ap(scans, lambda scan, rule=rule: scan.odds(rule)) for rule in RULES}  # type: ignore[misc]
    best = {extra: max((r for r in RULES if r.extra == extra), key=lambda r: reached[r]) for extra in (0, 1, 2)}
    chosen = best[0]
    for extra in (1, 2):
        if reached[best[extra]] >= reached[chosen] + WORTH * (extra - chosen.extra):
            chosen = best[extra]
    return chosen


Odds = Callable[[Terms], np.ndarray]
"""Log odds of the voxels of a scan."""


def choose_offset(scans: Sequence[Terms], odds: Odds) -> float:
    """What to add to log odds for the best Dice of what is above 0 then, mean over patients and sets."""
    groups: dict[str, list[list[float]]] = {}
    for scan in scans:
        values = odds(scan)
        groups.setdefault(scan.sample.group, []).append([_dice(scan, values + offset > 0) for offset in OFFSETS])
    return OFFSETS[int(np.argmax(np.mean([np.mean(rows, axis=0) for rows in groups.values()], axis=0)))]


def _dice(scan: Terms, drawn: np.ndarray) -> float:
    whole = int(drawn.sum() + scan.truth.sum() + scan.missed)
    return 2 * float((drawn & scan.truth).sum()) / max(whole, 1)


def findings_elsewhere(scans: Sequence[Terms], odds: Odds) -> HealthyFindings:
    """The findings of scans that touch no lesion: of healthy scans all of them, of patients those in what is healthy.

    The second stands in where there are no healthy scans of a contrast; lesions that nobody has marked count as false.
    """
    by_scan = []
    for scan in scans:
        components, evidence = component_evidence(scan.volume(odds(scan)), scan.brain, HealthyFindings(HALF, 1, ()))
        evidence[np.unique(components[scan.brain][scan.truth])] = 0
        by_scan.append(evidence[evidence > 0])
    return HealthyFindings(HALF, len(by_scan), strongest(by_scan))


@dataclass(frozen=True)
class Choice:
    """What is chosen for a contrast or a set of contrasts.

    Attributes:
        rule: Of the score; of a set, that of none.
        offset: Added to the log odds, so that what is above one half is drawn.
        healthy: The findings of healthy scans, above the same border.
    """

    rule: Rule | None
    offset: float
    healthy: HealthyFindings

    def odds(self, scan: Terms) -> np.ndarray:
        """Log odds of the voxels of a scan, 0 at the border of findings."""
        return (scan.region if self.rule is None else scan.odds(self.rule)) + self.offset


def choose(scans: Sequence[Terms], healthy: Sequence[Terms]) -> Choice:
    """Rule, offset and healthy findings from the scans of patients and healthy scans of one contrast.

    Without healthy scans, what is healthy of the patients stands in.
    """
    rule = choose_rule(scans)
    offset = choose_offset(scans, lambda scan: scan.odds(rule))
    return _with_healthy(Choice(rule, offset, NOTHING), healthy or scans)


def choose_study(studies: Sequence[Terms]) -> Choice:
    """The healthy findings of fused log odds; there is nothing else to choose."""
    return _with_healthy(Choice(None, 0.0, NOTHING), studies)


def _with_healthy(choice: Choice, scans: Sequence[Terms]) -> Choice:
    return replace(choice, healthy=findings_elsewhere(scans, choice.odds))


NOTHING = HealthyFindings(HALF, 1, ())


@dataclass(frozen=True)
class Outcome:
    """What a choice does on a scan of a patient."""

    dice: float
    hit: bool | None
    false_findings: int


def outcome(scan: Terms, choice: Choice) -> Outcome:
    """What a reader sees at the default: Dice, whether a lesion of 5 mL and more is hit, and false findings."""
    score = scan.volume(choice.odds(scan))
    labels, findings = label_findings(score, HALF, scan.brain, 0.1, choice.healthy)
    drawn, voxel_ml = labels[scan.brain] > 0, score.voxel_ml
    touched = set(np.unique(labels[scan.brain][scan.truth & drawn]).tolist())
    lesion = int(scan.truth.sum()) + scan.missed
    share = float((drawn & scan.truth).sum()) / max(lesion, 1)
    hit = share >= HIT if lesion * voxel_ml >= LESION_ML else None
    return Outcome(_dice(scan, drawn), hit, len(findings) - len(touched))


# --- folds


def folds_of(scans: Sequence[Terms]) -> dict[tuple[str, str], int]:
    """The fold of every patient, spread evenly within each set."""
    found: dict[tuple[str, str], int] = {}
    for group in sorted({scan.sample.group for scan in scans}):
        patients = sorted({scan.sample.patient for scan in scans if scan.sample.group == group})
        found |= {(group, patient): index % FOLDS for index, patient in enumerate(patients)}
    return found


def leave_out(
    scans: Sequence[Terms], folds: Mapping[tuple[str, str], int], choose_from: Callable[[Sequence[Terms]], Choice]
) -> dict[int, Choice]:
    """What would be chosen without the patients of each fold."""
    present = sorted({folds[scan.patient] for scan in scans})
    return {fold: choose_from([scan for scan in scans if folds[scan.patient] != fold]) for fold in present}


# --- the report


def tune(model: str, patients: Sequence[Path], healthy: Sequence[str], cache: Path, device: str = "auto") -> str:
    """Chooses the detection settings of a model, writes them into its `model.json`, and tells the figures.

    Args:
        model: Id or folder; its method must be `disyre-v2` with the score ``region``.
        patients, healthy: See `find_patients` and `find_healthy`.
        cache: Folder for the terms of scans; reused.
        device: See `Detector`.

    Raises:
        DisyreError: Unusable model or scans.
    """
    detector = Detector(model, device=device)
    if detector.model is None or detector.method != DEFAULT_METHOD or not detector.gives_probabilities:
        raise DisyreError(f"Only models of the method {DEFAULT_METHOD} that mark regions can be tuned.")
    check_writable(cache)
    sha = detector.model.sha256
    scans = [cached_terms(one, detector) for one in _bar(find_patients(patients, cache, sha))]
    well = [cached_terms(one, detector) for one in _bar(find_healthy(healthy, cache, sha))]
    chosen, lines, folds = {}, [HEAD], folds_of(scans)
    for contrast in CONTRASTS:
        own, healthy_own = _of(scans, contrast), _of(well, contrast)
        if own:
            chosen[contrast] = choose(own, healthy_own)
            held_out = leave_out(own, folds, lambda some, h=healthy_own: choose(some, h))  # type: ignore[misc]
            lines += _table(contrast, own, chosen[contrast], held_out, folds)
    lines += _tune_studies(scans, chosen, folds)
    _write(detector.model.folder, chosen, _told(scans, well))
    return "\n".join(lines)


def _of(scans: Sequence[Terms], contrast: str) -> list[Terms]:
    return [scan for scan in scans if scan.sample.contrast == contrast]


def _bar(samples: list[Sample]) -> Iterable[Sample]:
    return tqdm(samples, file=sys.stderr, mininterval=10)


HEAD = (
    "| contrast | set | scans | AP | Dice | hit | false findings | AP, left out | Dice | hit | false findings |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)
"""All patients first, then each with what was chosen without its fold."""


def _table(
    name: str, scans: Sequence[Terms], choice: Choice, held_out: dict[int, Choice], folds: Mapping[tuple[str, str], int]
) -> list[str]:
    """Rows of the table, one for each set of patients, and a line that says what was chosen."""

    def left_out(scan: Terms) -> Choice:
        return held_out[folds[scan.patient]]

    rows = []
    for group in sorted({scan.sample.group for scan in scans}):
        some = [scan for scan in scans if scan.sample.group == group]
        both = _ap(some, choice.odds), _ap(some, lambda scan: left_out(scan).odds(scan))
        here = _summed([outcome(scan, choice) for scan in some])
        there = _summed([outcome(scan, left_out(scan)) for scan in some])
        rows.append(f"| {name} | {group} | {len(some)} | {both[0]:.3f} | {here} | {both[1]:.3f} | {there} |")
    rule = choice.rule.settings() if choice.rule else "sum of the contrasts"
    needed = choice.healthy.needed(DEFAULT_FALSE_FINDINGS)
    return [*rows, f"{name}: score {rule}, offset {choice.offset:g}, evidence at the default {needed:.3g}"]


def _summed(outcomes: Sequence[Outcome]) -> str:
    hits = [one.hit for one in outcomes if one.hit is not None]
    means = [float(np.mean([getattr(one, name) for one in outcomes])) for name in ("dice", "false_findings")]
    return f"{means[0]:.3f} | {sum(hits)} of {len(hits)} | {means[1]:.2f}"


def _tune_studies(scans: Sequence[Terms], chosen: dict[str, Choice], folds: Mapping[tuple[str, str], int]) -> list[str]:
    """Chooses for every set of contrasts that some patients have, adds that to `chosen`, and gives the lines."""
    by_patient: dict[tuple[str, str], dict[str, Terms]] = {}
    for scan in scans:
        by_patient.setdefault(scan.patient, {})[scan.sample.contrast] = scan
    lines = []
    for contrasts in (("FLAIR", "T1"), ("FLAIR", "T2"), ("T2", "T1"), ("FLAIR", "T2", "T1")):
        some = [one for one in by_patient.values() if set(contrasts) <= set(one)]
        studies = [_fused([one[contrast] for contrast in contrasts], chosen) for one in some]
        if len(studies) >= FOLDS:
            name = set_name(contrasts)
            chosen[name] = choose_study(studies)
            held_out = leave_out(studies, folds, choose_study)
            lines += _table(name, studies, chosen[name], held_out, folds)
    return lines


def _fused(scans: Sequence[Terms], chosen: Mapping[str, Choice]) -> Terms:
    """The study of scans of one patient that lie on one grid, on the brain of the first; its log odds as `region`."""
    first = scans[0]
    odds, covered = {}, {}
    for scan in scans:
        whole, brain = np.full(first.brain.shape, LOWEST_ODDS, np.float32), scan.brain & first.brain
        whole[scan.brain] = np.clip(chosen[scan.sample.contrast].odds(scan), LOWEST_ODDS, -LOWEST_ODDS)
        odds[scan.sample.contrast], covered[scan.sample.contrast] = np.where(brain, whole, LOWEST_ODDS), brain
    healthy = {contrast: chosen[contrast].healthy for contrast in odds}
    return replace(first, region=fuse(odds, covered, first.affine, healthy)[first.brain])


def _told(scans: Sequence[Terms], healthy: Sequence[Terms]) -> str:
    """What was tuned on, for the model's description."""
    groups = sorted({scan.sample.group for scan in scans})
    counts = [f"{len(_of(healthy, contrast))} {contrast}" for contrast in CONTRASTS if _of(healthy, contrast)]
    return f"patients of {', '.join(groups)}; healthy scans: {', '.join(counts) or 'none'}"


def _write(folder: Path, chosen: Mapping[str, Choice], tuned_on: str) -> None:
    """Stores what was chosen in a model's description."""
    description = read_description(folder)
    before = description.detection
    own = {c: one.rule.settings() | {"offset": one.offset} for c, one in chosen.items() if one.rule}
    kept = {c: {n: v for n, v in s.items() if n not in TUNED} for c, s in before.by_contrast.items()}
    by_contrast = {c: kept.get(c, {}) | own.get(c, {}) for c in (*CONTRASTS,) if kept.get(c) or own.get(c)}
    detection = replace(
        before,
        by_contrast=by_contrast,
        borders=dict.fromkeys(chosen, HALF),
        healthy={name: asdict(one.healthy) for name, one in chosen.items()},
    )
    training = {**description.training, "calibration": tuned_on}
    write_text(replace(description, detection=detection, training=training).to_json(), folder / DESCRIPTION)
