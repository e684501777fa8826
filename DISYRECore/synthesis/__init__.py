"""Healthy scans, lesions and test sets from label maps."""
