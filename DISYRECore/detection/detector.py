"""From a scan to findings: read, prepare, restore, map back, find.

>>> from DISYRECore import Detector
>>> detection = Detector().detect("scan.nii.gz")
>>> detection.findings
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from DISYRECore.detection.ensemble import Marker, any_of, load_members, mark_all
from DISYRECore.detection.evidence import DEFAULT_FALSE_FINDINGS, HealthyFindings
from DISYRECore.detection.findings import Finding, label_findings
from DISYRECore.detection.runner import Progress, VolumeRestorer, silent
from DISYRECore.detection.site_calibration import SiteCalibration, load_site
from DISYRECore.errors import DisyreError
from DISYRECore.io.files import short_name
from DISYRECore.io.labels import is_label_map
from DISYRECore.io.volume import Volume
from DISYRECore.methods import find_method
from DISYRECore.methods.base import Restoration
from DISYRECore.methods.base.score import PROBABILITIES, log_odds
from DISYRECore.models.description import (
    BRAIN_MRI,
    DEFAULT_METHOD,
    DEFAULT_MODEL,
    HELPERS,
    DetectionSettings,
    ModelDescription,
    list_models,
)
from DISYRECore.models.device import pick_device
from DISYRECore.models.store import Model, load_model
from DISYRECore.preprocessing.modalities import find_modality
from DISYRECore.preprocessing.modalities.base import Modality
from DISYRECore.preprocessing.prepare import PreparedBrain
from DISYRECore.version import __version__

DEFAULT_BORDER = 0.5
DEFAULT_SPACING_MM = 1.5
"""Of the grid for methods without a model."""

CLEAR_CHANGE = 0.05
"""Change of normalised intensity from which the restored image shows the restoration alone."""


@dataclass(frozen=True)
class Detection:
    """Everything that comes out of one scan; all volumes on its exact grid.

    Attributes:
        scan: As read.
        score: Display score, float32 in [0, 1]; 0 outside the brain.
        labels: One label per finding, uint16, 1 the most unusual.
        restored: Restored image in scan units; the scan itself outside the brain.
        brain_mask: uint8.
        findings: In the order of their labels.
        border: Display score above which findings are drawn.
        record: Versions, settings, stage times and quality flags, for `run.json`.
        parts: Display score of each contrast of a study, on the same grid.
    """

    scan: Volume
    score: Volume
    labels: Volume
    restored: Volume
    brain_mask: Volume
    findings: list[Finding]
    border: float
    record: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Volume] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """A scan that no network has seen yet.

    Attributes:
        scan: As read.
        brain: On the model grid.
        seconds: What each stage took.
    """

    scan: Volume
    brain: PreparedBrain
    seconds: dict[str, float]


@dataclass(frozen=True)
class Reading:
    """A scan that was restored.

    Attributes:
        scan: As read.
        brain: Prepared.
        made: Outcome of the method on the model grid, smoothed, with the members of the ensemble.
        warnings: Sentences.
    """

    scan: Volume
    brain: PreparedBrain
    made: Restoration
    warnings: list[str]


class Detector:
    """A model and a method, ready for any number of scans.

    Args:
        model: Id or folder of a model; the one for the method and the modality when None.
        method: One of `methods.method_names`; the model's own when None.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch: Slices at a time.
        score: ``residual``, ``region`` or ``dynamic``, as the method has it; the model's own when None.
        site: Name of a site calibration of the model, which replaces the model's own.
        modality: One of `modalities.modality_names`; the model's own when None.

    Raises:
        DisyreError: Unknown model, method, device, site or modality, or a site or modality of another model.
    """

    def __init__(
        self,
        model: str | None = None,
        method: str | None = None,
        device: str = "auto",
        batch: int = 16,
        score: str | None = None,
        site: str | None = None,
        modality: str | None = None,
    ) -> None:
        spec = find_method(method) if method is not None else None
        wanted = find_modality(modality) if modality is not None else None
        self.device, self.batch = pick_device(device), batch
        self.model: Model | None = None
        self.markers: list[Marker] = []
        if spec is None or spec.family is not None:
            self.model = load_model(model or model_for(method, modality), self.device)
            self.spec = spec or find_method(_own_method(self.model.description))
            self.markers = load_members(self.model.description, self.device)
        else:
            self.spec = spec
        self.settings = self._settings(score)
        self.site = self._site(site)
        self.modality = self._modality(wanted)

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.spec.name

    @property
    def usage(self) -> DetectionSettings:
        """How the model is used; nothing for a method without a model, and no more than the score for a foreign one."""
        if self.model is None or self.method != self.model.description.method:
            return DetectionSettings()
        return self.model.description.detection

    def _settings(self, score: str | None) -> dict[str, Any]:
        if self.model is None:
            return {}
        description, settings = self.model.description, dict(self.usage.settings)
        if self.method != description.method:
            if find_method(description.method).family != self.spec.family:
                raise DisyreError(
                    f"The model '{description.id}' was trained for {description.method}, not for the method "
                    f"{self.method}; choose another model or method."
                )
            settings = {"score": description.detection.settings.get("score", "residual")}
        return settings | ({"score": score} if score else {})

    def _modality(self, wanted: Modality | None) -> Modality:
        if self.model is None:
            return wanted or find_modality(BRAIN_MRI)
        own = self.model.description.modality
        if wanted is not None and wanted.name != own:
            raise DisyreError(
                f"The model '{self.model.description.id}' is for {own}, not {wanted.name}; "
                "choose another model or the z-score."
            )
        return find_modality(own)

    def _site(self, name: str | None) -> SiteCalibration | None:
        if name is None:
            return None
        if self.model is None:
            raise DisyreError(f"The method {self.method} has no model and no site calibrations; leave the site out.")
        site = load_site(str(self.model.folder), name)
        if not site.fits(self.basis()):
            raise DisyreError(f"The site calibration '{name}' was made with another model or method; calibrate again.")
        return site

    @property
    def spacing_mm(self) -> float:
        """Spacing of the model grid."""
        return self.model.description.spacing_mm if self.model else DEFAULT_SPACING_MM

    def restoration(self, brain: PreparedBrain, progress: Progress = silent) -> tuple[Restoration, list[str]]:
        """Runs the method on the model grid; also returns warnings."""
        raw, warnings = self.unsmoothed(brain, progress)
        return Restoration(self.finish(raw, brain), raw.restored), warnings

    def finish(self, raw: RawScore, brain: PreparedBrain, median: bool = True) -> Tensor:
        """The score (Z, Y, X) of what `unsmoothed` gave, with the members of the ensemble.

        Scores that the method has not smoothed itself pass a 3 x 3 x 3 median, the same for every method.
        """
        mask = brain.tensors()[1]
        own = self.settings_for(brain.contrast).get("smooth", 0) > 0
        smoothed = smooth if median and not own else _as_it_is
        return any_of(smoothed(raw.score), [smoothed(one) for one in raw.members]) * mask

    def unsmoothed(self, brain: PreparedBrain, progress: Progress = silent) -> tuple[RawScore, list[str]]:
        """What method and members make of a brain, without any post-processing; also returns warnings."""
        x, mask = brain.tensors()
        settings, restore = self.settings_for(brain.contrast), None
        if self.model is not None:
            restore = VolumeRestorer(self.model.network, self.batch, self.spec.evaluations(settings), progress)
        made = self.spec.run(restore, x, mask, **settings)
        marked, doubts = mark_all(self.listened_to(), x, mask, brain.contrast)
        return RawScore(made.score, made.restored, marked), [*(restore.warnings if restore else []), *doubts]

    def settings_for(self, contrast: str) -> dict[str, Any]:
        """Settings of the method for a contrast."""
        return self.settings | self.usage.by_contrast.get(contrast, {})

    def listened_to(self) -> list[Marker]:
        """The members of the ensemble that count: none beside scores that are no probabilities."""
        own = self.model is not None and self.method == self.model.description.method
        return self.markers if own and self.settings.get("score") in PROBABILITIES else []

    def basis(self) -> dict[str, Any]:
        """What scores depend on, by the names of `site_calibration.SiteCalibration`; for methods with a model."""
        made = {
            "model_sha256": self.model_sha256,
            "method": self.method,
            "settings": self.settings,
            "by_contrast": self.usage.by_contrast,
        }
        return dict(json.loads(json.dumps(made)))

    @property
    def model_sha256(self) -> str | None:
        """Of the weights of the model and of the members of its ensemble."""
        if self.model is None:
            return None
        hashes = [self.model.sha256, *(marker.model.sha256 for marker in self.markers)]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()

    def scale(self, contrast: str) -> float:
        """Score that is displayed as 1."""
        return 1.0 if self.gives_probabilities else self.usage.score_scale.get(contrast, self._widest_scale())

    def _widest_scale(self) -> float:
        return max(self.usage.score_scale.values(), default=1.0)

    @property
    def gives_probabilities(self) -> bool:
        """Whether scores are probabilities."""
        return self.settings.get("score") in PROBABILITIES

    @property
    def is_measured(self) -> bool:
        """Whether the score is the one that borders and healthy findings of the model were measured with."""
        return self.settings.get("score") == self.usage.settings.get("score")

    def border(self, contrast: str) -> float:
        """Display score above which findings of a contrast are drawn."""
        borders = self.usage.borders if self.is_measured else {}
        return borders.get(contrast, max(borders.values(), default=DEFAULT_BORDER))

    def healthy(self, contrast: str) -> HealthyFindings | None:
        """The findings of healthy scans of a contrast, of the site or of the model; None where nobody has looked."""
        if self.site and contrast in self.site.healthy:
            return self.site.healthy[contrast].findings
        known = self.usage.healthy.get(contrast) if self.is_measured else None
        return HealthyFindings(**known) if known else None

    def native_score(self, brain: PreparedBrain, score: Tensor) -> Volume:
        """Display score in [0, 1] on the grid of the scan, 0 outside the brain, of a score (Z, Y, X)."""
        if not self.gives_probabilities:
            return brain.to_native((score / self.scale(brain.contrast)).clamp(0, 1))
        odds = brain.log_odds_to_native(log_odds(score))
        return Volume((sigmoid(odds.voxels) * brain.native_mask).astype(np.float32), odds.affine)

    def prepare(
        self,
        scan: Volume | Path | str,
        mask: np.ndarray | Path | str | None = None,
        contrast: str | None = None,
        progress: Progress = silent,
    ) -> Prepared:
        """Reads and prepares a scan, which may go on in a thread beside `detect`; see there.

        Raises:
            DisyreError: The scan cannot be used; of kind ``labels``: it is a label map.
        """
        clock = Clock(progress)
        with clock("read"):
            volume = scan if isinstance(scan, Volume) else self.modality.read(scan)
            _check_no_labels(volume)
            given = self.modality.read_mask(mask, volume.grid) if isinstance(mask, (str, Path)) else mask
        with clock("prepare"):
            brain = self.modality.prepare(volume, self.spacing_mm, given, contrast)
        return Prepared(volume, brain, clock.seconds)

    def read(self, prepared: Prepared, clock: Clock) -> Reading:
        """Restores a prepared scan."""
        clock.add(prepared.seconds)
        with clock("restore"):
            made, warnings = self.restoration(prepared.brain, clock.progress)
        return Reading(prepared.scan, prepared.brain, made, [*warnings, *self.doubts(prepared.brain)])

    def detect(
        self,
        scan: Volume | Path | str | Prepared,
        *,
        mask: np.ndarray | Path | str | None = None,
        border: float | None = None,
        false_findings: float = DEFAULT_FALSE_FINDINGS,
        contrast: str | None = None,
        smallest_ml: float | None = None,
        progress: Progress = silent,
    ) -> Detection:
        """Finds anomalies in one scan.

        Args:
            scan: A volume, a file that the modality reads, or what `prepare` made of one, then without mask and
                contrast.
            mask: Brain mask, a bool array on the scan's grid or a file; found when None.
            border: Display score above which findings are drawn, in [0, 1]; the model's own when None.
            false_findings: Findings per healthy scan that are accepted.
            contrast: ``T1``, ``T2`` or ``FLAIR``; recognised when None.
            smallest_ml: Findings below this volume are dropped; the modality's own when None.
            progress: See `runner.Progress`.

        Raises:
            DisyreError: The scan cannot be used.
        """
        clock = Clock(progress)
        prepared = scan if isinstance(scan, Prepared) else self.prepare(scan, mask, contrast, progress)
        reading = self.read(prepared, clock)
        brain = reading.brain
        with clock("map back"):
            score = self.native_score(brain, reading.made.score)
            restored = restored_scan(reading)
        return self.conclude(reading, score, restored, brain.contrast, clock, border, false_findings, smallest_ml)

    def conclude(
        self,
        reading: Reading,
        score: Volume,
        restored: Volume,
        contrast: str,
        clock: Clock,
        border: float | None,
        false_findings: float,
        smallest_ml: float | None,
    ) -> Detection:
        """Findings and record of a display score on the grid of a scan; `contrast` may be that of a study."""
        native_mask = reading.brain.native_mask
        drawn_from = self.border(contrast) if border is None else border
        smallest_ml = self.modality.smallest_ml if smallest_ml is None else smallest_ml
        healthy = self.healthy(contrast)
        with clock("findings"):
            labels, findings = label_findings(score, drawn_from, native_mask, smallest_ml, healthy, false_findings)
            if not (self.modality.has_sides and reading.scan.has_sides):
                findings = [replace(finding, side="") for finding in findings]
        record = {
            **self._identity(contrast),
            "border": drawn_from,
            "false_findings": false_findings if healthy else None,
            "healthy": asdict(healthy) if healthy else None,
            "smallest_ml": smallest_ml,
            "scan": reading.brain.record(),
            "warnings": reading.warnings,
            "seconds": {stage: round(value, 3) for stage, value in clock.seconds.items()},
        }
        return Detection(
            scan=reading.scan,
            score=replace(reading.scan, voxels=score.voxels),
            labels=replace(reading.scan, voxels=labels),
            restored=replace(reading.scan, voxels=restored.voxels),
            brain_mask=replace(reading.scan, voxels=native_mask.astype(np.uint8)),
            findings=findings,
            border=drawn_from,
            record=record,
        )

    def doubts(self, brain: PreparedBrain) -> list[str]:
        """What a reader should know about how well model and site fit a scan."""
        doubts = self._site_doubts(brain.contrast)
        if self.model is None or brain.contrast in self.model.description.contrasts:
            return doubts
        trained = ", ".join(self.model.description.contrasts)
        return [f"The model was trained for {trained}, not for {brain.contrast}: do not rely on its score.", *doubts]

    def _site_doubts(self, contrast: str) -> list[str]:
        if self.site is None:
            return []
        if contrast in self.site.healthy:
            return [f"Site calibration: {doubt}" for doubt in self.site.healthy[contrast].warnings]
        return [f"The site calibration has no {contrast} scans: the model's own was used."]

    def _identity(self, contrast: str) -> dict[str, Any]:
        return {
            "disyre": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "model": self.model.description.id if self.model else None,
            "model_version": self.model.description.version if self.model else None,
            "model_sha256": self.model_sha256,
            "method": self.method,
            "modality": self.modality.name,
            "site_calibration": self.site.site if self.site else None,
            "settings": self.settings_for(contrast),
            "members": [m.member.model for m in self.listened_to() if contrast in m.member.contrasts],
            "device": str(self.device),
            "score_scale": self.scale(contrast),
        }


def detect(scan: Volume | Path | str, **settings: Any) -> Detection:
    """Finds anomalies in one scan with the default model.

    Args:
        scan: A volume or a file.
        settings: Of `Detector.detect`.

    Raises:
        DisyreError: The scan cannot be used.
    """
    return Detector().detect(scan, **settings)


@dataclass(frozen=True)
class RawScore:
    """What a method and the members of its ensemble make of a brain, each (Z, Y, X) on the model grid.

    Attributes:
        score, restored: See `methods.base.Restoration`.
        members: Probability of an anomaly, of each member.
    """

    score: Tensor
    restored: Tensor
    members: list[Tensor]


def model_for(method: str | None, modality: str | None = None) -> str:
    """Id of the model to use when none is named: the default one, or one made for the method and the modality.

    Raises:
        DisyreError: None is installed.
    """
    default = find_method(DEFAULT_METHOD).family
    family = find_method(method).family if method else None
    if family in (None, default) and modality in (None, BRAIN_MRI):
        return DEFAULT_MODEL
    for one in list_models():
        if one.modality == (modality or BRAIN_MRI) and family in (None, find_method(one.method).family):
            return one.id
    wanted = " and ".join(filter(None, (method, modality)))
    raise DisyreError(f"No model for {wanted} is installed; train one, or name its folder.", kind="unknown_model")


def _own_method(description: ModelDescription) -> str:
    if description.method in HELPERS:
        raise DisyreError(f"The model '{description.id}' only helps others to find anomalies; choose another one.")
    return description.method


def sigmoid(odds: np.ndarray) -> np.ndarray:
    """Probabilities of log odds; any shape."""
    return 1 / (1 + np.exp(-odds))


def _check_no_labels(scan: Volume) -> None:
    if is_label_map(scan.voxels):
        name = short_name(scan.source)
        raise DisyreError(f"{name} is a mask or a label map, not a scan; give the scan that it belongs to.", "labels")


def _as_it_is(score: Tensor) -> Tensor:
    return score


class Clock:
    """Times stages and tells progress of their beginnings."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.seconds = progress, dict[str, float]()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Times one stage."""
        self.progress(stage, 0.0)
        start = time.perf_counter()
        yield
        self.add({stage: time.perf_counter() - start})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Counts what stages took elsewhere, or took again."""
        for stage, value in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + value


def smooth(score: Tensor) -> Tensor:
    """A 3 x 3 x 3 median."""
    return torch.from_numpy(ndimage.median_filter(score.cpu().numpy(), size=3))


def restored_scan(reading: Reading) -> Volume:
    """The restored image in scan units where the method changed the scan, elsewhere the scan with all its detail."""
    scan, brain, made = reading.scan, reading.brain, reading.made
    x, _ = brain.tensors()
    change = brain.to_native((made.restored - x).abs()).voxels
    share = np.clip(change / CLEAR_CHANGE, 0, 1)
    restored = brain.intensities.restore(brain.to_native(made.restored).voxels)
    return Volume((scan.voxels + share * (restored - scan.voxels)).astype(np.float32), scan.affine)
