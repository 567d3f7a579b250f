"""Traces as the tools read them: checked, in the order of the rows, with what a tool may rely on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from adaptvis_plugin.data.questions import object_key
from adaptvis_plugin.methods import METHODS, neutral_strength
from adaptvis_plugin.traces.schema import FORMAT, Header, Row, Sweep, group_of

RECORDED = Sweep()
"""What the recorded runs without a header varied."""

_OPPOSITES = ({"left", "right"}, {"on", "under"}, {"front", "behind"})


class TraceError(ValueError):
    """A file is not a usable trace. The message says which, why, and what to do."""


@dataclass(frozen=True)
class Trace:
    """A trace that was read and checked.

    Attributes:
        path: The file.
        header: What decides its answers; None for recorded runs in the form without a header.
        rows: Its rows by `doc_id`, which every row has here.
        torn: Whether its last line was incomplete, and so left out.
    """

    path: Path
    header: Header | None
    rows: tuple[Row, ...]
    torn: bool = False

    @property
    def name(self) -> str:
        """What to call it in reports: the task or, without a header, the file's name."""
        return self.header.task if self.header else self.path.stem

    @property
    def alphas(self) -> tuple[float, ...]:
        """The coefficients that every row has an answer for, `plain` first; empty for a trace of an ordinary run."""
        if self.header:
            return self.header.alphas
        others = sorted(set(self.rows[0].generations) - {self.plain})
        return (self.plain, *others)

    @property
    def sweep(self) -> Sweep:
        """What was varied. An ordinary run varied nothing; only a sweep is asked."""
        return self.header.sweep if self.header else RECORDED

    @property
    def plain(self) -> float:
        """The coefficient of the unsteered model's answers; of an ordinary run the neutral strength of its method."""
        if self.header and not self.header.alphas and self.header.method in METHODS:
            neutral = neutral_strength(self.header.method)
            return Sweep.plain if neutral is None else neutral
        return self.sweep.plain

    @property
    def partial(self) -> str | None:
        """How much of the task the trace covers, if that is not all of it: `120 of 400 rows`."""
        if self.header and len(self.rows) < self.header.rows:
            return f"{len(self.rows)} of {self.header.rows} rows"
        return f"{len(self.rows)} rows and an incomplete line" if self.torn else None

    @property
    def scoring(self) -> str | None:
        """How the answers are judged: `whatsup`, `vsr`, or None for a task with metrics of its own."""
        if self.header:
            return self.header.scoring
        return "vsr" if {row.gold.lower() for row in self.rows} <= {"yes", "no"} else "whatsup"

    @property
    def groups(self) -> list[str]:
        """The group of each row; see `group_of`.

        Whole groups go into one fold, and whole groups are drawn in a bootstrap.
        """
        return [group_of(row.doc_id, row.set_id, row.image) for row in self.rows]


def read_traces(paths: Iterable[Path | str]) -> list[Trace]:
    """Read traces of sweeps and of ordinary runs.

    Args:
        paths: Files, or folders whose `*.jsonl` files are read.

    Raises:
        TraceError: If there is none, or one is not usable.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            if not (found := sorted(path.glob("*.jsonl"))):
                raise TraceError(
                    f"{path} holds no trace: a trace is a file NAME.jsonl, as `adaptvis sweep -o` writes it"
                )
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise TraceError(f"{path}: there is no such file or folder")
    if not files:
        raise TraceError("no trace was given: name files or folders that `adaptvis sweep -o` wrote")
    if len(set(files)) < len(files):
        twice = next(path for path in files if files.count(path) > 1)
        raise TraceError(f"{twice} is given twice")
    return [read_trace(path) for path in files]


def read_trace(path: Path) -> Trace:
    """Read one trace.

    Raises:
        TraceError: If it is not usable: not a trace, no rows, a row twice, or a row without one of the coefficients.
    """
    header, rows, torn = parse(path)
    if not rows:
        raise TraceError(f"{path} holds no rows{'; its run has only begun' if header else ''}")
    if header is None:
        rows = _with_sets([row.model_copy(update={"doc_id": number}) for number, row in enumerate(rows)])
    seen: set[int] = set()
    for row in rows:
        if row.doc_id is None:
            raise TraceError(f"{path}: a row has no doc_id; every row below a header has one")
        if row.doc_id in seen:
            raise TraceError(f"{path}: document {row.doc_id} is there twice; the file was joined or edited")
        seen.add(row.doc_id)
    if header is None and RECORDED.plain not in rows[0].generations:
        raise TraceError(f"{path}: it has no answers of the unsteered model (alpha {RECORDED.plain})")
    trace = Trace(path, header, tuple(sorted(rows, key=lambda row: row.doc_id or 0)), torn)
    for row in trace.rows:
        if lacking := [alpha for alpha in trace.alphas if alpha not in row.generations]:
            raise TraceError(
                f"{path}: document {row.doc_id} has no answer under {trace.sweep.strength} {lacking[0]:g}; others have"
            )
    return trace


def parse(path: Path) -> tuple[Header | None, list[Row], bool]:
    """Return a file's header and rows as they stand, and whether its last line is incomplete and was left out.

    Raises:
        TraceError: If a line is not of a trace.
    """
    found = list(scan(path))
    header = found[0] if found and isinstance(found[0], Header) else None
    return header, [row for row in found if isinstance(row, Row)], found[-1:] == [None]


def scan(path: Path) -> Iterator[Header | Row | None]:
    """Yield what a file's lines hold, one at a time: the header if it has one, the rows, None for an incomplete line.

    Raises:
        TraceError: If a line is not of a trace.
    """
    try:
        # In no other way would a line end only where a trace ends it.
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                # A file that another program wrote may lack the last newline, and its last line is still a row.
                if not line.endswith("\n") and not _is_json(line):
                    yield None
                else:
                    yield _parsed(path, number, line)
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path} cannot be read: {error}") from error


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _parsed(path: Path, number: int, line: str) -> Header | Row:
    try:
        if number == 1 and "adaptvis_trace" in (first := json.loads(line)):
            if first["adaptvis_trace"] != FORMAT:
                raise TraceError(
                    f"{path}: a trace in form {first['adaptvis_trace']!r}; this version reads form {FORMAT}"
                )
            return Header.model_validate(first)
        return Row.model_validate_json(line)
    except ValidationError as error:
        one = error.errors()[0]
        place = ".".join(map(str, one["loc"])) or "the line"
        raise TraceError(f"{path}, line {number}, is not a row of a trace: {place}: {one['msg']}") from None
    except (json.JSONDecodeError, TypeError) as error:
        raise TraceError(f"{path}, line {number}, is not a row of a trace: {error}") from None


def _with_sets(rows: Sequence[Row]) -> list[Row]:
    """Give the rows of a recorded run the sets and pairs that their questions show, if all of them form sets.

    The questions of a set differ only in spacing and in the right answer. Rows that merely ask the same, as in the
    photos of COCO, are no set, but belong together all the same: they share the mark `image`.
    """
    keys = [object_key(row.question) for row in rows]
    number = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    answers: dict[str, list[str]] = {}
    for key, row in zip(keys, rows, strict=True):
        answers.setdefault(key, []).append(row.gold.lower())
    options = [{*row.options.get(RECORDED.plain, {})} for row in rows]
    sets = all(len(set(golds)) == len(golds) <= 4 for golds in answers.values()) and all(len(o) <= 4 for o in options)
    if not sets or max(map(len, answers.values())) < 2:
        return [
            row.model_copy(update={"image": f"question {number[key]}"}) for key, row in zip(keys, rows, strict=True)
        ]
    pairs = [next((i for i, two in enumerate(_OPPOSITES) if row.gold.lower() in two), None) for row in rows]
    return [
        row.model_copy(
            update={"set_id": number[key], "pair_id": None if pair is None else len(_OPPOSITES) * number[key] + pair}
        )
        for key, row, pair in zip(keys, rows, pairs, strict=True)
    ]
