"""The command `cold-tune`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from cold_eval.amateurs import Amateur
from cold_eval.cli import guarded, say, write
from cold_eval.decodings import GREEDY, Decoding, grid, scaled
from cold_eval.errors import EvaluationError
from cold_eval.evaluate import evaluate
from cold_eval.html_report import html_report
from cold_eval.items import Task
from cold_eval.options import (
    add_model_options,
    add_task_options,
    in_process,
    settings_of,
    tasks_of,
)
from cold_eval.report import by_decoding, report_of
from cold_eval.results import Journal, Result
from cold_eval.tune import MIN_ITEMS, Verdict, tune
from cold_eval.tuned import mark_of, write_tuned

_PART = 32  # items of each task that are decoded before the time is looked at

_DESCRIPTION = """\
Finds the alpha, beta and amateur with which an adapter answers best, on items with known answers
(as for cold-eval), and the lora_scale with which greedy does, says which of the two wins, and
writes it into cold.json beside the adapter, which the server then takes as the adapter's defaults.
Where neither helps beyond noise, it says so and writes greedy. The folder of --out gets
tuning.html.
"""
_EPILOG = """\
What the gain is on other items is estimated by five-fold cross-validation. cold-eval will not show
the tuned decoding on the items that were used here: keep others for that.
Exit code: 0 ok, 2 bad usage or input, 130 after Ctrl-C.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    return guarded("cold-tune", lambda: _run(_parser().parse_args(argv)))


def _run(options: argparse.Namespace) -> int:
    tasks = tasks_of(options)
    count = sum(len(task.items) for task in tasks)
    if count < MIN_ITEMS:
        raise EvaluationError(f"task: tuning needs at least {MIN_ITEMS} items, got {count}")
    for name in options.amateurs if not options.dry_run else ():
        _ = Amateur(name).rule  # what cold.json could not say must not win
    points = grid(options.alphas, options.betas, options.amateurs, options.beta_rules)
    if not points:
        raise EvaluationError("betas: at least one above 0 is needed")
    points += scaled(options.lora_scales)
    decodings = [GREEDY, *points]
    settings = settings_of(options, tasks, decodings)
    journal = Journal(options.out / "tuning.jsonl", settings)
    try:
        tasks = _evaluated(options, tasks, decodings, journal)
    finally:
        journal.close()
    verdict = tune(points, scores_of(journal.results, tasks, decodings), options.seed)
    sys.stdout.write(f"{verdict.reason}\n")
    reports = report_of(settings, journal.results)
    write(options.out / "tuning.html", html_report(settings, tasks, reports, journal.results))
    if not options.dry_run:
        path = write_tuned(options.adapter, verdict.decoding, _tuning(settings, tasks, verdict))
        say(f"wrote {path}")
    return 0


def _evaluated(
    options: argparse.Namespace, tasks: list[Task], decodings: list[Decoding], journal: Journal
) -> list[Task]:
    """Decodes all items, or as many as there is time for, a part of each task at a time.

    Returns:
        The tasks with the items that all decodings have answered.
    """
    begun_s, loaded = time.monotonic(), cache(lambda: in_process(options))
    most = max(len(task.items) for task in tasks)
    size = most if options.minutes is None else _PART
    for done in range(size, most + size, size):
        some = [replace(task, items=task.items[:done]) for task in tasks]
        evaluate(loaded, some, decodings, journal, say)
        count = sum(len(task.items) for task in some)
        is_late = options.minutes is not None and time.monotonic() > begun_s + 60 * options.minutes
        if is_late and count >= MIN_ITEMS and done < most:
            say(f"cold-tune: the time is up after {count} items")
            break
    return some


def scores_of(
    results: Sequence[Result], tasks: Sequence[Task], decodings: Sequence[Decoding]
) -> dict[str, list[float]]:
    """The scores of all tasks' items by decoding, in the same order for each."""
    scores: dict[str, list[float]] = {decoding.name: [] for decoding in decodings}
    for task in tasks:
        found = by_decoding(results, task.name)
        for name, column in scores.items():
            column += [found[name][item.id].score for item in task.items]
    return scores


def _tuning(settings: dict[str, Any], tasks: Sequence[Task], verdict: Verdict) -> dict[str, Any]:
    return {
        "verdict": verdict.reason,
        "checked": verdict.summaries(),
        "scores": verdict.scores,
        "settings": {key: settings[key] for key in ("model", "seed", "tasks")},
        "items": "".join(sorted(mark_of(item) for task in tasks for item in task.items)),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cold-tune",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_task_options(parser)
    add_model_options(parser, required=True)
    add = parser.add_argument
    add("--minutes", type=float, metavar="N", help="take only the items that there is time for")
    add("--dry-run", action="store_true", help="do not write cold.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
