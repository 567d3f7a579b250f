"""The figures as tables of text, in one form for the terminal, for Markdown and for the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from adaptvis_plugin.comparison.answers import FORMS
from adaptvis_plugin.comparison.figures import RunFigures, SectionFigures, Value

ABSENT = "-"

OPEN = ("scores", "against", "manner", "origins")
"""The tables that everybody should read: those of the terminal, and those of the page that are not folded up."""


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        name: A name for it, without spaces.
        title: What it shows.
        note: How to read it.
        head: The heads of the columns.
        rows: The rows.
        shades: For each number cell its darkness in 0..1, in tables that are shown shaded.
        texts: How many columns at the left hold text; the first cell of a row is its head.
    """

    name: str
    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    shades: tuple[tuple[float, ...], ...] = ()
    texts: int = 1


def grids(part: SectionFigures) -> list[Grid]:
    """Return the tables of a task; those that would be empty are left out."""
    found = [scores(part), against(part), manner(part), origins(part), relations(part), options(part)]
    found += [confusion(part, run) for run in part.runs]
    return [grid for grid in found if grid is not None and grid.rows]


def scores(part: SectionFigures) -> Grid:
    """Return every metric of every run."""
    places = _different(part)
    titles = [part.runs[0].metrics[place].title for place in places]
    rows = tuple((run.run.name, *(_with_interval(run.metrics[place], part) for place in places)) for run in part.runs)
    unit = "Percent, with" if part.shares else "With"
    notes = [
        f"{unit} 95% bootstrap intervals; drawn are the {part.groups} {part.grouped}"
        + ("." if part.grouped == "rows" else f", not the {len(part.section.asked)} rows.")
    ]
    metrics = part.runs[0].metrics
    notes += [
        f"{value.title.capitalize()}: the same as {metrics[0].title} in every run."
        for place, value in enumerate(metrics)
        if place not in places
    ]
    notes += part.remarks
    return Grid("scores", "Scores", " ".join(notes), ("run", *titles), rows)


def against(part: SectionFigures) -> Grid | None:
    """Return every run's difference from the baseline."""
    base = part.base
    if base is None or len(part.runs) < 2:
        return None
    places = _different(part)
    titles = [base.metrics[place].title for place in places]
    head = ("run", titles[0], "wrong → right", "right → wrong", "p", "p (Holm)", *titles[1:])
    rows = []
    for run in part.runs:
        if (one := run.against) is None:
            continue
        first, *others = (
            _with_interval(value, part, signed=True) for value in (one.differences[place] for place in places)
        )
        p, p_holm = (_p_value(one.test.p_value if one.test else None), _p_value(one.p_holm))
        rows.append((run.run.name, first, str(len(one.fixed)), str(len(one.broken)), p, p_holm, *others))
    points = "In percentage points" if part.shares else "Differences"
    note = (
        f"{points} against {base.run.name}, with paired 95% bootstrap intervals; p by the exact McNemar test over rows "
        f"for {titles[0]}, and corrected by Holm's method for all tests of this report."
    )
    if part.grouped != "rows":
        note += f" The test takes rows as independent; the intervals keep {part.grouped} together."
    return Grid("against", "Against the baseline", note, head, tuple(rows))


def manner(part: SectionFigures) -> Grid:
    """Return how the answers look and what was done to them."""
    rows = []
    for run in part.runs:
        forms = {form.name: form for form in run.forms}
        total = len(run.rows)
        shown = [
            f"{percent(forms[name].rows / total)} ({_score(forms[name].accuracy, part)})" if name in forms else ABSENT
            for name in FORMS
        ]
        choice = percent(run.choice.accuracy, 2) if run.choice else ABSENT
        agrees = percent(run.choice.agrees) if run.choice else ABSENT
        steering = [percent(share) for share in (run.confidence, run.smoothed, run.sharpened)]
        rows.append((run.run.name, *shown, percent(run.unclear), choice, agrees, *steering))
    head = (
        "run", *FORMS, "unclear", "choice right", "choice said", "confidence", "smoothed", "sharpened",
    )  # fmt: skip
    note = (
        "Percent of the rows. One word, sentence (more than one word), empty: the form of the answer, and in brackets "
        "the accuracy of the answers with it. Unclear: names none or several of the options. Choice: the option with "
        "the highest probability at the first token, where these were recorded; how often it is right, and how often "
        "the answer names it. Smoothed, sharpened: steered with alpha below and above 1."
    )
    grid = Grid("manner", "Form of the answers, and steering", note, head, tuple(rows))
    return without_empty_columns(grid)


def origins(part: SectionFigures) -> Grid | None:
    """Return where the differences come from."""
    rows = [
        (
            run.run.name, origin.name, str(origin.rows), _score(origin.before, part), _score(origin.after, part),
            percent(origin.choice),
        )
        for run in part.runs
        if run.against
        for origin in run.against.origins
    ]  # fmt: skip
    note = (
        "The rows whose answer has another form than the baseline's, and the rows that were smoothed or sharpened: the "
        "accuracy of both runs in them. A gain with a change of form need not be a better choice: compare it with "
        "the choice among the options at the first token."
    )
    head = ("run", "rows", "number", "baseline", "this run", "choice among options")
    return without_empty_columns(Grid("origins", "Where a difference comes from", note, head, tuple(rows), texts=2))


def relations(part: SectionFigures) -> Grid | None:
    """Return the accuracy in each relation."""
    rows = [
        (relation.name, str(relation.rows), *(percent(run.relations[place].accuracy) for run in part.runs))
        for place, relation in enumerate(part.runs[0].relations)
    ]
    head = ("relation", "rows", *(run.run.name for run in part.runs))
    return Grid("relations", "Accuracy by relation", "Percent.", head, tuple(rows))


def options(part: SectionFigures) -> Grid | None:
    """Return how often each option is said against how often it is right."""
    tables = [run.confusion for run in part.runs if run.confusion]
    if not tables:
        return None
    total = len(part.section.asked)
    rows = []
    for place, name in enumerate(tables[0].said):
        right = sum(tables[0].counts[place]) if name in tables[0].right else None
        said = [percent(sum(row[place] for row in table.counts) / total) for table in tables]
        rows.append((name, percent(None if right is None else right / total), *said))
    head = ("option", "is right", *(run.run.name for run in part.runs))
    note = (
        "Percent of the rows: how often each option is right, and how often each run says it. A run without bias says "
        "each option about as often as it is right."
    )
    return Grid("options", "How often each option is said", note, head, tuple(rows))


def confusion(part: SectionFigures, run: RunFigures) -> Grid | None:
    """Return which option a run says where which one is right."""
    if (table := run.confusion) is None:
        return None
    rows = tuple((right, *map(str, counts)) for right, counts in zip(table.right, table.counts, strict=True))
    shades = tuple(tuple(count / max(1, sum(counts)) for count in counts) for counts in table.counts)
    place = part.runs.index(run)
    title = f"Confusion: {run.run.name}"
    return Grid(f"confusion-{place}", title, "Rows: what is right. Columns: what the answer names. Numbers of answers.",
                ("right", *table.said), rows, shades)  # fmt: skip


def markdown(parts: Sequence[SectionFigures], notes: Iterable[str]) -> str:
    """Return all tables as Markdown."""
    lines = ["# Comparison", "", *(f"- {plain_text(note)}" for note in notes)]
    for part in parts:
        lines += [
            "",
            f"## {plain_text(part.section.task)}",
            "",
            *(f"- {plain_text(note)}" for note in part.section.notes),
        ]
        for grid in grids(part):
            lines += ["", f"### {plain_text(grid.title)}", "", grid.note, ""]
            lines += table_lines(grid.head, grid.rows)
    return "\n".join(lines) + "\n"


def table_lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table as lines of Markdown; all columns but the first hold numbers."""
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *map(list, rows)]
    return ["| " + " | ".join(map(plain_text, line)) + " |" for line in lines]


def _different(part: SectionFigures) -> list[int]:
    """Return the places of the metrics, without other rules of accuracy that give what the first one gives."""
    others = ("strict_acc", "authors_acc")

    def figures(run: RunFigures, place: int) -> list[tuple[float, float, float]]:
        found = [run.metrics[place], *([run.against.differences[place]] if run.against else [])]
        return [(value.value, value.low, value.high) for value in found]

    return [
        place
        for place, value in enumerate(part.runs[0].metrics)
        if value.name not in others or any(figures(run, place) != figures(run, 0) for run in part.runs)
    ]


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share in percent."""
    return ABSENT if share is None or math.isnan(share) else f"{100 * share:.{digits}f}"


def _score(value: float, part: SectionFigures) -> str:
    return percent(value) if part.shares else f"{value:.3g}"


def _with_interval(value: Value, part: SectionFigures, signed: bool = False) -> str:
    scale, sign = 100 if part.shares else 1, "+" if signed else ""
    text = f"{scale * value.value:{sign}.2f}"
    return text if math.isnan(value.low) else f"{text} [{scale * value.low:.1f}, {scale * value.high:.1f}]"


def _p_value(p: float | None) -> str:
    return ABSENT if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def without_empty_columns(grid: Grid) -> Grid:
    """Return a table without the columns in which nothing stands."""
    kept = [i for i in range(len(grid.head)) if any(row[i] != ABSENT for row in grid.rows)]
    rows = tuple(tuple(row[i] for i in kept) for row in grid.rows)
    return replace(grid, head=tuple(grid.head[i] for i in kept), rows=rows)


def plain_text(text: str) -> str:
    """Return text that Markdown shows as it is, in one line; names come from files and folders of a user."""
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(text.split()))
    return "".join(f"\\{char}" if char in "\\`*[]<>|" else char for char in text)
