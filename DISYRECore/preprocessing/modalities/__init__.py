"""What differs between brain MRI, liver CT and ultrasound. Each module here but `base` is one, with its ``MODALITY``.

A model belongs to one modality; training and detection prepare images by the same function.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from DISYRECore.errors import DisyreError

if TYPE_CHECKING:
    from DISYRECore.preprocessing.modalities.base import Modality


def modality_names() -> tuple[str, ...]:
    """Names of all modalities; nothing heavy is imported."""
    return tuple(name.replace("_", "-") for _, name, _ in iter_modules(__path__) if name != "base")


def find_modality(name: str) -> Modality:
    """A modality by its name.

    Raises:
        DisyreError: There is none of this name.
    """
    if name not in modality_names():
        raise DisyreError(f"There is no modality '{name}'; choose one of {', '.join(modality_names())}.")
    modality: Modality = import_module(f"{__name__}.{name.replace('-', '_')}").MODALITY
    return modality
