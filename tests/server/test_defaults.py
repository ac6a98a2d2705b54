"""A server whose adapter has a cold.json; evaluated, and looked at in a browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By

from cold_client import Client, InvalidRequest, Request
from cold_client.cli import main as cold
from cold_eval.cli import main as cold_eval
from cold_eval.results import read_results
from tests.browser import check_page, opened, photograph
from tests.groups import needs
from tests.server.test_supervision import Running, cold_server

pytestmark = pytest.mark.server
TEXT = "A farmer has 12 cows"
STRONG = {"decoding": "cold", "alpha": 0.05, "beta": 3.0}


@pytest.fixture(scope="module")
def running(
    base_model: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("adapters")
    folder = root / "folder"
    fixed = copy(adapter, root / "fixed", {"alpha": 0.05, "beta": 3})
    copy(adapter, folder / "greedy", {"decoding": "greedy", "tuning": {"items": []}})
    copy(adapter, folder / "broken", {"betta": 3})
    with cold_server(base_model, fixed, "--adapters-dir", str(folder), "--threads", "2") as server:
        yield server


def copy(adapter: Path, target: Path, tuned: dict[str, object]) -> Path:
    shutil.copytree(adapter, target)
    (target / "cold.json").write_text(json.dumps(tuned))
    return target


def ask(server: Running, **fields: object) -> tuple[int, ...]:
    with Client(server.grpc) as client:
        request = Request(text_input=TEXT, max_tokens=16, **fields)  # type: ignore[arg-type]
        return client.generate(request).token_ids


def test_the_adapter_says_how_it_is_decoded(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    strong, greedy = ask(running, **STRONG), ask(running, decoding="greedy")
    assert ask(running) == strong != greedy
    assert ask(running, beta=0.0) == greedy
    assert ask(running, lora_name="greedy") == greedy
    assert ask(running, lora_name="greedy", **STRONG) == strong
    with pytest.raises(InvalidRequest, match=r"lora_name: .*cold\.json: 'betta': unknown key"):
        ask(running, lora_name="broken")
    assert cold(["models", "--url", running.http]) == 0
    assert "defaults of equations: decoding cold, alpha 0.05, beta 3.0" in capsys.readouterr().out


@needs("chromium", "chromedriver")
def test_a_comparison_as_a_page(
    running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "compare.html"
    command = ["compare", "--url", running.grpc, "--max-tokens", "40", TEXT]
    assert cold([*command, "--html", str(tmp_path / "none" / "x.html")]) == 2
    assert "none/x.html: No such file" in capsys.readouterr().err
    assert cold([*command, "--json", "--html", str(page)]) == 0
    results = json.loads(capsys.readouterr().out)
    contrast = results["cold"]["contrast"]
    changed = [token for token in contrast if token["changed"]]
    assert changed and all(token["expert_text"] for token in changed)
    with opened(page, tmp_path / "profile") as browser:
        check_page(browser)
        rows = browser.find_elements(By.CSS_SELECTOR, "tbody tr")
        assert len(rows) == len(contrast) > 10
        assert browser.find_element(By.CSS_SELECTOR, "thead").text.endswith("the expert alone")
        assert "score (β 3)" in browser.find_element(By.CSS_SELECTOR, "thead").text
        cards = browser.find_elements(By.CSS_SELECTOR, "article .text")
        for card, decoding in zip(cards, ("base", "greedy", "cold"), strict=True):
            assert card.get_property("textContent") == results[decoding]["text"]
        first = contrast.index(changed[0])
        cells = rows[first].find_elements(By.TAG_NAME, "td")
        alone = changed[0]["expert_text"].replace(" ", "·").replace("\n", "⏎")
        assert cells[-1].text == alone
        assert cells[5].text == str(changed[0]["valid_count"])
        score = 4 * changed[0]["expert_log_prob"] - 3 * changed[0]["base_log_prob"]
        assert float(cells[6].text) == pytest.approx(score, abs=0.006)
        photograph(browser, tmp_path / "compare.png")
        browser.find_element(By.CSS_SELECTOR, "input[value=changed]").click()
        assert sum(row.is_displayed() for row in rows) == len(changed)


def test_evaluation_over_the_server(
    running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [{"id": f"n{n}", "prompt": f"{TEXT} and {n} pigs", "answer": "5"} for n in range(4)]
    task, out = tmp_path / "task.jsonl", tmp_path / "out"
    task.write_text("\n".join(map(json.dumps, items)))
    command = ["--url", running.http, "--out", str(out), "--max-tokens", "12"]
    decodings = ["--decoding", "base", "cold", "vote2", "--alphas", "0.05", "--betas", "3"]
    assert cold_eval([*command, "--task", f"t={task}:last_number", *decodings]) == 0
    assert (out / "report.html").exists()
    _, results = read_results(out / "results.jsonl")
    assert len(results) == 16
    with Client(running.grpc) as client:
        for result in results:
            prompt = items[int(result.item[1:])]["prompt"]
            fields: dict[str, dict[str, Any]] = {
                "base": {"decoding": "base"},
                "greedy": {"decoding": "greedy"},
                "cold a=0.05 b=3": STRONG,
            }
            (name,) = result.decodings
            if name in fields:
                request = Request(text_input=prompt, max_tokens=12, **fields[name])
                assert client.generate(request).text == result.text
                assert len(result.expert) == (0 if name == "base" else len(result.pieces))
            else:
                assert sum(result.votes.values()) <= 2


def test_choices_over_the_server_are_scored_as_in_process(
    running: Running, base_model: Path, adapter: Path, tmp_path: Path
) -> None:
    choices = ["12 cows.", "a dog, and a cat", "many"]
    chat = [{"role": "user", "content": "What does he have?"}]
    items = [
        {"id": "text", "prompt": f"{TEXT} and", "choices": choices, "answer": "1"},
        {"id": "chat", "messages": chat, "choices": choices, "answer": "0"},
    ]
    task = tmp_path / "task.jsonl"
    task.write_text("\n".join(map(json.dumps, items)))
    wanted = ["--task", f"c={task}:choice_per_token", "--decoding", "base", "cold"]
    wanted += ["--alphas", "0.05", "0.3", "--betas", "3"]
    here = ["--base-model", str(base_model), "--adapter", str(adapter), "--max-context", "512"]
    found = []
    for name, way in (("served", ["--url", running.grpc]), ("here", here)):
        assert cold_eval([*way, *wanted, "--out", str(tmp_path / name)]) == 0
        _, results = read_results(tmp_path / name / "results.jsonl")
        found.append({(r.item, *r.decodings): r for r in results})
    served, in_process = found
    assert len(served) == 2 * 4
    for key, result in in_process.items():
        assert served[key].choices == pytest.approx(result.choices, abs=2e-3), key
        assert served[key].answer == result.answer
