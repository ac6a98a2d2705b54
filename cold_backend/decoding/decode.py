"""Picks the next token of every emitting row of a step, from logits and the rows' settings.

Rows that only contrast, take the best or sample go through one fused op. Rows with banned tokens,
penalties, min_p, top_k or top_p have their scores shaped one by one in torch, on the tokens that
are left to choose from: in a contrasted row that is the small valid set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cold_backend.contract import (
    Draw,
    Float32Array,
    Int64Array,
    LogProb,
    Pick,
    Reads,
    Shape,
    Step,
    StepResult,
    emitting,
    reading,
)
from cold_backend.decoding.candidates import find_options
from cold_backend.decoding.forced import score_given, take_given
from cold_kernels import Ops, Selection
from cold_kernels.reference import contrast_scores

_NEVER = float("-inf")
_WORD_64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class _RowSettings:
    """Per-row settings as the ops take them; E rows."""

    mode: Tensor  # [E] int32
    alpha: Tensor  # [E] float32
    beta: Tensor  # [E] float32
    temperature: Tensor  # [E] float32

    @classmethod
    def of(cls, step: Step, device: torch.device) -> _RowSettings:
        shapes = torch.from_numpy(step.shapes).to(device)
        return cls(
            mode=torch.from_numpy(step.draws[:, Draw.MODE].astype(np.int32)).to(device),
            alpha=shapes[:, Shape.ALPHA],
            beta=shapes[:, Shape.BETA],
            temperature=shapes[:, Shape.TEMPERATURE],
        )

    def take(self, rows: Tensor) -> _RowSettings:
        return _RowSettings(
            self.mode[rows], self.alpha[rows], self.beta[rows], self.temperature[rows]
        )


def decode(ops: Ops, step: Step, expert: Tensor, base: Tensor) -> StepResult:
    """Picks a token for each emitting row.

    Args:
        ops: the kernels.
        step: the step that gave the logits.
        expert: [E', V] logits of the emitting rows that read the expert, in row order.
        base: [E'', V] logits of the emitting rows that read the base.

    Returns:
        Picks and log-probabilities, [E, …].
    """
    emit = emitting(step.rows)
    expert = _spread(expert, reading(step.rows, Reads.EXPERT)[emit])  # [E, V]
    base = _spread(base, reading(step.rows, Reads.BASE)[emit])  # [E, V]
    settings = _RowSettings.of(step, expert.device)
    selection = ops.contrast_select(
        expert,
        base,
        mode=settings.mode,
        alpha=settings.alpha,
        beta=settings.beta,
        temperature=settings.temperature,
        noise=_noise(step, expert),
    )
    result = _result(selection, expert, base, step)
    for row in _shaped_rows(step):
        _reshape(ops, step, settings, row, expert, base, result)
    take_given(step, result)
    _add_unread_log_probs(result, expert, base, step)
    score_given(step, expert, base, result)
    return result


def _spread(logits: Tensor, present: npt.NDArray[np.bool_]) -> Tensor:
    """[E, V] from the rows that are present; the others, which no mode reads, are zero."""
    if present.all():
        return logits
    spread = logits.new_zeros((len(present), logits.shape[1]))
    spread[torch.from_numpy(present).to(logits.device)] = logits
    return spread


def _noise(step: Step, like: Tensor) -> Tensor | None:
    """Standard Gumbel noise [E, V] for the rows that sample; None if none does."""
    samples = step.shapes[:, Shape.TEMPERATURE] > 0
    if not samples.any():
        return None
    noise = np.zeros(like.shape, np.float32)
    for row in np.flatnonzero(samples):
        noise[row] = _row_noise(step, int(row), like.shape[1])
    return torch.from_numpy(noise).to(like.device)


def _row_noise(step: Step, row: int, vocab: int) -> Float32Array:
    """Standard Gumbel noise [V] of one row.

    It depends on the row's seed and position alone, so that the rest of the batch cannot change
    what the row draws.
    """
    seed = int(step.draws[row, Draw.SEED]) & _WORD_64
    position = int(step.draws[row, Draw.POSITION])
    # The counter's lower word counts the draws within a position.
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, position, 0, 0]))
    waits = generator.standard_exponential(vocab, dtype=np.float32)
    noise: Float32Array = -np.log(np.maximum(waits, np.finfo(np.float32).tiny))
    return noise


def _result(selection: Selection, expert: Tensor, base: Tensor, step: Step) -> StepResult:
    picks = torch.stack(
        (selection.token, selection.expert_token, selection.valid_count.long()), dim=1
    )
    unknown = torch.full_like(selection.expert_log_prob, torch.nan)
    log_probs = torch.stack((selection.expert_log_prob, selection.base_log_prob, unknown), dim=1)
    options, option_scores = find_options(step, expert, base)
    return StepResult(picks.cpu().numpy(), log_probs.cpu().numpy(), options, option_scores)


def _add_unread_log_probs(result: StepResult, expert: Tensor, base: Tensor, step: Step) -> None:
    """Fills in log-probs of logits that are there though the row's mode does not need them."""
    emit = emitting(step.rows)
    for column, reader, logits in (
        (LogProb.EXPERT, Reads.EXPERT, expert),
        (LogProb.BASE, Reads.BASE, base),
    ):
        missing = np.isnan(result.log_probs[:, column]) & reading(step.rows, reader)[emit]
        for row in np.flatnonzero(missing & (result.picks[:, Pick.TOKEN] >= 0)):
            result.log_probs[row, column] = _log_prob(logits[row], result.picks[row, Pick.TOKEN])


def _log_prob(logits: Tensor, token: int) -> float:
    logits = logits.float()
    return float(logits[token] - logits.logsumexp(0))


def _shaped_rows(step: Step) -> list[int]:
    """Rows whose scores need more than the fused op does."""
    s = step.shapes
    narrowed = (
        (step.draws[:, Draw.TOP_K] > 0) | (s[:, Shape.TOP_P] < 1) | (s[:, Shape.MIN_P] > 0)
    ) & (s[:, Shape.TEMPERATURE] > 0)
    rows = set(np.flatnonzero(narrowed).tolist())
    rows.update(step.bans[:, 0].tolist())
    rows.update(step.counts[:, 0].tolist())
    return sorted(rows)


def _reshape(
    ops: Ops,
    step: Step,
    settings: _RowSettings,
    row: int,
    expert: Tensor,
    base: Tensor,
    result: StepResult,
) -> None:
    """Picks one row again, with bans, penalties and filters; writes it into `result`."""
    if result.picks[row, Pick.TOKEN] < 0:
        return
    banned = step.bans[step.bans[:, 0] == row, 1]
    one = settings.take(torch.tensor([row], device=expert.device))
    e, a = _without(expert[row], banned)[None], _without(base[row], banned)[None]  # [1, V]
    plain = ops.contrast_select(
        e,
        a,
        mode=one.mode,
        alpha=one.alpha,
        beta=one.beta,
        temperature=torch.zeros_like(one.temperature),
        noise=None,
    )
    scores = contrast_scores(e.float(), a.float(), one.mode, one.alpha, one.beta)[0]
    ids = (scores > _NEVER).nonzero()[:, 0]  # [n]
    penalised = _penalise(
        ids, scores[ids], step.counts[step.counts[:, 0] == row, 1:], step.shapes[row]
    )
    token = _draw(ids, penalised, step, row)
    result.picks[row] = (token, int(plain.expert_token), int(plain.valid_count))
    result.log_probs[row] = np.nan


def _without(logits: Tensor, banned: Int64Array) -> Tensor:
    """The logits [V] with banned tokens at -inf."""
    if not len(banned):
        return logits
    return logits.index_fill(0, torch.from_numpy(banned).to(logits.device), _NEVER)


def _penalise(ids: Tensor, scores: Tensor, counts: Int64Array, shape: Float32Array) -> Tensor:
    """Applies the penalties of one row to the scores [n] of its tokens [n], which ascend.

    Repetition as in CTRL (arXiv 1909.05858) over prompt and output: a positive score is divided, a
    negative one multiplied. Presence and frequency over the output are subtracted.
    """
    if not len(counts) or not len(ids):
        return scores
    tokens, times = torch.from_numpy(counts).T.contiguous().to(scores.device)
    places = torch.searchsorted(ids, tokens).clamp(max=len(ids) - 1)
    left = ids[places] == tokens
    places, times = places[left], times[left]
    seen = scores[places]
    repetition = float(shape[Shape.REPETITION_PENALTY])
    seen = torch.where(seen > 0, seen / repetition, seen * repetition)
    seen = seen - times * float(shape[Shape.FREQUENCY_PENALTY])
    seen = seen - (times > 0) * float(shape[Shape.PRESENCE_PENALTY])
    return scores.index_copy(0, places, seen)


def _draw(ids: Tensor, scores: Tensor, step: Step, row: int) -> int:
    """Takes the best of the scores [n] of the tokens [n], or samples.

    Sampling: temperature, then min_p, top_k, top_p, then noise. Returns -1 if there is no token.
    """
    if not len(ids):
        return -1
    temperature = float(step.shapes[row, Shape.TEMPERATURE])
    if temperature == 0:
        return int(ids[scores.argmax()])
    ordered, order = ((scores - scores.max()) / temperature).sort(descending=True, stable=True)
    probs = ordered.softmax(0)
    keep = probs >= float(step.shapes[row, Shape.MIN_P]) * probs[0]
    top_k = int(step.draws[row, Draw.TOP_K])
    if top_k > 0:
        keep[top_k:] = False
    probs = (probs * keep) / (probs * keep).sum()
    # A token stays if those before it hold less than top_p: the first always does.
    keep &= (probs.cumsum(0) - probs) < float(step.shapes[row, Shape.TOP_P])
    kept = ids[order[keep]]
    noise = _row_noise(step, row, int(ids[-1]) + 1)  # of the tokens up to the last candidate
    drawn = (ordered[keep] + torch.from_numpy(noise).to(scores.device)[kept]).argmax()
    return int(kept[drawn])
