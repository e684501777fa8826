"""The pages of the wizard, in their order."""

from __future__ import annotations
