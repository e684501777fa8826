"""False findings per healthy scan, in as few letters as a column has, and as stops of a slider."""

from __future__ import annotations

import math

from slicer.i18n import tr as _

STOPS = (1 / 50, 1 / 30, 1 / 20, 1 / 10, 1 / 5, 1 / 3, 1 / 2, 1.0, 2.0, 3.0, 5.0)
"""False findings per healthy scan at the stops of the slider: a logarithmic scale in round numbers."""


def nearest_stop(false_findings: float) -> int:
    """Index of the stop that is nearest by ratio."""
    return min(range(len(STOPS)), key=lambda stop: abs(math.log(STOPS[stop] / max(false_findings, 1e-9))))


def in_short(false_findings: float) -> str:
    """``1 in 20``, or ``2 a scan``."""
    return _written(false_findings, _("{below}1 in {number:.0f}"), _("{number:.0f} a scan"))


def in_healthy_scans(false_findings: float) -> str:
    """``1 in 20 healthy scans``, or ``2 per healthy scan``."""
    return _written(false_findings, _("{below}1 in {number:.0f} healthy scans"), _("{number:.0f} per healthy scan"))


def _written(false_findings: float, one_of: str, in_each: str) -> str:
    """One of two sentences, with the number that `DISYRECore.detection.findings.rarity_in_words` would say."""
    from DISYRECore.detection.findings import MOST_PER_SCAN, ONE_OF_TWO, RAREST

    scans = min(1 / max(false_findings, 1e-9), RAREST)
    if false_findings > ONE_OF_TWO or scans < 1.5:
        return in_each.format(number=false_findings if false_findings > MOST_PER_SCAN else 1)
    rounded = float(f"{scans:.1g}") if scans >= 10 else round(scans)
    return one_of.format(below="<" if scans == RAREST else "", number=rounded)
