"""What the demo counts and shows, with answers that are made up."""

from __future__ import annotations

import io
from collections.abc import Generator
from typing import Literal

import pytest
from equations.contest import DECODINGS, Contest, answer, measure_speed
from equations.data import Problem
from equations.showing import show_problems, show_score, show_speed
from rich.console import Console

from cold_client import Client, Health, Model, Piece, Request, TokenContrast

KEPT = TokenContrast(-1.0, -2.0, 1, changed=False)
CHANGED = TokenContrast(-1.0, -2.0, 3, changed=True)
SUM = Problem("a sum ?", "+ number0 number1", (2.0, 3.0), 5.0)
DIFFERENCE = Problem("a difference ?", "- number0 number1", (9.0, 3.0), 6.0)


class Answers:
    """A transport that answers by decoding, a piece a word."""

    def __init__(self, **texts: str) -> None:
        self.texts = texts
        self.asked: list[Request] = []

    def pieces(
        self, request: Request, *, stream: bool, timeout_s: float
    ) -> Generator[Piece, None, None]:
        self.asked.append(request)
        for number, word in enumerate(self.texts[request.decoding or ""].split()):
            contrast = (CHANGED if word.startswith("!") else KEPT,)
            yield Piece(
                text=" " * (number > 0) + word.removeprefix("!"),
                token_ids=(number,),
                contrast=contrast if request.return_contrast else (),
            )

    def health(self, *, timeout_s: float) -> Health:
        raise NotImplementedError

    def models(self, *, timeout_s: float) -> list[Model]:
        raise NotImplementedError

    def close(self) -> None:
        pass


def held(problems: list[Problem], **texts: str) -> Contest:
    contest = Contest(problems)
    with Client(transport=Answers(**texts)) as client:
        for problem in problems:
            for decoding in DECODINGS:
                contest.answers[decoding].append(answer(client, decoding, problem))
    return contest


def shown(*, coloured: bool = False) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    system: Literal["standard"] | None = "standard" if coloured else None
    return Console(file=file, width=200, force_terminal=coloured, color_system=system), file


def test_right_is_the_value_not_the_form() -> None:
    contest = held(
        [SUM], base="the sum is 5", greedy="+ number1 number0", cold="- number1 !number0"
    )
    assert [contest.right(decoding) for decoding in DECODINGS] == [0, 1, 0]
    assert contest.differing() == [0]


def test_problems_that_contrast_wins_or_loses_come_before_mere_differences() -> None:
    contest = held(
        [SUM, DIFFERENCE], base="-", greedy="+ number1 number0", cold="+ number0 number1"
    )
    assert contest.differing() == [0, 1]
    contest = held(
        [SUM, DIFFERENCE], base="-", greedy="/ number0 number1", cold="- number0 number1"
    )
    assert contest.differing() == [1, 0]


def test_what_is_shown_of_problems() -> None:
    contest = held([SUM], base="five", greedy="+ number0 number1", cold="- !number1 number0")
    console, file = shown()
    show_problems(console, contest, 2)
    text = " ".join(file.getvalue().split())
    assert "a sum ?" in text and "+ number0 number1 = 5 (number0 = 2, number1 = 3)" in text
    assert "✗ five" in text and "✓ + number0 number1" in text
    assert "✗ - [number1] number0" in text
    assert "differ" in text and "1 of 1" in text

    console, file = shown(coloured=True)
    show_problems(console, contest, 2)
    assert "[number1]" not in file.getvalue()
    assert "\x1b[1;30;43m number1" in file.getvalue()


@pytest.mark.parametrize(
    "greedy, cold, said",
    [
        ("+ number0 number1", "- number0 number1", "0 won, 1 lost. As it was trained"),
        ("- number0 number1", "+ number0 number1", "1 won, 0 lost. So few items"),
    ],
)
def test_score_is_honest(greedy: str, cold: str, said: str) -> None:
    contest = held([SUM], base="", greedy=greedy, cold=cold)
    console, file = shown()
    show_score(console, contest)
    assert said in " ".join(file.getvalue().split())


def test_speed_tells_the_first_token_from_the_others() -> None:
    answers = Answers(base="a b c", greedy="a b c", cold="a b c")
    with Client(transport=answers) as client:
        speeds = measure_speed(client, SUM, 3)
    assert all(request.ignore_eos and request.max_tokens == 3 for request in answers.asked)
    assert all(s.ttft_ms >= 0 and s.ms_per_token >= 0 for s in speeds.values())
    console, file = shown()
    show_speed(console, speeds, 3)
    assert "first token" in file.getvalue() and "3 tokens" in file.getvalue()
