"""Wrong model arguments: what each error says, on one line, in the shared code and through both adapters."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lmms_eval.models
import pytest
import torch
from safetensors.torch import load_file, save_file

from adaptvis_plugin.models.loading import load_model
from adaptvis_plugin.models.options import Loading, choose_device
from adaptvis_plugin.models.presets import load_preset
from adaptvis_plugin.models.runner import Runner, Setup
from adaptvis_plugin.paths import DEMO_MODEL
from adaptvis_plugin.vlmevalkit.arguments import Arguments, parse_model_args

WEIGHTS = "model.safetensors"


def refusal(call: Callable[[], object]) -> str:
    """The error of a call; lmms-eval's log shows its first line."""
    with pytest.raises((ValueError, OSError, ImportError, RuntimeError)) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def checkpoint(folder: Path) -> Path:
    """The demo model's folder, to be damaged."""
    folder.mkdir()
    for file in DEMO_MODEL.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def config(folder: Path, **changes: Any) -> None:
    """Change values of the config; None removes one."""
    file = folder / "config.json"
    changed = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))


def text_config(folder: Path, **changes: Any) -> None:
    config(folder, text_config={**json.loads((folder / "config.json").read_text())["text_config"], **changes})


def only(folder: Path, *names: str, **contents: Any) -> None:
    """Leave nothing but these files, and write config.json."""
    for file in folder.iterdir():
        if file.name not in names:
            file.unlink()
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def weights(folder: Path, keep: Callable[[str], bool]) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({name: tensor for name, tensor in tensors.items() if keep(name)}, folder / WEIGHTS, {"format": "pt"})


def pickled(folder: Path) -> Path:
    """The weights as torch.save writes them."""
    if (folder / WEIGHTS).exists():
        torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
        (folder / WEIGHTS).unlink()
    return folder / "pytorch_model.bin"


def first_shard_of_two(folder: Path, index: str | None = None) -> None:
    names = sorted(load_file(folder / WEIGHTS))
    weights(folder, lambda name: name in names[:50])
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    shard = {name: f"model-0000{1 if name in names[:50] else 2}-of-00002.safetensors" for name in names}
    content = json.dumps({"metadata": {}, "weight_map": shard}) if index is None else index
    (folder / f"{WEIGHTS}.index.json").write_text(content)


ORIGINAL_LLAVA = {"architectures": ["LlavaLlamaForCausalLM"], "mm_vision_tower": "openai/clip-vit-large-patch14-336"}

CHECKPOINTS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "truncated weights": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:100_000]),
        [WEIGHTS, "not readable", "download it again"],
    ),
    "an error page as weights": (
        lambda f: (f / WEIGHTS).write_text("<html>404 not found</html>"),
        [WEIGHTS, "not readable", "download it again"],
    ),
    "a Git LFS pointer as weights": (
        lambda f: (f / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        [WEIGHTS, "Git LFS pointer"],
    ),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), ["not a complete checkpoint", WEIGHTS, "Download"]),
    "a missing shard": (first_shard_of_two, ["1 of its 2 files", "model-00002-of-00002.safetensors", "Download"]),
    "an index that is not JSON": (
        lambda f: first_shard_of_two(f, "{"),
        [f"{WEIGHTS}.index.json is not readable", "download it again"],
    ),
    "an index without shards": (lambda f: first_shard_of_two(f, "{}"), [f"{WEIGHTS}.index.json is not readable"]),
    "weights of another width": (
        lambda f: text_config(f, intermediate_size=300),
        ["12 of its weights do not fit its config.json", "down_proj.weight is [128, 352] and not [128, 300]"],
    ),
    "weights of fewer layers": (
        lambda f: text_config(f, num_hidden_layers=5),
        ["9 of its weights", "layers.4.input_layernorm.weight is missing", "not complete"],
    ),
    "weights without the projector": (
        lambda f: weights(f, lambda name: "projector" not in name),
        ["4 of its weights", "linear_1.bias is missing", "random numbers"],
    ),
    "an unknown quantisation": (
        lambda f: config(f, quantization_config={"quant_method": "squash"}),
        ["does not know how its weights are quantised", "use another checkpoint"],
    ),
    "a quantisation without a method": (
        lambda f: config(f, quantization_config={"bits": 4}),
        ["does not know how its weights are quantised", "use another checkpoint"],
    ),
    "an error page as pickled weights": (
        lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin").write_text("<html>404 not found</html>"),
        ["pytorch_model.bin", "not readable", "download it again"],
    ),
    "truncated pickled weights": (
        lambda f: pickled(f).write_bytes(pickled(f).read_bytes()[:100_000]),
        ["pytorch_model.bin", "not readable", "download it again"],
    ),
    "no tokenizer": (
        lambda f: only(f, WEIGHTS, "config.json", "processor_config.json"),
        ["its processor (tokenizer and image processor) cannot be loaded", "tokenizer.json", "download all its files"],
    ),
    "tokenizer.json lost": (
        lambda f: (f / "tokenizer.json").unlink(),
        ["its processor (tokenizer and image processor) cannot be loaded", "tokenizer.json", "download all its files"],
    ),
    "a tokenizer that is not JSON": (
        lambda f: (f / "tokenizer.json").write_text('{"version": "1'),
        ["tokenizer.json is not readable", "download it again"],
    ),
    "no processor": (
        lambda f: (f / "processor_config.json").unlink(),
        ["its processor (tokenizer and image processor) cannot be loaded", "preprocessor_config.json or"],
    ),
    "a processor that is not JSON": (
        lambda f: (f / "processor_config.json").write_text(""),
        ["processor_config.json is not readable", "download it again"],
    ),
    "a config that is not JSON": (
        lambda f: (f / "config.json").write_text("{"),
        ["config.json is not readable", "download it again"],
    ),
    "a config that is a list": (
        lambda f: (f / "config.json").write_text("[]"),
        ["config.json names no model_type", "llava-hf"],
    ),
    "a config without model_type": (lambda f: config(f, model_type=None), ["names no model_type", "llava-hf"]),
    "an unknown model_type": (
        lambda f: config(f, model_type="llavva"),
        ["model type 'llavva' is unknown to transformers", "a newer one", "llava-hf"],
    ),
    "a config value of the wrong type": (
        lambda f: config(f, vision_feature_layer="last"),
        ["config.json cannot be used", "vision_feature_layer", "Correct it"],
    ),
    "a config that contradicts itself": (
        lambda f: text_config(f, num_attention_heads=3),
        ["config.json cannot be used", "128", "Correct it"],
    ),
    "an empty folder": (lambda f: only(f), ["not a complete checkpoint", "no config.json", "Give the one that does"]),
    "only weights": (
        lambda f: only(f, WEIGHTS),
        ["not a complete checkpoint", "no config.json", "Give the one that does"],
    ),
    "an adapter": (
        lambda f: only(f, adapter_config={"peft_type": "LORA", "base_model_name_or_path": "a/b"}),
        ["holds an adapter", "merge"],
    ),
    "a text model": (
        lambda f: config(f, model_type="llama", architectures=["LlamaForCausalLM"]),
        ["model type 'llama' is not an image-text-to-text model", "llava-hf"],
    ),
    "the authors' LLaVA": (
        lambda f: only(f, WEIGHTS, config={"model_type": "llava_llama", **ORIGINAL_LLAVA}),
        ["LLaVA as its authors' own code reads it", "llava-hf"],
    ),
    "the authors' first LLaVA": (
        lambda f: only(f, WEIGHTS, config={"model_type": "llava", **ORIGINAL_LLAVA}),
        ["LLaVA as its authors' own code reads it", "llava-hf"],
    ),
    "code of its own": (
        lambda f: config(f, model_type="own", auto_map={"AutoConfig": "own.Config"}),
        ["custom code", "trust_remote_code=true"],
    ),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_damaged_checkpoint_is_named_with_the_file(tmp_path: Path, case: str) -> None:
    damage, words = CHECKPOINTS[case]
    folder = checkpoint(tmp_path / "damaged")
    damage(folder)
    said = refusal(lambda: load_model(str(folder)))
    assert said.startswith(f"pretrained={folder}: ")
    assert [word for word in words if word not in said] == []


def second_shard_too(folder: Path) -> None:
    first_shard_of_two(folder)
    first = set(load_file(folder / "model-00001-of-00002.safetensors"))
    (folder / WEIGHTS).write_bytes((DEMO_MODEL / WEIGHTS).read_bytes())
    weights(folder, lambda name: name not in first)
    (folder / WEIGHTS).rename(folder / "model-00002-of-00002.safetensors")


@pytest.mark.parametrize("store", [pickled, second_shard_too])
def test_a_whole_checkpoint_is_loaded(tmp_path: Path, store: Callable[[Path], object]) -> None:
    folder = checkpoint(tmp_path / "whole")
    store(folder)
    assert not (folder / WEIGHTS).exists()
    model, demo = load_model(str(folder))[0], load_model("demo")[0]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), demo.parameters(), strict=True))


DTYPES = "give one of auto, float32, bfloat16, float16, float64"
DEVICES = "give cpu, cuda or cuda:N"
TRUTH = "give true or false"

OPTIONS: list[tuple[dict[str, Any], list[str]]] = [
    ({"dtype": "int8"}, ["dtype='int8'", DTYPES]),
    ({"dtype": "int64"}, ["dtype='int64'", DTYPES]),
    ({"dtype": "float"}, ["dtype='float'", DTYPES]),
    ({"dtype": "foo"}, ["dtype='foo'", DTYPES]),
    ({"dtype": "float8_e4m3fn"}, ["dtype='float8_e4m3fn'", DTYPES]),
    ({"dtype": 16}, ["dtype=16", DTYPES]),
    ({"device": "gpu"}, ["device='gpu'", DEVICES]),
    ({"device": "cuda:x"}, ["device='cuda:x'", DEVICES]),
    ({"device": 0}, ["device=0", DEVICES]),
    ({"device": "meta"}, ["device='meta'", DEVICES]),
    ({"device": f"cuda:{torch.cuda.device_count()}"}, [f"device='cuda:{torch.cuda.device_count()}'", "device=cpu"]),
    ({"device_map": "foo"}, ["device_map='foo'", DEVICES, "auto, balanced"]),
    ({"device_map": 1.0}, ["device_map=1.0", DEVICES, "auto, balanced"]),
    ({"device_map": f"cuda:{torch.cuda.device_count()}"}, ["device_map='cuda:", "device_map=cpu"]),
    ({"device": "cpu", "device_map": "auto"}, ["device='cpu'", "device_map='auto'", "give one"]),
    ({"attn_implementation": "foo"}, ["pretrained=demo, attn_implementation=foo", "eager", "Without attn_impl"]),
    ({"attn_implementation": 2}, ["attn_implementation=2", "eager, sdpa"]),
    ({"revision": "nosuch"}, ["revision='nosuch'", "pretrained=demo is a folder", "leave it out"]),
    ({"revision": 1234567}, ["revision=1234567", "a branch, a tag or a commit", "in full"]),
    ({"trust_remote_code": "no"}, ["trust_remote_code='no'", TRUTH]),
    ({"trust_remote_code": "maybe"}, ["trust_remote_code='maybe'", TRUTH]),
    ({"trust_remote_code": 1}, ["trust_remote_code=1", TRUTH]),
    ({"trust_remote_code": "TRUE"}, ["trust_remote_code='TRUE'", TRUTH]),
]


@pytest.mark.parametrize(("options", "words"), OPTIONS, ids=lambda value: str(value)[:40])
def test_an_unusable_option_is_named_with_the_rule(options: dict[str, Any], words: list[str]) -> None:
    said = refusal(lambda: load_model("demo", **options))
    assert [word for word in words if word not in said] == []


@pytest.mark.skipif(find_spec("flash_attn") is not None, reason="is about a machine without flash attention")
def test_a_kernel_that_is_not_installed_is_named() -> None:
    said = refusal(lambda: load_model("demo", attn_implementation="flash_attention_2"))
    assert "attn_implementation=flash_attention_2" in said and "Without attn_implementation" in said


@pytest.mark.parametrize("spelling", [True, "true", "True"])
def test_spellings_of_true(spelling: Any) -> None:
    assert Loading(trust_remote_code=spelling).trust_remote_code is True


@pytest.mark.parametrize("spelling", [False, "false", "False"])
def test_spellings_of_false(spelling: Any) -> None:
    assert Loading(trust_remote_code=spelling).trust_remote_code is False


@pytest.mark.parametrize(
    ("pretrained", "words"),
    [
        ("/nowhere/llava", ["no such folder", "OWNER/NAME"]),
        ("./llava", ["no such folder", "OWNER/NAME"]),
        ("~/llava", ["no such folder", "~ is not expanded"]),
        ("checkpoints/llava/last", ["no such folder", "OWNER/NAME"]),
        (str(DEMO_MODEL / "config.json"), ["a file", "give the folder"]),
        ("llava-hf/llava-1.5-7b-hff", ["neither a local folder nor", "pretrained=/path/to", "pretrained=demo"]),
        ("llava 1.5/7b", ["neither a local folder nor", "pretrained=/path/to", "pretrained=demo"]),
        (15, ["a name on the hub or a folder", "./"]),
        (True, ["a name on the hub or a folder", "./"]),
    ],
)
def test_a_checkpoint_that_is_not_there(pretrained: Any, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = refusal(lambda: load_model(pretrained))
    assert said.startswith(f"pretrained={pretrained}: ")
    assert [word for word in words if word not in said] == []


COEFFICIENT = "a finite number >= 0"

SETUPS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("scalingvis", {"alpha": -1}, ["alpha=-1", COEFFICIENT]),
    ("scalingvis", {"alpha": "abc"}, ["alpha='abc'", COEFFICIENT]),
    ("scalingvis", {"alpha": float("nan")}, ["alpha=nan", COEFFICIENT]),
    ("scalingvis", {"alpha": float("inf")}, ["alpha=inf", COEFFICIENT]),
    ("scalingvis", {"alpha": True}, ["alpha=True", COEFFICIENT]),
    ("scalingvis", {"alhpa": 1}, ["alhpa=1", "Did you mean alpha?"]),
    ("scalingvis", {"threshold": 0.4}, ["threshold=0.4", "threshold is one of adaptvis"]),
    ("adaptvis", {"alpha": 0.5}, ["alpha=0.5", "alpha_low, alpha_high, threshold", "alpha is one of scalingvis"]),
    ("adaptvis", {"threshold": 2}, ["threshold=2", "[0, 1]"]),
    ("adaptvis", {"alpha_low": -0.5}, ["alpha_low=-0.5", COEFFICIENT]),
    ("baseline", {"alpha": 1}, ["alpha=1", "none", "alpha is one of scalingvis"]),
    ("baseline", {"trust_remote_cod": True}, ["trust_remote_cod=True", "Did you mean trust_remote_code?"]),
    ("baseline", {"colour": None}, ["colour=None", "the hyper-parameters of baseline are: none"]),
    ("baseline", {"prompt": "foo"}, ["prompt='foo'", "paper", "chat"]),
    ("baseline", {"prompt": True}, ["prompt=True", "paper", "chat"]),
    ("baseline", {"prompt": 0}, ["prompt=0", "paper", "chat"]),
    ("baseline", {"preset": "llava-1.5"}, ["'llava-1.5'", "presets are", "Did you mean llava-1.5-7b?"]),
    ("baseline", {"preset": "nowhere.yaml"}, ["'nowhere.yaml'", "presets are", "path of a YAML file"]),
    ("baseline", {"preset": 1.5}, ["preset=1.5", "the path of a YAML file"]),
]


@pytest.mark.parametrize(("method", "values", "words"), SETUPS)
def test_a_wrong_setting_is_named(method: str, values: dict[str, Any], words: list[str]) -> None:
    values = dict(values)
    preset, prompt = values.pop("preset", None), values.pop("prompt", None)
    said = refusal(lambda: Setup.create(method, "demo", preset, prompt, values, ["trust_remote_code"]))
    assert [word for word in words if word not in said] == []


PRESETS: list[tuple[str, list[str]]] = [
    ("prompt: chat", ["description", "Field required"]),
    ("description: x\nprompt: latin", ["prompt", "'latin'", "'paper' or 'chat'"]),
    ("description: x\npretrained: demo", ["pretrained", "'demo'", "valid tuple"]),
    ("description: x\nalpha: 2", ["alpha", "Extra inputs are not permitted"]),
    ("description: x\nsettings: {vsr: {scalingvis: {alpha: -1}}}", ["vsr: scalingvis: alpha=-1.0", COEFFICIENT]),
    ("description: x\nsettings: {vsr: {scalingvis: {alpha: abc}}}", ["settings.vsr.scalingvis.alpha", "'abc'"]),
    ("description: x\nsettings: {vsr: {scalingvis: {alpha: yes}}}", ["settings.vsr.scalingvis.alpha", "(true)"]),
    ("description: x\nsettings: {vsr: {adaptvis: {threshold: 2}}}", ["vsr: adaptvis", "takes alpha_low, alpha_high"]),
    ("description: x\nsettings: {vsr: {sharpvis: {alpha: 2}}}", ["vsr: sharpvis", "there are: baseline, scalingvis"]),
    ("description: x\nsettings: {vsr_val: {scalingvis: {alpha: 2}}}", ["vsr_val", "never looked up", "write vsr,"]),
    ("description: x\nsettings: {VSR_QA: {scalingvis: {alpha: 2}}}", ["VSR_QA", "never looked up", "write vsr,"]),
    (
        "description: x\nsettings: {refcoco_seg_val: {scalingvis: {alpha: 2}}}",
        ["refcoco_seg_val", "write refcoco_seg,"],
    ),
    ("- a\n- list", ["['a', 'list']"]),
    ("description: [", ["not YAML"]),
    ("description: x\n\tprompt: chat", ["not YAML"]),
]


@pytest.mark.parametrize(("content", "words"), PRESETS)
def test_a_wrong_preset_is_named_with_file_and_key(tmp_path: Path, content: str, words: list[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    said = refusal(lambda: load_preset(file))
    assert said.startswith(f"{file}: not a preset")
    assert [word for word in words if word not in said] == []


def test_a_preset_s_task_that_looks_misspelt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It may be a task of the user's own, so it is no error until the task it may have meant has no settings."""
    file = tmp_path / "mine.yaml"
    file.write_text("description: x\nsettings: {whatsup_controled_a: {scalingvis: {alpha: 2}}, pope: {}}")
    setup = Setup.create("scalingvis", "demo", str(file), None, {})
    load_preset(file)
    assert [record.getMessage() for record in caplog.records] == [
        "a preset has settings for the task 'whatsup_controled_a', which is none of this plugin's; did you mean "
        "'whatsup_controlled_a'?"
    ]
    said = refusal(lambda: setup.choose("whatsup_controlled_a_val"))
    assert "so give alpha" in said and "it has some for 'whatsup_controled_a'" in said


# What lmms-eval and VLMEvalKit hand over of the same text, as far as their arguments are the same.


def through_lmms_eval(text: str, method: str = "scalingvis") -> Any:
    model: Any = lmms_eval.models.get_model(f"vlm_{method}")
    return model.create_from_arg_string(text, {"batch_size": 1, "max_batch_size": None, "device": None})


def through_vlmevalkit(text: str, method: str = "scalingvis") -> Any:
    arguments = Arguments.parse(method, **parse_model_args(text))
    return Runner(arguments.setup, **arguments.loading())


ADAPTERS = pytest.mark.parametrize("build", [through_lmms_eval, through_vlmevalkit])

TEXTS: list[tuple[str, list[str]]] = [
    ("pretrained=demo,trust_remote_code=no", ["trust_remote_code='no'", TRUTH]),
    ("pretrained=demo,trust_remote_code=maybe", ["trust_remote_code='maybe'", TRUTH]),
    ("pretrained=demo,trust_remote_code=1", ["trust_remote_code=1", TRUTH]),
    ("pretrained=demo,dtype=int8", ["dtype='int8'", DTYPES]),
    ("pretrained=demo,device=gpu", ["device='gpu'", DEVICES]),
    ("pretrained=demo,device=1", ["device=1", DEVICES]),
    (f"pretrained=demo,device=cuda:{torch.cuda.device_count()}", ["device='cuda:", "device=cpu"]),
    ("pretrained=demo,device_map=foo", ["device_map='foo'", "auto, balanced"]),
    ("pretrained=demo,device=cpu,device_map=auto", ["device='cpu'", "device_map='auto'", "give one"]),
    ("pretrained=demo,attn_implementation=foo", ["attn_implementation=foo", "eager"]),
    ("pretrained=demo,revision=nosuch", ["revision='nosuch'", "is a folder"]),
    ("pretrained=/nowhere/llava", ["pretrained=/nowhere/llava", "no such folder"]),
    ("pretrained=demo,alpha=nan", ["alpha=nan", COEFFICIENT]),
    ("pretrained=demo,alpha=no", ["alpha='no'", COEFFICIENT]),
    ("pretrained=demo,alpha=1:30", ["alpha='1:30'", COEFFICIENT]),
    ("pretrained=demo,alpha=0.5,alpha=0.8", ["alpha is given twice"]),
    ("pretrained=demo,alpha_low=0.5", ["alpha_low=0.5", "alpha_low is one of adaptvis"]),
    ("pretrained=demo,devce=cpu", ["devce='cpu'", "Did you mean device?"]),
    ("pretrained=demo,prompt=foo", ["prompt='foo'", "paper", "chat"]),
    ("pretrained=demo,preset=foo", ["'foo'", "presets are"]),
    ("pretrained=demo,alpha", ["NAME=VALUE"]),
]


@ADAPTERS
@pytest.mark.parametrize(("text", "words"), TEXTS)
def test_both_adapters_name_what_is_wrong(build: Callable[[str], Any], text: str, words: list[str]) -> None:
    said = refusal(lambda: build(text))
    assert [word for word in words if word not in said] == []


@pytest.mark.parametrize("value", ["0", "-1", "abc", "auto", "1.5", "true"])
def test_counts_are_whole_numbers(value: str) -> None:
    model: Any = lmms_eval.models.get_model("vlm_baseline")
    rule = "give a whole number of at least 1"
    assert rule in refusal(lambda: model.create_from_arg_string("pretrained=demo", {"batch_size": value}))
    for name in ("batch_size", "max_new_tokens"):
        said = refusal(lambda name=name: through_vlmevalkit(f"pretrained=demo,{name}={value}", "baseline"))  # type: ignore[misc]
        assert f"{name}=" in said and rule in said


def test_batch_size_in_lmms_eval_s_model_args_is_refused_with_the_option_to_use() -> None:
    """The command always hands over --batch_size, whose default is 1."""
    assert "by the option --batch_size" in refusal(lambda: through_lmms_eval("pretrained=demo,batch_size=8"))


@ADAPTERS
@pytest.mark.parametrize("alpha", ["1e-1", "0.1", ".1"])
def test_numbers_may_be_written_in_every_usual_way(build: Callable[[str], Any], alpha: str) -> None:
    found = build(f"pretrained=demo,alpha={alpha},trust_remote_code=False")
    assert getattr(found, "runner", found).setup.overrides == {"alpha": 0.1}


@ADAPTERS
@pytest.mark.parametrize("answer", ["no", "maybe", "0", "off", "n", "false"])
def test_a_checkpoint_s_code_runs_only_for_true(
    build: Callable[[str], Any], answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, marker = checkpoint(tmp_path / "own"), tmp_path / "executed"
    (folder / "own.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n"
        "from transformers import LlavaConfig\n"
        "class Config(LlavaConfig):\n"
        "    model_type = 'own'\n"
    )
    config(folder, model_type="own", auto_map={"AutoConfig": "own.Config"})
    refusal(lambda: build(f"pretrained={folder},trust_remote_code={answer}"))
    assert not marker.exists()
    with pytest.raises(ValueError, match="cannot be loaded"):  # it brings a config and no model
        build(f"pretrained={folder},trust_remote_code=true")
    assert marker.exists()


NO_CUDA = "torch sees no CUDA device here; give device=cpu"

PLACES: list[tuple[str | None, int, int, int, str]] = [
    # asked, rank, ranks on the machine, CUDA devices, what becomes of it
    (None, 0, 1, 0, "cpu"),
    (None, 0, 1, 2, "cuda"),
    (None, 1, 2, 2, "cuda:1"),
    (None, 3, 4, 1, "cuda:0"),  # a launcher that shows every process one GPU
    (None, 1, 2, 0, "cpu"),
    ("cpu", 0, 1, 2, "cpu"),
    ("cpu", 1, 2, 2, "cpu"),
    ("cuda", 0, 1, 2, "cuda"),
    ("cuda", 0, 2, 2, "cuda:0"),
    ("cuda", 1, 2, 2, "cuda:1"),
    ("cuda:1", 0, 1, 2, "cuda:1"),
    ("cuda", 0, 1, 0, f"device='cuda': {NO_CUDA}"),
    ("cuda", 1, 2, 0, f"device='cuda': {NO_CUDA}"),
    ("cuda:0", 0, 1, 0, f"device='cuda:0': {NO_CUDA}"),
    ("cuda:2", 0, 1, 2, "device='cuda:2': torch sees only cuda:0 to cuda:1 here; give one of these, or device=cpu"),
    ("cuda:1", 0, 2, 2, "device='cuda:1': 2 processes on this machine would share one device; give device=cuda,"),
    ("xpu", 1, 2, 0, "xpu:1"),
    ("xpu:0", 1, 2, 0, "device='xpu:0': 2 processes on this machine would share one device; give device=xpu,"),
    ("gpu", 0, 1, 2, "device='gpu': not a device of torch; give cpu, cuda or cuda:N"),
]


@pytest.mark.parametrize(("asked", "rank", "ranks", "gpus", "outcome"), PLACES)
def test_the_device_asked_for_or_a_refusal(asked: str | None, rank: int, ranks: int, gpus: int, outcome: str) -> None:
    if outcome.startswith("device="):
        assert refusal(lambda: choose_device(asked, rank, ranks, gpus)).startswith(outcome)
    else:
        assert choose_device(asked, rank, ranks, gpus) == outcome


@pytest.mark.parametrize(
    ("options", "kind", "gpus", "outcome"),
    [
        ({}, "cuda", 2, "cuda:1"),
        ({}, "cpu", 2, "cpu"),  # ACCELERATE_USE_CPU=true
        ({"device": "cuda"}, "cuda", 2, "cuda:1"),
        ({"device_map": "cuda"}, "cuda", 2, "cuda:1"),
        ({"device": "cpu"}, "cpu", 0, "cpu"),
        ({"device": "cpu"}, "cuda", 2, "device='cpu': the processes of this run exchange their results on cuda"),
        ({"device": "cuda"}, "cpu", 2, "device='cuda': the processes of this run exchange their results on cpu"),
        ({"device_map": "auto"}, "cuda", 2, "device_map='auto': 2 processes on this machine would each spread"),
        ({"device_map": "auto"}, "cuda", 1, "auto"),
    ],
)
def test_each_of_several_processes_takes_its_own_device(
    options: dict[str, str], kind: str, gpus: int, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    loading = Loading(**options)  # type: ignore[arg-type]
    if "=" in outcome:
        assert refusal(lambda: loading.of_rank(1, 2, kind)).startswith(outcome)
    else:
        own = loading.of_rank(1, 2, kind)
        assert (own.device_map or own.device) == outcome


@pytest.mark.parametrize("device", [None, "cpu"])
def test_lmms_eval_hands_over_a_device_only_if_one_was_given(device: str | None) -> None:
    model: Any = lmms_eval.models.get_model("vlm_baseline")
    built = model.create_from_arg_string("pretrained=demo", {"batch_size": 1, "device": device})
    assert built.device.type == (device or ("cuda" if torch.cuda.is_available() else "cpu"))
