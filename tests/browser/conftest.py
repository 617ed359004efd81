"""A headless Chromium and a built page; without a browser these tests say so, on CI they fail."""

import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "suite"))

FLAGS = (
    "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
).split()
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def missing(reason):
    """Skip with a reason; on CI, where the browser has to be there, fail."""
    if os.environ.get("CI"):
        pytest.fail(f"the page was not tried in a browser: {reason}")
    pytest.skip(f"not run: {reason}")


@pytest.fixture(scope="session")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        missing(f"{error} (tox -e page installs it)")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        missing(f"none of {', '.join(NAMES)} is on the PATH (as root: apt-get install chromium)")
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium's sandbox refuses to start as root
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=[*FLAGS, *(["--no-sandbox"] if root else [])])
        yield started
        started.close()


@pytest.fixture(scope="session")
def address(tmp_path_factory):
    import sample_results as sample

    from reports import build

    lines = [*sample.small(), *sample.large(faults=6, laws=9, kernels=5)]
    folder = sample.write(tmp_path_factory.mktemp("results"), lines)
    return build([folder], tmp_path_factory.mktemp("page"))[0].as_uri()


@pytest.fixture
def open_page(browser, address):
    """Opens the page; in the end it asserts that nothing was requested and nothing complained of."""
    contexts, wrong = [], []

    def make(width=1280, scheme="light", **options):
        context = browser.new_context(
            viewport={"width": width, "height": 844 if width < 600 else 900}, color_scheme=scheme, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("request", lambda request: request.url in (address, "data:,") or wrong.append(f"asks {request.url}"))
        page.goto(address)
        return page

    yield make
    for context in contexts:
        context.close()
    assert not wrong
