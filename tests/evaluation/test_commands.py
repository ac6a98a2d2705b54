"""The commands on the real model: interrupted and continued, tuned and then shown elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cold_eval.cli import main as cold_eval
from cold_eval.results import read_results
from cold_eval.tune_cli import main as cold_tune


@pytest.fixture
def tasks(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two of sums, 20 and 3 of them, and one of choices."""
    sums = [
        json.dumps({"id": f"s{n}", "prompt": f"{n} + {n} =", "answer": str(2 * n)})
        for n in range(23)
    ]
    question = {"prompt": "The capital of France is", "choices": ["Paris", "Rome"], "answer": "0"}
    contents = (sums[:20], sums[20:], [json.dumps({"id": "q", **question})])
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.jsonl").write_text("\n".join(content))
    first, second, third = (tmp_path / f"{number}.jsonl" for number in range(3))
    return first, second, third


def test_evaluate_and_tune(
    tasks: tuple[Path, Path, Path],
    base_model: Path,
    adapter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tuned = tmp_path / "tuned"
    shutil.copytree(adapter, tuned)
    common = ["--base-model", str(base_model), "--adapter", str(tuned), "--max-tokens", "6"]
    common += ["--max-context", "256", "--max-sequences", "16", "--betas", "0.5", "3"]
    dev, test, choice = tasks
    out = tmp_path / "out"
    run = [*common, "--out", str(out), "--task", f"test={test}:last_number"]
    run += ["--task", f"facts={choice}:choice_per_token"]

    assert cold_eval(run) == 0
    table = capsys.readouterr().out
    assert "test: 3 items, last_number" in table and "facts: 1 items, choice_per_token" in table
    report = json.loads((out / "report.json").read_text())
    assert report["tasks"]["facts"]["greedy"]["score"] == 1
    _, whole = read_results(out / "results.jsonl")

    lines = (out / "results.jsonl").read_bytes().splitlines(keepends=True)
    (out / "results.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])
    assert cold_eval(run) == 0
    assert json.loads((out / "report.json").read_text()) == report
    _, again = read_results(out / "results.jsonl")
    # What agrees may be written in one line or in two.
    assert {(k, r.text) for r in again for k in r.keys} == {
        (k, r.text) for r in whole for k in r.keys
    }
    assert cold_eval([*run, "--seed", "1"]) == 2
    assert "other settings (seed differ)" in capsys.readouterr().err

    tuning = [*common, "--out", str(tmp_path / "tuning"), "--task", f"dev={dev}:last_number"]
    tuning += ["--amateurs", "base", "last-3", "--beta-rules", "fixed", "divergence"]
    assert cold_tune(tuning) == 0
    said = capsys.readouterr().out
    assert "do not use CoLD here" in said
    assert "CoLD against greedy with another lora_scale: " in said
    written = json.loads((tuned / "cold.json").read_text())
    assert written["decoding"] == "greedy"
    assert len(written["tuning"]["items"]) == 20 * 12
    assert "last-3" in (tmp_path / "tuning/tuning.html").read_text()
    decode = [*common, "--decoding", "tuned", "--out", str(tmp_path / "shown")]
    assert cold_eval([*decode, "--task", f"dev={dev}:last_number"]) == 2
    assert "tuned on 20 of these 20 items" in capsys.readouterr().err
    assert cold_eval([*decode, "--task", f"test={test}:last_number"]) == 0
    _, shown = read_results(tmp_path / "shown/results.jsonl")
    assert [set(result.decodings) for result in shown] == [{"greedy", "tuned"}] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "x"], "task: must be NAME=FILE:SCORER, got 'x'"),
        (["--task", "a=none.jsonl:exact"], "none.jsonl: "),
        (["--task", "a={task}:exact", "--task", "a={task}:exact"], "task: two have the same name"),
        (["--task", "a={task}:exact"], "--base-model and --adapter are needed, or --url"),
        (["--task", "a={task}:exact", "--url", "grpc://127.0.0.1:9"], "url: "),
        (["--task", "a={task}:exact", "--amateurs", "first-3"], "amateurs: must be one of base"),
        (["--task", "a={task}:exact", "--beta-rules", "free"], "beta-rules: must be one of"),
    ],
)
def test_bad_usage_is_told_in_a_line(
    arguments: list[str],
    message: str,
    tasks: tuple[Path, Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [argument.format(task=tasks[0]) for argument in arguments]
    assert cold_eval(["--out", str(tmp_path / "out"), *filled]) == 2
    assert message in capsys.readouterr().err


def test_tuning_says_at_once_what_it_lacks(
    tasks: tuple[Path, Path, Path],
    base_model: Path,
    adapter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = ["--base-model", str(base_model), "--adapter", str(adapter)]
    out = ["--out", str(tmp_path / "out")]
    few = ["--task", f"few={tasks[1]}:last_number"]
    assert cold_tune([*model, *out, *few]) == 2
    assert "tuning needs at least 20 items, got 3" in capsys.readouterr().err
    many = ["--task", f"many={tasks[0]}:last_number", "--amateurs", "item"]
    assert cold_tune([*model, *out, *many]) == 2
    assert "cold.json has no rule for 'item'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tuning_takes_what_there_is_time_for(
    base_model: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"id": f"s{n}", "prompt": f"{n} + {n} =", "answer": str(2 * n)} for n in range(70)]
    task = tmp_path / "sums.jsonl"
    task.write_text("\n".join(map(json.dumps, lines)))
    run = ["--base-model", str(base_model), "--adapter", str(adapter), "--max-tokens", "2"]
    run += ["--max-context", "128", "--alphas", "0.1", "--betas", "0.5", "--lora-scales"]
    run += ["--task", f"sums={task}:last_number", "--out", str(tmp_path / "out"), "--dry-run"]
    assert cold_tune([*run, "--minutes", "0"]) == 0
    assert "the time is up after 32 items" in capsys.readouterr().err
    assert cold_tune(run) == 0
    said = capsys.readouterr()
    assert "the time is up" not in said.err and "CoLD" in said.out
