"""The form of what `examine` finds out about a checkpoint. All sizes of memory are in bytes."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Weights:
    """The model's parameters.

    Attributes:
        parameters: Their number.
        by_dtype: Their memory.
        loaded: Whether that is of the loaded model. Else it is what config.json says.
        quantisation: How the stored weights are quantised, which makes them smaller than config.json says; None if they
            are not, or if the model was loaded.
    """

    parameters: int
    by_dtype: dict[str, int]
    loaded: bool
    quantisation: str | None


@dataclass(frozen=True)
class Passes:
    """What steering a row costs.

    Attributes:
        count: 1 if the steered rows ride in the ordinary prefill, 2 if a complete pass is made for each coefficient.
        certain: Whether that is known, or only expected.
        reason: Why.
    """

    count: int
    certain: bool
    reason: str


@dataclass(frozen=True)
class Asked:
    """One row as the model is asked it.

    Attributes:
        table: The table that it is from.
        row: Its number there.
        text: The prompt as the processor takes it.
        tokens: The length of the prompt after the processor.
        image_columns: How many of these hold the image placeholder.
        picture: Width and height of its picture.
    """

    table: str
    row: int
    text: str
    tokens: int
    image_columns: int
    picture: tuple[int, int]


@dataclass(frozen=True)
class CacheUse:
    """The cache of the row.

    Attributes:
        prompt: Memory after its prompt.
        per_token: Memory for each further token.
        layers: What the layers keep, and how many keep it.
        loaded: Whether that is of the loaded model.
    """

    prompt: int
    per_token: int
    layers: dict[str, int]
    loaded: bool


@dataclass(frozen=True)
class Prompting:
    """How rows are asked.

    Attributes:
        style: The prompt style.
        style_source: Where that comes from.
        impossible: The styles that are not possible, and why.
        tokenizer_limit: The longest prompt for which the tokenizer says it was made.
        positions: The number of positions for which the text decoder says it was made.
        longest_tried: The length in tokens of a long prompt that the processor was given; None if it took none.
        cut_at: The length to which it cut that; None if it left it whole.
    """

    style: str
    style_source: str
    impossible: dict[str, str]
    tokenizer_limit: int | None
    positions: int | None
    longest_tried: int | None = None
    cut_at: int | None = None


@dataclass(frozen=True)
class Settings:
    """A method's settings for the task.

    Attributes:
        values: Its hyper-parameters.
        sources: Where each comes from.
        missing: What to give if they are not complete, or if the model lacks a layer or head; None if all is well.
    """

    values: dict[str, Any]
    sources: dict[str, str]
    missing: str | None


@dataclass(frozen=True)
class Generation:
    """How an answer is decoded.

    Attributes:
        max_new_tokens: The longest answer.
        kept: What in the checkpoint's generation config decides an answer beside the logits. The confidence is that of
            the logits alone.
        ignored: What in it asks for another decoding than greedy.
    """

    max_new_tokens: int
    kept: dict[str, Any]
    ignored: dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """What the loaded model answered to the row under a method."""

    alpha: float
    confidence: float
    text: str


@dataclass(frozen=True)
class Report:
    """Everything that was found.

    Attributes:
        model: The checkpoint, as it was given.
        source: Its folder, or its name on the hub.
        model_type: Its type in transformers.
        architecture: Its class there.
        task: The task.
        attention: The attention kernel.
        attentions: The kinds of kernels that the class has.
        weights: See `Weights`.
        refusal: Why it cannot be steered; None if it can.
        problems: What would stop a run with these arguments, or change its answers.
        image_token_id: The id of the image placeholder. None if the model is refused, as is everything below.
        image_token: Its text.
        layers: The numbers of its attention layers, which `layers` and `heads` may name.
        heads: The number of heads in each.
        prefixes: The most memory that the decoder uses for prompts that other rows share.
        passes: See `Passes`.
        prompting: See `Prompting`.
        asked: See `Asked`; None also if the row cannot be asked.
        cache: See `CacheUse`; None also if the row cannot be asked.
        settings: The settings by method.
        generation: See `Generation`.
        answers: The answers by method; None also if no row was run.
    """

    model: str
    source: str
    model_type: str
    architecture: str
    task: str
    attention: str
    attentions: tuple[str, ...]
    weights: Weights
    refusal: str | None = None
    problems: tuple[str, ...] = ()
    image_token_id: int | None = None
    image_token: str | None = None
    layers: tuple[int, ...] | None = None
    heads: int | None = None
    prefixes: int | None = None
    passes: Passes | None = None
    prompting: Prompting | None = None
    asked: Asked | None = None
    cache: CacheUse | None = None
    settings: dict[str, Settings] | None = None
    generation: Generation | None = None
    answers: dict[str, Answered] | None = None

    @property
    def usable(self) -> bool:
        """Whether the model can be steered, and the row can be asked."""
        return self.refusal is None and self.asked is not None
