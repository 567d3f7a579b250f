"""Calibration: the formula on plain numbers, what is refused, and the models in both frameworks."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForImageTextToText, AutoProcessor

from adaptvis_plugin.data import load_table
from adaptvis_plugin.data.cache import Provenance, write_table
from adaptvis_plugin.data.questions import paper_prompt
from adaptvis_plugin.decoding import Calibrated
from adaptvis_plugin.decoding.methods.calibrated import FLOOR
from adaptvis_plugin.models.answers import Prompt
from adaptvis_plugin.models.arguments import ModelArguments
from adaptvis_plugin.models.presets import load_preset
from adaptvis_plugin.models.prompts import paper_text
from adaptvis_plugin.models.runner import Runner
from adaptvis_plugin.paths import DEMO_MODEL
from adaptvis_plugin.traces import read_traces
from tests.forked import run
from tests.test_lmms_eval import evaluate, rows
from tests.test_vlmevalkit import environment as environment  # the fixture
from tests.test_vlmevalkit import vlmeval
from tests.wrong_input import refusal

RELATIONS = ("left", "right", "on", "under")
RECORDED = Path(__file__).parents[2] / "shared" / "reference" / "traces"

# The formula.


def test_batch_calibration_divides_by_the_prior() -> None:
    method = Calibrated(prior={"left": 0.6, "right": 0.3, "on": 0.1})
    assert method.answer({"left": 0.5, "right": 0.3, "on": 0.2}) == "On", "0.83, 1 and 2"
    assert method.answer({"left": 0.5, "right": 0.3}) == "Right", "a row may offer fewer options"
    assert method.answer({"On": 0.05, "right": 0.25, "LEFT": 0.7}) == "LEFT", "in any order and spelling"


def test_offsets_are_added_to_the_logarithms() -> None:
    method = Calibrated("fitted", offsets={"yes": 0.0, "no": 0.5})
    assert method.answer({"yes": 0.7, "no": 0.3}) == "Yes", "log(0.7 / 0.3) is 0.85"
    assert method.answer({"yes": 0.6, "no": 0.4}) == "No", "log(0.6 / 0.4) is 0.41"


def test_a_value_for_all_other_options_is_used_where_there_is_one_and_said(caplog: pytest.LogCaptureFixture) -> None:
    row = {"left": 0.6, "top": 0.3, "bottom": 0.1}
    with pytest.raises(ValueError, match=r"offers 'top', 'bottom', and prior has values only for 'left'.*under '\*'"):
        Calibrated(prior={"left": 0.9}).answer(row)
    assert not caplog.records
    assert Calibrated(prior={"left": 0.9, "*": 0.25}).answer(row) == "Top", "0.67, 1.2 and 0.4"
    assert "rows offer 'top', for which prior has no value; the one of '*' is used: 0.25" in caplog.text
    linear = Calibrated("fitted", offsets={"left": 0.0, "*": -9.0}, weights={"left": {"left": 2.0}})
    assert linear.answer(row) == "Left", "-1.0, -10.2 and -11.3"
    assert linear.answer({"top": 0.4, "bottom": 0.6}) == "Bottom", "others have no weights"


def test_weights_and_offsets_are_those_of_a_logistic_regression() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet([1, 2, 3, 4], 200)
    labels = [RELATIONS[place] for place in (probabilities * random.uniform(0.2, 5, (200, 4))).argmax(1)]
    model, method = fitted(probabilities, labels)
    one_by_one = [method.answer(dict(zip(RELATIONS, row, strict=True))) for row in probabilities]
    assert one_by_one == [label.capitalize() for label in model.predict(np.log(probabilities))]
    scores = method.scores(dict(zip(RELATIONS, probabilities.T, strict=True)))  # all rows at once
    expected = model.decision_function(np.log(probabilities))
    assert np.allclose(np.stack([scores[label] for label in model.classes_], 1), expected)


def fitted(probabilities: Any, labels: list[str]) -> tuple[LogisticRegression, Calibrated]:
    """A logistic regression on the logarithms, and the same as a calibration."""
    model = LogisticRegression(max_iter=1000).fit(np.log(probabilities), labels)
    weights = {
        str(label): dict(zip(RELATIONS, map(float, own), strict=True))
        for label, own in zip(model.classes_, model.coef_, strict=True)
    }
    offsets = dict(zip(weights, map(float, model.intercept_), strict=True))
    return model, Calibrated("fitted", offsets=offsets, weights=weights)


def test_a_probability_that_was_rounded_to_zero_is_a_small_one() -> None:
    method = Calibrated(prior={"yes": 0.5, "no": 0.5})
    assert method.scores({"yes": 1.0, "no": 0.0})["no"] == pytest.approx(np.log(FLOOR / 0.5))


@pytest.mark.skipif(not RECORDED.is_dir(), reason="needs the recorded runs")
@pytest.mark.parametrize(
    ("name", "plain", "calibrated", "spread"),
    [
        ("Controlled_Images_A", 60.30, 82.73, 0.01),
        # Known only for a prior from a fifth of the rows, drawn 40 times.
        ("COCO_QA_two_obj", 58.24, 53.9, 1.8),
        ("VG_QA_one_obj", 35.88, 46.6, 1.6),
    ],
)
def test_recorded_answers_of_llava_without_their_label_bias(
    name: str, plain: float, calibrated: float, spread: float
) -> None:
    (trace,) = read_traces([RECORDED / f"{name}.jsonl"])
    offered = [row.options[1.0] for row in trace.rows]
    prior = {option.lower(): float(np.mean([row[option] for row in offered])) for option in offered[0]}

    def accuracy(method: Calibrated) -> float:
        right = [method.answer(options) == row.gold for options, row in zip(offered, trace.rows, strict=True)]
        return 100 * float(np.mean(right))

    assert accuracy(Calibrated("fitted", offsets=dict.fromkeys(prior, 0.0))) == pytest.approx(plain, abs=0.01)
    assert accuracy(Calibrated(prior=prior)) == pytest.approx(calibrated, abs=spread)


# What is refused.

REFUSED = [
    ("{}", "give prior"),
    ("{calibration: fitted, prior: {left: 1.0}}", "got calibration, prior; give offsets"),
    ("{calibration: contextual, prior: {left: 1.0}}", "calibration='contextual': give one of batch, fitted"),
    ("{prior: 0.5}", "prior=0.5: it has a value for each option"),
    ("{prior: {left: 0}}", "prior.left=0: a mean probability is above 0 and at most 1"),
    ("{prior: {left: 1.5}}", "prior.left=1.5: a mean probability"),
    ("{prior: {left: .nan}}", "prior.left=nan: give a finite number"),
    ("{prior: {left: much}}", "prior.left='much': give a finite number"),
    ("{prior: {Left: 0.5}}", "prior: 'Left' is not an option in lower case"),
    ("{prior: {on: 0.5, under: 0.5}}", "prior: True is not an option in lower case; write on, yes, no"),
    ("{calibration: fitted, offsets: {left: .inf}}", "offsets.left=inf: give a finite number"),
    ("{calibration: fitted, offsets: {left: 0}, weights: {left: 1}}", "weights.left=1: it has a value for each"),
    ("{calibration: fitted, offsets: {left: 0}, weights: {left: {left: yes}}}", "weights.left.left=True: give a"),
    (
        "{calibration: fitted, offsets: {left: 0}, weights: {left: {left: 1, right: 1}}}",
        "weights.left is for 'left', 'right', and offsets for 'left'; give both for the same options",
    ),
    (
        "{calibration: fitted, offsets: {left: 0, right: 0}, weights: {left: {left: 1, right: 0}}}",
        "weights is for 'left', and offsets for 'left', 'right'",
    ),
    ("{prior: {left: 1.0}, alpha: 2}", "calibrated takes calibration, prior, offsets, weights; got prior, alpha"),
]


@pytest.mark.parametrize(("values", "words"), REFUSED)
def test_a_wrong_calibration_in_a_preset_is_named(values: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"description: mine\nsettings: {{vsr: {{calibrated: {values}}}}}\n")
    said = refusal(lambda: load_preset(file))
    assert "settings.vsr.calibrated: " in said and words in said


def test_a_preset_s_numbers_may_be_written_in_every_usual_way(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text('description: mine\nsettings: {vsr: {calibrated: {prior: {"yes": 1e-1, "no": 9e-1}}}}\n')
    given = {"method": "calibrated", "pretrained": "demo", "preset": str(file)}
    assert ModelArguments(**given).choose("vsr") == Calibrated(prior={"yes": 0.1, "no": 0.9})
    said = refusal(lambda: ModelArguments(**given, calibration="fitted").choose("vsr"))
    assert said == "calibrated on task 'vsr': the preset has only prior for it, so give a preset=NAME that has offsets"


def test_a_task_without_a_calibration_needs_a_preset() -> None:
    said = refusal(lambda: ModelArguments(method="calibrated", pretrained="demo").choose("vsr_test"))
    assert said.endswith("the preset has no settings for it, so give a preset=NAME that has prior")


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner(ModelArguments(method="calibrated", pretrained="demo", device="cpu"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), r"mine, document 1 offers no options .*; use another method for this task"),
        (("left", "Top"), r"document 1 offers 'Top', and prior has values only for 'left', 'left side', 'right'; add"),
        (("left", "left side"), r"document 1: .* does not tell its options 'left', 'left side' apart; use another"),
    ],
)
def test_a_row_that_cannot_be_answered_is_named_before_any_is(
    options: tuple[str, ...], said: str, runner: Runner, picture: Any
) -> None:
    method = Calibrated(prior={"left": 0.4, "left side": 0.3, "right": 0.3})
    text = runner.render([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]}], "")
    before = runner.decoder.stats.rows
    prompts = [Prompt(text, (picture,), f"mine, document {n}", o) for n, o in enumerate((("left", "right"), options))]
    with pytest.raises(ValueError, match=said):
        runner.answer(prompts, method)
    assert runner.decoder.stats.rows == before
    (answer,) = runner.answer(prompts[:1], method, stop_strings=["ft", "ght"], max_new_tokens=5)
    assert answer.text in ("Left", "Right") and (answer.alpha, answer.output_tokens) == (1.0, 1)


# The models in both frameworks: 16 demo scenes, and 8 of them with a question of VSR's form.

ROWS, YES_NO = 16, 8


@dataclass(frozen=True)
class Given:
    """A preset in a file, and what the model's own logits say for the rows of each task, as (rows, options)."""

    preset: Path
    probabilities: dict[str, Any]
    regression: LogisticRegression


@pytest.fixture(scope="module")
def given(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Given]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTVIS_CACHE", environment["ADAPTVIS_CACHE"])
        table = load_table("demo")
        captions = [row["caption_options"][n % 2] for n, row in enumerate(table.select(range(YES_NO)))]
        text = "Determine whether the description is correct or not. Answer with yes or no: "
        asked = [
            {
                **row,
                "question": text + caption,
                "prompt": paper_prompt(text + caption),
                "options": (["yes", "no"], ["No", "Yes"])[n % 2],
                "answer": ("Yes", "No")[n % 2],
                "relation": "left of",
            }
            for n, (row, caption) in enumerate(zip(table, captions, strict=False))
        ]
        write_table(asked, Provenance("vsr", YES_NO, "a test", "template", (), None))
        demo = list(table.select(range(96)))
        probabilities = {"whatsup_demo": first_token(demo, RELATIONS), "vsr": first_token(asked, ("yes", "no"))}
        regression, calibration = fitted(probabilities["whatsup_demo"], [row["relation"] for row in demo])
        batch = {"calibration": "batch", "prior": {"left": 0.1, "right": 0.7, "on": 0.1, "under": 0.1}}
        demo_settings = {**batch, "offsets": calibration.offsets, "weights": calibration.weights}
        prior = dict(zip(("yes", "no"), map(float, probabilities["vsr"].mean(0)), strict=True))
        settings = {"whatsup_demo": {"calibrated": demo_settings}, "vsr": {"calibrated": {"prior": prior}}}
        preset = tmp_path_factory.mktemp("preset") / "mine.yaml"
        preset.write_text(yaml.safe_dump({"description": "a test", "prompt": "paper", "settings": settings}))
        yield Given(preset, probabilities, regression)


@pytest.fixture(scope="module")
def picture(environment: dict[str, str]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTVIS_CACHE", environment["ADAPTVIS_CACHE"])
        return load_table("demo")[0]["image"].convert("RGB")


def first_token(asked: list[dict[str, Any]], options: tuple[str, ...]) -> Any:
    """The probability of each option, by the model itself: of all tokens that read as it, whatever their case."""
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(DEMO_MODEL),
        AutoProcessor.from_pretrained(DEMO_MODEL),
    )
    texts = [paper_text(processor, row["prompt"]) for row in asked]
    inputs = processor(images=[row["image"] for row in asked], text=texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        said = model(**inputs).logits[:, -1].double().softmax(-1)
    read = [processor.decode([token]).strip().lower() for token in range(said.shape[1])]
    found = torch.stack([said[:, [word == option for word in read]].sum(1) for option in options], 1)
    return (found / found.sum(1, keepdim=True)).numpy()


def expected(given: Given) -> dict[str, list[str]]:
    """The answers of batch calibration."""
    demo = (given.probabilities["whatsup_demo"] / [0.1, 0.7, 0.1, 0.1]).argmax(1)[:ROWS]
    vsr = (given.probabilities["vsr"] / given.probabilities["vsr"].mean(0)).argmax(1)
    return {"whatsup_demo": [RELATIONS[p].capitalize() for p in demo], "vsr": [("Yes", "No")[p] for p in vsr]}


def test_lmms_eval_answers_as_the_model_s_logits_say(
    given: Given, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTVIS_CACHE", environment["ADAPTVIS_CACHE"])
    run = evaluate("vlm_calibrated", tasks=["whatsup_demo", "vsr"], limit=ROWS, preset=given.preset)
    for task, answers in expected(given).items():
        assert [answer for answer, _, _ in rows(run, task)] == answers
        counts = [sample["token_counts"][0] for sample in run["samples"][task]]
        assert {count["alpha"] for count in counts} == {count["output_tokens"] for count in counts} == {1}
    plain = given.probabilities["whatsup_demo"][:ROWS].argmax(1)
    changed = [RELATIONS[p].capitalize() for p in plain] != expected(given)["whatsup_demo"]
    assert changed and len({*expected(given)["vsr"]}) == 2
    right = [answer == ("Yes", "No")[n % 2] for n, answer in enumerate(expected(given)["vsr"])]
    assert run["results"]["vsr"]["accuracy,none"] == pytest.approx(np.mean(right))


def test_vlmevalkit_gives_the_same_answers(given: Given, environment: dict[str, str], tmp_path: Path) -> None:
    arguments = ["--model", "demo_calibrated", "--model-args", f"preset={given.preset},batch_size=4"]
    done = vlmeval(environment, tmp_path, "--data", "WhatsUp_Demo", "VSR_QA", *arguments, "--limit", str(ROWS))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for data, task in (("WhatsUp_Demo", "whatsup_demo"), ("VSR_QA", "vsr")):
        text = (tmp_path / "demo_calibrated" / f"demo_calibrated_{data}_trace.jsonl").read_text()
        assert [json.loads(line)["prediction"] for line in text.splitlines()] == expected(given)[task]


def test_another_calibration_of_the_preset_is_one_argument_away(given: Given) -> None:
    run = evaluate("llava_calibrated", limit=ROWS, preset=given.preset, calibration="fitted")
    predicted = given.regression.predict(np.log(given.probabilities["whatsup_demo"][:ROWS]))
    assert [answer for answer, _, _ in rows(run)] == [label.capitalize() for label in predicted]


def test_what_vlmevalkit_cannot_answer_is_named_before_the_model_is_loaded(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """A calibration on the command line, and a data set of the user's own whose options have columns of their own."""
    code = """
import base64, io, os, sys
from PIL import Image
picture = io.BytesIO()
Image.new("RGB", (32, 32)).save(picture, "PNG")
with open(os.path.join(os.environ["LMUData"], "Letters.tsv"), "w") as file:
    print("index", "question", "A", "B", "answer", "image", sep="\\t", file=file)
    print(0, "Is it?", "Yes", "No", "A", base64.b64encode(picture.getvalue()).decode(), sep="\\t", file=file)
import adaptvis_plugin.models.runner
adaptvis_plugin.models.runner.load_model = None  # so that an attempt would fail
from adaptvis_plugin.cli import app
one, other, *arguments = sys.argv[1:]
for given in (one, other):
    try:
        app([*arguments, "--model-args", given])
    except SystemExit as end:
        print("ended with", end.code, file=sys.stderr)
"""
    preset = tmp_path / "mine.yaml"
    settings = {"Letters": {"calibrated": {"prior": {"yes": 0.5, "no": 0.5}}}}
    preset.write_text(yaml.safe_dump({"description": "mine", "settings": settings}))
    prior = "prior={left:0.5,right:0.5}"
    arguments = ["vlmeval", "--data", "Letters", "--model", "demo_calibrated", "--work-dir", str(tmp_path / "out")]
    done = run([sys.executable, "-c", code, prior, f"preset={preset}", *arguments], environment)
    rule = "which only a preset can hold; give preset=FILE.yaml, as `adaptvis tune` writes it"
    said = " ".join(done.stderr.split())
    assert "prior='{left:0.5,right:0.5}'" in said and rule in said
    assert rule in refusal(lambda: evaluate("vlm_calibrated", prior="{left:0.5,right:0.5}"))
    *_, reason, end = done.stderr.splitlines()
    assert "ended with 2" in said and "Letters, index 0 offers no options" in reason and end == "ended with 1"
