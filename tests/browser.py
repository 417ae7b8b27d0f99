"""`make browser-test`, by hand: headless Chromium, to which no other host answers, looks at every notebook in the book,
at formulas, search, the one printed sheet and three pages on a phone; then it opens notebook 00 in JupyterLab, clears
its outputs, restarts the kernel and runs all cells. Needs Chromium or Chrome, in the PATH or as $CHROMIUM, and speaks
its DevTools protocol over the websocket client that JupyterLab brings along. Screenshots go to book/_build/.
"""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import websocket

from mfkit import repository
from mfkit.lab import records

NOTEBOOK = "00_three_examples.ipynb"
MINUTES = 10  # for the notebook; a minute or so on two cores
FLAGS = "headless no-sandbox disable-gpu disable-quic no-first-run disable-sync disable-background-networking"
FLAGS += " disable-component-update remote-allow-origins=* window-size=1300,1700"
SHOTS = repository.root() / "book" / "_build"

WIDGET = f"""[...(window.jupyterapp?.shell?.widgets("main") ?? [])]
  .find(widget => widget.context?.isReady && widget.context.path.endsWith("{NOTEBOOK}"))"""
# What JupyterLab's own menus do, by the commands behind them.
RUN = f"""(async () => {{
  const app = window.jupyterapp, notebook = {WIDGET}
  app.shell.activateById(notebook.id); notebook.content.activate()
  await notebook.sessionContext.ready
  await app.commands.execute("notebook:clear-all-cell-outputs")
  const left = notebook.content.widgets.filter(cell => cell.model.type == "code" && cell.model.outputs.length).length
  await notebook.sessionContext.session.kernel.restart()
  app.commands.execute("notebook:run-all-cells")
  return left
}})()"""
STATE = f"""(() => {{
  const notebook = {WIDGET}
  const cells = notebook.content.widgets.map(cell => cell.model).filter(cell => cell.type == "code")
  const outputs = cells.flatMap(cell => cell.outputs.toJSON())
  return {{status: notebook.sessionContext.session.kernel.status, counts: cells.map(cell => cell.executionCount),
    errors: outputs.filter(out => out.output_type == "error").map(out => out.ename + ": " + out.evalue),
    pictures: outputs.filter(out => out.data && "image/png" in out.data).length}}
}})()"""
IMAGES = "[...document.images].map(image => [image.currentSrc.slice(0, 80), image.complete && image.naturalWidth > 0])"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def until(what: str, check, seconds: float):
    """What `check` returns, once it is true; TimeoutError after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := check():
            return answer
        time.sleep(0.5)
    raise TimeoutError(f"{what}: not within {seconds:.0f} s")


def read(url: str):
    try:
        return urlopen(url, timeout=5).read()
    except (URLError, ConnectionError):
        return None


class Tab:
    """One page of the browser."""

    def __init__(self, port: int):
        pages = json.loads(until("Chromium", lambda: read(f"http://127.0.0.1:{port}/json/list"), 60))
        address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        self.socket, self.sent = websocket.create_connection(address, timeout=120), 0

    def call(self, method: str, **params) -> dict:
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": params}))
        while (answer := json.loads(self.socket.recv())).get("id") != self.sent:
            pass  # an event
        assert "error" not in answer, answer
        return answer["result"]

    def value(self, script: str):
        """The script's value, awaited; RuntimeError where it throws."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def go(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        until(url, lambda: self.value("document.readyState") == "complete", 60)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
        print(f"screenshot: {path}")


def notebook_runs(tab: Tab, url: str) -> None:
    tab.call("Emulation.setFocusEmulationEnabled", enabled=True)  # commands act on the notebook that has the focus
    tab.go(url)
    until("the notebook", lambda: tab.value(f"!!{WIDGET}"), 120)
    assert tab.value(RUN) == 0, "outputs were left after clearing them"
    start = time.monotonic()

    def done():
        state = tab.value(STATE)
        return state if state["errors"] or (state["status"] == "idle" and all(state["counts"])) else None

    state = until("all cells", done, 60 * MINUTES)
    assert state["errors"] == [], state["errors"]
    assert state["counts"] == list(range(1, len(state["counts"]) + 1)), state["counts"]
    expected = [id for id in records.load(repository.root() / "figures") if id[:2] == NOTEBOOK[:2]]
    assert state["pictures"] >= len(expected), (state["pictures"], expected)
    tab.value("document.querySelector('.jp-OutputArea img')?.scrollIntoView()")
    shown = until("a picture", lambda: [ok for src, ok in tab.value(IMAGES) if src.startswith("data:image/png")], 30)
    assert all(shown)
    seconds = time.monotonic() - start
    print(f"{NOTEBOOK}: {len(state['counts'])} cells ran in {seconds:.0f} s, {state['pictures']} pictures, no error")
    tab.screenshot(SHOTS / "browser_notebook.png")


def book_shows(tab: Tab, url: str) -> None:
    count = 0
    notebooks = sorted((SHOTS / "notebooks").glob("*.html"))
    for page in notebooks:
        tab.go(f"{url}/notebooks/{page.name}")
        images = tab.value(IMAGES)
        assert images, f"{page.name} shows no image"
        assert all(ok for _, ok in images), (page.name, [src for src, ok in images if not ok])
        count += len(images)
    tab.go(f"{url}/notebooks/{Path(NOTEBOOK).stem}.html")
    until("formulas", lambda: tab.value("document.querySelectorAll('mjx-container').length > 5"), 30)
    tab.screenshot(SHOTS / "browser_book.png")
    tab.go(f"{url}/search.html?q=padding_idx")
    until("search", lambda: tab.value("!!document.querySelector('#search-results a[href*=glossary]')"), 30)
    tab.go(f"{url}/index.html")
    tab.screenshot(SHOTS / "browser_index.png")
    printed = base64.b64decode(tab.call("Page.printToPDF", preferCSSPageSize=True)["data"])
    sheets = len(re.findall(rb"/Type\s*/Page\b", printed))
    assert sheets == 1, f"the page to keep is printed on {sheets} sheets"
    for page in ("index", f"notebooks/{Path(NOTEBOOK).stem}", "book/api"):
        tab.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
        tab.go(f"{url}/{page}.html")
        width = tab.value("document.documentElement.scrollWidth")
        assert width <= 390, f"{page} is {width} pixels wide on a phone"
        tab.screenshot(SHOTS / f"browser_phone_{Path(page).name}.png")
    tab.call("Emulation.clearDeviceMetricsOverride")
    print(
        f"book: {len(notebooks)} notebooks, all of {count} images shown; formulas, search, one printed sheet, a phone"
    )


def main() -> None:
    browser = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if not browser:
        sys.exit("needs Chromium: apt-get install chromium, or CHROMIUM=/path/to/it make browser-test")
    subprocess.run([sys.executable, "-m", "mfkit", "book"], check=True)
    with tempfile.TemporaryDirectory(prefix="mfkit-", ignore_cleanup_errors=True) as scratch:
        lab, book, tools = free_port(), free_port(), free_port()
        copied = Path(scratch) / "notebooks"
        shutil.copytree(repository.root() / "notebooks", copied, ignore=shutil.ignore_patterns(".*"))
        made = {"MFKIT_FIGURES": f"{scratch}/figures", "JUPYTER_CONFIG_DIR": f"{scratch}/config"}
        made |= {"JUPYTER_DATA_DIR": f"{scratch}/share", "JUPYTERLAB_SETTINGS_DIR": f"{scratch}/settings"}
        server = f"--no-browser --allow-root --expose-app-in-browser --port={lab} --ServerApp.port_retries=0".split()
        server += ["--IdentityProvider.token=", f"--ServerApp.root_dir={copied}"]
        commands = [
            [sys.executable, "-m", "jupyter", "lab", *server],
            [sys.executable, "-m", "http.server", str(book), "--bind", "127.0.0.1", "--directory", str(SHOTS)],
            [
                browser,
                *(f"--{flag}" for flag in FLAGS.split()),
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                f"--remote-debugging-port={tools}",
                f"--user-data-dir={scratch}/chromium",
                "about:blank",
            ],
        ]
        with open(Path(scratch) / "log", "w") as log:
            started = [subprocess.Popen(c, env=os.environ | made, stdout=log, stderr=log) for c in commands]
        try:
            until("JupyterLab", lambda: read(f"http://127.0.0.1:{lab}/api"), 60)
            tab = Tab(tools)
            book_shows(tab, f"http://127.0.0.1:{book}")
            notebook_runs(tab, f"http://127.0.0.1:{lab}/lab/tree/{NOTEBOOK}")
        except BaseException:
            print((Path(scratch) / "log").read_text()[-3000:], file=sys.stderr)
            raise
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(timeout=30)


if __name__ == "__main__":
    main()
