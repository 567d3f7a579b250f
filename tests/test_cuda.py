"""The same on a GPU as on a CPU: exactness, half precision, the real flash attention kernels, and whole runs.

All other tests run on a CPU. Run these on a machine with a GPU, for each new version of torch or flash-attn:
`python -m pytest tests/test_cuda.py -n 8`.
"""

import json
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptvis_plugin.data.dataset import Row
from adaptvis_plugin.data.demo.rows import demo_rows
from adaptvis_plugin.decoding import AdaptVis, Baseline, Decoder, ScalingVis
from adaptvis_plugin.lmms_eval.results import newest, run_lmms_eval
from adaptvis_plugin.models.answers import Answer, Prompt
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.runner import Runner
from tests.cases import MODELS, NEW_TOKENS, Case, build, losses
from tests.families import FAMILIES
from tests.families.build import IMAGE, random_batch
from tests.families.check import IMAGE_LAST, measure, same_tokens
from tests.test_half_precision import SEEDS, cases, llava_model, qwen2_model, unsteered_loss
from tests.test_prefix_sharing import SHARING, share
from tests.test_runner import turn

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and torch sees none")
needs_flash = pytest.mark.skipif(find_spec("flash_attn") is None, reason="needs the package flash-attn")

CUDA = "cuda"
FLASH = "flash_attention_2"
TOLERANCE = 1e-4
ROWS = 40  # of the demo

each_type = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
each_model = pytest.mark.parametrize("name", MODELS)
each_batch = pytest.mark.parametrize("texts", [[3, 9, 5], [7]], ids=["padded", "one row"])
each_model_and_kernel = pytest.mark.parametrize(
    ("name", "attention"),
    [(name, "sdpa") for name in MODELS if name != "softcap"]  # transformers has no softcap in sdpa
    + [pytest.param(name, FLASH, marks=needs_flash) for name in MODELS],
)
# Enough for ratios of rounding errors that vary by 3 percent from one set of models to the next.
MANY = range(16)
NO_MORE = 1.1


@pytest.fixture(autouse=True)
def exact_fp32() -> Iterator[None]:
    """Keep TF32, which has the mantissa of fp16, out of fp32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    yield
    matmul.allow_tf32, cudnn.allow_tf32 = before


@pytest.mark.parametrize("image_last", [False, True], ids=["text last", "image last"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_equals_complete_eager_passes(name: str, image_last: bool) -> None:
    measured = measure(name, image_last, CUDA)
    assert measured.effect > 100 * TOLERANCE, "steering must be visible for the comparison to mean anything"
    differences = (
        measured.difference,
        measured.confidence,
        measured.sweep_difference,
        measured.plain_difference,
    )
    assert max(differences) <= TOLERANCE
    assert measured.same_text and measured.same_swept_text and measured.same_plain_text
    feature = image_last and bool((random_batch(FAMILIES[name], IMAGE_LAST)["input_ids"][:, -1] == IMAGE).any())
    assert measured.mode == ("two passes" if feature else FAMILIES[name].mode)


@each_type
@pytest.mark.parametrize("alpha", [0.5, 1.5])
def test_in_half_precision_steering_loses_no_more_than_complete_passes(dtype: torch.dtype, alpha: float) -> None:
    ours, eager = losses(cases(llava_model, MANY), dtype, alpha, CUDA)
    assert ours <= NO_MORE * eager


def test_with_large_biases_steering_loses_less_than_complete_passes() -> None:
    ours, eager = losses(cases(qwen2_model), torch.bfloat16, 0.5, CUDA)
    assert ours <= eager


@pytest.mark.parametrize("alpha", [0.5, 0.999, 1.001])
def test_large_biases_do_not_overflow_in_float16(alpha: float) -> None:
    """Two complete eager passes do overflow: their logits are NaN."""
    ours, eager = losses(cases(qwen2_model), torch.float16, alpha, CUDA)
    assert eager != eager
    unsteered = unsteered_loss(torch.float16, CUDA)
    assert ours <= 1.2 * unsteered, "steering adds almost nothing to what fp16 costs the unsteered model"


@needs_flash
@pytest.mark.parametrize("alpha", [0.5, 1.5])
@each_type
@each_batch
@each_model
def test_flash_attention_loses_no_more_than_complete_eager_passes(
    name: str, texts: list[int], dtype: torch.dtype, alpha: float
) -> None:
    """With shared heads, padding, positions from images, windows and softcaps."""
    ours, eager = losses((build(name, texts, seed) for seed in MANY), dtype, alpha, CUDA, FLASH)
    assert ours <= NO_MORE * eager


def in_half(name: str, texts: list[int], dtype: torch.dtype, attention: str, seed: int = 0) -> Case:
    case = build(name, texts, seed).on(CUDA, dtype)
    case.model.set_attn_implementation(attention)
    return case


@each_type
@each_batch
@each_model_and_kernel
def test_unsteered_answers_are_those_of_generate(
    name: str, texts: list[int], dtype: torch.dtype, attention: str
) -> None:
    """Alone bit for bit, and in a sweep but for rounding: a matrix product may round otherwise with more rows."""
    apart, rounding, same = [], [], []
    for seed in SEEDS:
        exact = build(name, texts, seed).on(CUDA).expected(1.0, tokens=1).first_logits
        case = in_half(name, texts, dtype, attention, seed)
        plain = case.generate()
        new = plain.sequences[:, case.inputs["input_ids"].shape[1] :]
        decoder = Decoder(case.model)
        options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, **case.generation}
        alone = decoder.generate(case.inputs, Baseline(), **options)
        assert torch.equal(alone.first_logits, plain.logits[0]) and torch.equal(alone.sequences, new)
        swept = decoder.sweep(case.inputs, [0.5, 1.5], **options)[1.0]
        apart.append(float((swept.first_logits - plain.logits[0]).abs().mean()))
        rounding.append(float((plain.logits[0] - exact).abs().mean()))
        same += [same_tokens(*row) for row in zip(swept.sequences, new, strict=True)]
    assert sum(apart) <= sum(rounding)
    assert sum(same) >= 0.8 * len(same), "a few answers may be ties that rounding decides"


@each_type
@each_model_and_kernel
def test_an_answer_does_not_depend_on_its_neighbours(name: str, dtype: torch.dtype, attention: str) -> None:
    """A row alone and the same row beside longer ones differ by no more than two roundings in the type."""
    apart, rounding = [], []
    for seed in SEEDS:
        exact = build(name, [3], seed).on(CUDA).expected(0.5, tokens=1).first_logits
        alone, beside = (
            Decoder(case.model).generate(case.inputs, ScalingVis(0.5), max_new_tokens=1).first_logits[:1]
            for case in (in_half(name, texts, dtype, attention, seed) for texts in ([3], [3, 9, 5]))
        )
        apart.append(float((beside - alone).abs().mean()))
        rounding.append(float((alone - exact).abs().mean()))
    assert sum(apart) <= 2 * sum(rounding)


@pytest.mark.parametrize("name", SHARING)
def test_sharing_the_prefixes_of_images_changes_nothing(name: str) -> None:
    share(name, AdaptVis(0.5, 1.5, 0.4), CUDA)


def demo(**place: Any) -> Runner:
    return Runner(ModelArguments(method="adaptvis", pretrained="demo", dtype="float32", **place))


@cache
def scenes() -> list[Row]:
    return demo_rows()


def prompts(runner: Runner, rows: int) -> list[Prompt]:
    return [
        Prompt(runner.render(turn(row), row["question"], row["prompt"]), (row["image"],), options=tuple(row["options"]))
        for row in scenes()[:rows]
    ]


def answers(runner: Runner, rows: int = ROWS, **generation: Any) -> list[Answer]:
    method = runner.arguments.choose("whatsup_demo")
    return runner.answer(prompts(runner, rows), method, max_new_tokens=4, **generation)


@pytest.fixture(scope="module")
def on_cpu() -> Runner:
    return demo(device="cpu")


@pytest.fixture(scope="module")
def on_gpu() -> Runner:
    return demo(device=CUDA)


def same_answers(found: list[Answer], expected: list[Answer]) -> None:
    assert [(a.text, a.alpha, a.output_tokens) for a in found] == [(a.text, a.alpha, a.output_tokens) for a in expected]
    assert [a.confidence for a in found] == pytest.approx([a.confidence for a in expected], abs=TOLERANCE)


def test_a_checkpoint_answers_as_on_a_cpu(on_cpu: Runner, on_gpu: Runner) -> None:
    assert on_gpu.model.device.type == CUDA
    same_answers(answers(on_gpu), answers(on_cpu))
    stopped = answers(on_gpu, stop_strings=["ef"])
    same_answers(stopped, answers(on_cpu, stop_strings=["ef"]))
    assert "L" in {answer.text for answer in stopped}, "the stop string cut the word Left"


def test_a_spread_model_answers_as_on_a_cpu(on_cpu: Runner) -> None:
    same_answers(answers(demo(device_map="auto")), answers(on_cpu))


def test_a_sweep_of_a_checkpoint_finds_what_it_finds_on_a_cpu(on_cpu: Runner, on_gpu: Runner) -> None:
    alphas = (0.5, 1.5)
    for found, expected in zip(
        *(runner.sweep(prompts(runner, ROWS), alphas, max_new_tokens=4) for runner in (on_gpu, on_cpu)), strict=True
    ):
        same_answers(list(found.answers.values()), list(expected.answers.values()))
        assert found.entropy == pytest.approx(expected.entropy, abs=TOLERANCE)
        assert found.top[0][:2] == expected.top[0][:2]
        for alpha, options in expected.options.items():
            assert found.options[alpha] == pytest.approx(options, abs=TOLERANCE)


def test_a_batch_that_does_not_fit_into_the_gpu_is_decoded_in_halves() -> None:
    """With the memory of this process really limited, and torch's own failure."""
    runner = demo(device=CUDA)

    def peak(rows: int) -> int:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        answers(runner, rows)
        return torch.cuda.max_memory_reserved()

    few, many = peak(25), peak(400)
    expected = answers(runner, 400)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((few + many) / 2 / torch.cuda.get_device_properties(0).total_memory)
    try:
        same_answers(answers(runner, 400), expected)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 25 <= runner.most_rows <= 200


@pytest.mark.skipif(find_spec("lmms_eval") is None, reason="needs lmms-eval")
def test_lmms_eval_answers_as_on_a_cpu(on_cpu: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    given = ["--model_args", f"pretrained=demo,device={CUDA},dtype=float32", "--gen_kwargs", "max_new_tokens=4"]
    more = ["--batch_size", "16", "--limit", str(ROWS), "--log_samples", "--output_path", str(tmp_path)]
    run_lmms_eval(["--model", "llava_adaptvis", "--tasks", "whatsup_demo", *given, *more], tmp_path / "log")
    lines = newest(tmp_path, "*_samples_whatsup_demo.jsonl").read_text(encoding="utf-8").splitlines()
    samples = sorted(map(json.loads, lines), key=lambda sample: int(sample["doc_id"]))
    expected = answers(on_cpu)
    assert [sample["filtered_resps"] for sample in samples] == [answer.text for answer in expected]
    counts = [sample["token_counts"][0] for sample in samples]
    assert [count["alpha"] for count in counts] == [answer.alpha for answer in expected]
    assert [count["confidence"] for count in counts] == pytest.approx(
        [answer.confidence for answer in expected], abs=TOLERANCE
    )
