"""How long an editor waits for the language server: from an edit to its diagnostics, and for an answer meanwhile.

    python benchmarks/editor_latency.py DIR [--lines 800-1200] [--files 12] [--edits 10]

Takes files below DIR of so many lines that train a model, opens each in a server of its own process as an editor does,
and edits it: a single edit, then a burst of eight (a key every 60 ms) of which only the last is waited for. While a
check runs, the server is asked something that needs none.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.lsp.client import LanguageClient

KEY = 0.06
BURST = 8


def training_files(folder: Path, low: int, high: int, number: int) -> list[Path]:
    found = []
    for path in sorted(folder.rglob("*.py")):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if low <= text.count("\n") <= high and ".backward(" in text and ".step(" in text:
            found.append(path)
    random.Random(1).shuffle(found)
    return found[:number]


class Session:
    """A server, and one file that is open in it."""

    def __init__(self, path: Path) -> None:
        self.uri = path.absolute().as_uri()
        self.text = path.read_text(encoding="utf-8")
        self.version = 1
        self.client = LanguageClient("latency", "1")
        self.told: dict[int, float] = {}
        self.news = asyncio.Event()

        @self.client.feature(types.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)
        def published(params: types.PublishDiagnosticsParams) -> None:
            if params.uri == self.uri and params.version is not None:
                self.told[params.version] = time.perf_counter()
                self.news.set()

    async def open(self) -> tuple[float, float]:
        """Seconds from the start of the process to its readiness, and from opening the file to its diagnostics."""
        started = time.perf_counter()
        await self.client.start_io(sys.executable, "-m", "flake8_gradtrap", "server")
        await self.client.initialize_async(types.InitializeParams(types.ClientCapabilities()))
        self.client.initialized(types.InitializedParams())
        ready = time.perf_counter()
        item = types.TextDocumentItem(self.uri, "python", 1, self.text)
        self.client.text_document_did_open(types.DidOpenTextDocumentParams(item))
        return ready - started, await self.wait() - ready

    def edit(self, row: int) -> float:
        """Type one character into a comment; when."""
        self.version += 1
        text = "#\n" if self.version == 2 else "x"
        place = types.Position(row, 0 if self.version == 2 else 1)
        change = types.TextDocumentContentChangePartial(types.Range(place, place), text)
        identifier = types.VersionedTextDocumentIdentifier(uri=self.uri, version=self.version)
        self.client.text_document_did_change(types.DidChangeTextDocumentParams(identifier, [change]))
        return time.perf_counter()

    async def wait(self) -> float:
        """When the diagnostics of the newest version came."""
        while self.version not in self.told:
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 120)
        return self.told[self.version]

    async def ask(self) -> float:
        """Seconds until something is answered that needs no check."""
        started = time.perf_counter()
        with contextlib.suppress(JsonRpcException):
            await self.client.workspace_execute_command_async(types.ExecuteCommandParams("none"))
        return time.perf_counter() - started

    async def close(self) -> None:
        await self.client.shutdown_async(None)
        self.client.exit(None)
        await self.client.stop()


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def told(name: str, values: Sequence[float]) -> str:
    middle, high, most = statistics.median(values), percentile(values, 0.95), max(values)
    return f"{name:34} {len(values):4}   median {middle:6.3f}   p95 {high:6.3f}   most {most:6.3f} s"


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lines", default="800-1200")
    parser.add_argument("--files", type=int, default=12)
    parser.add_argument("--edits", type=int, default=10)
    arguments = parser.parse_args()
    low, high = map(int, arguments.lines.split("-"))
    starts, opens, edits, bursts, answers = [list[float]() for _ in range(5)]
    files = training_files(arguments.folder, low, high, arguments.files)
    for path in files:
        session = Session(path)
        start, first = await session.open()
        starts.append(start)
        opens.append(first)
        mine = []
        for _ in range(arguments.edits):
            at = session.edit(0)
            await asyncio.sleep(0.2)
            answers.append(await session.ask())
            mine.append(await session.wait() - at)
        edits += mine
        for _ in range(max(arguments.edits // 3, 1)):
            for _ in range(BURST):
                at = session.edit(0)
                await asyncio.sleep(KEY)
            bursts.append(await session.wait() - at)
        await session.close()
        print(f"{os.path.basename(path):40} {session.text.count(chr(10)):5} lines   {statistics.median(mine):.3f} s")
    for name, values in (
        ("start of the process", starts),
        ("open to the first diagnostics", opens),
        ("an edit to its diagnostics", edits),
        ("the last key of a burst to them", bursts),
        ("an answer while a check runs", answers),
    ):
        print(told(name, values))


if __name__ == "__main__":
    asyncio.run(main())
