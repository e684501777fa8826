"""From a scan to findings: prepare, restore, map back, threshold.

>>> from DISYRECore.pipeline import Detector
>>> detection = Detector().detect("scan.nii.gz")
>>> detection.findings
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from DISYRECore.errors import DisyreError
from DISYRECore.findings import Finding, label_findings
from DISYRECore.methods import METHODS, NEEDS_NO_MODEL, OWN_MODELS, Restoration, evaluations
from DISYRECore.methods.restoration import PROBABILITIES, either
from DISYRECore.model import DEFAULT_MODEL, SPOTS, Model, load_model, model_for
from DISYRECore.networks import pick_device
from DISYRECore.prepare import PreparedBrain
from DISYRECore.profiles import BRAIN_MRI, ULTRASOUND, Profile, find_profile
from DISYRECore.restore import Progress, VolumeRestorer, silent, small_anomalies
from DISYRECore.sites import SiteProfile, load_site
from DISYRECore.standardise import standardise
from DISYRECore.version import __version__
from DISYRECore.volume import Volume

RULER_SPACING_MM = 1.5
SMALLEST_ML = 0.1
CLEAR_CHANGE = 0.05
"""Change of normalised intensity from which the restored image shows the restoration alone."""


@dataclass(frozen=True)
class Detection:
    """Everything that comes out of one scan; all volumes on its exact grid.

    Attributes:
        scan: As read.
        score: Anomaly score as shown, float32 in [0, 1]; 0 outside the brain.
        labels: One label per finding, uint16, 1 the most prominent.
        restored: Restored image in scan units; the scan itself outside the brain.
        brain_mask: uint8.
        findings: In the order of their labels.
        threshold: On the score shown.
        record: Versions, settings, stage times and quality flags, for `run.json`.
    """

    scan: Volume
    score: Volume
    labels: Volume
    restored: Volume
    brain_mask: Volume
    findings: list[Finding]
    threshold: float
    record: dict[str, Any] = field(default_factory=dict)


class Detector:
    """A model and a method, ready for any number of scans.

    Args:
        model: Id or folder of a model; the one for the method and the profile when None.
        method: One of `METHODS`; the model's own when None.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch: Slices at a time.
        score: ``residual``, ``region``, ``fused`` or ``dynamic``, as the method has it; the model's own when None.
        site: Name of a site profile of the model, whose thresholds replace the model's own.
        profile: Kind of scans, one of `profiles.PROFILES`; the model's own when None.

    Raises:
        DisyreError: Unknown model, method, device, site or kind of scans, or a site or kind of another model.
    """

    def __init__(
        self,
        model: str | None = None,
        method: str | None = None,
        device: str = "auto",
        batch: int = 16,
        score: str | None = None,
        site: str | None = None,
        profile: str | None = None,
    ) -> None:
        if method is not None and method not in METHODS:
            raise DisyreError(f"There is no method '{method}'; choose one of {', '.join(METHODS)}.")
        if profile is not None:
            find_profile(profile)
        self.device, self.batch = pick_device(device), batch
        if model is None:
            model = DEFAULT_MODEL if method in NEEDS_NO_MODEL else model_for(method, profile)
        self.model: Model | None = None if method in NEEDS_NO_MODEL else load_model(model, self.device)
        self.method = method or (self.model.description.method if self.model else "ruler")
        self.settings = self._settings(score)
        self.site = self._profile(model, site)
        self.kind, self.profile = self._kind(profile)

    def _settings(self, score: str | None) -> dict[str, Any]:
        if self.model is None:
            return {}
        settings = dict(self.model.description.settings)
        own = self.model.description.method
        if self.method != own and {self.method, own} & set(OWN_MODELS):
            trained = f"{own}, so use the method {own}"
            if own not in OWN_MODELS:
                trained = f"restoration, so do not use the method {self.method}"
            raise DisyreError(f"The model '{self.model.description.id}' was trained for {trained}.")
        if self.method == "disyre":
            settings = {"score": settings.get("score", "residual")}
        return settings | ({"score": score} if score else {})

    def _kind(self, name: str | None) -> tuple[str, Profile]:
        own = self.model.description.profile if self.model else name or BRAIN_MRI
        if self.model is not None and name not in (None, own):
            raise DisyreError(
                f"The model '{self.model.description.id}' is for {own}, not {name}; choose another model or the ruler."
            )
        return own, find_profile(own)

    def _profile(self, model: str, name: str | None) -> SiteProfile | None:
        if name is None:
            return None
        if self.model is None:
            raise DisyreError("The ruler has no model and no site profiles; leave --site out.")
        profile = load_site(model, name)
        if not profile.fits(self.basis()):
            raise DisyreError(f"The site profile '{name}' was made with another model or method; calibrate again.")
        return profile

    @property
    def spacing_mm(self) -> float:
        """Spacing of the model grid."""
        return self.model.description.spacing_mm if self.model else RULER_SPACING_MM

    def restoration(self, brain: PreparedBrain, progress: Progress = silent) -> tuple[Restoration, list[str]]:
        """Runs the method on the model grid; also returns warnings.

        The score is smoothed by a 3 x 3 x 3 median, the same for every method, and brought to the model's scale.
        """
        made, warnings = self.unsmoothed(brain, progress)
        return Restoration(self.finish(made, brain), made.restored), warnings

    def finish(self, made: Restoration, brain: PreparedBrain, median: bool = True) -> torch.Tensor:
        """The score (Z, Y, X) of what `unsmoothed` made: smoothed by the median, standardised, and with the small ones.

        Where they count, a probability p becomes that of an anomaly which the method or the network of `spots`, whose
        logit is l, marks: 1 - (1 - p)(1 - sigmoid(l + b)), with the offset b of the contrast, see `spot_offset`.
        """
        score = self.standardise(smooth(made.score) if median else made.score, brain)
        if made.small is None:
            return score
        return either(score, smooth(made.small) if median else made.small) * brain.tensors()[1]

    def standardise(self, score: torch.Tensor, brain: PreparedBrain) -> torch.Tensor:
        """A score map (Z, Y, X) on the scale that the model asks for, 0 outside the brain."""
        how = self.model.description.normalise.get(brain.contrast, "none") if self.model else "none"
        mask = brain.tensors()[1]
        return standardise(score * mask, mask, self.settings.get("score", "residual"), how)

    def unsmoothed(self, brain: PreparedBrain, progress: Progress = silent) -> tuple[Restoration, list[str]]:
        """What the method itself makes of a brain, without any post-processing; also returns warnings."""
        x, mask = brain.tensors()
        settings, restore = self.settings_for(brain.contrast), None
        if self.model is not None:
            restore = VolumeRestorer(self.model.network, self.batch, evaluations(self.method, settings), progress)
        made = METHODS[self.method](restore, x, mask, **settings)
        warnings, offset = restore.warnings if restore else [], self.spot_offset(brain.contrast)
        if offset is None:
            return made, warnings
        assert self.model is not None
        assert self.model.spots is not None
        logit, more = small_anomalies(self.model.spots, x, mask, brain.contrast)
        return replace(made, small=torch.sigmoid(logit + offset) * mask), [*warnings, *more]

    def settings_for(self, contrast: str) -> dict[str, Any]:
        """Settings of the method for a contrast."""
        settings = self.settings | self.contrast_settings.get(contrast, {})
        return {name: value for name, value in settings.items() if name != SPOTS}

    def spot_offset(self, contrast: str) -> float | None:
        """What is added to the logit of small anomalies of a contrast, or None where they do not count."""
        listens = self.settings.get("score") in PROBABILITIES
        return self.contrast_settings.get(contrast, {}).get(SPOTS) if listens else None

    @property
    def contrast_settings(self) -> dict[str, dict[str, Any]]:
        """Settings that some contrasts have besides; none for a method that is not the model's own."""
        if self.model is None or self.method != self.model.description.method:
            return {}
        return self.model.description.contrast_settings

    def basis(self) -> dict[str, Any]:
        """What scores depend on, by the names of `sites.SiteProfile`; for methods that have a model."""
        assert self.model
        made = {
            "model_sha256": self.model.sha256,
            "method": self.method,
            "settings": self.settings,
            "contrast_settings": self.contrast_settings,
            "normalise": self.model.description.normalise,
        }
        return dict(json.loads(json.dumps(made)))

    def shown(self, contrast: str) -> tuple[float, float]:
        """Score that is shown as 1, and the default threshold on the score shown, for a contrast."""
        if self.site and contrast in self.site.thresholds:
            return self.site.shown(contrast)
        if self.model is None or not self.model.description.score_scale:
            return 1.0, 0.5
        description = self.model.description
        scale, threshold = description.score_scale, description.thresholds
        return scale.get(contrast, max(scale.values())), threshold.get(contrast, max(threshold.values()))

    def detect(
        self,
        scan: Volume | Path | str,
        *,
        mask: np.ndarray | Path | str | None = None,
        threshold: float | None = None,
        contrast: str | None = None,
        smallest_ml: float | None = None,
        progress: Progress = silent,
    ) -> Detection:
        """Finds anomalies in one scan.

        Args:
            scan: A volume, or a file that the profile reads.
            mask: Brain mask, a bool array on the scan's grid or a file; found when None.
            threshold: On the score shown, in [0, 1]; the model's own when None.
            contrast: ``T1``, ``T2`` or ``FLAIR``; guessed when None.
            smallest_ml: Findings below this volume are dropped; the profile's own when None.
            progress: See `restore.Progress`.

        Raises:
            DisyreError: The scan cannot be used.
        """
        clock = Clock(progress)
        with clock("read"):
            volume = scan if isinstance(scan, Volume) else self.profile.read(scan)
            given = self.profile.read_mask(mask, volume.grid) if isinstance(mask, (str, Path)) else mask
            smallest_ml = self.profile.smallest_ml if smallest_ml is None else smallest_ml
        with clock("prepare"):
            brain = self.profile.prepare(volume, self.spacing_mm, given, contrast)
        with clock("restore"):
            made, warnings = self.restoration(brain, progress)
        with clock("map back"):
            scale, usual = self.shown(brain.contrast)
            score = brain.to_native((made.score / scale).clamp(0, 1))
            restored = _restored(volume, brain, made)
        with clock("findings"):
            cut = usual if threshold is None else threshold
            labels, findings = label_findings(score, cut, brain.native_mask, smallest_ml)
            if self.kind == ULTRASOUND:
                findings = [replace(finding, side="") for finding in findings]
        record = self._record(brain, cut, smallest_ml, clock.seconds, [*warnings, *self._doubts(brain)])
        return Detection(
            scan=volume,
            score=score,
            labels=Volume(labels, volume.affine),
            restored=restored,
            brain_mask=Volume(brain.native_mask.astype(np.uint8), volume.affine),
            findings=findings,
            threshold=cut,
            record=record,
        )

    def _doubts(self, brain: PreparedBrain) -> list[str]:
        doubts = self._site_doubts(brain)
        if self.model is None or brain.contrast in self.model.description.contrasts:
            return doubts
        trained = ", ".join(self.model.description.contrasts)
        return [f"The model was trained for {trained}, not for {brain.contrast}: do not rely on its score.", *doubts]

    def _site_doubts(self, brain: PreparedBrain) -> list[str]:
        if self.site is None:
            return []
        if brain.contrast in self.site.thresholds:
            return [f"Site profile: {doubt}" for doubt in self.site.thresholds[brain.contrast].warnings]
        return [f"The site profile has no {brain.contrast} scans: the model's own threshold was used."]

    def _record(
        self, brain: PreparedBrain, threshold: float, smallest_ml: float, seconds: dict[str, float], warnings: list[str]
    ) -> dict[str, Any]:
        return {
            "disyre": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "model": self.model.description.id if self.model else None,
            "model_version": self.model.description.version if self.model else None,
            "model_sha256": self.model.sha256 if self.model else None,
            "method": self.method,
            "profile": self.kind,
            "site": self.site.site if self.site else None,
            "settings": self.settings_for(brain.contrast),
            "spot_offset": self.spot_offset(brain.contrast),
            "device": str(self.device),
            "score_scale": self.shown(brain.contrast)[0],
            "threshold": threshold,
            "smallest_ml": smallest_ml,
            "scan": brain.record(),
            "warnings": warnings,
            "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        }


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
        self.seconds[stage] = time.perf_counter() - start


def smooth(score: torch.Tensor) -> torch.Tensor:
    """A 3 x 3 x 3 median."""
    return torch.from_numpy(ndimage.median_filter(score.cpu().numpy(), size=3))


def _restored(scan: Volume, brain: PreparedBrain, made: Restoration) -> Volume:
    """The restored image in scan units where the method changed the scan, elsewhere the scan with all its detail."""
    x, _ = brain.tensors()
    change = brain.to_native((made.restored - x).abs()).voxels
    share = np.clip(change / CLEAR_CHANGE, 0, 1)
    restored = brain.intensities.restore(brain.to_native(made.restored).voxels)
    return Volume((scan.voxels + share * (restored - scan.voxels)).astype(np.float32), scan.affine)
