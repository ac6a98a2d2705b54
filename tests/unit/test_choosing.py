"""Whole steps of choices against the slow way: tokens, chances, company, launches and copies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from cold_backend.contract import BIAS, COUNT, NONE, Step, StepResult
from cold_backend.decoding.decode import decode
from cold_kernels import Mode, Ops, load_ops
from tests import steps
from tests.choosing import NEVER, How, left_by_filters, noise, noise_key, right_tokens, scores_of
from tests.launches import Launches

VOCAB = 50
MODES = {"cold": Mode.COLD, "expert": Mode.EXPERT, "base": Mode.BASE}
LOGITS = torch.randn(2, VOCAB, generator=torch.Generator().manual_seed(11)) * 3
SAMPLED: dict[str, Any] = {"temperature": 0.7, "top_k": 20, "top_p": 0.9}


@pytest.fixture(params=["reference", "native"])
def ops(request: pytest.FixtureRequest) -> Ops:
    return load_ops(request.param, torch.device("cpu"))


def columns_of(how: How) -> dict[str, Any]:
    """The columns of a choice; biases and counts are tables of their own."""
    plain = {name: value for name, value in vars(how).items() if name not in ("biases", "counts")}
    reads = {"base": NONE} if how.mode == "expert" else {}
    reads |= {"expert": NONE} if how.mode == "base" else {}
    return {**plain, **reads, "mode": MODES[how.mode]}


def step_of(hows: Sequence[How], **columns: Sequence[int]) -> Step:
    """All choices read the same two rows. The columns have a value for each."""
    return steps.step_of(
        [
            columns_of(how) | {name: values[n] for name, values in columns.items()}
            for n, how in enumerate(hows)
        ],
        biases=[(n, *item) for n, how in enumerate(hows) for item in how.biases.items()],
        counts=[(n, *item) for n, how in enumerate(hows) for item in how.counts.items()],
    )


HOWS = st.builds(
    How,
    mode=st.sampled_from(["cold", "expert", "base"]),
    alpha=st.sampled_from([1.0, 0.1, 1e-6]),
    beta=st.sampled_from([0.0, 0.5, 4.0]),
    biases=st.dictionaries(
        st.integers(0, VOCAB - 1), st.sampled_from([NEVER, -2.5, 0.25, 100.0]), max_size=4
    ),
    counts=st.dictionaries(st.integers(0, VOCAB - 1), st.integers(0, 3), max_size=8),
    repetition_penalty=st.sampled_from([1.0, 1.75, 0.5]),
    presence_penalty=st.sampled_from([0.0, 0.5, -2.0]),
    frequency_penalty=st.sampled_from([0.0, 0.25, -1.0]),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 4.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
    top_k=st.sampled_from([0, 1, 5, 1000]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    hows=st.lists(HOWS, min_size=1, max_size=5),
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 2**20),
    room=st.sampled_from([1, 8, 1024]),
    rounded=st.booleans(),
)
def test_every_combination_of_settings_takes_the_right_token(
    ops: Ops, hows: list[How], seed: int, position: int, room: int, rounded: bool
) -> None:
    """Also where the room is too small at first, and where scores are equal."""
    logits = LOGITS.round() if rounded else LOGITS
    seeds = [(seed + n) % 2**64 for n in range(len(hows))]
    step = step_of(hows, seed=seeds, position=[position] * len(hows))
    tokens = decode(ops, step, logits, room=room).picks["token"]
    expert, base = logits.double().numpy()
    for how, own, token in zip(hows, seeds, tokens, strict=True):
        gumbel = noise(noise_key(own, position), VOCAB)
        right = right_tokens(scores_of(expert, base, as_stored(how)), gumbel, as_stored(how))
        assert int(token) in right if right else token == NONE, (how, right)


def as_stored(how: How) -> How:
    """The settings as the step's float32 columns hold them."""
    stored = {
        name: float(np.float32(value)) for name, value in vars(how).items() if type(value) is float
    }
    return How(**{**vars(how), **stored})


@pytest.mark.parametrize(
    "how",
    [
        How(mode="cold", alpha=0.001, temperature=1.5),
        How(mode="cold", alpha=0.001, beta=0.1, temperature=4.0, top_k=20, top_p=0.9),
        How(mode="expert", temperature=2.0, top_p=0.8),
        How(mode="base", temperature=1.0, min_p=0.02, counts={3: 1, 9: 2}, frequency_penalty=0.5),
    ],
    ids=["contrast", "contrast, filters", "expert, top_p", "base, min_p and penalties"],
)
def test_a_hundred_thousand_draws_have_the_exact_chances(ops: Ops, how: How) -> None:
    """Chi-square, over seeds."""
    draws = 100_000
    step = step_of([how])
    counts = np.repeat(step.counts, draws)
    counts["choice"] = np.tile(np.arange(draws), len(step.counts))
    counts.sort(order="choice")
    choices = np.repeat(step.choices, draws)
    choices["seed"] = np.arange(draws)
    many = dataclasses.replace(step, choices=choices, counts=counts)
    tokens = decode(ops, many, LOGITS).picks["token"]
    found = np.bincount(tokens, minlength=VOCAB)
    expert, base = LOGITS.double().numpy()
    scores = scores_of(expert, base, as_stored(how))
    z = (scores - scores.max()) / how.temperature
    left = left_by_filters(z, how.top_k, how.top_p, how.min_p)
    assert not found[~left].any()
    expected = draws * np.exp(z[left]) / np.exp(z[left]).sum()
    often = expected > 5
    surprise = (((found[left] - expected) ** 2) / expected)[often].sum()
    freedom = int(often.sum()) - 1
    assert freedom > 2
    assert surprise < freedom + 5 * math.sqrt(2 * freedom) + 10


def test_a_seed_gives_the_same_tokens_in_any_batch(ops: Ops) -> None:
    hows = [
        How(mode="cold", temperature=1.0, alpha=0.01),
        How(mode="expert", **SAMPLED),
        How(mode="base", temperature=1.0),
        How(mode="expert", temperature=1.0, min_p=0.05, counts={4: 2}, presence_penalty=1.0),
    ]
    for position in range(5):
        at = {"seed": [5, 6, 7, 8], "position": [position] * 4}
        together = decode(ops, step_of(hows, **at), LOGITS).picks["token"]
        for n, how in enumerate(hows):
            alone = step_of([how], **{name: values[n : n + 1] for name, values in at.items()})
            assert decode(ops, alone, LOGITS).picks["token"] == together[n]


def test_positions_and_seeds_draw_by_themselves(ops: Ops) -> None:
    """Neighbours agree no more often than chance lets them."""
    n = 4000
    how = How(temperature=100.0)  # nearly even
    for column in ("seed", "position"):
        step = step_of([how] * n, **{column: range(n)})
        tokens = decode(ops, step, LOGITS).picks["token"]
        assert abs((tokens[1:] == tokens[:-1]).mean() - 1 / VOCAB) < 5 * (n * VOCAB) ** -0.5


def busy_step(choices: int) -> Step:
    """Choices of all kinds in turns, each kind at least once a dozen."""
    kinds = [
        How(mode="cold", counts={1: 1, 2: 0}, repetition_penalty=1.5, **SAMPLED),
        How(mode="expert", biases={3: NEVER, 5: 1.5}, **SAMPLED),
        How(mode="base", temperature=1.0),
        How(mode="cold"),
    ]
    forced = [7 if n % 4 == 3 else NONE for n in range(choices)]
    return step_of([kinds[n % 4] for n in range(choices)], forced=forced)


def test_a_step_starts_as_many_ops_for_many_choices_as_for_few(
    ops: Ops, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was found is copied to the host once."""
    found = []
    copies: list[Tensor] = []
    to_host = Tensor.cpu

    def copied(tensor: Tensor) -> Tensor:
        copies.append(tensor)
        return to_host(tensor)

    monkeypatch.setattr(Tensor, "cpu", copied)
    for choices in (8, 16, 64):
        step = busy_step(choices)
        with Launches() as launches:
            decode(ops, step, LOGITS)
        assert not launches.waits
        found.append(launches.names)
    assert found[0] == found[1] == found[2]
    assert len(copies) == 3


def test_a_room_that_is_too_small_is_found_out(ops: Ops) -> None:
    """The choices are made again, but by an implementation that needs no room."""
    rooms: list[int] = []

    def watched(scores: Tensor, *, room: int, **settings: Tensor) -> Any:
        rooms.append(room)
        return ops.draw(scores, room=room, **settings)

    wide = step_of([How(temperature=4.0, top_p=0.99)])
    watching = replace(ops, draw=watched)
    tokens = [decode(watching, wide, LOGITS, room=room).picks["token"][0] for room in (4, VOCAB)]
    assert tokens[0] == tokens[1]
    assert rooms == ([4, VOCAB, VOCAB] if ops.name == "reference" else [4, VOCAB])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_break_their_choices_alone(ops: Ops, value: float) -> None:
    """Whatever else is asked of them, and without a second try for lack of room."""
    rooms: list[int] = []

    def watched(scores: Tensor, *, room: int, **settings: Tensor) -> Any:
        rooms.append(room)
        return ops.draw(scores, room=room, **settings)

    logits = LOGITS.clone()
    logits[1] = value  # the base
    hows = [
        How(mode="cold", counts={3: 1}, presence_penalty=1.0, **SAMPLED),
        How(mode="expert", **SAMPLED),
        How(mode="base", counts={3: 1}, repetition_penalty=2.0),
        How(mode="expert"),
        How(mode="base", temperature=1.0),
    ]
    tokens = decode(replace(ops, draw=watched), step_of(hows), logits, room=40).picks["token"]
    assert (tokens >= 0).tolist() == [False, True, False, True, False]
    assert rooms == [40]


def test_the_tables_are_what_the_contract_says(ops: Ops) -> None:
    step = busy_step(8)
    assert (step.biases.dtype, step.counts.dtype) == (BIAS, COUNT)
    result: StepResult = decode(ops, step, LOGITS)
    picks = result.picks
    assert (picks["token"][3::4] == 7).all()
    assert np.isnan(picks["decoding_log_prob"]).tolist() == [True, True, True, False] * 2
    assert np.isnan(picks["base_log_prob"]).tolist() == [False, True, False, False] * 2
    assert np.isnan(picks["expert_log_prob"]).tolist() == [False, False, True, False] * 2
    expert, base = LOGITS.log_softmax(1)
    for pick in picks:
        for name, log_probs in (("expert", expert), ("base", base)):
            value = pick[f"{name}_log_prob"]
            assert np.isnan(value) or value == pytest.approx(
                float(log_probs[pick["token"]]), abs=1e-4
            )
