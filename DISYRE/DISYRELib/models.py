"""What the panel says of the models that are installed; nothing is loaded for it."""

from __future__ import annotations

from slicer.i18n import tr as _

from DISYRECore.models.description import WEIGHTS, ModelDescription, find_model

AUTOMATIC = "auto"


def label(model: ModelDescription) -> str:
    """One line: title and size."""
    weights = find_model(model.id) / WEIGHTS
    megabytes = weights.stat().st_size / 1e6 if weights.is_file() else 0
    return _("{title}, {megabytes:.0f} MB").format(title=model.title, megabytes=megabytes)


def details(model: ModelDescription) -> str:
    """Three lines: contrasts, training data, licence."""
    stated = _("not stated")
    lines = (
        _("Contrasts: {contrasts}; grid {spacing} mm; version {version}").format(
            contrasts=", ".join(model.contrasts), spacing=model.spacing_mm, version=model.version
        ),
        _("Training data: {data}").format(data=model.training.get("data", stated)),
        _("Licence of the weights: {licence}").format(licence=model.training.get("licence", stated)),
    )
    return "\n".join(lines)
