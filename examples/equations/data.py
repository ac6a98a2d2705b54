"""Word problems: reading, splitting, prompting and checking answers."""

from __future__ import annotations

import csv
import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

INSTRUCTION = "Write this problem as an equation in prefix notation."
TRAIN_FILE = "train.csv"
DEV_FILE = "dev.csv"
# Fixed, whatever the training seed, so that all runs are measured on the same items.
SPLIT_SEED = 0
HELD_OUT_ITEMS = 200


class DataError(Exception):
    """A data file is missing or not what it should be."""


@dataclass(frozen=True)
class Problem:
    question: str
    equation: str
    numbers: tuple[float, ...]
    answer: float

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"{INSTRUCTION}\n{self.question}"}]


@dataclass(frozen=True)
class Splits:
    train: list[Problem]
    held_out: list[Problem]
    svamp_dev: list[Problem]


def read_problems(path: Path) -> list[Problem]:
    """The problems of one CSV file, the first of those with the same question."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            problems = [parse_row(row) for row in csv.DictReader(file)]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a word problem file: {error!r}") from error
    unique: dict[str, Problem] = {}
    for problem in problems:
        unique.setdefault(normalise(problem.question), problem)
    return list(unique.values())


def parse_row(row: dict[str, str]) -> Problem:
    return Problem(
        question=row["Question"].strip(),
        equation=" ".join(row["Equation"].split()),
        numbers=tuple(float(number) for number in row["Numbers"].split()),
        answer=float(row["Answer"]),
    )


def normalise(text: str) -> str:
    return " ".join(text.lower().split())


def load_splits(directory: Path) -> Splits:
    """Training items, items held out of the same file, and SVAMP; no question is in two."""
    problems = read_problems(directory / TRAIN_FILE)
    dev = read_problems(directory / DEV_FILE)
    if len(problems) <= HELD_OUT_ITEMS:
        raise DataError(f"{directory / TRAIN_FILE} has only {len(problems)} different questions")
    random.Random(SPLIT_SEED).shuffle(problems)
    held_out, train = problems[:HELD_OUT_ITEMS], problems[HELD_OUT_ITEMS:]
    tested = {normalise(problem.question) for problem in (*held_out, *dev)}
    train = [problem for problem in train if normalise(problem.question) not in tested]
    return Splits(train, held_out, dev)


def sample(problems: list[Problem], count: int) -> list[Problem]:
    """The same `count` problems on every call; all of them when there are fewer."""
    return random.Random(SPLIT_SEED).sample(problems, min(count, len(problems)))


def sha256_of_data(directory: Path) -> str:
    digest = hashlib.sha256()
    for name in (TRAIN_FILE, DEV_FILE):
        digest.update((directory / name).read_bytes())
    return digest.hexdigest()


def value_of(equation: str, numbers: tuple[float, ...]) -> float | None:
    """The value of a prefix equation; None when it is malformed or divides by zero."""
    stack: list[float] = []
    try:
        for token in reversed(equation.split()):
            if token in ("+", "-", "*", "/"):
                left, right = stack.pop(), stack.pop()
                stack.append(apply_operator(token, left, right))
            elif token.startswith("number"):
                index = int(token.removeprefix("number"))
                if index < 0:
                    return None
                stack.append(numbers[index])
            else:
                stack.append(float(token))
    except (IndexError, ValueError, ArithmeticError):
        return None
    return stack[0] if len(stack) == 1 else None


def apply_operator(operator: str, left: float, right: float) -> float:
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    return left / right


def is_exact(output: str, problem: Problem) -> bool:
    return output.split() == problem.equation.split()


def has_right_value(output: str, problem: Problem) -> bool:
    """True for an equation of the right value, such as a sum in another order."""
    value = value_of(output, problem.numbers)
    return value is not None and abs(value - problem.answer) <= 1e-3 * max(1.0, abs(problem.answer))
