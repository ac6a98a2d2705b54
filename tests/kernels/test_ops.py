"""The ops as torch sees them: registered properly, usable by torch.compile, chosen by name."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from cold_kernels import KernelError, load_ops
from tests.kernels.conftest import Implementation
from tests.kernels.inputs import contrast, lora


def namespace(implementation: Implementation) -> str:
    return f"cold_{implementation.ops.name}"


def test_registration(implementation: Implementation) -> None:
    ops = getattr(torch.ops, namespace(implementation))
    on = implementation.device
    case = contrast(3, 100, torch.float32)
    settings = case.settings_on(on)
    expert, base = case.expert.to(on), case.base.to(on)
    # Compiling the interpreter's own frames is not what is checked.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(ops.contrast_select, (expert, base), settings, test_utils=checks)
    scoring = {name: settings[name] for name in case.scoring}
    torch.library.opcheck(ops.contrast_scores, (expert, base), scoring, test_utils=checks)
    drawing = {
        **dict.fromkeys(("temperature", "top_p", "min_p"), torch.full((3,), 0.5, device=on)),
        "top_k": torch.full((3,), 5, dtype=torch.int32, device=on),
        "key": torch.zeros((3, 2), dtype=torch.int32, device=on),
        "room": 20,
    }
    some = torch.tensor([0, 2, 2], device=on)
    penalties = {
        **dict.fromkeys(("row", "token", "times"), some),
        **dict.fromkeys(("repetition", "presence", "frequency"), torch.ones(3, device=on)),
    }
    penalties["token"] = torch.tensor([5, 5, 7], device=on)
    torch.library.opcheck(ops.penalise, (expert.clone(),), penalties, test_utils=checks)
    torch.library.opcheck(ops.draw, (expert,), drawing, test_utils=checks)
    token = torch.zeros((3, 2), dtype=torch.int64, device=on)
    torch.library.opcheck(ops.log_probs, (expert, token), test_utils=checks)
    adapters = lora(3, 20, 30, (4, 2), torch.float32)
    weights = {k: v.to(on) for k, v in adapters.weights.items()}
    arguments = (adapters.y.to(on), adapters.x.to(on))
    torch.library.opcheck(ops.lora_apply, arguments, weights, test_utils=checks)


def test_torch_compile_sees_one_graph(implementation: Implementation) -> None:
    case = contrast(3, 100, torch.float32)
    on = implementation.device
    settings = case.settings_on(on)
    select = implementation.ops.contrast_select

    def step(expert: Tensor, base: Tensor) -> Tensor:
        return select(expert * 2, base * 2, **settings).token + 1

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    expert, base = case.expert.to(on), case.base.to(on)
    assert torch.equal(compiled(expert, base), step(expert, base))


def test_fake_tensors_get_shapes_and_types(implementation: Implementation) -> None:
    with FakeTensorMode():
        rows = torch.empty(5)
        mode = torch.empty(5, dtype=torch.int32)
        found = implementation.ops.contrast_select(
            torch.empty(5, 90),
            torch.empty(5, 90),
            mode=mode,
            alpha=rows,
            beta=rows,
            temperature=rows,
            key=None,
        )
        scores = implementation.ops.contrast_scores(
            torch.empty(5, 90, dtype=torch.bfloat16),
            torch.empty(5, 90, dtype=torch.bfloat16),
            mode=mode,
            alpha=rows,
            beta=rows,
        )
        settings = dict.fromkeys(("temperature", "top_p", "min_p"), rows)
        key = torch.empty((5, 2), dtype=torch.int32)
        drawn = implementation.ops.draw(scores, **settings, top_k=mode, key=key, room=9)
        found_log_probs = implementation.ops.log_probs(scores, torch.empty((5, 3)).long())
    assert drawn.token.shape == drawn.certain.shape == (5,)
    assert (drawn.token.dtype, drawn.certain.dtype) == (torch.int64, torch.bool)
    assert (found_log_probs.shape, found_log_probs.dtype) == ((5, 3), torch.float32)
    assert scores.shape == (5, 90)
    assert scores.dtype == torch.float32
    assert all(tensor.shape == (5,) for tensor in found)
    assert found.token.dtype == found.expert_token.dtype == torch.int64
    assert found.valid_count.dtype == torch.int32


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"alpha": torch.ones(4)}, "alpha: shape must be"),
        ({"mode": torch.zeros(3, dtype=torch.int64)}, "mode: dtype must be"),
        ({"key": torch.zeros(3, 3, dtype=torch.int32)}, "key: shape must be"),
    ],
)
def test_native_checks_its_inputs(change: dict[str, Tensor], complaint: str) -> None:
    ops = load_ops("native", torch.device("cpu"))
    case = contrast(3, 100, torch.float32)
    with pytest.raises(RuntimeError, match=complaint):
        ops.contrast_select(case.expert, case.base, **{**case.settings, **change})


@pytest.mark.parametrize(("name", "most"), [("row", 3), ("token", 100)])
@pytest.mark.parametrize("wrong", [-1, 100])
def test_native_checks_which_tokens_are_penalised(name: str, most: int, wrong: int) -> None:
    ops = load_ops("native", torch.device("cpu"))
    places = {name: torch.zeros(1, dtype=torch.int64) for name in ("row", "token", "times")}
    places[name][0] = wrong
    penalties = dict.fromkeys(("repetition", "presence", "frequency"), torch.ones(3))
    with pytest.raises(RuntimeError, match=f"{name}: must be below {most}"):
        ops.penalise(torch.zeros(3, 100), **places, **penalties)


def test_native_checks_which_log_probabilities_are_wanted() -> None:
    ops = load_ops("native", torch.device("cpu"))
    for token in (-1, 100):
        with pytest.raises(RuntimeError, match="token: must be below 100"):
            ops.log_probs(torch.zeros(1, 100), torch.tensor([[token]]))


def test_the_choice_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert load_ops("auto", torch.device("cpu")).name == "native"
    assert "kernels on cpu: native" in caplog.text


def test_unknown_kernels() -> None:
    with pytest.raises(KernelError, match="auto, native, triton_lang, reference"):
        load_ops("magic", torch.device("cpu"))
