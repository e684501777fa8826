"""Brings what older versions stored in a scene to its present names; nothing else knows of them."""

from __future__ import annotations

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


def migrated_record(record: dict) -> dict:
    """The record of a result under its present names; results made before there was a calibration have none."""
    if "threshold" not in record:
        return record
    return {"border": record["threshold"], **{key: value for key, value in record.items() if key != "threshold"}}
