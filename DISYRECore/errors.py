"""The one exception that users are meant to read."""

from __future__ import annotations


class DisyreError(Exception):
    """Something the user can mend; the message is one sentence that says what is wrong and what to do.

    Args:
        message: The sentence shown to the user.
        kind: A word for programs: ``bad_input``, ``no_brain``, ``unknown_model``, ``output``, ``oom``.
    """

    def __init__(self, message: str, kind: str = "bad_input") -> None:
        super().__init__(message)
        self.kind = kind
