"""Commands in the documents and the Makefile still have the options that are given there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.documents import DOCUMENTS, MAKEFILE, ROOT, commands, recipes, spans, split
from tests.programs.named import console, named, run_by
from tests.programs.parsers import options, parser_of, problems

_TARGETS = set(re.findall(r"^([\w-]+):(?!=)", MAKEFILE, re.MULTILINE))
_SETTABLE = set(re.findall(r"^(\w+) *\?=", MAKEFILE, re.MULTILINE))
_PROGRAMS = sorted(named())
# Options of other programs that the documents speak of, and whose.
_FOREIGN = {
    "--shm-size": "docker",
    "--no-deps": "pip",
    "--http-max-input-size": "tritonserver",
    "--trace-config": "tritonserver",
}
documents = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix()
)
parser = cache(parser_of)


@cache
def locust_options() -> set[str]:
    """Locust's, and those that ours adds."""
    code = """if True:
        import runpy
        from locust.argument_parser import get_parser
        runpy.run_path("load_tests/locustfile.py")
        print(*get_parser()._option_string_actions)
    """
    # In a process of its own: Locust replaces parts of the standard library.
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def wrong(words: Sequence[str]) -> list[str]:
    """What a command line of a document or the Makefile asks for that is not there."""
    name = Path(words[0]).name
    if name == "make":
        return _wrong_make(words[1:])
    if name == "locust":
        return [word for word in words if word.startswith("-") and word not in locust_options()]
    for program in run_by(words):
        if program not in console() and not (ROOT / program).exists():
            return [f"no program {program}"]
        place = next(n for n, word in enumerate(words) if _is_of(word, program))
        arguments = list(words[place + 1 :])
        found = problems(parser(program), arguments)
        if program.startswith("load_tests/") and "--" in arguments:
            found += wrong(["locust", *arguments[arguments.index("--") + 1 :]])
        return found
    return []


def _wrong_make(words: Sequence[str]) -> list[str]:
    found = []
    for word in words:
        variable, equals, _ = word.partition("=")
        # pip reads its own from the environment.
        if equals and variable not in _SETTABLE and not variable.startswith("PIP_"):
            found.append(f"make: no variable {variable}")
    target = words[0].rstrip(",.;") if words else "setup"
    return found if target in _TARGETS else [*found, f"make: no target {target}"]


def _is_of(word: str, program: str) -> bool:
    path = program.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
    return word in (program, path) or Path(word).name == program


@documents
def test_commands_are_right(document: Path) -> None:
    found = [problem for words in commands(document.read_text()) for problem in wrong(words)]
    assert found == []


def test_recipes_are_right() -> None:
    assert [problem for words in recipes(MAKEFILE) for problem in wrong(words)] == []


@documents
def test_options_that_the_text_speaks_of_are_there(document: Path) -> None:
    known = locust_options() | _FOREIGN.keys()
    known = known.union(*(options(parser(program)) for program in _PROGRAMS))
    written = {span.split()[0].partition("=")[0] for span in spans(split(document.read_text())[0])}
    assert {word for word in written if word.startswith("--") and len(word) > 2} - known == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "    cold-server --base-model DIR --adaptor NAME=DIR",
            ["cold-server: no option --adaptor"],
        ),
        (
            "    .venv/bin/cold generate --decoding warm hi",
            ["cold generate: --decoding cannot be 'warm'"],
        ),
        ("    cold generat hi", ["cold: no command 'generat'", "cold: no command 'hi'"]),
        ("    $(BIN) && cold-eval \\\n        --betta 1", ["cold-eval: no option --betta"]),
        ("`python benchmarks/bench.py --quick`", ["no program benchmarks/bench.py"]),
        ("`python load_tests/run.py --base-model DIR -- --level 1`", ["--level"]),
        (
            "`make benches`, `make soak SOCK=1h`",
            ["make: no target benches", "make: no variable SOCK"],
        ),
        (
            "    cold compare --html FILE 'Hi'    the --same as a page\n    make load, on 2 cores",
            [],
        ),
        (
            "    cold-server ... --trace-every 0 -- --http-header=x\n    cold generate --beta N hi",
            [],
        ),
    ],
)
def test_what_a_wrong_command_is(text: str, expected: list[str]) -> None:
    assert [problem for words in commands(text) for problem in wrong(words)] == expected
