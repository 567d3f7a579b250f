"""All that decides an answer of this plugin's models, for the key of lmms-eval's response cache (`--use_cache`).

The cache itself goes by the model's name and arguments as they were typed, the task's configuration, the number of the
document and its question. An edited preset, another checkpoint in the same folder, or other pictures change none of
them, and the answers of before would be served.
"""

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
import transformers
from lmms_eval.api.instance import Instance
from lmms_eval.caching.response_cache import ResponseCache

from adaptvis_plugin.models.identity import code_identity
from adaptvis_plugin.models.runner import Runner

if TYPE_CHECKING:
    from adaptvis_plugin.lmms_eval.models import SteeredModel

Execute = Callable[..., list[Any]]


def complete_keys() -> None:
    """Complete the cache's keys for this plugin's models. **Changes lmms-eval in this process**, for no other model."""
    if not hasattr(ResponseCache.execute, "adaptvis"):
        ResponseCache.execute = _with_complete_keys(ResponseCache.execute)


def _with_complete_keys(execute: Execute) -> Execute:
    @functools.wraps(execute)
    def completed(cache: Any, lm: Any, kind: str, requests: list[Instance]) -> list[Any]:
        if isinstance(getattr(lm, "runner", None), Runner):
            _complete(cache, lm, requests)
        return execute(cache, lm, kind, requests)

    completed.adaptvis = True  # type: ignore[attr-defined]  # tells `complete_keys` that it was here
    return completed


def _complete(cache: Any, lm: "SteeredModel", requests: list[Instance]) -> None:
    if not isinstance(getattr(cache, "_task_fingerprints", None), dict):
        raise ValueError(
            "--use_cache: this version of lmms-eval makes the keys of its response cache in a way this plugin does not "
            "know, and would serve answers of other settings. Leave it out, or use lmms-eval 0.7.3"
        )
    given = vars(cache).setdefault("adaptvis_given", dict(cache._task_fingerprints))
    model = _of_model(lm)
    for task in {request.task_name for request in requests}:
        method: Any = lm.runner.setup.choose(task)
        decisive = {**model, "method": asdict(method), "documents": _of_documents(lm, task)}
        text = f"{given.get(task, '')}|{json.dumps(decisive, sort_keys=True, default=str)}"
        cache._task_fingerprints[task] = hashlib.sha256(text.encode()).hexdigest()[:16]


def _of_model(lm: "SteeredModel") -> dict[str, Any]:
    setup, model = lm.runner.setup, lm.runner.model
    return {
        "code": code_identity(),
        "libraries": [torch.__version__, transformers.__version__],
        "checkpoint": lm.runner.checkpoint or getattr(model.config, "_commit_hash", None),
        "prompt": setup.prompt,
        # As they turned out: the device may be given beside the model's arguments, and `auto` may mean anything.
        "computed": [model.dtype, model.device.type, model.config._attn_implementation],
    }


def _of_documents(lm: "SteeredModel", task: str) -> str:
    """What the rows hold that the question does not say, where they name their pictures as this plugin's tables do."""
    digest = hashlib.sha256()
    for split, documents in sorted(lm.task_dict[task].items()):
        for column in ("image_id", "prompt"):
            if column in (getattr(documents, "column_names", None) or ()):
                digest.update(f"{split} {column} {list(documents[column])}".encode())
    return digest.hexdigest()
