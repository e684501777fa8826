"""Brings what older versions stored in a scene to its present names; nothing else knows of them."""

from __future__ import annotations

import enum
import typing

import slicer

PARAMETERS = {"threshold": "border"}
"""Parameters that are called otherwise now."""

CHOICES = {"method": {"RULER": "Z_SCORE"}}
"""Choices that are called otherwise now, by parameter."""


def migrate_parameters(node: slicer.vtkMRMLScriptedModuleNode) -> None:
    """Renames the parameters and choices that an older scene stores."""
    for old, new in PARAMETERS.items():
        if stored := node.GetParameter(old):
            node.SetParameter(new, stored)
            node.UnsetParameter(old)
    for parameter, renamed in CHOICES.items():
        stored = node.GetParameter(parameter)
        if stored in renamed:
            node.SetParameter(parameter, renamed[stored])


def migrate_contrast(node: slicer.vtkMRMLScriptedModuleNode, attribute: str) -> None:
    """Gives the contrast that an older scene stores among the parameters to the volume that it was said of."""
    stored, volume = node.GetParameter("contrast"), node.GetNodeReference("inputVolume")
    if stored and volume is not None:
        volume.SetAttribute(attribute, stored)
    if stored:
        node.UnsetParameter("contrast")


def drop_unreadable(node: slicer.vtkMRMLScriptedModuleNode, parameters: type) -> None:
    """Forgets stored values that the class of the parameters cannot read, so that they get their defaults."""
    with slicer.util.NodeModify(node):
        for name, kind in typing.get_type_hints(parameters).items():
            if node.HasParameter(name) and not _is_readable(node.GetParameter(name), kind):
                node.UnsetParameter(name)


def _is_readable(stored: str, kind: type) -> bool:
    if not isinstance(kind, type):
        return True
    if issubclass(kind, enum.Enum):
        return stored in kind.__members__
    try:
        return not issubclass(kind, (int, float)) or kind is bool or kind(stored) is not None
    except ValueError:
        return False


def migrated_record(record: dict) -> dict:
    """The record of a result under its present names; results made before there was a calibration have none."""
    if "threshold" not in record:
        return record
    return {"border": record["threshold"], **{key: value for key, value in record.items() if key != "threshold"}}
