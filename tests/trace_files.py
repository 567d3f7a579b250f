"""Traces for the tests, written by the package's own writer: a sweep over the demo scenes with chosen answers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adaptvis_plugin.data import load_table
from adaptvis_plugin.traces import Header, Row, TraceFile

ALPHAS = (1.0, 0.5, 1.5)


def begin(file: TraceFile, header: Header) -> dict[int | None, Row]:
    """Create the file if it is not there, and return the rows that are answered already."""
    return {row.doc_id: row for row in file.resume(header)}


def write_sweep(
    path: Path,
    answers: Callable[[Mapping[str, Any], float], str],
    rows: int = 40,
    task: str = "whatsup_demo",
    **header: Any,
) -> Path:
    """Write a sweep over the first demo scenes.

    Args:
        path: The file.
        answers: What is answered in a row of the table under a coefficient.
        rows: How many rows.
        task: The task's name.
        **header: Other values of the header.
    """
    table = load_table("demo")
    about = {"rows": 400, "scoring": "whatsup", "model": "demo", "dtype": "float32", "prompt": "paper",
             "alphas": ALPHAS, "max_new_tokens": 100}  # fmt: skip
    trace = TraceFile(path)
    begin(trace, Header(task=task, **{**about, **header}))
    trace.add(
        Row(
            doc_id=number,
            question=doc["prompt"],
            gold=doc["answer"],
            relation=doc["relation"],
            set_id=doc["set_id"],
            pair_id=doc["pair_id"],
            image=doc["image_id"],
            confidence=0.3 if number % 2 else 0.8,
            generations={alpha: answers(doc, alpha) for alpha in ALPHAS},
            options={alpha: {"left": 0.4, "right": 0.3, "on": 0.2, "under": 0.1} for alpha in ALPHAS},
        )
        for number, doc in zip(range(rows), table, strict=False)
    )
    return path
