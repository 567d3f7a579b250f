"""The report's page in a real browser: what it shows, by keyboard, and that no text of a model runs as a script."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from tests.browser import HOSTILE, IMAGE, SCRIPT, browser, choose, console, listed, needs_browser, press, text
from tests.framework_runs import adaptvis
from tests.trace_files import write_sweep

pytestmark = needs_browser


def answer(doc: Mapping[str, Any], alpha: float) -> str:
    """Plain is right for left and right; smoothed is right for on and under, in sentences; the first are hostile."""
    if doc["id"] < len(HOSTILE) and alpha != 1:
        return HOSTILE[doc["id"]]
    if alpha == 1:
        return doc["answer"] if doc["relation"] in ("left", "right") else "Left"
    return f"It is {doc['relation']} it." if doc["relation"] in ("on", "under") else "On"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    trace = write_sweep(folder / "sweep.jsonl", answer, model="<b>bold</b>" + IMAGE)
    settings = ("--setting", "scalingvis:0.5", "--setting", "adaptvis:0.5/1.5/0.4")
    done = adaptvis("compare", trace, *settings, "-o", folder / "report", "--images", "30")
    assert done.exit_code == 0, done.output
    return folder / "report" / "report.html"


@pytest.fixture(scope="module")
def chrome(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def opened(chrome: Chrome, page: Path) -> Chrome:
    chrome.get(page.as_uri())
    return chrome


def test_what_a_model_answered_is_shown_as_text_and_never_run(opened: Chrome) -> None:
    choose(opened, "run", "scalingvis 0.5")
    for place, hostile in enumerate(HOSTILE):
        assert hostile[:20] in listed(opened)[place]
        assert " ".join(hostile.split()) in " ".join(text(opened, "detail").split())
        press(opened, "j")
    assert opened.execute_script("return window.hacked") is None
    assert opened.title.startswith("Comparison: whatsup_demo")
    assert SCRIPT in opened.find_element(By.TAG_NAME, "body").get_property("textContent")  # type: ignore[operator]
    assert console(opened) == []


def test_the_policy_would_stop_a_script_that_got_in(opened: Chrome) -> None:
    opened.execute_script(
        "const one = document.createElement('script'); one.textContent = 'window.hacked = 9';"
        "document.body.append(one);"
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked = 8\">')"
    )
    assert opened.execute_script("return window.hacked") is None
    assert any("Content Security Policy" in message for message in console(opened))


def test_nothing_is_loaded_from_anywhere(opened: Chrome, page: Path) -> None:
    loaded = opened.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    assert not re.search(r"""(?:src|href|url\()=?["']?https?:""", page.read_text())


def test_pictures_of_flipped_rows_come_first_and_are_bounded(opened: Chrome, page: Path) -> None:
    source = page.read_text()
    different = set(re.findall(r"data:image/jpeg;base64,[\w+/=]+", source))
    assert len(different) == 30
    cards = opened.find_elements(By.CSS_SELECTOR, ".card")
    assert cards and len(cards) == len(opened.find_elements(By.CSS_SELECTOR, ".card img"))
    choose(opened, "show", "wrong → right")
    assert opened.find_element(By.CSS_SELECTOR, "#detail img").get_property("naturalWidth") > 50  # type: ignore[operator]


def test_the_filters_find_the_rows(opened: Chrome) -> None:
    choose(opened, "run", "adaptvis 0.5/1.5/0.4")
    assert text(opened, "count") == "Row 1 of 40"
    choose(opened, "show", "wrong → right")
    fixed = len(listed(opened))
    choose(opened, "show", "right → wrong")
    broken = len(listed(opened))
    choose(opened, "show", "flipped against the baseline")
    assert len(listed(opened)) == fixed + broken > 0
    choose(opened, "relation", "under")
    assert all("Under" in line for line in listed(opened))
    choose(opened, "relation", "all")
    choose(opened, "show", "form of the answer changed")
    assert all(" " in line.split("·")[2].strip() for line in listed(opened))
    choose(opened, "show", "all rows")
    opened.find_element(By.ID, "search").send_keys("nothing says this")
    assert text(opened, "count") == "No row fits these filters." and text(opened, "detail") == ""


def test_everything_works_by_keyboard(opened: Chrome) -> None:
    seen = []
    for _ in range(60):
        press(opened, Keys.TAB)
        active = opened.switch_to.active_element
        seen.append(active.get_attribute("id") or active.tag_name)
        outline = opened.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"the focus on {seen[-1]} can be seen"
        if seen[-1] == "list":
            break
    assert seen[0] == "a", "the first stop skips to the figures"
    assert [one for one in seen if one in ("task", "run", "show", "relation", "search", "list")] == [
        "task", "run", "show", "relation", "search", "list",
    ]  # fmt: skip
    press(opened, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert text(opened, "count") == "Row 3 of 40"
    press(opened, Keys.END)
    assert text(opened, "count") == "Row 40 of 40"
    press(opened, "k", Keys.ARROW_UP)
    assert text(opened, "count") == "Row 38 of 40"
    chosen = opened.find_element(By.CSS_SELECTOR, "#list [aria-selected=true]")
    assert opened.switch_to.active_element.get_attribute("aria-activedescendant") == chosen.get_attribute("id")
    box = opened.find_element(By.ID, "list").rect
    assert box["y"] <= chosen.rect["y"] <= box["y"] + box["height"], "the list scrolls with the choice"


def test_letters_in_the_search_are_letters(opened: Chrome) -> None:
    opened.find_element(By.ID, "search").send_keys("jk")
    assert opened.find_element(By.ID, "search").get_property("value") == "jk"


def test_it_is_dark_where_the_reader_wants_it_dark(opened: Chrome) -> None:
    colour = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    light = opened.execute_script(colour)
    opened.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    dark = opened.execute_script(colour)
    ink = opened.execute_script(
        "return getComputedStyle(document.querySelector('figure svg')).color.match(/\\d+/g).map(Number)[0]"
    )
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert light > 200 > 100 > dark and ink > 200


def test_it_fits_a_narrow_window(opened: Chrome) -> None:
    opened.set_window_size(500, 900)
    wide = opened.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    opened.set_window_size(1280, 900)
    assert wide <= 0


def test_drawings_can_be_read_in_a_narrow_window(opened: Chrome) -> None:
    size = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    width = opened.execute_script("return document.querySelector('figure svg').getBoundingClientRect().width")
    wide = opened.execute_script("return document.documentElement.scrollWidth")
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width >= 600 and wide <= 400, "the drawing scrolls, and not the page"


def test_no_two_elements_have_the_same_id_and_everything_has_a_name(opened: Chrome) -> None:
    ids = opened.execute_script("return [...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))
    for address in set(re.findall(r'(?:href="|url\()#([\w-]+)', opened.page_source)):
        assert address in ids
    nameless = "return [...document.querySelectorAll('input, select')].filter((one) => !one.labels.length).length"
    assert opened.execute_script(nameless) == 0
    assert opened.execute_script("return document.querySelectorAll('img:not([alt]), th:not([scope])').length") == 0


def test_without_pictures_the_page_says_so(tmp_path: Path, chrome: Chrome) -> None:
    trace = write_sweep(tmp_path / "other.jsonl", answer, task="my_task")
    done = adaptvis("compare", trace, "-o", tmp_path / "report")
    assert done.exit_code == 0, done.output
    chrome.get((tmp_path / "report" / "report.html").as_uri())
    assert "Without pictures: the pictures of this task are not known" in chrome.find_element(By.TAG_NAME, "main").text
    assert "The picture of this row is not in this page." in text(chrome, "detail")
