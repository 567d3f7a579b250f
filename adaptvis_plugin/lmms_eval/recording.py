"""A task of lmms-eval as the rows of a trace: what was asked, what is right, and what the task's own metrics say."""

import hashlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

import datasets
import numpy as np
from lmms_eval.api.instance import Instance
from lmms_eval.api.reasoning import parse_reasoning_tags_config, strip_reasoning_tags
from loguru import logger
from PIL import Image

from adaptvis_plugin.data.dataset import Scoring
from adaptvis_plugin.data.registry import scoring_of
from adaptvis_plugin.lmms_eval.cache import documents_digest
from adaptvis_plugin.models.answers import Prompt
from adaptvis_plugin.models.asked import AskedModel
from adaptvis_plugin.models.identity import code_identity
from adaptvis_plugin.traces import Header, Row, TraceError, TraceFile

REASONING_TAGS = '[["<think>", "</think>"], ["<analysis>", "</analysis>"]]'
"""What lmms-eval's command strips from answers before it scores them, unless the task or its user says otherwise."""

DOCUMENTS = 256
"""Documents that are kept for the next look: each is looked at several times."""

T = TypeVar("T")


class RecordedTask:
    """A task of lmms-eval.

    Args:
        task: Its object in lmms-eval.
    """

    def __init__(self, task: Any) -> None:
        self.name: str = task.config.task
        self._task = task
        self._rows = len(task.eval_docs_no_media)
        self._document = lru_cache(maxsize=DOCUMENTS)(task.eval_docs_no_media.__getitem__)
        metadata = task.config.metadata
        self._table: str | None = metadata.get("table") if isinstance(metadata, Mapping) else None
        stored = task.eval_docs
        if isinstance(stored, datasets.Dataset):
            # In this form pictures are the bytes of their files, which need not be decoded to be compared.
            rows = stored.with_format("arrow")
            self._stored: Callable[[int], Any] = lambda row: rows[row].to_pylist()[0]
        else:
            self._stored = stored.__getitem__
        self._told_of_failure = False

    @classmethod
    def of(cls, request: Instance) -> "RecordedTask":
        """Return the task that a request belongs to.

        lmms-eval gives a model the documents of its tasks, but not the tasks. A request holds one all the same: its
        function for the messages is a method of it.

        Raises:
            ValueError: If it is not.
        """
        task = getattr(request.args[1], "__self__", None)
        if not hasattr(task, "process_results"):
            raise ValueError(
                f"task {request.task_name!r} makes its messages in a way of its own, so that its answers cannot be "
                "recorded with what is right; leave trace out"
            )
        return cls(task)

    @property
    def scoring(self) -> Scoring | None:
        """How this package judges its answers; None for a task that is not of its data sets' form."""
        return None if self._table is None else scoring_of(self._table)

    def header(self, runner: AskedModel, options: Mapping[str, Any], **of_run: Any) -> Header:
        """Return the header of its trace.

        Args:
            runner: The model.
            options: The options of the decoding; see `generation_options`.
            **of_run: The fields that differ between a sweep and an ordinary run.
        """
        return Header(
            task=self.name,
            task_version=str(self._task.VERSION),
            rows=self._rows,
            data=documents_digest(self._task.dataset) if self._table else None,
            scoring=self.scoring,
            model=runner.arguments.pretrained,
            revision=runner.revision,
            dtype=runner.dtype,
            prompt=runner.arguments.prompt,
            max_new_tokens=options["max_new_tokens"],
            generation={n: v for n, v in {**options, **runner.decisive}.items() if n != "max_new_tokens"},
            code=code_identity(runner.code),
            packages={
                "adaptvis-plugin": version("adaptvis-plugin"),
                **runner.versions,
                "lmms-eval": version("lmms-eval"),
            },
            **of_run,
        )

    def asked(self, request: Instance) -> str:
        """Return a digest of what a request asks: its text, and what identifies its pictures.

        In this package's data sets, `image_id` is a hash of the picture. What decides the messages of another task is
        not known, so there all of the document counts.
        """
        if self._table:
            own = self._document(request.doc_id)
            document: Any = [own["prompt"], own["image_id"]]
        else:
            document = self._stored(request.doc_id)
        digest = hashlib.sha256()
        _update(digest, [str(request.args[0]), document])
        return digest.hexdigest()[:16]

    def facts(self, request: Instance) -> dict[str, Any]:
        """Return the fields of a row that come from its document."""
        document = self._document(request.doc_id)
        image = document.get("image_id")
        kinds: dict[str, type] = {"relation": str, "set_id": int, "pair_id": int}
        known = {name: document.get(name) for name in kinds}
        target = self._ask(request, self._task.doc_to_target)
        return {
            "doc_id": request.doc_id,
            "asked": self.asked(request),
            "gold": target if isinstance(target, str) else str(target),
            "image": None if image is None else str(image),
            **{name: value for name, value in known.items() if isinstance(value, kinds[name])},
        }

    def scores(self, request: Instance, answer: str) -> dict[str, float]:
        """Return what the task's metrics say about an answer, where that is a number, or has a number as its `score`.

        A metric that fails must not cost the answers, so then there are none.
        """
        try:
            return self._ask(request, lambda document: self._scores(document, answer))
        except Exception:
            if not self._told_of_failure:
                self._told_of_failure = True
                logger.exception(
                    f"{self.name}: its metrics fail for document {request.doc_id}, and are left out of the rows for "
                    "which they do; the answers are not affected."
                )
            return {}

    def _ask(self, request: Instance, question: Callable[[Any], T]) -> T:
        """Ask the task about a document, and decode the document's pictures only if the answer needs them."""
        try:
            return question(self._document(request.doc_id))
        except KeyError:
            return question(self._task.eval_docs[request.doc_id])

    def _scores(self, document: Any, answer: str) -> dict[str, float]:
        # Not what lmms-eval wraps around it: after an error, that waits and tries again for eight seconds.
        score = inspect.unwrap(type(self._task).process_results)
        tags = parse_reasoning_tags_config(REASONING_TAGS, self._task.config.reasoning_tags)
        found: dict[str, float] = {}
        for ensemble in self._task._filters:
            answers: Any = [[answer]]
            for step in ensemble.filters:
                answers = step.apply(answers, [document])
            (filtered,) = answers
            if tags and isinstance(filtered, str):
                filtered = strip_reasoning_tags(filtered, tags)
            for name, value in score(self._task, document, [filtered]).items():
                if (number := _number(value)) is not None:
                    found[f"{name},{ensemble.name}" if name in found else name] = number
        return found


class TaskTrace(Generic[T]):
    """The trace of a task: what has been answered already, and what is added.

    Args:
        path: The file.
        task: The task.
        header: See `RecordedTask.header`.
        keep: What to remember of each row that is there; whole rows would fill the memory.

    Raises:
        TraceError: See `TraceFile.resume`.
    """

    def __init__(self, path: Path, task: RecordedTask, header: Header, keep: Callable[[Row], T]) -> None:
        self.task = task
        self.header = header
        self.path = path
        self._file = TraceFile(path)
        self._there = {row.doc_id: (row.asked, keep(row)) for row in self._file.resume(header)}

    def answered(self, request: Instance) -> T | None:
        """Return what is kept of a request's row, or None if it has to be answered.

        Raises:
            TraceError: If the row was asked something else.
        """
        if request.doc_id not in self._there:
            return None
        asked, kept = self._there[request.doc_id]
        if asked != self.task.asked(request):
            raise TraceError(
                f"{self.path}: document {request.doc_id} of {self.task.name} was asked something else when it was "
                "answered: its question or its picture has changed since. Use another folder, or delete the file"
            )
        return kept

    def row(self, request: Instance, prompt: Prompt, **found: Any) -> Row:
        """Return the row of an answered request."""
        return Row(question=prompt.text, **self.task.facts(request), **found)

    def add(self, rows: Sequence[tuple[Instance, Row]]) -> None:
        """Append rows; those of padding are left out, and those that are there.

        lmms-eval asks again where a task wants several answers, and where another process has more rows than this one.
        """
        self._file.add(row for request, row in rows if not is_padding(request))


def add_rows(traces: Mapping[str, TaskTrace[Any]], rows: Iterable[tuple[Instance, Row]]) -> None:
    """Append the rows of a batch, which may be of several tasks, to the traces of these; one write for each."""
    by_task: dict[str, list[tuple[Instance, Row]]] = {}
    for request, row in rows:
        by_task.setdefault(request.task_name, []).append((request, row))
    for name, own in by_task.items():
        traces[name].add(own)


def is_padding(request: Instance) -> bool:
    """Return whether a request only keeps this process as busy as the others; its row is another one's."""
    return bool((request.metadata or {}).get("__padding_only__"))


def _number(value: Any) -> float | None:
    if isinstance(value, Mapping):
        value = value.get("score")
    if isinstance(value, np.generic):
        value = value.item()
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _update(digest: Any, value: Any) -> None:
    """Add a value of a document to a digest, with where it begins and ends. An image counts by its content."""
    if isinstance(value, Mapping) and {*value} == {"bytes", "path"}:
        value = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
    elif isinstance(value, Image.Image):
        value = [value.mode, value.size, value.tobytes()]
    parts: Iterable[Any] = ()
    if isinstance(value, Mapping):
        parts = [part for item in value.items() for part in item]
    elif isinstance(value, (list, tuple)):
        parts = value
    else:
        content = value if isinstance(value, bytes) else repr(value).encode()
        digest.update(f"{len(content)}:".encode() + content)
        return
    digest.update(f"[{len(parts)}".encode())
    for part in parts:
        _update(digest, part)
