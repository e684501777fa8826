"""The published methods, each one pure function.

All have the signature ``(restore, x, mask, **settings) -> Restoration``. `restore` is any callable that takes a
volume (Z, Y, X) and an integer step and returns the restored volume and, or None, the logit of the anomalous
region; `x` is the prepared brain in [0, 1]; `mask` its brain mask. For the methods of `DIFFUSION` it is
`diffusion.Predict` instead, which returns the noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from DISYRECore.methods.anofpdm import FORWARD_STEPS, anofpdm
from DISYRECore.methods.dae import dae
from DISYRECore.methods.disyre import disyre, disyre_v2
from DISYRECore.methods.restoration import Restoration, Restore
from DISYRECore.methods.ruler import ruler
from DISYRECore.methods.synomaly import STAGES, synomaly

METHODS: dict[str, Callable[..., Restoration]] = {
    "disyre-v2": disyre_v2,
    "disyre": disyre,
    "dae": dae,
    "anofpdm": anofpdm,
    "synomaly": synomaly,
    "ruler": ruler,
}
DIFFUSION = ("anofpdm", "synomaly")
OWN_MODELS = ("dae", *DIFFUSION)
"""Methods whose models serve no other method."""

NEEDS_NO_MODEL = ("ruler",)

__all__ = [
    "DIFFUSION",
    "METHODS",
    "NEEDS_NO_MODEL",
    "OWN_MODELS",
    "Restoration",
    "Restore",
    "anofpdm",
    "dae",
    "disyre",
    "disyre_v2",
    "ruler",
    "synomaly",
]


def evaluations(method: str, settings: dict[str, Any]) -> int:
    """How often a method calls `restore` at most; for progress."""
    if method in NEEDS_NO_MODEL:
        return 0
    if method == "dae":
        return 1
    if method == "synomaly":
        return 1 + (int(settings.get("stages", STAGES)) - 1) * int(settings.get("draws", 1))
    if method == "anofpdm":
        return 2 * int(settings.get("length", FORWARD_STEPS) if settings.get("faithful") else settings.get("steps", 30))
    if method == "disyre":
        return int(settings.get("steps", 4))
    return len(settings.get("severities", range(4))) * (1 + bool(settings.get("mirror")))
