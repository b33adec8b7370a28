"""Turns the figures of a run into results.json, table.md and plot.svg."""

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Sequence

from cell import Figure
from scenarios import Scenario
from targets import TARGETS, Metric, Target

PROCESSES = ("client", "gateway", "rabbitmq", "redis", "worker")


@dataclasses.dataclass
class Results:
    """Of one run. Figures and failures by "SCENARIO/VARIANT", figures by round."""
    about: dict[str, str]
    scenarios: list[Scenario]
    figures: dict[str, dict[int, Figure]] = dataclasses.field(default_factory=dict)
    failures: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add(self, cell: str, number: int, figure: Figure) -> None:
        self.figures.setdefault(cell, {})[number] = figure

    def fail(self, cell: str, why: str) -> None:
        self.failures.setdefault(cell, []).append(why)


def write(results: Results, directory: pathlib.Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(as_json(results))
    (directory / "table.md").write_text(as_markdown(results))
    (directory / "plot.svg").write_text(as_svg(results))


def as_json(results: Results) -> str:
    return json.dumps({
        "about": results.about,
        "figures": {cell: {number: dataclasses.asdict(figure)
                           for number, figure in rounds.items()}
                    for cell, rounds in results.figures.items()},
        "failures": results.failures,
    }, indent=1) + "\n"


# ---- numbers


def number_of(figure: Figure, what: str) -> float | None:
    kind, _, name = what.partition(":")
    if kind == "value":
        return figure.value
    if kind == "cpu":
        return figure.cpu[name] * 1e6 / figure.tasks if name in figure.cpu else None
    if kind == "seconds":
        return figure.cpu.get(name)
    if kind == "rss":
        return figure.rss_mb.get(name)
    return figure.details.get(what)


def series(results: Results, metric: Metric) -> dict[int, float]:
    """The metric by round, without the rounds that have none."""
    rounds = results.figures.get(metric.cell, {})
    found = {n: number_of(figure, metric.what) for n, figure in rounds.items()}
    return {n: value for n, value in found.items() if value is not None}


def ratios(results: Results, top: Metric, bottom: Metric) -> list[float]:
    """Round by round, so that a slow spell of the machine cancels out."""
    above, below = series(results, top), series(results, bottom)
    return [above[n] / below[n] for n in above if below.get(n)]


def measured(results: Results, target: Target) -> list[float]:
    if target.over is None:
        return list(series(results, target.metric).values())
    return ratios(results, target.metric, target.over)


def short(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return short(values[0])
    return (f"{short(statistics.median(values))} "
            f"({short(min(values))} to {short(max(values))})")


# ---- Markdown


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def header(*cells: str) -> list[str]:
    return [row(*cells), "|" + "---|" * len(cells)]


def as_markdown(results: Results) -> str:
    lines = [f"{name}: {value}  " for name, value in results.about.items()]
    lines += ["", "A cell is the median of its rounds, with the least and the most. "
              "A ratio is the median of the ratios of each round.", ""]
    lines += targets_table(results)
    for scenario in results.scenarios:
        lines += scenario_table(results, scenario)
    if results.failures:
        lines += ["", "## Failed: no figure", ""]
        lines += [f"- {cell}: {why}" for cell, whys in results.failures.items()
                  for why in whys]
    return "\n".join(lines) + "\n"


def targets_table(results: Results) -> list[str]:
    lines = ["## Targets", "", *header("what", "wanted", "measured", "")]
    for target in TARGETS:
        values = measured(results, target)
        if values:
            reached = target.is_reached(statistics.median(values))
            verdict = "reached" if reached else "**not reached**"
        else:
            verdict = "not measured"
        lines.append(row(target.text, target.wanted_text(), spread(values), verdict))
    return lines


def scenario_table(results: Results, scenario: Scenario) -> list[str]:
    """The first variant is what the others are compared with."""
    cells = {v: f"{scenario.key}/{v.key}" for v in scenario.variants}
    if not any(cell in results.figures for cell in cells.values()):
        return []
    lines = ["", f"## {scenario.title}", "",
             *header("", scenario.unit, "the first is better by",
                     "CPU, us a task: " + ", ".join(PROCESSES), "CPU, s: the same",
                     "RSS, MB: the same", "calls, ms: p50, p99, p99.9")]
    first = Metric(next(iter(cells.values())))
    for variant, cell in cells.items():
        if cell not in results.figures:
            continue
        own = Metric(cell)
        lines.append(row(
            variant.label, spread(list(series(results, own).values())),
            "" if own == first else spread(advantage(results, scenario, first, own)),
            medians(results, cell, [f"cpu:{name}" for name in PROCESSES]),
            medians(results, cell, [f"seconds:{name}" for name in PROCESSES]),
            medians(results, cell, [f"rss:{name}" for name in PROCESSES]),
            medians(results, cell, ["p50_us", "p99_us", "p999_us"], 1000)))
    return lines


def advantage(results: Results, scenario: Scenario, first: Metric,
              other: Metric) -> list[float]:
    if scenario.unit == "ms":
        return ratios(results, other, first)
    return ratios(results, first, other)


def medians(results: Results, cell: str, whats: list[str], divisor: float = 1) -> str:
    texts = []
    for what in whats:
        values = list(series(results, Metric(cell, what)).values())
        texts.append(short(statistics.median(values) / divisor) if values else "-")
    return ", ".join(texts) if set(texts) != {"-"} else ""


# ---- SVG

# What the README shows: Penstock and a peer, and what the peer's bar is called.
PLOTTED = [
    ("SendTask, 256 outstanding", "unary-256/penstock",
     "unary-256/go-gateway", "Go gateway over machinery"),
    ("50 tasks a call, quorum queue", "bulk/batch-quorum",
     "bulk/go-gateway", "Go gateway, SendGroup"),
    ("End to end, unary", "e2e-unary/penstock-100",
     "e2e-unary/machinery-100", "machinery at its best"),
    ("End to end in bulk, quorum queue", "e2e-bulk/batch-quorum-100",
     "e2e-bulk/machinery-100", "machinery at its best"),
    ("Drain of a full queue", "drain/penstock-100",
     "drain/machinery-100", "machinery at its best"),
    ("Redis as the broker, end to end", "redis-e2e/batch",
     "redis-e2e/asynq", "asynq"),
]
WIDTH, BAR, LEFT, ROOM = 760, 14, 230, 330


def as_svg(results: Results) -> str:
    """Pairs of bars: tasks a second, each pair with its ratio."""
    pairs = [(title, ours, theirs, name) for title, ours, theirs, name in PLOTTED
             if ratios(results, Metric(ours), Metric(theirs))]
    height = 40 + len(pairs) * (2 * BAR + 18)
    most = max((median_of(results, cell) for pair in pairs for cell in pair[1:3]),
               default=1)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
             f'height="{height}" viewBox="0 0 {WIDTH} {height}" '
             'font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
             text(LEFT, 18, "tasks a second, on two cores shared with the servers")]
    for index, (title, ours, theirs, name) in enumerate(pairs):
        top = 34 + index * (2 * BAR + 18)
        times = statistics.median(ratios(results, Metric(ours), Metric(theirs)))
        parts.append(text(LEFT - 10, top + BAR + 4, title, "end"))
        parts += bar(top, median_of(results, ours), most, "#1f6f8b",
                     f"Penstock, {times:.1f}x")
        parts += bar(top + BAR + 2, median_of(results, theirs), most, "#b8b8b8", name)
    return "\n".join(parts) + "\n</svg>\n"


def median_of(results: Results, cell: str) -> float:
    return statistics.median(series(results, Metric(cell)).values())


def bar(top: float, value: float, most: float, colour: str, label: str) -> list[str]:
    width = max(1.0, ROOM * value / most)
    return [f'<rect x="{LEFT}" y="{top}" width="{width:.1f}" height="{BAR}" '
            f'fill="{colour}"/>',
            text(LEFT + width + 6, top + BAR - 3, f"{value:,.0f}  {label}")]


def text(x: float, y: float, content: str, anchor: str = "start") -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#222222">'
            f'{content}</text>')
