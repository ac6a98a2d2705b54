"""Runs decodings in this process, over cold_backend's own parts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from cold_backend.config import Settings
from cold_backend.decoding.execution import FusedExecution
from cold_backend.errors import ColdError
from cold_backend.loading import load_fused_lm, ops_for, take_device
from cold_backend.offline import Cold
from cold_backend.requests.request import GenerationRequest
from cold_eval.amateurs import BASE, Amateur
from cold_eval.answers import Answer, result_of, seed_of, voted
from cold_eval.choices import ChoiceWalk, choice_text, chosen
from cold_eval.decodings import Decoding, by_logits
from cold_eval.errors import EvaluationError
from cold_eval.grid import GridWalk, Leaf
from cold_eval.items import Item, Task
from cold_eval.policies import Policy, policy_of
from cold_eval.results import Result
from cold_eval.walks import AnyWalk, Walker

Wanted = Mapping[str, Sequence[str]]  # item id to decodings' names
_ADAPTER = "adapter"


class InProcess:
    """A base model with adapters, loaded once.

    Args:
        base_model: see `Settings`.
        adapter: PEFT LoRA directory of the expert.
        amateurs: likewise of others, by name, which only amateurs have.
        dtype: see `Settings`.
        device: see `Settings`.
        max_context: tokens of the longest prompt and its answer.
        max_sequences: items at once.
        seed: of samples.

    Raises:
        EvaluationError: the model or the adapter cannot be used.
    """

    def __init__(
        self,
        base_model: Path,
        adapter: Path,
        *,
        amateurs: Mapping[str, Path] = MappingProxyType({}),
        dtype: str = "auto",
        device: str = "auto",
        max_context: int = 2048,
        max_sequences: int = 32,
        seed: int = 0,
    ) -> None:
        self._seed = seed
        try:
            self._settings = Settings(
                base_model=str(base_model),
                adapters={_ADAPTER: str(adapter)} | {n: str(p) for n, p in amateurs.items()},
                dtype=dtype,
                device=device,
                max_context=max_context,
                max_sequences=max_sequences,
                max_step_tokens=max(256, 8 * max_sequences),
                prefix_reuse=False,  # walks write into the same blocks
            )
            self.model = load_fused_lm(self._settings)
            self._ops = ops_for(self._settings, take_device(self._settings, 0))
            execution = FusedExecution(self.model, self._ops)
            self._cold = Cold.over(self._settings, execution.execute)
        except ColdError as error:
            raise EvaluationError(str(error)) from error
        self.tokenizer = self._cold.tokenizer

    def run(self, task: Task, decodings: Sequence[Decoding], wanted: Wanted) -> Iterator[Result]:
        """Yields the results that are wanted, in the order in which they are ready.

        Raises:
            EvaluationError: an item cannot be decoded.
        """
        items = [item for item in task.items if wanted.get(item.id)]
        if task.is_choice:
            for (scale, amateur), alike in by_logits(decodings).items():
                yield from self._choose(task, items, alike, wanted, scale, amateur)
            return
        for (scale, amateur), alike in by_logits(d for d in decodings if d.in_grid).items():
            policies = {d.name: policy_of(d) for d in alike}
            walks = self.walk(task, items, policies, wanted, lora_scale=scale, amateur=amateur)
            for walk in walks:
                for leaf in walk.leaves:
                    yield _of_leaf(task, _item(task, walk.key), leaf)
        for decoding in decodings:
            if not decoding.in_grid:
                mine = [item for item in items if decoding.name in wanted[item.id]]
                yield from self._generate(task, mine, decoding)

    def walk(
        self,
        task: Task,
        items: Sequence[Item],
        policies: Mapping[str, Policy],
        wanted: Wanted,
        *,
        lora_scale: float = 1.0,
        amateur: str = BASE,
    ) -> Iterator[GridWalk]:
        """Decodes items under the policies that are wanted of each; yields a walk for each.

        Args:
            lora_scale: strength of the adapter that the policies see.
            amateur: what they see beside it, see `amateurs`.

        Raises:
            EvaluationError: an item cannot be decoded.
        """
        walks = []
        for item in items:
            mine = [policy for name, policy in policies.items() if name in wanted[item.id]]
            if mine:
                fields = {"decoding": "cold", "lora_scale": lora_scale}
                fields |= Amateur(amateur).fields(item)
                request = self._request(item, fields, task.max_tokens, task.stop)
                walks.append(GridWalk(item.id, request, mine, self.tokenizer))
        yield from self._walked(walks)

    def _walked(self, walks: list[AnyWalk]) -> Iterator[AnyWalk]:
        # The longest first, so that none is alone at the end.
        walks.sort(key=lambda walk: -walk.hypothesis.pending if walk.hypothesis else 0)
        limits = self._settings
        walker: Walker[AnyWalk] = Walker(
            self.model,
            self._ops,
            limits.adapter_names,
            most=limits.max_sequences,
            context=limits.max_context,
            step_tokens=limits.max_step_tokens,
        )
        return walker.run(walks)

    def _choose(
        self,
        task: Task,
        items: Sequence[Item],
        decodings: Sequence[Decoding],
        wanted: Wanted,
        lora_scale: float,
        amateur: str,
    ) -> Iterator[Result]:
        walks = []
        for item in items:
            mine = [d for d in decodings if d.name in wanted[item.id]]
            if not mine:
                continue
            tokens = [self.tokenizer.encode_bare(choice_text(item, c)) for c in item.choices]
            fields = {"decoding": "cold", "ignore_eos": True, "lora_scale": lora_scale}
            fields |= Amateur(amateur).fields(item)
            request = self._request(item, fields, max(map(len, tokens)), ())
            walks.append(ChoiceWalk(item.id, request, tokens, mine, self.tokenizer))
        for walk in self._walked(walks):
            item = _item(task, walk.key)
            for decoding in decodings:
                if decoding.name in wanted[item.id]:
                    yield chosen(task, item, decoding, walk.scores(decoding))

    def _generate(self, task: Task, items: Sequence[Item], decoding: Decoding) -> Iterator[Result]:
        samples = [(item, number) for item in items for number in range(decoding.samples)]
        requests = [
            self._request(
                item,
                decoding.fields(item) | {"seed": seed_of(self._seed, item.id, number)},
                task.max_tokens,
                task.stop,
            )
            for item, number in samples
        ]
        found: dict[str, dict[int, Answer]] = {item.id: {} for item in items}
        for place, written in self._cold.each(requests):
            item, number = samples[place]
            finish = written.finish_reason.value if written.finish_reason else ""
            found[item.id][number] = Answer(written.text, finish)
            if len(found[item.id]) == decoding.samples:
                answers = [found[item.id][each] for each in range(decoding.samples)]
                yield voted(task, item, decoding, answers)

    def _request(
        self, item: Item, fields: Mapping[str, object], max_tokens: int, stop: Sequence[str]
    ) -> GenerationRequest:
        stopping = {"stop_words": [*stop]} if stop else {}
        try:
            return self._cold.request(item.prompt, max_tokens=max_tokens, **stopping, **fields)
        except ColdError as error:
            raise EvaluationError(f"item {item.id!r}: {error}") from error


def _item(task: Task, name: str) -> Item:
    return next(item for item in task.items if item.id == name)


def _of_leaf(task: Task, item: Item, leaf: Leaf) -> Result:
    tokens = [choice.token for choice in leaf.choices]
    return result_of(
        task,
        item,
        Answer(leaf.text, leaf.finish.value),
        decodings={policy.name: leaf.contested(policy.alpha) for policy in leaf.policies},
        pieces=list(leaf.pieces),
        expert=[_rounded(token.expert_log_prob) for token in tokens],
        base=[_rounded(token.base_log_prob) for token in tokens],
        changed=[at for at, choice in enumerate(leaf.choices) if choice.is_changed],
    )


def _rounded(log_prob: float | None) -> float:
    return math.nan if log_prob is None else round(log_prob, 3)
