"""The fused execution: the rows of expert and base in one forward, and the choices after it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cold_backend.contract import Step, StepResult
from cold_backend.decoding.decode import decode
from cold_backend.models.language_model import LanguageModel
from cold_kernels import Ops


class FusedExecution:
    """Executes steps in this process; keeps the step contract.

    Args:
        model: runs the rows of both readers.
        ops: the kernels.
    """

    def __init__(self, model: LanguageModel, ops: Ops) -> None:
        self._model = model
        self._ops = ops

    def execute(self, step: Step) -> StepResult:
        """Feeds the step's tokens and picks a token for each choice.

        Mutates: the KV cache. Logits stay on the device; what was picked leaves it.
        """
        loads = self._model.load_adapters(step.adapters, alone=not len(step.rows))
        self._model.copy_blocks(step.copies)
        logits = self._model.forward(step.tokens, step.rows, step.blocks)
        blocks = np.array([self._model.blocks])
        return replace(decode(self._ops, step, logits), loads=loads, expert_blocks=blocks)
