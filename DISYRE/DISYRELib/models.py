"""Which models are installed, read from their descriptions without loading anything."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from DISYRECore.io.files import resources

AUTOMATIC = "auto"
HELPERS = ("extraction", "spots")
"""What models do that detect nothing by themselves."""


@dataclass(frozen=True)
class InstalledModel:
    """What the panel shows of a model.

    Attributes:
        id: Name of its folder.
        label: One line.
        details: Some lines: contrasts, training data, licence, version.
    """

    id: str
    label: str
    details: str


def installed_models() -> list[InstalledModel]:
    """The models for detection that `DISYRECore.models.store` would find."""
    named = os.environ.get("DISYRE_MODELS")
    places = [*([Path(named)] if named else []), resources() / "Models"]
    found: dict[str, InstalledModel] = {}
    for place in places:
        for description in sorted(place.glob("*/model.json")):
            model = _read(description)
            if model:
                found.setdefault(model.id, model)
    return list(found.values())


def _read(path: Path) -> InstalledModel | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["method"] in HELPERS:
            return None
        megabytes = (path.parent / "weights.safetensors").stat().st_size / 1e6
        training = values.get("training", {})
        lines = [
            f"Contrasts: {', '.join(values['contrasts'])}; grid {values['spacing_mm']} mm; version {values['version']}",
            f"Training data: {training.get('data', 'not stated')}",
            f"Licence of the weights: {training.get('licence', 'not stated')}",
        ]
        return InstalledModel(path.parent.name, f"{values['title']}, {megabytes:.0f} MB", "\n".join(lines))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
