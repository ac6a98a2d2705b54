"""Writes docs/study.md and its pictures from the records in study/results.

    PYTHONPATH=examples python -m study.report

The text comes from study/page.md; `{{tables}}` and `{{tries}}` in it are filled in.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from cold_eval.statistics import Summary, summaries

RESULTS = Path("study/results")
PAGE = Path("study/page.md")
TARGET = Path("docs/study.md")
PICTURE = Path("docs/study.png")
TRIES = RESULTS / "tries.jsonl"
BETA = re.compile(r"cold a=0\.1 b=(\S+)")

Record = dict[str, Any]


def records() -> list[Record]:
    found = [json.loads(path.read_text()) for path in RESULTS.glob("*.json")]
    return sorted(found, key=lambda r: (r["task"], r["base"], r["adapter"], r["steps"], r["split"]))


def tries(record: Record) -> dict[str, Summary]:
    """Each rule of a record beside greedy, best first."""
    scores = {name: [float(bit) for bit in bits] for name, bits in record["right"].items()}
    found = summaries(scores, "greedy", seed=0)
    return dict(sorted(found.items(), key=lambda pair: -pair[1].score))


def write_tries(found: list[Record]) -> None:
    """Every try as one line of JSON."""
    with TRIES.open("w", encoding="utf-8") as file:
        for record in found:
            keys = ("task", "base", "adapter", "steps", "scale", "split", "dtype")
            for name, result in tries(record).items():
                line = {key: record[key] for key in keys} | {
                    "rule": name,
                    "items": result.items,
                    "accuracy": round(result.score, 4),
                    "won": result.won,
                    "lost": result.lost,
                    "p": round(result.p, 4),
                }
                file.write(json.dumps(line) + "\n")


def title(record: Record) -> str:
    rank = re.search(r"-r(\d+)-", record["adapter"])
    scale = "" if record["scale"] == 1.0 else f", weights x {record['scale']:g}"
    contested = record["contested_steps"] / record["greedy_steps"]
    return (
        f"{record['task']}, {record['base']}, rank {rank[1] if rank else '?'}, "
        f"{record['steps']} steps{scale}, {record['split']}; "
        f"{contested:.0%} of greedy's steps contested at alpha 0.1"
    )


def summary(found: list[Record]) -> str:
    """One line for each record: base, greedy, CoLD as published, and the best of all."""
    rows = [
        "| Task, adapter, split | Items | Base | Greedy | CoLD alpha 0.1, beta 0.5: won / lost, p "
        "| Best rule of the record: accuracy, won / lost, p |",
        "|---|---|---|---|---|---|",
    ]
    for record in found:
        results = tries(record)
        best = next(name for name in results)
        rows.append(
            f"| {record['task']}, {record['base']}, {record['steps']} steps, {record['split']} "
            f"| {results['greedy'].items} | {share(results.get('base'))} "
            f"| {share(results['greedy'])} | {change(results.get('cold a=0.1 b=0.5'))} "
            f"| {best}: {change(results[best])} |"
        )
    return "\n".join(rows)


def share(result: Summary | None) -> str:
    return "" if result is None else f"{result.score:.1%}"


def change(result: Summary | None) -> str:
    if result is None:
        return ""
    return f"{result.score:.1%}, {result.won} / {result.lost}, {result.p:.2g}"


def table(record: Record) -> str:
    rows = [
        f"<details><summary>{title(record)}</summary>\n",
        "| Rule | Accuracy | Gain, 95 % interval | Won / lost | p |",
        "|---|---|---|---|---|",
    ]
    for name, result in tries(record).items():
        gain = f"{result.difference:+.1%}"
        interval = f"{result.difference_low:+.1%} to {result.difference_high:+.1%}"
        changes = f"{result.won} / {result.lost} | {result.p:.2g}"
        rows.append(f"| {name} | {result.score:.1%} | {gain} ({interval}) | {changes} |")
    return "\n".join([*rows, "\n</details>"])


def curve(record: Record) -> list[tuple[float, Summary]]:
    """CoLD at alpha 0.1, by beta; greedy is at 0."""
    results = tries(record)
    found = [(BETA.fullmatch(name), result) for name, result in results.items()]
    points = [(float(match[1]), result) for match, result in found if match]
    return sorted([(0.0, results["greedy"]), *points], key=lambda point: point[0])


def draw(found: list[Record]) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    from matplotlib import pyplot

    drawn = [record for record in found if record["scale"] == 1.0]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for place, record in enumerate(drawn):
        points = curve(record)
        label = f"{record['task']}, {record['steps']} steps, {record['split']}"
        betas = [beta for beta, _ in points]
        left.plot(betas, [r.score for _, r in points], marker="o", label=label)
        color = f"C{place}"
        right.plot(betas, [r.won for _, r in points], color=color, marker="^", label=label)
        right.plot(betas, [-r.lost for _, r in points], color=color, marker="v", ls="--")
    left.set(xlabel="beta (0 is greedy)", ylabel="accuracy", title="CoLD at alpha 0.1")
    right.set(xlabel="beta", ylabel="items", title="won (up) and lost (down) against greedy")
    right.axhline(0, color="0.5", lw=0.8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    figure.savefig(PICTURE, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def main() -> None:
    found = records()
    write_tries(found)
    draw(found)
    text = PAGE.read_text(encoding="utf-8")
    text = text.replace("{{tables}}", summary(found))
    text = text.replace("{{tries}}", "\n\n".join(table(record) for record in found))
    TARGET.write_text(text, encoding="utf-8")
    print(f"{TARGET}, {PICTURE}, {TRIES}: {len(found)} records")


if __name__ == "__main__":
    main()
