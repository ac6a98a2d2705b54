"""What an adapter's rule keeps from the amateur."""

from __future__ import annotations

import json

import pytest

from cold_backend.errors import InvalidRequestError
from cold_backend.requests.parts import unmarked, without
from cold_backend.requests.prompt import Prompt


def text(content: str) -> Prompt:
    return Prompt(field="text_input", text=content)


def chat(*messages: tuple[str, str]) -> Prompt:
    content = [{"role": role, "content": content} for role, content in messages]
    return Prompt(field="messages", chat=json.dumps(content), most_bytes=1000)


def said(prompt: Prompt) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in json.loads(prompt.chat)]


@pytest.mark.parametrize(
    ("given", "expert", "amateur"),
    [
        ("<context>Rome is old.</context> How old?", "Rome is old. How old?", " How old?"),
        ("a<context>b</context>c<context>d</context>", "abcd", "ac"),
        ("a<context></context>c", "ac", "ac"),
        ("no mark, <CONTEXT> is none", "no mark, <CONTEXT> is none", "no mark, <CONTEXT> is none"),
    ],
)
def test_marked_parts_of_a_text(given: str, expert: str, amateur: str) -> None:
    assert unmarked(text(given), "context").text == expert
    assert without(text(given), "context").text == amateur
    for part in ("system", None):
        assert unmarked(text(given), part).text == given
    assert without(text(given), "system").text == given


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ("a<context>b", "a <context> has no </context>"),
        ("a</context>b", "a </context> has no <context>"),
        ("<context><context>b</context></context>", "a <context> has no </context>"),
        ("<context>b</context></context>", "a </context> has no <context>"),
    ],
)
def test_marks_without_counterpart_are_refused(given: str, missing: str) -> None:
    for function in (unmarked, without):
        with pytest.raises(InvalidRequestError, match=f"^text_input: {missing}"):
            function(text(given), "context")
        with pytest.raises(InvalidRequestError, match=f"^messages: {missing}"):
            function(chat(("user", given)), "context")


def test_nothing_left_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="text_input: must not be empty beside"):
        without(text("<context>all</context>"), "context")
    with pytest.raises(InvalidRequestError, match="messages: must not be empty beside"):
        without(chat(("user", "<context>all</context>")), "context")


def test_parts_of_a_chat() -> None:
    whole = chat(
        ("system", "Be brief."),
        ("user", "<context>Rome is old.</context>"),
        ("assistant", ""),
        ("user", "How <context>very </context>old?"),
    )
    assert said(without(whole, "system")) == said(whole)[1:]
    assert said(unmarked(whole, "context")) == [
        ("system", "Be brief."),
        ("user", "Rome is old."),
        ("assistant", ""),
        ("user", "How very old?"),
    ]
    assert said(without(whole, "context")) == [
        ("system", "Be brief."),
        ("assistant", ""),
        ("user", "How old?"),
    ]


def test_without_such_a_part_the_amateur_reads_what_the_expert_does() -> None:
    ids = Prompt(field="input_ids", ids=(5, 6))
    for prompt in (ids, chat(("user", "hi")), text("hi")):
        for part in ("system", "context"):
            amateur, expert = without(prompt, part), unmarked(prompt, part)
            assert (amateur.text, amateur.ids) == (expert.text, expert.ids)
            assert amateur.chat == expert.chat
    alone = chat(("system", "Be brief."))
    assert without(alone, "system") == alone
