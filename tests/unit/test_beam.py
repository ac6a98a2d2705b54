"""Beams: the search against transformers' own, and their blocks in the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from cold_backend.contract import NONE, Step, StepResult
from cold_backend.errors import DeadlineError, StepError
from cold_backend.requests.answer import FinishReason
from cold_backend.requests.beam import BeamSearch, BeamSettings, EarlyStopping
from cold_backend.requests.parser import RequestParser
from cold_backend.requests.sequence import Sequence
from cold_backend.requests.token import Continuation, Token
from cold_backend.text.tokenizer import Tokenizer
from tests.fakes import END, RandomModel, new_engine, new_scheduler, run_all, sequence, sink
from tests.families import make_model

Ids = tuple[int, ...]
ENDS = (5, 77)


def search(
    settings: BeamSettings, ends: Ids, count: int, log_probs: Callable[[Ids], torch.Tensor]
) -> Ids:
    """The best hypothesis, with the search driven by a model's log-probabilities [V]."""
    beams: BeamSearch[Ids] = BeamSearch(settings, count, len(ends), ())

    def extend(past: Ids, token: Token) -> tuple[Ids, bool]:
        ids = (*past, token.id)
        return ids, token.id in ends or len(ids) == count

    def options(past: Ids) -> list[Continuation]:
        best = log_probs(past).topk(beams.options)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [Continuation(Token(i, p, p, i, 1), p) for i, p in pairs]

    while not beams.advance([options(beam.hypothesis) for beam in beams.running], extend):
        pass
    return beams.ended[0].hypothesis


@pytest.mark.parametrize("ends", [(), ENDS[:1], ENDS], ids=str)
@pytest.mark.parametrize("stopping", EarlyStopping)
def test_the_search_is_that_of_transformers(
    stopping: EarlyStopping, ends: Ids, tmp_path: Path
) -> None:
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(make_model("llama", tmp_path))
    with torch.no_grad():
        model.lm_head.weight[[*ENDS]] *= 2.5  # so that hypotheses end at many lengths
    lengths = set()
    for seed, (width, penalty) in enumerate((w, p) for w in (2, 3, 6) for p in (-1, 0, 1, 2.5)):
        prompt = torch.randint(3, 150, (1, 4), generator=torch.manual_seed(seed))

        @torch.inference_mode()
        def log_probs(past: Ids, prompt: torch.Tensor = prompt) -> torch.Tensor:
            ids = torch.cat((prompt, torch.tensor([past], dtype=torch.long)), dim=1)
            logits: torch.Tensor = model(ids).logits[0, -1]
            return logits.log_softmax(0)

        settings = BeamSettings(width=width, length_penalty=penalty, early_stopping=stopping)
        expected = model.generate(
            prompt,
            num_beams=width,
            do_sample=False,
            length_penalty=float(penalty),
            early_stopping={"true": True, "false": False, "never": "never"}[stopping.value],
            max_new_tokens=12,
            eos_token_id=list(ends) or None,
            pad_token_id=0,
        )[0, 4:]
        found = search(settings, ends, 12, log_probs)
        assert list(found) == expected.tolist()
        lengths.add(len(found))
    assert len(lengths) > (2 if ends else 0)


def test_every_beam_finds_its_past_in_its_blocks(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    """Beams of several widths beside each other and a greedy request."""
    step = RandomModel()
    engine = new_engine(step, new_scheduler(8), 50)
    widths = (2, 3, 5, 7, 4, 2)
    beams = [
        sequence(
            parser, tokenizer, decoding=b"beam", beam_width=width, max_tokens=12, length_penalty=0.5
        )
        for width in widths
    ]
    other = sequence(parser, tokenizer, max_tokens=40)
    for one in (*beams[:3], other, *beams[3:]):
        engine.submit(one)
    run_all(engine, [*beams, other])

    def log_probs(past: Ids) -> torch.Tensor:
        row = torch.full((200,), -torch.inf)
        for token, log_prob in step.log_probs((*range(5, 10), *past)).items():
            row[token] = log_prob
        return row

    for width, one in zip(widths, beams, strict=True):
        settings = BeamSettings(width=width, length_penalty=0.5, early_stopping=EarlyStopping.FALSE)
        expected = search(settings, (END,), 12, lambda past: log_probs(past)[:104])
        assert tuple(sink(one).tokens) == expected
        assert len(sink(one).pieces) == 1
        assert not one.is_running
    assert sink(other).tokens == list(range(100, 140))


def test_a_stop_word_ends_a_hypothesis(parser: RequestParser, tokenizer: Tokenizer) -> None:
    word = tokenizer.decode([101])
    step = RandomModel()
    engine = new_engine(step, new_scheduler(4), 5)
    one = sequence(
        parser, tokenizer, decoding=b"beam", max_tokens=30, stop_words=word.encode(), stream=True
    )
    engine.submit(one)
    run_all(engine, [one])
    (piece,) = sink(one).pieces
    ids = sink(one).tokens
    assert piece.finish_reason is FinishReason.STOP
    assert word not in piece.text
    assert set(ids[:-1]) <= {100, 102, 103}
    assert ids[-1] in (101, END)


def test_beams_are_not_starved_by_narrower_requests(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    step = RandomModel()
    engine = new_engine(step, new_scheduler(4), 100)
    ahead = [sequence(parser, tokenizer, max_tokens=5 + 5 * n) for n in range(4)]
    wide = sequence(parser, tokenizer, decoding=b"beam", max_tokens=5)
    behind = [sequence(parser, tokenizer, max_tokens=5) for _ in range(20)]
    for one in (*ahead, wide, *behind):
        engine.submit(one)
    run_all(engine, [*ahead, wide, *behind])
    turns = sorted((*ahead, wide, *behind), key=lambda one: one.admitted_s or 0)
    assert turns.index(wide) == len(ahead)
    assert set(turns[: len(ahead)]) == set(ahead)


def cancel(one: Sequence) -> None:
    sink(one).cancelled = True


def be_late(one: Sequence) -> None:
    one.accepted_s -= 1000


def break_step(_: Sequence) -> None:
    raise RuntimeError("broken")


@pytest.mark.parametrize("happens", [cancel, be_late, break_step])
def test_beams_that_are_ended_give_all_blocks_back(
    happens: Callable[[Sequence], None], parser: RequestParser, tokenizer: Tokenizer
) -> None:
    step = RandomModel()
    scheduler = new_scheduler(4)
    engine = new_engine(step, scheduler, 5)
    wide = sequence(
        parser, tokenizer, decoding=b"beam", beam_width=4, ignore_eos=True, deadline_s=100.0
    )
    after = sequence(parser, tokenizer, decoding=b"beam", beam_width=4, max_tokens=3)
    for one in (wide, after):
        engine.submit(one)

    def disturb() -> None:
        if len(step.steps) == 5:
            step.before = lambda: None
            engine._next_check_s = 0.0
            happens(wide)

    step.before = disturb
    run_all(engine, [wide, after])
    assert sink(wide).ends == sink(after).ends == 1
    assert scheduler.free == (4, 4096)
    assert not scheduler.running
    assert 0 < len(sink(after).tokens) <= 3
    if happens is cancel:
        assert sink(wide).pieces[-1].finish_reason is FinishReason.CANCELLED
    else:
        assert isinstance(sink(wide).error, DeadlineError if happens is be_late else StepError)


def test_a_beam_whose_logits_are_broken_fails_its_request_alone(
    parser: RequestParser, tokenizer: Tokenizer
) -> None:
    class Broken(RandomModel):
        def __call__(self, step: Step) -> StepResult:
            result = super().__call__(step)
            if len(self.steps) == 4:
                result.picks["token"][1] = NONE
            return result

    scheduler = new_scheduler(8)
    engine = new_engine(Broken(), scheduler, 5)
    first, second = (
        sequence(parser, tokenizer, decoding=b"beam", ignore_eos=True, max_tokens=9)
        for _ in range(2)
    )
    for one in (first, second):
        engine.submit(one)
    run_all(engine, [first, second])
    assert isinstance(sink(first).error, StepError)
    assert len(sink(second).tokens) == 9
    assert scheduler.free == (8, 4096)
