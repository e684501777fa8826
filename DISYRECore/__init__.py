"""SlicerDISYRE's core library: finds anomalies in brain MRI by restoring it towards healthy anatomy."""

from DISYRECore.version import __version__

__all__ = ["__version__"]
