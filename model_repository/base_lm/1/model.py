"""The amateur: base logits of a step's emitting rows."""

import numpy as np

from cold_backend.contract import step_of
from cold_backend.loading import load_base_lm
from cold_backend.serving import lifeline, steps


class TritonPythonModel:
    def initialize(self, args):
        with lifeline.starting(args) as settings:
            self._model = load_base_lm(settings)

    def execute(self, requests):
        return steps.answer("base_lm", requests, self._forward)

    def _forward(self, inputs):
        step = step_of(inputs)
        self._model.copy_blocks(step.copies)
        logits = self._model.forward(step.tokens, step.rows, step.blocks)
        return {
            "base_logits": logits.float().cpu().numpy(),
            "base_blocks": np.array([self._model.blocks]),
        }
