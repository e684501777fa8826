"""Helpers of the DISYRE module; nothing heavy is imported before it is used."""
