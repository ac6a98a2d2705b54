"""The expert: logits, base plus adapter, of a step's emitting rows."""

import numpy as np

from cold_backend.contract import step_of
from cold_backend.loading import load_adapter_lm
from cold_backend.serving import lifeline, steps


class TritonPythonModel:
    def initialize(self, args):
        with lifeline.starting(args) as settings:
            self._model = load_adapter_lm(settings)

    def execute(self, requests):
        return steps.answer("adapter_lm", requests, self._forward)

    def _forward(self, inputs):
        step = step_of(inputs)
        loads = self._model.load_adapters(step.adapters, alone=not len(step.rows))
        self._model.copy_blocks(step.copies)
        logits = self._model.forward(step.tokens, step.rows, step.blocks)
        return {
            "expert_logits": logits.float().cpu().numpy(),
            "expert_blocks": np.array([self._model.blocks]),
            "loads": loads,
        }
