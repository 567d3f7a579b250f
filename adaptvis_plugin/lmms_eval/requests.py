"""lmms-eval's requests and results, and those of this package: one in terms of the other."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmms_eval.api.instance import GenerationResult, TokenCounts

from adaptvis_plugin.models.answers import Answer
from adaptvis_plugin.models.validation import positive
from adaptvis_plugin.traces import Row

GREEDY = {"do_sample": (False, None), "num_beams": (1, None), "temperature": (0, 0.0, None)}
"""Generation options that may only have these values: the methods are defined for greedy decoding."""

NO_EFFECT = ("top_p", "top_k", "seed", "image_aspect_ratio")
"""Generation options that many tasks set, and that have no effect here.

The last is for the code of the first LLaVA alone; in models of transformers the processor decides how a picture is cut.
"""

FEWSHOT_DELIMITER = "\n\n"
"""What lmms-eval writes into `until` where a task does not: the separator of few-shot examples for base models.

It would cut an answer after its first paragraph. lmms-eval's newest chat models (Qwen3.5, LFM2.5-VL, LLaVA-OneVision 2)
ignore `until` altogether; here every stop string holds but this one."""


@dataclass
class SteeredCounts(TokenCounts):
    """Token counts that carry a row's confidence and alpha into the samples file, which keeps no other field."""

    confidence: float = math.nan
    alpha: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, with `confidence` and `alpha` beside them."""
        return {**super().to_dict(), "confidence": self.confidence, "alpha": self.alpha}


def result_of(answer: Answer) -> GenerationResult:
    """Return an answer as lmms-eval takes it."""
    return GenerationResult(
        answer.text, SteeredCounts(answer.input_tokens, answer.output_tokens, None, answer.confidence, answer.alpha)
    )


def recorded_answer(row: Row, alpha: float) -> Answer:
    """Return a trace's answer under a coefficient."""
    tokens = row.input_tokens or 0, row.output_tokens.get(alpha, 0)
    return Answer(row.generations[alpha], row.confidence, alpha if row.alpha is None else row.alpha, *tokens)


def check_model_args(text: str, options: Mapping[str, Any]) -> None:
    """Check the text of `--model_args`.

    Args:
        text: The text.
        options: What the command's own options say.

    Raises:
        ValueError: If it is not NAME=VALUE,..., or an argument is given twice, here or by an option of the command.
    """
    if "{" not in text and (odd := [part for part in text.split(",") if part and "=" not in part]):
        raise ValueError(f"--model_args {text}: {odd[0]!r} is not NAME=VALUE; write for example alpha=0.8")
    names = re.findall(r"(?:^|,)\s*(\w+)\s*=", text)
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"--model_args {text}: {twice[0]} is given twice")
    given = [name for name, value in options.items() if value is not None]
    if both := [name for name in names if name in given]:
        raise ValueError(
            f"--model_args {text}: give {both[0]} by the option --{both[0]} (or its default) and not here too"
        )


def generation_options(options: dict[str, Any], task: str) -> dict[str, Any]:
    """Return a task's `generation_kwargs` as options of `Runner.answer`, and leave the given dictionary unchanged.

    The stop strings are those of `until`, except `FEWSHOT_DELIMITER`.

    Raises:
        ValueError: If they ask for sampling or beams.
    """
    options = dict(options)
    for name, allowed in GREEDY.items():
        value = options.pop(name, None)
        if value not in allowed:
            raise ValueError(
                f"task {task!r} asks for {name}={value!r}: the steering methods are defined for greedy decoding; "
                "pass --gen_kwargs do_sample=False,num_beams=1,temperature=0"
            )
    for name in NO_EFFECT:
        options.pop(name, None)
    until = options.pop("until", None)
    until = [until] if isinstance(until, str) else until or []
    if stop_strings := [stop for stop in until if stop and stop != FEWSHOT_DELIMITER]:
        options["stop_strings"] = stop_strings
    options["max_new_tokens"] = positive("max_new_tokens", options.get("max_new_tokens", 100))
    return options


def given_value(value: Any) -> Any:
    """Return the value of a model argument; the command line passes an absent one as the text 'None'."""
    return None if value in (None, "", "None") else value
