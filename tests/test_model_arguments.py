"""Model arguments: what the error says about each wrong one, on one line, in the shared code and both adapters."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lmms_eval.models
import pytest
import torch
from typer.testing import CliRunner

from adaptvis_plugin.cli import app
from adaptvis_plugin.decoding import ScalingVis
from adaptvis_plugin.lmms_eval.plugin import model_names
from adaptvis_plugin.lmms_eval.vllm_models import VLLMModel
from adaptvis_plugin.methods import METHODS, hyper_parameters
from adaptvis_plugin.models.arguments import ModelArguments, argument_help
from adaptvis_plugin.models.presets import load_preset
from adaptvis_plugin.models.runner import Runner
from adaptvis_plugin.vlmevalkit.arguments import model_arguments, parse_model_args
from tests.wrong_input import checkpoint, config, load, refusal

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
    said = refusal(lambda: load("demo", **options))
    assert [word for word in words if word not in said] == []


@pytest.mark.skipif(find_spec("flash_attn") is not None, reason="is about a machine without flash attention")
def test_a_kernel_that_is_not_installed_is_named() -> None:
    said = refusal(lambda: load("demo", attn_implementation="flash_attention_2"))
    assert "attn_implementation=flash_attention_2" in said and "Without attn_implementation" in said


@pytest.mark.parametrize("spelling", [True, "true", "True"])
def test_spellings_of_true(spelling: Any) -> None:
    assert ModelArguments(method="baseline", pretrained="demo", trust_remote_code=spelling).trust_remote_code is True


@pytest.mark.parametrize("spelling", [False, "false", "False"])
def test_spellings_of_false(spelling: Any) -> None:
    assert ModelArguments(method="baseline", pretrained="demo", trust_remote_code=spelling).trust_remote_code is False


COEFFICIENT = "a finite number >= 0"

SETUPS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("scalingvis", {"alpha": -1}, ["alpha=-1", COEFFICIENT]),
    ("scalingvis", {"alpha": "abc"}, ["alpha='abc'", COEFFICIENT]),
    ("scalingvis", {"alpha": float("nan")}, ["alpha=nan", COEFFICIENT]),
    ("scalingvis", {"alpha": float("inf")}, ["alpha=inf", COEFFICIENT]),
    ("scalingvis", {"alpha": True}, ["alpha=True", COEFFICIENT]),
    ("scalingvis", {"alhpa": 1}, ["alhpa=1", "Did you mean alpha?"]),
    ("scalingvis", {"threshold": 0.4}, ["threshold=0.4", "threshold belongs to adaptvis"]),
    ("adaptvis", {"alpha": 0.5}, ["alpha=0.5", "alpha_low, alpha_high, threshold", "alpha belongs to scalingvis"]),
    ("adaptvis", {"threshold": 2}, ["threshold=2", "[0, 1]"]),
    ("adaptvis", {"alpha_low": -0.5}, ["alpha_low=-0.5", COEFFICIENT]),
    ("scalingvis", {"layers": "18-14"}, ["layers='18-14'", "14-18+22"]),
    ("scalingvis", {"heads": "17.3"}, ["heads='17.3'", "L17H3+L17H5"]),
    ("adaptvis", {"layers": 1, "heads": "L1H0"}, ["layers=1 and heads='L1H0'", "give one"]),
    ("baseline", {"layers": 1}, ["layers=1", "layers belongs to scalingvis and adaptvis"]),
    ("constant", {"constant": "much"}, ["constant='much'", "a finite number"]),
    ("baseline", {"alpha": 1}, ["alpha=1", "none", "alpha belongs to scalingvis"]),
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
    said = refusal(lambda: ModelArguments(method=method, pretrained="demo", **values))
    assert [word for word in words if word not in said] == []


PRESETS: list[tuple[str, list[str]]] = [
    ("prompt: chat", ["give description: a text: where the settings come from"]),
    ("description: x\nprompt: latin", ["prompt='latin'", "give paper (the authors' wording) or chat"]),
    ("description: x\npretrained: demo", ["pretrained='demo'", "give a list of the checkpoints"]),
    ("description: x\nalpha: 2", ["unknown key alpha=2; there are description, pretrained, prompt, settings"]),
    ("description: x\npromt: chat", ["unknown key promt='chat'", "Did you mean prompt?"]),
    ("description: x\npromt: chat\nprompt: latin", ["unknown key promt='chat'", "prompt='latin'"]),
    ("description: x\nsettings: {vsr: 2}", ["settings.vsr=2: give hyper-parameters by task and method"]),
    ("description: x\nsettings: {vsr: {scalingvis: {alpha: -1}}}", ["settings.vsr.scalingvis: alpha=-1", COEFFICIENT]),
    ("description: x\nsettings: {vsr: {scalingvis: {alpha: abc}}}", ["vsr.scalingvis: alpha='abc'", COEFFICIENT]),
    ("description: x\nsettings: {vsr: {scalingvis: {alpha: yes}}}", ["vsr.scalingvis: alpha=True", COEFFICIENT]),
    ("description: x\nsettings: {vsr: {adaptvis: {threshold: 2}}}", ["vsr.adaptvis", "takes alpha_low, alpha_high"]),
    ("description: x\nsettings: {vsr: {sharpvis: {alpha: 2}}}", ["vsr.sharpvis", "there are: baseline, scalingvis"]),
    ("description: x\nsettings: {vsr_val: {scalingvis: {alpha: 2}}}", ["vsr_val", "never looked up", "write vsr,"]),
    ("description: x\nsettings: {VSR_QA: {scalingvis: {alpha: 2}}}", ["VSR_QA", "never looked up", "write vsr,"]),
    (
        "description: x\nsettings: {refcoco_seg_val: {scalingvis: {alpha: 2}}}",
        ["refcoco_seg_val", "write refcoco_seg,"],
    ),
    (
        "description: x\nsettings: {vsr: {scalingvis: {alpha: 2, layers: [14, x]}}}",
        ["vsr.scalingvis: layers=[14, 'x']"],
    ),
    ("- a\n- list", ["['a', 'list'] is not a mapping", "give description, pretrained"]),
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
    """It may be a task of the user's own, so it is an error only once the task it may have meant has no settings."""
    file = tmp_path / "mine.yaml"
    file.write_text("description: x\nsettings: {whatsup_controled_a: {scalingvis: {alpha: 2}}, pope: {}}")
    arguments = ModelArguments(method="scalingvis", pretrained="demo", preset=str(file))
    load_preset(file)
    assert [record.getMessage() for record in caplog.records] == [
        "a preset has settings for the task 'whatsup_controled_a', which this plugin does not have; did you mean "
        "'whatsup_controlled_a'?"
    ]
    said = refusal(lambda: arguments.choose("whatsup_controlled_a_val"))
    assert "so give alpha" in said and "it has some for 'whatsup_controled_a'" in said


@pytest.mark.parametrize(
    ("written", "given", "places"),
    [
        ("layers: 14-18", {}, {"layers": "14-18"}),
        ("layers: [16, 14, 15, 22]", {}, {"layers": "14-16+22"}),
        ("layers: 14", {}, {"layers": "14"}),
        ("heads: [L17H5, L17H3]", {}, {"heads": "L17H3+L17H5"}),
        ("heads: [L17H3]", {"layers": "0-2"}, {"layers": "0-2"}),
        ("layers: 14-18", {"heads": "L1H0"}, {"heads": "L1H0"}),
        ("", {"layers": 3}, {"layers": "3"}),
        ("", {}, {}),
    ],
)
def test_layers_and_heads_come_from_a_preset_or_in_place_of_it(
    written: str, given: dict[str, Any], places: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"description: x\nsettings:\n  vsr:\n    scalingvis:\n      alpha: 2\n      {written}\n")
    method = ModelArguments(method="scalingvis", pretrained="demo", preset=str(file), **given).choose("vsr_test")
    assert method.settings == {"alpha": 2, **places}
    assert ScalingVis(**method.settings) == method


# What lmms-eval and VLMEvalKit hand over of the same text, as far as their arguments are the same.


def through_lmms_eval(text: str, method: str = "scalingvis") -> Any:
    model: Any = lmms_eval.models.get_model(f"vlm_{method}")
    return model.create_from_arg_string(text, {"batch_size": 1, "max_batch_size": None, "device": None})


def through_vlmevalkit(text: str, method: str = "scalingvis") -> Any:
    return Runner(model_arguments(method=method, **parse_model_args(text)))


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
    ("pretrained=demo,alpha_low=0.5", ["alpha_low=0.5", "alpha_low belongs to adaptvis"]),
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


MISSPELT = {
    "atn_implementation": "attn_implementation",
    "batchsize": "batch_size",
    "dvice": "device",
    "dvice_map": "device_map",
    "dtyp": "dtype",
    "max_new_token": "max_new_tokens",
    "pretraned": "pretrained",
    "presett": "preset",
    "promt": "prompt",
    "revison": "revision",
    "trust_remote": "trust_remote_code",
    "trce": "trace",
    "methd": "method",
    "alhpa": "alpha",
    "lyers": "layers",
    "hads": "heads",
}


def test_every_argument_is_misspelt_once() -> None:
    assert {*MISSPELT.values()} == {*ModelArguments.model_fields, *hyper_parameters("scalingvis")}


@ADAPTERS
@pytest.mark.parametrize(("misspelt", "right"), MISSPELT.items())
def test_a_misspelt_argument_gets_the_right_suggestion(build: Callable[[str], Any], misspelt: str, right: str) -> None:
    said = refusal(lambda: build(f"pretrained=demo,{misspelt}=1"))
    assert said.startswith(f"unknown model_args {misspelt}=1; ") and said.endswith(f". Did you mean {right}?")


@pytest.mark.parametrize(
    ("text", "instead"),
    [("max_new_tokens=4", "give it as --gen_kwargs max_new_tokens=N"), ("method=adaptvis", "the model's name says")],
)
def test_what_lmms_eval_takes_elsewhere_is_refused_with_the_place(text: str, instead: str) -> None:
    assert instead in refusal(lambda: through_lmms_eval(f"pretrained=demo,{text}"))


def test_several_wrong_arguments_are_named_at_once() -> None:
    said = refusal(lambda: ModelArguments(method="baseline", pretrained="demo", dtype="int8", prompt="foo"))
    assert "dtype='int8': give one of" in said and "; " in said and "prompt='foo': give paper" in said


@pytest.mark.parametrize("missing", ["method", "pretrained"])
def test_a_missing_argument_is_named_with_its_description(missing: str) -> None:
    given = {"method": "baseline", "pretrained": "demo", missing: None}
    rule = ModelArguments.descriptions()[missing].replace("`", "")
    assert refusal(lambda: ModelArguments(**given)) == f"give {missing}: {rule}"


def test_arguments_cannot_be_changed() -> None:
    arguments = ModelArguments(method="scalingvis", pretrained="demo", alpha=0.5)
    for name in ("dtype", "alpha"):
        with pytest.raises(ValueError, match="frozen"):
            setattr(arguments, name, "auto")


# One description, shown in every place where people look for it.


@dataclass(frozen=True)
class Styled(ScalingVis):
    """A method with hyper-parameters that are not numbers."""

    style: str
    twice: bool

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        if value is not None and not isinstance(value, {"style": str, "twice": bool}.get(name, float)):
            raise ValueError(f"{name}={value!r}: not for this method")


def test_hyper_parameters_of_a_new_method_may_be_of_any_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "styled", f"{__name__}:Styled")
    file = tmp_path / "mine.yaml"
    file.write_text("description: x\nsettings: {vsr: {styled: {alpha: 0.5, style: bold, twice: yes}}}")
    given = {"method": "styled", "pretrained": "demo", "preset": str(file)}
    assert ModelArguments(**given).choose("vsr") == Styled(0.5, "bold", True)
    assert ModelArguments(**given, style="thin", twice=False).choose("vsr") == Styled(0.5, "thin", False)
    assert refusal(lambda: ModelArguments(**given, twice="no")) == "twice='no': not for this method"
    file.write_text(file.read_text().replace("bold", "2"))
    assert "settings.vsr.styled: style=2: not for this method" in refusal(lambda: load_preset(file))


def test_the_readme_s_table_is_the_description() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| argument \| meaning \|\n\|---\|---\|\n((?:\|.*\n)+)", readme, re.MULTILINE)
    rows = [f"| `{name}` | {description} |" for name, description in ModelArguments.descriptions().items()]
    assert table.splitlines() == rows


def test_every_model_of_lmms_eval_explains_its_arguments() -> None:
    for name in model_names():
        model = lmms_eval.models.get_model(name)
        family, _, method = name.partition("_")
        assert (VLLMModel.explained(method) if family == "vllm" else argument_help(method)) in str(model.__doc__)
    assert "constant: the hyper-parameters of constant" in argument_help("constant")
    assert "layers=14-18+22" in argument_help("scalingvis") and "layers=" not in argument_help("constant")
    assert "alpha_low, alpha_high, threshold, layers, heads, gate: the hyper-parameters" in argument_help("adaptvis")


def test_the_help_of_vlmevalkit_s_command_explains_the_arguments() -> None:
    shown = " ".join(CliRunner().invoke(app, ["vlmeval", "--help"], env={"COLUMNS": "100000"}).output.split())
    for line in argument_help(*METHODS).splitlines():
        assert line in shown, line


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
    assert getattr(found, "runner", found).arguments.overrides == {"alpha": 0.1}


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
