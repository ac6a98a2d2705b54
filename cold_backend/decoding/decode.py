"""Makes the choices of a step: token ids first, then how probable they are.

Choices that only contrast, take the best or sample are one fused op. Those with penalties or
filters are drawn after it, see `shaping`. All of a step are made at once, and what was found leaves
the device in one copy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cold_backend.contract import CANDIDATE, PICK, Int64Array, Step, StepResult, table
from cold_backend.decoding.alternatives import alternatives_of, rank_alternatives
from cold_backend.decoding.candidates import candidates_of, rank_candidates
from cold_backend.decoding.fetch import fetch
from cold_backend.decoding.forced import forced_log_probs, take_forced
from cold_backend.decoding.keys import noise_keys
from cold_backend.decoding.logits import Logits, column, take_rows
from cold_backend.decoding.shaping import draw_shaped, shaped_choices
from cold_kernels import Mode, Ops, Selection

# Of a row's tokens, how many of the best are looked at first; rarely are they too few.
_ROOM = 1024


def decode(ops: Ops, step: Step, logits: Tensor, room: int = _ROOM) -> StepResult:
    """Picks a token for each choice.

    Args:
        ops: the kernels.
        step: the step that gave the logits.
        logits: [E', V] of the step's emitting rows, in row order.
        room: see `cold_kernels.choice_ops.Draw`. If it is not enough the choices are made again.
    """
    choices = step.choices
    if not len(choices):
        return StepResult(table(PICK, []), table(CANDIDATE, []))
    own = Logits.of(step, logits)
    own = replace(own, beta=_beta(ops, step, own))
    allowed = own.biased(step.biases)
    chosen = _choose(ops, step, allowed, room)
    expert, base = _score(ops, step, own, chosen)
    beams = rank_candidates(ops, step, own, allowed)
    certain, token, expert_token, count, expert_log_prob, base_log_prob, decoding, *ranked = fetch(
        chosen.certain,
        chosen.token,
        chosen.selection.expert_token,
        chosen.selection.valid_count,
        expert,
        base,
        forced_log_probs(ops, choices, own, chosen.token, expert, base),
        *beams,
        *rank_alternatives(ops, step, own),
    )
    if not certain.all():
        return decode(ops, step, logits, room=logits.shape[1])
    picks = np.empty(len(choices), PICK)
    picks["token"], picks["expert_token"], picks["valid_count"] = token, expert_token, count
    for name, found, meant in (
        ("expert_log_prob", expert_log_prob, choices["expert"] >= 0),
        ("base_log_prob", base_log_prob, choices["base"] >= 0),
        ("decoding_log_prob", decoding, choices["forced"] >= 0),
    ):
        picks[name] = np.where(meant & (token >= 0), found, np.float32(np.nan))
    candidates = candidates_of(step, ranked[: len(beams)])
    return StepResult(picks, candidates, alternatives_of(step, ranked[len(beams) :]))


def _beta(ops: Ops, step: Step, own: Logits) -> Tensor:
    """[E] the strength of each contrast at this step."""
    choices = step.choices
    ruled = np.flatnonzero((choices["divergence"] != 0) & (choices["mode"] == Mode.COLD))
    if not len(ruled):
        return own.beta
    apart = ops.divergence(take_rows(own.expert, ruled), take_rows(own.base, ruled))
    at = torch.from_numpy(ruled).to(apart.device)
    return own.beta.index_copy(0, at, own.beta[at] * apart)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The tokens, on the device.

    Attributes:
        token: [E] int64; -1 where no logits were finite.
        selection: what the op found; where `shaped`, its token is another.
        shaped: [n] the choices that were drawn after it.
        certain: [n] bool, whether the room was enough for each of those.
    """

    token: Tensor
    selection: Selection
    shaped: Int64Array
    certain: Tensor


def _choose(ops: Ops, step: Step, allowed: Logits, room: int) -> _Chosen:
    shaped = shaped_choices(step)
    selection = _select(ops, step, shaped, allowed)
    token = selection.token
    certain = token.new_ones(0, dtype=torch.bool)
    if len(shaped):
        drawn = draw_shaped(ops, step, shaped, allowed, room)
        at = torch.from_numpy(shaped).to(token.device)
        broken = token[at] < 0
        token = token.index_copy(0, at, torch.where(broken, token[at], drawn.token))
        certain = drawn.certain | broken
    return _Chosen(take_forced(step.choices, token), selection, shaped, certain)


def _select(ops: Ops, step: Step, shaped: Int64Array, logits: Logits) -> Selection:
    """What the op picks; it does not sample where that is done later."""
    device = logits.mode.device
    plain = step.choices.copy()
    plain["temperature"][shaped] = 0
    samples = (plain["temperature"] > 0).any()
    return ops.contrast_select(
        logits.expert,
        logits.base,
        mode=logits.mode,
        alpha=logits.alpha,
        beta=logits.beta,
        temperature=column(plain, "temperature", device),
        key=torch.from_numpy(noise_keys(plain)).to(device) if samples else None,
    )


def _score(ops: Ops, step: Step, own: Logits, chosen: _Chosen) -> tuple[Tensor, Tensor]:
    """Log-probabilities [E] of the tokens, the expert's and the base's; of no meaning where the
    reader's logits are not read.

    Those that the op has not told are looked up together: of tokens that it did not pick, of
    choices whose logits it saw with a bias, and of readers that the mode does not need.
    """
    choices, selection = step.choices, chosen.selection
    told = choices["forced"] < 0
    told[chosen.shaped] = False
    told[step.biases["choice"]] = False
    found = []
    for reader, logits, log_probs, idle in (
        ("expert", own.expert, selection.expert_log_prob, Mode.BASE),
        ("base", own.base, selection.base_log_prob, Mode.EXPERT),
    ):
        missing = np.flatnonzero((choices[reader] >= 0) & (~told | (choices["mode"] == idle)))
        if len(missing):
            at = torch.from_numpy(missing).to(logits.device)
            tokens = chosen.token[at, None].clamp(min=0)
            looked_up = ops.log_probs(take_rows(logits, missing), tokens)[:, 0]
            log_probs = log_probs.index_copy(0, at, looked_up)
        found.append(log_probs)
    return found[0], found[1]
