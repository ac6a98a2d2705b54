"""The study's programs, all in one process: a plan of two items and one training step."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from study import run, tasks
from tests.documents import ROOT
from tests.families import make_adapter

PLAN = (
    run.Cell(
        *(run.SMALL, "equation", (1,), "core", 2),
        other="chain",
        tested="greedy;cold a=0.1 b=0.5",
        bf16=False,
    ),
    run.Cell(run.LARGE, "chain", (1,), "core", 2, scale=0.5, bf16=False),
)


def start(module: str, *arguments: object) -> None:
    """As `python -m` would; the libraries are loaded already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *map(str, arguments)])
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as done:
            assert not done.code, module


@pytest.fixture
def place(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory like the repository's, with small models in the places of both bases."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "docs").mkdir()
    (tmp_path / "study/results").mkdir(parents=True)
    shutil.copy(ROOT / "study/page.md", tmp_path / "study")
    bases = tmp_path / "bases"
    bases.mkdir()
    for name in (run.SMALL, run.LARGE):
        (bases / name).symlink_to(small_model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "BASES", bases)
    monkeypatch.setattr(run, "PLAN", PLAN)
    monkeypatch.setattr(run, "python", start)
    monkeypatch.setattr(sys, "argv", ["study.run"])
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore")
def test_amateurs_are_chosen_and_judged(place: Path, small_model: Path) -> None:
    """Twice: what is done already is not done again."""
    folder = place / "study/work/data/last_word"
    folder.mkdir(parents=True)
    for split, count in (("dev", 3), ("test", 2)):
        lines = [{"id": str(n), "prompt": f"{n} and", "answer": "x"} for n in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    adapter = make_adapter(small_model, place / "adapter")
    common = ("--task", "last_word", "--base-model", small_model, "--max-context", 128)
    for name, decodings in (("base", {"dev": 13, "test": 3}), ("mine", {"dev": 29, "test": 6})):
        for _ in range(2):
            start("study.amateurs", *common, "--adapter", f"{name}={adapter}")
        for split, count in decodings.items():
            label = f"last_word-{small_model.name}-{name}-{split}"
            record = json.loads((place / f"study/results/amateurs/{label}.json").read_text())
            assert len(record["right"]) == count
            assert {len(bits) for bits in record["right"].values()} == {3 if split == "dev" else 2}


@pytest.mark.filterwarnings("ignore")
def test_the_study(place: Path) -> None:
    data = place / "study/work/data"
    # The other tasks' items are downloaded.
    start("study.tasks", "--task", "equation", "--task", "chain")
    for task in tasks.TASKS:
        (data / task).mkdir(exist_ok=True)
    for path in data.rglob("*.jsonl"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:10]))
    assert run.main() == 0
    records = [json.loads(path.read_text()) for path in (place / "study/results").glob("*.json")]
    assert sorted(record["split"] for record in records) == ["dev", "dev", "test"]
    assert len([*(place / "study/results/likelihood").iterdir()]) == 2
    page = (place / "docs/study.md").read_text()
    assert "{{" not in page and "cold a=0.1 b=0.5" in page
    assert (place / "docs/study.png").stat().st_size > 10_000
