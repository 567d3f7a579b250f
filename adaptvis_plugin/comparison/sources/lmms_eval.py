"""Runs of lmms-eval: `DATE_results.json` with the scores, and `DATE_samples_TASK.jsonl` with the rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adaptvis_plugin.analysis.metrics import Scoring
from adaptvis_plugin.comparison.runs import ComparisonError, Run, described, frame, read_json, read_lines
from adaptvis_plugin.comparison.scores import Failure, Score
from adaptvis_plugin.comparison.sources.facts import of_this_package, table_name
from adaptvis_plugin.data.splits import whole_task
from adaptvis_plugin.lmms_eval.plugin import ENGINE, FAMILIES, REPLAY, model_names
from adaptvis_plugin.lmms_eval.results import RESULTS, Maker, maker_of, results_of, samples_of, task_of
from adaptvis_plugin.traces import Header, TraceError
from adaptvis_plugin.traces.reading import scan
from adaptvis_plugin.vllm.options import SPEED

NO_SETTINGS = {"pretrained", "batch_size", "device", "device_map", "attn_implementation", *SPEED}
"""Model arguments that do not tell two models of a board apart."""

NO_SCORES = {"doc_id", "target", "filtered_resps", "resps", "token_counts", "doc_hash", "input"}
"""What stands in a sample beside its task's metrics."""


def read_results(path: Path) -> list[Run]:
    """Return the runs of a results file, one for each task.

    Raises:
        ComparisonError: If the file, or the samples of all of its tasks, cannot be used.
    """
    content = read_json(path)
    tasks = results_of(content)
    if not tasks:
        raise ComparisonError(f"{path} names no task, so it is not a results file of lmms-eval")
    there = [samples for task in tasks if (samples := samples_of(path, task)).is_file()]
    if not there:
        raise ComparisonError(
            f"{path} has scores, but the answers are not beside it ({samples_of(path, next(iter(tasks))).name}): run "
            "lmms-eval with --log_samples"
        )
    return [read_samples(samples, content) for samples in there]


def read_samples(path: Path, content: Mapping[str, Any] | None = None) -> Run:
    """Return the run of a samples file.

    Args:
        path: The file.
        content: The content of its results file; None to look for it beside the samples.

    Raises:
        ComparisonError: If it is not usable.
    """
    task = task_of(path)
    if content is None:
        results = path.with_name(path.name.partition("_samples_")[0] + RESULTS)
        content = read_json(results) if results.is_file() else {}
    config = content.get("configs", {}).get(task, {})
    samples = read_lines(path)
    if samples and not {"doc_id", "filtered_resps"} <= samples[0].keys():
        raise ComparisonError(f"{path} is not a samples file of lmms-eval: its rows have no doc_id and filtered_resps")
    scoring = _scoring(path, task, samples)
    maker = maker_of(content)
    metadata = config.get("metadata")  # a mapping, but in some of lmms-eval's own tasks a list of them
    method, settings, facts = _made_with(maker, task)
    limits = {"max_new_tokens": (config.get("generation_kwargs") or {}).get("max_new_tokens")}
    data = {"task version": content.get("versions", {}).get(task), "date": content.get("date")}
    return Run(
        name=maker.name or path.parent.name,
        source=path,
        framework="lmms-eval",
        task=task,
        numbering=whole_task(task)[0] if scoring else task,
        scoring=scoring,
        model=_checkpoint(maker, task) or maker.name or path.parent.name,
        rows=frame(_rows(samples, scoring, [str(one.get("name")) for one in config.get("filter_list") or []]), path),
        method=method,
        settings=settings,
        facts={name: value for name, value in {**facts, **limits, **data}.items() if value is not None},
        of=content.get("n-samples", {}).get(task, {}).get("original"),
        table=(metadata.get("table") if isinstance(metadata, dict) else None)
        or (table_name(task) if scoring else None),
    )


def _scoring(path: Path, task: str, samples: list[dict[str, Any]]) -> Scoring | None:
    if samples and (facts := _facts(samples[0])):
        found: Scoring = facts["scoring"]
        return found
    if table_name(task):
        raise ComparisonError(
            f"{path}: its samples do not say which rows of {task} they are (their first metric has no `row`); they "
            "were made by an older version of this package. Run the task again"
        )
    return None


def _facts(sample: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a sample of this package's tasks says of its row, beside the task's first metric; else nothing."""
    items = (sample.get(name) for name in ("individual_acc", "accuracy"))
    return next((item["row"] for item in items if isinstance(item, dict) and "row" in item), {})


def _rows(samples: list[dict[str, Any]], scoring: Scoring | None, filters: list[str]) -> list[dict[str, Any]]:
    """Return the rows; of a task with several filters, which logs each row once for each of them, in their order.

    The answer is that of the first filter, and the scores of the others have their names, as in a sweep's trace.
    """
    rows = [_row(sample, scoring) for sample in samples]
    count = len(rows) // len(filters) if len(filters) > 1 else 0
    ids = [row["id"] for row in rows]
    if scoring is not None or not count or ids != ids[:count] * len(filters):
        return rows
    first = rows[:count]
    for place, name in enumerate(filters[1:], 1):
        for row, other in zip(first, rows[place * count : (place + 1) * count], strict=True):
            row["scores"] |= {f"{metric},{name}": value for metric, value in other["scores"].items()}
    return first


def _row(sample: Mapping[str, Any], scoring: Scoring | None) -> dict[str, Any]:
    answer = sample["filtered_resps"]
    while isinstance(answer, list):
        answer = answer[0] if answer else ""
    counts = sample.get("token_counts") or [{}]
    counts = counts[0] if isinstance(counts, list) and isinstance(counts[0], dict) else {}
    row = {
        "id": sample["doc_id"],
        "question": str(sample.get("input", "")),
        "gold": str(sample.get("target", "")),
        "answer": str(answer),
        "confidence": counts.get("confidence"),
        "alpha": counts.get("alpha"),
    }
    if scoring is None:
        return row | {"scores": dict(_scores(sample))}
    facts = _facts(sample)
    known = {name: facts[name] for name in ("id", "relation", "options", "set_id", "pair_id")}
    return row | known | {"image": facts["image_id"], "options": tuple(facts["options"])}


def _scores(sample: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers that the task gave a row; tasks also write them as the `score` of a mapping."""
    for name, value in sample.items():
        if name in NO_SCORES:
            continue
        number = value.get("score") if isinstance(value, dict) else value
        if isinstance(number, bool | int | float) and number == number:  # not a NaN, which stands for none
            yield name, float(number)


def _made_with(maker: Maker, task: str) -> tuple[str | None, dict[str, Any], dict[str, Any]]:
    if maker.name not in model_names():
        return None, {}, {}
    method = maker.name.partition("_")[2]
    given = {**maker.arguments, "pretrained": _checkpoint(maker, task)}
    if maker.name.startswith(f"{ENGINE}_"):
        from adaptvis_plugin.methods import hyper_parameters
        from adaptvis_plugin.models.arguments import ModelArguments

        known = {*ModelArguments.model_fields, *hyper_parameters(method)}
        given = {name: value for name, value in given.items() if name in known}
    return method, *of_this_package(method, task, given)


def _checkpoint(maker: Maker, task: str) -> str | None:
    found = maker.arguments.get("pretrained") or FAMILIES.get(str(maker.name).partition("_")[0])
    if found is None and maker.name.startswith(f"{REPLAY}_") and "trace" in maker.arguments:
        found = _swept_model(Path(str(maker.arguments["trace"])), task)
    return None if found is None else str(found)


def _swept_model(trace: Path, task: str) -> str | None:
    """Return the model whose answers a replay gave, from its trace if that is still there."""
    try:
        header = next(scan(trace / f"{task}.jsonl" if trace.is_dir() else trace), None)
    except TraceError:
        return None
    return header.model if isinstance(header, Header) else None


def read_scores(path: Path) -> tuple[list[Score], list[Failure]]:
    """Return the headline score of each task of a results file, and the tasks that have none that counts.

    Raises:
        ComparisonError: If the file cannot be used.
    """
    content = read_json(path)
    if not (tasks := results_of(content)):
        raise ComparisonError(f"{path} names no task, so it is not a results file of lmms-eval")
    maker = maker_of(content)
    scores: list[Score] = []
    failures: list[Failure] = []
    for task, found in tasks.items():
        method, settings, _ = _made_with(maker, task)
        given = {name: value for name, value in maker.arguments.items() if name not in NO_SETTINGS}
        rows = content.get("n-samples", {}).get(task, {})
        metric, value = _headline(content.get("configs", {}).get(task, {}), found)
        what = f"{maker.name} on {task}"
        if rows.get("effective", 0) < rows.get("original", 0):
            failures.append(Failure(what, f"only {rows['effective']} of {rows['original']} rows", path))
        elif value is None:
            failures.append(Failure(what, "no score", path))
        else:
            scores.append(
                Score(
                    model=_checkpoint(maker, task) or maker.name,
                    name=maker.name,
                    method=method,
                    settings=described(None, settings),
                    given=",".join(f"{name}={value}" for name, value in sorted(given.items())),
                    framework="lmms-eval",
                    task=task,
                    metric=metric,
                    value=value,
                    percent=False,
                    date=str(content.get("date", "")),
                    source=path,
                )
            )
    return scores, failures


def _headline(config: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, float | None]:
    """Return the first metric that a task lists, which is the one that it is known by."""
    names = [str(one.get("metric")) for one in config.get("metric_list") or []]
    there = {key: value for key, value in found.items() if "_stderr" not in key and "," in key}
    for name in [*names, *(key.partition(",")[0] for key in there)]:
        for key, value in there.items():
            if key.partition(",")[0] == name and isinstance(value, int | float) and value == value:
                return name, float(value)
    return "", None
