"""Presets, prompts and loading."""

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from adaptvis_plugin.data.demo.rows import demo_rows
from adaptvis_plugin.data.questions import paper_prompt
from adaptvis_plugin.decoding import AdaptVis, Baseline, ScalingVis
from adaptvis_plugin.models import find_preset, load_preset
from adaptvis_plugin.models.answers import Prompt
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.presets import choose_method
from adaptvis_plugin.models.prompts import chat_text, encode, paper_text
from adaptvis_plugin.models.runner import Runner
from adaptvis_plugin.paths import DEMO_MODEL
from tests.families import FAMILIES, PROCESSORS
from tests.families.checkpoint import write
from tests.wrong_input import load

AUTHORS = {
    "whatsup_controlled_a": (0.8, 0.5, 1.5, 0.4),
    "whatsup_controlled_b": (0.8, 0.5, 1.5, 0.35),
    "whatsup_coco_one": (1.2, 0.5, 1.2, 0.3),
    "whatsup_coco_two": (1.2, 0.5, 1.2, 0.3),
    "whatsup_vg_one": (2.0, 0.5, 2.0, 0.2),
    "whatsup_vg_two": (2.0, 0.5, 2.0, 0.2),
    "vsr": (0.5, 0.5, 1.2, 0.64),
    "whatsup_demo": (0.8, 0.5, 1.5, 0.4),
}


@pytest.mark.parametrize("suffix", ["", "_val", "_test"])
@pytest.mark.parametrize("task", AUTHORS)
def test_the_authors_settings(task: str, suffix: str) -> None:
    alpha, low, high, threshold = AUTHORS[task]
    preset = load_preset("llava-1.5-7b")
    assert choose_method("scalingvis", task + suffix, preset, {}) == ScalingVis(alpha)
    assert choose_method("adaptvis", task + suffix, preset, {}) == AdaptVis(low, high, threshold)
    assert choose_method("baseline", task + suffix, preset, {}) == Baseline()


def test_each_value_can_be_overridden_alone() -> None:
    preset = load_preset("llava-1.5-7b")
    assert choose_method("adaptvis", "vsr", preset, {"threshold": 0.3}) == AdaptVis(0.5, 1.2, 0.3)


def test_a_value_out_of_range_is_refused_before_a_checkpoint_is_read() -> None:
    with pytest.raises(ValueError, match="threshold=40"):
        ModelArguments(method="adaptvis", pretrained="somebody/a-checkpoint-that-is-not-there", threshold=40)


def test_presets_are_found_by_checkpoint() -> None:
    assert find_preset("llava-hf/llava-1.5-7b-hf") == find_preset("demo") == load_preset("llava-1.5-7b")
    assert find_preset("somebody/else") is None


def test_a_preset_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("description: mine\nprompt: chat\nsettings: {pope: {scalingvis: {alpha: 1.3}}}\n")
    assert choose_method("scalingvis", "pope", load_preset(file), {}) == ScalingVis(1.3)


def test_a_task_without_settings_needs_values() -> None:
    with pytest.raises(ValueError, match=r"adaptvis on task 'pope': the preset has no settings.*alpha_low, alpha_high"):
        choose_method("adaptvis", "pope", load_preset("llava-1.5-7b"), {"threshold": 0.4})
    with pytest.raises(ValueError, match=r"scalingvis on task 'pope': there is no preset for it, so give alpha"):
        choose_method("scalingvis", "pope", None, {})


def test_prompts_of_the_demo_model() -> None:
    """Golden: what the model is asked, to the letter."""
    _, processor = load("demo")
    question = "Where is the mug in relation to the table? Answer with left, right, on or under."
    assert paper_text(processor, paper_prompt(question)) == f"<image>\nUSER: {question}\nASSISTANT:"
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    assert chat_text(processor, messages) == f"USER: <image>\n{question} ASSISTANT:"


@pytest.mark.parametrize("loading", [{"device_map": "auto"}, {"dtype": "bfloat16"}, {"attn_implementation": "eager"}])
def test_where_and_how_a_model_is_loaded_does_not_change_the_answers(loading: dict[str, str]) -> None:
    given = {"method": "adaptvis", "pretrained": "demo"}
    method = ModelArguments(**given).choose("whatsup_demo")
    rows = demo_rows()[:16]
    answers = []
    for runner in (Runner(ModelArguments(**given)), Runner(ModelArguments(**given, **loading))):
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]}]
        prompts = [Prompt(runner.render(messages, row["question"], row["prompt"]), (row["image"],)) for row in rows]
        answers.append(runner.answer(prompts, method, max_new_tokens=3))
    assert [answer.text for answer in answers[1]] == [answer.text for answer in answers[0]]


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="is about a machine without bitsandbytes")
def test_a_quantised_checkpoint_names_what_it_needs(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEMO_MODEL, tmp_path / "quantised"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ImportError, match="requires bitsandbytes"):
        load(str(folder))


def test_an_image_without_its_token_is_named() -> None:
    _, processor = load("demo")
    image = Image.new("RGB", (128, 128))
    with pytest.raises(ValueError, match=r"row 1: the prompt holds 0 image token\(s\) '<image>' for 1 image"):
        encode(processor, ["<image>\nUSER: a\nASSISTANT:", "USER: b\nASSISTANT:"], [[image], [image]])


OWN_PROCESSOR = """
from transformers import LlavaProcessor

class OwnProcessor(LlavaProcessor):
    def __call__(self, images=None, text=None, **options):
        return super().__call__([image.convert("RGB") for image in images or ()] or None, text, **options)
"""


def test_a_checkpoints_own_processor_that_takes_a_flat_list_of_images_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [*sys.path])  # to which transformers adds that folder
    write(FAMILIES["llava"], PROCESSORS["llava"], tmp_path)
    (tmp_path / "processing_own.py").write_text(OWN_PROCESSOR)
    path = tmp_path / "processor_config.json"
    own = {"processor_class": "OwnProcessor", "auto_map": {"AutoProcessor": "processing_own.OwnProcessor"}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    _, processor = load(str(tmp_path), device="cpu", trust_remote_code=True)
    image = Image.new("RGB", (32, 32))
    assert len(encode(processor, ["Where is it?"], [[]])["input_ids"]) == 1
    named = r"^OwnProcessor .* `images` as one list per row: .* no attribute 'convert'; use"
    with pytest.raises(ValueError, match=named):
        encode(processor, ["<image>Where is it?"], [[image]])


def test_a_text_model_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="model type 'llama' is not an image-text-to-text model"):
        load(str(tmp_path))
