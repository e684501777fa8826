from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from support import ONE_SENTENCE, TINY, tiny_description

from DISYRECore.errors import DisyreError
from DISYRECore.models import description as descriptions
from DISYRECore.models import weights as stored
from DISYRECore.models.description import (
    DESCRIPTION,
    WEIGHTS,
    DetectionSettings,
    EnsembleMember,
    find_model,
    list_models,
    read_description,
)
from DISYRECore.models.restoration_unet import RestorationNetwork
from DISYRECore.models.store import load_model, save_model

DESCRIPTION_OF_TINY = tiny_description(
    "tiny",
    title="Small enough for tests",
    version="1.2",
    spacing_mm=1.5,
    contrasts=("T1", "FLAIR"),
    detection=DetectionSettings(
        settings={"severities": [0.25, 0.75], "score": "region"},
        by_contrast={"FLAIR": {"z_weight": 2.0}},
        members=(EnsembleMember("small", ("T1",), 2.5),),
        score_scale={"T1": 0.31, "FLAIR": 0.42},
        borders={"T1": 0.5, "FLAIR": 0.6},
        healthy={"T1": {"low": 0.05, "scans": 3, "evidence": [4.0, 1.5], "shares": []}},
    ),
    training={"data": "ellipsoids", "seed": 3},
)


def awake() -> RestorationNetwork:
    torch.manual_seed(0)
    network = RestorationNetwork(TINY)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A saved model, found by its id."""
    monkeypatch.setenv("DISYRE_MODELS", str(tmp_path))
    save_model(tmp_path / "tiny", DESCRIPTION_OF_TINY, awake().state_dict())
    return tmp_path / "tiny"


def rewrite(folder: Path, **changes: object) -> None:
    values = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps({**values, **changes}))


def test_a_model_comes_back_as_it_was_saved_to_half_precision(folder: Path) -> None:
    loaded = load_model("tiny")
    assert dataclasses.replace(loaded.description, sha256="") == DESCRIPTION_OF_TINY
    assert not loaded.network.training
    slices, step = torch.rand(2, 3, 20, 18), torch.tensor([5, 80])
    for value, expected in zip(loaded.network(slices, step), awake()(slices, step), strict=True):
        assert torch.allclose(value, expected, atol=5e-3)
        assert not value.requires_grad
    for name, value in awake().state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], value.half().float())


def test_a_model_is_identified_by_the_hash_of_its_weights(folder: Path) -> None:
    weights = folder / WEIGHTS
    loaded = load_model(str(folder))
    assert loaded.sha256 == loaded.description.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    half = sum(p.numel() for p in awake().parameters()) * 2
    assert half < weights.stat().st_size < half + 40_000


def test_a_description_survives_json(folder: Path) -> None:
    assert dataclasses.replace(read_description(folder), sha256="") == DESCRIPTION_OF_TINY
    assert json.loads(DESCRIPTION_OF_TINY.to_json())["network"]["channels"] == [8, 16]


def test_models_are_found_by_id_and_by_path_and_the_users_come_first(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_model("tiny") == folder
    assert find_model(str(folder)) == folder
    assert "tiny" in [d.id for d in list_models()]
    bundled = tmp_path_factory.mktemp("bundled")
    shutil.copytree(folder, bundled / "tiny")
    rewrite(bundled / "tiny", title="Another of the same name")
    monkeypatch.setattr(descriptions, "model_folders", lambda: [folder.parent, bundled])
    assert [d.title for d in list_models()] == [DESCRIPTION_OF_TINY.title]


def test_an_unknown_model_is_refused_with_the_names_of_those_there_are(folder: Path) -> None:
    with pytest.raises(DisyreError, match=ONE_SENTENCE) as refusal:
        load_model("nonsense")
    assert refusal.value.kind == "unknown_model"
    assert "tiny" in str(refusal.value)
    assert "nonsense" in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"id": "tiny"}', "\x00\x01"])
def test_a_damaged_description_is_refused_in_one_sentence(folder: Path, text: str) -> None:
    (folder / DESCRIPTION).write_text(text)
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        load_model("tiny")


@pytest.mark.parametrize(
    "changes",
    [
        {"network": {"kind": "restoration", "size": "huge"}},
        {"network": {"kind": "dreams"}},
        {"network": {"kind": "restoration", "channels": [8], "wings": 2}},
        {"network": 3},
        {"surprise": 1},
        {"contrasts": 1},
        {"detection": {"normalise": "robust"}},
        {"detection": {"borders": [0.5]}},
        {"detection": {"healthy": [3]}},
        {"detection": {"by_contrast": []}},
        {"detection": {"by_contrast": {"FLAIR": 1.0}}},
        {"detection": {"members": [{"model": "small"}]}},
        {"detection": {"surprise": 1}},
        {"detection": None},
        {"format": 99},
    ],
)
def test_a_description_with_wrong_fields_is_refused_in_one_sentence(folder: Path, changes: dict[str, object]) -> None:
    rewrite(folder, **changes)
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        load_model("tiny")


def test_a_description_that_is_not_text_is_refused_in_one_sentence(folder: Path) -> None:
    (folder / DESCRIPTION).write_bytes(b"\xff\xfe\x00\x9d")
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        load_model("tiny")


@pytest.mark.parametrize("kept", [0, 5, 300, -1])
def test_truncated_weights_are_refused_in_one_sentence(folder: Path, kept: int) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:kept])
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        load_model("tiny")


def test_missing_or_foreign_weights_are_refused_in_one_sentence(folder: Path) -> None:
    rewrite(folder, network={**DESCRIPTION_OF_TINY.network, "channels": [8, 24]})
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        load_model("tiny")
    (folder / WEIGHTS).unlink()
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        load_model("tiny")


def test_saving_leaves_nothing_but_the_model(folder: Path) -> None:
    save_model(folder, dataclasses.replace(DESCRIPTION_OF_TINY, version="2"), awake().state_dict())
    assert sorted(path.name for path in folder.iterdir()) == sorted([DESCRIPTION, WEIGHTS])
    assert load_model("tiny").description.version == "2"


def test_a_model_whose_writing_failed_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISYRE_MODELS", str(tmp_path))

    def full_disk(weights: object, path: Path) -> None:
        Path(path).write_bytes(b"half a fi")
        raise OSError("No space left on device")

    monkeypatch.setattr(stored, "save_file", full_disk)
    with pytest.raises(OSError, match="space"):
        save_model(tmp_path / "tiny", DESCRIPTION_OF_TINY, awake().state_dict())
    assert not (tmp_path / "tiny" / WEIGHTS).exists()
    with pytest.raises(DisyreError):
        load_model("tiny")


def test_a_failed_update_leaves_the_old_model_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_model("tiny").sha256
    monkeypatch.setattr(stored, "save_file", lambda weights, path: (_ for _ in ()).throw(OSError("No space left")))
    with pytest.raises(OSError, match="space"):
        save_model(folder, dataclasses.replace(DESCRIPTION_OF_TINY, version="2"), awake().state_dict())
    loaded = load_model("tiny")
    assert (loaded.sha256, loaded.description.version) == (before, "1.2")
