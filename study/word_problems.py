"""Arithmetic word problems (MAWPS, ASDiv-A, SVAMP; MIT), as chains of thought or equations.

Training items are of MAWPS and ASDiv-A; SVAMP, written to break shortcuts, is the dev set and the
test set. No question is in two of them, and SVAMP's variations of one story stay together.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

from equations.data import INSTRUCTION, Problem, apply_operator, normalise, parse_row

from study.items import Item, shuffled, split_by_group

DEV_ITEMS = 300
HELD_OUT_ITEMS = 200  # of the training collections


def chains(directory: Path) -> dict[str, list[Item]]:
    """Splits of the task `chain`: real numbers, one operation a sentence, then the answer."""
    return splits(directory, chain_item)


def equations(directory: Path) -> dict[str, list[Item]]:
    """Splits of the task `equation`: numbers by name, prefix notation."""
    return splits(directory, equation_item)


def splits(directory: Path, make: Callable[[Problem], Item | None]) -> dict[str, list[Item]]:
    tested = read(directory / "dev.csv")
    taken = {normalise(problem.question) for _, problem in tested}
    others: dict[str, Problem] = {}
    for _, problem in read(directory / "train.csv"):
        if normalise(problem.question) not in taken:
            others.setdefault(normalise(problem.question), problem)
    pool = shuffled(others.values())
    dev, test = split_by_group(tested, DEV_ITEMS)
    parts = {"held_out": pool[:HELD_OUT_ITEMS], "train": pool[HELD_OUT_ITEMS:]}
    parts |= {"dev": dev, "test": test}
    return {
        name: [
            {"id": f"{name}-{number}", **item}
            for number, problem in enumerate(problems)
            if (item := make(problem)) is not None
        ]
        for name, problems in parts.items()
    }


def read(path: Path) -> list[tuple[str, Problem]]:
    """Problems with the group that twins share."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["group_nums"], parse_row(row)) for row in csv.DictReader(file)]


def equation_item(problem: Problem) -> Item:
    return {
        "prompt": f"{INSTRUCTION}\nQuestion: {problem.question}\nAnswer:",
        "completion": f" {problem.equation}",
        "answer": problem.equation,
    }


def chain_item(problem: Problem) -> Item | None:
    """None where the equation does not give the answer of the data."""
    steps = steps_of(problem.equation, problem.numbers)
    if steps is None or abs(steps[1] - problem.answer) > 1e-3 * max(1.0, abs(problem.answer)):
        return None
    answer = number(steps[1])
    sentences = [*steps[0], f"The answer is {answer}."]
    return {
        "prompt": f"Question: {with_numbers(problem)}\nAnswer:",
        "completion": " " + " ".join(sentences),
        "answer": answer,
    }


def with_numbers(problem: Problem) -> str:
    def value(match: re.Match[str]) -> str:
        return number(problem.numbers[int(match.group(1))])

    text = re.sub(r"number(\d+)", value, problem.question)
    text = re.sub(r"\s+([.,?!;:%)]|'s\b|n't\b)", r"\1", text)
    text = re.sub(r"\$\s+", "$", text)
    return text[:1].upper() + text[1:]


def steps_of(equation: str, numbers: tuple[float, ...]) -> tuple[list[str], float] | None:
    """One sentence for each operation of a prefix equation, innermost first, and its value."""
    stack: list[float] = []
    sentences: list[str] = []
    try:
        for token in reversed(equation.split()):
            if token in ("+", "-", "*", "/"):
                left, right = stack.pop(), stack.pop()
                stack.append(apply_operator(token, left, right))
                shown = (number(value) for value in (left, right, stack[-1]))
                sentences.append("{} {op} {} = {}.".format(*shown, op=token))
            elif token.startswith("number"):
                stack.append(numbers[int(token.removeprefix("number"))])
            else:
                stack.append(float(token))
    except (IndexError, ValueError, ArithmeticError):
        return None
    return (sentences, stack[0]) if len(stack) == 1 else None


def number(value: float) -> str:
    """Whole numbers without a point, others with up to four decimals."""
    return f"{value:.4f}".rstrip("0").rstrip(".")
