"""Decodes one prompt under many policies in one go.

Policies that have agreed so far share a hypothesis; where they part, one of them goes on and the
others wait, until it has ended, for the slot to be taken back to that place. So every token of the
tree of all answers is computed once, whichever policies it belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cold_backend.requests.answer import FinishReason
from cold_backend.requests.hypothesis import Hypothesis
from cold_backend.requests.request import GenerationRequest
from cold_backend.requests.token import Token
from cold_backend.text.tokenizer import Tokenizer
from cold_eval.policies import Policy, View
from cold_eval.walks import continued


@dataclass(frozen=True, slots=True)
class Choice:
    """A token of an answer and what was seen when it was chosen.

    Attributes:
        token: with the log-probabilities of expert and base; its valid_count is not filled in.
        gap: see `View.gap`.
    """

    token: Token
    gap: float

    @property
    def is_changed(self) -> bool:
        """Whether the expert alone would have taken another token."""
        return self.token.id != self.token.expert_token


@dataclass(frozen=True, slots=True)
class Leaf:
    """An answer.

    Attributes:
        policies: those that give it.
        text: without what ended it.
        pieces: the text that each token added; joined, they may go beyond a stop word.
    """

    policies: tuple[Policy, ...]
    text: str
    choices: tuple[Choice, ...]
    pieces: tuple[str, ...]
    finish: FinishReason

    @property
    def ids(self) -> list[int]:
        """Its tokens, an end-of-sequence token included."""
        return [choice.token.id for choice in self.choices]

    def contested(self, alpha: float) -> int:
        """Steps at which an alpha left more than one token valid."""
        return sum(choice.gap <= -math.log(alpha) for choice in self.choices)


@dataclass(frozen=True, slots=True)
class _Branch:
    policies: tuple[Policy, ...]
    choices: tuple[Choice, ...]


class GridWalk:
    """The answers to one prompt. See `Walk`.

    Args:
        key: for whoever gets the leaves.
        request: with `decoding` cold, so that both models are read; its alpha and beta do not
            matter.
        policies: one at least.
        tokenizer: the base model's.
    """

    def __init__(
        self,
        key: str,
        request: GenerationRequest,
        policies: Sequence[Policy],
        tokenizer: Tokenizer,
    ) -> None:
        self.key = key
        self.leaves: list[Leaf] = []
        self.alpha = min(policy.alpha for policy in policies)
        self.by_divergence = any(getattr(policy, "by_divergence", False) for policy in policies)
        self._request = request
        self._tokenizer = tokenizer
        self._policies = tuple(policies)
        self._choices: list[Choice] = []
        # The deepest last: what a slot holds before a branch is then still there when its turn
        # comes, because everything since has been written behind it.
        self._branches: list[_Branch] = []
        self.hypothesis: Hypothesis | None = Hypothesis.of(request, tokenizer)

    def see(self, view: View) -> None:
        """See `Walk`."""
        if self.hypothesis is None:
            return
        groups: dict[int, list[Policy]] = {}
        output = [choice.token.id for choice in self._choices]
        for policy in self._policies:
            groups.setdefault(policy.choose(view, output), []).append(policy)
        mine, *others = (
            _Branch(tuple(policies), (*self._choices, _choice(view, place)))
            for place, policies in groups.items()
        )
        self._branches += others
        self._policies = mine.policies
        self._choices.append(mine.choices[-1])
        reason = self.hypothesis.accept(self._choices[-1].token)
        while reason is not None and self.hypothesis is not None:
            self._keep(self.hypothesis, reason)
            reason = self._go_back()

    def _go_back(self) -> FinishReason | None:
        """Takes up the last branch; returns whether it has ended already."""
        if not self._branches:
            self.hypothesis = None
            return None
        branch = self._branches.pop()
        self._policies, self._choices = branch.policies, [*branch.choices]
        tokens = (choice.token for choice in branch.choices)
        self.hypothesis, reason = continued(self._request, tokens, self._tokenizer)
        return reason

    def _keep(self, hypothesis: Hypothesis, reason: FinishReason) -> None:
        text = hypothesis.text
        detokenizer = self._tokenizer.detokenizer(self._request.prompt)
        pieces = tuple(detokenizer.push(choice.token.id) for choice in self._choices)
        self.leaves.append(Leaf(self._policies, text, tuple(self._choices), pieces, reason))


def _choice(view: View, place: int) -> Choice:
    token = Token(
        id=int(view.ids[place]),
        expert_log_prob=float(view.expert[place]) - view.expert_norm,
        base_log_prob=float(view.base[place]) - view.base_norm,
        expert_token=int(view.ids[view.best]),
        valid_count=0,
    )
    return Choice(token, view.gap)
