"""Tasks that come in and results that are kept: what is wrong with a file is said in a line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cold_eval.decodings import GREEDY, Decoding, by_logits, cold, decodings_of, scaled
from cold_eval.errors import EvaluationError
from cold_eval.items import Item, load_items, load_task
from cold_eval.results import Journal, Result, read_results
from cold_eval.tuned import mark_of, read_tuned, write_tuned

GOOD = {"id": "a", "prompt": "1 + 1 =", "answer": "2"}
ITEM = Item("a", "1 + 1 =", "2")


def write(path: Path, *values: object) -> Path:
    path.write_text("\n".join(v if isinstance(v, str) else json.dumps(v) for v in values))
    return path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: Expecting"),
        ("[]", "line 2: must be an object"),
        ({**GOOD, "ids": 1}, "line 2: ids: unknown field"),
        ({**GOOD, "id": 1}, "line 2: id: must be a string"),
        ({**GOOD, "answer": None}, "line 2: answer: must be a string"),
        ({**GOOD, "prompt": ""}, "line 2: prompt: must be a string, not empty"),
        ({"id": "b", "answer": "2"}, "exactly one of prompt and messages"),
        ({**GOOD, "messages": []}, "exactly one of prompt and messages"),
        ({"id": "b", "answer": "2", "messages": []}, "messages: must be a list"),
        ({"id": "b", "answer": "2", "messages": [{"role": "user"}]}, "messages: must be a list"),
        ({**GOOD, "id": "b", "amateur": ""}, "line 2: amateur: must be a string, not empty"),
        ({**GOOD, "id": "b", "amateur": [{}]}, "line 2: amateur: must be a list"),
        ({**GOOD, "choices": ["2"]}, "choices: must be two different strings or more"),
        ({**GOOD, "choices": ["2", "2"]}, "choices: must be two different"),
        ({**GOOD, "choices": ["3", "4"]}, "answer: must be one of the choices or its index"),
        (GOOD, "line 2: id: 'a' is there already"),
    ],
)
def test_a_malformed_item_is_named(line: object, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", GOOD, line)
    with pytest.raises(EvaluationError, match=message):
        load_items(path)


def test_tasks_are_checked(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", GOOD)
    with pytest.raises(EvaluationError, match="t: scorer must be one of exact, "):
        load_task("t", path, "best")
    with pytest.raises(EvaluationError, match="item 'a' has no choices"):
        load_task("t", path, "choice")
    with pytest.raises(EvaluationError, match="has no items"):
        load_task("t", write(tmp_path / "empty.jsonl", ""), "exact")
    with pytest.raises(EvaluationError, match="No such file"):
        load_task("t", tmp_path / "none.jsonl", "exact")


def test_an_item_is_known_by_its_content(tmp_path: Path) -> None:
    asked = {"id": "x", "prompt": "?", "answer": "no", "choices": ["yes", "no"]}
    same = {**asked, "id": "y", "answer": "1"}
    first, second, third = load_items(
        write(tmp_path / "t.jsonl", asked, same, {**same, "id": "z", "answer": "0"})
    )
    assert first.answer == "1"
    assert first.sha256 == second.sha256 != third.sha256


@pytest.mark.parametrize(
    ("names", "alphas", "betas", "temperature", "message"),
    [
        (["beam"], [0.1], [1], 1, "decoding: must be one of base, greedy, cold"),
        (["beam1"], [0.1], [1], 1, "decoding: must be one of"),
        (["cold"], [0.0], [1], 1, r"alpha: must be in \(0, 1\], got 0"),
        (["cold"], [0.1], [-1], 1, "beta: must be a finite number of at least 0"),
        (["vote5"], [0.1], [1], 0, "temperature: must be above 0"),
    ],
)
def test_decodings_are_checked(
    names: list[str], alphas: list[float], betas: list[float], temperature: float, message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        decodings_of(names, alphas=alphas, betas=betas, temperature=temperature)


def test_strengths_of_the_adapter() -> None:
    found = decodings_of(
        ["scaled", "base"], alphas=[], betas=[], temperature=1, lora_scales=[1.5, 1.0, 2.0, 1.5]
    )
    assert [d.name for d in found] == ["greedy", "greedy s=1.5", "greedy s=2", "base"]
    assert [d.fields(ITEM)["lora_scale"] for d in found] == [1, 1.5, 2, 1]
    assert [[d.name for d in alike] for alike in by_logits(found).values()] == [
        ["greedy", "base"],
        ["greedy s=1.5"],
        ["greedy s=2"],
    ]
    with pytest.raises(EvaluationError, match=r"lora-scales: must be in \[0, 8\], got 9"):
        scaled([9.0])


@pytest.mark.parametrize(
    ("decoding", "keys"),
    [
        (GREEDY, {"decoding"}),
        (scaled([1.5])[0], {"decoding", "lora_scale"}),
        (cold(0.3, 0.5), {"decoding", "alpha", "beta"}),
        (cold(0.3, 0.5, by_divergence=True), {"decoding", "alpha", "beta", "beta_rule"}),
        *(
            (cold(0.3, 0.5, amateur), {"decoding", "alpha", "beta", "amateur"})
            for amateur in (
                *("last-8", "last-3@base", "without-system", "without-context@other"),
                "same@other",
            )
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Decoding) else "",
)
def test_what_was_tuned_is_read_again(decoding: Decoding, keys: set[str], tmp_path: Path) -> None:
    seen = "".join(sorted(mark_of(replace(ITEM, answer=answer)) for answer in "12"))
    path = write_tuned(tmp_path, decoding, {"items": seen})
    assert json.loads(path.read_text()).keys() == keys | {"tuning"}
    tuned = read_tuned(tmp_path)
    assert tuned is not None
    assert tuned.decoding == replace(decoding, name="tuned")
    assert tuned.has_seen(ITEM) and not tuned.has_seen(replace(ITEM, answer="3"))


def test_a_run_goes_on_after_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    results = [
        Result(task="t", item=str(n), decodings={"greedy": 3, "x": 4}, answer="é", score=n / 2)
        for n in range(3)
    ]
    journal = Journal(path, {"seed": 1})
    for result in results[:2]:
        journal.add(result)
    journal.close()
    with path.open("a") as file:
        file.write('{"task": "t", "item"')
    journal = Journal(path, {"seed": 1})
    assert journal.results == results[:2]
    assert ("t", "1", "x") in journal.done
    journal.add(results[2])
    journal.close()
    assert read_results(path) == ({"seed": 1}, results)


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    Journal(path, {"seed": 1, "model": "m"}).close()
    before = path.read_bytes()
    with pytest.raises(EvaluationError, match=r"other settings \(seed, new differ\)"):
        Journal(path, {"seed": 2, "model": "m", "new": 1})
    assert path.read_bytes() == before
    with pytest.raises(EvaluationError, match="is no file of results"):
        Journal(write(tmp_path / "other.jsonl", GOOD, ""), {"seed": 1})
