"""Figures: datasets, metrics, protocols, calibration."""
