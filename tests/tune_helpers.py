"""Traces for the tests of `adaptvis tune`: files as a sweep writes them, with answers of a simulated model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptvis_plugin.traces import Header, Row, TraceFile
from tests.trace_files import begin

REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "traces"
OPTIONS = ("left", "right", "on", "under")
ALPHAS = (1.0, 0.5, 2.0)


def write_trace(path: Path, rows: Sequence[Row], total: int | None = None, **header: Any) -> Path:
    values = {
        "task": "whatsup_toy_val",
        "rows": total or len(rows),
        "scoring": "whatsup",
        "model": "some/model",
        "dtype": "float32",
        "prompt": "chat",
        "alphas": ALPHAS,
        "max_new_tokens": 16,
        **header,
    }
    file = TraceFile(path)
    begin(file, Header.model_validate(values))
    file.add(rows)
    return path


def simulated(
    sets: int = 40,
    evidence: Mapping[float, float] | None = None,
    bias: Sequence[float] | float = 0,
    options: Sequence[str] = OPTIONS,
    seed: int = 0,
) -> list[Row]:
    """Rows in sets, one for each option. A model that sees more of the right option under some coefficients.

    Args:
        sets: How many.
        evidence: Under each coefficient, what is added to the right option's logit; noise has a deviation of 1.
        bias: What is added to each option's logit, whatever is right.
        options: What is offered.
        seed: Of the noise.
    """
    evidence = evidence or {1.0: 1.0, 0.5: 1.0, 2.0: 1.0}
    random = np.random.default_rng(seed)
    rows = []
    for number in range(sets * len(options)):
        label = number % len(options)
        noise = {alpha: np.asarray(bias, float) + random.normal(size=len(options)) for alpha in evidence}
        if len(set(evidence.values())) == 1:
            noise = dict.fromkeys(evidence, noise[1.0])
        p = {}
        for alpha, amount in evidence.items():
            logits = noise[alpha] + amount * np.eye(len(options))[label]
            p[alpha] = np.exp(logits) / np.exp(logits).sum()
        rows.append(
            Row(
                doc_id=number,
                question=f"Where is the cup? Answer with {', '.join(options)}.",
                gold=options[label].capitalize(),
                set_id=number // len(options) if len(options) == 4 else None,
                pair_id=number // 2 if len(options) == 4 else None,
                confidence=float(p[1.0].max()),
                generations={alpha: options[int(one.argmax())].capitalize() for alpha, one in p.items()},
                options={alpha: dict(zip(options, one.tolist(), strict=True)) for alpha, one in p.items()},
            )
        )
    return rows
