"""Runs VLMEvalKit's own runner with this plugin's models and data sets, and reports what failed.

Only this plugin's own names and arguments are checked before the runner starts. All others are the runner's: it logs
what it cannot run, skips it, and exits with status 0, so what it wrote is read at the end. Import this module after
`register()`: it imports VLMEvalKit.
"""

import contextlib
import difflib
import functools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import vlmeval.api
import vlmeval.dataset
import vlmeval.vlm
from vlmeval.config import supported_VLM
from vlmeval.dataset import SUPPORTED_DATASETS
from vlmeval.smp import LMUDataRoot, load

from adaptvis_plugin.data import prepare
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.vlmevalkit.arguments import model_arguments
from adaptvis_plugin.vlmevalkit.datasets import CLASSES
from adaptvis_plugin.vlmevalkit.framework import Framework, runner
from adaptvis_plugin.vlmevalkit.model import SteeredVLM
from adaptvis_plugin.vlmevalkit.names import own_data_sets, registered_models
from adaptvis_plugin.vlmevalkit.trace import Trace, made_with

NO_ANSWERS = ("invalid_dataset", "Incomplete infer result", "No infer result found")
"""Reasons for which VLMEvalKit skips a combination that was asked for; the others are properties of the data set."""


def launch(framework: Framework, arguments: list[str], model_args: Mapping[str, Any]) -> list[str]:
    """Run VLMEvalKit's runner with its own command line, which it reads from `sys.argv`: **that is replaced**.

    Args:
        framework: What `register` found.
        arguments: The runner's arguments.
        model_args: Arguments for this plugin's models, on top of those of the registered names.

    Returns:
        What failed, one line for each combination of model and data set.

    Raises:
        ValueError: If one of this plugin's names is misspelt or an argument is unusable, before anything is downloaded
            or loaded.
        DataError: If a data set of this plugin cannot be had.
        FrameworkError: If the runner lacks what is needed.
    """
    run = runner(framework)
    sys.argv = ["adaptvis vlmeval", *arguments]
    options = run.parse_args()
    models, data = _combinations(options, model_args)
    work_dir = Path(os.environ.get("MMEVAL_ROOT", options.work_dir))
    for name, keywords in models.items():
        if keywords is not None:
            _check_settings(work_dir, name, model_arguments(**keywords), data.values())
    own = own_data_sets()
    prepare(dict.fromkeys(own[dataset].name for dataset in data.values() if dataset in own))
    start = datetime.now().astimezone()
    with _registered({name: keywords for name, keywords in models.items() if keywords is not None and model_args}):
        run.main()
    if int(os.environ.get("RANK", 0)):
        return []  # only the first process writes down what happened
    return [problem for name in models for problem in _problems(work_dir, name, data, start)]


@contextlib.contextmanager
def _registered(models: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Register models of this plugin with other arguments during one run."""
    before = {name: supported_VLM[name] for name in models}
    supported_VLM.update({name: functools.partial(SteeredVLM, **keywords) for name, keywords in models.items()})
    try:
        yield
    finally:
        supported_VLM.update(before)


def _check_settings(work_dir: Path, name: str, arguments: ModelArguments, data: Iterable[str]) -> None:
    """Raise ValueError if a model has no settings for a data set, or there are answers made with other settings."""
    for dataset in data:
        try:
            settings = made_with(arguments, dataset)
        except ValueError as error:
            raise ValueError(f"--model {name}: {error}, as --model-args NAME=VALUE,NAME=VALUE") from error
        Trace(work_dir / name, name, dataset).check(settings)


def _combinations(
    options: Any, model_args: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any] | None], dict[str, str]]:
    """Return what the command line asks for.

    Returns:
        The models, each with its arguments if it is this plugin's, else None; and the data sets, each with its
        registered name.

    Raises:
        ValueError: If one of this plugin's names is misspelt, or `model_args` reach no model.
    """
    if options.config is not None:
        if model_args:
            raise ValueError("--model-args goes with --model; with --config, write the arguments into the file")
        config = load(options.config)
        if not isinstance(config, dict) or not {"model", "data"} <= set(config):
            raise ValueError(f'--config {options.config} must have the form {{"model": {{…}}, "data": {{…}}}}')
        models, data = config["model"], config["data"]
    elif options.data and options.model:
        models, data = {name: model_args for name in options.model}, {name: {} for name in options.data}
    else:
        raise ValueError("give --data and --model, or --config; the runner's options: adaptvis vlmeval -- --help")
    served = options.base_url is not None  # a server's models may have any names
    asked = (*(() if served else models.items()), *data.items())
    _check_spelling(keywords.get("class", name) for name, keywords in asked)
    own = {name: _own_arguments(name, keywords) for name, keywords in models.items()}
    if model_args and not any(own.values()):
        raise ValueError(f"--model-args is only for this plugin's models, not for {', '.join(models)}")
    return own, {name: keywords.get("dataset", name) for name, keywords in data.items()}


def _check_spelling(names: Iterable[str]) -> None:
    """Raise ValueError for a name that VLMEvalKit does not know and that is close to one of this plugin's."""
    files = [file.stem for file in Path(LMUDataRoot()).glob("*.tsv")]  # data sets of the user's own
    known = {*supported_VLM, *SUPPORTED_DATASETS, *files, *dir(vlmeval.vlm), *dir(vlmeval.api), *dir(vlmeval.dataset)}
    classes = [kind.__name__ for kind in (SteeredVLM, *CLASSES)]
    own = {name.casefold(): name for name in (*registered_models(), *own_data_sets(), *classes)}
    for name in names:
        near = difflib.get_close_matches(name.casefold(), own, n=3, cutoff=0.8)
        if near and name not in known:
            raise ValueError(f"{name} is unknown. Did you mean {' or '.join(own[match] for match in near)}?")


def _own_arguments(name: str, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the arguments of one of this plugin's models; None if it is another's."""
    given = dict(given)
    kind = given.pop("class", None)
    if kind == SteeredVLM.__name__:
        return given
    registered: Any = supported_VLM.get(name)
    if kind is None and getattr(registered, "func", None) is SteeredVLM:
        return {**registered.keywords, **given}
    return None


def _problems(work_dir: Path, model: str, data: Iterable[str], start: datetime) -> list[str]:
    """Return what failed since the start, by what VLMEvalKit wrote of a model: it exits with 0 whatever happened."""
    entries: dict[str, dict[str, Any]] = {}
    # In the model's folder, or in one for each run in it, by version.
    for path in (work_dir / model.replace("/", "--")).glob("**/status.json"):
        for dataset, entry in json.loads(path.read_text(encoding="utf-8"))["datasets"].items():
            if datetime.fromisoformat(entry["updated_at"]) >= start:
                entries[dataset] = entry
    problems = []
    for dataset in data:
        entry = entries.get(dataset, {})
        reason = entry.get("error_message")
        if reason is None and entry.get("skip_reason") in NO_ANSWERS:
            reason = entry["skip_reason"]
        if reason is None and entry.get("status") != "done":
            reason = "the runner did not get to its end; see its log"
        if reason is not None:
            problems.append(f"{model} on {dataset}: {reason or 'no message; the traceback is in the log'}")
    return problems
