"""From generated texts to results."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cold_eval.decodings import Decoding
from cold_eval.items import Item, Task
from cold_eval.results import Result
from cold_eval.scorers import SCORERS


@dataclass(frozen=True, slots=True)
class Answer:
    """A generated text and why it ended."""

    text: str
    finish: str


def seed_of(seed: int, item: str, sample: int) -> int:
    """A sample's own seed, the same in every run."""
    return (seed << 40) ^ (zlib.crc32(item.encode()) << 8) ^ sample


def result_of(
    task: Task, item: Item, answer: Answer, *, decodings: Mapping[str, int], **columns: Any
) -> Result:
    """The result for one text; `columns` are further fields of `Result`."""
    scorer = SCORERS[task.scorer]
    extracted = scorer.extract(answer.text)
    return Result(
        task=task.name,
        item=item.id,
        decodings=dict(decodings),
        text=answer.text,
        answer=extracted,
        score=scorer.score(extracted, item.answer),
        finish=answer.finish,
        **columns,
    )


def voted(task: Task, item: Item, decoding: Decoding, answers: Sequence[Answer]) -> Result:
    """The result for the commonest of several answers; of equally common ones the first.

    Texts without an answer do not vote.
    """
    names = {decoding.name: -1}
    if len(answers) == 1:
        return result_of(task, item, answers[0], decodings=names)
    extracted = [SCORERS[task.scorer].extract(answer.text) for answer in answers]
    votes = Counter(one for one in extracted if one is not None)
    winner = votes.most_common(1)[0][0] if votes else None
    return result_of(
        task, item, answers[extracted.index(winner)], decodings=names, votes=dict(votes)
    )
