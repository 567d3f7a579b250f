"""A model that is used elsewhere too: its weights, adapters and modes change, threads share it, wrappers enclose it."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch

from adaptvis_plugin.decoding import AdaptVis, Baseline, Decoder, ScalingVis
from tests import oracle
from tests.random_models import IMAGE, random_batch, random_model

TOLERANCE = 1e-5
ROOM = 2**30  # the default, a twentieth of a tiny model, has no room for a prefix
LORA = peft.LoraConfig(r=4, lora_alpha=16, target_modules=r".*language_model.*(q_proj|v_proj|down_proj)")


def with_lora(model: Any, seed: int) -> None:
    """Add an adapter that has an effect: a fresh one is zero."""
    model.add_adapter(LORA, adapter_name=f"adapter{seed}")
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if f"adapter{seed}" in name:
            weight.data = 0.3 * torch.randn(weight.shape, generator=generator)
    model.eval()


def load_other_weights(model: Any) -> None:
    model.load_state_dict(random_model("llava", seed=8).state_dict())


def replace_parameters(model: Any) -> None:
    model.load_state_dict(random_model("llava", seed=8).state_dict(), assign=True)


def write_through_data(model: Any) -> None:
    for layer in model.get_decoder().layers:
        layer.self_attn.v_proj.weight.data *= 3


def set_adapter(model: Any) -> None:
    model.set_adapter("adapter2")


def disable_adapters(model: Any) -> None:
    model.disable_adapters()


def rescale_adapter(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.set_scale("adapter1", 3.0)


def add_hook(model: Any) -> None:
    model.get_decoder().layers[0].register_forward_hook(lambda module, arguments, output: 1.3 * output)


@pytest.mark.parametrize(
    "change",
    [
        load_other_weights,
        replace_parameters,
        write_through_data,
        set_adapter,
        disable_adapters,
        rescale_adapter,
        add_hook,
    ],
    ids=lambda change: change.__name__,
)
def test_a_changed_model_shares_nothing_with_its_earlier_state(change: Callable[[Any], None]) -> None:
    model = random_model("llava", seed=3)
    if change in (set_adapter, disable_adapters, rescale_adapter):
        with_lora(model, 1)
        with_lora(model, 2)
        model.set_adapter("adapter1")
    inputs = random_batch(model, [4, 7], seed=3)
    decoder = Decoder(model, prefix_bytes=ROOM)
    for _ in range(2):
        before = decoder.generate(inputs, ScalingVis(alpha=0.5), max_new_tokens=4)
    assert decoder.stats.prefixes_reused == 2, "the second batch found its prefixes"

    change(model)
    after = decoder.generate(inputs, ScalingVis(alpha=0.5), max_new_tokens=4)

    fresh = Decoder(model, prefix_bytes=0).generate(inputs, ScalingVis(alpha=0.5), max_new_tokens=4)
    assert (fresh.first_logits - before.first_logits).abs().max() > 0.01, "the change must be visible"
    torch.testing.assert_close(after.first_logits, fresh.first_logits, atol=TOLERANCE, rtol=0)
    assert torch.equal(after.sequences, fresh.sequences)
    decoder.generate(inputs, ScalingVis(alpha=0.5), max_new_tokens=4)
    assert decoder.stats.prefixes_reused == 4, "and the changed model shares with itself again"


def test_a_model_that_does_not_count_its_changes_shares_nothing() -> None:
    with torch.inference_mode():
        model = random_model("llava", seed=3)
    inputs = random_batch(model, [4], seed=3)
    decoder = Decoder(model, prefix_bytes=ROOM)
    for _ in range(3):
        decoder.generate(inputs, ScalingVis(alpha=0.5))
    assert decoder.stats.prefixes_reused == 0


def test_threads_take_turns_on_a_model() -> None:
    """Each of many calls from four threads gives the same as alone, and the model is left unchanged."""
    model = random_model("llava", seed=5)
    batches = [random_batch(model, [3 + i, 6], seed=i) for i in range(4)]
    methods = [ScalingVis(alpha=0.5), ScalingVis(alpha=2.0), AdaptVis(0.5, 1.5, 0.4), Baseline()]
    jobs = list(zip(batches, methods, strict=True))
    alone = [Decoder(model).generate(batch, method, max_new_tokens=4) for batch, method in jobs]
    start = threading.Barrier(len(jobs))
    found: list[list[Any]] = [[] for _ in jobs]

    def work(number: int) -> None:
        decoder = Decoder(model)
        start.wait()
        for _ in range(8):
            found[number].append(decoder.generate(*jobs[number], max_new_tokens=4))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, outs in zip(alone, found, strict=True):
        assert len(outs) == 8, "a thread ended in an error"
        for out in outs:
            torch.testing.assert_close(out.first_logits, expected.first_logits, atol=TOLERANCE, rtol=0)
            torch.testing.assert_close(out.confidence, expected.confidence, atol=TOLERANCE, rtol=0)
            assert torch.equal(out.sequences, expected.sequences)
    assert model.config.text_config._attn_implementation == "sdpa"
    assert not model._forward_hooks and not model._forward_pre_hooks


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_another_threads_pass_in_the_middle_of_a_steered_one_is_unsteered(implementation: str) -> None:
    """At the worst moment: the steered pass waits between two layers until another thread has used the model."""
    model = random_model("llava", seed=7)
    model.set_attn_implementation(implementation)
    mine, other = random_batch(model, [4, 6], seed=7), random_batch(model, [9], seed=8)
    plain = model.generate(**other, max_new_tokens=5, do_sample=False)
    expected = Decoder(model).generate(mine, ScalingVis(alpha=0.5), max_new_tokens=5)
    found: list[torch.Tensor] = []

    def run() -> None:
        found.append(model.generate(**other, max_new_tokens=5, do_sample=False))

    owner = threading.get_ident()

    def interrupt(*_: object) -> None:
        if threading.get_ident() == owner:
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()

    hook = model.get_decoder().layers[1].register_forward_pre_hook(interrupt)
    out = Decoder(model).generate(mine, ScalingVis(alpha=0.5), max_new_tokens=5)
    hook.remove()
    assert len(found) >= 2 and all(torch.equal(sequences, plain) for sequences in found)
    torch.testing.assert_close(out.first_logits, expected.first_logits, atol=TOLERANCE, rtol=0)
    assert torch.equal(out.sequences, expected.sequences)
    assert torch.equal(model.generate(**other, max_new_tokens=5, do_sample=False), plain)


def test_dropout_does_not_change_answers() -> None:
    model = random_model("llava")
    decoder = Decoder(model)
    model.get_decoder().layers[0].train()
    with pytest.raises(ValueError, match=r"train mode, where dropout changes the answers; call model.eval\(\)"):
        decoder.generate(random_batch(model, [3]), ScalingVis(alpha=0.5))


def test_lora_adapters_in_a_model_take_part() -> None:
    model = random_model("llava", seed=11)
    inputs = random_batch(model, [5, 9], seed=11)
    bare = Decoder(model).generate(inputs, ScalingVis(alpha=0.5), max_new_tokens=5)
    with_lora(model, 1)
    expected = oracle.scaling_vis(model, inputs, IMAGE, torch.full((2,), 0.5), 5)
    out = Decoder(model).generate(inputs, ScalingVis(alpha=0.5), max_new_tokens=5)
    assert (out.first_logits - bare.first_logits).abs().max() > 0.01
    torch.testing.assert_close(out.first_logits, expected.first_logits, atol=TOLERANCE, rtol=0)
    assert torch.equal(out.sequences, expected.sequences)


def wrapped_by_peft(model: Any) -> Any:
    wrapped = peft.get_peft_model(model, LORA)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return wrapped.eval()


@pytest.mark.parametrize("wrap", [torch.compile, wrapped_by_peft], ids=["torch.compile", "PEFT"])
def test_a_wrapped_model_is_decoded_like_its_own_generate(wrap: Callable[[Any], Any]) -> None:
    torch.manual_seed(0)
    model = wrap(random_model("llava", seed=13))
    inputs = random_batch(model, [5, 9], seed=13)
    plain = model.generate(**inputs, max_new_tokens=5, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    decoder = Decoder(model)
    assert torch.equal(decoder.generate(inputs, Baseline(), max_new_tokens=5).sequences, plain)
    expected = oracle.scaling_vis(decoder.model, inputs, IMAGE, torch.full((2,), 0.5), 5)
    out = decoder.generate(inputs, ScalingVis(alpha=0.5), max_new_tokens=5)
    torch.testing.assert_close(out.first_logits, expected.first_logits, atol=TOLERANCE, rtol=0)
    assert torch.equal(out.sequences, expected.sequences)


def compile_in_place(model: Any) -> Any:
    model.compile()
    return model


def compile_forward(model: Any) -> Any:
    model.forward = torch.compile(model.forward)
    return model


def compile_text_decoder(model: Any) -> Any:
    model.model.language_model = torch.compile(model.model.language_model)
    return model


def learn_a_prompt(model: Any) -> Any:
    config = peft.PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=3,
        token_dim=64,
        num_layers=3,
        num_attention_heads=4,
        num_transformer_submodules=1,
    )
    return peft.PeftModelForCausalLM(model, config)


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (compile_in_place, "hand over the model from before torch.compile"),
        (compile_forward, "hand over the model from before torch.compile"),
        (compile_text_decoder, "hand over the model from before torch.compile"),
        (torch.nn.DataParallel, "DataParallel is not a model of transformers; hand over its .module"),
        (lambda model: torch.nn.Linear(2, 2), "Linear is not a model of transformers"),
        (learn_a_prompt, "its adapter adds learned tokens to the prompt"),
    ],
)
def test_what_cannot_be_decoded_says_what_to_do(wrap: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Decoder(wrap(copy.deepcopy(random_model("llava"))))


def test_a_compiled_vision_tower_may_stay() -> None:
    model = random_model("llava")
    model.model.vision_tower = torch.compile(model.model.vision_tower)
    assert Decoder(model).image_token_id == IMAGE
