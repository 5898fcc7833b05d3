"""How long a visitor of the page waits, in a real browser.

    python benchmarks/page.py [--rounds 15] [--method Grad-CAM]

`grad-cam app` is started with the demo model, a page is opened in Chromium, and each of its controls is used in turn. A
wait lasts from the event in the page until the new picture is decoded there. Beside the median stand the CPU time that
the server spent on one (which other programs on the machine change little) and the number of requests of the browser.
Where the machine is busy, aims are judged by the CPU time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import common
from PIL import Image

from grad_cam.loading import samples

AIMS = {"threshold": 0.1, "layer": 0.5, "class": 0.7, "sample photo": 1.5, "upload": 1.5, "upload, 12 megapixels": 1.5}
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")

# Starts an event and gives the milliseconds until the picture is another one, decoded and about to be painted.
WAIT = """
window.waited = (start) => new Promise((done) => {
  const shown = () => document.querySelector('#gc-overlay');
  const before = shown().src, begun = performance.now();
  const look = async () => {
    const image = shown();
    if (!image || image.src === before) return requestAnimationFrame(look);
    await image.decode().catch(() => null);
    requestAnimationFrame(() => done(performance.now() - begun));
  };
  start();
  look();
});
window.slid = (slider, value) => window.waited(() => {
  const input = document.querySelector(`#${slider} input[type=range]`);
  input.value = value;
  for (const kind of ['input', 'change']) input.dispatchEvent(new Event(kind, { bubbles: true }));
  input.dispatchEvent(new PointerEvent('pointerup', { bubbles: true }));
});
window.clicked = (selector) => window.waited(() => document.querySelector(selector).click());
0;
"""


@contextlib.contextmanager
def served() -> Iterator[tuple[str, int]]:
    """The page of the demo model in a process of its own: its address and its process id."""
    command = [sys.executable, "-u", "-m", "grad_cam", "app", "--model", "demo"]
    process = subprocess.Popen(command, cwd=common.ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]  # where it is; that the model is loaded
        address = re.search(r"http://\S+", lines[0])
        if address is None:
            raise SystemExit(f"the page did not start: {lines}")
        yield address[0], process.pid
    finally:
        process.terminate()
        process.wait()


def cpu_seconds(process: int) -> float:
    """CPU time of a process so far; NaN where the system does not say."""
    try:
        fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def photos(folder: pathlib.Path) -> list[tuple[str, str]]:
    """Pairs of photos to upload: as they come with the package, and of 12 megapixels, as a phone takes them."""
    small = [str(path) for path in list(samples().values())[:2]]
    large = []
    for path in small:
        large.append(str(folder / f"{pathlib.Path(path).stem}-large.jpg"))
        Image.open(path).convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC).save(large[-1], quality=90)
    return [(small[0], small[1]), (large[0], large[1])]


def events(page: Any, folder: pathlib.Path) -> dict[str, Callable[[int], float]]:
    """What is measured: functions of the round that give milliseconds."""
    layers = int(page.locator("#gc-position input[type=range]").get_attribute("max") or 1)
    names = list(samples())[:2]

    def upload(pair: tuple[str, str], turn: int) -> float:
        waiting = "() => { window.arrived = window.waited(() => 0); }"
        page.evaluate(waiting)
        page.locator("#gc-upload input[type=file]").set_input_files(pair[turn % 2])
        return float(page.evaluate("() => window.arrived"))

    small, large = photos(folder)
    found: dict[str, Callable[[int], float]] = {
        "threshold": lambda turn: page.evaluate(f"slid('gc-threshold', {0.1 + 0.02 * (turn % 20)})"),
        "layer": lambda turn: page.evaluate(f"slid('gc-position', {turn % layers})"),
        "class": lambda turn: page.evaluate(f"clicked('.gc-bar:nth-child({1 + (turn + 1) % 4})')"),
        "sample photo": lambda turn: page.evaluate(f"""clicked('[data-pick="{names[(turn + 1) % 2]}"]')"""),
        "upload": lambda turn: upload(small, turn),
        "upload, 12 megapixels": lambda turn: upload(large, turn),
    }
    if not page.locator("#gc-position").is_visible():
        del found["layer"]
    return found


def measured(page: Any, process: int, event: Callable[[int], float], rounds: int) -> list[tuple[float, float, int]]:
    """Seconds waited, CPU seconds of the server and requests, the first round left out."""
    requests: list[str] = []

    def count(request: Any) -> None:
        if request.url.startswith("http"):
            requests.append(request.url)

    page.on("request", count)
    found = []
    for turn in range(rounds + 1):
        page.wait_for_timeout(500)  # what the event before has left to do
        requests.clear()
        before = cpu_seconds(process)
        waited = event(turn) / 1000
        page.wait_for_timeout(300)
        if turn:
            found.append((waited, cpu_seconds(process) - before, len(requests)))
    page.remove_listener("request", count)
    return found


def opened(browser: Any, url: str, method: str) -> Any:
    """A page with a picture by a method."""
    page = browser.new_page(viewport={"width": 1366, "height": 820}, bypass_csp=True)
    page.set_default_timeout(300_000)
    page.goto(url)
    page.wait_for_selector("#gc-overlay")
    page.wait_for_timeout(1000)
    shown = page.locator("#gc-method input").first
    if shown.input_value() != method:
        shown.click()
        page.get_by_role("option", name=method, exact=True).first.click()
        page.wait_for_function(
            "name => document.querySelector('#gc-headline p')?.innerText.startsWith(name)", arg=method
        )
        page.wait_for_timeout(1000)
    page.evaluate(WAIT)
    return page


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--method", default="Grad-CAM", help="its title on the page")
    chosen = parser.parse_args()
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, served() as (url, process), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        page = opened(browser, url, chosen.method)
        print(f"{chosen.method}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" + " (busy)" * common.BUSY)
        print(f"{'':24}{'median':>9}{'worst':>9}{'aim':>7}{'server CPU':>13}{'requests':>10}", flush=True)
        for name, event in events(page, pathlib.Path(folder)).items():
            waits, cpu, requests = zip(*measured(page, process, event, chosen.rounds), strict=True)
            middle, used = statistics.median(waits), statistics.median(cpu)
            late = (used if common.BUSY else middle) > AIMS[name]
            print(
                f"{name:24}{middle:7.3f} s{max(waits):7.3f} s{AIMS[name]:5.1f} s{used:11.3f} s"
                f"{statistics.median(requests):10g}{'  missed' if late else ''}",
                flush=True,
            )
        browser.close()


if __name__ == "__main__":
    main()
