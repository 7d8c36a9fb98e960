"""How long a viewer waits: for a control that can be used, with a warm kernel; and for its answer during a training.

    python bench/page.py

Needs Chromium and the `test` extra. The server, the kernel and the browser share this machine.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import psutil
from playwright.sync_api import Browser, sync_playwright

VISITS = 5
MOVES = 20
MOVED_EVERY = 1.5  # seconds: a move begins when the answer to the one before was given
WARM_UP_SECONDS = 22  # a kernel for the next viewer starts 5 s after one was taken
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
]


def visit(browser: Browser, address: str) -> tuple[float, int, int]:
    """Seconds to a usable control, bytes of the bodies received over HTTP, and requests to other hosts."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    sizes, foreign = [], []
    page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"]))
    page.on("request", lambda request: foreign.append(request.url) if "//127.0.0.1" not in request.url else None)
    started = time.perf_counter()
    page.goto(address)
    page.get_by_label("Weight bits", exact=True).wait_for(timeout=60_000)
    seconds = time.perf_counter() - started
    with page.expect_event("close"):
        page.close(run_before_unload=True)
    return seconds, sum(sizes), len([url for url in foreign if not url.startswith(("data:", "blob:"))])


ANSWERED = """() => {
    const size = document.querySelector('[data-tile="Size"]');
    const before = size.textContent;
    let started;
    const start = () => { started = performance.now(); };
    document.activeElement.addEventListener("input", start, { once: true, capture: true });
    window.answered = new Promise((resolve, reject) => {
        setTimeout(() => reject(new Error("the size on the page did not change within 10 s")), 10_000);
        const watch = new MutationObserver(() => {
            if (started === undefined || size.textContent === before) return;
            watch.disconnect();
            requestAnimationFrame(() => resolve(performance.now() - started));
        });
        watch.observe(size, { subtree: true, childList: true, characterData: true });
    });
}"""


def answers(browser: Browser, address: str) -> list[float]:
    """Seconds from a move of the slider of weight bits to another size on the page, while a student learns."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.goto(address)
    slider = page.get_by_label("Weight bits", exact=True)
    slider.wait_for(timeout=60_000)
    page.get_by_role("button", name="Distil", exact=True).click()
    page.locator(".wb-curves").get_by_text("images a second").first.wait_for(timeout=60_000)
    slider.focus()
    taken = []
    for move in range(MOVES):
        page.evaluate(ANSWERED)
        page.keyboard.press("ArrowLeft" if move % 4 < 2 else "ArrowRight")  # 4, 3, 2, 3, 4 bits
        taken.append(page.evaluate("window.answered") / 1e3)
        time.sleep(MOVED_EVERY)
        if page.get_by_role("button", name="Distil", exact=True).is_visible():
            break  # the training is over
    with page.expect_event("close"):
        page.close(run_before_unload=True)
    return taken


def private_bytes(process: psutil.Process) -> int:
    """Memory that no other process shares; 0 for one that is not a kernel, or just ended."""
    try:
        return process.memory_full_info().uss if "ipykernel_launcher" in " ".join(process.cmdline()) else 0
    except psutil.Error:
        return 0


def main() -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("Chromium is missing; `make test` installs it.")
    with tempfile.TemporaryDirectory() as store:
        command = [sys.executable, "-m", "workbench", "app", "--port", "0"]
        server = subprocess.Popen(
            command, env=os.environ | {"WORKBENCH_STORE": store}, stdout=subprocess.PIPE, text=True
        )
        try:
            address = server.stdout.readline().split(": ", 1)[1].strip()
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
                visits = []
                for _ in range(VISITS):
                    time.sleep(WARM_UP_SECONDS)
                    visits.append(visit(browser, address))
                memory = max(map(private_bytes, psutil.Process(server.pid).children(recursive=True)))
                time.sleep(WARM_UP_SECONDS)
                moves = answers(browser, address)
                browser.close()
        finally:
            server.terminate()
            server.wait(30)
    times = [seconds for seconds, _, _ in visits]
    print(
        f"GET -> usable control, warm kernel   median {statistics.median(times):.2f} s, "
        f"{min(times):.2f} to {max(times):.2f} s over {VISITS} first visits (budget 2.50 s)"
    )
    print(
        f"slider moved -> answer, in a training  median {statistics.median(moves) * 1e3:.0f} ms, worst "
        f"{max(moves) * 1e3:.0f} ms of {len(moves)} moves (budget 300 ms)"
    )
    print(f"memory of a kernel of its own        {memory / 1e9:.2f} GB, private to it")
    print(f"transferred over HTTP                {statistics.median(size for _, size, _ in visits) / 1e6:.2f} MB")
    print(f"requests to other hosts              {sum(foreign for _, _, foreign in visits)}")


if __name__ == "__main__":
    main()
