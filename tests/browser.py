"""A headless Chromium, driven over a pipe with the DevTools protocol: no package is needed for it."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")
FLAGS = (
    "--headless",
    "--no-sandbox",  # tests run as root in containers
    "--disable-dev-shm-usage",
    "--use-angle=swiftshader",  # WebGL without a GPU
    "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)


def find() -> str | None:
    """The program: that of ``POINTCEPT_CHROMIUM``, or the first of the usual names on the path."""
    named = os.environ.get("POINTCEPT_CHROMIUM")
    return named if named else next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of a browser.

    Attributes:
        console: lines of errors and warnings of the page, exceptions too.
        requests: every address that was loaded.
    """

    def __init__(self, program: str, width: int = 1200, height: int = 800) -> None:
        self.console: list[str] = []
        self.requests: list[str] = []
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()

        def pipes() -> None:  # the protocol's: 3 is read by the browser, 4 is written
            os.dup2(theirs_in, 13), os.dup2(theirs_out, 14)
            os.dup2(13, 3), os.dup2(14, 4)

        command = [program, *FLAGS, f"--window-size={width},{height}", f"--user-data-dir={self._folder.name}"]
        self._process = subprocess.Popen(
            command, preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs_in), os.close(theirs_out)
        self._ids = itertools.count(1)
        self._buffer = b""
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank", width=width, height=height)["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its result."""
        message: dict[str, Any] = {"id": next(self._ids), "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == message["id"]:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._in, 1 << 16)
            if not part:
                raise RuntimeError("the browser has ended")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, what: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = what["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
            self.console.append(" ".join(str(a.get("value", a.get("description"))) for a in what["args"]))
        elif method == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            self.console.append(what["entry"]["text"])

    def open(self, file: Path, first: str = "") -> None:
        """Load a file, after the JavaScript ``first``."""
        if first:
            self.call("Page.addScriptToEvaluateOnNewDocument", source=first)
        self.call("Page.navigate", url=file.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; of a promise what it becomes."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description") or details["text"])
        return found["result"].get("value")

    def wait(self, condition: str, seconds: float = 30) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition} is not true after {seconds} s; console: {self.console}")
            time.sleep(0.05)

    def settle(self) -> None:
        """Wait until the page has drawn twice."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """A mouse event: mousePressed, mouseReleased, mouseMoved or mouseWheel."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, x: float, y: float) -> None:
        """A click with the left button."""
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """A key that gives a character, down and up."""
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def screenshot(self) -> bytes:
        """The page as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._out), os.close(self._in)
        self._folder.cleanup()


def main() -> None:
    """``python -m tests.browser PAGE.html PICTURE.png [JAVASCRIPT]``: a picture of a page of the views, for docs."""
    file, picture, *script = sys.argv[1:]
    program = find()
    if program is None:
        raise SystemExit(f"no browser: {', '.join(NAMES)} or POINTCEPT_CHROMIUM")
    browser = Browser(program, 1280, 720)
    try:
        browser.open(Path(file))
        browser.wait("viewer !== null && viewer.frame !== undefined", 120)
        browser.run("; ".join(script) or "true")
        browser.settle()
        browser.settle()
        small = (
            Image.open(io.BytesIO(browser.screenshot()))
            .convert("RGB")
            .quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=0)
        )
        small.save(picture, optimize=True)
    finally:
        browser.close()


if __name__ == "__main__":
    main()
