"""Which network a description stands for: one module for each kind, imported when it is needed.

A module has a settings dataclass with `to_dict`, and ``build(values) -> nn.Module`` makes a fresh network.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

from DISYRECore.errors import DisyreError

NETWORKS = {
    "restoration": "restoration_unet",
    "diffusion": "diffusion_unet",
    "skull-strip": "skull_strip_unet",
    "small-lesions": "small_lesion_network",
}
"""Module of each kind of network."""


def build_network(values: Mapping[str, Any]) -> nn.Module:
    """A fresh network.

    Args:
        values: Its settings; ``kind`` is one of `NETWORKS`.

    Raises:
        DisyreError: Unknown kind, or settings that it does not understand.
    """
    settings = dict(values)
    kind = settings.pop("kind", None)
    if kind not in NETWORKS:
        raise DisyreError(f"There is no network of the kind '{kind}'; choose one of {', '.join(NETWORKS)}.")
    network: nn.Module = import_module(f"DISYRECore.models.{NETWORKS[kind]}").build(settings)
    return network
