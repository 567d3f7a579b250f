"""The methods from Python: prompts in, one answer for each."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from adaptvis_plugin.decoding import Method
from adaptvis_plugin.models.answers import Answer
from adaptvis_plugin.vllm.engine import Engine, Row

if TYPE_CHECKING:
    from vllm import LLM


def generate(
    llm: "LLM",
    prompts: Any,
    method: Method,
    *,
    use_tqdm: bool | Callable[..., "tqdm[Any]"] = True,
    **generation: Any,
) -> list[Answer]:
    """Answer prompts under a method.

    Args:
        llm: The engine.
        prompts: What `LLM.generate` takes: texts, or dictionaries with `prompt` and `multi_modal_data`.
        method: `Baseline`, `ScalingVis` or `AdaptVis`.
        use_tqdm: See `LLM.generate`.
        **generation: `max_new_tokens` (16 by default), `stop_strings`, `repetition_penalty`; see `Generation`.

    Returns:
        One answer for each prompt, in order.

    Raises:
        ImportError: See `Engine`.
        ValueError: If the engine cannot do it; see `Engine`.
        NonFiniteLogitsError: See `Engine.answers`.
        RuntimeError: See `Engine.answers`.

    Example:
        >>> answers = generate(llm, prompts, AdaptVis(0.5, 1.5, 0.4))
        >>> answers[0].text, answers[0].confidence, answers[0].alpha
    """
    engine = Engine(llm)
    from vllm.renderers.inputs.preprocess import prompt_to_seq

    engine.check(method)
    how = engine.generation(**generation)
    every = prompt_to_seq(prompts)
    found: dict[int, Answer] = {}
    bar = use_tqdm if callable(use_tqdm) else tqdm
    with bar(total=len(every), desc="Processed prompts", disable=not use_tqdm) as progress:
        for place, answer in engine.answers(
            range(len(every)), lambda place: Row(every[place], method, how, f"prompt {place}")
        ):
            found[place] = answer
            progress.update()
    return [found[place] for place in range(len(every))]
