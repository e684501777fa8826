"""Models of the user's own: installing and removing them, and one file that carries a model to another site.

The file is a zip archive of `FILES` and pictures, none of them compressed, so that nothing can unfold to more than the
archive's own size, and of `MANIFEST` with the SHA-256 of each. Nothing in it is trusted: names, sizes, hashes, the
description, shapes and values of the weights are checked before a model appears in the user's folder, whole or not at
all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError

from DISYRECore.errors import DisyreError
from DISYRECore.io.files import check_writable
from DISYRECore.models.description import (
    DESCRIPTION,
    WEIGHTS,
    ModelDescription,
    bundled_models,
    find_model,
    own_models,
    read_description,
)
from DISYRECore.models.registry import build_network
from DISYRECore.models.weights import read_weights

CARD, MANIFEST, PICTURE = "README.md", "manifest.json", re.compile(r"[\w-]{1,60}\.png", re.ASCII)
FILES = (DESCRIPTION, WEIGHTS, CARD)
NEEDED = (DESCRIPTION, WEIGHTS)
NAME = re.compile(r"\w[\w.-]{0,63}", re.ASCII)
MOST_TEXT, MOST_WIDTH = 1 << 20, 4096
"""Bytes of a text; largest number among a network's settings: no network of this package comes near."""


def check_model(folder: Path) -> ModelDescription:
    """Looks at everything in a model folder that could do harm.

    Raises:
        DisyreError: The description or the weights cannot be used, or it needs a model that is not installed.
    """
    if (folder / DESCRIPTION).is_file() and (folder / DESCRIPTION).stat().st_size > MOST_TEXT:
        raise DisyreError(f"The {DESCRIPTION} in {folder.name} is far too long; ask for the model again.")
    description = read_description(folder)
    names = (description.id, *(member.model for member in description.detection.members))
    if not all(isinstance(name, str) and NAME.fullmatch(name) for name in names):
        raise DisyreError(f"'{description.id}' or a model it needs has no plain name; ask for the model again.")
    if not str(description.title).isprintable() or _largest(description.network) > MOST_WIDTH:
        raise DisyreError(f"The description of the model '{description.id}' cannot be right; ask for it again.")
    for member in description.detection.members:
        find_model(member.model)
    _check_weights(folder, description)
    return description


def _largest(value: Any) -> float:
    """The largest number or the longest list in plain values."""
    if isinstance(value, dict | list | tuple):
        inner = value.values() if isinstance(value, dict) else value
        return max([len(value), *map(_largest, inner)])
    return abs(value) if isinstance(value, int | float) else 0


def _check_weights(folder: Path, description: ModelDescription) -> None:
    with torch.device("meta"):
        expected = {name: value.shape for name, value in build_network(description.network).state_dict().items()}
    try:
        weights = read_weights(folder / WEIGHTS)
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        text = f"The weights of the model '{description.id}' cannot be read; ask for it again."
        raise DisyreError(text) from error
    if {name: value.shape for name, value in weights.items()} != expected:
        raise DisyreError(f"The weights of the model '{description.id}' are not of its network; ask for it again.")
    if not all(bool(value.isfinite().all()) for value in weights.values()):
        raise DisyreError(f"The weights of the model '{description.id}' are not all numbers; ask for it again.")


def install(folder: Path, replace: bool = False) -> ModelDescription:
    """Copies a model folder into the user's, under the model's id.

    Args:
        folder: Of the model; links in it are not followed.
        replace: Whether a model of the same name gives way.

    Raises:
        DisyreError: The model cannot be used, its name is taken, or the user's folder cannot be written to.
    """
    description = check_model(folder)
    target = own_models() / description.id
    if (bundled_models() / description.id).exists():
        raise DisyreError(f"'{description.id}' is the name of a bundled model; train under another name.")
    if is_installed(description.id) and not replace:
        raise DisyreError(f"A model '{description.id}' is installed already; remove it first.")
    check_writable(target.parent)
    with _aside(target) as part, _saved(target):
        for path in sorted(folder.iterdir()):
            if _is_known(path.name) and path.is_file() and not path.is_symlink():
                shutil.copyfile(path, part / path.name)
        check_model(part)
        _swap(part, target)
    return description


def is_installed(name: str) -> bool:
    """Whether the user has a model of this name."""
    return (own_models() / name / DESCRIPTION).is_file()


def remove(name: str) -> None:
    """Deletes a model of the user's.

    Raises:
        DisyreError: The user has no such model, or it cannot be deleted.
    """
    if not NAME.fullmatch(name) or not is_installed(name):
        raise DisyreError(f"There is no model '{name}' of your own to remove; 'disyre models' lists all there are.")
    target = own_models() / name
    with _saved(target), _aside(target) as part:
        os.replace(target, part / name)


def pack(name: str, file: Path) -> None:
    """Writes a model into one file, whole or not at all.

    Args:
        name: Id or folder of the model.
        file: To write.

    Raises:
        DisyreError: There is no such model, it cannot be used, or the file cannot be written.
    """
    folder = find_model(name)
    check_model(folder)
    paths = [path for path in sorted(folder.iterdir()) if _is_known(path.name) and path.is_file()]
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    check_writable(file.absolute().parent)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    with _saved(file):
        try:
            with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr(MANIFEST, json.dumps({"format": 1, "sha256": hashes}, indent=2))
                for path in paths:
                    archive.write(path, path.name)
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def unpacked(file: Path) -> Iterator[Path]:
    """The model folder in a file, for as long as it is needed; what it holds is checked by `install`.

    Raises:
        DisyreError: It is no file that `pack` wrote, or was changed since.
    """
    with TemporaryDirectory() as scratch:
        try:
            with zipfile.ZipFile(file) as archive:
                for entry in archive.infolist():
                    _check_entry(entry, file)
                _extract(archive, Path(scratch), file)
        except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, NotImplementedError) as error:
            raise _refusal(file, "is damaged or no model") from error
        yield Path(scratch)


def _check_entry(entry: zipfile.ZipInfo, file: Path) -> None:
    if entry.filename != MANIFEST and not _is_known(entry.filename):
        raise _refusal(file, "holds what belongs to no model")
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise _refusal(file, "is compressed, which no exported model is")
    if (entry.external_attr >> 16) & 0o170000 not in (0, 0o100000):
        raise _refusal(file, "holds a link")
    if entry.filename in (MANIFEST, DESCRIPTION, CARD) and entry.file_size > MOST_TEXT:
        raise _refusal(file, "holds a text that is far too long")


def _extract(archive: zipfile.ZipFile, folder: Path, file: Path) -> None:
    names = archive.namelist()
    hashes = json.loads(archive.read(MANIFEST))["sha256"]
    if len(set(names)) != len(names) or {*hashes, MANIFEST} != set(names) or not hashes.keys() >= set(NEEDED):
        raise _refusal(file, "does not hold what it lists")
    for name in hashes:
        data = archive.read(name)
        if hashlib.sha256(data).hexdigest() != hashes[name]:
            raise _refusal(file, "was changed since it was exported")
        (folder / name).write_bytes(data)


def _is_known(name: str) -> bool:
    return name in FILES or PICTURE.fullmatch(name) is not None


def _refusal(file: Path, what: str) -> DisyreError:
    return DisyreError(f"{file.name} {what}; export the model again with 'disyre models export'.")


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A folder beside another, for what comes or goes in one move."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _swap(part: Path, target: Path) -> None:
    """Puts a folder in the place of another, which comes back if that fails."""
    with _aside(target.with_name(target.name + ".old")) as old:
        if not target.exists():
            os.replace(part, target)
            return
        os.replace(target, old / target.name)
        try:
            os.replace(part, target)
        except OSError:
            os.replace(old / target.name, target)
            raise


@contextmanager
def _saved(path: Path) -> Iterator[None]:
    """Turns what goes wrong in writing into a sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise DisyreError(f"Cannot write {path} ({reason}); make room or choose another folder.", "output") from error
