"""What counts as an answer, and as a right one."""

from __future__ import annotations

import pytest

from cold_eval.scorers import SCORERS


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 42", "42"),
        ("so 3 + 4 = 7.\n#### 1,200.50", "1200.5"),
        ("The answer is $1,234,567.", "1234567"),
        ("It costs $0.50", "0.5"),
        ("that is .25 of it", "0.25"),
        ("from 10-5=5", "5"),
        ("it is 10-5", "5"),
        ("the balance is -5", "-5"),
        ("he owes -$5.00.", "-5"),
        ("= -0", "0"),
        ("1200", "1200"),
        ("#### 18 dollars, not 20", "18"),
        ("12 eggs\n####", "12"),
        ("in 2024, 7", "7"),
        ("1,2", "2"),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number(text: str, number: str | None) -> None:
    assert SCORERS["last_number"].extract(text) == number


@pytest.mark.parametrize(
    ("scorer", "text", "expected", "score"),
    [
        ("last_number", "#### 1200", "#### 1,200.00", 1),
        ("last_number", "", "no number", 0),
        ("exact", " + number0  number1\n", "+ number0 number1", 1),
        ("exact", "Paris", "paris", 0),
        ("first_word", ' "signs," he said', "signs", 1),
        ("first_word", " don't", "don", 0),
        ("first_word", " Signs", "signs", 0),
        ("first_word", " ...", "...", 0),
        ("exact_any_case", "Paris ", "paris", 1),
        ("sql", "select a, b from T where x=1;", 'SELECT a, b FROM t WHERE "x" = 1', 1),
        ("sql", "```sql\nSELECT count(*) FROM t\n```", "select COUNT(*) from t", 1),
        ("sql", "select A from t -- a comment", "select a from t", 1),
        ("sql", "select a from t where x = 'A'", "select a from t where x = 'a'", 0),
        ("sql", "select a from", "select a from t", 0),
        ("sql", "I do not know )(", "I do not know )(", 0),
        ("rouge_l", "the cat sat on the mat", "the cat sat on the mat", 1),
        ("rouge_l", "dogs", "the cat sat", 0),
        ("rouge_l", "a b c d", "a c", 2 / 3),
    ],
)
def test_scores(scorer: str, text: str, expected: str, score: float) -> None:
    judge = SCORERS[scorer]
    assert judge.score(judge.extract(text), expected) == pytest.approx(score)
