"""A headless Chromium that is driven by keys, over its DevTools protocol."""

import asyncio
import itertools
import subprocess
import time
from pathlib import Path
from typing import Any

import aiohttp

_LIMIT_SECONDS = 120
_KEYS = {"Tab": (9, ""), "Enter": (13, "\r")}


class Browser:
    """One page of it; use as an asynchronous context."""

    def __init__(self, program: str, folder: Path, address: str):
        self._folder, self._numbers = folder, itertools.count(1)
        self._command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}",
            "--remote-debugging-port=0", address,
        ]  # fmt: skip

    async def __aenter__(self) -> "Browser":
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._http = aiohttp.ClientSession()
        port = (await self._until(lambda: _lines(self._folder / "DevToolsActivePort")))[0]
        async with self._http.get(f"http://127.0.0.1:{port}/json") as told:
            (page,) = [one for one in await told.json() if one["type"] == "page"]
        self._socket = await self._http.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)
        return self

    async def __aexit__(self, *error: object) -> None:
        try:
            await self.ask("Browser.close")  # killed, it would leave folders behind
            self._process.wait(_LIMIT_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
            await self._http.close()

    async def press(self, key: str) -> None:
        """`Tab`, `Enter`, or a letter or digit."""
        code, text = _KEYS.get(key, (ord(key[0].upper()), key))
        told = {"key": key, "windowsVirtualKeyCode": code, "text": text}
        await self.ask("Input.dispatchKeyEvent", type="keyDown", **told)
        await self.ask("Input.dispatchKeyEvent", type="keyUp", **told)

    async def says(self, expression: str) -> Any:
        """What the page's JavaScript says to it."""
        return (await self.ask("Runtime.evaluate", expression=expression))["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Likewise, once that is something."""
        deadline = time.monotonic() + _LIMIT_SECONDS
        while not (value := await self.says(expression)):
            assert time.monotonic() < deadline, expression
            await asyncio.sleep(0.05)
        return value

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while (answer := await self._socket.receive_json(timeout=_LIMIT_SECONDS)).get("id") != number:
            pass  # an event
        return answer["result"]

    async def _until(self, found: Any) -> Any:
        deadline = time.monotonic() + _LIMIT_SECONDS
        while not (value := found()):
            assert self._process.poll() is None and time.monotonic() < deadline
            await asyncio.sleep(0.05)
        return value


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []
