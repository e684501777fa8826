"""Models on disk: loading and saving a description with its weights."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from DISYRECore.errors import DisyreError
from DISYRECore.models.description import DESCRIPTION, WEIGHTS, ModelDescription, find_model, read_description
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
    network = build_network(description.network)
    try:
        network.load_state_dict(read_weights(folder / WEIGHTS))
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise DisyreError(f"The weights of model '{description.id}' cannot be read; install it again.") from error
    return Model(folder, description, network.eval().requires_grad_(False).to(device), digest)


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
    (folder / (DESCRIPTION + ".part")).write_text(description.to_json(), encoding="utf-8")
    os.replace(folder / (DESCRIPTION + ".part"), folder / DESCRIPTION)
