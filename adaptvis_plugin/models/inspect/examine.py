"""What can be said of a checkpoint before its weights are read: can it be steered, how, and what it sees and uses.

Each answer comes from the code that a run uses: the decoder's inspection, the prompts, the presets, and transformers'
own cache. With weights, one row is run to see what only a run can show.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import Cache, GenerationConfig, PreTrainedConfig, PreTrainedModel, ProcessorMixin

from adaptvis_plugin.decoding import Baseline, Decoder, Method, ScalingVis
from adaptvis_plugin.decoding.greedy import Greedy
from adaptvis_plugin.decoding.inspection import inspect_model
from adaptvis_plugin.decoding.method import scaled_image
from adaptvis_plugin.decoding.packing import PackedPass
from adaptvis_plugin.decoding.parts import AttentionEdit, Columns
from adaptvis_plugin.decoding.steering import has_kernel
from adaptvis_plugin.decoding.validation import checked
from adaptvis_plugin.methods import METHODS, PAPER, hyper_parameters
from adaptvis_plugin.models.answers import Prompt
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.inspect import report
from adaptvis_plugin.models.inspect.example import Example, first_row, token_count
from adaptvis_plugin.models.inspect.report import Report
from adaptvis_plugin.models.inspect.unloaded import build_model, bytes_by_dtype, cache_after, cache_bytes, cache_layers
from adaptvis_plugin.models.loading import load_config, load_processor, source
from adaptvis_plugin.models.presets import load_preset, merged
from adaptvis_plugin.models.prompts import encode
from adaptvis_plugin.models.runner import Runner
from adaptvis_plugin.models.validation import did_you_mean
from adaptvis_plugin.paths import PRESET_FOLDER

TRIED = ScalingVis(alpha=0.5)
"""The method under which a row is run if there are settings for none that steers."""

LONGEST_ANSWER = 16
"""Tokens of an answer at most when a row is run."""

LONGEST_TRIED = 32_768
"""Tokens of the longest prompt that a processor is given to see whether it cuts it."""

NO_LIMIT = 10**9
"""A tokenizer's limit that says there is none: transformers writes 10^30."""

GIVEN = "given"
"""The source of what the user gave."""

STYLES = ("paper", "chat")
ATTENTIONS = {
    "sdpa": "_supports_sdpa",
    "flash_attention": "_supports_flash_attn",
    "flex_attention": "_supports_flex_attn",
}


def examine(given: Mapping[str, Any], task: str, *, weights: bool = False) -> Report:
    """Find out what a run of a checkpoint on a task would do.

    Args:
        given: Arguments of `ModelArguments`. Hyper-parameters of any method may be among them; with `method` only that
            one is looked at.
        task: See `first_row`.
        weights: Whether to load the model and to run a row.

    Raises:
        DataError: If there is no such task, or its data would have to be fetched.
        ValueError: If an argument is wrong, or the checkpoint is not an image-text-to-text model. OSError, ImportError
            and RuntimeError: see `load_model`.
    """
    by_method = arguments_by_method(given)
    arguments = next(iter(by_method.values()))
    example = first_row(task)
    config = load_config(arguments)
    model = build_model(arguments, config)
    found = Report(
        model=arguments.pretrained,
        source=source(arguments),
        model_type=config.model_type,
        architecture=type(model).__name__,
        task=example.task,
        attention=model.config.get_text_config(decoder=True)._attn_implementation,
        attentions=("eager", *(name for name, flag in ATTENTIONS.items() if getattr(model, flag))),
        weights=_weights(model, config, loaded=False),
    )
    try:
        decoder = Decoder(model)
    except ValueError as error:
        return replace(found, refusal=str(error))
    processor = load_processor(arguments)
    longest = arguments.max_new_tokens or example.max_new_tokens
    settings = {name: _settings(own, example.task, given, decoder) for name, own in by_method.items()}
    methods = {name: own.choose(example.task) for name, own in by_method.items() if settings[name].missing is None}
    found = replace(
        found,
        image_token_id=decoder.image_token_id,
        image_token=processor.tokenizer.convert_ids_to_tokens(decoder.image_token_id),
        layers=decoder.layers,
        heads=decoder.heads,
        prefixes=decoder.prefix_bytes,
        passes=_passes(decoder, methods, None),
        settings=settings,
        generation=_generation(model.generation_config, longest),
        prompting=_prompting(arguments, given, example, processor, model),
    )
    try:
        text = example.text(processor, arguments.prompt)
        batch = checked(
            encode(processor, [text], [[example.image]]),
            model,
            inspect_model(model),
            Greedy.of(model.generation_config, longest, {}).config,
            steered=True,
        )
    except ValueError as error:
        return replace(found, problems=(str(error),))
    ids = batch["input_ids"][0]
    columns = int((ids == decoder.image_token_id).sum())
    found = replace(
        found,
        asked=report.Asked(example.table, example.row, text, len(ids), columns, example.image.size),
        passes=_passes(decoder, methods, batch),
    )
    found = replace(found, cache=_cache(lambda further: cache_after(model, len(ids) + further)))
    found = _with_long_prompt(found, processor, example)
    if not weights:
        return found
    return _run(found, Runner(arguments), methods, example)


def arguments_by_method(given: Mapping[str, Any]) -> dict[str, ModelArguments]:
    """Return the arguments of each method: all of the given ones, but of the hyper-parameters only its own.

    Raises:
        ValueError: If one is wrong.
    """
    names = (given["method"],) if given.get("method") is not None else PAPER
    known = {name: hyper_parameters(name) for name in names}
    every = {parameter for parameters in known.values() for parameter in parameters}
    there = sorted({*ModelArguments.model_fields, *every})
    for name, value in given.items():
        if name not in there:
            if others := [other for other in METHODS if name in hyper_parameters(other)]:
                raise ValueError(f"{name}={value!r}: belongs to {', '.join(others)}; name it: method={others[0]}")
            raise ValueError(f"unknown {name}={value!r}; there are {', '.join(there)}{did_you_mean(name, there)}")

    def own(name: str) -> dict[str, Any]:
        return {key: value for key, value in given.items() if key not in every.difference(known[name])}

    return {name: ModelArguments(**{**own(name), "method": name}) for name in names}


def preset_file(arguments: ModelArguments, given: Mapping[str, Any]) -> str | None:
    """Return the file of the preset that the arguments use; None if they use none."""
    if arguments.preset is None:
        return None
    own = Path(str(given.get("preset")))
    if own.is_file():
        return str(own)
    return next(str(path) for path in sorted(PRESET_FOLDER.glob("*.yaml")) if load_preset(path) == arguments.preset)


def _settings(arguments: ModelArguments, task: str, given: Mapping[str, Any], decoder: Decoder) -> report.Settings:
    preset = {} if arguments.preset is None else arguments.preset.values(task, arguments.method)
    file = preset_file(arguments, given)
    values = merged(preset, arguments.overrides)
    sources = {name: GIVEN if name in arguments.overrides else str(file) for name in values}
    try:
        decoder.check(arguments.choose(task))
    except ValueError as error:
        return report.Settings(values, sources, str(error))
    return report.Settings(values, sources, None)


def _weights(model: PreTrainedModel, config: PreTrainedConfig, *, loaded: bool) -> report.Weights:
    stored = None if loaded else getattr(config, "quantization_config", None)
    named = stored.get("quant_method") if isinstance(stored, dict) else getattr(stored, "quant_method", None)
    quantisation = None if stored is None else str(getattr(named, "value", named))
    return report.Weights(model.num_parameters(), bytes_by_dtype(model), loaded, quantisation)


def _passes(decoder: Decoder, methods: Mapping[str, Method], batch: dict[str, Any] | None) -> report.Passes:
    """Return what steering a row costs, as far as it shows without a pass."""
    text = inspect_model(decoder.model)
    if text.recurrent:
        reason = "some layers keep a state, which copies of the last token would change"
        return report.Passes(2, certain=True, reason=reason)
    foreign = [name for config in text.configs if not has_kernel(name := str(config._attn_implementation))]
    if foreign:
        return report.Passes(2, certain=True, reason=f"the masks of {foreign[0]} cannot be cut; sdpa's and eager's can")
    if batch is not None:
        coefficients = {alpha for method in (*methods.values(), TRIED) for alpha in method.alphas or ()} | {1.0}
        edit = AttentionEdit(scaled_image)
        last = edit.last_tokens(Columns.of(batch["input_ids"], text.image_token_id))
        given = (edit, last, sorted(coefficients), lambda first: first.logits)
        packed = PackedPass(decoder.model, text, *given, branches=1)
        if not packed.may_be_exact_for(batch):
            ends = batch["input_ids"][0, -1].item() in text.placeholders
            reason = "the prompt ends in an image" if ends else "the scale of the queries changes behind the prompt"
            return report.Passes(2, certain=True, reason=reason)
    reason = "unless the masks of a pass show that earlier tokens see the last one"
    return report.Passes(1, certain=False, reason=reason)


def _cache(after: Callable[[int], Cache], *, loaded: bool = False) -> report.CacheUse | None:
    """Return the use of a cache, given the caches after the prompt and after one more token."""
    try:
        prompt, longer = after(0), after(1)
    except Exception:  # a decoder that needs numbers, or more than the tokens: only a run can tell
        if loaded:
            raise
        return None
    growth = cache_bytes(longer) - cache_bytes(prompt)
    return report.CacheUse(cache_bytes(prompt), growth, cache_layers(prompt), loaded)


def _generation(own: GenerationConfig, longest: int) -> report.Generation:
    greedy = Greedy.of(own, longest, {}).config
    usual = {**GenerationConfig().to_dict(), **own._get_default_generation_params()}
    said = {
        name: value
        for name, value in own.to_diff_dict().items()
        if value not in (None, False, usual.get(name))
        and not name.startswith(("output_", "_", "transformers_"))
        and not name.endswith("token_id")
        and name not in ("max_length", "max_new_tokens", "use_cache")
    }
    kept = {name: value for name, value in said.items() if getattr(greedy, name, None) == value}
    return report.Generation(longest, kept, {name: value for name, value in said.items() if name not in kept})


def _prompting(
    arguments: ModelArguments,
    given: Mapping[str, Any],
    example: Example,
    processor: ProcessorMixin,
    model: PreTrainedModel,
) -> report.Prompting:
    impossible = {}
    for style in STYLES:
        try:
            example.text(processor, style)
        except ValueError as error:
            impossible[style] = str(error)
    limit = processor.tokenizer.model_max_length
    return report.Prompting(
        style=arguments.prompt,
        style_source=GIVEN if given.get("prompt") is not None else preset_file(arguments, given) or "default",
        impossible=impossible,
        tokenizer_limit=limit if limit < NO_LIMIT else None,
        positions=getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None),
    )


def _with_long_prompt(found: Report, processor: ProcessorMixin, example: Example) -> Report:
    """Give the processor a prompt longer than every limit, and add whether it cuts that, and what else is too long."""
    assert found.asked is not None and found.prompting is not None and found.generation is not None
    prompting, tokens = found.prompting, found.asked.tokens
    limits = [limit for limit in (prompting.tokenizer_limit, prompting.positions) if limit is not None]
    long = example.longer_than(min(LONGEST_TRIED, max(limits, default=LONGEST_TRIED)), found.asked.text, processor)
    # An image token becomes at least one token, so a whole prompt is never shorter than its text.
    least = token_count(processor, long)
    problems, tried, cut_at = [], None, None
    try:
        made = len(encode(processor, [long], [[example.image]])["input_ids"][0])
        tried, cut_at = least, made if made < least else None
    except ValueError as error:
        problems.append(f"a prompt of {least} tokens is refused: {error}")
    if cut_at is not None:
        problems.append(
            f"the processor cuts prompts at {cut_at} tokens, though it is told not to; use a checkpoint with a "
            "processor of transformers"
        )
    if prompting.tokenizer_limit is not None and tokens > prompting.tokenizer_limit:
        problems.append(f"the prompt has {tokens} tokens, the tokenizer was made for {prompting.tokenizer_limit}")
    whole = tokens + found.generation.max_new_tokens
    if prompting.positions is not None and whole > prompting.positions:
        problems.append(
            f"prompt and answer may have {whole} tokens, the model was made for {prompting.positions}; give a smaller "
            "max_new_tokens"
        )
    prompting = replace(prompting, longest_tried=tried, cut_at=cut_at)
    return replace(found, prompting=prompting, problems=(*found.problems, *problems))


def _run(found: Report, runner: Runner, methods: Mapping[str, Method], example: Example) -> Report:
    """Run the row on the loaded model, and replace what was expected by what was found."""
    assert found.generation is not None and found.passes is not None
    model, decoder, longest = runner.model, runner.decoder, min(found.generation.max_new_tokens, LONGEST_ANSWER)
    if all(set(method.alphas or ()) == {1} for method in methods.values()):
        methods = {**methods, "a try": TRIED}

    def asked(method: Method) -> Prompt:
        parts = (example.messages, example.question, example.prompt, (example.image,), example.task, ())
        return runner.prompt(method, *parts)

    answers = {
        name: runner.answer([asked(method)], method, max_new_tokens=longest)[0] for name, method in methods.items()
    }
    inputs = runner.encode([asked(Baseline())]).to(model.device, model.dtype).inputs

    def after(further: int) -> Cache:
        options = {"min_new_tokens": 1 + further, "stop_strings": None}
        cache = Greedy.of(model.generation_config, 1 + further, options).generate(model, inputs).past_key_values
        assert isinstance(cache, Cache)
        return cache

    passes = report.Passes(1, certain=True, reason="a row was run")
    # An edit of all rows takes a complete pass wherever steering takes none.
    many = sum(method.attention is not None and method.attention.rows == "all" for method in methods.values())
    if decoder.stats.full_passes > many:
        reason = "a row was run, and its masks do not allow copies of the last token"
        passes = found.passes if found.passes.count == 2 else report.Passes(2, certain=True, reason=reason)
    return replace(
        found,
        weights=_weights(model, model.config, loaded=True),
        prefixes=decoder.prefix_bytes,
        passes=passes,
        cache=_cache(after, loaded=True),
        answers={
            name: report.Answered(answer.alpha, answer.confidence, answer.text) for name, answer in answers.items()
        },
    )
