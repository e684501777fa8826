"""SlicerDISYRE's core library: finds anomalies in brain MRI by restoring it towards healthy anatomy.

>>> from DISYRECore import Detector
>>> detection = Detector().detect("scan.nii.gz")
>>> detection.findings

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from DISYRECore.version import __version__

if TYPE_CHECKING:
    from DISYRECore.detection.detector import Detection, Detector, detect
    from DISYRECore.detection.study import detect_study
    from DISYRECore.errors import DisyreError
    from DISYRECore.io.read import read_volume as load_volume
    from DISYRECore.io.volume import Volume
    from DISYRECore.methods import find_method, method_names
    from DISYRECore.models.description import list_models

__all__ = [
    "Detection",
    "Detector",
    "DisyreError",
    "Volume",
    "__version__",
    "detect",
    "detect_study",
    "find_method",
    "list_models",
    "load_volume",
    "method_names",
]

_PLACES = {
    "Detection": "detection.detector",
    "Detector": "detection.detector",
    "DisyreError": "errors",
    "Volume": "io.volume",
    "detect": "detection.detector",
    "detect_study": "detection.study",
    "find_method": "methods",
    "list_models": "models.description",
    "load_volume": "io.read:read_volume",
    "method_names": "methods",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, other = _PLACES[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), other or name)


def __dir__() -> list[str]:
    return __all__
