"""Second streams as every family's real processor makes them, and the decoders that use them through both adapters."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BatchFeature

from adaptvis_plugin.decoding import ICD, M3ID, PAI, VCD, Baseline, Method, YesHint
from adaptvis_plugin.decoding.parts import NoisedImage
from adaptvis_plugin.models.answers import Answer, Prompt
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.runner import Runner
from adaptvis_plugin.models.views import noised, signal
from tests.families import FAMILIES, PROCESSORS
from tests.families.adapters import ONE_EACH, ONE_TWO_NONE, Row, through_lmms_eval, through_vlmevalkit
from tests.families.checkpoint import write

NO_PROMPT_WITHOUT_IMAGE = {"paligemma", "paligemma (Gemma 2: softcap, sliding window)", "got_ocr2"}
GUIDED = PAI(0.5, gamma=2.0)
Loaded = Callable[..., Runner]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a family's checkpoint."""

    @cache
    def written(name: str) -> Path:
        path = tmp_path_factory.mktemp("checkpoint")
        write(FAMILIES[name], PROCESSORS[name], path)
        return path

    return written


@pytest.fixture(scope="module")
def loaded(folder: Callable[[str], Path]) -> Loaded:
    """Return the runner of a family's checkpoint."""

    @cache
    def runner(name: str, prompt: str = "chat") -> Runner:
        return Runner(ModelArguments(method="baseline", pretrained=str(folder(name)), prompt=prompt))

    return runner


def asked(runner: Runner, rows: Sequence[Row], method: Method) -> list[Prompt]:
    """Ask the rows under a method, as the adapters do."""
    found = []
    for place, row in enumerate(rows):
        content: list[dict[str, Any]] = [*({"type": "image"} for _ in row.pictures), {"type": "text", "text": row.text}]
        turn = [{"role": "user", "content": content}]
        found.append(runner.prompt(method, turn, row.text, None, row.pictures, f"row {place}", ()))
    return found


def answers(runner: Runner, prompts: Sequence[Prompt], method: Method) -> list[Answer]:
    return runner.answer(prompts, method, max_new_tokens=4)


@pytest.mark.parametrize("name", PROCESSORS)
def test_no_row_depends_on_its_neighbours(name: str, loaded: Loaded) -> None:
    runner = loaded(name)
    rows = ONE_EACH if PROCESSORS[name].needs_image else ONE_TWO_NONE
    for method in (VCD(2.0), GUIDED):
        prompts = asked(runner, rows, method)
        if method is GUIDED and name in NO_PROMPT_WITHOUT_IMAGE:
            with pytest.raises(ValueError, match=r"Processor takes no prompt without an image .*use another method"):
                answers(runner, prompts, method)
            continue
        together = answers(runner, prompts, method)
        alone = [answers(runner, [prompt], method)[0] for prompt in prompts]
        assert [answer.text for answer in together] == [answer.text for answer in alone]
        confidences = [[answer.confidence for answer in each] for each in (together, alone)]
        assert confidences[0] == pytest.approx(confidences[1], abs=1e-4)
        assert [answer.alpha for answer in together] == [method.alphas[0] if row.pictures else 0 for row in rows]


def test_the_noise_is_that_of_the_schedule_and_of_the_row(loaded: Loaded) -> None:
    runner = loaded("llava")

    def pixels(rows: Sequence[Row], **settings: int) -> tuple[torch.Tensor, torch.Tensor]:
        given = runner.encode(asked(runner, rows, VCD()), VCD(**settings))
        assert given.second is not None
        return given.inputs["pixel_values"], given.second["pixel_values"]

    own, changed = pixels(ONE_EACH)
    noise = (changed - signal(500) ** 0.5 * own) / (1 - signal(500)) ** 0.5
    assert float(noise.mean()) == pytest.approx(0, abs=0.03) and float(noise.std()) == pytest.approx(1, abs=0.03)
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(pixels(ONE_EACH[1:2])[1][0], changed[1]), "alone, a row has the same noise"
    assert torch.equal(pixels(ONE_EACH)[1], changed), "and always"
    assert not torch.equal(pixels(ONE_EACH, seed=1)[1], changed)
    assert torch.allclose(pixels(ONE_EACH, step=0)[1], own, atol=0.05), "the first step adds next to nothing"


def test_the_schedule_s_share_of_the_signal() -> None:
    """The products of 1 - beta, by hand: beta goes from 1e-5 to 5e-3 along a sigmoid."""
    left = 1.0
    for step in range(1000):
        rate = 1 / (1 + 2.718281828459045 ** -(-6 + 12 * step / 999)) * (5e-3 - 1e-5) + 1e-5
        left *= 1 - rate
        if step in (0, 500, 999):
            assert signal(step) == pytest.approx(left, rel=1e-6)


@pytest.mark.parametrize("style", ["chat", "paper"])
def test_what_is_asked_beside_a_row(style: str, loaded: Loaded) -> None:
    runner = loaded("llava", style)

    def texts(method: Method) -> tuple[str, str | None]:
        (prompt,) = asked(runner, [Row("Is it?", ONE_EACH[0].pictures)], method)
        return prompt.text, prompt.second

    plain, second = texts(Baseline())
    assert plain.count("<image>") == plain.count("Is it?") == 1 and second is None
    assert texts(VCD()) == (plain, None)
    assert texts(M3ID()) == texts(GUIDED) == (plain, plain.replace("<image>\n", "").replace("<image>", ""))
    assert texts(ICD(instruction="Look away.")) == (plain, plain.replace("Is it?", "Look away. Is it?"))
    assert texts(YesHint("Say yes.")) == (plain.replace("Is it?", "Is it? Say yes."), None)


def test_a_question_that_the_template_rewrites_cannot_be_asked_in_another_way(loaded: Loaded) -> None:
    runner = loaded("llava")
    turn = [{"role": "user", "content": [{"type": "text", "text": "IS IT?"}]}]
    prompt = runner.prompt(Baseline(), turn, "Is it?", None, (), "", ())
    assert runner.prompt(ICD(instruction="No."), turn, "Is it?", None, (), "", ()).second == prompt.text.replace(
        "IS IT?", "No. IS IT?"
    ), "the message's text counts too"
    runner.processor.chat_template, own = (
        "{{ messages[0]['content'][0]['text'] | lower }}",
        runner.processor.chat_template,
    )
    try:
        with pytest.raises(
            ValueError, match=r"'Is it\?' does not stand word for word in the rendered prompt 'is it\?'"
        ):
            runner.prompt(YesHint(), turn, "Is it?", None, (), "", ())
    finally:
        runner.processor.chat_template = own


def test_pixels_that_cannot_be_told_apart_are_refused(loaded: Loaded) -> None:
    runner = loaded("llava")
    prompts = asked(runner, ONE_EACH, VCD())
    inputs = runner.encode(prompts).inputs
    mixed = BatchFeature({**inputs, "pixel_values": inputs["pixel_values"].flip(0)})
    texts, images = [prompt.text for prompt in prompts], [prompt.images for prompt in prompts]
    with pytest.raises(ValueError, match=r"pixel_values of shape \(3, .*which of 3 rows.*use batch size 1"):
        noised(runner.processor, NoisedImage(500, 0), mixed, texts, images)


def test_a_second_stream_that_is_longer_than_its_row_beside_a_cached_prefix(loaded: Loaded) -> None:
    """The image was seen before, so that the row could continue its prefix; there the view would not fit."""
    runner, method = loaded("lighton_ocr"), ICD(2.0)
    prompts = asked(runner, ONE_EACH[:1], method)
    runner.decoder.forget_prefixes()
    first = answers(runner, prompts, method)
    before = runner.decoder.stats.prefixes_reused
    answers(runner, prompts, Baseline())
    answers(runner, prompts, Baseline())
    assert runner.decoder.stats.prefixes_reused > before
    assert answers(runner, prompts, method) == first


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("vcd", {"alpha": 3.0}),
        ("icd", {"alpha": 3.0, "instruction": "Look away"}),
        ("m3id", {"forgetting": 2.0}),
        ("pai", {"alpha": 3.0, "gamma": 2.0}),
        ("dola", {"layers": "0+1"}),
        ("yeshint", {}),
        ("yesbias", {"margin": 1.0, "least": 0.0}),
    ],
)
def test_both_adapters_answer_alike_in_any_batch(
    method: str, own: dict[str, Any], folder: Callable[[str], Path], tmp_path: Path
) -> None:
    arguments = {"pretrained": str(folder("qwen2_vl")), "prompt": "chat"}
    plain = next(through_lmms_eval(ONE_TWO_NONE, "baseline", [3], **arguments))
    found = [
        *through_lmms_eval(ONE_TWO_NONE, method, [3, 1], **arguments, **own),
        *through_vlmevalkit(ONE_TWO_NONE, method, [2], folder=tmp_path, **arguments, **own),
    ]
    texts = [[reply.text for reply in replies] for replies in found]
    assert texts[0] == texts[1] == texts[2]
    if method == "yeshint":
        hint = len(" Answer yes whenever possible.")
        assert [reply.prompt for reply in found[0]] == [reply.prompt + hint for reply in plain]
        return
    assert texts[0] != [reply.text for reply in plain]
    for replies in found:
        assert [r.confidence for r in replies] == pytest.approx([r.confidence for r in plain], abs=1e-4)
