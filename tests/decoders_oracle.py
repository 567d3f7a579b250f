"""The slow, obvious computation of every further method, which the decoder is compared with.

Every token is another complete pass over all that stands before it: no cache, and attention with the full score matrix
where a method edits it. A formula is written for one row, in double precision, from docs/methods.md. No code is shared
with the package. Early exits are transformers' `output_hidden_states`.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from tests import oracle

Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Raised:
    """PAI and HeadsGuided: x + alpha |x|, or the mean of |x| over the heads, on the image, from the last row on."""

    alpha: float
    over_heads: bool = False

    def __call__(self, scores: torch.Tensor, image: torch.Tensor, prompt: int) -> torch.Tensor:
        size = scores.abs()
        if self.over_heads:
            size = size.mean(0, keepdim=True).expand_as(size)
        raised = scores.clone()
        raised[:, prompt - 1 :, image] += self.alpha * size[:, prompt - 1 :, image]
        return raised


@dataclass(frozen=True)
class Balanced:
    """VAF: x times a factor on the image and another before it, in all rows after the image."""

    enhancement: float
    suppression: float

    def __call__(self, scores: torch.Tensor, image: torch.Tensor, prompt: int) -> torch.Tensor:
        balanced = scores.clone()
        balanced[:, image[-1] + 1 :, image] *= self.enhancement
        balanced[:, image[-1] + 1 :, : image[0]] *= self.suppression
        return balanced


@dataclass(frozen=True)
class Edit:
    """What happens to attention logits.

    Attributes:
        change: Maps the scores of a row of the batch, shape (heads, tokens, tokens), given the columns of its image
            and the number of prompt tokens.
        places: The layers, each with the heads in which it acts; None for all heads.
    """

    change: Raised | Balanced
    places: tuple[tuple[int, tuple[int, ...] | None], ...]


def published(first: int, last: int, depth: int) -> tuple[tuple[int, None], ...]:
    """Return published layers of 32 in a model of another depth, both ends included."""
    return tuple((layer, None) for layer in sorted({math.floor(k * depth / 32) for k in range(first, last + 1)}))


@dataclass(frozen=True)
class Pass:
    """What a complete pass says about the next token: logits, (batch, vocabulary), and the hidden states."""

    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...]


@dataclass
class Passes:
    """Complete passes over a batch. The same pass is made once.

    Attributes:
        model: The model.
        inputs: The prompts.
        image: The image token.
        own_positions: Whether the family derives positions from its images. None are then given.
        answer_type: The value of `token_type_ids` for a generated token.
    """

    model: Any
    inputs: Inputs
    image: int
    own_positions: bool = False
    answer_type: int = 0
    _made: dict[Any, Pass] = field(default_factory=dict, init=False)

    def after(self, new: list[torch.Tensor], edit: Edit | None = None) -> Pass:
        """Return what the model says after the tokens generated so far, each of shape (batch,)."""
        key = (edit, tuple(map(tuple, (token.tolist() for token in new))))
        if key not in self._made:
            batch = oracle.extended(self.inputs, new, self.answer_type, self.own_positions)
            with torch.no_grad(), oracle.attending(self.model, None if edit is None else partial(self._edited, edit)):
                out = self.model(**batch, use_cache=False, output_hidden_states=True)
            self._made[key] = Pass(out.logits[:, -1], tuple(hidden[:, -1] for hidden in out.hidden_states))
        return self._made[key]

    def _edited(self, edit: Edit, scores: torch.Tensor, layer: int) -> None:
        for number, heads in edit.places:
            for row, ids in enumerate(self.inputs["input_ids"]):
                columns = (ids == self.image).nonzero().flatten()
                if number == layer and len(columns):
                    changed = edit.change(scores[row], columns, len(ids))
                    for head in range(len(changed)) if heads is None else heads:
                        scores[row, head] = changed[head]

    def exit(self, seen: Pass, k: int) -> torch.Tensor:
        """Return the logits of exit k, shape (batch, vocabulary): final norm, head, and what the config adds."""
        inner = self.model.get_decoder()
        inner = getattr(inner, "model", inner)
        norm = inner.embedding_norm if hasattr(inner, "embedding_norm") else inner.norm
        with torch.no_grad():
            torch.testing.assert_close(self._head(seen.hidden[-1]), seen.logits, atol=1e-4, rtol=1e-4)
            return self._head(norm(seen.hidden[k]))

    def _head(self, normed: torch.Tensor) -> torch.Tensor:
        """Return logits as the family's forward pass does, which may not ask the text decoder's config."""
        kind, text = self.model.config.model_type, self.model.config.get_text_config(decoder=True)
        logits: torch.Tensor = self.model.get_output_embeddings()(normed)
        if kind == "granite_docling":
            logits = logits / text.logits_scaling
        # An older transformers leaves PaliGemma's out.
        capped = kind in ("paligemma", "gemma4") and "softcapping" in inspect.getsource(type(self.model).forward)
        cap = getattr(text, "final_logit_softcapping", None) if capped else None
        return logits if cap is None else torch.tanh(logits / cap) * cap


Formula = Callable[[torch.Tensor, torch.Tensor, Sequence[torch.Tensor], int], torch.Tensor]
"""Maps a row's logits, those of its view, those of its exits, and the number of tokens so far to new logits."""


@dataclass(frozen=True)
class Rule:
    """A method.

    Attributes:
        formula: What happens to the logits; None if nothing does.
        edit: What happens to attention; None if nothing does.
        exits: The early exits that it reads.
        view: Whether it has a second stream.
        needs_image: Whether it leaves rows without an image as they are.
    """

    formula: Formula | None = None
    edit: Edit | None = None
    exits: tuple[int, ...] = ()
    view: bool = False
    needs_image: bool = False


@dataclass(frozen=True)
class Expected:
    """What a method gives.

    Attributes:
        logits: Those of each token, shape (tokens, batch, vocabulary).
        sequences: The tokens, shape (batch, tokens).
        confidence: The plain model's, shape (batch,).
    """

    logits: torch.Tensor
    sequences: torch.Tensor
    confidence: torch.Tensor


def decode(rows: Passes, rule: Rule, tokens: int, forbidden: Sequence[int], view: Passes | None = None) -> Expected:
    """Decode greedily, token by token."""
    acts = [bool((ids == rows.image).any()) or not rule.needs_image for ids in rows.inputs["input_ids"]]
    done = torch.zeros(len(acts), dtype=torch.bool)
    new: list[torch.Tensor] = []
    each: list[torch.Tensor] = []
    while len(new) < tokens and not bool(done.all()):
        seen = rows.after(new, rule.edit)
        logits = seen.logits.clone()
        if rule.formula is not None:
            other = view.after(new).logits if rule.view and view is not None else logits
            exits = [rows.exit(seen, k) for k in rule.exits]
            for row in range(len(logits)):
                if acts[row]:
                    own, beside = seen.logits[row].double(), other[row].double()
                    logits[row] = rule.formula(own, beside, [one[row].double() for one in exits], len(new)).float()
        each.append(logits)
        left = logits.index_fill(1, torch.tensor(forbidden), -torch.inf).isfinite().any(1, keepdim=True)
        # Where the method leaves no token that is allowed, the plain model chooses.
        new.append(oracle.likeliest(rows.model, torch.where(left, logits, seen.logits), done, forbidden))
        done |= new[-1] == rows.model.generation_config.eos_token_id
    return Expected(torch.stack(each), torch.stack(new, 1), rows.after([]).logits.softmax(-1).amax(-1))


def plain() -> Rule:
    return Rule()


def contrast(alpha: float, beta: float, needs_image: bool) -> Rule:
    """VCD and ICD."""

    def formula(own: torch.Tensor, view: torch.Tensor, exits: Any, t: int) -> torch.Tensor:
        return _plausible((1 + alpha) * own - alpha * view, own, beta)

    return Rule(formula, view=True, needs_image=needs_image)


def m3id(forgetting: float, beta: float) -> Rule:
    def formula(own: torch.Tensor, view: torch.Tensor, exits: Any, t: int) -> torch.Tensor:
        g = math.exp(-forgetting * t)
        return _plausible(own + (1 - g) / g * (own - view), own, beta)

    return Rule(formula, view=True, needs_image=True)


def pai(alpha: float, places: Any) -> Rule:
    return Rule(edit=Edit(Raised(alpha), tuple(places)), needs_image=True)


def pai_guided(alpha: float, places: Any, gamma: float, beta: float) -> Rule:
    def formula(own: torch.Tensor, view: torch.Tensor, exits: Any, t: int) -> torch.Tensor:
        log_p, log_p_view = own.softmax(-1).log(), view.softmax(-1).log()
        return _plausible(gamma * (log_p - log_p_view) + log_p_view, own, beta)

    return Rule(formula, Edit(Raised(alpha), tuple(places)), view=True, needs_image=True)


def heads_guided(alpha: float, places: Any) -> Rule:
    return Rule(edit=Edit(Raised(alpha, over_heads=True), tuple(places)), needs_image=True)


def vaf(enhancement: float, suppression: float, places: Any) -> Rule:
    return Rule(edit=Edit(Balanced(enhancement, suppression), tuple(places)), needs_image=True)


def dola(beta: float, exits: tuple[int, ...]) -> Rule:
    def formula(own: torch.Tensor, view: Any, exits: Sequence[torch.Tensor], t: int) -> torch.Tensor:
        p = own.softmax(-1)
        early = max((one.softmax(-1) for one in exits), key=lambda q: _divergence(p, q))
        return _plausible(p.log() - early.log(), own, beta)

    return Rule(formula, exits=exits)


def deco(alpha: float, top_p: float, top_k: int, exits: tuple[int, ...]) -> Rule:
    def formula(own: torch.Tensor, view: Any, exits: Sequence[torch.Tensor], t: int) -> torch.Tensor:
        p = own.softmax(-1)
        candidates: list[int] = []
        for token in p.argsort(descending=True).tolist()[:top_k]:
            if not candidates or float(p[candidates].sum()) < top_p:
                candidates.append(token)
        surest = max(exits, key=lambda one: float(one.softmax(-1)[candidates].max()))
        corrected = own + alpha * surest.softmax(-1)[candidates].max() * surest
        return torch.full_like(own, -torch.inf).index_copy(0, torch.tensor(candidates), corrected[candidates])

    return Rule(formula, exits=exits)


def sla(gamma: float, exits: tuple[int, ...]) -> Rule:
    def formula(own: torch.Tensor, view: Any, exits: Sequence[torch.Tensor], t: int) -> torch.Tensor:
        return (1 - gamma) * own + gamma * sum(exits) / len(exits)

    return Rule(formula, exits=exits)


def says_yes(logits: torch.Tensor, options: Mapping[str, Sequence[int]], margin: float, least: float) -> bool:
    """YesBias: whether a row's first token becomes Yes."""
    p = logits.double().softmax(-1)
    yes, no = (sum(float(p[token]) for token in options[word]) for word in ("Yes", "No"))
    return yes + no > least and abs(yes - no) < margin


def _plausible(scores: torch.Tensor, logits: torch.Tensor, beta: float) -> torch.Tensor:
    p = logits.softmax(-1)
    return torch.where(p >= beta * p.max(), scores, -torch.inf)


def _divergence(p: torch.Tensor, q: torch.Tensor) -> float:
    middle = (p + q) / 2
    return float((p * (p / middle).log()).sum() / 2 + (q * (q / middle).log()).sum() / 2)


def published_exits(numbers: Sequence[int], depth: int) -> tuple[int, ...]:
    """Return published exits of 32-layer models in a model of another depth."""
    return tuple(sorted({math.floor(k * depth / 32) for k in numbers}))
