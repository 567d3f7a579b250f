"""The page of `adaptvis attention` in a real browser: by keyboard, with filters, and with attention that is drawn."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from adaptvis_plugin.attention.familiarity import familiarity
from adaptvis_plugin.attention.record import Record
from adaptvis_plugin.attention.report import write
from tests.attention_rows import BEFORE, image_columns
from tests.attention_studies import SIDE, UpperRow, answered, captured, picture, studied, traced
from tests.browser import HOSTILE, IMAGE, SCRIPT, browser, choose, console, listed, needs_browser, press, text

pytestmark = needs_browser

TOP_LEFT, TOP_RIGHT, BOTTOM_RIGHT, MIDDLE = 0, SIDE - 1, SIDE**2 - 1, SIDE + 1
"""Image columns: what layer 3 looks at, what both layers look at under alpha 0.5, and what layer 7 looks at."""

PLAIN = [True, True, True, True, False, False, False, False]
SMOOTHED = [True, True, False, False, True, False, False, False]
UNMAPPED, TWO_PICTURES, WITH_SINK, LAST = 3, 5, 6, 7

BRIGHT = """
const canvas = document.getElementById("canvas"), {width, height} = canvas;
const {data} = canvas.getContext("2d").getImageData(0, 0, width, height), x = [], y = [];
for (let place = 0; place < width * height; place++) {
  if (data[4 * place] > 200 && data[4 * place + 1] > 150 && data[4 * place + 2] < 120) {
    x.push(place % width / width), y.push(Math.floor(place / width) / height);
  }
}
const mean = (values) => values.reduce((one, other) => one + other, 0) / values.length;
return x.length ? [mean(x), mean(y), x.length / width / height] : null;
"""
CYAN = """
const canvas = document.getElementById("canvas");
const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
return data.filter((_, place) => place % 4 === 0 && data[place] < 60 && data[place + 2] > 180).length;
"""


def record(number: int) -> Record:
    """Capture a row; no column has so much that it is a sink, but for one in the middle of one row."""
    weights = np.zeros((4, 2, 2, len(image_columns(SIDE))))
    weights[:, 0, :, BEFORE + TOP_LEFT] = weights[:, 1, :, BEFORE + BOTTOM_RIGHT] = 3
    weights[1] = 0
    weights[1, ..., BEFORE + TOP_RIGHT] = 3
    if number == WITH_SINK:
        weights[..., BEFORE + MIDDLE] = 9
    if number == UNMAPPED:
        return captured(number, weights, places=None)
    if number == TWO_PICTURES:
        size = (SIDE * 8, SIDE * 8)
        return captured(number, weights, sizes=(size, size), thumbnails=(picture(), picture()))
    return captured(number, weights)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names, questions and answers are hostile; of eight rows six have an overlay."""
    folder = tmp_path_factory.mktemp("page")
    rows = answered(
        {1.0: PLAIN, 0.5: SMOOTHED, 1.5: PLAIN},
        question=lambda number: HOSTILE[number % len(HOSTILE)],
        gold=lambda number: HOSTILE[(number + 1) % len(HOSTILE)],
        generations=lambda number: {1.0: "plain", 0.5: HOSTILE[(number + 2) % len(HOSTILE)], 1.5: "sharpened"},
        relation=lambda number: IMAGE if number % 2 else "on",
    )
    found = studied(folder, rows, record, source=UpperRow(SCRIPT), task=SCRIPT)
    return write([found], folder / "report", 6)[0]


@pytest.fixture(scope="module")
def chrome(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def opened(chrome: Chrome, page: Path) -> Chrome:
    chrome.get(page.as_uri())
    return chrome


def lit(driver: Chrome, column: int) -> bool:
    """Wait until the brightest place is that of a column, and nothing else."""
    line, place = divmod(column, SIDE)
    expected = ((place + 0.5) / SIDE, (line + 0.5) / SIDE, 1 / SIDE**2)

    def there(driver: Chrome) -> bool:
        found = driver.execute_script(BRIGHT)
        return found is not None and found == pytest.approx(expected, abs=0.02)

    return bool(WebDriverWait(driver, 20).until(there))


def cyan(driver: Chrome) -> int:
    return int(driver.execute_script(CYAN))


def test_hostile_text_is_shown_as_text_and_never_run(opened: Chrome) -> None:
    choose(opened, "run", "scalingvis 0.5")
    for number in range(len(HOSTILE)):
        shown = " ".join(text(opened, "detail").split())
        assert all(" ".join(one.split()) in shown for one in (HOSTILE[number], HOSTILE[(number + 1) % len(HOSTILE)]))
        assert HOSTILE[(number + 2) % len(HOSTILE)][:20] in listed(opened)[number]
        press(opened, "j")
    choose(opened, "relation", IMAGE)
    assert len(listed(opened)) == 4 and SCRIPT in text(opened, "legend")
    assert SCRIPT in opened.find_element(By.TAG_NAME, "h2").text
    assert opened.title == f"Attention: {SCRIPT}"
    assert opened.execute_script("return window.hacked") is None
    assert console(opened) == []


def test_an_injected_script_is_blocked_and_nothing_is_loaded(opened: Chrome, page: Path) -> None:
    opened.execute_script(
        "const one = document.createElement('script'); one.textContent = 'window.hacked = 9';document.body.append(one);"
    )
    assert opened.execute_script("return window.hacked") is None
    assert any("Content Security Policy" in message for message in console(opened))
    loaded = opened.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    assert not re.search(r"""(?:src|href|url\()=?["']?https?:""", page.read_text())


def test_attention_is_drawn_where_it_is(opened: Chrome) -> None:
    """The slider begins at the mean of both layers, one of which looks at either corner."""
    assert text(opened, "layer-name") == "mean of all layers"
    press(opened, "h")
    assert text(opened, "layer-name") == "layer 7" and lit(opened, BOTTOM_RIGHT)
    press(opened, "h", "h")
    assert text(opened, "layer-name") == "layer 3" and lit(opened, TOP_LEFT)
    assert "The picture gets 85.4% of the attention" in text(opened, "legend")
    choose(opened, "source", "scalingvis 0.5")
    assert lit(opened, TOP_RIGHT)
    press(opened, "l", "l")
    assert text(opened, "layer-name") == "mean of all layers" and lit(opened, TOP_RIGHT)
    choose(opened, "source", "plain")
    WebDriverWait(opened, 20).until(
        lambda driver: (driver.execute_script(BRIGHT) or [0])[0] == pytest.approx(0.5, abs=0.02)
    )
    opened.find_element(By.ID, "heat").send_keys(Keys.SPACE)
    WebDriverWait(opened, 20).until(lambda driver: driver.execute_script(BRIGHT) is None)
    press(opened, "h")
    assert text(opened, "layer-name") == "layer 7", "letters are free when the focus is on a checkbox"


def test_a_sink_is_marked_and_does_not_outshine_the_rest(opened: Chrome) -> None:
    assert "sinks" not in text(opened, "legend")
    press(opened, *"j" * WITH_SINK, "h")
    assert "the most of it, sinks aside." in text(opened, "legend") and "Crosses: " in text(opened, "legend")

    def both(driver: Chrome) -> bool:
        found = driver.execute_script(BRIGHT)
        return found is not None and 1.6 / SIDE**2 < found[2] < 2 / SIDE**2  # two places, less the cross

    WebDriverWait(opened, 20).until(both)


def test_boxes_can_be_left_out(opened: Chrome) -> None:
    WebDriverWait(opened, 20).until(lambda driver: cyan(driver) > 200)
    opened.find_element(By.ID, "boxes").send_keys(Keys.SPACE)
    WebDriverWait(opened, 20).until(lambda driver: cyan(driver) == 0)


def test_rows_say_what_they_do_not_have(opened: Chrome) -> None:
    for row in range(8):
        there = row not in (UNMAPPED, LAST)
        assert opened.find_element(By.ID, "overlay").is_displayed() == there
        assert ("This row has no overlay in this page" in text(opened, "no-overlay")) != there
        assert ("The first of 2 pictures." in text(opened, "legend")) == (row == TWO_PICTURES)
        press(opened, "j")
    assert "6 rows have an overlay in this page." in opened.find_element(By.TAG_NAME, "footer").text


def test_the_filters_find_the_rows(opened: Chrome) -> None:
    choose(opened, "run", "scalingvis 0.5")
    for shown, rows in (
        ("right", "014"),
        ("wrong", "23567"),
        ("flipped against plain", "234"),
        ("wrong → right", "4"),
        ("right → wrong", "23"),
        ("rows with an overlay", "012456"),
        ("all rows", "01234567"),
    ):
        choose(opened, "show", shown)
        assert [line[0] for line in listed(opened)] == list(rows), shown
    choose(opened, "relation", "on")
    assert [line[0] for line in listed(opened)] == list("0246")
    search = opened.find_element(By.ID, "search")
    search.send_keys("ONLOAD")
    assert [line[0] for line in listed(opened)] == list("0246"), "every row has it as question, gold or answer"
    search.clear()
    search.send_keys("jk hl")
    assert search.get_property("value") == "jk hl" and listed(opened) == []
    assert text(opened, "count") == "No row fits these filters." and text(opened, "detail") == ""
    assert not opened.find_element(By.ID, "overlay").is_displayed()


def test_the_list_works_by_keyboard(opened: Chrome) -> None:
    opened.execute_script("document.getElementById('list').focus()")
    press(opened, Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP)
    assert text(opened, "count") == "Row 2 of 8"
    press(opened, Keys.END)
    assert text(opened, "count") == "Row 8 of 8"
    press(opened, "k", "k", "j")
    assert text(opened, "count") == "Row 7 of 8"
    press(opened, Keys.HOME)
    assert text(opened, "count") == "Row 1 of 8"
    chosen = opened.find_element(By.CSS_SELECTOR, "#list [aria-selected=true]")
    assert opened.switch_to.active_element.get_attribute("aria-activedescendant") == chosen.get_attribute("id")


def test_ids_differ_and_everything_has_a_name(opened: Chrome) -> None:
    ids = opened.execute_script("return [...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))
    for address in set(re.findall(r'(?:href="|url\()#([\w-]+)', opened.page_source)):
        assert address in ids
    nameless = "return [...document.querySelectorAll('input, select')].filter((one) => !one.labels.length).length"
    assert opened.execute_script(nameless) == 0


def test_it_fits_a_narrow_window(opened: Chrome) -> None:
    size = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wide = opened.execute_script("return document.documentElement.scrollWidth")
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= 400


def test_a_trace_alone_has_a_page_without_rows(tmp_path: Path, chrome: Chrome) -> None:
    found = familiarity(traced(tmp_path / "toy.jsonl", answered({1.0: PLAIN, 0.5: SMOOTHED})))
    chrome.get(write([found], tmp_path / "report", 6)[0].as_uri())
    shown = chrome.find_element(By.TAG_NAME, "main").text
    assert "From a trace alone: no attention was captured" in shown and "Familiarity of the relations" in shown
    assert chrome.find_elements(By.ID, "browser") == [] and console(chrome) == []
    press(chrome, "j", "h", Keys.END)
    assert console(chrome) == []
