"""An editor for tests: pytest-lsp's client, with what a test wants to wait for."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from conftest import ROOT
from lsprotocol import types
from pygls.protocol import default_converter
from pytest_lsp.client import DEFAULT_CLIENT_FEATURES, LanguageClient, register_lsp_features

TIMEOUT = 60


def plain(**text_document: Any) -> types.ClientCapabilities:
    """What an editor can that gets its diagnostics sent."""
    text_document.setdefault(
        "publish_diagnostics",
        types.PublishDiagnosticsClientCapabilities(
            related_information=True,
            version_support=True,
            code_description_support=True,
            tag_support=types.ClientDiagnosticsTagOptions([types.DiagnosticTag.Unnecessary]),
        ),
    )
    return types.ClientCapabilities(
        text_document=types.TextDocumentClientCapabilities(**text_document),
        workspace=types.WorkspaceClientCapabilities(
            workspace_folders=True, workspace_edit=types.WorkspaceEditClientCapabilities(document_changes=True)
        ),
        notebook_document=types.NotebookDocumentClientCapabilities(types.NotebookDocumentSyncClientCapabilities()),
    )


def uri(path: Path | str) -> str:
    return Path(path).as_uri() if isinstance(path, Path) else path


def document(path: Path | str) -> types.TextDocumentIdentifier:
    return types.TextDocumentIdentifier(uri(path))


def at(line: int, start: int, end: int | None = None) -> types.Range:
    """A range in a line, both from 0."""
    return types.Range(types.Position(line, start), types.Position(line, start if end is None else end))


def insertion(line: int, character: int, text: str) -> types.TextDocumentContentChangePartial:
    return types.TextDocumentContentChangePartial(at(line, character), text)


class Editor:
    """A session with a server."""

    def __init__(self, client: LanguageClient, result: types.InitializeResult) -> None:
        self.client = client
        self.capabilities = result.capabilities
        encoding = result.capabilities.position_encoding
        self.encoding = str(getattr(encoding, "value", encoding))
        self.versions: dict[str, int] = {}
        self.published: list[types.PublishDiagnosticsParams] = []
        self.news = asyncio.Event()

    def on_publish(self, params: types.PublishDiagnosticsParams) -> None:
        self.published.append(params)
        self.news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds that news may bring about."""

        async def wait() -> None:
            while not condition():
                self.news.clear()
                await self.news.wait()

        await asyncio.wait_for(wait(), TIMEOUT)

    def latest(self, path: Path | str) -> types.PublishDiagnosticsParams | None:
        return next((params for params in reversed(self.published) if params.uri == uri(path)), None)

    async def diagnostics(self, path: Path | str) -> Sequence[types.Diagnostic]:
        """Those that the server sends about the newest version of a document."""
        version = self.versions[uri(path)]
        await self.until(lambda: (found := self.latest(path)) is not None and found.version == version)
        latest = self.latest(path)
        assert latest is not None
        return latest.diagnostics

    async def lines(self, path: Path | str) -> list[tuple[str, int]]:
        """The codes and lines (from 0) of these diagnostics."""
        return [(str(found.code), found.range.start.line) for found in await self.diagnostics(path)]

    def open(self, path: Path | str, text: str, save: bool = True) -> None:
        if isinstance(path, Path) and save:
            path.write_text(text, encoding="utf-8", newline="")
        self.versions[uri(path)] = 1
        item = types.TextDocumentItem(uri(path), "python", 1, text)
        self.client.text_document_did_open(types.DidOpenTextDocumentParams(item))

    def edit(self, path: Path | str, *changes: types.TextDocumentContentChangeEvent) -> None:
        self.versions[uri(path)] += 1
        identifier = types.VersionedTextDocumentIdentifier(uri=uri(path), version=self.versions[uri(path)])
        self.client.text_document_did_change(types.DidChangeTextDocumentParams(identifier, list(changes)))

    def close(self, path: Path | str) -> None:
        self.client.text_document_did_close(types.DidCloseTextDocumentParams(document(path)))

    async def pull(self, path: Path | str, previous: str | None = None) -> types.DocumentDiagnosticReport:
        params = types.DocumentDiagnosticParams(document(path), previous_result_id=previous)
        return await asyncio.wait_for(self.client.text_document_diagnostic_async(params), TIMEOUT)

    async def actions(
        self, path: Path | str, where: types.Range, only: Sequence[str] | None = None, given: Sequence[Any] = ()
    ) -> list[types.CodeAction]:
        kinds = None if only is None else list(only)
        context = types.CodeActionContext(list(given), only=kinds)
        params = types.CodeActionParams(document(path), where, context)
        found = await asyncio.wait_for(self.client.text_document_code_action_async(params), TIMEOUT)
        return [action for action in found or [] if isinstance(action, types.CodeAction)]

    async def hover(self, path: Path | str, line: int, character: int) -> types.Hover | None:
        params = types.HoverParams(document(path), types.Position(line, character))
        return await asyncio.wait_for(self.client.text_document_hover_async(params), TIMEOUT)


@asynccontextmanager
async def session(
    capabilities: types.ClientCapabilities | None = None,
    folders: Sequence[Path] = (),
    options: Any = None,
    configuration: dict[str, dict[str, Any]] | None = None,
) -> AsyncIterator[Editor]:
    """A server that was started as an editor starts it, and is shut down as one does that."""
    client = LanguageClient(converter_factory=default_converter, configuration=configuration)
    published: list[Callable[[types.PublishDiagnosticsParams], None]] = []
    features = dict(DEFAULT_CLIENT_FEATURES)
    features[types.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS] = lambda params: published[0](params)
    features[types.CLIENT_REGISTER_CAPABILITY] = lambda params: None
    register_lsp_features(client, features)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    await client.start_io(sys.executable, "-m", "flake8_gradtrap", "server", env=environment)
    try:
        params = types.InitializeParams(
            capabilities or plain(),
            workspace_folders=[types.WorkspaceFolder(folder.as_uri(), folder.name) for folder in folders],
            initialization_options=options,
        )
        client.capabilities = params.capabilities
        result = await asyncio.wait_for(client.initialize_async(params), TIMEOUT)
        editor = Editor(client, result)
        published.append(editor.on_publish)
        client.initialized(types.InitializedParams())
        yield editor
        await asyncio.wait_for(client.shutdown_session(), TIMEOUT)
        assert client._server is not None
        assert client._server.returncode == 0
    finally:
        if client._server is not None and client._server.returncode is None:
            client._server.kill()
        await client.stop()


# -- programs ---------------------------------------------------------------------------------------------------------

TRAP = """\
import torch


def train(model, loader):
    params = filter(lambda p: p.requires_grad, model.parameters())
    optimizer = torch.optim.AdamW(params, lr=1e-4)
    for batch in loader:
        optimizer.zero_grad()
        model(batch).mean().backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
"""
FIXED = TRAP.replace("filter(lambda p: p.requires_grad, model.parameters())", "list(model.parameters())")
TWO = (
    TRAP
    + """

def again(model, loader):
    total = 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for batch in loader:
        optimizer.zero_grad()
        loss = model(batch).mean()
        loss.backward()
        optimizer.step()
        total += loss
    return total
"""
)
CLIP = at(9, 8, 51)
HELPER = """\
import torch


def trainable(model):
    return (p for p in model.parameters() if p.requires_grad)
"""
USER = """\
import torch
from helper import trainable


def train(model, loader, optimizer):
    params = trainable(model)
    for batch in loader:
        optimizer.zero_grad()
        model(batch).sum().backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
"""


def texts(action: types.CodeAction, path: Path | str) -> list[tuple[types.Range, str]]:
    assert action.edit is not None
    (change,) = action.edit.document_changes or []
    assert isinstance(change, types.TextDocumentEdit)
    assert change.text_document.uri == uri(path)
    return [(edit.range, edit.new_text) for edit in change.edits if isinstance(edit, types.TextEdit)]


def pulling(**workspace: object) -> types.ClientCapabilities:
    capabilities = plain(
        diagnostic=types.DiagnosticClientCapabilities(related_information=True, dynamic_registration=True)
    )
    assert capabilities.workspace is not None
    capabilities.workspace.diagnostics = types.DiagnosticWorkspaceClientCapabilities(refresh_support=True)
    for name, value in workspace.items():
        setattr(capabilities.workspace, name, value)
    return capabilities
