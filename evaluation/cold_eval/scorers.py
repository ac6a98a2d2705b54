"""What an answer is, and whether it is right."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

import sqlglot
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers

# A sign belongs to the number only where it is no operator: not in "7-5".
_NUMBER = re.compile(r"(?:(?<![\w.)])-\s?)?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+")
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")
_FINAL = "####"  # what GSM8K puts before the answer
_FENCE = re.compile(r"```(?:sql)?\s*(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Scorer:
    """How generated text is judged.

    Attributes:
        extract: the part of a text that counts, in the form in which equal answers are equal and
            votes are counted; None where the text has none.
        score: of an extracted answer beside the right one as the item has it, 0 to 1.
    """

    extract: Callable[[str], str | None]
    score: Callable[[str | None, str], float]


def normalised(text: str) -> str:
    """Single spaces, none around."""
    return " ".join(text.split())


def first_word(text: str) -> str | None:
    """The first word, without what stands around it."""
    found = _WORD.search(text)
    return found[0] if found else None


def last_number(text: str) -> str | None:
    """The number after the last `####`, else the last one of all, without `$`, commas and
    trailing zeros."""
    _, final, rest = text.rpartition(_FINAL)
    found = _NUMBER.findall(rest)
    if final and found:
        found = found[:1]
    if not found:
        found = _NUMBER.findall(text)
    if not found:
        return None
    plain = re.sub(r"[$,\s]", "", found[-1])
    return f"{Decimal(plain).normalize():f}".replace("-0", "0", plain in ("-0", "-0.0"))


def normalised_sql(text: str) -> str | None:
    """The first statement in one spelling: keywords, identifiers, quotes and spaces; None if it
    cannot be parsed."""
    fenced = _FENCE.search(text)
    sql = (fenced[1] if fenced else text).strip()
    try:
        statement = next((s for s in sqlglot.parse(sql) if s is not None), None)
        if statement is None:
            return None
        return normalize_identifiers(statement).sql(comments=False, identify=True)
    except (SqlglotError, RecursionError):
        return None


def _equal(extract: Callable[[str], str | None]) -> Scorer:
    def score(answer: str | None, expected: str) -> float:
        return float(answer is not None and answer == extract(expected))

    return Scorer(extract, score)


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


def _rouge_l(answer: str | None, expected: str) -> float:
    return float(_rouge().score(expected, answer or "")["rougeL"].fmeasure)


SCORERS: Mapping[str, Scorer] = {
    "exact": _equal(normalised),
    "exact_any_case": _equal(lambda text: normalised(text).casefold()),
    "first_word": _equal(first_word),
    "last_number": _equal(last_number),
    "sql": _equal(normalised_sql),
    "rouge_l": Scorer(normalised, _rouge_l),
}
# Multiple choice: the choice with the highest log-probability, of all its tokens or of each.
CHOICE_SCORERS = ("choice", "choice_per_token")
