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

from DISYRECore.errors import DisyreError
from DISYRECore.io.files import check_writable
from DISYRECore.models.description import (
    DESCRIPTION,
    LARGEST_DESCRIPTION,
    WEIGHTS,
    ModelDescription,
    bundled_models,
    find_model,
    own_models,
)
from DISYRECore.models.store import load_model

CARD, MANIFEST, PICTURE = "README.md", "manifest.json", re.compile(r"[\w-]{1,60}\.png", re.ASCII)
FILES = (DESCRIPTION, WEIGHTS, CARD)
NEEDED = (DESCRIPTION, WEIGHTS)
NAME = re.compile(r"\w[\w.-]{0,63}", re.ASCII)
MOST_TEXT = LARGEST_DESCRIPTION
"""Bytes of a text."""


def check_model(folder: Path) -> ModelDescription:
    """Looks at everything in a model folder that could do harm.

    Raises:
        DisyreError: The description or the weights cannot be used, or it needs a model that is not installed.
    """
    description = load_model(str(folder)).description
    if not description.title.isprintable():
        raise DisyreError(f"The title of the model '{description.id}' cannot be printed; ask for the model again.")
    for member in description.detection.members:
        find_model(member.model)
    return description


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
