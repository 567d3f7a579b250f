"""The benchmarks write each part as it ends, show progress, and measure only the parts and cases that are asked for."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import decoders, decoding, over_plain, replay, sweep
from benchmarks.__main__ import OWN_ENVIRONMENT, PARTS, app
from benchmarks.measure import Case, Settings, Work, in_turn
from benchmarks.report import Part
from benchmarks.shapes import IMAGE, SHAPES, TEXT_TOKENS, random_batch, random_llava

SMALLEST = ["--shape", "tiny", "--rounds", "1", "--batch-size", "16", "--tokens", "1"]


def figures(folder: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((folder / "benchmarks.json").read_text())
    return stored


def test_a_part_is_on_disk_before_the_next_begins(tmp_path: Path) -> None:
    """The command is killed as soon as the second part shows that it has started."""
    command = [sys.executable, "-m", "benchmarks", "growth", "sharing", *SMALLEST, "--output", str(tmp_path)]
    said = b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while b"growth" not in said and (piece := process.stderr.read(1)):
            said += piece
        process.kill()
        shown = process.stdout.read() if process.stdout else b""
    assert b"sharing: 100%" in said
    assert shown == b"", "before the end only progress is shown, and on standard error"
    assert 0 < figures(tmp_path)["sharing"]["share of prefixes reused"] < 1
    assert "## Questions that share pictures" in (tmp_path / "benchmarks.md").read_text()
    assert "growth" not in figures(tmp_path)


@pytest.fixture
def quick_parts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Parts that measure nothing; the names of those that were asked for."""
    measured: list[str] = []

    def quick(name: str) -> Part:
        def measure(settings: Any) -> dict[str, Any]:
            measured.append(name)
            return {"times measured": measured.count(name)}

        return Part(PARTS[name].title, measure, lambda report: f"Measured {report['times measured']} times.\n")

    for name in list(PARTS):
        monkeypatch.setitem(PARTS, name, quick(name))
    return measured


def test_all_parts_but_the_engine_s_are_measured_by_default(quick_parts: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["--output", str(tmp_path)])
    assert done.exit_code == 0 and quick_parts == [part for part in PARTS if part not in OWN_ENVIRONMENT]
    assert done.stdout == (tmp_path / "benchmarks.md").read_text()


def test_a_single_part_updates_its_section_and_keeps_the_others(quick_parts: list[str], tmp_path: Path) -> None:
    for parts in (["growth", "sharing"], ["growth"]):
        done = CliRunner().invoke(app, [*parts, "--output", str(tmp_path)])
        assert done.exit_code == 0
    assert figures(tmp_path)["sharing"] == {"times measured": 1}
    assert figures(tmp_path)["growth"] == {"times measured": 2}
    sections = (tmp_path / "benchmarks.md").read_text().split("## ")[1:]
    assert sections == [
        "Questions that share pictures\n\nMeasured 1 times.\n\n",
        "Longer prompts, larger batches\n\nMeasured 2 times.\n",
    ]


def test_other_settings_do_not_mix_with_the_figures_in_a_folder(quick_parts: list[str], tmp_path: Path) -> None:
    CliRunner().invoke(app, ["sharing", "--output", str(tmp_path)])
    before = figures(tmp_path)
    done = CliRunner().invoke(app, ["growth", "--rounds", "7", "--output", str(tmp_path)], env={"COLUMNS": "500"})
    assert done.exit_code == 2 and quick_parts == ["sharing"]
    assert "holds figures from another machine or with other settings" in done.stderr
    assert figures(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["speed"], "'speed' is not one of decoding, decoders, sharing, growth, sweep, replay, end-to-end"),
        (["--shape", "huge"], "'huge' is not one of tiny, small, scaled, 7b"),
        (["--device", "cuda:99"], "--device='cuda:99': torch sees"),
        (["--device", "gpu"], "--device='gpu': not a device of torch; give cpu, cuda or cuda:N"),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_exist(
    arguments: list[str], words: str, quick_parts: list[str], tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "new")], env={"COLUMNS": "200"})
    assert done.exit_code == 2 and words in done.stderr
    assert quick_parts == [] and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "cases"),
    [
        ([], [("scaled", 4, 14), ("scaled", 1, 28), ("small", 1, 56)]),
        (["--rounds", "2"], [("scaled", 4, 2), ("scaled", 1, 2), ("small", 1, 2)]),
        (["--batch-size", "1"], [("scaled", 1, 28)]),
        (["--shape", "small"], [("small", 4, 6)]),
        (["--shape", "7b", "--batch-size", "2", "--rounds", "3"], [("7b", 2, 3)]),
        (["--batch-size", "4", "--batch-size", "1", "--rounds", "3"], [("scaled", 4, 3), ("scaled", 1, 3)]),
    ],
)
def test_the_cases_with_bounds_are_measured_unless_another_is_named(
    options: list[str], cases: list[tuple[str, int, int]], quick_parts: list[str], tmp_path: Path
) -> None:
    CliRunner().invoke(app, ["decoding", *options, "--output", str(tmp_path)])
    written = figures(tmp_path)["settings"]["cases"]
    assert [(case["shape"], case["batch_size"], case["rounds"]) for case in written] == cases


@pytest.mark.parametrize(("shape", "tokens"), [("small", 64), ("scaled", 576)])
def test_the_image_has_the_size_that_the_shape_says(shape: str, tokens: int) -> None:
    model: Any = random_llava(SHAPES[shape], "cpu", "sdpa")
    batch = random_batch(model, rows=1)
    assert (batch["input_ids"] == IMAGE).sum() == tokens
    assert model.generate(**batch, max_new_tokens=1, do_sample=False).shape[1] == batch["input_ids"].shape[1] + 1


def test_each_round_has_one_input_and_begins_with_another_variant() -> None:
    done: list[tuple[str, int]] = []

    def note(name: str) -> Work:
        return lambda number: done.append((name, number))

    seconds = in_turn({name: note(name) for name in "abc"}, lambda number: number, 3, "cpu", "rounds")
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    rounds = ["".join(name for name, number in done if number == wanted) for wanted in range(4)]
    assert rounds == ["abc", "bca", "cab", "abc"]


def test_decoding_puts_all_cases_in_one_table_with_bounds_only_where_they_belong() -> None:
    """Batch 1 of the small model has bounds; batch 2 has none. Neither has its memory measured."""
    settings = Settings([Case("small", 1, rounds=1), Case("small", 2, rounds=1)], "cpu", "sdpa", tokens=2)
    text = decoding.markdown(decoding.measure(settings))
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == ["small, batch 1: time / plain", "small, batch 2: time / plain"]
    bounds = {line[0]: re.findall(r"\((.*?)\)", line[1]) for line in lines[2:]}
    assert bounds == {
        "plain `generate`": [],
        "Baseline": [],
        "ScalingVis": ["at most 1.05"],
        "AdaptVis": ["at most 1.05"],
        "sweep over 6 alphas": ["at most 1.60"],
        "attention captured and written": ["at most 1.25"],
        "the authors' procedure": [],
    }
    assert not any("at most" in line[2] for line in lines[2:])
    assert "- small, batch 1: random LLaVA, 43M parameters, torch.float32, sdpa. 64 image tokens and 30 text" in text
    assert "medians of 1 rounds" in text


def test_each_decoder_has_its_bound_and_none_has_one_for_longer_answers() -> None:
    bounds = {}
    for tokens in (2, 3):
        settings = Settings([Case("small", 1, rounds=1)], "cpu", "sdpa", tokens)
        text = decoders.markdown(decoders.measure(settings))
        lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
        bounds[tokens] = {line[0]: "".join(re.findall(r"at most (.*)\)", line[1])) for line in lines[2:]}
    of_text = {"m3id": "1.50", "pai, gamma 1.1": "1.50", "vaf": "1.10"}
    assert bounds[2] == {
        "plain `generate`": "",
        **{"vcd": "2.10", "icd": "2.10", "pai": "1.10", "headsguided": "1.10"},
        **{"dola": "1.35", "deco": "1.35", "sla": "1.35", "yesbias": ""},
        **dict.fromkeys(of_text, ""),
    }
    assert bounds[3] == dict.fromkeys(bounds[2], "")
    scaled = decoders.BOUNDS["scaled", 4]
    assert {name: f"{scaled[name][0]:.2f}" for name in of_text} == of_text, "theirs are for prompts with little text"


def test_a_view_of_a_batch_is_what_its_kind_says() -> None:
    batch = random_batch(random_llava(SHAPES["tiny"], "cpu", "sdpa"), rows=2)
    seconds = [decoders.METHODS[name].second for name in ("vcd", "m3id", "icd")]
    noised, text, longer = (decoders.view_of(batch, second.view, IMAGE) for second in seconds if second is not None)
    assert torch.equal(noised["input_ids"], batch["input_ids"])
    assert (noised["pixel_values"] - batch["pixel_values"]).std() > 0.9
    assert text["input_ids"].shape == (2, TEXT_TOKENS) and "pixel_values" not in text
    assert torch.equal(text["input_ids"][:, 0], batch["input_ids"][:, 0]), "the beginning stays"
    assert longer["input_ids"].shape[1] == batch["input_ids"].shape[1] + decoders.INSTRUCTION
    assert torch.equal(longer["pixel_values"], batch["pixel_values"])


def test_a_sweep_s_bookkeeping_is_measured_in_a_real_sweep() -> None:
    figures = sweep.measure(Settings([Case("tiny", 2, rounds=1)], "cpu", "sdpa", tokens=2))
    assert figures["batches"] == sweep.ROUNDS and figures["share"] > 0 and figures["seconds"] > 0
    assert "`adaptvis sweep` of 6 coefficients, tiny, batch 2" in sweep.markdown(figures)


def test_a_replay_is_timed_from_the_command_s_start_to_its_end() -> None:
    figures = replay.measure(Settings([Case("tiny", 2, rounds=1)], "cpu", "sdpa", tokens=2), rows=8)
    assert figures["seconds"] > 1 and 0 <= figures["score"] <= 1
    assert "scores 8 rows" in replay.markdown(figures) and "at most 60" in replay.markdown(figures)


def test_bounds_are_for_answers_of_two_tokens() -> None:
    text = decoding.markdown(decoding.measure(Settings([Case("small", 1, rounds=1)], "cpu", "sdpa", tokens=1)))
    assert "| 1.00 |" in text and "at most" not in text


def test_peak_memory_grows_with_the_batch_and_holds_the_weights() -> None:
    one, many = (over_plain.peak_memory_alone("decoding", "tiny", "sdpa", rows, 1, "AdaptVis") for rows in (1, 16))
    pictures = 15 * 3 * 336 * 336 * 4
    assert one > random_llava(SHAPES["tiny"], "cpu", "sdpa").get_memory_footprint()
    assert many > one + 2 * pictures, "two batches are made, and each is more than its pictures"
