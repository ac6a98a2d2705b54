"""An adapter as requests refer to it; without its weights, and so without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from cold_backend.adapters.defaults import AdapterDefaults
from cold_backend.adapters.files import Stamp
from cold_backend.contract import AdapterReport
from cold_backend.errors import AdapterUnreadableError, ColdError, InvalidRequestError


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """An adapter as it was when a request asked for it.

    Attributes:
        name: empty for the base model alone.
        path: its directory; empty for one that the models have from the start.
        stamp: changes when the files do that are loaded.
        defaults: how it is decoded; they may change by themselves.
    """

    name: str
    path: str = ""
    stamp: Stamp = ()
    defaults: AdapterDefaults = field(default=AdapterDefaults(), compare=False)


def load_error(report: AdapterReport, field: str) -> ColdError:
    """What a request is told whose field names an adapter that could not be loaded."""
    if report.passing:
        return AdapterUnreadableError(report.name, report.problem)
    return InvalidRequestError(field, report.problem)
