"""The models of lmms-eval that answer through vLLM, beside the same methods without it, on the demo's 400 rows."""

import copy
import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

import lmms_eval.models
from PIL import Image
from vllm import LLM

from adaptvis_plugin.decoding import VCD, AdaptVis, Baseline, Method, ScalingVis
from adaptvis_plugin.lmms_eval.vllm_models import VLLMModel
from adaptvis_plugin.models.answers import Answer, Prompt
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.runner import Runner
from adaptvis_plugin.paths import DEMO_MODEL
from adaptvis_plugin.traces import read_traces
from adaptvis_plugin.vllm import generate
from tests.test_lmms_eval import evaluate, manager

BIN = Path(sys.executable).parent
ENGINE = "enforce_eager=true,max_model_len=512,block_size=32"
SPLIT: dict[str, Any] = {"alpha_low": 0.5, "alpha_high": 1.5, "threshold": 0.7}
ROWS = 400
Rows = dict[int, dict[str, Any]]


@pytest.fixture(scope="module")
def loaded() -> VLLMModel:
    kind: Any = lmms_eval.models.get_model("vllm_baseline")
    found: VLLMModel = kind.create_from_arg_string(f"pretrained=demo,{ENGINE}", {"batch_size": 16})
    return found


def under(loaded: VLLMModel, method: str, **given: Any) -> VLLMModel:
    """The same engine under other arguments: to start one takes longer than all rows."""
    found = copy.copy(loaded)
    found.__class__ = lmms_eval.models.get_model(f"vllm_{method}")
    found.runner = copy.copy(loaded.runner)
    found.runner.arguments = ModelArguments(method=method, pretrained="demo", **given)
    return found


def scored(model: VLLMModel, **options: Any) -> dict[str, Any]:
    from lmms_eval.evaluator import simple_evaluate

    found: dict[str, Any] = simple_evaluate(model=model, tasks=["whatsup_demo"], task_manager=manager(), **options)
    return found


def rows(samples: list[dict[str, Any]]) -> Rows:
    def text(found: Any) -> Any:
        return found[0] if isinstance(found, list) else found

    return {s["doc_id"]: {"text": text(s["filtered_resps"]), **text(s["token_counts"])} for s in samples}


def in_process(results: dict[str, Any]) -> Rows:
    return rows(results["samples"]["whatsup_demo"])


def assert_equal(engine: Rows, other: Rows) -> None:
    assert engine.keys() == other.keys()
    for row, expected in other.items():
        assert engine[row] == expected | {"confidence": pytest.approx(expected["confidence"], abs=1e-4)}, row


def command(out: Path, *model_args: str) -> list[str]:
    given = ",".join(["pretrained=demo,dtype=float32", ENGINE, 'limit_mm_per_prompt={"image": 1}', *model_args])
    model = [str(BIN / "lmms-eval"), "--model", "vllm_adaptvis", "--model_args", given]
    return [*model, "--tasks", "whatsup_demo", "--batch_size", "16", "--log_samples", "--output_path", str(out)]


def test_a_command_that_was_killed_and_goes_on_gives_the_answers_of_vlm_adaptvis(tmp_path: Path) -> None:
    trace, out = tmp_path / "trace", tmp_path / "out"
    asked = command(out, *(f"{name}={value}" for name, value in SPLIT.items()), f"trace={trace}")
    file = trace / "vllm_adaptvis_whatsup_demo.jsonl"
    with (tmp_path / "shown").open("w") as shown:
        process = subprocess.Popen(asked, stdout=shown, stderr=shown)
        while process.poll() is None and (not file.exists() or file.read_bytes().count(b"\n") <= 20):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, (tmp_path / "shown").read_text()[-3000:]
    kept = file.read_bytes()
    there = kept.count(b"\n") - 1
    assert 20 <= there < ROWS
    asked[asked.index("--batch_size") + 1] = "32"  # how many rows are in the engine may change
    done = subprocess.run(asked, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"adaptvis decoding: {100 * there / ROWS:3.0f}%" in done.stderr
    (samples,) = out.rglob("*_samples_whatsup_demo.jsonl")
    found = rows([json.loads(line) for line in samples.read_text().splitlines()])
    assert_equal(found, in_process(evaluate("vlm_adaptvis", limit=None, batch_size=16, **SPLIT)))
    assert min(Counter(row["alpha"] for row in found.values()).values()) > 50, "the rows really split"
    (traced,) = read_traces([file])
    assert file.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1]) and len(traced.rows) == ROWS
    for row in traced.rows:
        assert row.alpha is not None and row.doc_id is not None
        recorded = {"text": row.generations[row.alpha], "confidence": row.confidence, "alpha": row.alpha}
        assert recorded.items() <= found[row.doc_id].items()
    assert traced.header is not None and traced.header.packages["vllm"] and traced.header.dtype == "float32"


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("baseline", {}),
        ("adaptvis", {}),  # the demo's preset
        ("scalingvis", {"alpha": 0.5, "prompt": "chat"}),
        ("scalingvis", {"alpha": 2.0, "layers": "1-2"}),
        ("adaptvis", {**SPLIT, "heads": "L1H2+L3H0", "prompt": "chat"}),
    ],
)
def test_the_engine_answers_as_the_model_without_it(loaded: VLLMModel, method: str, given: dict[str, Any]) -> None:
    found = in_process(scored(under(loaded, method, **given)))
    assert len(found) == ROWS
    assert_equal(found, in_process(evaluate(f"vlm_{method}", limit=None, batch_size=16, **given)))


def test_stop_strings_cut_and_end_an_answer(loaded: VLLMModel) -> None:
    given: dict[str, Any] = {"limit": 24, "gen_kwargs": "until=e"}
    found = in_process(scored(under(loaded, "scalingvis", alpha=0.5), **given))
    assert_equal(found, in_process(evaluate("vlm_scalingvis", alpha=0.5, **given)))
    assert {row["text"] for row in found.values()} >= {"L", "Und"}


def test_the_runs_figures_are_in_the_results(loaded: VLLMModel) -> None:
    figures = scored(under(loaded, "scalingvis", alpha=0.5), limit=8)["throughput"]
    assert figures["avg_rows_per_second"] > 0 and figures["avg_rows_smoothed"] == 1


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"gen_kwargs": "no_repeat_ngram_size=2"}, "no_repeat_ngram_size=2: the engine decodes greedily with"),
        ({"gen_kwargs": "do_sample=True"}, "do_sample=True.*greedy"),
    ],
)
def test_options_that_the_engine_lacks_are_refused(loaded: VLLMModel, given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        scored(under(loaded, "baseline"), **given)


@pytest.mark.parametrize(
    ("method", "given", "complaint"),
    [
        ("baseline", "device=cpu", "device='cpu'.*CUDA_VISIBLE_DEVICES"),
        ("baseline", "device_map=auto", "device_map='auto'.*tensor_parallel_size"),
        ("baseline", "attn_implementation=sdpa", "attn_implementation='sdpa'.*FLASH_ATTN"),
        ("baseline", "model=demo", "model='demo'.*pretrained="),
        ("baseline", "max_model_length=9", "unknown model_args max_model_length=9.*Did you mean max_model_len?"),
        ("adaptvis", "alpha_hgih=9", "unknown model_args alpha_hgih=9.*Did you mean alpha_high?"),
        ("baseline", "gpu_memory_utilization=much", "gpu_memory_utilization='much': vLLM refuses it"),
        ("baseline", "enforce_eager=perhaps", "enforce_eager='perhaps': give true or false"),
        ("baseline", "kv_cache_dtype=tiny", "kv_cache_dtype='tiny': vLLM refuses it: .*invalid choice"),
        ("adaptvis", "alpha_low=-1", "alpha_low=-1.*finite number >= 0"),
        ("adaptvis", "gate=entropy,threshold=1", "gate='entropy' needs all logits.*vlm_adaptvis"),
        ("adaptvis", "kv_cache_dtype=fp8", "cannot be steered here: the engine has kv_cache_dtype=fp8"),
        ("adaptvis", "pretrained=./nothing", "nothing"),
    ],
)
def test_unusable_arguments_fail_before_the_engine_starts(method: str, given: str, complaint: str) -> None:
    model: Any = lmms_eval.models.get_model(f"vllm_{method}")
    text = given if "pretrained" in given else f"pretrained=demo,{given}"
    with pytest.raises((ValueError, OSError), match=complaint):
        model.create_from_arg_string(text, {"batch_size": 1, "device": None})


def test_every_argument_is_explained() -> None:
    shown = str(lmms_eval.models.get_model("vllm_adaptvis").__doc__)
    assert "every option of vllm serve" in shown and "max_num_seqs" in shown and "attn_implementation" not in shown


# The same from Python, on a checkpoint whose generation config has opinions.

TEXTS = [
    f"<image>\nUSER: Where is the {one} in relation to the {other}? Answer with left, right, on or under.\nASSISTANT:"
    for one, other in itertools.product(("mug", "cup", "dog", "chair"), ("table", "bowl", "lamp", "cat"))
]
PICTURES = [Image.effect_noise((128, 128), spread).convert("RGB") for spread in (20, 40, 60)]
ASKED = list(zip(TEXTS, itertools.cycle(PICTURES)))  # the pictures come again


def with_config(folder: Path, **changed: Any) -> Path:
    shutil.copytree(DEMO_MODEL, folder)
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    return folder


@pytest.fixture(scope="module")
def opinionated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An end token that is never written, so that nothing but its stop strings and the limit ends an answer."""
    folder = tmp_path_factory.mktemp("checkpoint") / "demo"
    return with_config(folder, eos_token_id=[499], repetition_penalty=1.8, stop_strings=["ig"])


@pytest.fixture(scope="module")
def llm(opinionated: Path) -> LLM:
    return LLM(str(opinionated), dtype="float32", enforce_eager=True, max_model_len=128, max_num_seqs=4)


@pytest.fixture(scope="module")
def runner(opinionated: Path) -> Runner:
    return Runner(ModelArguments(method="baseline", pretrained=str(opinionated)))


Ask = Callable[..., list[Answer]]


@pytest.fixture(scope="module")
def ask(llm: LLM) -> Ask:
    prompts = [{"prompt": text, "multi_modal_data": {"image": [picture]}} for text, picture in ASKED]
    return lambda method, **options: generate(llm, prompts, method, use_tqdm=False, **options)


@pytest.mark.parametrize("method", [Baseline(), ScalingVis(0.3), AdaptVis(0.3, 3, 0.5), AdaptVis(1, 2, 0.5)])
@pytest.mark.parametrize("options", [{}, {"max_new_tokens": 1}, {"repetition_penalty": 1.2, "stop_strings": ["t"]}])
def test_generate_gives_one_answer_per_prompt(
    ask: Ask, runner: Runner, method: Method, options: dict[str, Any]
) -> None:
    given = {"max_new_tokens": 9, **options}
    found = ask(method, **given)
    expected = runner.answer([Prompt(text, (picture,)) for text, picture in ASKED], method, **given)
    assert [one.confidence for one in found] == pytest.approx([one.confidence for one in expected], abs=1e-4)
    assert [(one.text, one.alpha, one.input_tokens, one.output_tokens) for one in found] == [
        (one.text, one.alpha, one.input_tokens, one.output_tokens) for one in expected
    ]


def test_a_prompt_without_an_image_is_answered_unsteered(llm: LLM, caplog: pytest.LogCaptureFixture) -> None:
    texts = ["USER: Where is the mug?\nASSISTANT:", "<s>USER: Where is the mug?\nASSISTANT:"]
    plain, begun = generate(llm, texts, AdaptVis(0.3, 3, 0.5), use_tqdm=False)
    assert plain == begun, "a beginning-of-sequence token that is there already is not doubled"
    assert plain.alpha == 1 and "prompt 0 holds no image token" in caplog.text


@pytest.mark.parametrize(
    ("method", "options", "complaint"),
    [
        (VCD(), {}, "vcd needs more of the model than an engine gives.*vlm_vcd"),
        (AdaptVis(0.5, 1.5, 1, gate="entropy"), {}, "gate='entropy'.*vlm_adaptvis"),
        (ScalingVis(0.5, layers=9), {}, "layer 9: the model has attention in the layers 0 to 3"),
        (ScalingVis(0.5), {"bad_words_ids": [[1]]}, r"bad_words_ids=\[\[1\]\]"),
        (ScalingVis(0.5), {"max_new_tokens": 0}, "max_new_tokens=0"),
        (Baseline(), {"max_new_tokens": 200}, "prompt [0-9]+: the engine has no room.*max_model_len"),
    ],
)
def test_what_the_engine_cannot_do_is_an_error(
    ask: Ask, method: Method, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        ask(method, **options)
    assert len(ask(Baseline(), max_new_tokens=1)) == len(ASKED), "the engine still answers"


def test_a_prompt_that_cannot_be_asked_is_named(llm: LLM) -> None:
    lone = {"prompt": "Where is it?", "multi_modal_data": {"image": PICTURES[:1]}}
    for wrong in (lone, "where " * 400):
        with pytest.raises(ValueError, match="prompt 1: "):
            generate(llm, [TEXTS[0].replace("<image>", ""), wrong], Baseline(), use_tqdm=False)


def test_a_generation_config_that_the_engine_cannot_follow_is_refused(loaded: VLLMModel) -> None:
    engine = copy.copy(loaded.runner.engine)
    engine._own = {**engine._own, "suppress_tokens": [3]}
    with pytest.raises(ValueError, match=r"suppress_tokens=\[3\].*vlm_NAME"):
        engine.generation()
