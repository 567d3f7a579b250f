"""`vllm serve` with this package beside it, asked over a socket by the OpenAI client."""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

import pytest
import requests
import torch

pytest.importorskip("vllm")

from openai import AsyncOpenAI, BadRequestError, OpenAI

from adaptvis_plugin.decoding import AdaptVis
from adaptvis_plugin.decoding.first_token import Recorded
from adaptvis_plugin.models.answers import Prompt
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.runner import Runner
from tests.vllm.serving import ROWS, messages, metric, request, said, serving

ALPHAS = (0, 0.3, 0.5, 0.8, 1.2, 1.5, 2.0, 3.0)
PLACES: tuple[dict[str, Any], ...] = ({}, {"layers": "1-2"}, {"layers": "3"}, {"heads": "L1H3+L2H0"})

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "negative": ({"adaptvis_alpha": -1}, "adaptvis_alpha=-1: .* must be a finite number >= 0"),
    "a word": ({"adaptvis_alpha": "high"}, "adaptvis_alpha='high': .* must be a finite number >= 0"),
    "a number as text": ({"adaptvis_alpha": "0.5"}, "adaptvis_alpha='0.5': .* must be a finite number >= 0"),
    "a list": ({"adaptvis_alpha": [0.5]}, r"adaptvis_alpha=\[0.5\]: .* must be a finite number >= 0"),
    "too large": ({"adaptvis_alpha": 1e38}, r"adaptvis_alpha=1e\+38: .* up to 1e\+06; give a smaller one"),
    "unknown": ({"adaptvis_beta": 1}, "unknown argument adaptvis_beta=1; there are adaptvis_alpha, adaptvis_layers"),
    "no alpha": ({"adaptvis_layers": "1"}, "adaptvis_layers without adaptvis_alpha: give adaptvis_alpha"),
    "no layers": ({"adaptvis_alpha": 0.5, "adaptvis_layers": "2-1"}, "adaptvis_layers='2-1': name layers as 14, 14-18"),
    "no such layer": (
        {"adaptvis_alpha": 0.5, "adaptvis_layers": "2-4"},
        "adaptvis_layers=2-4: layer 4: the model has attention in the layers 0 to 3; name some of these",
    ),
    "no such head": (
        {"adaptvis_alpha": 0.5, "adaptvis_heads": "L1H4"},
        "adaptvis_heads=L1H4: .* the model's layers have the heads 0 to 3",
    ),
    "no head": ({"adaptvis_alpha": 0.5, "adaptvis_heads": "17"}, "adaptvis_heads='17': name heads as L17H3"),
    "both": (
        {"adaptvis_alpha": 0.5, "adaptvis_layers": "1", "adaptvis_heads": "L1H1"},
        "adaptvis_layers='1' and adaptvis_heads='L1H1' both say what is steered; give one",
    ),
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # The prefix cache holds whole blocks, and a CPU's are longer than these prompts.
    options = ("--dtype", "float32", "--enforce-eager", "--block-size", "32")
    with serving(tmp_path_factory.mktemp("server"), *options) as found:
        yield found


@pytest.fixture(scope="module")
def client(address: str) -> OpenAI:
    return OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner(ModelArguments(method="scalingvis", pretrained="demo", dtype="float32", prompt="chat", alpha=1.0))


@pytest.fixture(scope="module")
def prompts(runner: Runner) -> list[Prompt]:
    found = []
    for row in ROWS:
        content = [{"type": "image"}, {"type": "text", "text": row["question"]}]
        text = runner.render([{"role": "user", "content": content}], row["question"])
        found.append(Prompt(text, (row["image"],)))
    return found


Expected = Mapping[tuple[int, str], tuple[str, float]]


@pytest.fixture(scope="module")
def expected(runner: Runner, prompts: list[Prompt]) -> Expected:
    """The `Decoder`'s answer and the log-probability of its first token, by row and by what is asked."""
    inputs, found = runner.encode(prompts).inputs, {}
    for place in PLACES:
        for alpha, out in runner.decoder.sweep(inputs, ALPHAS, max_new_tokens=8, **place).items():
            texts = runner.processor.batch_decode(out.sequences, skip_special_tokens=True)
            first = out.first_logits.log_softmax(-1).amax(-1).tolist()
            for row, (text, value) in enumerate(zip(texts, first, strict=True)):
                found[row, key(asked(alpha, **place))] = text.strip(), value
                if alpha == 1:
                    found[row, key({})] = text.strip(), value
    return found


def asked(alpha: float, **place: str) -> dict[str, Any]:
    return {"adaptvis_alpha": float(alpha), **{f"adaptvis_{name}": value for name, value in place.items()}}


def key(xargs: Mapping[str, Any]) -> str:
    return json.dumps(xargs, sort_keys=True)


def close(value: Any) -> Any:
    """In fp32: the rows that share a batch change the order of sums."""
    return pytest.approx(value, abs=2e-5)


def sent(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the body that the client sends."""
    return {**arguments, **arguments["extra_body"]}


def assert_equal(answer: Any, expected: tuple[str, float]) -> None:
    text, tokens = said(answer)
    assert (text, tokens[0]) == (expected[0], close(expected[1]))


def test_the_server_sees_the_prompt_and_the_decoder_too(client: OpenAI, runner: Runner, prompts: list[Prompt]) -> None:
    answer: Any = client.chat.completions.create(**request(0, {}, extra_body={"return_token_ids": True}))
    assert answer.prompt_token_ids == runner.encode(prompts[:1]).inputs["input_ids"][0].tolist()


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_answers_are_the_decoders(client: OpenAI, expected: Expected, place: dict[str, Any]) -> None:
    found = {alpha: expected[0, key(asked(alpha, **place))] for alpha in (1, 0.3, 3.0)}
    assert len({value for _, value in found.values()}) == 3, "these requests could not be told apart"
    for alpha, one in found.items():
        assert_equal(client.chat.completions.create(**request(0, asked(alpha, **place))), one)
    assert_equal(client.chat.completions.create(**request(0)), found[1])


def test_a_list_of_layers_is_the_text_of_them(client: OpenAI, expected: Expected) -> None:
    answer = client.chat.completions.create(**request(1, {"adaptvis_alpha": 3.0, "adaptvis_layers": [1, 2]}))
    assert_equal(answer, expected[1, key(asked(3.0, layers="1-2"))])


def test_adaptvis_is_two_requests(client: OpenAI, runner: Runner, prompts: list[Prompt]) -> None:
    method = AdaptVis(0.5, 2.0, 0.8)
    answers = runner.answer(prompts, method, max_new_tokens=8)
    assert {answer.alpha for answer in answers} == {0.5, 2.0}
    for row, answer in enumerate(answers):
        confidence = torch.tensor(said(client.chat.completions.create(**request(row, max_tokens=1)))[1]).exp()
        (alpha,) = method.choose(Recorded(confidence=confidence)).tolist()
        assert (alpha, confidence.item()) == (answer.alpha, close(answer.confidence))
        assert said(client.chat.completions.create(**request(row, asked(alpha))))[0] == answer.text


def test_streamed(client: OpenAI, expected: Expected) -> None:
    chunks = list(client.chat.completions.create(**request(2, asked(0.3)), stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    first = next(chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs)
    assert len(chunks) > 1 and first.content
    assert (text.strip(), first.content[0].logprob) == (
        expected[2, key(asked(0.3))][0],
        close(expected[2, key(asked(0.3))][1]),
    )


def test_several_chats_in_one_request(address: str, expected: Expected) -> None:
    body = sent(request(0, asked(0.3))) | {"messages": [messages(row) for row in range(4)]}
    found = requests.post(f"{address}/v1/chat/completions/batch", json=body, timeout=120).json()["choices"]
    assert [choice["message"]["content"].strip() for choice in found] == [
        expected[row, key(asked(0.3))][0] for row in range(4)
    ]


def test_a_question_without_an_image_is_answered_as_it_is(client: OpenAI) -> None:
    chat = [{"role": "user", "content": "Where is the mug?"}]
    (text, plain), (same, steered) = (
        said(client.chat.completions.create(**{**request(0, xargs), "messages": chat})) for xargs in ({}, asked(0.3))
    )
    assert (same, steered) == (text, close(plain))


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_request_is_refused_by_name(client: OpenAI, wrong: str) -> None:
    xargs, message = WRONG[wrong]
    with pytest.raises(BadRequestError, match=message) as error:
        client.chat.completions.create(**request(0, xargs))
    assert error.value.status_code == 400
    assert said(client.chat.completions.create(**request(0)))[0]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400"])
def test_what_is_not_a_finite_number(address: str, number: str) -> None:
    """The OpenAI client does not send it."""
    body = json.dumps(sent(request(0, {"adaptvis_alpha": "HERE"}))).replace('"HERE"', number)
    answer = requests.post(
        f"{address}/v1/chat/completions", data=body, headers={"Content-Type": "application/json"}, timeout=60
    )
    assert answer.status_code == 400
    assert "must be a finite number" in answer.json()["error"]["message"]


def test_true_and_false_reach_an_engine_as_1_and_0(client: OpenAI, expected: Expected) -> None:
    """vLLM's own reading of a request, which the documents warn of."""
    for given, alpha in ((True, 1), (False, 0)):
        answer = client.chat.completions.create(**request(0, {"adaptvis_alpha": given}))
        assert_equal(answer, expected[0, key(asked(alpha))])


def test_beam_search_is_refused_if_it_is_to_be_steered(client: OpenAI) -> None:
    beams = {"use_beam_search": True}
    plain, steered = (request(0, xargs, logprobs=False, n=2, extra_body=beams) for xargs in ({}, asked(0.5)))
    assert len(client.chat.completions.create(**plain).choices) == 2
    with pytest.raises(
        BadRequestError, match=r"adaptvis_alpha=0\.5: beam search cannot be steered; leave out use_beam"
    ):
        client.chat.completions.create(**steered)
    with pytest.raises(BadRequestError, match="beam search cannot be steered"):
        client.completions.create(model=plain["model"], prompt="Where?", extra_body=steered["extra_body"])


def test_200_requests_at_once(address: str, expected: Expected) -> None:
    """Plain, steered everywhere and in some places, and wrong ones; each picture is asked about many times."""
    draw = Random(0)
    right = [(row, found) for row, found in expected]
    mixed: list[tuple[int, dict[str, Any], str | None]] = [
        (row, json.loads(text), None) for row, text in draw.choices(right, k=140)
    ]
    mixed += [(draw.randrange(len(ROWS)), {}, None) for _ in range(36)]
    mixed += [(draw.randrange(len(ROWS)), *draw.choice([*WRONG.values()])) for _ in range(24)]
    draw.shuffle(mixed)

    async def ask() -> list[Any]:
        async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=300) as client:
            every = [client.chat.completions.create(**request(row, xargs)) for row, xargs, _ in mixed]
            return await asyncio.gather(*every, return_exceptions=True)

    hits = metric(address, "vllm:prefix_cache_hits_total")
    for (row, xargs, message), answer in zip(mixed, asyncio.run(ask()), strict=True):
        if message is None:
            assert_equal(answer, expected[row, key(xargs)])
        else:
            assert isinstance(answer, BadRequestError) and re.search(message, str(answer)), answer
    assert metric(address, "vllm:prefix_cache_hits_total") > hits
    assert metric(address, "vllm:num_requests_running") == 0
