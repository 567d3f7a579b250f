"""The slow, obvious computation that the decoder is compared with.

Two complete passes over the whole prompt, eager attention with the full score matrix, the last row times alpha
before the mask, in every layer and head or in some, or with a constant added in all rows; then greedy decoding, one
token at a time, unsteered. There is no cache: every token is another complete pass over everything so far, in which the
same single row is steered. No code is shared with
the package.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

_gain: torch.Tensor | None = None  # (batch, prompt tokens)
_added: torch.Tensor | float = 0.0  # (batch, prompt tokens)
_steered: Sequence[tuple[int, int]] | None = None  # layers and heads
_edit: Callable[[torch.Tensor, int], None] | None = None  # of scores, (batch, heads, tokens, tokens), in a layer
_weights: list[torch.Tensor] = []  # of the last prompt row, in each layer: (batch, heads, prompt tokens)


def _eager(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    repeats = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(repeats, dim=1)
    value = value.repeat_interleave(repeats, dim=1)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if _gain is not None:
        prompt = _gain.shape[1]
        for head in range(scores.shape[1]):
            if _steered is None or (int(module.layer_idx), head) in _steered:  # type: ignore[arg-type]
                scores[:, head, prompt - 1, :prompt] *= _gain
                scores[:, head, :prompt, :prompt] += _added[:, None] if isinstance(_added, torch.Tensor) else _added
    if _edit is not None:
        _edit(scores, int(module.layer_idx))  # type: ignore[arg-type]
    if attention_mask is not None:
        scores = scores + attention_mask[..., : scores.shape[-1]]
    if s_aux is not None:  # a sink takes weight and gives no value
        scores = torch.cat([scores, s_aux.view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)], -1)
    weights = scores.float().softmax(-1).to(query.dtype)[..., : key.shape[-2]]
    if _gain is not None and scores.shape[-2] == _gain.shape[1]:
        _weights.append(weights[:, :, -1])
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register("oracle", _eager)
AttentionMaskInterface.register("oracle", eager_mask)


@dataclass
class OracleResult:
    first_logits: torch.Tensor
    confidence: torch.Tensor
    sequences: torch.Tensor
    weights: torch.Tensor  # of the last prompt row under alpha; (batch, layers, heads, prompt tokens)


@contextmanager
def attending(model: PreTrainedModel, edit: Callable[[torch.Tensor, int], None] | None = None) -> Iterator[None]:
    """Let the text decoder attend with the full score matrix, which an edit may change in place before the mask."""
    global _edit
    own = model.config.get_text_config(decoder=True)._attn_implementation
    model.set_attn_implementation({"text_config": "oracle"})
    _edit = edit
    try:
        yield
    finally:
        _edit = None
        model.set_attn_implementation({"text_config": own})


def extended(
    inputs: dict[str, torch.Tensor], new: list[torch.Tensor], answer_type: int, own_positions: bool
) -> dict[str, torch.Tensor]:
    """Return the inputs of a pass over the prompt and the tokens generated so far, which are text."""
    tail = torch.stack(new, 1) if new else inputs["input_ids"][:, :0]
    ends = {
        "input_ids": tail,
        "attention_mask": torch.ones_like(tail),
        "mm_token_type_ids": torch.zeros_like(tail),
        "moe_mm_token_type_ids": torch.zeros_like(tail),
        "token_type_ids": torch.full_like(tail, answer_type),
    }
    batch = {k: torch.cat([v, ends[k].to(v.dtype)], 1) if k in ends else v for k, v in inputs.items()}
    if not own_positions:
        batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return batch


@torch.no_grad()
def complete_pass(
    model: PreTrainedModel,
    inputs: dict[str, torch.Tensor],
    image_token_id: int,
    alpha: torch.Tensor,
    tokens: int,
    *,
    own_positions: bool = False,
    answer_type: int = 0,
    forbidden: Sequence[int] = (),
    added: float = 0.0,
    steered: Sequence[tuple[int, int]] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generate once with `alpha` per row; return (first logits, new tokens).

    Args:
        own_positions: Whether the family derives positions from its images. None are then given.
        answer_type: The value of `token_type_ids` for a generated token.
        forbidden: Tokens that are never generated.
        added: What is added to the logits on image tokens in all rows of the prompt.
        steered: The only heads to which all that applies, each as its layer and its number; all by default.
    """
    global _gain, _added, _steered
    _gain = torch.where(inputs["input_ids"] == image_token_id, alpha[:, None], 1.0)
    _added, _steered = (inputs["input_ids"] == image_token_id) * added, steered
    _weights.clear()
    try:
        with attending(model):
            return _decoded(model, inputs, tokens, own_positions, answer_type, forbidden)
    finally:
        _gain, _added, _steered = None, 0.0, None


def _decoded(
    model: PreTrainedModel,
    inputs: dict[str, torch.Tensor],
    tokens: int,
    own_positions: bool,
    answer_type: int,
    forbidden: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    first, done = None, torch.zeros_like(inputs["input_ids"][:, 0], dtype=torch.bool)
    new: list[torch.Tensor] = []
    while len(new) < tokens and not bool(done.all()):
        logits = model(**extended(inputs, new, answer_type, own_positions), use_cache=False).logits[:, -1]
        first = logits if first is None else first
        new.append(likeliest(model, logits, done, forbidden))
        done |= new[-1] == model.generation_config.eos_token_id
    assert first is not None
    return first, torch.stack(new, 1)


def likeliest(
    model: PreTrainedModel, logits: torch.Tensor, done: torch.Tensor, forbidden: Sequence[int]
) -> torch.Tensor:
    """Return the next token of each row: padding where the answer is done, and none of the forbidden ones."""
    choice = logits.clone()
    choice[:, list(forbidden)] = -torch.inf
    return choice.argmax(-1).masked_fill(done, model.generation_config.pad_token_id)


def scaling_vis(
    model: PreTrainedModel,
    inputs: dict[str, torch.Tensor],
    image_token_id: int,
    alpha: torch.Tensor,
    tokens: int,
    **options: Any,
) -> OracleResult:
    """Follow the authors' procedure: an unsteered pass for the confidence, then a complete steered one."""
    plain = {name: value for name, value in options.items() if name not in ("added", "steered")}
    unsteered, _ = complete_pass(model, inputs, image_token_id, torch.ones_like(alpha), 1, **plain)
    first, sequences = complete_pass(model, inputs, image_token_id, alpha, tokens, **options)
    return OracleResult(first, unsteered.softmax(-1).amax(-1), sequences, torch.stack(_weights, 1))
