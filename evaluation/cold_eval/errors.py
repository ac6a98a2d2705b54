"""What this package reports on purpose."""

from __future__ import annotations


class EvaluationError(Exception):
    """Something the user can put right; its text is the whole message."""
