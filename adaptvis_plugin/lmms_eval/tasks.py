"""What the task YAML of WhatsUp and VSR cannot say itself.

A task's YAML names its table in a one-line data file (`tables/<name>.json`). lmms-eval reads that file through
`datasets`, and the `*_rows` functions (`process_docs`) replace it with the table. So the tasks work with every model of
lmms-eval, chat or simple, and `adaptvis_plugin.data` fetches, verifies and caches the data.

Metrics are sent through lmms-eval as one item per row. An item with a ``score`` takes part in the framework's
standard errors, which ``set_id`` clusters.

The metric ``score`` is the accuracy once more, as a bare number, which lmms-eval's paired test (``--baseline``) and its
count of tokens per right answer look for. The first metric's item also says which row of the data it is (``row``),
because lmms-eval leaves the document out of its samples.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from math import nan
from typing import TYPE_CHECKING, Any, cast

from loguru import logger

from adaptvis_plugin.data import DataError, load_table
from adaptvis_plugin.data.dataset import Scoring
from adaptvis_plugin.data.questions import with_whole_prompt
from adaptvis_plugin.data.registry import scoring_of
from adaptvis_plugin.images import to_rgb
from adaptvis_plugin.scoring import vsr, whatsup

if TYPE_CHECKING:
    import datasets
    from PIL import Image

ROW_FACTS = ("id", "relation", "options", "set_id", "pair_id", "image_id")
"""The columns of the table that every sample repeats."""

Doc = Mapping[str, Any]
Item = dict[str, Any]
Aggregation = Callable[[Sequence[Item]], "float | None"]


def all_rows(docs: datasets.Dataset) -> datasets.Dataset:
    """Return every row of the table that the task names (`process_docs`)."""
    return _rows(docs, None)


def val_rows(docs: datasets.Dataset) -> datasets.Dataset:
    """Return the rows of the authors' validation split (`process_docs`)."""
    return _rows(docs, "val")


def test_rows(docs: datasets.Dataset) -> datasets.Dataset:
    """Return the rows of the authors' test split (`process_docs`)."""
    return _rows(docs, "test")


def _rows(docs: datasets.Dataset, split: str | None) -> datasets.Dataset:
    name = docs["table"][0]
    table = load_table(name)
    _check_labels(name, table)
    # Each relation is a metric, and a row needs an item for all of them.
    relations = sorted(set(table["relation"]))
    table = table.add_column("relations", [relations] * len(table))
    return table if split is None else table.select([i for i, s in enumerate(table["split"]) if s == split])


def _check_labels(name: str, table: datasets.Dataset) -> None:
    """Judge an answer to every label now: a label that cannot be judged would end the run after its last answer."""
    scoring = scoring_of(name)
    try:
        for answer in sorted(set(table["answer"])):
            vsr.is_true(answer) if scoring == "vsr" else whatsup.judge({"answer": answer, "generation": ""}, "strict")
        for relation in sorted(set(table["relation"])) if scoring == "vsr" else ():
            vsr.category(relation)
    except ValueError as error:
        raise DataError(f"{name} holds a label that cannot be scored: {error}") from error


def doc_to_visual(doc: Doc) -> list[Image.Image]:
    """Return the picture, as RGB."""
    return [to_rgb(doc["image"])]


def doc_to_text(doc: Doc) -> str:
    """Return the bare question."""
    return str(doc["question"])


def doc_to_messages(doc: Doc) -> list[dict[str, Any]]:
    """Return one user turn: the picture, then the question, which carries the paper's whole prompt."""
    question = with_whole_prompt({"type": "text", "text": doc_to_text(doc)}, doc["prompt"])
    return [{"role": "user", "content": [{"type": "image", "url": doc_to_visual(doc)[0]}, question]}]


def whatsup_results(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """Return the items of every WhatsUp metric (`process_results`); a task lists the metrics it has."""
    row = {**doc, "generation": results[0]}
    outcome = whatsup.judge(row)
    score: Item = {"score": float(outcome["correct"]), "set_id": doc["set_id"]}
    items: dict[str, Any] = {
        "individual_acc": {**score, "row": _facts("whatsup", doc)},
        "strict_acc": {**score, "score": float(whatsup.judge(row, "strict")["correct"])},
    }
    if doc["pair_id"] is not None:
        items |= {"pair_acc": {**outcome}, "set_acc": {**outcome}}
    # Every metric gets an item for every row: lmms-eval takes the number of rows from the last metric.
    items |= {f"rel_{name}": score if name == doc["relation"] else {} for name in doc["relations"]}
    return items | {"score": score["score"]}


def vsr_results(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """Return the items of every VSR metric (`process_results`)."""
    row: Item = {"answer": doc["answer"], "relation": doc["relation"], "generation": results[0]}
    score: Item = {"score": float(vsr.is_correct(row))}
    return {
        "accuracy": {**score, "row": _facts("vsr", doc)},
        "authors_acc": {"score": float(vsr.is_correct_authors(row))},
        "neither": {"score": float(vsr.yes_or_no(results[0]) is None)},
        **dict.fromkeys(("precision", "recall", "standard_f1", "authors_f1"), row),
        **{f"cat_{name}": score if name == vsr.category(doc["relation"]) else {} for name in vsr.CATEGORIES},
        **{f"rel[{name}]": score if name == doc["relation"] else {} for name in doc["relations"]},
        "score": score["score"],
    }


def _facts(scoring: Scoring, doc: Doc) -> Item:
    return {"scoring": scoring, **{name: doc[name] for name in ROW_FACTS}}


def _never_fatal(aggregate: Aggregation) -> Aggregation:
    """Make an aggregation return NaN and log an error where it would raise.

    lmms-eval writes the answers after the aggregation: one that raises would lose all of them.
    """

    @functools.wraps(aggregate)
    def summed(items: Sequence[Item]) -> float | None:
        try:
            return aggregate(items)
        except Exception:
            logger.exception(
                f"{aggregate.__name__} failed and is NaN; the answers and the other metrics are not affected."
            )
            return nan

    return summed


@_never_fatal
def mean_score(items: Sequence[Item | float]) -> float | None:
    """Return the mean over the items that are or have a score; None if there are none (shown as N/A)."""
    scores = [item["score"] if isinstance(item, dict) else item for item in items if item != {}]
    return sum(scores) / len(scores) if scores else None


@_never_fatal
def pair_accuracy(items: Sequence[Item]) -> float:
    """Return the number of pairs answered right, over n/2. **Changes the items**; see `_group_accuracy`."""
    return _group_accuracy(items, "pair_id")


@_never_fatal
def set_accuracy(items: Sequence[Item]) -> float:
    """Return the number of sets answered right, over n/4. **Changes the items**; see `_group_accuracy`."""
    return _group_accuracy(items, "set_id")


def _group_accuracy(items: Sequence[Item], by: whatsup.Group) -> float:
    """Return the authors' group accuracy, and give the first item of each complete group a score.

    lmms-eval computes standard errors from the items' scores after the aggregation. A score for each row would turn
    n/2 pairs into n independent observations. The scores are scaled so that their mean is the metric even if the split
    has broken groups.
    """
    judged = cast("Sequence[whatsup.Outcome]", items)
    groups = whatsup.whole_groups(judged, by)
    scale = len(groups) * whatsup.GROUP_SIZES[by] / len(items)
    for members in groups.values():
        cast(Item, members[0])["score"] = scale * all(member["correct"] for member in members)
    return whatsup.group_accuracy(judged, by, "authors")


def _vsr_score(metric: str) -> Aggregation:
    def aggregate(items: Sequence[Item]) -> float:
        return float(vsr.score(items)[metric])  # type: ignore[literal-required]

    aggregate.__name__ = metric
    return _never_fatal(aggregate)


vsr_precision = _vsr_score("precision")
vsr_recall = _vsr_score("recall")
vsr_standard_f1 = _vsr_score("standard_f1")
vsr_authors_f1 = _vsr_score("authors_f1")
