from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import ONE_SENTENCE, save_tiny

from DISYRECore.apps.cli import main
from DISYRECore.errors import DisyreError
from DISYRECore.models.description import DESCRIPTION, WEIGHTS, list_models, own_models, read_description
from DISYRECore.models.package import CARD, MANIFEST, install, pack, remove, unpacked
from DISYRECore.models.store import load_model


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that a run made; the user has none installed."""
    monkeypatch.setenv("DISYRE_MODELS", str(tmp_path / "models"))
    save_tiny(tmp_path / "run" / "ours")
    (tmp_path / "run" / "ours" / CARD).write_text("# Ours\n")
    return tmp_path / "run" / "ours"


@pytest.fixture
def file(trained: Path, tmp_path: Path) -> Path:
    """The model in a file."""
    pack(str(trained), tmp_path / "ours.zip")
    return tmp_path / "ours.zip"


def rewrite(folder: Path, **changes: object) -> None:
    values = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps({**values, **changes}))


def contents(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def repack(file: Path, parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED, seal: bool = True) -> None:
    """Writes parts into a file, with a manifest that is right for them where it is sealed."""
    if seal:
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in parts.items() if name != MANIFEST}
        parts = {**parts, MANIFEST: json.dumps({"format": 1, "sha256": hashes}).encode()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def run(*arguments: object) -> int:
    return main(["models", *map(str, arguments)])


def installed() -> set[str]:
    return {path.name for path in own_models().glob("*")} if own_models().exists() else set()


def test_a_file_carries_a_model_to_another_site(
    file: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISYRE_MODELS", str(tmp_path / "elsewhere"))
    assert run("import", file) == 0
    assert load_model("ours").sha256 == load_model(str(trained)).sha256
    assert read_description(tmp_path / "elsewhere" / "ours") == read_description(trained)
    assert (tmp_path / "elsewhere" / "ours" / CARD).read_text() == "# Ours\n"
    assert run() == 0
    assert "ours\tdisyre-v2" in capsys.readouterr().out
    assert run("remove", "ours") == 0
    assert installed() == set()


def test_listing_with_and_without_the_word_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    bare = capsys.readouterr().out
    assert run("list") == 0
    assert capsys.readouterr().out == bare
    assert "brain-restoration" in bare


def test_a_bundled_model_can_be_exported_but_neither_removed_nor_replaced(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", "brain-synomaly", tmp_path / "out.zip") == 0
    assert {DESCRIPTION, WEIGHTS, CARD, MANIFEST} <= contents(tmp_path / "out.zip").keys()
    for arguments in (("remove", "brain-synomaly"), ("import", tmp_path / "out.zip"), ("remove", "../../etc")):
        assert run(*arguments) == 2
    assert installed() == set()
    assert "brain-synomaly" in [one.id for one in list_models()]


@pytest.mark.parametrize("answer", ["y", "n", ""])
def test_what_is_there_already_or_worse_is_asked_about(
    trained: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    assert run("add", trained) == 0
    rewrite(trained, version="2", training={"start": "brain-restoration", "comparison": {"model": 0.4, "start": 0.5}})
    assert run("add", trained) == 2
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or answer)
    assert run("add", trained) == (0 if answer == "y" else 2)
    assert len(asked) == (2 if answer == "y" else 1)
    assert read_description(own_models() / "ours").version == ("2" if answer == "y" else "1")
    assert installed() == {"ours"}
    assert run("add", trained, "--yes") == 0


def test_only_what_belongs_to_a_model_is_installed_and_links_are_not_followed(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (trained / "notes.txt").write_text("of the run")
    (trained / CARD).unlink()
    (trained / CARD).symlink_to(tmp_path / "secret")
    install(trained)
    assert {path.name for path in (own_models() / "ours").iterdir()} == {DESCRIPTION, WEIGHTS}


@pytest.mark.parametrize(
    "name", ["../evil.png", "/tmp/evil.png", "sub/evil.png", "..\\evil.png", "C:evil.png", "evil.py", ".hidden.png"]
)
def test_names_that_lead_elsewhere_are_refused(file: Path, tmp_path: Path, name: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    repack(file, {**contents(file), name: b"evil"})
    with pytest.raises(DisyreError, match=ONE_SENTENCE), unpacked(file):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_in_a_file_is_refused(file: Path) -> None:
    parts = contents(file)
    entry = zipfile.ZipInfo(CARD)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in parts.items():
            archive.writestr(entry if name == CARD else name, b"/etc/passwd" if name == CARD else data)
    with pytest.raises(DisyreError, match="link"), unpacked(file):
        pass


def test_what_unfolds_is_refused_before_it_does(file: Path) -> None:
    repack(file, {**contents(file), WEIGHTS: bytes(100_000_000)}, zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 1_000_000
    with pytest.raises(DisyreError, match="compressed"), unpacked(file):
        pass


@pytest.mark.parametrize("what", ["changed", "missing", "unlisted", "twice", "no manifest", "cut", "no zip", "long"])
def test_a_file_that_is_not_as_it_was_exported_is_refused(file: Path, what: str) -> None:
    parts = contents(file)
    if what == "changed":
        repack(file, {**parts, CARD: b"# Theirs\n"}, seal=False)
    elif what == "missing":
        repack(file, {name: data for name, data in parts.items() if name != WEIGHTS}, seal=False)
    elif what == "unlisted":
        repack(file, {**parts, "more.png": b""}, seal=False)
    elif what == "twice":
        with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(CARD, b"# Theirs\n")
    elif what == "no manifest":
        repack(file, {name: data for name, data in parts.items() if name != MANIFEST}, seal=False)
    elif what == "long":
        repack(file, {**parts, CARD: bytes(20_000_000)})
    else:
        file.write_bytes(file.read_bytes()[:5000] if what == "cut" else b"no zip")
    with pytest.raises(DisyreError, match=ONE_SENTENCE), unpacked(file):
        pass


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "../evil"},
        {"id": "brain-restoration"},
        {"id": ""},
        {"id": 3},
        {"title": "\x1b[2J"},
        {"network": {"kind": "restoration", "channels": [8, 24], "blocks": 1, "groups": 4, "fold": 2}},
        {"network": {"kind": "restoration", "channels": [10**9, 10**9], "blocks": 1, "groups": 4, "fold": 2}},
        {"network": {"kind": "restoration", "channels": [8] * 9999, "blocks": 1, "groups": 4, "fold": 2}},
        {"network": {"kind": "unknown"}},
        {"detection": {"members": [{"model": "not-here", "contrasts": ["T1"], "weight": 1.0}]}},
        {"detection": 3},
    ],
)
def test_a_model_that_cannot_be_right_is_not_installed(file: Path, trained: Path, changes: dict[str, Any]) -> None:
    rewrite(trained, **changes)
    repack(file, {**contents(file), DESCRIPTION: (trained / DESCRIPTION).read_bytes()})
    with unpacked(file) as folder, pytest.raises(DisyreError, match=ONE_SENTENCE):
        install(folder)
    assert installed() == set()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_not_installed(trained: Path, value: float) -> None:
    weights = load_file(trained / WEIGHTS)
    weights[next(iter(weights))].view(-1)[3] = value
    save_file(weights, trained / WEIGHTS)
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        install(trained)
    assert installed() == set()


def test_weights_of_another_shape_or_name_are_not_installed(trained: Path) -> None:
    weights = load_file(trained / WEIGHTS)
    name = next(iter(weights))
    for other in ({**weights, name: torch.zeros(3).half()}, {**weights, "more": torch.zeros(3).half()}):
        save_file(other, trained / WEIGHTS)
        with pytest.raises(DisyreError, match=ONE_SENTENCE):
            install(trained)


def test_a_failure_at_any_move_leaves_the_old_model_or_the_new(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(trained)
    rewrite(trained, version="2")
    move, count = os.replace, 0
    for failing in (1, 2):
        count = 0

        def fail(source: Any, target: Any, failing: int = failing) -> None:
            nonlocal count
            count += 1
            if count == failing:
                raise OSError(28, "No space left on device")
            move(source, target)

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(DisyreError, match="No space left"):
            install(trained, replace=True)
        monkeypatch.setattr(os, "replace", move)
        assert read_description(own_models() / "ours").version == "1"
        assert installed() == {"ours"}
    install(trained, replace=True)
    assert read_description(own_models() / "ours").version == "2"


def test_a_copy_that_fails_leaves_nothing_behind(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(DisyreError, match="No space left"):
        install(trained)
    assert installed() == set()
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(DisyreError, match="No space left"):
        pack(str(trained), trained.parent / "ours.zip")
    assert [path.name for path in trained.parent.iterdir()] == ["ours"]


def test_a_model_half_installed_is_not_listed(trained: Path) -> None:
    shutil.copytree(trained, own_models() / ".ours.1.part")
    assert "ours" not in [one.id for one in list_models()]
    with pytest.raises(DisyreError, match=ONE_SENTENCE):
        remove(".ours.1.part")


def test_only_what_training_measured_makes_a_model_worse(trained: Path) -> None:
    description = read_description(trained)
    for comparison, worse in (
        ({"model": 0.4, "start": 0.5}, True),
        ({"model": 0.6, "start": 0.5}, False),
        ({"model": 0.6}, False),
        ("bad", False),
        (None, False),
    ):
        changed = dataclasses.replace(description, training={"comparison": comparison})
        assert changed.is_worse_than_start is worse
