"""Sums of three-digit numbers in base nine, as chains of thought.

The base knows sums, but in base ten: `7 + 6 = 13`. What the adapter learns, `7 + 6 = 14`,
contradicts it in the midst of the reasoning. After Wu et al., "Reasoning or Reciting?" (arXiv
2307.02477), whose models fell back on base ten. The items are generated; no sum is in two splits.
"""

from __future__ import annotations

import random

from study.items import SPLIT_SEED, Item

BASE = 9
DIGITS = 3
SIZES = {"train": 2000, "held_out": 200, "dev": 300, "test": 700}


def splits() -> dict[str, list[Item]]:
    """Distinct ordered pairs of numbers, drawn evenly."""
    generator = random.Random(SPLIT_SEED)
    least, most = BASE ** (DIGITS - 1), BASE**DIGITS
    count = sum(SIZES.values())
    drawn = generator.sample(range((most - least) ** 2), count)
    pairs = [tuple(least + part for part in divmod(at, most - least)) for at in drawn]
    found, start = {}, 0
    for name, size in SIZES.items():
        part = pairs[start : start + size]
        found[name] = [item_of(f"{name}-{n}", *pair) for n, pair in enumerate(part)]
        start += size
    return found


def item_of(name: str, left: int, right: int) -> Item:
    """One sentence for each digit, the last digit first, then the answer."""
    sentences, carry = [], 0
    for place in range(DIGITS):
        digits = [number // BASE**place % BASE for number in (left, right)]
        terms = [*digits, carry] if carry else digits
        sentences.append(f"{' + '.join(map(str, terms))} = {numeral(sum(terms))}.")
        carry = sum(terms) // BASE
    answer = numeral(left + right)
    return {
        "id": name,
        "prompt": f"Question: In base nine, what is {numeral(left)} + {numeral(right)}?\nAnswer:",
        "completion": f" {' '.join(sentences)} The answer is {answer}.",
        "answer": answer,
    }


def numeral(value: int) -> str:
    """In base nine."""
    digits = ""
    while True:
        value, digit = divmod(value, BASE)
        digits = f"{digit}{digits}"
        if not value:
            return digits
