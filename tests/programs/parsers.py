"""The parsers of the programs' own command lines."""

from __future__ import annotations

import argparse
import importlib
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import pytest

from tests.documents import ROOT
from tests.programs.named import console

_MODULES = ("benchmarks/device/", "deploy/", "study/", "tests/")  # run by `python -m`
_PLACEHOLDER = {"...", "…"}


class _FoundError(Exception):
    """Ends a program where it would read its arguments."""


def parser_of(program: str) -> argparse.ArgumentParser:
    """Of a command, or of a program by its path; it is run up to where it reads its arguments."""
    if program in console():
        return _captured(importlib.import_module(_module(ROOT / console()[program])).main)
    path = ROOT / program
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(path)])
        is_module = program.startswith(_MODULES)
        # As Python itself would: its file's folder first, or with `-m` where it is started.
        first = ROOT if is_module else path.parent
        patch.setattr(sys, "path", [str(first), str(ROOT / "examples"), *sys.path])
        # It needs compilers that another environment of the Makefile has.
        patch.setitem(sys.modules, "lowering", mock.MagicMock())
        if is_module:
            # runpy warns of a module that another test has imported.
            for name in (_module(path), f"{_module(path)}.__main__"):
                patch.delitem(sys.modules, name, raising=False)
            return _captured(lambda: runpy.run_module(_module(path), run_name="__main__"))
        return _captured(lambda: runpy.run_path(str(path), run_name="__main__"))


def problems(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """What a command line says that its parser does not know; not what it leaves out."""
    found = []
    actions = parser._option_string_actions
    expected: argparse.Action | None = None
    for word in words:
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if word.startswith("-") and word != "-":
            expected = actions.get(name)
            if expected is None:
                found.append(f"{parser.prog}: no option {name}")
            if equals:
                found += _wrong(parser, expected, value)
            continue
        if expected is None or expected.nargs == 0:
            if commands := _commands(parser):
                if word in commands:
                    return found + problems(commands[word], words[words.index(word) + 1 :])
                found.append(f"{parser.prog}: no command {word!r}")
        else:
            found += _wrong(parser, expected, word)
            expected = None
    return found


def _wrong(
    parser: argparse.ArgumentParser, action: argparse.Action | None, value: str
) -> list[str]:
    choices = action.choices if action else None
    if choices is None or value in choices or value in _PLACEHOLDER or value.isupper():
        return []
    return [f"{parser.prog}: {action.option_strings[0] if action else ''} cannot be {value!r}"]


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def options(parser: argparse.ArgumentParser) -> set[str]:
    """All options, those of subcommands too."""
    own = set(parser._option_string_actions)
    return own.union(*(options(command) for command in _commands(parser).values()))


def _captured(run: Callable[[], object]) -> argparse.ArgumentParser:
    found: list[argparse.ArgumentParser] = []

    def parse(self: argparse.ArgumentParser, *_: object, **__: object) -> None:
        found.append(self)
        raise _FoundError

    with mock.patch.object(argparse.ArgumentParser, "parse_args", parse):
        try:
            run()
        except _FoundError:
            return found[0]
    return argparse.ArgumentParser()  # it takes no arguments


def _module(path: Path) -> str:
    """The name by which a file of this repository is imported."""
    for base in (ROOT / "client", ROOT / "evaluation", ROOT):
        if path.is_relative_to(base):
            break
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__main__" else parts)
