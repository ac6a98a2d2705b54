"""The decision: both models' logits in, the next token of every emitting row out."""

import torch

from cold_backend.contract import DECIDED, step_of, to_tensors
from cold_backend.decoding.decode import decode
from cold_backend.loading import ops_for, take_device
from cold_backend.serving import lifeline, steps


class TritonPythonModel:
    def initialize(self, args):
        with lifeline.starting(args) as settings:
            self._device = take_device(settings, 0, of=2)
            self._ops = ops_for(settings, self._device)

    def execute(self, requests):
        return steps.answer("cold_decoder", requests, self._decode)

    def _decode(self, inputs):
        expert, base = (torch.from_numpy(inputs[name]) for name in ("expert_logits", "base_logits"))
        # A step's rows are the expert's first, then the base's.
        logits = torch.cat((expert, base)).to(self._device)
        result = to_tensors(decode(self._ops, step_of(inputs), logits))
        return {name: result[name] for name in DECIDED}
