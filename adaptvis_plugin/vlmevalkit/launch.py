"""Runs VLMEvalKit's own runner with this plugin's models and data sets in place, and reports what became of it."""

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

from adaptvis_plugin.data import prepare
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.vlmevalkit.arguments import model_arguments
from adaptvis_plugin.vlmevalkit.names import own_data_sets
from adaptvis_plugin.vlmevalkit.registration import Framework, runner
from adaptvis_plugin.vlmevalkit.trace import Trace, made_with

NO_ANSWERS = ("invalid_dataset", "Incomplete infer result", "No infer result found")
"""Reasons for which VLMEvalKit skips a combination that was asked for; the others are properties of the data set."""


def launch(framework: Framework, arguments: list[str], model_args: Mapping[str, Any]) -> list[str]:
    """Run VLMEvalKit's runner with its own command line, which it reads from `sys.argv`: **that is replaced**.

    Args:
        framework: what `register` found.
        arguments: the runner's arguments.
        model_args: arguments for this plugin's models, on top of those of the registered names.

    Returns:
        What failed, one line for each combination of model and data set.

    Raises:
        ValueError: for an unknown name or unusable argument, before anything is downloaded or loaded.
        DataError: if a data set of this plugin cannot be had.
        FrameworkError: if the runner lacks what is needed.
    """
    run = runner(framework)
    sys.argv = ["adaptvis vlmeval", *arguments]
    options = run.parse_args()
    models, data = _combinations(options, model_args)
    work_dir = Path(os.environ.get("MMEVAL_ROOT", options.work_dir))
    for name, keywords in models.items():
        if keywords is not None:
            for dataset in data:
                settings = _named(name, model_arguments(**keywords), dataset)
                Trace(work_dir / name, name, dataset).check(settings)
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
    """Registers models of this plugin with other arguments, for the time of one run."""
    from vlmeval.config import supported_VLM
    from vlmeval.vlm import SteeredVLM

    before = {name: supported_VLM[name] for name in models}
    supported_VLM.update({name: functools.partial(SteeredVLM, **keywords) for name, keywords in models.items()})
    try:
        yield
    finally:
        supported_VLM.update(before)


def _named(name: str, arguments: ModelArguments, dataset: str) -> dict[str, Any]:
    try:
        return made_with(arguments, dataset)
    except ValueError as error:
        raise ValueError(f"--model {name}: {error}, as --model-args NAME=VALUE,NAME=VALUE") from error


def _combinations(
    options: Any, model_args: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any] | None], dict[str, str]]:
    """The models, with their arguments if they are this plugin's, and the data sets, with the registered name of each.

    Raises:
        ValueError: if a name is unknown, or `model_args` reach no model.
    """
    if options.config is not None:
        if model_args:
            raise ValueError("--model-args goes with --model; with --config, write the arguments into the file")
        return _configured(Path(options.config))
    if not options.data or not options.model:
        raise ValueError("give --data and --model, or --config; the runner's options: adaptvis vlmeval -- --help")
    from vlmeval.config import supported_VLM
    from vlmeval.vlm import SteeredVLM

    _check_data(options.data)
    own: dict[str, dict[str, Any] | None] = dict.fromkeys(options.model)
    for name in options.model:
        registered: Any = supported_VLM.get(name)
        if registered is None and options.base_url is None:
            raise ValueError(f"--model {name}: unknown model{_near(name, supported_VLM)}")
        if registered is not None and registered.func is SteeredVLM:
            own[name] = {**registered.keywords, **model_args}
    if model_args and not any(own.values()):
        raise ValueError(f"--model-args is for this plugin's models, and {', '.join(options.model)} are none")
    return own, {name: name for name in options.data}


def _check_data(names: Iterable[str]) -> None:
    from vlmeval.dataset import SUPPORTED_DATASETS
    from vlmeval.dataset.video_dataset_config import supported_video_datasets
    from vlmeval.smp import LMUDataRoot

    given = os.environ.get("LMUData")  # noqa: SIM112
    if given is not None and not Path(given).is_dir():
        raise ValueError(f"LMUData={given} is no folder, and VLMEvalKit would use ~/LMUData; make it or unset LMUData")
    known = [*SUPPORTED_DATASETS, *supported_video_datasets]
    for name in names:
        if name not in known and not Path(LMUDataRoot(), f"{name}.tsv").exists():
            raise ValueError(f"--data {name}: unknown data set{_near(name, known)}")


def _configured(path: Path) -> tuple[dict[str, dict[str, Any] | None], dict[str, str]]:
    """As `_combinations`, from a `--config` file."""
    import vlmeval.api
    import vlmeval.dataset
    import vlmeval.vlm
    from vlmeval.config import supported_VLM
    from vlmeval.dataset.video_dataset_config import supported_video_datasets

    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        models, data = dict(config["model"]), dict(config["data"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'--config {path}: not a JSON file of the form {{"model": {{…}}, "data": {{…}}}} ({error!r})'
        ) from error
    own: dict[str, dict[str, Any] | None] = {}
    for name, keywords in models.items():
        kind = keywords.get("class")
        if kind is None and name not in supported_VLM:
            raise ValueError(f"--config {path}: {name} has no class and is no known model{_near(name, supported_VLM)}")
        if kind is not None and not hasattr(vlmeval.vlm, kind) and not hasattr(vlmeval.api, kind):
            raise ValueError(f"--config {path}: unknown model class {kind}{_near(kind, dir(vlmeval.vlm))}")
        registered: Any = supported_VLM[name] if kind is None else None
        if getattr(registered, "func", None) is vlmeval.vlm.SteeredVLM:
            own[name] = {**registered.keywords, **keywords}
        else:
            own[name] = {key: keywords[key] for key in keywords if key != "class"} if kind == "SteeredVLM" else None
    for name, keywords in data.items():
        kind = keywords.get("class")
        if kind is None and name not in supported_video_datasets:
            near = _near(name, supported_video_datasets)
            raise ValueError(f"--config {path}: data set {name} has no class and is no known video data set{near}")
        if kind is not None and not hasattr(vlmeval.dataset, kind):
            raise ValueError(f"--config {path}: unknown data set class {kind}{_near(kind, dir(vlmeval.dataset))}")
    return own, {name: keywords.get("dataset", name) for name, keywords in data.items()}


def _near(name: str, known: Iterable[str]) -> str:
    """Near matches of a name, as the end of an error."""
    folded = {str(candidate).casefold(): str(candidate) for candidate in known}
    found = [folded[match] for match in difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.6)]
    return f". Did you mean {' or '.join(found)}?" if found else ""


def _problems(work_dir: Path, model: str, data: Iterable[str], start: datetime) -> list[str]:
    """What VLMEvalKit wrote of a model's combinations since the start; it exits with 0 whatever happened."""
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
