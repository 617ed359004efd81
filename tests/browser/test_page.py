"""The report's page in a headless Chromium: sorted, filtered, opened, copied, printed, and accessible."""

import pytest

EVIDENCE = (
    "Sentence of output_equals_the_recurrence.",
    "a < b & c",
    "9 tried, 1 refused, 8 informative",
    "7 budget units",
    "Case(T=3, gate='spike')",
    "o is <b>5</b>",
    "Looks like",
    "token 1",
    "kda replay",
    "seed 0",
)
UNFOLD = "for (const one of document.querySelectorAll('details')) one.open = true"
WHERE = "[document.activeElement.closest('tr').rowIndex, document.activeElement.closest('td').cellIndex]"
SCHEMES, WIDTHS = ("light", "dark"), (1280, 390)


def column(page, table, place):
    """What one column of the rows that are shown says."""
    rows = page.locator(f"#{table} tbody tr:not([hidden])")
    return [text.strip() for text in rows.locator(f":scope > *:nth-child({place})").all_inner_texts()]


def test_a_click_on_a_heading_sorts_and_another_turns_round(open_page):
    page = open_page()
    before = column(page, "laws", 1)
    page.locator("#laws").get_by_role("button", name="law", exact=True).click()
    assert column(page, "laws", 1) == sorted(before) != before
    page.locator("#laws").get_by_role("button", name="law", exact=True).click()
    assert column(page, "laws", 1) == sorted(before, reverse=True)
    assert page.locator("#laws th[aria-sort]").get_attribute("aria-sort") == "descending"


def test_sorting_by_a_kernel_puts_what_is_broken_first(open_page):
    page = open_page()
    heads = page.locator("#laws thead th")
    place = [text.strip() for text in heads.all_inner_texts()].index("wrong") + 1
    page.locator(f"#laws thead th:nth-child({place}) button").click()
    statuses = [text.split()[1] for text in column(page, "laws", place)]
    assert statuses[:2] == ["crash", "falsified"] and set(statuses[2:-1]) == {"not-run"} and statuses[-1] == "pass"


def test_numbers_sort_as_numbers_and_void_times_come_last(open_page):
    page = open_page()
    heads = [text.strip() for text in page.locator("#timings thead th").all_inner_texts()]
    place = heads.index("median, ms") + 1
    for direction in (1, -1):
        page.locator(f"#timings thead th:nth-child({place}) button").click()
        times = column(page, "timings", place)
        known = [float(text) for text in times if text]
        assert times[: len(known)] == [text for text in times if text] and len(known) < len(times)
        assert known == sorted(known, reverse=direction < 0)


def test_filters_of_text_status_and_family_work_together(open_page):
    page = open_page()
    form, said = page.locator("form[data-for=laws]"), page.locator("form[data-for=laws] output")
    total = len(column(page, "laws", 1))
    assert said.inner_text() == f"{total} of {total} laws"
    form.get_by_label("Text").fill("SEQUENCE does not")
    rows = column(page, "laws", 1)
    assert 0 < len(rows) < total and all("sequence does not" in row for row in rows)
    form.get_by_label("Text").fill("")
    form.get_by_label("Status").select_option("crash")
    assert column(page, "laws", 1) == ["final state equals the recurrence"]
    form.get_by_label("Family").select_option("refuse")
    assert column(page, "laws", 1) == [] and said.inner_text() == f"0 of {total} laws"


def test_the_kill_matrix_is_filtered_to_the_survivors(open_page):
    page = open_page()
    page.locator("form[data-for=kills]").get_by_label("Outcome").select_option("survived")
    assert column(page, "kills", 1) == ["✗ sneaky survived"]


def test_a_cell_opens_its_evidence_by_mouse(open_page):
    page = open_page()
    page.locator("[data-law=output_equals_the_recurrence] button.bad").click()
    words = page.get_by_role("dialog").inner_text()
    for part in EVIDENCE:
        assert part in words
    page.get_by_role("button", name="Close").click()
    assert page.get_by_role("dialog").count() == 0


def test_the_matrix_is_walked_and_opened_by_keyboard_alone(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    first = page.locator("#laws button.cell").first
    first.focus()
    before = page.evaluate(WHERE)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(WHERE) == [before[0] + 1, before[1] + 1]
    page.keyboard.press("Enter")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#evidence").is_visible()
    assert page.evaluate(WHERE) == [before[0] + 1, before[1] + 1]
    assert page.locator("#laws button.cell[tabindex='0']").count() == 1


def test_a_fault_opens_its_source_and_trigger(open_page):
    page = open_page()
    page.locator("[data-fault=early_mask] button").click()
    words = page.get_by_role("dialog").inner_text()
    assert "masks after exp" in words and "T > 16" in words and "fla #99" in words and "Case(T=17)" in words


def test_a_counterexample_is_opened_by_keyboard_and_copied(open_page):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    card = page.locator("details.card", has_text="final state equals the recurrence").filter(has_text="crash").first
    card.locator("summary").focus()
    page.keyboard.press("Enter")
    assert card.get_attribute("open") is not None
    card.get_by_role("button", name="Copy").click()
    page.get_by_role("status").filter(has_text="Copied to the clipboard").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "kda replay y"


def test_copying_falls_back_to_the_selection(open_page):
    page = open_page()
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    card = page.locator("details.card[open]").first
    card.get_by_role("button", name="Copy").click()
    page.locator("#said", has_text="Copied").wait_for()
    assert page.evaluate("getSelection().toString()") == card.locator(".copyable code").inner_text()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing(open_page, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    page, axe = open_page(width, scheme), Axe()
    page.evaluate(UNFOLD)
    found = axe.run(page)
    assert found.violations_count == 0, found.generate_report()
    page.evaluate("document.querySelector('#laws button.cell.bad').click()")
    found = axe.run(page, context="#evidence")
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_only_tables_scroll_sideways(open_page, width):
    page = open_page(width)
    page.evaluate(UNFOLD)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.querySelectorAll('table')].every(one => one.closest('.wide'))")


@pytest.mark.parametrize("table", ["laws", "kills", "timings"])
def test_heading_and_first_column_stay_in_sight(open_page, table):
    page = open_page(390)
    region = page.locator(f".wide:has(#{table})")
    region.evaluate("one => one.scrollTo(400, 300)")
    box, head = region.bounding_box(), page.locator(f"#{table} thead th").first.bounding_box()
    assert region.evaluate("one => one.scrollLeft") > 100
    assert abs(head["x"] - box["x"]) < 3 and abs(head["y"] - box["y"]) < 3
    assert head["width"] < 0.5 * box["width"]


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_moves_and_nothing_is_loaded_after_the_page(open_page, width):
    page = open_page(width)
    shift = page.evaluate(
        """new Promise(done => {
          let sum = 0;
          new PerformanceObserver(list => { for (const one of list.getEntries()) sum += one.value; })
            .observe({type: "layout-shift", buffered: true});
          setTimeout(() => done(sum), 300);
        })"""
    )
    assert shift < 0.01
    loaded = page.evaluate("performance.getEntriesByType('resource').map(one => one.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []


def test_the_page_forbids_requests_by_itself(open_page, address):
    page = open_page()
    page.goto("about:blank")
    page = page.context.new_page()
    page.goto(address)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    refused = page.evaluate("fetch('https://example.org/').then(() => 'answered', () => 'refused')")
    assert refused == "refused" and asked == []


def test_print_shows_what_is_folded_and_lets_tables_run(open_page):
    page = open_page()
    folded = page.locator("details:not([open])").count()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert folded > 0 and page.locator("details:not([open])").count() == 0
    assert page.locator(".wide").first.evaluate("one => getComputedStyle(one).overflowX") == "visible"
    assert not page.get_by_label("Sections").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() == folded
    assert page.pdf().startswith(b"%PDF")


def test_without_javascript_verdicts_matrix_and_counterexamples_are_there(open_page):
    page = open_page(java_script_enabled=False)
    for part in ("breaks 2 of 3 laws", "✗ falsified 7", "Case(T=3, gate='spike')", "Survived: sneaky", "implausible"):
        assert page.get_by_text(part).first.is_visible(), part
