"""From a scan as it was read to what the models want, and the way back."""
