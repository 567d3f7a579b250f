"""Runs of VLMEvalKit: `status.json` with the scores, the predictions, and this package's traces beside them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from adaptvis_plugin.comparison.runs import ComparisonError, Run, described, frame, read_json, read_lines
from adaptvis_plugin.comparison.scores import Failure, Score
from adaptvis_plugin.comparison.sources.facts import table_rows
from adaptvis_plugin.data.dataset import DataSet
from adaptvis_plugin.methods import hyper_parameters
from adaptvis_plugin.vlmevalkit.names import own_data_sets, registered_models
from adaptvis_plugin.vlmevalkit.predictions import read_predictions
from adaptvis_plugin.vlmevalkit.trace import SETTINGS, TRACE

STATUS = "status.json"
FACTS = ("prompt", "revision", "max_new_tokens", "checkpoint", "data")
KINDS = ("xlsx", "tsv", "json")
SCORES = ("hit", "score")
"""The columns in which VLMEvalKit's own data sets write what each answer earned."""


def read_status(path: Path) -> list[Run]:
    """Return the runs of a model's folder, one for each data set.

    Raises:
        ComparisonError: If a file cannot be used.
    """
    _, model, known = _status(path)
    found = {data: _answers(path.parent, model, data) for data in known}
    runs = [_read(answers, model, data) for data, answers in found.items() if answers]
    if not runs:
        raise ComparisonError(f"{path.parent} holds no answers of {model}: its run failed or has only begun")
    return runs


def read_file(path: Path) -> Run:
    """Return the run that a trace or a file of predictions belongs to.

    Raises:
        ComparisonError: If it is not usable.
    """
    traced = path.name.endswith(TRACE)
    stem = path.name.removesuffix(TRACE) if traced else path.stem
    model = next((model for model in (path.parent.name, path.parent.parent.name) if stem.startswith(f"{model}_")), "")
    data = next((name for name in own_data_sets() if stem.endswith(f"_{name}")), stem.removeprefix(f"{model}_"))
    model = stem.removesuffix(f"_{data}")
    return _read((_answers(path.parent, model, data) if traced else None) or path, model, data)


def _read(answers: Path, model: str, data: str) -> Run:
    """Return the run of a model on a data set.

    Args:
        answers: The predictions or, if there are none yet, this package's trace.
        model: The model's name.
        data: The data set's name.
    """
    folder = answers.parent
    traced = _beside(folder, f"{model}_{data}{TRACE}")
    settings_file = _beside(folder, f"{model}_{data}{SETTINGS}")
    settings = read_json(settings_file) if settings_file else {}
    own = own_data_sets().get(data)
    method = settings.get("method") or registered_models().get(model, {}).get("method")
    table = table_rows(own.name) if own else None
    predicted = None if answers.name.endswith(TRACE) else _predictions(answers)
    trace = {str(line.get("index")): line for line in read_lines(traced)} if traced else {}
    facts = {name: settings[name] for name in FACTS if settings.get(name)}
    return Run(
        name=model,
        source=answers,
        framework="VLMEvalKit",
        task=own.task if own else data,
        numbering=own.task if own else data,
        scoring=own.scoring if own else None,
        model=str(settings.get("pretrained") or registered_models().get(model, {}).get("pretrained") or model),
        rows=frame(_rows(answers, predicted, trace, own, table), answers),
        method=method,
        settings=_settings(method, settings),
        facts=facts | ({"dtype": settings["dtype"]} if settings.get("dtype", "auto") != "auto" else {}),
        of=len(table) if table else None,
        table=own.name if own else None,
    )


def _rows(
    answers: Path,
    predicted: Mapping[str, Mapping[str, str]] | None,
    trace: Mapping[str, Mapping[str, Any]],
    own: DataSet | None,
    table: tuple[dict[str, Any], ...] | None,
) -> Iterator[dict[str, Any]]:
    if predicted is None and (own is None or table is None):
        prepare = f" (adaptvis data prepare {own.name})" if own else ""
        raise ComparisonError(
            f"{answers} has answers but no questions, because its run did not end. Run it again to finish it, or have "
            f"the data on this machine{prepare}"
        )
    scores = {} if own else _scores(answers)
    for index in trace if predicted is None else predicted:
        line, said = trace.get(index, {}), (predicted or {}).get(index, {})
        row = {
            "id": int(index) if own else index,
            # The trace has the answer as it was; the predictions were through a spreadsheet.
            "answer": str(line.get("prediction", said.get("prediction", ""))),
            "confidence": line.get("confidence"),
            "alpha": line.get("alpha"),
        }
        if own is None:
            gold = said.get("answer", "")
            yield row | {"question": said.get("question", ""), "gold": gold, "scores": scores.get(index)}
        elif predicted is not None:
            yield row | _asked(said)
        elif table is not None and int(index) < len(table):
            yield row | {name: value for name, value in table[int(index)].items() if name not in ("split", "image")}


def _asked(said: Mapping[str, str]) -> dict[str, Any]:
    """Return what the predictions repeat of a row of this package's data; as text, since the file is a spreadsheet."""
    options = said.get("options", "")
    numbers = {
        name: int(float(said[name])) if said.get(name) not in (None, "", "None") else None
        for name in ("set_id", "pair_id")
    }
    return {
        "question": said.get("question", ""),
        "gold": said.get("answer", ""),
        "relation": said.get("relation"),
        "options": tuple(ast.literal_eval(options)) if options.startswith("[") else None,
        "image": Path(said["image_path"]).name if said.get("image_path") else None,
        **numbers,
    }


def _predictions(path: Path) -> dict[str, dict[str, str]]:
    """Return the columns of each row, by index."""
    try:
        frame = read_predictions(path)
    except Exception as error:  # openpyxl and zipfile raise errors of many kinds for a damaged file
        raise ComparisonError(f"{path} cannot be read ({error}); the file is damaged") from error
    if lacking := {"index", "prediction"} - set(frame.columns):
        raise ComparisonError(f"{path} has no column {sorted(lacking)[0]}, so it has no predictions of VLMEvalKit")
    return {str(row["index"]): {str(name): value for name, value in row.items()} for row in frame.to_dict("records")}


def _scores(answers: Path) -> dict[str, dict[str, float]]:
    """Return the numbers that a data set of VLMEvalKit gave each row, from the file that it writes beside them."""
    for path in sorted(answers.parent.glob(f"{answers.stem}_*.xlsx")):
        frame = pd.read_excel(path)
        there = [name for name in SCORES if name in frame.columns and pd.api.types.is_numeric_dtype(frame[name])]
        if "index" in frame.columns and there:
            return {str(row["index"]): {there[0]: float(row[there[0]])} for row in frame.to_dict("records")}
    return {}


def _status(path: Path) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Return the content of a `status.json`, and its model and data sets."""
    content = read_json(path)
    model, known = content.get("model_name"), content.get("datasets")
    if not isinstance(model, str) or not isinstance(known, dict):
        raise ComparisonError(f"{path} names no model and no data sets, so it is not a file of VLMEvalKit")
    return content, model, known


def _answers(folder: Path, model: str, data: str) -> Path | None:
    files = (folder / f"{model}_{data}.{kind}" for kind in KINDS)
    return next((path for path in files if path.is_file()), _beside(folder, f"{model}_{data}{TRACE}"))


def _beside(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder.parent / name) if path.is_file()), None)


def read_scores(path: Path) -> tuple[list[Score], list[Failure]]:
    """Return the headline score of each data set of a model's folder, and those that have none that counts.

    Raises:
        ComparisonError: If the file cannot be used.
    """
    content, model, known = _status(path)
    scores: list[Score] = []
    failures: list[Failure] = []
    for data, state in known.items():
        own = own_data_sets().get(data)
        settings_file = _beside(path.parent, f"{model}_{data}{SETTINGS}")
        settings = read_json(settings_file) if settings_file else {}
        method = settings.get("method")
        metrics = state.get("metrics") or {}
        name = _primary(metrics, state.get("primary_metric"))
        value = metrics.get(name)
        what = f"{model} on {data}"
        if not isinstance(value, int | float) or value != value:
            said = (state.get(key) for key in ("error_message", "eval_error", "skip_reason"))
            reason = next(filter(None, said), f"no score; status {state.get('status')!r}")
            failures.append(Failure(what, str(reason).strip().splitlines()[-1], path))
            continue
        if limit := _limit(content.get("argv")):
            failures.append(Failure(what, f"only the first {limit} rows (--limit)", path))
            continue
        scores.append(
            Score(
                model=str(settings.get("pretrained") or model),
                name=model,
                method=method,
                settings=described(None, _settings(method, settings)),
                given="",
                framework="VLMEvalKit",
                task=own.task if own else data,
                metric=str(name),
                value=float(value),
                percent=own is not None,
                date=str(state.get("updated_at", "")),
                source=path,
            )
        )
    return scores, failures


def _settings(method: str | None, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's hyper-parameters that have a value, from the settings that a run wrote."""
    names = hyper_parameters(method) if method else ()
    return {name: recorded[name] for name in names if recorded.get(name) is not None}


def _primary(metrics: Mapping[str, Any], named: Any) -> str:
    """Return the metric that a data set is known by.

    VLMEvalKit names it, or several of which the first counts. Its own data sets may write it under another name than
    they say: `split=none|Overall` for `Overall Acc`.
    """
    names = [named] if isinstance(named, str) else named or []
    overall = [name for name in metrics if name.rpartition("|")[2] == "Overall"]
    return next((name for name in (*names, *overall, *metrics) if name in metrics), "")


def _limit(arguments: Any) -> str | None:
    """Return the value of the runner's option `--limit`, with which only some rows are answered."""
    words = [str(word) for word in arguments] if isinstance(arguments, list) else []
    for place, word in enumerate(words):
        if word == "--limit" and place + 1 < len(words):
            return words[place + 1]
        if word.startswith("--limit="):
            return word.partition("=")[2]
    return None
