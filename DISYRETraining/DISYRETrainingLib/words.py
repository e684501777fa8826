"""Times as people say them."""

from __future__ import annotations

from slicer.i18n import tr as _


def time_left(left_s: float) -> str:
    """Time left, as a progress bar says it."""
    return _("about {time} left").format(time=duration(left_s))


def duration(seconds: float) -> str:
    """``20 s``, ``15 min`` or ``3.5 h``."""
    if seconds < 60:
        return _("{n:.0f} s").format(n=seconds)
    if seconds < 90 * 60:
        return _("{n:.0f} min").format(n=seconds / 60)
    return _("{n:.1f} h").format(n=seconds / 3600)
