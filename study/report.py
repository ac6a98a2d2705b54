"""Writes docs/study.md and its pictures from the records in study/results.

    PYTHONPATH=examples python -m study.report

The text comes from study/page.md; what stands in double braces in it is filled in.
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
    """What `study.search` has written, each with what came of its rules as `results`."""
    found = [json.loads(path.read_text()) for path in RESULTS.glob("*.json")]
    for record in found:
        record["results"] = tries(record)
    names = ("task", "base", "adapter", "steps", "scale", "split")
    return sorted(found, key=lambda record: tuple(record[name] for name in names))


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
            for name, result in record["results"].items():
                line = {key: record[key] for key in keys} | {
                    "rule": name,
                    "items": result.items,
                    "accuracy": round(result.score, 4),
                    "won": result.won,
                    "lost": result.lost,
                    "p": round(result.p, 4),
                }
                file.write(json.dumps(line) + "\n")


def label(record: Record) -> str:
    """The task, what the adapter has been made of, and how far it is from the base."""
    made_of = record["adapter"].partition("-")[0]
    task = record["task"] if made_of == record["task"] else f"{record['task']}, average {made_of}"
    scale = "" if record["scale"] == 1.0 else f", weights x {record['scale']:g}"
    base = record["base"].partition("-")[0]
    return f"{task}, {base}, {record['steps']} steps{scale}, {record['split']}"


def title(record: Record) -> str:
    contested = record["contested_steps"] / record["greedy_steps"]
    return (
        f"{label(record)}, {record['dtype']}; "
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
        results = record["results"]
        best = next(iter(results))
        rows.append(
            f"| {label(record)} | {results['greedy'].items} | {share(results.get('base'))} "
            f"| {share(results['greedy'])} | {change(results.get('cold a=0.1 b=0.5'))} "
            f"| {best}: {change(results[best])} |"
        )
    return "\n".join(rows)


def judged(found: list[Record]) -> str:
    """Of every rule that test items have judged."""
    rows = []
    for record in found:
        results = record["results"] if record["split"] == "test" else {}
        for name, result in results.items():
            if name != "greedy":
                rows.append(
                    f"| {label(record)}, {result.items} items: {name} | {share(results['greedy'])} "
                    f"| {share(result)} | {gain(result)}, {odds(result)} |"
                )
    return "\n".join(rows)


def share(result: Summary | None) -> str:
    return "" if result is None else f"{result.score:.1%}"


def change(result: Summary | None) -> str:
    return "" if result is None else f"{share(result)}, {odds(result)}"


def gain(result: Summary) -> str:
    """Over greedy, with its interval."""
    interval = f"{result.difference_low:+.1%} to {result.difference_high:+.1%}"
    return f"{result.difference:+.1%} ({interval})"


def odds(result: Summary) -> str:
    return f"{result.won} / {result.lost}, {result.p:.2g}"


def predictions(found: list[Record]) -> str:
    """What the likelihood of right answers says of beta, and what it did on dev."""
    rows = [
        "| Task, adapter, split | Best beta by likelihood | Loss at it / at 0 "
        "| Nearest beta decoded: gain, won / lost, p |",
        "|---|---|---|---|",
    ]
    for record in found:
        keys = ("task", "adapter", "steps", "scale")
        if record["split"] != "dev" or not (asked := likelihood([record[key] for key in keys])):
            continue
        best, losses = asked["best"], asked["losses"]
        beta, result = min(curve(record), key=lambda point: abs(point[0] - best))
        ratio = losses[str(best)] / losses["0.0"]
        rows.append(
            f"| {label(record)} | {best:g} | {ratio:.2f} "
            f"| {beta:g}: {result.difference:+.1%}, {odds(result)} |"
        )
    return "\n".join(rows)


def likelihood(wanted: list[Any]) -> Record | None:
    """The record of `study.likelihood` for a task, an adapter, its steps and scale."""
    for path in (RESULTS / "likelihood").glob("*.json"):
        record: Record = json.loads(path.read_text())
        if [record[key] for key in ("task", "adapter", "steps", "scale")] == wanted:
            return record
    return None


def table(record: Record) -> str:
    rows = [
        f"<details><summary>{title(record)}</summary>\n",
        "| Rule | Accuracy | Gain, 95 % interval | Won / lost, p |",
        "|---|---|---|---|",
    ]
    for name, result in record["results"].items():
        rows.append(f"| {name} | {share(result)} | {gain(result)} | {odds(result)} |")
    return "\n".join([*rows, "\n</details>"])


def curve(record: Record) -> list[tuple[float, Summary]]:
    """CoLD at alpha 0.1, by beta; greedy is at 0."""
    results = record["results"]
    found = [(BETA.fullmatch(name), result) for name, result in results.items()]
    points = [(float(match[1]), result) for match, result in found if match]
    return sorted([(0.0, results["greedy"]), *points], key=lambda point: point[0])


def amateurs() -> str:
    """What `study.amateurs` has found: of each task and adapter what dev has chosen, on test."""
    rows = [
        "| Task, base, adapter, items | Decoding | Right | Gain over greedy, 95 % interval "
        "| Won / lost, p |",
        "|---|---|---|---|---|",
    ]
    for path in sorted((RESULTS / "amateurs").glob("*-test.json")):
        record = json.loads(path.read_text())
        adapter = "no adapter" if record["adapter"] == "base" else f"adapter {record['adapter']}"
        which = f"{record['task']}, {record['base'].partition('-')[0]}, {adapter}"
        for name, result in tries(record).items():
            is_greedy = name == "greedy"
            rows.append(
                f"| {which}, {result.items} | {name} | {share(result)} "
                f"| {'' if is_greedy else gain(result)} | {'' if is_greedy else odds(result)} |"
            )
    return "\n".join(rows)


def draw(found: list[Record]) -> None:
    """Left, gains by beta; right, accuracy of scaled adapters by how far beta takes them."""
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 7), layout="constrained")
    scaled = {record["adapter"] for record in found if record["scale"] != 1.0}
    for place, record in enumerate(r for r in found if r["scale"] == 1.0 and r["split"] == "dev"):
        points = curve(record)
        betas, gains = [beta for beta, _ in points], [100 * r.difference for _, r in points]
        line = "-" if place < 10 else "--"
        left.plot(betas, gains, marker="o", ms=3, ls=line, label=label(record))
    for record in found:
        if record["adapter"] in scaled and record["split"] == "dev" and record["steps"] == 120:
            points = [point for point in curve(record) if point[0] >= 0]
            reach = [record["scale"] * (1 + beta) for beta, _ in points]
            scores = [100 * result.score for _, result in points]
            name = f"{record['task']}, weights x {record['scale']:g}"
            (line,) = right.plot(reach, scores, alpha=0.7, label=name)
            right.plot(reach[:1], scores[:1], marker="o", ms=9, color=line.get_color())
            right.plot(reach[1:], scores[1:], marker="o", ms=4, ls="", color=line.get_color())
    left.axhline(0, color="0.5", lw=0.8)
    left.set(
        xlabel="beta (0 is greedy)",
        ylabel="gain over greedy, points",
        title="adapters with their own weights, and averages",
    )
    right.set(xlabel="scale x (1 + beta)", ylabel="accuracy, %", title="large dots: greedy")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, ncol=2, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    figure.savefig(PICTURE, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def main() -> None:
    found = records()
    write_tries(found)
    draw(found)
    text = PAGE.read_text(encoding="utf-8")
    text = text.replace("{{tables}}", summary(found))
    text = text.replace("{{judged}}", judged(found))
    text = text.replace("{{amateurs}}", amateurs())
    text = text.replace("{{predictions}}", predictions(found))
    text = text.replace("{{tries}}", "\n\n".join(table(record) for record in found))
    TARGET.write_text(text, encoding="utf-8")
    print(f"{TARGET}, {PICTURE}, {TRIES}: {len(found)} records")


if __name__ == "__main__":
    main()
