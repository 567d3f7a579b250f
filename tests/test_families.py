"""Every supported family compared with the oracle, and every refusal with its reason."""

from pathlib import Path

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from adaptvis_plugin.decoding import Decoder
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.loading import load_model
from tests.families import FAMILIES, LACKING, PROCESSORS, REFUSED
from tests.families.__main__ import measured_table
from tests.families.build import IMAGE, TEXT, Family, random_batch, random_model
from tests.families.check import IMAGE_LAST, measure, refusal
from tests.families.checkpoint import write

TOLERANCE = 1e-4
DOCUMENT = Path(__file__).parent.parent / "docs" / "families.md"


@pytest.mark.parametrize("name", FAMILIES)
def test_family_equals_two_complete_eager_passes(name: str) -> None:
    measured = measure(name)
    assert measured.effect > 100 * TOLERANCE, "steering must be visible for the comparison to mean anything"
    assert measured.difference <= TOLERANCE
    assert measured.confidence <= TOLERANCE
    assert measured.same_text


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_that_ends_in_the_image_is_exact_too(name: str) -> None:
    measured = measure(name, image_last=True)
    assert measured.effect > 100 * TOLERANCE
    assert measured.difference <= TOLERANCE
    assert measured.confidence <= TOLERANCE
    assert measured.same_text
    assert measured.plain_difference <= TOLERANCE
    assert measured.same_plain_text


@pytest.mark.parametrize("image_last", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_sweep_equals_complete_eager_passes(name: str, image_last: bool) -> None:
    measured = measure(name, image_last)
    assert measured.sweep_difference <= TOLERANCE
    assert measured.same_swept_text


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_that_ends_in_an_image_takes_two_passes_only_if_its_last_token_is_a_feature(name: str) -> None:
    family = FAMILIES[name]
    feature = bool((random_batch(family, IMAGE_LAST)["input_ids"][:, -1] == IMAGE).any())
    assert measure(name, image_last=True).mode == ("two passes" if feature else family.mode)


@pytest.mark.parametrize("name", FAMILIES)
def test_alpha_one_equals_plain_generate(name: str) -> None:
    measured = measure(name)
    assert measured.plain_difference <= TOLERANCE
    assert measured.same_plain_text


@pytest.mark.parametrize("name", FAMILIES)
def test_the_mode_is_found_by_looking_at_the_model(name: str) -> None:
    assert measure(name).mode == FAMILIES[name].mode


@pytest.mark.parametrize("name", FAMILIES)
def test_every_attention_layer_of_the_text_decoder_is_steered_and_no_other(name: str) -> None:
    text = FAMILIES[name].config["text_config"]
    kinds = text.get("layer_types", ["full_attention"] * text.get("num_hidden_layers", TEXT["num_hidden_layers"]))
    steered = measure(name).steered
    assert len(steered) == sum(kind not in ("linear_attention", "conv") for kind in kinds)
    assert not [module for module in steered if "vis" in module or "perceiver" in module or "resampler" in module]


@pytest.mark.parametrize("family", REFUSED, ids=lambda family: family.name)
def test_what_cannot_be_steered_exactly_is_refused_with_the_reason(family: Family) -> None:
    assert family.mode in refusal(family)


SOFTCAP = "paligemma (Gemma 2: softcap, sliding window)"


def test_a_softcap_that_sdpa_would_leave_out_is_refused_with_the_way_out() -> None:
    model = random_model(FAMILIES[SOFTCAP])
    model.config.get_text_config(decoder=True)._attn_implementation = "sdpa"
    with pytest.raises(ValueError, match=r"softcap.*load it with attn_implementation='eager'"):
        Decoder(model)


def test_a_checkpoint_with_a_softcap_is_loaded_without_sdpa(tmp_path: Path) -> None:
    write(FAMILIES[SOFTCAP], PROCESSORS[SOFTCAP], tmp_path)
    model, _ = load_model(ModelArguments(method="baseline", pretrained=str(tmp_path)))
    assert model.config.get_text_config(decoder=True)._attn_implementation == "eager"


def test_at_least_24_families_are_tested_including_the_named_ones() -> None:
    assert len({name.split(" ")[0] for name in FAMILIES}) >= 24
    named = (
        "llava llava_next llava_onevision vipllava qwen2_vl qwen2_5_vl qwen3_vl internvl idefics3 smolvlm gemma3 "
        "mistral3 aya_vision glm4v paligemma"
    )
    assert set(named.split()) <= set(FAMILIES)
    assert "mllama" in {family.name for family in REFUSED}


@pytest.mark.skipif(bool(LACKING), reason="the table is of the newest transformers that was tested")
def test_the_documented_table_is_this_result() -> None:
    document = DOCUMENT.read_text()
    assert measured_table() in document, "run: python -m tests.families > docs/families.md"
    missing = [kind for kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES if f"| {kind} " not in document]
    assert not missing
