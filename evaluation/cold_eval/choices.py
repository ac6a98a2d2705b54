"""Multiple choice: how probable each decoding finds each choice after the prompt.

A decoding's distribution over the next token, of which the choice's tokens are scored, is that of
`cold_backend.decoding.forced`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cold_backend.requests.hypothesis import Hypothesis
from cold_backend.requests.request import GenerationRequest
from cold_backend.requests.token import Token
from cold_backend.text.tokenizer import Tokenizer
from cold_eval.decodings import Decoding
from cold_eval.items import Item, Task
from cold_eval.policies import Contrast, View
from cold_eval.results import Result
from cold_eval.walks import continued


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """Log-probabilities of the choices' tokens; `tokens` says how many each has."""

    log_probs: tuple[float, ...]
    tokens: tuple[int, ...]

    def best(self, *, per_token: bool) -> int:
        """The choice with the highest one, of all its tokens or of each; of equals the first."""
        counts = np.array(self.tokens if per_token else [1] * len(self.tokens))
        return int((np.array(self.log_probs) / counts).argmax())


def token_log_prob(view: View, token: int, decoding: Decoding) -> float:
    """Log-probability of a token under `base`, `greedy` (the expert) or `cold`."""
    if decoding.kind == "base":
        return float(view.base_row[token]) - view.base_norm
    expert = float(view.expert_row[token]) - view.expert_norm
    if decoding.alpha is None or decoding.beta is None:
        return expert
    contrast = Contrast(decoding.name, decoding.alpha, decoding.beta, decoding.by_divergence)
    scores = contrast.scores(view).astype(np.float64)
    place = int(np.searchsorted(view.ids, token))
    if place == len(view.ids) or view.ids[place] != token or scores[place] == -np.inf:
        return expert
    valid = scores > -np.inf
    mass = np.logaddexp.reduce(view.expert[valid].astype(np.float64)) - view.expert_norm
    return float(mass + scores[place] - np.logaddexp.reduce(scores[valid]))


class ChoiceWalk:
    """Reads the choices of one item, one after another. See `Walk`.

    Args:
        key: for whoever gets the scores.
        request: the prompt, with `decoding` cold and `ignore_eos`.
        choices: their tokens, one each at least.
        decodings: those whose scores are wanted.
        tokenizer: the base model's.
    """

    def __init__(
        self,
        key: str,
        request: GenerationRequest,
        choices: Sequence[Sequence[int]],
        decodings: Sequence[Decoding],
        tokenizer: Tokenizer,
    ) -> None:
        self.key = key
        self.alpha = min([d.alpha for d in decodings if d.alpha is not None], default=1.0)
        self.by_divergence = any(decoding.by_divergence for decoding in decodings)
        self._request = request
        self._choices = choices
        self._decodings = decodings
        self._tokenizer = tokenizer
        self._sums = np.zeros((len(decodings), len(choices)))
        self._choice = 0
        self._read = 0  # tokens of the choice whose log-probabilities are in the sums
        self.hypothesis: Hypothesis | None = Hypothesis.of(request, tokenizer)

    def see(self, view: View) -> None:
        """See `Walk`."""
        if self._read == 0:
            for choice, tokens in enumerate(self._choices):
                self._add(view, choice, tokens[0])
        else:
            self._add(view, self._choice, self._choices[self._choice][self._read])
        self._read += 1
        while self._read == len(self._choices[self._choice]):
            self._choice += 1
            self._read = 1
            if self._choice == len(self._choices):
                self.hypothesis = None
                return
        ids = self._choices[self._choice][: self._read]
        read = (Token(token, None, None, None, 0) for token in ids)
        self.hypothesis, _ = continued(self._request, read, self._tokenizer)

    def scores(self, decoding: Decoding) -> ChoiceScores:
        """What has been read."""
        sums = self._sums[list(self._decodings).index(decoding)]
        return ChoiceScores(tuple(map(float, sums)), tuple(map(len, self._choices)))

    def _add(self, view: View, choice: int, token: int) -> None:
        for row, decoding in enumerate(self._decodings):
            self._sums[row, choice] += token_log_prob(view, token, decoding)


def choice_text(item: Item, choice: str) -> str:
    """A choice as it would follow the prompt: after a space, unless one ends the prompt or an
    assistant's message begins."""
    prompt = item.prompt
    bare = not isinstance(prompt, str) or prompt[-1].isspace() or choice[0].isspace()
    return choice if bare else f" {choice}"


def chosen(task: Task, item: Item, decoding: Decoding, scores: ChoiceScores) -> Result:
    """The choice that a decoding finds most probable, scored."""
    best = scores.best(per_token=task.scorer == "choice_per_token")
    return Result(
        task=task.name,
        item=item.id,
        decodings={decoding.name: -1},
        text=item.choices[best],
        answer=str(best),
        score=float(str(best) == item.answer),
        choices=[round(score, 4) for score in scores.log_probs],
    )
