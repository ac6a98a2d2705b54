"""What contrast is with, as the options name it: KIND or KIND@ADAPTER."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from cold_backend.adapters.defaults import PARTS, AmateurRule
from cold_backend.errors import ColdError
from cold_backend.requests.parts import unmarked, without
from cold_backend.requests.prompt import Prompt
from cold_eval.errors import EvaluationError
from cold_eval.items import Asked, Item, Task

BASE = "base"
_SAME, _OF_ITEM = "same", "item"
_LAST = re.compile(r"last-(\d+)")
_WITHOUT = {f"without-{part}": part for part in PARTS}
ALLOWED = (
    f"{BASE} (the base for the same prompt), {', '.join(_WITHOUT)}, last-N (the prompt's last N "
    f"tokens), {_OF_ITEM} (the item's own), {_SAME}@ADAPTER; all but {BASE} with the expert's "
    f"adapter, or another by @ADAPTER, or none by @{BASE}"
)


@dataclass(frozen=True, slots=True)
class Amateur:
    """One of them.

    Attributes:
        name: as the options have it.
    """

    name: str

    @property
    def adapter(self) -> str | None:
        """The name of its adapter, empty for none; None for what a request without one gets."""
        _, at, adapter = self.name.partition("@")
        if not at:
            return None
        return "" if adapter == BASE else adapter

    @property
    def _kind(self) -> str:
        return self.name.partition("@")[0]

    @property
    def rule(self) -> AmateurRule | None:
        """What `cold.json` says for it; None for the base for the same prompt.

        Raises:
            EvaluationError: it has no such rule.
        """
        if self._kind == _OF_ITEM:
            raise EvaluationError(f"amateurs: cold.json has no rule for {self.name!r}")
        last = _LAST.fullmatch(self._kind)
        rule = AmateurRule(
            without=_WITHOUT.get(self._kind),
            last_tokens=int(last[1]) if last else None,
            lora_name=self.adapter,
        )
        return rule if any(value is not None for value in asdict(rule).values()) else None

    def check(self) -> None:
        """Raises EvaluationError if there is no such amateur."""
        last = _LAST.fullmatch(self._kind)
        prompts = (*_WITHOUT, _OF_ITEM)
        known = self.name == BASE or self._kind in prompts or (last and int(last[1]) > 0)
        if not (known or (self._kind == _SAME and self.adapter)):
            raise EvaluationError(f"amateurs: must be one of {ALLOWED}, got {self.name!r}")

    def fields(self, item: Item) -> dict[str, Any]:
        """The inputs of docs/protocol.md that ask for it.

        Raises:
            EvaluationError: the item has no such amateur.
        """
        if self.name == BASE:
            return {"amateur_lora_name": ""}  # a server's adapter may have a rule of its own
        found: dict[str, Any] = {}
        last = _LAST.fullmatch(self._kind)
        if last:
            found["amateur_last_tokens"] = int(last[1])
        elif self._kind == _OF_ITEM:
            if item.amateur is None:
                raise EvaluationError(f"item {item.id!r}: has no amateur")
            found |= _prompt_fields(item.amateur)
        elif self._kind in _WITHOUT:
            part = _WITHOUT[self._kind]
            asked = item.marked if item.marked and part == "context" else item.prompt
            found |= _prompt_fields(_changed(item, asked, partial(without, part=part)))
        if self.adapter is not None:
            found["amateur_lora_name"] = self.adapter
        return found


def amateur_of(rule: AmateurRule | None) -> Amateur:
    """The one that a rule of `cold.json` means.

    Raises:
        EvaluationError: it has a strength of its own, which evaluation does not try.
    """
    if rule is None:
        return Amateur(BASE)
    if rule.lora_scale is not None:
        raise EvaluationError("amateurs: a rule with lora_scale cannot be evaluated")
    kinds = {part: kind for kind, part in _WITHOUT.items()}
    kind = kinds[rule.without] if rule.without else _SAME
    if rule.last_tokens is not None:
        kind = f"last-{rule.last_tokens}"
    return Amateur(kind if rule.lora_name is None else f"{kind}@{rule.lora_name or BASE}")


def without_marks(task: Task, amateurs: Iterable[str]) -> Task:
    """The task as the expert is asked: marks of contexts are no text if an amateur goes by them.

    Raises:
        EvaluationError: a mark has no counterpart.
    """
    if not any(name.startswith("without-context") for name in amateurs):
        return task
    items = []
    for item in task.items:
        asked = _changed(item, item.prompt, partial(unmarked, part="context"))
        items.append(replace(item, prompt=asked, marked=item.prompt))
    return replace(task, items=tuple(items))


def _changed(item: Item, asked: Asked, change: Callable[[Prompt], Prompt]) -> Asked:
    text = asked if isinstance(asked, str) else ""
    chat = "" if text else json.dumps(asked)
    prompt = Prompt(field="prompt", text=text, chat=chat, most_bytes=len(chat))
    try:
        changed = change(prompt)
    except ColdError as error:
        raise EvaluationError(f"item {item.id!r}: {error}") from error
    return changed.text or tuple(json.loads(changed.chat))


def _prompt_fields(asked: Asked) -> dict[str, Any]:
    if isinstance(asked, str):
        return {"amateur_text_input": asked}
    return {"amateur_messages": [*asked]}
