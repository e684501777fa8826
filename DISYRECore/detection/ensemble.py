"""Further networks whose anomalies count beside those of the method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from DISYRECore.detection.runner import on_cpu_without_memory
from DISYRECore.errors import DisyreError
from DISYRECore.methods.base.score import either
from DISYRECore.models.description import EnsembleMember, ModelDescription
from DISYRECore.models.store import Model, load_model


@dataclass(frozen=True)
class Marker:
    """A loaded member of an ensemble; its network has ``mark(x, mask, contrast) -> logit (Z, Y, X)``."""

    member: EnsembleMember
    model: Model


def load_members(description: ModelDescription, device: torch.device) -> list[Marker]:
    """The further networks that a model listens to.

    Raises:
        DisyreError: One is missing or damaged, or works at another spacing.
    """
    markers = [Marker(member, load_model(member.model, device)) for member in description.detection.members]
    for marker in markers:
        if marker.model.description.spacing_mm != description.spacing_mm:
            raise DisyreError(f"The model '{marker.member.model}' works on another grid; install it again.")
    return markers


def mark_all(markers: Sequence[Marker], x: Tensor, mask: Tensor, contrast: str) -> tuple[list[Tensor], list[str]]:
    """What the members that know a contrast mark in a brain, and warnings.

    Each gives ``sigmoid(logit + weight)`` within the mask, (Z, Y, X).
    """
    found, warnings = [], list[str]()
    for marker in markers:
        if contrast in marker.member.contrasts:
            logit, doubts = on_cpu_without_memory(marker.model.network, lambda net: net.mark(x, mask, contrast))
            found.append(torch.sigmoid(logit + marker.member.weight) * mask)
            warnings += doubts
    return found, warnings


def any_of(probability: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Probability of an anomaly that one of several independent readers marks: 1 - prod (1 - p)."""
    for other in others:
        probability = either(probability, other)
    return probability
