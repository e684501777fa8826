"""Models on disk: one folder with `model.json` and `weights.safetensors`. Nothing in it can execute code."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from DISYRECore.diffusion import DiffusionNetwork, DiffusionSettings, diffusion_settings
from DISYRECore.errors import DisyreError
from DISYRECore.extraction import ExtractionNetwork, ExtractionSettings
from DISYRECore.files import resources
from DISYRECore.methods import DIFFUSION, OWN_MODELS
from DISYRECore.networks import NetworkSettings, RestorationNetwork, network_settings
from DISYRECore.spots import SpotNetwork, SpotSettings, spot_settings
from DISYRECore.weights import read_weights, write_weights

DESCRIPTION, WEIGHTS = "model.json", "weights.safetensors"
DEFAULT_MODEL = "brain-restoration"
BRAIN_MRI = "brain-mri"
Settings = NetworkSettings | ExtractionSettings | DiffusionSettings | SpotSettings
Network = RestorationNetwork | ExtractionNetwork | DiffusionNetwork | SpotNetwork
HELPERS = ("extraction", "spots")
"""What models do that detect nothing by themselves."""

EXTRACTION_MODEL, SPOT_MODEL = "brain-extraction", "brain-spots"
SPOTS = "spots"
"""Setting of a contrast: the small anomalies that `SPOT_MODEL` marks count too, see `pipeline.Detector.finish`."""


@dataclass(frozen=True)
class ModelDescription:
    """What `model.json` says.

    Attributes:
        id: Name of the folder.
        title: One line for people.
        version: Of the weights.
        method: Default method; one of `HELPERS` for models that help others.
        settings: Settings of the method, for example the severities of its ensemble.
        contrast_settings: Settings that a contrast has besides, or instead.
        network: Settings of the network.
        spacing_mm: Spacing of the model grid.
        contrasts: Contrasts it was trained for.
        score_scale: Score that is shown as 1, per contrast.
        thresholds: Default threshold on the score shown, per contrast.
        false_positive_rate: Share of healthy voxels above the thresholds when they were calibrated.
        normalise: How the scores of each scan are brought to one scale, per contrast, see
            `standardise.NORMALISATIONS`; ``none`` for contrasts that it does not name.
        training: Data, licence, seeds, compute; free text by key.
        profile: Kind of scans that it is for, see `profiles.PROFILES`.
    """

    id: str
    title: str
    version: str
    method: str
    settings: dict[str, Any]
    network: Settings
    spacing_mm: float
    contrasts: tuple[str, ...]
    score_scale: dict[str, float] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    false_positive_rate: float = 0.01
    normalise: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    profile: str = BRAIN_MRI
    contrast_settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_json(self) -> str:
        """Text of `model.json`."""
        return json.dumps({**asdict(self), "network": self.network.to_dict()}, indent=2) + "\n"


@dataclass(frozen=True)
class Model:
    """A loaded model: its description, its networks in evaluation mode, and the hash of their weights."""

    description: ModelDescription
    network: RestorationNetwork | DiffusionNetwork
    sha256: str
    spots: SpotNetwork | None = None

    def to(self, device: torch.device) -> Model:
        """Moves the networks to `device`."""
        self.network.to(device)
        if self.spots is not None:
            self.spots.to(device)
        return self


def model_folders() -> list[Path]:
    """Folders that may hold models: `DISYRE_MODELS` first, then the bundled ones."""
    named = os.environ.get("DISYRE_MODELS")
    return [*([Path(named)] if named else []), resources() / "Models"]


def list_models() -> list[ModelDescription]:
    """Descriptions of all models for detection that can be found, each id once."""
    found: dict[str, ModelDescription] = {}
    for place in model_folders():
        for path in sorted(place.glob(f"*/{DESCRIPTION}")):
            found.setdefault(path.parent.name, read_description(path.parent))
    return [one for one in found.values() if one.method not in HELPERS]


def model_for(method: str | None, profile: str | None = None) -> str:
    """Id of the model to use when none is named: the default one, or one made for the method and the kind of scans.

    Raises:
        DisyreError: None is installed.
    """
    if method not in OWN_MODELS and profile in (None, BRAIN_MRI):
        return DEFAULT_MODEL
    for one in list_models():
        if one.profile == (profile or BRAIN_MRI) and (method or one.method) == one.method:
            return one.id
    wanted = " and ".join(filter(None, (method, profile)))
    raise DisyreError(f"No model for {wanted} is installed; train one, or name its folder.", kind="unknown_model")


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
    """Reads `model.json`.

    Raises:
        DisyreError: It is missing or damaged.
    """
    try:
        values = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        values["network"] = _settings(values["method"], values["network"])
        values["contrasts"] = tuple(values["contrasts"])
        description = ModelDescription(**values)
        by_contrast = description.contrast_settings
        tables = (description.thresholds, description.normalise, by_contrast)
        if not (_all_tables(tables) and _all_tables(by_contrast.values())):
            raise TypeError("no table")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DisyreError(f"The model in {folder.name} has no readable {DESCRIPTION}; install it again.") from error
    return description


def _all_tables(values: Iterable[Any]) -> bool:
    return all(isinstance(one, dict) for one in values)


def _settings(method: str, values: dict[str, Any]) -> Settings:
    if method in DIFFUSION:
        return diffusion_settings(values)
    if method == "extraction":
        return ExtractionSettings(**{**values, "channels": tuple(values["channels"])})
    if method == "spots":
        return spot_settings(values)
    return network_settings(values)


def build_network(settings: Settings) -> Network:
    """A fresh network."""
    if isinstance(settings, DiffusionSettings):
        return DiffusionNetwork(settings)
    if isinstance(settings, ExtractionSettings):
        return ExtractionNetwork(settings)
    if isinstance(settings, SpotSettings):
        return SpotNetwork(settings)
    return RestorationNetwork(settings)


def load_model(name: str = DEFAULT_MODEL, device: torch.device | str = "cpu") -> Model:
    """Loads a model for detection by id or folder, ready to run.

    Raises:
        DisyreError: Unknown or damaged model, or one that does something else.
    """
    folder = find_model(name)
    description = read_description(folder)
    network = _load_network(folder, description, device)
    if isinstance(network, ExtractionNetwork):
        raise DisyreError(f"The model '{description.id}' finds brains, not anomalies; choose another one.")
    if isinstance(network, SpotNetwork):
        raise DisyreError(f"The model '{description.id}' only helps others to find anomalies; choose another one.")
    weights = (folder / WEIGHTS).read_bytes()
    if not any(SPOTS in settings for settings in description.contrast_settings.values()):
        return Model(description, network, hashlib.sha256(weights).hexdigest())
    spots, more = _load_spots(description.spacing_mm, device)
    return Model(description, network, hashlib.sha256(weights + more).hexdigest(), spots)


def _load_spots(spacing_mm: float, device: torch.device | str) -> tuple[SpotNetwork, bytes]:
    """The network for small anomalies and its weights as they are stored.

    Raises:
        DisyreError: It is missing or damaged, or works at another spacing.
    """
    folder = find_model(SPOT_MODEL)
    description = read_description(folder)
    network = _load_network(folder, description, device)
    if not isinstance(network, SpotNetwork) or description.spacing_mm != spacing_mm:
        raise DisyreError(f"The model '{SPOT_MODEL}' does not mark small anomalies on this grid; install it again.")
    return network, (folder / WEIGHTS).read_bytes()


def load_extractor(
    name: str = EXTRACTION_MODEL, device: torch.device | str = "cpu"
) -> tuple[ModelDescription, ExtractionNetwork]:
    """Loads a brain extraction model by id or folder, ready to run.

    Raises:
        DisyreError: Unknown or damaged model, or one that does something else.
    """
    folder = find_model(name)
    description = read_description(folder)
    network = _load_network(folder, description, device)
    if not isinstance(network, ExtractionNetwork):
        raise DisyreError(f"The model '{description.id}' does not find brains; choose another one.")
    return description, network


def _load_network(folder: Path, description: ModelDescription, device: torch.device | str) -> Network:
    network = build_network(description.network)
    try:
        network.load_state_dict(read_weights(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise DisyreError(f"The weights of model '{description.id}' cannot be read; install it again.") from error
    return network.eval().requires_grad_(False).to(device)


def save_model(folder: Path, description: ModelDescription, weights: dict[str, torch.Tensor], bits: int = 16) -> None:
    """Writes a model folder; the description last, so that a model is whole or absent.

    Args:
        folder: Made where it is missing.
        description: For `model.json`.
        weights: Of the network.
        bits: Of the stored kernels, see `weights.write_weights`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder / WEIGHTS, weights, bits)
    (folder / (DESCRIPTION + ".part")).write_text(description.to_json(), encoding="utf-8")
    os.replace(folder / (DESCRIPTION + ".part"), folder / DESCRIPTION)
