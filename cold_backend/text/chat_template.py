"""A model's chat template: a program that comes with the model and works on what clients send.

It runs in transformers' sandbox, which gives it no file, no process and nothing of Python's
insides. What the sandbox does not bound is bounded here: loops, huge powers and repetitions, and
the length of what comes out.
"""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, nodes

_LONGEST_S = 2.0  # of the thread's own computing
# Characters beyond twice those of the messages.
_MOST_ADDED = 1 << 20
_MOST_REPEATED = 1 << 20  # items of a repeated text or list
_MOST_BITS = 1 << 12  # of a product or power


class ChatTemplate:
    """A compiled template; safe for threads.

    Args:
        source: Jinja.
        constants: what it may use beside the messages: the names of special tokens.

    Raises:
        Exception: of any kind, the template is broken.
    """

    def __init__(self, source: str, constants: Mapping[str, Any]) -> None:
        # Imported late, see `tokenizer`. Only transformers knows which functions templates may use.
        from transformers.utils.chat_template_utils import _compile_jinja_template

        environment = _compile_jinja_template("").environment.overlay()
        environment.intercepted_binops = frozenset(("*", "**"))
        environment.binop_table = environment.binop_table | {"*": _multiply, "**": _power}
        environment.tick = self._tick
        program = environment.parse(source)
        for part in program.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            call = nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None)
            part.body.insert(0, nodes.ExprStmt(call).set_lineno(part.lineno))
        program.set_environment(environment)
        self._template = environment.from_string(program)
        self._constants = dict(constants)
        self._of_thread = threading.local()

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text of a chat, up to where the assistant's answer begins.

        Raises:
            Exception: of any kind, the template refuses these messages or fails on them.
        """
        self._of_thread.end_s = time.thread_time() + _LONGEST_S
        room = _MOST_ADDED + 2 * sum(len(text) for m in messages for text in m.values())
        pieces = []
        for piece in self._template.generate(
            **self._constants,
            messages=[dict(message) for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=True,
        ):
            pieces.append(piece)
            room -= len(piece)
            if room < 0:
                raise TemplateError("it makes too long a text of them")
        return "".join(pieces)

    def _tick(self) -> str:
        """Called in every turn of a loop."""
        if time.thread_time() > self._of_thread.end_s:
            raise TemplateError(f"it takes longer than {_LONGEST_S:g} s")
        return ""


def _multiply(left: Any, right: Any) -> Any:
    for many, times in ((left, right), (right, left)):
        if isinstance(many, str | bytes | list | tuple) and isinstance(times, int):
            _check(len(many) * times <= _MOST_REPEATED)
    if isinstance(left, int) and isinstance(right, int):
        _check(left.bit_length() + right.bit_length() <= _MOST_BITS)
    return operator.mul(left, right)


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int):
        _check(base.bit_length() * exponent <= _MOST_BITS)
    return operator.pow(base, exponent)


def _check(fits: bool) -> None:
    if not fits:
        raise TemplateError("it makes too large a value")
