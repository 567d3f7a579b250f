"""The form of a trace: a text file with one JSON object per line, first the header, then one line per row.

A coefficient is written as a key in the form of `alpha_key`: ``"0.5"``, ``"1.0"``. It is the strength of the method
that was swept: alpha of ScalingVis, gamma of SLA. A trace of a sweep has an answer for every coefficient of its header
in every row; a trace of an ordinary run has one, under the coefficient that the method chose. A trace without a header
has the fields question, gold, confidence, generations and, optionally, options: the form in which recorded runs of the
authors' code are exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from adaptvis_plugin.decoding import Method

FORMAT: Literal[1] = 1
"""The version of this form, under the header's key `adaptvis_trace`; a file with another one is refused."""


def alpha_key(alpha: float) -> str:
    """Return a coefficient as a key: the shortest text that reads back as the same number, always with a point."""
    return repr(float(alpha))


def group_of(row: Any, set_id: Any, image: Any) -> str:
    """Return what a row shares with rows that are not independent of it: its set, else its picture, else itself."""
    return f"set {set_id}" if set_id is not None else f"image {image}" if image is not None else f"row {row}"


def _finite(alpha: float) -> float:
    if not math.isfinite(alpha) or alpha < 0:
        raise ValueError("a coefficient is a finite number of at least 0")
    return alpha


@dataclass(frozen=True)
class Sweep:
    """What a sweep varied: the strength of one method, from the unsteered model on.

    Attributes:
        method: The method's name.
        plain: The coefficient under which a row has the unsteered model's answer.
        settings: The method's other hyper-parameters, as `Method.settings` has them.
    """

    method: str = "scalingvis"
    plain: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The method as reports call it: `ScalingVis`."""
        return self._class.__name__

    @property
    def strength(self) -> str:
        """The hyper-parameter that was varied: `alpha`."""
        found = self._class.strength
        assert found is not None
        return found

    @property
    def _class(self) -> type[Method]:
        from adaptvis_plugin.methods import method_class  # here, because the class imports torch

        return method_class(self.method)

    @property
    def unusual(self) -> dict[str, Any]:
        """Those of the settings that are not the method's defaults, as a preset has them."""
        from adaptvis_plugin.methods import defaults

        usual = defaults(self.method)
        return {name: value for name, value in self.settings.items() if value != usual.get(name)}

    def values(self, strength: float) -> dict[str, Any]:
        """Return the method's hyper-parameters under a strength."""
        return {self.strength: strength, **self.settings}


OFFERED = "options"
"""The key of a header's settings for the options that were offered to rows that offer none."""

Alpha = Annotated[float, AfterValidator(_finite)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Header(BaseModel):
    """What decides the answers of a trace. Two runs may share a trace only if their headers are equal.

    Attributes:
        adaptvis_trace: The version of the form.
        task: The task's name in its framework.
        task_version: The version that the task's file gives.
        rows: The number of rows that the whole task has; a trace with fewer is partial.
        data: A digest of what was asked: the documents' questions and pictures.
        scoring: `whatsup` or `vsr` for this package's data sets and those of their form; None for any other task.
        model: The checkpoint, as it was given.
        revision: The commit on the hub, or the fingerprint of a folder; None if unknown.
        dtype: The weights' type: `float32`, `bfloat16`, `float16`, `float64`.
        prompt: `paper` or `chat`.
        method: `sweep`, or the name of the method of an ordinary run.
        swept: Of a sweep: the method whose strength was varied.
        settings: The method's hyper-parameters; of a sweep without the strength, and with the options that it offered
            to rows that offer none.
        alphas: The recorded coefficients, the unsteered model's first, if every row has all of them: a sweep. Else
            empty.
        max_new_tokens: The longest answer in tokens.
        generation: The other options of the decoding, such as stop strings.
        code: A digest of the code that decides an answer.
        packages: The versions of adaptvis-plugin, torch, transformers and the framework.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    adaptvis_trace: Literal[1] = FORMAT
    task: str
    task_version: str | None = None
    rows: int = Field(ge=0)
    data: str | None = None
    scoring: Literal["whatsup", "vsr"] | None = None
    model: str
    revision: str | None = None
    dtype: str
    prompt: str
    method: str = "sweep"
    swept: str = Sweep.method
    settings: dict[str, Any] = Field(default_factory=dict)
    alphas: tuple[Alpha, ...] = ()
    max_new_tokens: int = Field(ge=1)
    generation: dict[str, Any] = Field(default_factory=dict)
    code: str | None = None
    packages: dict[str, str] = Field(default_factory=dict)

    @property
    def sweep(self) -> Sweep:
        """What was varied. An ordinary run varied nothing; only a sweep is asked."""
        others = {name: value for name, value in self.settings.items() if name != OFFERED}
        return Sweep(self.swept, self.alphas[0] if self.alphas else Sweep.plain, others)


class TopToken(BaseModel):
    """One of the likeliest first tokens of the unsteered model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int
    text: str
    log_probability: float


class Row(BaseModel):
    """One question and its answers.

    Attributes:
        doc_id: The row's number in its task; None in a trace without a header, where it is the line's number.
        asked: A digest of the question and its pictures, to notice that a task's data have changed.
        question: The prompt as the processor took it or, in a task's own words, the question.
        gold: The right answer.
        relation: The relation that the row tests, in lower case; see `adaptvis_plugin.data.cache`.
        set_id: Equal for pictures of the same objects; None if the data has no sets.
        pair_id: Equal for pictures of the same objects in opposite relations.
        image: Equal for rows with the same picture; None if unknown.
        confidence: The unsteered model's probability of its likeliest first token.
        entropy: The entropy of the unsteered model's first token, in nats.
        top: The unsteered model's 20 likeliest first tokens, likeliest first.
        alpha: The coefficient that an ordinary run applied. In a sweep None, or that of the unsteered model if the row
            has no image to steer.
        generations: The answer under each coefficient.
        metrics: Under each coefficient, the numbers that the task's own `process_results` gave; only those that have
            a meaning for a single row.
        options: Under each coefficient, the probability of each offered option at the first token, divided by their
            sum. Empty if the row offers none, or if two options begin with the same token.
        input_tokens: The length of the prompt.
        output_tokens: The length of the answer under each coefficient.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    doc_id: int | None = None
    asked: str | None = None
    question: str
    gold: str
    relation: str | None = None
    set_id: int | None = None
    pair_id: int | None = None
    image: str | None = None
    confidence: Probability
    entropy: float | None = None
    top: tuple[TopToken, ...] = ()
    alpha: Alpha | None = None
    generations: dict[Alpha, str] = Field(min_length=1)
    metrics: dict[Alpha, dict[str, float | None]] = Field(default_factory=dict)
    options: dict[Alpha, dict[str, Probability]] = Field(default_factory=dict)
    input_tokens: int | None = None
    output_tokens: dict[Alpha, int] = Field(default_factory=dict)

    def line(self) -> str:
        """Return the row as a line of a trace, with its newline; what is absent is left out."""
        return self.model_dump_json(exclude_none=True, exclude_defaults=True) + "\n"
