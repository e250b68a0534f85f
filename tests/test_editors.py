"""Editors as they are: Neovim with the language server, and python-lsp-server, which runs flake8."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from conftest import ROOT
from lsprotocol import types
from pygls.lsp.client import LanguageClient
from pygls.protocol import default_converter

from flake8_gradtrap import __version__
from flake8_gradtrap.server.settings import _OF_CLIENT, KEYS, EditorSettings

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
FIXED = TRAP.replace("filter(", "list(filter(").replace("parameters())\n", "parameters()))\n")


def converter() -> Any:
    """The usual one, which cannot read the selector of notebooks that python-lsp-server sends."""
    usual = default_converter()
    usual.register_structure_hook(attrs.fields(types.NotebookDocumentFilterWithCells).notebook.type, lambda it, _: it)
    return usual


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path} | more


@pytest.mark.skipif(shutil.which("nvim") is None, reason="there is no Neovim")
def test_neovim(tmp_path: Path) -> None:
    file, seen = tmp_path / "train.py", tmp_path / "seen.json"
    file.write_text(TRAP)
    command = "\t".join([sys.executable, "-m", "flake8_gradtrap", "server"])
    done = subprocess.run(
        ["nvim", "--headless", "--clean", "-n", "-S", str(ROOT / "tests" / "neovim.lua"), str(file)],
        env=environment(GRADTRAP_COMMAND=command, GRADTRAP_SEEN=str(seen), XDG_STATE_HOME=str(tmp_path / "state")),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    saw = json.loads(seen.read_text())
    assert "error" not in saw, saw
    warning = 2
    assert saw["opened"] == [["GTR101", 9, 8, 51, warning, "gradtrap"]]
    assert saw["edited"] == [["GTR101", 11, 8, 51, warning, "gradtrap"]]
    assert saw["hover"] == "# GTR101 one-shot-iterator-reused"
    assert saw["titles"] == ["GTR101: Make it a list where it is created", "Ignore GTR101 on this line (# noqa)"]
    assert saw["fixed"] == ["# 𝛁", "s = '𝛁'", *FIXED.splitlines()]
    assert saw["saved"] == FIXED.splitlines()
    assert saw["stopped"]


def test_python_lsp_server(tmp_path: Path) -> None:
    """It runs flake8, which finds the plugin, and shows what it finds."""
    pytest.importorskip("pylsp")
    installed = tmp_path / "flake8_gradtrap-0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: flake8-gradtrap\nVersion: 0\n")
    (installed / "entry_points.txt").write_text("[flake8.extension]\nGTR = flake8_gradtrap.plugin:Plugin\n")
    file = tmp_path / "train.py"
    file.write_text(TRAP)
    settings = {"pylsp": {"configurationSources": ["flake8"], "plugins": {"flake8": {"enabled": True}}}}
    settings["pylsp"]["plugins"] |= {name: {"enabled": False} for name in ("pycodestyle", "pyflakes", "mccabe")}
    settings["pylsp"]["plugins"]["flake8"]["executable"] = str(Path(sys.executable).with_name("flake8"))

    async def main() -> list[types.Diagnostic]:
        client = LanguageClient("test", "1", converter_factory=converter)
        found: asyncio.Future[list[types.Diagnostic]] = asyncio.get_running_loop().create_future()

        @client.feature(types.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)
        def published(params: types.PublishDiagnosticsParams) -> None:
            if params.diagnostics and not found.done():
                found.set_result(list(params.diagnostics))

        path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
        await client.start_io(sys.executable, "-m", "pylsp", env=environment(PYTHONPATH=path))
        try:
            params = types.InitializeParams(types.ClientCapabilities(), root_uri=tmp_path.as_uri())
            await asyncio.wait_for(client.initialize_async(params), 120)
            client.initialized(types.InitializedParams())
            client.workspace_did_change_configuration(types.DidChangeConfigurationParams(settings))
            item = types.TextDocumentItem(file.as_uri(), "python", 1, TRAP)
            client.text_document_did_open(types.DidOpenTextDocumentParams(item))
            return await asyncio.wait_for(found, 120)
        finally:
            if client._server is not None:
                client._server.kill()
            await client.stop()

    codes = {str(one.code): one for one in asyncio.run(main())}
    assert "GTR101" in codes
    assert codes["GTR101"].range.start == types.Position(9, 8)


def test_the_same_settings_everywhere() -> None:
    """In the server, the extension for Visual Studio Code, and the documentation."""
    manifest = json.loads((ROOT / "docs" / "editors" / "vscode" / "package.json").read_text())
    properties = manifest["contributes"]["configuration"]["properties"]
    of_server = [name.removeprefix("gradtrap.") for name in properties]
    assert [name for name in of_server if name in KEYS] == list(KEYS)
    assert {name.partition(".")[0] for name in of_server} - set(KEYS) <= _OF_CLIENT
    page = (ROOT / "docs" / "editors.md").read_text()
    assert all(f"`{key}`" in page for key in KEYS)
    assert manifest["version"] == __version__
    defaults = {key: properties[f"gradtrap.{key}"]["default"] for key in KEYS}
    assert EditorSettings.read(defaults) == (EditorSettings(), [])
