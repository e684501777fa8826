"""Pictures of the worker in labels of the panel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt

WIDTH = 300
"""Pixels that a picture has beside the margins of a narrow panel."""


def show_picture(label: Any, path: str | Path | None) -> None:
    """Shows a picture as wide as the panel allows; hides the label where there is none."""
    pixmap = qt.QPixmap(str(path)) if path else qt.QPixmap()
    label.visible = not pixmap.isNull()
    if label.visible:
        label.setPixmap(pixmap.scaledToWidth(WIDTH, qt.Qt.SmoothTransformation))
