"""What contrast is with, as cold-eval and cold-tune name it: the answers are the reference's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cold_eval.amateurs import BASE, Amateur, without_marks
from cold_eval.decodings import GREEDY, by_logits, cold, grid
from cold_eval.errors import EvaluationError
from cold_eval.in_process import InProcess
from cold_eval.items import Item, Task
from tests.reference import Decoding, Reference

LENGTH = 8
CHAT = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a city."})
OWN = "The capital of Italy is"
ITEMS = (
    Item("text", "<context>Rome is old.</context> The capital of France is", "", amateur=OWN),
    Item("chat", CHAT, "", amateur=OWN),
)
TASK = Task("t", ITEMS, "exact", LENGTH)


@pytest.fixture(scope="module")
def model(base_model: Path, adapter: Path, second_adapter: Path) -> InProcess:
    return InProcess(
        base_model,
        adapter,
        amateurs={"flipped": second_adapter},
        dtype="float32",
        max_context=256,
        max_sequences=4,
    )


@pytest.mark.parametrize(
    ("name", "of_text", "of_chat", "scales"),
    [
        ("base", None, None, (0.0, 0.0)),
        ("item", OWN, OWN, (1.0, 0.0)),
        ("item@base", OWN, OWN, (0.0, 0.0)),
        ("without-context", " The capital of France is", None, (1.0, 0.0)),
        ("without-system", None, CHAT[1:], (1.0, 0.0)),
        ("last-4@flipped", 4, 4, (0.0, 1.0)),
        ("same@flipped", None, None, (0.0, 1.0)),
    ],
)
def test_answers_are_those_of_the_reference(
    name: str,
    of_text: str | int | None,
    of_chat: object,
    scales: tuple[float, float],
    model: InProcess,
    reference: Reference,
) -> None:
    """In the tree of all of them, and by the engine; with beta by divergence for some."""
    by_divergence = name in ("base", "last-4@flipped")
    point = cold(0.05, 3.0, name, by_divergence=by_divergence)
    task = without_marks(TASK, [name, "without-context"])
    wanted = {item.id: [GREEDY.name, point.name] for item in task.items}
    tree = [*model.run(task, [GREEDY, point], wanted)]
    alone = [*model._generate(task, task.items, point)]
    encode = model.tokenizer.encode
    chat = [dict(message) for message in CHAT]
    asked = {
        "text": (encode("Rome is old. The capital of France is"), of_text),
        "chat": (model.tokenizer.encode_chat(chat), of_chat),
    }
    for item, (ids, of_amateur) in asked.items():
        if isinstance(of_amateur, int):
            own = ids[-of_amateur:]
        elif isinstance(of_amateur, str):
            own = encode(of_amateur)
        else:
            rest = [dict(message) for message in of_amateur or ()]  # type: ignore[attr-defined]
            own = model.tokenizer.encode_chat(rest) if rest else ids
        decoding = Decoding(
            "cold",
            0.05,
            3.0,
            amateur_ids=tuple(own),
            amateur_scale=scales[0],
            amateur_second_scale=scales[1],
            divergence=by_divergence,
        )
        right = model.tokenizer.decode(reference.decode(tuple(ids), decoding, LENGTH))
        (found,) = (r.text for r in tree if r.item == item and point.name in r.decodings)
        (generated,) = (r.text for r in alone if r.item == item)
        assert found == generated == right.removesuffix("<|im_end|>")


def test_points_that_see_the_same_share_a_tree() -> None:
    points = grid([0.1], [0.5, 1.0], [BASE, "last-3"], ["fixed", "divergence"])
    assert [len(alike) for alike in by_logits([GREEDY, *points]).values()] == [5, 4]
    assert len({point.name for point in points}) == 8


@pytest.mark.parametrize(
    "name", ["", "first-3", "last-0", "last-", "same", "same@", "same@base", "base@x", "without-x"]
)
def test_what_there_is_not_is_refused(name: str) -> None:
    with pytest.raises(EvaluationError, match="amateurs: must be one of base"):
        Amateur(name).check()


def test_the_base_is_asked_for(model: InProcess) -> None:
    """Whatever rule the adapter of a server has."""
    assert Amateur(BASE).fields(ITEMS[0]) == {"amateur_lora_name": ""}
    request = model._request(ITEMS[1], cold(0.1, 0.5).fields(ITEMS[1]), 4, ())
    assert request.amateur_kind == "base"


def test_an_item_without_its_own_amateur_is_named() -> None:
    with pytest.raises(EvaluationError, match="item 'chat': has no amateur"):
        Amateur("item").fields(replace(ITEMS[1], amateur=None))


def test_marks_are_taken_out_where_an_amateur_goes_by_them() -> None:
    assert without_marks(TASK, [BASE, "last-3"]) == TASK
    first, second = without_marks(TASK, [BASE, "without-context@base"]).items
    assert first.prompt == "Rome is old. The capital of France is"
    assert first.sha256 == ITEMS[0].sha256
    assert second.prompt == CHAT
    broken = replace(TASK, items=(replace(ITEMS[0], prompt="a <context> b"),))
    with pytest.raises(EvaluationError, match="item 'text': prompt: a <context> has no"):
        without_marks(broken, ["without-context"])
