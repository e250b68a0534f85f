"""The language server: settings, notebooks, and editors as they are; asked by a real client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from editor import CLIP, HELPER, TRAP, TWO, USER, Editor, at, insertion, plain, pulling, session, texts, uri
from lsprotocol import types
from pytest_lsp import client_capabilities

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("error::pytest_lsp.LspSpecificationWarning"),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared() -> AsyncIterator[Editor]:
    """One session for all tests that only open a file of their own."""
    async with session() as editor:
        yield editor


# -- settings ---------------------------------------------------------------------------------------------------------


def asking() -> types.ClientCapabilities:
    """An editor that can be asked for its settings, and tells which files changed."""
    capabilities = plain()
    assert capabilities.workspace is not None
    capabilities.workspace.configuration = True
    capabilities.workspace.did_change_configuration = types.DidChangeConfigurationClientCapabilities(True)
    capabilities.workspace.did_change_watched_files = types.DidChangeWatchedFilesClientCapabilities(True)
    return capabilities


def tell_changed(editor: Editor, path: Path) -> None:
    event = types.FileEvent(uri(path), types.FileChangeType.Changed)
    editor.client.workspace_did_change_watched_files(types.DidChangeWatchedFilesParams([event]))


async def eventually(editor: Editor, path: Path, lines: list[tuple[str, int]]) -> None:
    """Wait until the server says this about a document."""

    def told() -> bool:
        latest = editor.latest(path)
        return latest is not None and [(one.code, one.range.start.line) for one in latest.diagnostics] == lines

    await editor.until(told)


async def test_settings_come_with_the_first_message(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    for options in ({"ignore": ["GTR1"]}, {"settings": {"ignore": ["GTR1"]}}, {"gradtrap": {"ignore": ["GTR1"]}}):
        async with session(options=options, folders=[tmp_path]) as editor:
            editor.open(path, TWO)
            assert await editor.lines(path) == [("GTR401", 21)]
            assert editor.client.messages == []


async def test_settings_of_each_folder_and_their_reload(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    configuration = {"": {}, uri(two): {"gradtrap": {"select": ["GTR4"], "exclude": ["left_out"]}}}
    async with session(asking(), [one, two], configuration=configuration) as editor:
        for folder in (one, two):
            editor.open(folder / "train.py", TWO)
        await eventually(editor, one / "train.py", [("GTR101", 9), ("GTR401", 21)])
        await eventually(editor, two / "train.py", [("GTR401", 21)])
        (two / "left_out").mkdir()
        editor.open(two / "left_out" / "train.py", TWO)
        assert await editor.lines(two / "left_out" / "train.py") == []

        editor.client.set_configuration({"ignore": ["GTR4"]}, section="gradtrap")
        editor.client.workspace_did_change_configuration(types.DidChangeConfigurationParams(None))
        await eventually(editor, one / "train.py", [("GTR101", 9)])
        # Another folder joins, with the settings that hold for all.
        three = tmp_path / "three"
        three.mkdir()
        added = types.WorkspaceFoldersChangeEvent([types.WorkspaceFolder(uri(three), "three")], [])
        editor.client.workspace_did_change_workspace_folders(types.DidChangeWorkspaceFoldersParams(added))
        editor.open(three / "train.py", TWO)
        await eventually(editor, three / "train.py", [("GTR101", 9)])


async def test_settings_are_told_to_a_server_that_cannot_ask(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    async with session(folders=[tmp_path]) as editor:
        editor.open(path, TRAP)
        assert await editor.lines(path) == [("GTR101", 9)]
        settings = {"gradtrap": {"ignore": ["GTR101"]}}
        editor.client.workspace_did_change_configuration(types.DidChangeConfigurationParams(settings))
        await eventually(editor, path, [])


async def test_wrong_settings_are_told(tmp_path: Path) -> None:
    options = {"slect": ["GTR1"], "ignore": ["GTR999"], "preview": 1, "config": 3, "trace": {"server": "off"}}
    async with session(options=options, folders=[tmp_path]) as editor:
        editor.open(tmp_path / "train.py", TRAP)
        assert await editor.lines(tmp_path / "train.py") == [("GTR101", 9)]
        said = "\n".join(message.message for message in editor.client.messages)
    assert "unknown setting 'slect'; did you mean 'select'?" in said
    assert "'ignore': unknown rule code 'GTR999'" in said
    assert "'preview' must be true or false" in said
    assert "'config' must be the path of a file" in said
    assert "trace" not in said


async def test_pyproject_counts_and_is_read_again(tmp_path: Path) -> None:
    path, pyproject = tmp_path / "train.py", tmp_path / "pyproject.toml"
    pyproject.write_text("[tool.gradtrap]\nignore = ['GTR101']\nexclude = ['venv2']\n")
    async with session(asking(), [tmp_path]) as editor:
        editor.open(path, TRAP)
        assert await editor.lines(path) == []
        pyproject.write_text("[tool.gradtrap]\n")
        tell_changed(editor, pyproject)
        await eventually(editor, path, [("GTR101", 9)])

        # What is wrong is shown at its place, and the settings from before hold.
        pyproject.write_text("[tool.gradtrap]\nslect = ['GTR1']\n")
        tell_changed(editor, pyproject)
        await editor.until(lambda: editor.latest(pyproject) is not None)
        (wrong,) = editor.latest(pyproject).diagnostics  # type: ignore[union-attr]
        assert wrong.message == "unknown key 'slect' in [tool.gradtrap]; did you mean 'select'?"
        assert wrong.range == at(1, 0, 16)
        assert any(f"{pyproject}:2: unknown key" in message.message for message in editor.client.messages)
        editor.edit(path, insertion(0, 0, "#\n"))
        assert await editor.lines(path) == [("GTR101", 10)]
        assert len(editor.client.messages) == 1

        pyproject.write_text("[tool.gradtrap]\n")
        tell_changed(editor, pyproject)
        await editor.until(lambda: not editor.latest(pyproject).diagnostics)  # type: ignore[union-attr]

        # Without a message too, the next check sees the file as it is.
        pyproject.write_text("[tool.gradtrap]\nexclude = ['train.py']\n")
        editor.edit(path, insertion(0, 0, "#\n"))
        assert await editor.lines(path) == []


async def test_a_file_that_changes_on_disk_is_seen(tmp_path: Path) -> None:
    user, helper = tmp_path / "user.py", tmp_path / "helper.py"
    async with session(asking(), [tmp_path]) as editor:
        editor.open(user, USER)
        assert await editor.lines(user) == []
        helper.write_text(HELPER)
        tell_changed(editor, helper)
        await eventually(editor, user, [("GTR101", 9)])


async def test_an_editor_that_asks_is_told_to_ask_again(tmp_path: Path) -> None:
    pyproject = tmp_path / "pyproject.toml"
    watched = types.DidChangeWatchedFilesClientCapabilities(True)
    async with session(pulling(did_change_watched_files=watched), [tmp_path]) as editor:
        editor.open(tmp_path / "train.py", TRAP)
        await editor.pull(tmp_path / "train.py")
        before = editor.client.diagnostic_refresh_count
        pyproject.write_text("[tool.gradtrap]\nignore = ['GTR101']\n")
        tell_changed(editor, pyproject)
        report = await editor.pull(tmp_path / "train.py")
        assert isinstance(report, types.RelatedFullDocumentDiagnosticReport)
        assert report.items == ()
        assert editor.client.diagnostic_refresh_count == before + 1


# -- notebooks --------------------------------------------------------------------------------------------------------

CELLS = [
    "%matplotlib inline\nimport torch\n",
    "# Text",
    "params = filter(lambda p: p.requires_grad, model.parameters())\noptimizer = torch.optim.AdamW(params, lr=1e-4)",
    "for batch in loader:\n    optimizer.zero_grad()\n    model(batch).mean().backward()\n"
    "    torch.nn.utils.clip_grad_norm_(params, 1.0)\n    optimizer.step()\n",
]


class Notebook:
    def __init__(self, editor: Editor, path: Path) -> None:
        self.editor = editor
        self.path = path
        self.version = 1
        cells = [self.cell(number, number != 1) for number in range(len(CELLS))]
        notebook = types.NotebookDocument(uri(path), "jupyter-notebook", 1, cells)
        items = [self.item(number, text) for number, text in enumerate(CELLS) if number != 1]
        editor.client.notebook_document_did_open(types.DidOpenNotebookDocumentParams(notebook, items))

    def uri(self, number: int) -> str:
        return f"vscode-notebook-cell:{self.path}#{number}"

    def cell(self, number: int, code: bool = True) -> types.NotebookCell:
        kind = types.NotebookCellKind.Code if code else types.NotebookCellKind.Markup
        return types.NotebookCell(kind, self.uri(number))

    def item(self, number: int, text: str) -> types.TextDocumentItem:
        self.editor.versions[self.uri(number)] = 1
        return types.TextDocumentItem(self.uri(number), "python", 1, text)

    def change(self, cells: types.NotebookDocumentCellChanges) -> None:
        self.version += 1
        identifier = types.VersionedNotebookDocumentIdentifier(version=self.version, uri=uri(self.path))
        change = types.NotebookDocumentChangeEvent(cells=cells)
        self.editor.client.notebook_document_did_change(types.DidChangeNotebookDocumentParams(identifier, change))

    def edit(self, number: int, *changes: types.TextDocumentContentChangeEvent) -> None:
        self.editor.versions[self.uri(number)] += 1
        version = self.editor.versions[self.uri(number)]
        identifier = types.VersionedTextDocumentIdentifier(version=version, uri=self.uri(number))
        self.change(
            types.NotebookDocumentCellChanges(
                text_content=[types.NotebookDocumentCellContentChanges(identifier, changes)]
            )
        )


async def test_the_cells_of_a_notebook_are_one_program(shared: Editor, tmp_path: Path) -> None:
    notebook = Notebook(shared, tmp_path / "train.ipynb")
    clip = notebook.uri(3)
    (found,) = await shared.diagnostics(clip)
    assert (found.code, found.range) == ("GTR101", at(3, 4, 47))
    places = [(step.location.uri, step.location.range.start.line) for step in found.related_information or []]
    assert places == [(notebook.uri(2), 0), (notebook.uri(2), 1), (clip, 3)]
    assert await shared.diagnostics(notebook.uri(0)) == ()

    hover = await shared.hover(clip, 3, 10)
    assert hover is not None
    fix, ignore = await shared.actions(clip, found.range, ["quickfix"])
    assert texts(fix, notebook.uri(2)) == [(at(0, 9), "list("), (at(0, 62), ")")]
    assert texts(ignore, clip) == [(at(3, 47), "  # noqa: GTR101")]
    assert await shared.actions(clip, at(0, 0), ["source.fixAll"]) == []
    (everything,) = await shared.actions(clip, at(0, 0), ["notebook.source.fixAll"])
    assert everything.kind == "notebook.source.fixAll.gradtrap"
    assert [where.start.line for where, _ in texts(everything, notebook.uri(2))] == [0]

    notebook.edit(3, insertion(0, 0, "# 𝛁\n"))
    assert await shared.lines(clip) == [("GTR101", 4)]
    # A cell in between makes a list of it.
    array = types.NotebookCellArrayChange(3, 0, [notebook.cell(9)])
    structure = types.NotebookDocumentCellChangeStructure(
        array, [notebook.item(9, "params = list(model.parameters())\n")]
    )
    before = len(shared.published)
    notebook.change(types.NotebookDocumentCellChanges(structure=structure))
    await shared.until(lambda: any(p.uri == clip and not p.diagnostics for p in shared.published[before:]))
    # And goes again.
    array = types.NotebookCellArrayChange(3, 1, [])
    gone = types.NotebookDocumentCellChangeStructure(array, did_close=[types.TextDocumentIdentifier(notebook.uri(9))])
    notebook.change(types.NotebookDocumentCellChanges(structure=gone))
    await eventually(shared, clip, [("GTR101", 4)])  # type: ignore[arg-type]

    cells = [types.TextDocumentIdentifier(notebook.uri(number)) for number in (0, 2, 3)]
    closed = types.DidCloseNotebookDocumentParams(
        types.NotebookDocumentIdentifier(uri(tmp_path / "train.ipynb")), cells
    )
    shared.client.notebook_document_did_close(closed)
    await eventually(shared, clip, [])  # type: ignore[arg-type]


async def test_diagnostics_of_cells_are_sent_also_to_an_editor_that_asks(tmp_path: Path) -> None:
    """Visual Studio Code asks for those of documents only."""
    async with session(pulling()) as editor:
        notebook = Notebook(editor, tmp_path / "train.ipynb")
        assert await editor.lines(notebook.uri(3)) == [("GTR101", 3)]
        report = await editor.pull(notebook.uri(3))
        assert isinstance(report, types.RelatedFullDocumentDiagnosticReport)
        assert report.items == ()


async def test_a_cell_that_cannot_be_parsed_is_told_in_it(shared: Editor, tmp_path: Path) -> None:
    notebook = Notebook(shared, tmp_path / "broken.ipynb")
    await shared.diagnostics(notebook.uri(3))
    notebook.edit(2, insertion(1, 0, "def ("))
    assert await shared.lines(notebook.uri(2)) == [("GTR000", 1)]


# -- editors as they are ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["visual-studio-code", "neovim@v0.7", "neovim", "emacs"])
async def test_with_the_capabilities_of_real_editors(spec: str, tmp_path: Path) -> None:
    """pytest-lsp turns whatever these editors do not understand into an error."""
    path = tmp_path / "train.py"
    capabilities = client_capabilities(spec)
    async with session(capabilities, [tmp_path]) as editor:
        editor.open(path, TRAP)
        text_document = capabilities.text_document
        assert text_document is not None
        if text_document.diagnostic is not None:
            report = await editor.pull(path)
            assert isinstance(report, types.RelatedFullDocumentDiagnosticReport)
            (found,) = report.items
        else:
            (found,) = await editor.diagnostics(path)
        assert found.range == CLIP
        assert len(await editor.actions(path, CLIP, given=[found])) >= 2
        assert await editor.hover(path, 9, 20) is not None


async def test_what_the_server_loads(tmp_path: Path) -> None:
    """Neither torch nor what it comes with, whatever is open."""
    path = tmp_path / "train.py"
    async with session() as editor:
        editor.open(path, TRAP)
        await editor.diagnostics(path)
        server = editor.client._server
        assert server is not None
        maps = Path(f"/proc/{server.pid}/maps")
        if not maps.exists():
            pytest.skip("there is no /proc")
        loaded = maps.read_text()
    assert "libpython" in loaded or "python" in loaded
    assert "torch" not in loaded
    assert "numpy" not in loaded
