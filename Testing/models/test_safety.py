"""A model folder is data: whatever lies in it, it is a sound model or refused, and nothing of it is executed."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import ONE_SENTENCE, ROOT, save_tiny

from DISYRECore.errors import DisyreError
from DISYRECore.models.description import DESCRIPTION, WEIGHTS
from DISYRECore.models.store import load_model


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISYRE_MODELS", str(tmp_path))
    save_tiny(tmp_path / "tiny")
    return tmp_path / "tiny"


def rewrite(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps({**values, **changes}))


def check_refused(folder: Path) -> None:
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        load_model(str(folder))


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.place,)


def checkpoints(place: Path) -> dict[str, bytes]:
    zipped, torch_file = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb(place)))
        archive.writestr("archive/version", "3")
    torch.save({"weight": Bomb(place)}, torch_file)
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}).encode()
    return {
        "pickle": pickle.dumps(Bomb(place)),
        "zip": zipped.getvalue(),
        "torch": torch_file.getvalue(),
        "long header": (2**62).to_bytes(8, "little") + b"{}",
        "large tensor": len(header).to_bytes(8, "little") + header,
        "nothing": b"",
    }


@pytest.mark.parametrize("kind", ["pickle", "zip", "torch", "long header", "large tensor", "nothing"])
@pytest.mark.parametrize("described", [False, True])
def test_a_hostile_checkpoint_is_refused_and_not_executed(folder: Path, kind: str, described: bool) -> None:
    (folder / WEIGHTS).write_bytes(checkpoints(folder / "executed")[kind])
    if not described:
        rewrite(folder, sha256="")
    check_refused(folder)
    assert not (folder / "executed").exists()
    if kind == "pickle":
        pickle.loads(checkpoints(folder / "executed")[kind])
        assert (folder / "executed").exists()


def test_weights_other_than_described_are_refused(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    first = next(iter(weights))
    save_file({**weights, first: weights[first] + 1}, folder / WEIGHTS)
    check_refused(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(folder: Path, value: float) -> None:
    weights = load_file(folder / WEIGHTS)
    first = next(iter(weights))
    weights[first].view(-1)[0] = value
    save_file(weights, folder / WEIGHTS)
    rewrite(folder, sha256="")
    check_refused(folder)


@pytest.mark.parametrize("change", ["missing", "more", "shape"])
def test_weights_of_another_network_are_refused(folder: Path, change: str) -> None:
    weights = load_file(folder / WEIGHTS)
    first = next(iter(weights))
    if change == "missing":
        del weights[first]
    else:
        weights[first if change == "shape" else "more"] = torch.zeros(3, 1)
    save_file(weights, folder / WEIGHTS)
    rewrite(folder, sha256="")
    check_refused(folder)


@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION])
def test_a_link_out_of_the_folder_is_refused_and_a_link_to_the_folder_is_not(folder: Path, name: str) -> None:
    (folder.parent / "linked").symlink_to(folder)
    assert load_model("linked").description.id == "tiny"
    os.replace(folder / name, folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)
    check_refused(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"spacing_mm": 0},
        {"spacing_mm": "1.5"},
        {"spacing_mm": float("nan")},
        {"spacing_mm": 1e9},
        {"id": "../tiny"},
        {"id": 3},
        {"id": "tiny\n"},
        {"title": ["x"]},
        {"contrasts": [1]},
        {"sha256": 5},
        {"detection": {"members": [{"model": "../../elsewhere", "contrasts": ["T1"], "weight": 1}]}},
        {"detection": {"members": [{"model": "small", "contrasts": ["T1"], "weight": float("inf")}]}},
    ],
)
def test_values_that_make_no_sense_are_refused(folder: Path, changes: dict[str, Any]) -> None:
    rewrite(folder, **changes)
    check_refused(folder)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000, '{"format": 2, "id": "x"' + " " * (17 << 20)]
)
def test_a_description_that_is_a_bomb_is_refused(folder: Path, text: str) -> None:
    (folder / DESCRIPTION).write_text(text)
    check_refused(folder)


HUGE = [
    {"channels": [10**9, 10**9]},
    {"channels": [4096] * 64},
    {"channels": [8] * 10**5},
    {"channels": [8, 16], "blocks": 10**9},
    {"channels": [8, 16], "blocks": 1, "context": 10**8},
    {"channels": [8, 16], "blocks": 1, "fold": 4096},
]


@pytest.mark.parametrize("network", HUGE)
def test_a_network_that_would_fill_the_memory_is_refused_before_it_is_made(
    folder: Path, network: dict[str, Any]
) -> None:
    rewrite(folder, network={"kind": "restoration", "groups": 4, **network})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check_refused(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_every_bundled_model_names_the_hash_of_its_weights() -> None:
    for path in sorted((ROOT / "Resources" / "Models").glob(f"*/{DESCRIPTION}")):
        model = load_model(str(path.parent))
        assert model.sha256 == model.description.sha256


def test_listing_the_models_reads_no_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")
    done = subprocess.run([sys.executable, "-m", "DISYRECore", "models"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "tiny" in done.stdout
