"""Models on disk: loading and saving a description with its weights."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.overrides import TorchFunctionMode

from DISYRECore.errors import DisyreError
from DISYRECore.models.description import DESCRIPTION, WEIGHTS, ModelDescription, find_model, own_file, read_description
from DISYRECore.models.registry import build_network
from DISYRECore.models.weights import read_weights, write_weights


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        folder: Where it lies.
        description: What its `model.json` says.
        network: In evaluation mode, on its device.
        sha256: Of the weights file.
    """

    folder: Path
    description: ModelDescription
    network: nn.Module
    sha256: str


def load_model(name: str, device: torch.device | str = "cpu") -> Model:
    """Loads a model by id or folder, ready to run.

    Raises:
        DisyreError: Unknown or damaged model.
    """
    folder = find_model(name)
    description = read_description(folder)
    try:
        path = own_file(folder, WEIGHTS)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if description.sha256 not in ("", digest):
            raise ValueError("other weights than described")
        weights = read_weights(path)
        _check_weights(weights, description.network)
        network = build_network(description.network)
        network.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise DisyreError(f"The weights of model '{description.id}' cannot be read; install it again.") from error
    return Model(folder, description, network.eval().requires_grad_(False).to(device), digest)


class _WithoutValues(TorchFunctionMode):
    """Networks are made without drawing weights: on the device ``meta`` that takes seconds of imports for nothing."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def _check_weights(weights: dict[str, torch.Tensor], settings: dict[str, Any]) -> None:
    """Refuses weights that a network does not have, before memory is taken for it, or that are no numbers."""
    with torch.device("meta"), _WithoutValues():
        expected = build_network(settings).state_dict()
    if {name: value.shape for name, value in weights.items()} != {n: v.shape for n, v in expected.items()}:
        raise ValueError("weights of another network")
    if not all(bool(value.isfinite().all()) for value in weights.values()):
        raise ValueError("weights that are no numbers")


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
    description = replace(description, sha256=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest())
    (folder / (DESCRIPTION + ".part")).write_text(description.to_json(), encoding="utf-8")
    os.replace(folder / (DESCRIPTION + ".part"), folder / DESCRIPTION)
