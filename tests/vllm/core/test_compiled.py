"""An engine that compiles its model calls the same backend; only the default, `enforce_eager=False`, does that."""

from pathlib import Path

import pytest
import torch

from adaptvis_plugin.models.runner import Runner
from tests.vllm.core.engines import check, engine, rows


def test_it_answers_as_an_eager_one(runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    asks = [row.under(alpha) for row, alpha in zip(rows(runner, 4), (0, 0.5, 1, 2), strict=True)]
    with torch._dynamo.config.patch(disable=False), engine(enforce_eager=False) as llm:
        assert llm.llm_engine.vllm_config.compilation_config.mode > 0
        check(runner, llm, asks)
        check(runner, llm, [asks[0].under(3, layers="1-2"), asks[1].under(3, heads="L0H1"), *asks[2:]])
