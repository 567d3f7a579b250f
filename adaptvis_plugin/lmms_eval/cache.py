"""Complete keys for lmms-eval's response cache (`--use_cache`): everything that decides an answer of our models.

lmms-eval's own key holds the model's name and arguments as typed, the task's configuration, the document's number and
its question. It stays the same when a preset is edited, when the folder holds another checkpoint, or when the pictures
are others, and the cache would serve the old answers.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.caching.response_cache import ResponseCache

from adaptvis_plugin.models.asked import AskedModel
from adaptvis_plugin.models.identity import code_identity

Execute = Callable[..., list[Any]]
Documents = Mapping[str, Any]
"""A task's rows by split."""


def complete_keys() -> None:
    """Complete the cache's keys for this plugin's models. **Changes lmms-eval in this process**, for no other model."""
    if not hasattr(ResponseCache.execute, "adaptvis"):
        ResponseCache.execute = _with_complete_keys(ResponseCache.execute)


def _with_complete_keys(execute: Execute) -> Execute:
    @functools.wraps(execute)
    def completed(cache: Any, lm: Any, kind: str, requests: list[Instance]) -> list[Any]:
        if getattr(lm, "answers_from_a_trace", False):  # which may be another one than when its answers were cached
            found: list[Any] = getattr(lm, kind)(requests)
            return found
        runner = getattr(lm, "runner", None)
        if isinstance(runner, AskedModel):
            _complete(cache, runner, {task: lm.task_dict[task] for task in {r.task_name for r in requests}})
        return execute(cache, lm, kind, requests)

    completed.adaptvis = True  # type: ignore[attr-defined]  # tells `complete_keys` that it was here
    return completed


def _complete(cache: Any, runner: AskedModel, tasks: Mapping[str, Documents]) -> None:
    if not isinstance(getattr(cache, "_task_fingerprints", None), dict):
        raise ValueError(
            "--use_cache: this version of lmms-eval builds the keys of its response cache in a way that this plugin "
            "does not know, and could serve answers of other settings. Leave it out, or use lmms-eval 0.7.3"
        )
    given = vars(cache).setdefault("adaptvis_given", dict(cache._task_fingerprints))
    model = _of_model(runner)
    for task, documents in tasks.items():
        method: Any = runner.arguments.choose(task)
        decisive = {**model, "method": asdict(method), "documents": documents_digest(documents)}
        text = f"{given.get(task, '')}|{json.dumps(decisive, sort_keys=True, default=str)}"
        cache._task_fingerprints[task] = hashlib.sha256(text.encode()).hexdigest()[:16]


def _of_model(runner: AskedModel) -> dict[str, Any]:
    return {
        "code": code_identity(runner.code),
        "libraries": list(runner.versions.values()),
        "checkpoint": runner.revision,
        "prompt": runner.arguments.prompt,
        "computed": [*runner.computed, *runner.decisive.items()],
    }


def documents_digest(documents: Documents) -> str:
    """Return a digest of what decides an answer besides the question: the picture and the prompt, if rows name them."""
    digest = hashlib.sha256()
    for split, rows in sorted(documents.items()):
        for column in ("image_id", "prompt"):
            if column in (getattr(rows, "column_names", None) or ()):
                digest.update(f"{split} {column} {list(rows[column])}".encode())
    return digest.hexdigest()
