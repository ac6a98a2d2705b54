"""The report in a real browser: what it shows is what was measured."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.common.by import By

from cold_eval.colours import colour
from cold_eval.decodings import BASE, GREEDY, grid
from cold_eval.html_report import html_report
from cold_eval.items import Item, Task
from cold_eval.report import report_of
from cold_eval.results import Result
from tests.browser import check_page, opened, photograph
from tests.groups import needs

POINTS = grid([0.1, 0.3], [0.25, 0.5, 1.0])
PIECES = ["She", " has", " 5", " <b>", "\n####", " 7"]


def results(task: Task, gains: dict[str, float]) -> list[Result]:
    """Answers of which a share becomes right, or wrong."""
    generator = np.random.default_rng(1)
    found = []
    right = generator.random(len(task.items)) < 0.4
    for decoding in [GREEDY, BASE, *POINTS]:
        gain = gains.get(decoding.name, 0.0)
        draws = generator.random(len(task.items))
        mine = (right | (draws < max(gain, 0))) & ~(draws > 1 + min(gain, 0))
        for item, is_right in zip(task.items, mine.tolist(), strict=True):
            found.append(
                Result(
                    task=task.name,
                    item=item.id,
                    decodings={decoding.name: 3},
                    text="".join(PIECES),
                    answer="7" if is_right else "8",
                    score=float(is_right),
                    finish="stop",
                    pieces=PIECES,
                    expert=[-0.1, -0.2, -2.0, -0.5, -0.01, -1.0],
                    base=[-0.1, -4.0, -0.5, -6.0, -0.01, -3.0],
                    changed=[5] if decoding.kind == "cold" else [],
                )
            )
    return found


@needs("chromium", "chromedriver")
def test_the_report_shows_what_was_measured(tmp_path: Path) -> None:
    questions = (f"<i>Question</i> {n} & what it is about, " * 5 for n in range(120))
    items = tuple(Item(f"item{n}", text, "7") for n, text in enumerate(questions))
    tasks = [Task(name, items, "last_number") for name in ("sums & more", "facts")]
    settings = {
        "model": {"base_model": {"name": "base"}, "adapter": {"name": "adapter"}},
        "seed": 0,
        "tasks": [task.describe() for task in tasks],
        "decodings": [asdict(decoding) for decoding in (GREEDY, BASE, *POINTS)],
    }
    best = "cold a=0.3 b=0.5"
    found = results(tasks[0], {best: 0.25, "cold a=0.1 b=1": -0.3})
    found += results(tasks[1], {point.name: -0.1 for point in POINTS})
    reports = report_of(settings, found)
    page = tmp_path / "report.html"
    page.write_text(html_report(settings, tasks, reports, found), encoding="utf-8")

    with opened(page, tmp_path / "profile") as browser:
        check_page(browser)
        assert len(browser.find_elements(By.CSS_SELECTOR, "section.task")) == 2
        summary = reports[0].summaries[best]
        (cell,) = browser.find_elements(
            By.CSS_SELECTOR, "#task0 .heat tbody tr:nth-child(2) td:nth-of-type(2)"
        )
        assert cell.text.split() == [
            f"{100 * summary.score:.1f}",
            f"{100 * summary.difference:+.1f}",
        ]
        blue, orange = (
            browser.find_element(By.CSS_SELECTOR, f"#task0 .heat {place}")
            .value_of_css_property("background-color")
            .partition("(")[2]
            .split(",")[:3]
            for place in (
                "tr:nth-child(2) td:nth-of-type(2)",
                "tr:nth-child(1) td:nth-of-type(3)",
            )
        )
        assert int(blue[2]) > int(blue[0]) and int(orange[2]) < int(orange[0])
        row = next(
            row
            for row in browser.find_elements(By.CSS_SELECTOR, "#task0 .scores tbody tr")
            if row.text.startswith(best)
        )
        assert f"{summary.won} / {summary.lost}" in row.text and f"{summary.p:.2g}" in row.text
        bars = browser.find_elements(By.CSS_SELECTOR, "#task0 .bars .right i")
        assert max(bar.size["width"] for bar in bars) > 60
        (shown,) = browser.find_elements(By.CSS_SELECTOR, "#task0 details[open] > summary")
        assert shown.text.startswith(f"{best}: {summary.won} won, {summary.lost} lost")
        flip = browser.find_element(By.CSS_SELECTOR, "#task0 details[open] .flip")
        assert "<i>Question</i>" in flip.text and "<b>" in flip.text
        assert flip.find_element(By.CSS_SELECTOR, "span.changed").text.strip() == "7"
        assert "No point of the grid answers better than greedy." in browser.page_source
        photograph(browser, tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 50_000


@pytest.mark.parametrize("share", [-2, -0.5, 0, 0.5, 2])
def test_colours_keep_dark_text_readable(share: float) -> None:
    red, green, blue = (int(colour(share)[at : at + 2], 16) for at in (1, 3, 5))
    assert 0.2126 * red + 0.7152 * green + 0.0722 * blue > 150
