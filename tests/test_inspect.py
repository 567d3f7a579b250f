"""`adaptvis inspect`: what it says of a checkpoint is what the loaded model does."""

import json
import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from adaptvis_plugin.decoding import Decoder
from adaptvis_plugin.decoding.inspection import NO_CACHE
from adaptvis_plugin.models.inspect.examine import examine
from adaptvis_plugin.paths import DEMO_MODEL, PRESET_FOLDER
from tests.families import FAMILIES, PROCESSORS, REFUSED
from tests.families.adapters import Row
from tests.families.build import IMAGE, Family
from tests.families.checkpoint import write
from tests.folder_helpers import make_rooms, run, shown, without_network
from tests.test_checkpoints import CHECKPOINTS
from tests.test_command_line import run as run_command
from tests.wrong_input import WEIGHTS, checkpoint, config, load, refusal, text_config

GUARD = """
import os, socket
def refuse(*arguments, **options):
    open(os.environ["OPENED"], "a").write(repr(arguments))
    raise OSError("this test allows no network")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
"""


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def facts(tmp_path: Path, *arguments: str | Path, status: int = 0) -> dict[str, Any]:
    """What the command writes as JSON."""
    file = tmp_path / "facts.json"
    done = run(["inspect", *map(str, arguments), "--json", str(file)])
    assert done.exit_code == status, shown(done)
    found: dict[str, Any] = json.loads(file.read_text())
    assert found["usable"] is (status == 0)
    return found


def error(*arguments: str | Path) -> str:
    done = run(["inspect", *map(str, arguments)])
    assert done.exit_code == 2, shown(done)
    return shown(done)


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_the_command_inspects_the_demo_without_a_network(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    environment = {"HF_HUB_OFFLINE": "0", "PYTHONPATH": path, "OPENED": str(tmp_path / "opened"), "COLUMNS": "120"}
    done = run_command("adaptvis", "inspect", "demo", "--json", tmp_path / "facts.json", **environment)
    assert not (tmp_path / "opened").exists()
    run_command(
        "python", "-c", "import urllib.request as r\ntry: r.urlopen('http://a.b')\nexcept OSError: 0", **environment
    )
    assert (tmp_path / "opened").exists(), "the guard must see a connection for the line above to mean anything"
    lines = done.stdout.splitlines()
    assert len(lines) < 30 and max(map(len, lines)) <= 120
    for words in (
        "supported, one pass expected",
        "0-3, each with the heads 0 to 3; steer some by layers=3 or heads=L3H3",
        "6.94 MB of float32",
        "USER: Where is the mug in relation to the table?",
        "91, of these 64 image columns (<image>, id 4) for a picture of 128 x 128",
        "paper (llava-1.5-7b.yaml); chat is possible too",
        "alpha_low 0.5, alpha_high 1.5, threshold 0.4 (llava-1.5-7b.yaml)",
    ):
        assert words in done.stdout
    assert done.stderr == ""
    assert json.loads((tmp_path / "facts.json").read_text())["asked"]["image_columns"] == 64


def test_with_weights_the_row_is_run(tmp_path: Path) -> None:
    found = facts(tmp_path, "demo", "--weights", "--model-args", "constant=1.5,layers=1-2")
    assert found["passes"] == {"count": 1, "certain": True, "reason": "a row was run"}
    answers = found["answers"]
    assert {name: answer["alpha"] for name, answer in answers.items()} == {
        "baseline": 1,
        "scalingvis": 0.8,
        "adaptvis": 1.5,
        "constant": 1,
    }
    assert len({answer["confidence"] for answer in answers.values()}) == 1
    assert answers["baseline"]["text"] in ("Left", "Right", "On", "Under")
    unread = facts(tmp_path, "demo", "--model-args", "layers=9")
    assert (unread["layers"], unread["heads"], unread["answers"]) == ([0, 1, 2, 3], 4, None)
    assert "layer 9: the model has attention in the layers 0 to 3" in unread["settings"]["adaptvis"]["missing"]
    assert {**found["weights"], "loaded": False} == unread["weights"]
    assert {**found["cache"], "loaded": False} == unread["cache"]


def test_a_model_larger_than_memory_is_inspected_because_its_weights_are_not_read(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "large")
    text_config(
        folder,
        hidden_size=8192,
        intermediate_size=28672,
        num_attention_heads=64,
        num_key_value_heads=8,
        head_dim=128,
        num_hidden_layers=80,
    )
    shards = [f"model-{number}.safetensors" for number in range(30)]
    size = 5 * 10**9
    header = json.dumps({"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    for name in shards:
        with (folder / name).open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + size)  # a hole: it takes no room on the disk
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": dict(zip(shards, shards, strict=True))}))
    (folder / WEIGHTS).unlink()
    found = facts(tmp_path, folder, "--model-args", "dtype=bfloat16")
    assert found["weights"]["by_dtype"]["bfloat16"] == 2 * found["weights"]["parameters"] > 10**11
    assert found["cache"]["per_token"] == 80 * 2 * 8 * 128 * 2
    assert found["cache"]["prompt"] == found["cache"]["per_token"] * found["asked"]["tokens"]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_figures_of_every_family_are_those_of_its_loaded_model(name: str, tmp_path: Path) -> None:
    if name == "aria" and not NO_CACHE:
        pytest.skip("in transformers before 5.20 its experts look at numbers, which a model without weights has not")
    folder = tmp_path / "family"
    write(FAMILIES[name], PROCESSORS[name], folder)
    given = {"pretrained": str(folder), "alpha": 0.5}
    before, after = examine(given, "whatsup_demo"), examine(given, "whatsup_demo", weights=True)
    model: Any = AutoModelForImageTextToText.from_pretrained(folder)
    inputs = as_transformers_asks(name, folder)
    cache = model.generate(
        **inputs.to(dtype=model.dtype),
        max_new_tokens=1,
        do_sample=False,
        cache_implementation=None,
        return_dict_in_generate=True,
    ).past_key_values
    assert before.passes and after.passes and before.asked and before.cache
    assert before.refusal is None and before.usable
    assert sum(before.weights.by_dtype.values()) == sum(parameter.nbytes for parameter in model.parameters())
    assert before.prefixes == pytest.approx(model.get_memory_footprint() / 20, abs=1)
    assert before.cache.prompt == sum(map(bytes_kept, cache.layers)) > 0
    assert sum(before.cache.layers.values()) == len(cache.layers)
    assert (before.asked.tokens, before.asked.image_columns) == (
        inputs["input_ids"].shape[1],
        int((inputs["input_ids"] == IMAGE).sum()),
    )
    mode = {"one pass": 1, "two passes": 2}[FAMILIES[name].mode]
    assert (after.passes.count, after.passes.certain) == (mode, True)
    assert not before.passes.certain or before.passes.count == mode
    assert after.cache == type(before.cache)(before.cache.prompt, before.cache.per_token, before.cache.layers, True)
    assert after.weights.by_dtype == before.weights.by_dtype


def as_transformers_asks(name: str, folder: Path) -> Any:
    """The demo's first row through transformers alone."""
    from adaptvis_plugin.data import load_table

    row = load_table("demo")[0]
    messages = Row(row["question"], (row["image"].convert("RGB"),)).messages()
    processor: Any = AutoProcessor.from_pretrained(folder)
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    pictures: Any = [row["image"].convert("RGB")]
    begins = "{{ bos_token }}" in PROCESSORS[name].turn[0]
    return processor(
        text=[text],
        images=pictures if PROCESSORS[name].flat else [pictures],
        return_tensors="pt",
        **({"add_special_tokens": False} if begins else {}),
    )


def bytes_kept(layer: Any) -> int:
    kept = [getattr(layer, name, None) for name in ("keys", "values", "conv_states", "recurrent_states")]
    flat = [part for one in kept for part in (one.values() if isinstance(one, dict) else [one])]
    return sum(tensor.nbytes for tensor in flat if tensor is not None)


def test_what_is_kept_is_said_per_kind_of_layer(tmp_path: Path) -> None:
    kept = {}
    for name in ("gemma3", "qwen3_5", "gemma4"):
        write(FAMILIES[name], PROCESSORS[name], tmp_path / name)
        kept[name] = facts(tmp_path, tmp_path / name)["cache"]["layers"]
    assert kept["gemma3"] == {"keys and values of a window of 12 tokens": 2, "keys and values": 1}
    assert kept["qwen3_5"] == {"a state of fixed size": 2, "keys and values": 1}
    # transformers before 5.20 leaves layers that keep nothing out of its cache.
    without = {"nothing of their own": 2} if NO_CACHE else {}
    assert kept["gemma4"] == {"keys and values of a window of 12 tokens": 1, "keys and values": 1, **without}


def test_two_passes_are_certain_where_a_layer_keeps_a_state_or_the_kernel_takes_no_mask(tmp_path: Path) -> None:
    write(FAMILIES["qwen3_5"], PROCESSORS["qwen3_5"], tmp_path / "recurrent")
    for arguments, reason in (
        ((tmp_path / "recurrent",), "some layers keep a state"),
        (("demo", "--model-args", "attn_implementation=flex_attention"), "the masks of flex_attention cannot be cut"),
        ((prompt_that_ends_in_the_image(tmp_path),), "the prompt ends in an image"),
    ):
        passes = facts(tmp_path, *arguments)["passes"]
        assert (passes["count"], passes["certain"]) == (2, True) and reason in passes["reason"]


def prompt_that_ends_in_the_image(tmp_path: Path) -> Path:
    folder = checkpoint(tmp_path / "last")
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'][1]['text'] }}<image>")
    return folder


@pytest.mark.parametrize("family", REFUSED, ids=lambda family: family.name)
def test_a_refused_model_is_refused_with_the_decoders_reason(family: Family, tmp_path: Path) -> None:
    kind: Any = getattr(transformers, family.architecture)
    folder = tmp_path / "refused"
    kind.config_class().save_pretrained(folder)
    save_file({"weight": torch.zeros(1)}, folder / WEIGHTS, {"format": "pt"})
    with torch.device("meta"):
        model = kind(kind.config_class())
    found = facts(tmp_path, folder, status=1)
    assert found["refusal"] == refusal(lambda: Decoder(model))
    assert found["refusal"].startswith(family.architecture)
    screen = shown(run(["inspect", str(folder)]))
    assert f"refused: {found['refusal']}" in screen
    assert found["passes"] is None


UNREAD = {"weights of another width", "weights of fewer layers", "weights without the projector"}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_damaged_checkpoint_gets_the_error_of_a_run_unless_only_the_weights_show_it(
    case: str, tmp_path: Path
) -> None:
    damage, words = CHECKPOINTS[case]
    folder = checkpoint(tmp_path / "damaged")
    damage(folder)
    inspect: Callable[..., Any] = partial(examine, {"pretrained": str(folder)}, "whatsup_demo")
    if case in UNREAD:
        assert inspect().usable
        assert refusal(partial(inspect, weights=True)) == refusal(lambda: load(str(folder)))
    else:
        assert refusal(inspect) == refusal(lambda: load(str(folder)))
        said = error(folder)
        assert [word for word in words if word not in said] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/nowhere/llava"], ["no such folder", "OWNER/NAME"]),
        ([str(DEMO_MODEL / "config.json")], ["this is a file", "give the folder"]),
        (["demo", "--task", "whatsup"], ["several tasks", "whatsup_controlled_a, whatsup_controlled_b"]),
        (["demo", "--task", "vsr_val"], ["not here", "nothing is fetched", "adaptvis data prepare vsr;"]),
        (["demo", "--task", "whatsup_dem"], ["neither a task", "Did you mean whatsup_demo?"]),
        (["demo", "--model-args", "alpah=1"], ["unknown alpah=1", "alpha_low", "Did you mean alpha?"]),
        (["demo", "--model-args", "alpha=-1"], ["alpha=-1", ">= 0"]),
        (["demo", "--model-args", "method=scalingviz"], ["unknown method", "scalingvis"]),
        (["demo", "--model-args", "pretrained=x/y"], ["pretrained=x/y", "names the model: demo"]),
        (["demo", "--model-args", "alpha"], ["NAME=VALUE"]),
        (["demo", "--json", "/nowhere/facts.json"], ["/nowhere/facts.json", "a folder that exists"]),
    ],
)
def test_wrong_input_is_an_error_that_says_what_to_give(arguments: list[str], words: list[str]) -> None:
    said = error(*arguments)
    assert said.startswith("error: ")
    assert [word for word in words if word not in said] == []


def test_settings_are_named_with_where_they_come_from(tmp_path: Path) -> None:
    published = str(PRESET_FOLDER / "llava-1.5-7b.yaml")
    settings = facts(tmp_path, "demo", "--model-args", "threshold=0.7,alpha=2")["settings"]
    assert settings["baseline"] == {"values": {}, "sources": {}, "missing": None}
    assert settings["scalingvis"] == {"values": {"alpha": 2}, "sources": {"alpha": "given"}, "missing": None}
    assert settings["adaptvis"]["values"] == {"alpha_low": 0.5, "alpha_high": 1.5, "threshold": 0.7}
    assert settings["adaptvis"]["sources"] == {"alpha_low": published, "alpha_high": published, "threshold": "given"}

    own = tmp_path / "own.yaml"
    own.write_text("description: mine\nprompt: chat\nsettings: {whatsup_demo: {scalingvis: {alpha: 1.1}}}\n")
    found = facts(tmp_path, "demo", "--model-args", f"preset={own}", "--task", "whatsup_demo_test")
    assert found["settings"]["scalingvis"]["sources"] == {"alpha": str(own)}
    assert "the preset has no settings for it, so give alpha_low" in found["settings"]["adaptvis"]["missing"]
    assert (found["prompting"]["style"], found["prompting"]["style_source"]) == ("chat", str(own))

    only = facts(tmp_path, checkpoint(tmp_path / "nobody tuned"), "--model-args", "method=scalingvis")
    assert list(only["settings"]) == ["scalingvis"]
    assert "there is no preset for it, so give alpha" in only["settings"]["scalingvis"]["missing"]
    assert only["prompting"]["style_source"] == "default"


def test_a_table_of_ones_own_is_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_network(tmp_path, monkeypatch)
    folder = make_rooms(tmp_path / "pictures")
    assert run(["data", "prepare", "rooms", "--from", str(folder)]).exit_code == 0
    found = facts(tmp_path, "demo", "--task", "rooms")
    assert found["task"] == "rooms" and "Where is the mug in relation to the plate?" in found["asked"]["text"]
    assert "give alpha" in found["settings"]["scalingvis"]["missing"]
    assert facts(tmp_path, "demo", "--task", "WhatsUp_Demo")["task"] == "whatsup_demo"
    assert "rooms_val has no rows" in error("demo", "--task", "rooms_val")


def test_a_style_of_prompt_that_is_not_possible_is_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "plain")
    (folder / "chat_template.jinja").unlink()
    reason = "the checkpoint has no chat template; use prompt=paper"
    found = facts(tmp_path, folder, status=1)
    assert found["problems"] == [reason] and found["prompting"]["impossible"] == {"chat": reason}
    assert facts(tmp_path, folder, "--model-args", "prompt=paper")["problems"] == []


CUTS = """
from transformers import LlavaProcessor
class Cuts(LlavaProcessor):
    def __call__(self, *arguments, **options):
        batch = super().__call__(*arguments, **options)
        return type(batch)({**batch, **{name: batch[name][:, :300] for name in ("input_ids", "attention_mask")}})
"""


def test_a_checkpoint_that_asks_to_cut_prompts_is_not_obeyed(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "asks")
    change(folder / "tokenizer_config.json", truncation=True, max_length=300)
    found = facts(tmp_path, folder)
    assert found["problems"] == [] and found["prompting"]["cut_at"] is None
    assert found["prompting"]["longest_tried"] > found["prompting"]["tokenizer_limit"] == 2048


def test_a_processor_that_cuts_prompts_all_the_same_is_found_by_trying(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "cuts")
    (folder / "processing_cuts.py").write_text(CUTS)
    change(folder / "processor_config.json", processor_class="Cuts", auto_map={"AutoProcessor": "processing_cuts.Cuts"})
    found = facts(tmp_path, folder, "--model-args", "trust_remote_code=true")
    assert found["prompting"]["cut_at"] == 300
    assert found["problems"][0].startswith("the processor cuts prompts at 300 tokens")


def test_a_prompt_that_is_too_long_is_a_problem(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "short")
    change(folder / "tokenizer_config.json", model_max_length=80)
    text_config(folder, max_position_embeddings=120)
    assert facts(tmp_path, folder)["problems"] == [
        "the prompt has 91 tokens, the tokenizer was made for 80",
        "prompt and answer may have 191 tokens, the model was made for 120; give a smaller max_new_tokens",
    ]
    assert len(facts(tmp_path, folder, "--model-args", "max_new_tokens=8")["problems"]) == 1


def test_a_generation_config_is_told_apart_by_what_it_does_to_an_answer(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "sampled")
    change(folder / "generation_config.json", repetition_penalty=1.05, do_sample=True, top_k=64, stop_strings=["."])
    found = facts(tmp_path, folder, "--weights")["generation"]
    assert found["kept"] == {"repetition_penalty": 1.05, "stop_strings": ["."]}
    assert found["ignored"] == {"do_sample": True, "top_k": 64}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "auto"])
def test_the_dtype_is_that_of_a_run(dtype: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "half")
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    change(folder / "config.json", dtype=None)  # as in an old checkpoint: the weights say it
    text_config(folder, dtype=None)
    expected = load(str(folder), dtype=dtype)[0]
    found = facts(tmp_path, folder, "--model-args", f"dtype={dtype}")["weights"]
    assert found["by_dtype"] == {str(expected.dtype).removeprefix("torch."): 2 * expected.num_parameters()}


def test_quantised_weights_are_said_to_be_smaller(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "small")
    config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert facts(tmp_path, folder)["weights"]["quantisation"] == "bitsandbytes"
    assert "stored as bitsandbytes, so really less" in shown(run(["inspect", str(folder)]))


def test_the_help_needs_no_torch_and_the_standard_library_keeps_its_inspect() -> None:
    code = (
        "import sys, adaptvis_plugin.cli, inspect; assert 'torch' not in sys.modules; "
        "assert inspect.signature(adaptvis_plugin.cli.main).parameters == {}"
    )
    run_command("python", "-c", code)
    assert "--weights" in run_command("adaptvis", "inspect", "--help").stdout
