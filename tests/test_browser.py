"""JupyterLab in a real browser: it opens on the start page, whose cells run and whose slider works.

Skipped where no Chromium and chromedriver are found; Debian's packages serve.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--window-size=1400,2600",
)  # fmt: skip
TOKEN = "a-token"
PATIENCE = 50  # seconds for anything on a busy machine; it takes a few on an idle one


@pytest.fixture
def server(tmp_path):
    """JupyterLab as `jupyter lab` starts it in the repository, with nobody's settings."""
    settings = {
        f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "DATA", "RUNTIME")
    }
    settings |= {"IPYTHONDIR": str(tmp_path / "ipython"), "JUPYTERLAB_SETTINGS_DIR": str(tmp_path)}
    settings |= {"JUPYTERLAB_WORKSPACES_DIR": str(tmp_path), "OMP_NUM_THREADS": "2"}
    environ = {k: v for k, v in os.environ.items() if k != "PRESTO_HEADLESS"} | settings
    log = tmp_path / "log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ip=127.0.0.1", "--ServerApp.port=0", f"--IdentityProvider.token={TOKEN}"]
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + PATIENCE
        found = None
        while not found and time.monotonic() < deadline and process.poll() is None:
            found = re.search(r"http://127\.0\.0\.1:\d+/\S*\?token=", log.read_text())
            time.sleep(0.2)
        assert found, log.read_text()
        yield f"{found[0]}{TOKEN}", log  # its log hides the token
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def browser(tmp_path):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(PATIENCE)
    yield driver
    if folder := os.environ.get("PRESTO_SCREENSHOTS"):  # also of a failure
        driver.save_screenshot(str(Path(folder) / "start.png"))
    driver.quit()


@pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium and chromedriver found")
def test_the_start_page_makes_and_changes_a_clip(server, browser, tmp_path):
    """A press makes a figure and sound; a moved slider and another press change both."""
    from selenium.common.exceptions import (
        ElementClickInterceptedException,
        StaleElementReferenceException,
    )
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    def wait(*, until):
        # JupyterLab replaces elements while it settles, and covers them with a spinner.
        settling = (StaleElementReferenceException, ElementClickInterceptedException)
        return WebDriverWait(browser, PATIENCE, 0.2, settling).until(lambda _: until())

    def find(css, *, having=""):
        found = browser.find_elements(By.CSS_SELECTOR, css)
        return [element for element in found if having in element.text]

    def source(css):
        elements = find(css)
        return elements[-1].get_attribute("src") if elements else ""

    url, log = server
    assert "/lab/tree/notebooks/start.ipynb" in url
    browser.get(url)
    wait(until=lambda: find(".jp-Notebook-ExecutionIndicator[data-status='idle']"))
    wait(until=lambda: find(".jp-Notebook .jp-Cell")[0].click() is None)
    for _ in find(".jp-Notebook .jp-Cell"):
        ActionChains(browser).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(
            Keys.SHIFT
        ).perform()
    (button,) = wait(until=lambda: find("button.jupyter-button", having="Make it"))
    assert find("table", having="bundled model")

    def make():
        before = source(".widget-audio, audio"), source("img.widget-image")
        button.click()
        wait(until=lambda: source(".widget-audio, audio") not in ("", None, before[0]))
        wait(until=lambda: source("img.widget-image") not in ("", None, before[1]))
        return source(".widget-audio, audio"), source("img.widget-image")

    def pixels():
        return find("img.widget-image")[-1].screenshot_as_png

    first, seen = make(), pixels()
    (seed,) = [s for s in find(".widget-slider") if s.text.startswith("seed")]
    seed.find_element(By.CSS_SELECTOR, ".noUi-handle").send_keys(Keys.ARROW_RIGHT)
    wait(until=lambda: seed.find_element(By.CSS_SELECTOR, ".widget-readout").text == "1")
    second = make()
    assert first[0] != second[0] and first[1] != second[1] and pixels() != seen

    # Every notebook is valid to JupyterLab, which says so in what it sends for one.
    said = browser.execute_async_script(
        "const [names, end] = arguments, get = n => fetch('/api/contents/notebooks/' + n);"
        "Promise.all(names.map(n => get(n).then(r => r.json()))).then("
        "all => end(all.map(m => m.type === 'notebook' ? m.message || '' : m)))",
        [path.name for path in (ROOT / "notebooks").glob("*.ipynb")],
    )
    assert said and not any(said)
    # Jupyter trusts no notebook of which it has not seen the cells run.
    warned = r"^\[[WEC](?!.* is not trusted$).*(?:notebook|valid).*"
    assert re.findall(warned, log.read_text(), re.M | re.I) == []
