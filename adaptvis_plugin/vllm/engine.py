"""Rows in, answers out as they finish: the methods on a vLLM engine, with its batching and its prefix cache."""

import contextlib
import itertools
import logging
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from adaptvis_plugin.decoding import Baseline, Method, NonFiniteLogitsError, Statistics
from adaptvis_plugin.decoding.first_token import Recorded
from adaptvis_plugin.decoding.inspection import image_token_id
from adaptvis_plugin.models.answers import Answer
from adaptvis_plugin.models.asked import listed
from adaptvis_plugin.models.batching import ahead
from adaptvis_plugin.models.prompts import begins
from adaptvis_plugin.models.stopping import texts_and_lengths
from adaptvis_plugin.vllm.generation import Generation
from adaptvis_plugin.vllm.methods import check_method
from adaptvis_plugin.vllm.steering import Steering
from adaptvis_plugin.vllm.support import check_places, check_version, refusal

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams

log = logging.getLogger(__name__)

AHEAD = 32
"""Rows whose images are prepared before the engine has room for them."""

ENDED = ("stop", "length")
"""Why a request may end with an answer."""

K = TypeVar("K")


@dataclass(frozen=True)
class Row:
    """What an engine is asked.

    Attributes:
        prompt: A text, or a dictionary with `prompt` and `multi_modal_data`, as vLLM takes them.
        method: The method.
        generation: How it is decoded.
        name: What the user knows the row by, for errors.
    """

    prompt: Any
    method: Method
    generation: Generation
    name: str


@dataclass
class _Asked:
    """A row in the engine.

    Attributes:
        row: The row.
        rendered: Its prompt as tokens and features.
        image: The columns up to its last image token; 0 without an image.
        first: Whether it was asked for the first token alone.
        confidence: What that said.
        alpha: The coefficient.
    """

    row: Row
    rendered: Any
    image: int
    first: bool = False
    confidence: float = math.nan
    alpha: float = 1.0

    @property
    def tokens(self) -> int:
        """The most tokens that it takes."""
        return len(self.rendered["prompt_token_ids"]) + self.row.generation.max_new_tokens


class Engine:
    """A vLLM engine that answers rows under the methods.

    A row is first asked for the plain model's first token. The confidence chooses its alpha, and it is asked again at
    once, while the prefix cache still holds its prompt. A row that cannot be steered is asked once. The engine is given
    as many rows as it takes at a time: otherwise it would do all of the plain requests first, and lose their prefixes.

    Args:
        llm: The engine, which nobody else uses while it answers.

    Attributes:
        llm: The engine.
        stats: What it has done so far.

    Raises:
        ImportError: See `check_version`.
    """

    _numbers = itertools.count()

    def __init__(self, llm: "LLM") -> None:
        check_version()
        self.llm = llm
        self.stats = Statistics()
        self._engine = llm.llm_engine
        config = self._engine.vllm_config
        self._model = config.model_config
        self._tokenizer = llm.get_tokenizer()
        self._image_token = image_token_id(self._model.hf_config)
        self._most_rows = config.scheduler_config.max_num_seqs
        blocks = config.cache_config.num_gpu_blocks
        self._most_tokens = blocks * config.cache_config.block_size if blocks else math.inf
        self._own = {**self._model.try_get_generation_config(), **(self._model.override_generation_config or {})}
        self._told_of_rows_without_image = False

    def check(self, method: Method) -> None:
        """Check that the engine can decode under a method.

        Raises:
            ValueError: If it cannot, or the model lacks a layer or head that the method names.
        """
        check_method(method)
        if self._model.logprobs_mode != "raw_logprobs":
            raise ValueError(
                f"logprobs_mode={self._model.logprobs_mode}: the confidence is read from logprobs_mode=raw_logprobs, "
                "vLLM's default"
            )
        if isinstance(method, Baseline):
            return
        if (reason := refusal(self._engine.vllm_config)) is not None:
            raise ValueError(reason)
        check_places(self._model, method.steered)

    def generation(self, **options: Any) -> Generation:
        """Return how answers are decoded; see `Generation.of`.

        Raises:
            ValueError: See there.
        """
        return Generation.of(self._own, options, self._tokenizer)

    def answers(self, keys: Iterable[K], row: Callable[[K], Row]) -> Iterator[tuple[K, Answer]]:
        """Yield the answer of each row as soon as it is there.

        Args:
            keys: What the caller knows rows by.
            row: Makes one; called a little ahead, in another thread.

        Raises:
            ValueError: If a prompt cannot be asked; the message names the row.
            NonFiniteLogitsError: If a row's logits are not finite.
            RuntimeError: If the engine fails.
        """
        if self._engine.has_unfinished_requests():
            raise ValueError("the engine has requests of its own; wait for them (wait_for_completion) first")
        waiting: Generator[tuple[K, _Asked]] = ahead(keys, lambda key: (key, self._rendered(row(key))), AHEAD)
        asked: dict[str, tuple[K, _Asked]] = {}
        try:
            coming = next(waiting, None)
            while coming is not None or asked:
                while coming is not None and self._has_room(coming[1], [one for _, one in asked.values()]):
                    asked[self._begin(coming[1])] = coming
                    coming = next(waiting, None)
                for output in self._step([one for _, one in asked.values()]):
                    key, one = asked[output.request_id]
                    if not output.finished:
                        if not one.row.generation.ended(output.outputs[0].token_ids):
                            continue
                        self._engine.abort_request([output.request_id])
                    del asked[output.request_id]
                    if one.first:
                        asked[self._steer(one, output)] = key, one
                    else:
                        yield key, self._answer(one, output)
        finally:
            waiting.close()
            with contextlib.suppress(Exception):  # an engine that has failed takes nothing back
                self._engine.abort_request([*asked])

    def _rendered(self, row: Row) -> _Asked:
        from vllm.renderers.inputs.preprocess import parse_model_prompt

        with _naming(row.name):
            renderer = self.llm.renderer
            parsed = parse_model_prompt(self._model, row.prompt)
            options = renderer.default_cmpl_tok_params
            if begins(self._tokenizer, parsed.get("prompt") or ""):
                options = options.with_kwargs(add_special_tokens=False)
            # Without the cache that the engine mirrors: it counts on every prompt being sent once, in this order.
            (rendered,) = renderer.render_cmpl([parsed], options, skip_mm_cache=True)
            if "prompt_token_ids" not in rendered:
                raise ValueError("the prompt is not one text; give a text, or a dictionary with prompt")
            last = max((i + 1 for i, t in enumerate(rendered["prompt_token_ids"]) if t == self._image_token), default=0)
            if not last and rendered["type"] == "multimodal" and not isinstance(row.method, Baseline):
                raise ValueError(
                    f"the prompt has images, but none of its tokens is {self._image_token}, by which the model's "
                    "config names them, so it cannot be steered"
                )
            return _Asked(row, rendered, last)

    def _has_room(self, row: _Asked, asked: Sequence[_Asked]) -> bool:
        fits = sum(one.tokens for one in asked) + row.tokens <= self._most_tokens
        return not asked or (len(asked) < self._most_rows and fits)

    def _begin(self, asked: _Asked) -> str:
        method, generation = asked.row.method, asked.row.generation
        steers = {*(method.alphas or ())} != {1.0}
        if steers and not asked.image and not self._told_of_rows_without_image:
            self._told_of_rows_without_image = True
            log.warning(
                "%s holds no image token and is decoded unsteered (alpha 1), as all such rows are", asked.row.name
            )
        asked.first = steers and asked.image > 0
        return self._add(asked, generation.first_token() if asked.first else generation.answer())

    def _steer(self, asked: _Asked, output: "RequestOutput") -> str:
        """Ask a row again, under the alpha that its first token chooses."""
        self._look(asked, output)
        method, asked.first = asked.row.method, False
        asked.alpha = float(method.choose(Recorded(confidence=torch.tensor([asked.confidence])))[0])
        steering = None if asked.alpha == 1 else Steering(asked.alpha, **method.places)
        return self._add(asked, asked.row.generation.answer(steering))

    def _add(self, asked: _Asked, parameters: "SamplingParams") -> str:
        with _naming(asked.row.name):
            number = f"adaptvis-{next(self._numbers)}"
            self._engine.add_request(number, asked.rendered, parameters)
            return number

    def _step(self, asked: Sequence[_Asked]) -> "Sequence[RequestOutput]":
        try:
            outputs: Sequence[RequestOutput] = self._engine.step()
        except Exception as error:
            names = listed([one.row.name for one in asked])
            raise RuntimeError(f"the engine failed while it answered {names}: {error}") from error
        return outputs

    def _look(self, asked: _Asked, output: "RequestOutput") -> None:
        """Read the confidence, and count the row."""
        asked.confidence = math.exp(max(one.logprob for one in _first_token(asked, output).values()))
        self.stats.rows += 1
        self.stats.prefixes_reused += 0 < asked.image <= (output.num_cached_tokens or 0)

    def _answer(self, asked: _Asked, output: "RequestOutput") -> Answer:
        (found,) = output.outputs
        generation = asked.row.generation
        if math.isnan(asked.confidence):
            self._look(asked, output)
        _first_token(asked, output)
        tokens = torch.tensor([list(found.token_ids)])
        ((text, length),) = texts_and_lengths(self._tokenizer, tokens, generation.ends, generation.stop)
        if found.finish_reason == "length" and len(found.token_ids) < generation.max_new_tokens:
            raise ValueError(
                f"{asked.row.name}: the engine has no room for more than {len(found.token_ids)} tokens of the answer, "
                f"of {generation.max_new_tokens}; give a larger max_model_len (it is {self._model.max_model_len}), or "
                "fewer max_new_tokens"
            )
        prompt = len(asked.rendered["prompt_token_ids"])
        return Answer(text, asked.confidence, round(asked.alpha, 6), prompt, length)


def _first_token(asked: _Asked, output: "RequestOutput") -> Mapping[int, Any]:
    """Return the log-probabilities at the first token.

    Raises:
        NonFiniteLogitsError: If they are not finite.
        RuntimeError: If the request was not answered.
    """
    (found,) = output.outputs
    if (output.finished and found.finish_reason not in ENDED) or not found.logprobs:
        raise RuntimeError(f"{asked.row.name}: the engine gave no answer ({found.finish_reason})")
    first: Mapping[int, Any] = found.logprobs[0]
    if not all(math.isfinite(one.logprob) for place in found.logprobs for one in list(place.values())[:1]):
        raise NonFiniteLogitsError(
            f"{asked.row.name}: the logits are not finite. Likely cause: float16, which holds no value above 65504 "
            "(load the model with dtype=bfloat16), a damaged checkpoint, or a coefficient that is too large",
            (0,),
        )
    return first


@contextlib.contextmanager
def _naming(row: str) -> Iterator[None]:
    """Put a row's name before another package's error."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{row}: {error}") from error
