from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from DISYRECore.errors import DisyreError
from DISYRECore.models.weights import SCALE, read_weights, write_weights
from DISYRECore.training.config import read_config


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    kernel = torch.randn(6, 4, 3, 3) * torch.logspace(-3, 1, 6).view(-1, 1, 1, 1)
    return {"kernel": kernel, "bias": torch.randn(6), "silent": torch.zeros(2, 3), "table": torch.randn(3, 8)}


def test_sixteen_bits_keep_half_precision(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    write_weights(tmp_path / "w", weights)
    read = read_weights(tmp_path / "w")
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], value.half().float()) for name, value in weights.items())


def test_eight_bits_err_by_half_a_step_of_each_output(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    write_weights(tmp_path / "w", weights, bits=8)
    read = read_weights(tmp_path / "w")
    assert read.keys() == weights.keys()
    error = (read["kernel"] - weights["kernel"]).abs().flatten(1).amax(1)
    step = weights["kernel"].abs().flatten(1).amax(1) / 127
    assert (error <= 0.5001 * step).all()
    assert (error > 0.3 * step).all()
    assert torch.equal(read["bias"], weights["bias"].half().float())
    assert torch.equal(read["silent"], weights["silent"])


def test_eight_bits_take_half_the_room(tmp_path: Path) -> None:
    weights = {"kernel": torch.randn(64, 64, 3, 3)}
    for bits in (8, 16):
        write_weights(tmp_path / str(bits), weights, bits)
    assert (tmp_path / "8").stat().st_size < 0.52 * (tmp_path / "16").stat().st_size


def test_writing_what_was_read_changes_nothing(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    write_weights(tmp_path / "one", weights, bits=8)
    write_weights(tmp_path / "two", read_weights(tmp_path / "one"), bits=8)
    one, two = read_weights(tmp_path / "one"), read_weights(tmp_path / "two")
    assert all(torch.allclose(one[name], two[name], rtol=1e-6, atol=0) for name in weights)


def test_a_kernel_without_its_scale_is_refused(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    write_weights(tmp_path / "w", weights, bits=8)
    stored = load_file(tmp_path / "w")
    del stored["kernel" + SCALE]
    save_file(stored, tmp_path / "w")
    with pytest.raises(KeyError):
        read_weights(tmp_path / "w")


def test_other_bits_are_refused(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8 or 16"):
        write_weights(tmp_path / "w", weights, bits=4)
    (tmp_path / "config.yaml").write_text("name: x\ntask: restoration\nweight_bits: 4\n")
    with pytest.raises(DisyreError, match="8 or 16"):
        read_config(tmp_path / "config.yaml")
