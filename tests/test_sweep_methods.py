"""Sweeps of other methods than ScalingVis: what they write and cost, and what is read from their traces."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from adaptvis_plugin.cli import app
from adaptvis_plugin.lmms_eval.costs import cost_of_sweep
from adaptvis_plugin.lmms_eval.plugin import NOT_REPLAYED
from adaptvis_plugin.methods import METHODS, build_method, method_class, without_strength
from adaptvis_plugin.traces import TraceError
from adaptvis_plugin.traces.reading import read_trace
from tests import forked
from tests.framework_runs import adaptvis
from tests.test_command_line import ENVIRONMENT
from tests.test_lmms_eval import evaluate, rows
from tests.test_sweep import DEMO, sweep, trace
from tests.tune_helpers import simulated, write_trace

ROWS = 8
FILE = "whatsup_demo.jsonl"
PAI = {"gamma": 1.0, "beta": 0.1, "layers": "0-3"}
MODEL = "pretrained=demo,layers=0-3"


@pytest.fixture(scope="module")
def pai(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of PAI in two layers."""
    folder = tmp_path_factory.mktemp("pai")
    done = sweep(*DEMO, "--model-args", MODEL, "--limit", ROWS, "--method", "pai", "--alphas", "9,0.2", "-o", folder)
    assert done.exit_code == 0, done.output
    assert "each alpha of pai" in done.stdout and "plain runs" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def vcd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of VCD, as a command."""
    folder = tmp_path_factory.mktemp("vcd")
    command: list[str | Path] = ["adaptvis", "sweep", *DEMO, "--limit", str(ROWS), "--method", "vcd"]
    command += ["--alphas", "1,3", "-o", folder]
    done = forked.run(command, {**ENVIRONMENT, **forked.IMPORTED})
    assert done.returncode == 0, done.stderr[-3000:]
    said = "A sweep of vcd decodes every row once per strength, beside its second stream: 2 strengths cost about 4"
    assert said in done.stderr and done.stderr.index(said) < done.stderr.index("Loading weights")
    return folder


def replay(method: str, folder: Path, **arguments: Any) -> list[tuple[str, float, float]]:
    return rows(evaluate(f"replay_{method}", trace=folder, **{"limit": ROWS, "pretrained": None, **arguments}))


def real(method: str, **arguments: Any) -> list[tuple[str, float, float]]:
    return rows(evaluate(f"vlm_{method}", limit=ROWS, **arguments))


@cache
def baseline() -> list[tuple[str, float, float]]:
    return real("baseline")


def same(found: list[tuple[str, float, float]], expected: list[tuple[str, float, float]]) -> bool:
    """The same answers and strengths; a confidence depends in its last digits on the rows beside it."""
    assert [row[1] for row in found] == pytest.approx([row[1] for row in expected], abs=1e-4)
    return [(row[0], row[2]) for row in found] == [(row[0], row[2]) for row in expected]


# --- what a sweep writes


def test_the_header_says_what_was_swept_and_with_what(pai: Path, vcd: Path) -> None:
    for folder, method, alphas in ((pai, "pai", (0.0, 0.2, 9.0)), (vcd, "vcd", (0.0, 1.0, 3.0))):
        found = trace(folder)
        assert found.header is not None and found.header.swept == method == found.sweep.method
        assert found.alphas == alphas and found.plain == 0
        assert all({*row.generations} == {*row.options} | {*row.generations} == {*alphas} for row in found.rows)
    assert trace(pai).sweep.settings == PAI
    assert trace(vcd).sweep.settings == {"beta": 0.2, "step": 500, "seed": 0}


def test_its_answers_are_those_of_the_method_and_of_the_plain_model(pai: Path, vcd: Path) -> None:
    plain, strong, noised = baseline(), real("pai", alpha=9, layers="0-3"), real("vcd", alpha=3)
    assert {row[2] for row in strong} == {9.0} and [row[0] for row in strong] != [row[0] for row in plain]
    assert same(replay("pai", pai, alpha=9, layers="0-3"), strong)
    assert same(replay("vcd", vcd, alpha=3), noised)
    for folder in (pai, vcd):
        assert same(replay("baseline", folder), plain)
    assert [row[0] for row in replay("pai", pai, alpha=0)] == [row[0] for row in plain], "wherever it would steer"


@pytest.mark.parametrize(
    ("method", "strength", "others"),
    [
        ("pai", 5, {"gamma": 1.5}),
        ("headsguided", 20, {"layers": "0-3"}),
        ("vaf", 6, {"layers": "0-3"}),
        ("sla", 1, {"layers": 2}),
        ("deco", 3, {"layers": 2}),
        ("m3id", 2, {}),
        ("icd", 3, {"instruction": "You are confused."}),
        ("yesbias", 1, {"least": 0}),
    ],
)
def test_every_method_with_a_strength_is_swept(
    method: str, strength: float, others: dict[str, Any], tmp_path: Path
) -> None:
    given = ",".join(["pretrained=demo", *(f"{name}={value}" for name, value in others.items())])
    command = ("--method", method, "--alphas", strength, "--model-args", given, "-o", tmp_path, "--limit", ROWS)
    done = sweep(*DEMO, *command)
    assert done.exit_code == 0, done.output
    found = trace(tmp_path)
    name = method_class(method).strength
    expected = real(method, **{str(name): strength}, **others)
    steered, plain = ([row.generations[alpha] for row in found.rows] for alpha in (strength, found.plain))
    assert steered == [answer for answer, *_ in expected]
    assert plain == [answer for answer, *_ in baseline()]
    assert (steered != plain) == (method != "m3id"), "it leaves the first token, and so answers of one token"
    if (cost := cost_of_sweep(build_method(method, others), 1)) is not None:
        assert f"{cost[1:]}.\n" in done.stderr
    if method == "pai":
        with pytest.raises(TraceError, match=r"alpha 0 stands for the unsteered model in it, and pai changes that all"):
            replay("pai", tmp_path, alpha=0, gamma=1.5)


def test_all_methods_with_a_strength_are_tried_here_and_named_in_the_help() -> None:
    swept = {name for name in METHODS if not without_strength(name)}
    here = {mark.args[1][place][0] for mark in test_every_method_with_a_strength_is_swept.pytestmark
            for place in range(len(mark.args[1]))}  # fmt: skip
    assert swept == here | {"scalingvis", "vcd"}
    shown = " ".join(CliRunner().invoke(app, ["sweep", "--help"], env={"COLUMNS": "200"}).stdout.split())
    assert [name for name in swept if name not in shown] == []
    for name in swept:
        assert f"{method_class(name).strength} of" in shown
    alone = {name for name in swept if (cost := cost_of_sweep(build_method(name, {"alpha": 1.0} if name == "scalingvis"
             else {}), 10)) is None or not cost}  # fmt: skip
    assert alone == {"scalingvis", "headsguided", "pai"}


def test_what_no_sweep_has_cannot_be_replayed() -> None:
    by_the_way = {"baseline", "adaptvis", "calibrated"}
    assert {name for name in METHODS if without_strength(name)} - by_the_way == {*NOT_REPLAYED}


# --- what a sweep refuses


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "dola"], "--method dola: it has no strength to sweep, since what it subtracts always counts in"),
        (["--method", "yeshint"], "--method yeshint: it has no strength to sweep, since its hint is a text; sweep one"),
        (["--method", "constant"], "its constant is not a strength"),
        (["--method", "adaptvis"], "its answers are in a sweep of scalingvis"),
        (["--method", "baseline"], "it is the plain model"),
        (["--method", "mine"], "unknown method 'mine'; there are: baseline, scalingvis"),
        (["--method", "sla"], "give --alphas, the values of gamma to answer under; the published one of sla is 0.3"),
        (["--method", "sla", "--alphas", "0.3,2"], "--alphas 0.3,2: gamma=2: give a number from 0 to 1"),
        (["--method", "m3id", "--alphas", "x"], "--alphas x: forgetting='x': give a finite number"),
        (["--method", "pai", "--alphas", "1", "--model-args", "pretrained=demo,alpha=1"], "give them by --alphas"),
        (["--method", "vcd", "--alphas", "1", "--model-args", "pretrained=demo,gamma=1"], "unknown model_args gamma=1"),
        (["--method", "vcd", "--alphas", "1", "--layers", "1"], "unknown model_args layers='1'"),
        (["--method", "pai", "--alphas", "1", "--layers", "7"], "layer 7: the model has attention in the layers 0 to"),
        (["--model-args", "pretrained=demo,method=pai"], "give method by the option --method"),
    ],
)
def test_what_cannot_be_swept_is_refused_by_name(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = sweep(*DEMO, "-o", tmp_path / "new", *arguments)
    assert done.exit_code == 2 and words in done.stderr and not (tmp_path / "new").exists()


def test_a_sweep_goes_on_only_with_the_same_method_and_hyper_parameters(pai: Path) -> None:
    before = (pai / FILE).read_bytes()
    again = (*DEMO, "--limit", ROWS, "--alphas", "0.2,9", "-o", pai)
    assert sweep(*again, "--method", "pai", "--layers", "3+0-2").exit_code == 0, "the same layers"
    for arguments, words in (
        (("--method", "pai"), "made with settings={'gamma': 1.0, 'beta': 0.1, 'layers': '0-3'}; this run asks for"),
        (("--layers", "0-3"), "made with swept='pai', settings="),
    ):
        done = sweep(*again, *arguments)
        assert done.exit_code == 2 and words in done.stderr and "Use another folder" in done.stderr
    assert (pai / FILE).read_bytes() == before


def test_the_preset_gives_the_other_hyper_parameters(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text(
        "description: x\nprompt: paper\nsettings: {whatsup_demo: {deco: {alpha: 2, layers: 1, top_k: 5}}}\n"
    )
    given = f"pretrained=demo,preset={preset},top_k=4"
    command = ("--method", "deco", "--alphas", "1", "--model-args", given, "-o", tmp_path, "--limit", 2)
    assert sweep(*DEMO, *command).exit_code == 0
    assert trace(tmp_path).sweep.settings == {"top_p": 0.9, "top_k": 4, "layers": "1"}


# --- what is read from its trace


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        (
            "vcd",
            {},
            r"of pai and has no answers of vcd; sweep vcd into another folder \(adaptvis sweep --method",
        ),
        (
            "scalingvis",
            {"alpha": 0.5},
            r"no answers of scalingvis; .*\(adaptvis sweep\), or run the method",
        ),
        ("adaptvis", {"alpha_low": 0.5, "alpha_high": 2, "threshold": 0.4}, "no answers of adaptvis; sweep scalingvis"),
        ("pai", {"alpha": 9}, "sweep of pai had layers=0-3, and this setting has layers=None; ask for what was swept"),
        ("pai", {"alpha": 9, "layers": "0-3", "gamma": 1.1}, "had gamma=1.0, and this setting has gamma=1.1"),
        (
            "pai",
            {"alpha": 3, "layers": "0-3"},
            r"alpha 3 was not recorded, only 0, 0.2, 9; .*--method pai --alphas 0.2,3",
        ),
    ],
)
def test_a_replay_of_what_was_not_swept_is_refused(
    method: str, arguments: dict[str, Any], words: str, pai: Path
) -> None:
    with pytest.raises(TraceError, match=words):
        replay(method, pai, **arguments)


def test_a_calibration_takes_the_plain_probabilities_of_any_sweep(pai: Path, tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    prior = '{left: 0.1, right: 0.7, "on": 0.1, under: 0.1}'
    preset.write_text(
        f"description: x\nprompt: paper\nsettings: {{whatsup_demo: {{calibrated: {{prior: {prior}}}}}}}\n"
    )
    assert same(replay("calibrated", pai, preset=preset), real("calibrated", preset=preset))


def test_compare_shows_the_strengths_as_runs(pai: Path, vcd: Path, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    for folder, names in (
        (pai, ["baseline", "pai 0.2/0-3", "pai 9/0-3"]),
        (vcd, ["baseline", "vcd 1", "vcd 3"]),
    ):
        assert adaptvis("compare", folder, "--json", found).exit_code == 0
        (task,) = json.loads(found.read_text())["tasks"]
        assert [run["name"] for run in task["runs"]] == names and task["baseline"] == "baseline"
    done = adaptvis("compare", pai / FILE, "--setting", "pai:9/0-3", "--json", found)
    assert done.exit_code == 0 and [run["name"] for run in json.loads(found.read_text())["tasks"][0]["runs"]] == [
        "baseline",
        "pai 9/0-3",
    ]
    done = adaptvis("compare", pai / FILE, "--setting", "vcd:1")
    assert done.exit_code == 1 and "is a sweep of pai and has no answers of vcd" in done.output.replace("\n", " ")


def test_attention_looks_at_the_plain_answers_alone(pai: Path, tmp_path: Path) -> None:
    done = adaptvis("attention", pai / FILE, "-o", tmp_path)
    assert done.exit_code == 0 and "The trace is a sweep of PAI, and only its unsteered answers" in done.output
    done = adaptvis("attention", pai / FILE, "-o", tmp_path, "--setting", "pai:0.2")
    assert done.exit_code != 0 and "not under pai; give scalingvis or adaptvis" in done.output


# --- tune


def tuned(
    evidence: dict[float, float], folder: Path, *report: Any, **about: Any
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Tune on a simulated sweep of PAI: what was found, the preset's settings, and what is said."""
    answers = simulated(20, evidence={1.0: evidence[0.0], **evidence})
    for row in answers:
        for recorded in (row.generations, row.options):
            del recorded[1.0]
    file = write_trace(
        folder / "t.jsonl", answers, task="whatsup_demo_val", prompt="paper", alphas=tuple(evidence), swept="pai",
        **{"settings": PAI, "model": "demo", **about},
    )  # fmt: skip
    preset, found = folder / "mine.yaml", folder / "found.json"
    done = adaptvis("tune", file, "-o", preset, "--json", found, *report, "--repeats", 1, "--folds", 2)
    assert done.exit_code == 0, done.output
    (study,) = json.loads(found.read_text())
    return study, yaml.safe_load(preset.read_text())["settings"]["whatsup_demo"], " ".join(done.output.split())


def test_tune_finds_a_strength_that_helps_and_the_model_uses_it(tmp_path: Path) -> None:
    study, settings, said = tuned({0.0: 0.0, 0.2: 4.0, 9.0: 0.0}, tmp_path, "--report", tmp_path / "r")
    assert settings["pai"] == {"alpha": 0.2, "layers": "0-3"} and {*settings} == {"pai", "calibrated"}
    assert study["swept"] == "pai" and study["beats_plain"] == {"pai": True}
    assert "PAI beats the plain model" in said and "Its choice over the folds: alpha 0.2 in 2 of 2" in said
    assert "The sweep of PAI had layers 0-3, and so has the preset" in said
    assert "PAI less this correction is" in said and "ScalingVis" not in said and "AdaptVis" not in said
    table = (tmp_path / "r" / "whatsup_demo-pai-settings.csv").read_text().splitlines()
    assert table[0] == "alpha,individual_acc,rows_steered" and len(table) == 4
    assert (tmp_path / "r" / "whatsup_demo-pai-surface.png").stat().st_size > 9000
    evaluate("vlm_pai", preset=tmp_path / "mine.yaml", trace=tmp_path / "run", limit=2)
    header = read_trace(tmp_path / "run" / f"vlm_pai_{FILE}").header
    assert header is not None and header.settings == {"alpha": 0.2, **PAI}


def test_tune_keeps_the_plain_model_if_no_strength_helps(tmp_path: Path) -> None:
    study, settings, said = tuned({0.0: 2.0, 0.2: 1.0, 9.0: 0.0}, tmp_path, settings={**PAI, "gamma": 1.5})
    assert "PAI does not beat the plain model" in said and "so the preset keeps alpha 0." in said
    assert settings["pai"] == study["preset"]["pai"] == {"alpha": 0.0, "layers": "0-3"}
    assert same(real("pai", preset=tmp_path / "mine.yaml"), [(a, c, 0.0) for a, c, _ in baseline()])


def test_sweeps_of_two_methods_give_one_preset(tmp_path: Path) -> None:
    tuned({0.0: 0.0, 0.2: 4.0}, tmp_path)
    other = write_trace(tmp_path / "other.jsonl", simulated(20), task="whatsup_demo_val", prompt="paper", model="demo")
    preset = tmp_path / "both.yaml"
    arguments = ("-o", preset, "--repeats", 1, "--folds", 2)
    assert adaptvis("tune", tmp_path / "t.jsonl", other, *arguments).exit_code == 0
    settings = yaml.safe_load(preset.read_text())["settings"]["whatsup_demo"]
    assert settings["pai"]["alpha"] == 0.2 and settings["scalingvis"] == {"alpha": 1.0}
    shared = adaptvis("tune", tmp_path / "t.jsonl", other, "--shared")
    assert shared.exit_code == 1 and "is a sweep of pai and" in shared.output.replace("\n", " ")


# --- gates of AdaptVis


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of ScalingVis."""
    folder = tmp_path_factory.mktemp("scaled")
    done = sweep(*DEMO, "--limit", ROWS, "--alphas", "0,9", "-o", folder)
    assert done.exit_code == 0, done.output
    return folder


def test_gates_by_what_a_trace_has_are_replayed_row_by_row(scaled: Path) -> None:
    found = trace(scaled)
    measures = {
        "entropy": [row.entropy or 0 for row in found.rows],
        "options": [max(row.options[1.0].values()) for row in found.rows],
    }
    for gate, values in measures.items():
        low, high = sorted(values)[2:4]
        settings = {"alpha_low": 0.0, "alpha_high": 9.0, "threshold": (low + high) / 2, "gate": gate}
        replayed = replay("adaptvis", scaled, **settings)
        assert same(replayed, real("adaptvis", **settings))
        assert {alpha for *_, alpha in replayed} == {0.0, 9.0}
    names = ("--setting", "adaptvis:0/9/0.5/entropy", "--setting", "adaptvis:0/9/0.5/options")
    done = adaptvis("compare", scaled / FILE, *names)
    assert done.exit_code == 0 and "adaptvis 0/9/0.5/entropy" in done.output


def test_a_gate_by_what_a_trace_lacks_is_refused_by_name(scaled: Path) -> None:
    settings = {"alpha_low": 0.0, "alpha_high": 9.0, "threshold": 0.5, "gate": "divergence"}
    words = "the first tokens' divergence was not recorded; a trace has their confidence, their entropy and"
    with pytest.raises(TraceError, match=words):
        replay("adaptvis", scaled, **settings)
    done = adaptvis("compare", scaled / FILE, "--setting", "adaptvis:0/9/0.5/divergence")
    assert done.exit_code == 1 and words in " ".join(done.output.split())
