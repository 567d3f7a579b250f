"""What both adapters share: batches of questions in, answers out."""

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from adaptvis_plugin.data.dataset import Row
from adaptvis_plugin.data.demo.rows import demo_rows
from adaptvis_plugin.decoding import NonFiniteLogitsError, ScalingVis
from adaptvis_plugin.models.answers import Prompt
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.runner import Runner
from adaptvis_plugin.paths import DEMO_MODEL

END, PAD, LINE_BREAK, BED, VOCABULARY = 1, 3, 203, 427, 500
"""Tokens of the demo model."""

OUT_OF_MEMORY = """
import re, resource
from adaptvis_plugin.data.demo.rows import demo_rows
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.answers import Prompt
from adaptvis_plugin.models.runner import Runner

runner = Runner(ModelArguments(method="scalingvis", pretrained="demo", alpha=0.5, device="cpu"))
messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]}]
prompts = [Prompt(runner.render(messages, row["question"], row["prompt"]), (row["image"],)) for row in demo_rows()]
method = runner.arguments.choose("whatsup_demo")
encoded = runner.encode(prompts)
runner.answer(prompts[:8], method, max_new_tokens=2)

used = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 2**20, resource.RLIM_INFINITY))
tight = runner.answer(prompts, method, encoded, max_new_tokens=2)
fewer = runner.most_rows

resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
runner.most_rows = len(prompts)
roomy = runner.answer(prompts, method, encoded, max_new_tokens=2)
assert runner.most_rows == len(prompts)
assert [answer.text for answer in tight] == [answer.text for answer in roomy]
assert max(abs(a.confidence - b.confidence) for a, b in zip(tight, roomy)) < 1e-4
print("most rows:", fewer)
"""


@cache
def scenes() -> list[Row]:
    """The demo's rows. Drawing all of them takes a second."""
    return demo_rows()


def test_a_batch_that_does_not_fit_into_memory_is_decoded_in_halves_with_the_same_answers() -> None:
    """With the process's memory really limited, and torch's own failure."""
    done = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "400 rows do not fit into memory; going on with 200 at a time" in done.stderr
    assert int(done.stdout.split()[-1]) <= 200


def turn(row: Row) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row["question"]}]}]


def checkpoint(folder: Path, **generation: Any) -> Path:
    """The demo model as a checkpoint folder of a user's own, with other generation settings."""
    shutil.copytree(DEMO_MODEL, folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, **generation}))
    return folder


def steered(checkpoint: Path) -> Runner:
    given = {"pretrained": str(checkpoint), "prompt": "chat", "alpha": 0.5, "device": "cpu"}
    return Runner(ModelArguments(method="scalingvis", **given))


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Goes on talking after its word: it never says that it has ended."""
    return steered(checkpoint(tmp_path_factory.mktemp("talkative") / "demo", suppress_tokens=[END]))


def answers(runner: Runner, tokens: int, **generation: Any) -> list[tuple[str, int]]:
    """Text and tokens; of six scenes, the last of which has the first one's picture."""
    rows = [*scenes()[::80], scenes()[0]]
    prompts = [Prompt(runner.render(turn(row), row["question"], row["prompt"]), (row["image"],)) for row in rows]
    found = runner.answer(prompts, runner.arguments.choose("whatsup_demo"), max_new_tokens=tokens, **generation)
    return [(answer.text, answer.output_tokens) for answer in found]


def test_a_stop_string_never_matches_across_the_end_of_the_prompt(talkative: Runner) -> None:
    """The prompt ends in `ASSISTANT:`, so the colon and the answer's first word are in the sequence, but no stop."""
    free = answers(talkative, 5)
    assert {tokens for _, tokens in free} == {5}
    across = [f":{text[:2]}" for text, _ in free]
    for _ in range(2):  # the second time the pictures' prefixes are shared, and the prompts cut elsewhere
        assert answers(talkative, 5, stop_strings=across) == free


def test_a_prompt_and_an_answer_that_meet_in_line_breaks_do_not_stop_at_an_empty_line(tmp_path: Path) -> None:
    """As under a chat template that ends in `assistant` and a line break, and a model that likes to begin with one."""
    others = [token for token in range(VOCABULARY) if token != LINE_BREAK]
    folder = checkpoint(tmp_path / "demo", begin_suppress_tokens=others, suppress_tokens=[END])
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("ASSISTANT:", "ASSISTANT:\\n"))
    runner = steered(folder)
    assert runner.render(turn(scenes()[0]), "").endswith("ASSISTANT:\n")
    free = answers(runner, 4)
    assert all(text and tokens == 4 for text, tokens in free)
    assert answers(runner, 4, stop_strings=["\n\n"]) == free


@pytest.mark.parametrize("padding", [PAD, END])
def test_each_row_of_a_batch_stops_on_its_own(padding: int, tmp_path: Path) -> None:
    """Also where rows that have ended are padded with the end token, as in many checkpoints."""
    runner = steered(checkpoint(tmp_path / "demo", suppress_tokens=[END], pad_token_id=padding))
    free = answers(runner, 6)
    stopped = answers(runner, 6, stop_strings=["Under"])
    for (text, _), (cut, tokens) in zip(free, stopped, strict=True):
        assert cut == text.split("Under")[0]
        words = sum(letter.isupper() for letter in cut)  # each is one token: LeftUnderUnder
        assert tokens == (words + 1 if "Under" in text else 6)
    assert len({tokens for _, tokens in stopped}) > 1


def test_an_answer_s_own_end_counts_once(tmp_path: Path) -> None:
    """Whatever pads the rows that end before others; a stop string that none of them says changes nothing."""
    counted = []
    for padding in (PAD, END):
        runner = steered(checkpoint(tmp_path / f"demo{padding}", pad_token_id=padding))
        counted += [answers(runner, 6), answers(runner, 6, stop_strings=["nowhere"])]
    assert all(found == counted[0] for found in counted)
    assert all(1 < tokens <= 6 for _, tokens in counted[0])


@pytest.mark.parametrize("brought", ["Under", ["Under"]])
def test_a_checkpoint_s_own_stop_strings_hold(brought: str | list[str], talkative: Runner, tmp_path: Path) -> None:
    runner = steered(checkpoint(tmp_path / "demo", suppress_tokens=[END], stop_strings=brought))
    assert answers(runner, 6) == answers(talkative, 6, stop_strings=["Under"])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (["image", "image", "text"], "this one holds 2 images"),
        (["text"], "this one holds no image"),
        (["text", "image", "text"], "this one is text, image, text"),
    ],
)
def test_a_question_the_papers_prompt_does_not_fit_is_told_of_the_other(content: list[str], complaint: str) -> None:
    runner = Runner(ModelArguments(method="scalingvis", pretrained="demo", prompt="paper", alpha=0.5, device="cpu"))
    parts = [{"type": kind, **({"text": "Is it?"} if kind == "text" else {})} for kind in content]
    with pytest.raises(ValueError, match=f"one image and a question after it, and {complaint}; use prompt=chat"):
        runner.render([{"role": "user", "content": parts}], "Is it?")
    shots = [{"role": role, "content": parts} for role in ("user", "assistant", "user")]
    with pytest.raises(ValueError, match=r"these are 3 turns .user, assistant, user.; use prompt=chat"):
        runner.render(shots, "Is it?")
    marked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "<image>Is it?"}]}]
    with pytest.raises(ValueError, match=r"it holds 2 image tokens .*; use prompt=chat"):
        runner.render(marked, "<image>Is it?")


def test_logits_that_are_not_finite_name_the_question(tmp_path: Path) -> None:
    """NaN in the weights of one word: the rows that ask about it are named, and only they."""
    folder = checkpoint(tmp_path / "demo")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    (embedding,) = [name for name in weights if name.endswith("embed_tokens.weight")]
    weights[embedding][BED] = torch.nan
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    runner = steered(folder)
    rows = scenes()[::37]
    prompts = [Prompt(runner.render(turn(r), ""), (r["image"],), f"x, document {n}") for n, r in enumerate(rows)]
    hit = [f"x, document {n}" for n, row in enumerate(rows) if " bed" in row["question"]]
    for most, named in ((len(rows), "; ".join(hit)), (1, hit[0])):
        runner.most_rows = most
        with pytest.raises(NonFiniteLogitsError, match=f"^{named}: .*not finite.*Likely cause: the weights"):
            runner.answer(prompts, runner.arguments.choose("whatsup_demo"))


@pytest.mark.parametrize("stops", [[], ["Under"]])
@pytest.mark.parametrize("one_pass", [True, False])
def test_a_sweep_gives_what_a_run_under_each_coefficient_gives(
    one_pass: bool, stops: list[str], talkative: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the lengths of answers that a stop string ends, in one pass and in complete passes; and by halves."""
    monkeypatch.setattr(talkative.decoder._execution, "_packs", one_pass)
    rows = scenes()[::50]
    prompts = [Prompt(talkative.render(turn(r), ""), (r["image"],), "", ("left", "on")) for r in rows]
    prompts.append(Prompt("USER: Where is it? ASSISTANT:", ()))
    options: dict[str, Any] = {"max_new_tokens": 6, "stop_strings": stops}
    swept = talkative.sweep(prompts, [0.0, 2.0], **options)
    for alpha in (1.0, 0.0, 2.0):
        alone = talkative.answer(prompts, ScalingVis(alpha), **options)
        for row, answer in zip(swept, alone, strict=True):
            found = row.answers[alpha]
            assert (found.text, found.output_tokens, found.alpha) == (answer.text, answer.output_tokens, answer.alpha)
            assert found.confidence == pytest.approx(answer.confidence, abs=1e-4)
    assert [set(row.answers) for row in swept] == [{1.0, 0.0, 2.0}] * len(prompts)
    assert [set(row.options) for row in swept] == [{1.0, 0.0, 2.0}] * len(rows) + [set()]
    assert {answer.alpha for answer in swept[-1].answers.values()} == {1.0}, "there is no image to steer"
    monkeypatch.setattr(talkative, "most_rows", 3)
    halves = talkative.sweep(prompts, [0.0, 2.0], **options)
    assert [{a: o.text for a, o in row.answers.items()} for row in halves] == [
        {a: o.text for a, o in row.answers.items()} for row in swept
    ]
