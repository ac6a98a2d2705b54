"""Makes the choices of a step: token ids first, then how probable they are.

Choices that only contrast, take the best or sample are one fused op. Those with penalties or
filters are made after it, see `shaping`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cold_backend.contract import CANDIDATE, PICK, Float32Array, Int64Array, Step, StepResult, table
from cold_backend.decoding.candidates import find_candidates
from cold_backend.decoding.forced import forced_log_probs, take_forced
from cold_backend.decoding.keys import noise_keys
from cold_backend.decoding.logits import Logits, log_probs_of
from cold_backend.decoding.shaping import choose_shaped, shaped_choices
from cold_kernels import Ops, Selection


def decode(ops: Ops, step: Step, logits: Tensor) -> StepResult:
    """Picks a token for each choice.

    Args:
        ops: the kernels.
        step: the step that gave the logits.
        logits: [E', V] of the step's emitting rows, in row order.
    """
    if not len(step.choices):
        return StepResult(table(PICK, []), table(CANDIDATE, []))
    own = Logits.of(step, logits)
    allowed = own.without(step.bans)
    selection = _select(ops, step, allowed)
    picks = np.empty(len(step.choices), PICK)
    best = selection.token.cpu().numpy()
    picks["token"] = tokens = _choose(ops, step, allowed, best)
    picks["expert_token"] = selection.expert_token.cpu().numpy()
    picks["valid_count"] = selection.valid_count.cpu().numpy()
    told = best == tokens
    told[step.bans["choice"]] = False  # the op did not see what these share the probability with
    expert, base = _score(step, own, selection, tokens, told)
    picks["expert_log_prob"], picks["base_log_prob"] = expert, base
    picks["decoding_log_prob"] = forced_log_probs(ops, step.choices, own, tokens, expert, base)
    return StepResult(picks, find_candidates(ops, step, own, allowed))


def _select(ops: Ops, step: Step, logits: Logits) -> Selection:
    samples = (step.choices["temperature"] > 0).any()
    return ops.contrast_select(
        logits.expert,
        logits.base,
        mode=logits.mode,
        alpha=logits.alpha,
        beta=logits.beta,
        temperature=logits.temperature,
        key=torch.from_numpy(noise_keys(step.choices)).to(logits.mode.device) if samples else None,
    )


def _choose(ops: Ops, step: Step, allowed: Logits, best: Int64Array) -> Int64Array:
    """The token of each choice, [E], from what the op picked; NONE where no logits were finite."""
    tokens = best.copy()
    shaped = shaped_choices(step)
    shaped = shaped[tokens[shaped] >= 0]
    tokens[shaped] = choose_shaped(ops, step, shaped, allowed)
    return take_forced(step.choices, tokens)


def _score(
    step: Step,
    own: Logits,
    selection: Selection,
    tokens: Int64Array,
    told: npt.NDArray[np.bool_],
) -> tuple[Float32Array, Float32Array]:
    """Log-probabilities [E] of the tokens, the expert's and the base's; NaN where it is not read.

    Where `told`, the op has told those of the readers that its mode needs; others are looked up.
    """
    found = []
    for reader, logits, known in (
        ("expert", own.expert, selection.expert_log_prob),
        ("base", own.base, selection.base_log_prob),
    ):
        log_probs = known.cpu().numpy().copy()
        is_read = (step.choices[reader] >= 0) & (tokens >= 0)
        log_probs[~is_read] = np.nan
        missing = np.flatnonzero(is_read & (~told | np.isnan(log_probs)))
        if len(missing):
            of = torch.from_numpy(tokens[missing])[:, None].to(logits.device)
            rows = torch.from_numpy(missing).to(logits.device)
            log_probs[missing] = log_probs_of(logits[rows], of)[:, 0].cpu().numpy()
        found.append(log_probs)
    return found[0], found[1]
