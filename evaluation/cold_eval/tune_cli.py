"""The command `cold-tune`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from cold_eval.cli import guarded, say
from cold_eval.decodings import GREEDY, Decoding, grid, scaled
from cold_eval.errors import EvaluationError
from cold_eval.evaluate import evaluate
from cold_eval.items import Task
from cold_eval.options import (
    add_model_options,
    add_task_options,
    in_process,
    settings_of,
    tasks_of,
)
from cold_eval.report import by_decoding
from cold_eval.results import Journal, Result
from cold_eval.tune import Verdict, tune
from cold_eval.tuned import write_tuned

_DESCRIPTION = """\
Finds the alpha and beta with which an adapter answers best, on items with known answers (as for
cold-eval), and the lora_scale with which greedy does, says which of the two wins, and writes it
into cold.json beside the adapter, which the server then takes as the adapter's defaults. Where
neither helps beyond noise, it says so and writes greedy.
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
    points = grid(options.alphas, options.betas)
    if not points:
        raise EvaluationError("betas: at least one above 0 is needed")
    points += scaled(options.lora_scales)
    decodings = [GREEDY, *points]
    settings = settings_of(options, tasks, decodings)
    journal = Journal(options.out / "tuning.jsonl", settings)
    try:
        evaluate(lambda: in_process(options), tasks, decodings, journal, say)
    finally:
        journal.close()
    verdict = tune(points, scores_of(journal.results, tasks, decodings), options.seed)
    sys.stdout.write(f"{verdict.reason}\n")
    if not options.dry_run:
        path = write_tuned(options.adapter, verdict.decoding, _tuning(settings, tasks, verdict))
        say(f"wrote {path}")
    return 0


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
        "items": sorted(item.sha256 for task in tasks for item in task.items),
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
    parser.add_argument("--dry-run", action="store_true", help="do not write cold.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
