"""Site calibrations: what a model finds in healthy scans of one scanner."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from DISYRECore.detection.evidence import HealthyFindings
from DISYRECore.errors import DisyreError
from DISYRECore.io.files import check_writable, write_text
from DISYRECore.models.description import find_model, own_models

FOLDER = "sites"


@dataclass(frozen=True)
class SiteContrast:
    """What one contrast of a site is like.

    Attributes:
        findings: Of its healthy scans.
        warnings: Sentences for whoever uses them.
    """

    findings: HealthyFindings
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class SiteCalibration:
    """What `disyre calibrate` stores; nothing in it tells who was scanned.

    Attributes:
        site: Its name.
        model, model_sha256: What it belongs to.
        method: Likewise.
        settings, by_contrast: Of the method, for all contrasts and for some.
        healthy: By contrast.
        disyre: Version.
    """

    site: str
    model: str
    model_sha256: str
    method: str
    settings: dict[str, Any]
    by_contrast: dict[str, dict[str, Any]]
    healthy: dict[str, SiteContrast]
    disyre: str = ""

    def fits(self, basis: dict[str, Any]) -> bool:
        """Whether it belongs to this model, method and settings, see `detector.Detector.basis`."""
        return all(getattr(self, name) == value for name, value in basis.items())

    def to_json(self) -> str:
        """Text of its file."""
        return json.dumps(asdict(self), indent=2) + "\n"


def save_site(calibration: SiteCalibration, model: str) -> Path:
    """Writes a site calibration beside its model, or into the user's own models folder where the model's is read-only.

    Args:
        calibration: What to write.
        model: Id or folder of its model.

    Raises:
        DisyreError: The name is no plain word, or neither folder can be written.
    """
    check_name(calibration.site)
    for folder in _folders(model):
        try:
            check_writable(folder)
        except DisyreError:
            continue
        write_text(calibration.to_json(), folder / f"{calibration.site}.json")
        return folder / f"{calibration.site}.json"
    raise DisyreError(
        "The site calibration cannot be written anywhere; set DISYRE_MODELS to a folder of yours.", "output"
    )


def load_site(model: str, site: str) -> SiteCalibration:
    """Reads the calibration of a site; the newer one if the model's folder and the user's hold one each.

    Args:
        model: Id or folder of the model.
        site: Name of the site.

    Raises:
        DisyreError: There is none, or it is damaged.
    """
    check_name(site)
    files = [path for folder in _folders(model) if (path := folder / f"{site}.json").is_file()]
    if not files:
        known = ", ".join(list_sites(model)) or "none"
        raise DisyreError(
            f"There is no site calibration '{site}' of model '{model}' (known: {known}); calibrate first."
        )
    return _read(max(files, key=lambda path: path.stat().st_mtime))


def list_sites(model: str) -> list[str]:
    """Names of the site calibrations of a model."""
    return sorted({path.stem for folder in _folders(model) for path in folder.glob("*.json")})


def _read(path: Path) -> SiteCalibration:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        healthy = {name: _contrast(one) for name, one in values.pop("healthy").items()}
        return SiteCalibration(**values, healthy=healthy)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DisyreError(
            f"The site calibration {path.name} is damaged or of an earlier version; calibrate again."
        ) from error


def _contrast(values: dict[str, Any]) -> SiteContrast:
    return SiteContrast(HealthyFindings(**values["findings"]), tuple(values["warnings"]))


def _folders(model: str) -> list[Path]:
    """Beside the model, then in the user's own models folder."""
    return [find_model(model) / FOLDER, own_models() / Path(model).name / FOLDER]


def check_name(site: str) -> None:
    """Refuses what cannot be the name of a file.

    Raises:
        DisyreError: It is empty, too long or holds other than letters, digits, dots, dashes and underscores.
    """
    if not re.fullmatch(r"\w[\w.-]{0,63}", site, re.ASCII):
        raise DisyreError(f"'{site}' is no name for a site; use letters, digits, dots, dashes and underscores.")
