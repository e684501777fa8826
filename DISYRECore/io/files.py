"""Folders: where the bundled data are, and where results go to."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from DISYRECore.errors import DisyreError

NIFTI_SUFFIXES = (".nii.gz", ".nii")
DICOM_RESULTS = ("anomalies.dcm", "score.dcm", "findings.dcm")
"""Names of results as DICOM objects: segmentation, parametric map, structured report."""

IMAGE_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".nhdr", ".mha", ".mhd")


def short_name(path: Path | str) -> str:
    """Name of a file or folder for messages; ``The image`` for a volume that came from none."""
    return Path(path).absolute().name if str(path) else "The image"


def image_suffix(path: Path) -> str:
    """The known image ending of a file name, in lower case; empty for any other."""
    return next((suffix for suffix in IMAGE_SUFFIXES if path.name.lower().endswith(suffix)), "")


def resources() -> Path:
    """Folder of the bundled models and data: inside the package where it is installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "Resources"
    return inside if inside.is_dir() else package.parent / "Resources"


def check_writable(folder: Path) -> None:
    """Makes the folder, so that an impossible one is refused before any computing.

    Raises:
        DisyreError: It cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DisyreError(f"Nothing can be written to {folder}; choose another output folder.", "output") from error


@contextlib.contextmanager
def all_or_none(folder: Path) -> Iterator[Path]:
    """A hidden folder whose files move into `folder` once all are complete; on an error none does.

    Raises:
        DisyreError: Of kind ``output``: nothing can be written there.
    """
    check_writable(folder)
    with tempfile.TemporaryDirectory(prefix=".disyre-", dir=folder) as name:
        try:
            yield Path(name)
            for path in sorted(Path(name).iterdir()):
                os.replace(path, folder / path.name)
        except OSError as error:
            sentence = f"Writing to {folder} failed ({error.strerror}); is the disk full?"
            raise DisyreError(sentence, "output") from error


def write_text(text: str, path: Path | str) -> None:
    """Writes a text file in UTF-8, whole or not at all.

    Raises:
        DisyreError: The file cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8", newline="")
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        reason = error.strerror or "unknown reason"
        raise DisyreError(f"Cannot write {path} ({reason}); choose another folder.", kind="output") from error


def check_exists(path: Path) -> None:
    """Refuses a path at which there is nothing.

    Raises:
        DisyreError: There is no such file or folder.
    """
    if not path.exists():
        raise DisyreError(f"There is no file or folder {path}; check the path.")
