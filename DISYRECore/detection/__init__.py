"""From a scan to findings."""
