"""What `model.json` says of a model, and where models are found. Light: no torch.

A model is a folder with `model.json` and `weights.safetensors`; nothing in it can execute code.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from DISYRECore.errors import DisyreError
from DISYRECore.io.files import resources

DESCRIPTION, WEIGHTS = "model.json", "weights.safetensors"
LARGEST_DESCRIPTION = 16 << 20
"""Bytes of a `model.json` that is read at all."""

LARGEST_NUMBER, LONGEST_LIST = 4096, 64
"""In the settings of a network: what comes from a folder must not fill the memory."""

SPACING_MM = (0.2, 10.0)
_ID = re.compile(r"\w[\w.-]{0,127}", re.ASCII)

FORMAT = 2
"""Of `model.json`; older ones are brought to it by `migrated`."""

DEFAULT_MODEL, DEFAULT_METHOD = "brain-restoration", "disyre-v2"
BRAIN_MRI = "brain-mri"
SKULL_STRIP, SMALL_LESIONS = "skull-strip", "small-lesions"
HELPERS = (SKULL_STRIP, SMALL_LESIONS)
"""In place of a method: what models do that detect nothing by themselves."""


GONE = ("mirror", "zoom", "brightness")
"""Settings of the format before that no method has any more."""


@dataclass(frozen=True)
class EnsembleMember:
    """Another network whose anomalies count too, see `detection.ensemble`.

    Attributes:
        model: Id of its model.
        contrasts: Contrasts in which it counts.
        weight: Added to the log odds of what it marks.
    """

    model: str
    contrasts: tuple[str, ...]
    weight: float


@dataclass(frozen=True)
class DetectionSettings:
    """How a model is used for detection; chosen by measurement, written by a command, never by hand.

    Attributes:
        settings: Of the method, for example the severities of its ensemble.
        by_contrast: Settings that a contrast has besides, or instead.
        members: Further networks of the ensemble.
        score_scale: Score that is displayed as 1, per contrast; 1 for contrasts that it does not name.
        borders: Display score above which the voxels of a finding are drawn, per contrast.
        healthy: The findings of healthy scans, per contrast, see `detection.evidence.HealthyFindings`.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    by_contrast: dict[str, dict[str, Any]] = field(default_factory=dict)
    members: tuple[EnsembleMember, ...] = ()
    score_scale: dict[str, float] = field(default_factory=dict)
    borders: dict[str, float] = field(default_factory=dict)
    healthy: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelDescription:
    """What `model.json` says.

    Attributes:
        id: Name of the folder.
        title: One line for people.
        version: Of the weights.
        method: Default method, or one of `HELPERS`.
        network: Plain settings of the network; ``kind`` names it, see `models.registry`.
        spacing_mm: Spacing of the model grid.
        contrasts: Contrasts it was trained for.
        modality: What it looks at, see `preprocessing.modalities`.
        detection: How it is used.
        training: Data, licence, seeds, compute; free text by key.
        sha256: Of the weights file; empty where it is not told.
    """

    id: str
    title: str
    version: str
    method: str
    network: dict[str, Any]
    spacing_mm: float
    contrasts: tuple[str, ...]
    modality: str = BRAIN_MRI
    detection: DetectionSettings = field(default_factory=DetectionSettings)
    training: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""

    @property
    def is_worse_than_start(self) -> bool:
        """Whether it finds synthetic anomalies less well than the model that its training started from."""
        found = self.training.get("comparison")
        if not isinstance(found, dict) or not all(isinstance(found.get(name), float) for name in ("model", "start")):
            return False
        return bool(found["model"] < found["start"])

    def to_json(self) -> str:
        """Text of `model.json`."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"


def own_models() -> Path:
    """Folder of the user's own models: `DISYRE_MODELS`, or ``.disyre/models`` in the user's home."""
    return Path(os.environ.get("DISYRE_MODELS") or Path.home() / ".disyre" / "models")


def bundled_models() -> Path:
    """Folder of the models that come with the package."""
    return resources() / "Models"


def model_folders() -> list[Path]:
    """Folders that may hold models, the user's own first."""
    return [own_models(), bundled_models()]


def list_models() -> list[ModelDescription]:
    """Descriptions of all models for detection that can be found, each id once."""
    found: dict[str, ModelDescription] = {}
    for place in model_folders():
        for path in sorted(place.glob(f"[!.]*/{DESCRIPTION}")):
            found.setdefault(path.parent.name, read_description(path.parent))
    return [one for one in found.values() if one.method not in HELPERS]


def usual_detection(method: str, spacing_mm: float, start: str = "") -> DetectionSettings:
    """How a new model is used before it is calibrated, or tuned on patients.

    Args:
        method: Of the new model; used like the installed one of this method, without thresholds.
        spacing_mm: Of the new model.
        start: Model that its training started from, if any; used like that one, borders included, but nothing is known
            of healthy scans.
    """
    if start:
        return replace(read_description(find_model(start)).detection, healthy={})
    for one in list_models():
        if one.method == method:
            members = one.detection.members if one.spacing_mm == spacing_mm else ()
            return DetectionSettings(one.detection.settings, one.detection.by_contrast, members)
    return DetectionSettings()


def find_model(name: str) -> Path:
    """The folder of a model given by id or by path.

    Raises:
        DisyreError: There is none; the sentence names those that exist.
    """
    for folder in [place / name for place in model_folders()] + [Path(name)]:
        if (folder / DESCRIPTION).is_file():
            return folder
    known = ", ".join(d.id for d in list_models()) or "none is installed"
    raise DisyreError(f"There is no model '{name}'; available: {known}.", kind="unknown_model")


def read_description(folder: Path) -> ModelDescription:
    """Reads `model.json`, of this format or the one before.

    Raises:
        DisyreError: It is missing or damaged, or has values that make no sense.
    """
    try:
        path = own_file(folder, DESCRIPTION)
        if path.stat().st_size > LARGEST_DESCRIPTION:
            raise ValueError("too large")
        values = migrated(json.loads(path.read_text(encoding="utf-8")))
        values |= {"contrasts": tuple(values["contrasts"]), "network": dict(values["network"])}
        return _checked(ModelDescription(**{**values, "detection": _detection(values["detection"])}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DisyreError(f"The model in {folder.name} has no readable {DESCRIPTION}; install it again.") from error


def own_file(folder: Path, name: str) -> Path:
    """A file of a model.

    Raises:
        ValueError: It is a link to somewhere else.
    """
    if (folder / name).resolve().parent != folder.resolve():
        raise ValueError(f"{name} lies outside the folder of the model")
    return folder / name


def _checked(description: ModelDescription) -> ModelDescription:
    """A description whose values are of the types and sizes that they are used as."""
    texts = description.id, description.title, description.version, description.method, description.modality
    members = description.detection.members
    ids = [description.id, *(one.model for one in members)]
    weights = [float(one.weight) for one in members]
    sound = (
        all(isinstance(text, str) for text in (*texts, *description.contrasts, description.sha256, *ids))
        and all(_ID.fullmatch(one) for one in ids)
        and SPACING_MM[0] <= description.spacing_mm <= SPACING_MM[1]
        and all(math.isfinite(weight) for weight in weights)
        and _is_small(description.network)
    )
    if not sound:
        raise ValueError("values that make no sense")
    return description


def _is_small(value: Any) -> bool:
    """Whether all numbers and lists in settings are of a size that a network may have."""
    if isinstance(value, dict):
        return len(value) <= LONGEST_LIST and all(map(_is_small, value.values()))
    if isinstance(value, list):
        return len(value) <= LONGEST_LIST and all(map(_is_small, value))
    return not isinstance(value, (int, float)) or abs(value) <= LARGEST_NUMBER


def _detection(values: dict[str, Any]) -> DetectionSettings:
    members = tuple(EnsembleMember(**{**m, "contrasts": tuple(m["contrasts"])}) for m in values.get("members", ()))
    found = DetectionSettings(**{**values, "members": members})
    tables = (found.settings, found.by_contrast, found.borders, found.healthy, *found.by_contrast.values())
    if not all(isinstance(one, dict) for one in tables):
        raise TypeError("no table")
    return found


def migrated(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of `model.json` in `FORMAT`, from that or the format before, which had no number.

    Calibrations of the format before (a share of voxels) are dropped; its settings that are gone as well.
    """
    values = dict(values)
    if values.pop("format", 1) == FORMAT:
        return values
    method = {"extraction": SKULL_STRIP, "spots": SMALL_LESIONS}.get(values["method"], values["method"])
    kind = method if method in HELPERS else "diffusion" if method in ("anofpdm", "synomaly") else "restoration"
    by_contrast = {contrast: _renamed(one) for contrast, one in values.pop("contrast_settings", {}).items()}
    spots = {contrast: one.pop("spots") for contrast, one in by_contrast.items() if "spots" in one}
    members = [{"model": "brain-small-lesions", "contrasts": [c], "weight": weight} for c, weight in spots.items()]
    detection = {"score_scale": values.pop("score_scale", {}), "borders": values.pop("thresholds", {})}
    for name in ("normalise", "false_positive_rate"):
        values.pop(name, None)
    detection |= {"settings": _renamed(values.pop("settings")), "by_contrast": by_contrast, "members": members}
    network = {"kind": kind, **{{"looks": "stages"}.get(name, name): v for name, v in values["network"].items()}}
    modality = values.pop("profile", BRAIN_MRI)
    return {**values, "method": method, "network": network, "modality": modality, "detection": detection}


def _renamed(settings: dict[str, Any]) -> dict[str, Any]:
    named = {{"draws": "samples"}.get(name, name): value for name, value in settings.items() if name not in GONE}
    return named | ({"score": "region"} if named.get("score") == "fused" else {})
