"""The decision: both models' logits in, the next token of every emitting row out."""

import torch

from cold_backend.contract import DECIDED
from cold_backend.decoding.decode import decode
from cold_backend.loading import ops_for, take_device
from cold_backend.serving import lifeline, server_io


class TritonPythonModel:
    def initialize(self, args):
        with lifeline.starting(args) as settings:
            self._device = take_device(settings, 0, of=2)
            self._ops = ops_for(settings, self._device)

    def execute(self, requests):
        return server_io.answer("cold_decoder", requests, self._decode)

    def _decode(self, inputs):
        expert, base = (
            torch.from_numpy(inputs[name]).to(self._device)
            for name in ("expert_logits", "base_logits")
        )
        result = decode(self._ops, server_io.read_step(inputs), expert, base)
        return {name: getattr(result, name) for name in DECIDED}
