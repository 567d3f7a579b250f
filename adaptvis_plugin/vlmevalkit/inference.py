"""The loop over a data set for this plugin's models, and for no others, in place of VLMEvalKit's own.

VLMEvalKit's loop asks one question at a time and keeps only the texts. It saves them every ten rows, and a kill at the
wrong moment leaves a broken file. Import this module through `register()`: it imports VLMEvalKit.
"""

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import vlmeval.config
from tqdm import tqdm
from vlmeval.smp import dump, get_rank_and_world_size

from adaptvis_plugin.data.questions import offered_options
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.vlmevalkit.arguments import model_arguments, preset_task
from adaptvis_plugin.vlmevalkit.model import SteeredVLM
from adaptvis_plugin.vlmevalkit.trace import Trace, made_with

InferData = Callable[..., Any]


def with_steered_models(infer_data: InferData) -> InferData:
    """Return VLMEvalKit's `infer_data`, with this plugin's loop for this plugin's models."""
    signature = inspect.signature(infer_data)

    @functools.wraps(infer_data)
    def infer(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs).arguments
        model = call["model"]
        named: Any = vlmeval.config.supported_VLM.get(model) if isinstance(model, str) else None
        if not isinstance(model, SteeredVLM) and getattr(named, "func", None) is not SteeredVLM:
            return infer_data(*args, **kwargs)
        arguments = model.arguments if isinstance(model, SteeredVLM) else model_arguments(**named.keywords)
        folder, out_file = Path(call["work_dir"]), str(call["out_file"])
        return _infer(
            model, arguments, call["model_name"], folder, call["dataset"], out_file, call.get("verbose", False)
        )

    infer.adaptvis = True  # type: ignore[attr-defined]  # tells `register` that it was here
    return infer


def _infer(
    model: SteeredVLM | str,
    arguments: ModelArguments,
    name: str,
    folder: Path,
    dataset: Any,
    out_file: str,
    verbose: bool,
) -> SteeredVLM | str:
    """Answer the rows of this process that have no answer yet; return the model, loaded only if there were any."""
    rank, world = get_rank_and_world_size()
    rows = [dataset.data.iloc[place] for place in range(rank, len(dataset.data), world)]
    method = arguments.choose(preset_task(dataset.dataset_name))
    for row in rows:
        method.check_offered(_name(dataset, row), offered_options(row))
    settings = {**made_with(arguments, dataset.dataset_name), "data": getattr(dataset, "fingerprint", None)}
    trace = Trace(folder, name, dataset.dataset_name)
    answered = trace.begin(settings)
    todo = [row for row in rows if str(row["index"]) not in answered]
    if todo and isinstance(model, str):
        model = _build(model)
    with tqdm(total=len(rows), initial=len(rows) - len(todo), desc=f"{name}/{dataset.dataset_name}") as progress:
        for start in range(0, len(todo), arguments.batch_size):
            batch = todo[start : start + arguments.batch_size]
            assert isinstance(model, SteeredVLM)
            prompts = [
                model.prompt(dataset.build_prompt(row), _name(dataset, row), offered_options(row), dataset.dataset_name)
                for row in batch
            ]
            answers = model.answer(prompts, dataset.dataset_name)
            lines = [
                {
                    "index": row["index"].item() if hasattr(row["index"], "item") else row["index"],
                    "prediction": answer.text,
                    "confidence": answer.confidence,
                    "alpha": answer.alpha,
                    "input_tokens": answer.input_tokens,
                    "output_tokens": answer.output_tokens,
                }
                for row, answer in zip(batch, answers, strict=True)
            ]
            trace.add(lines)
            answered |= {str(line["index"]): line for line in lines}
            progress.update(len(batch))
            if verbose:
                for line in lines:
                    tqdm.write(f"{line['index']}: {line['prediction']}")
    dump({row["index"]: answered[str(row["index"])]["prediction"] for row in rows}, out_file)
    return model


def _name(dataset: Any, row: Any) -> str:
    """Return what the user knows a row by."""
    return f"{dataset.dataset_name}, index {row['index']}"


def _build(name: str) -> SteeredVLM:
    """Build the model of a registered name. As in VLMEvalKit, hide the launcher, or transformers shards the model."""
    world = os.environ.pop("WORLD_SIZE", None)
    try:
        model: SteeredVLM = vlmeval.config.supported_VLM[name]()
    finally:
        if world is not None:
            os.environ["WORLD_SIZE"] = world
    return model
