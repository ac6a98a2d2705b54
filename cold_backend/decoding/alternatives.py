"""The tokens that are most probable by themselves, to be told beside the one that is picked."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cold_backend.contract import ALTERNATIVE, Step, Table, table
from cold_backend.decoding.logits import Logits
from cold_kernels import Ops


def rank_alternatives(ops: Ops, step: Step, logits: Logits) -> tuple[Tensor, ...]:
    """The best tokens of the choices that ask for alternatives; nothing, at no cost, if none does.

    Args:
        ops: the kernels.
        step: the step that gave the logits.
        logits: of the choices, without biases.

    Returns:
        The tokens and their log-probabilities, the expert's or, where none is read, the base's;
        both [n, k], best first.
    """
    wanted = step.choices["alternatives"]
    asking = np.flatnonzero(wanted)
    if not len(asking):
        return ()
    own = logits.take(asking)
    has_expert = torch.from_numpy(step.choices["expert"][asking] >= 0).to(own.expert.device)
    read = torch.where(has_expert[:, None], own.expert, own.base)
    tokens = read.topk(min(int(wanted.max()), read.shape[1])).indices
    return tokens, ops.log_probs(read, tokens)


def alternatives_of(step: Step, ranked: list[npt.NDArray[Any]]) -> Table:
    """The alternatives [n] of ALTERNATIVE, from what `rank_alternatives` found."""
    if not ranked:
        return table(ALTERNATIVE, [])
    tokens, log_probs = ranked
    wanted = step.choices["alternatives"]
    asking = np.flatnonzero(wanted)
    kept = np.arange(tokens.shape[1]) < wanted[asking, None]
    found = np.empty(int(kept.sum()), ALTERNATIVE)
    found["choice"] = np.broadcast_to(asking[:, None], kept.shape)[kept]
    found["token"], found["log_prob"] = tokens[kept], log_probs[kept]
    return found
