"""What the editor has open: documents and notebooks, their texts after every edit, and what is checked as one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from lsprotocol import types
from pygls.uris import from_fs_path, to_fs_path

from flake8_gradtrap.finding import Edit, Finding, Span
from flake8_gradtrap.notebook import Cell, Cells
from flake8_gradtrap.server.text import Text


@dataclass(frozen=True)
class Document:
    """An open document at one of its versions; a cell of a notebook is one too."""

    uri: str
    version: int
    text: Text
    language: str = "python"

    @property
    def path(self) -> str:
        """Where it lies; its address, if it is no file."""
        return path_of(self.uri)


@dataclass
class Notebook:
    """An open notebook: its cells in their order, by the addresses of their documents."""

    uri: str
    version: int
    cells: list[types.NotebookCell] = field(default_factory=list)


def path_of(uri: str) -> str:
    path = to_fs_path(uri)
    return uri if path is None else os.path.normpath(path)


class Program:
    """What is checked as one, at one point in time: a document, or the code of a notebook, whose cells are documents.

    `uri`: of the document or the notebook. `text`: what the engine reads.
    """

    def __init__(self, uri: str, documents: Mapping[int, Document], notebook: bool) -> None:
        """`documents`: by number of their cell, or the one document at 0."""
        self.uri = uri
        self.path = path_of(uri)
        self._documents = documents
        self._cells = None
        if notebook:
            self._cells = Cells(Cell(number, document.text.content) for number, document in documents.items())
            self.text = self._cells.text
        else:
            self.text = documents[0].text.source

    def __iter__(self) -> Iterator[Document]:
        return iter(self._documents.values())

    @property
    def is_notebook(self) -> bool:
        return self._cells is not None

    @cached_property
    def lines(self) -> Text:
        """The text of the program, for places in it."""
        return Text(self.text)

    def located(self, findings: Iterable[Finding]) -> list[Finding]:
        """The findings with places in cells, if there are cells."""
        return [finding if self._cells is None else self._cells.located(finding) for finding in findings]

    def document(self, cell: int | None) -> Document | None:
        return self._documents.get(cell or 0)

    def in_cell(self, edit: Edit) -> Edit:
        """An edit within a line of the program's text as an edit of the cell in which that line lies."""
        if self._cells is None:
            return edit
        cell, row = self._cells.place(edit.span.row)
        return replace(edit, cell=cell, span=Span(row, edit.span.column, row, edit.span.end_column))

    def changes(self, text: str) -> list[tuple[Document, list[types.TextEdit]]]:
        """The edits of each document that make the program's text another one."""
        sources = {0: text} if self._cells is None else self._cells.sources(text)
        found = []
        for number, source in sources.items():
            document = self._documents[number]
            if edits := document.text.edits_to(source):
                found.append((document, edits))
        return found


class Documents:
    """Everything that is open."""

    def __init__(self, encoding: str = "utf-16") -> None:
        self.encoding = encoding
        self._documents: dict[str, Document] = {}
        self._notebooks: dict[str, Notebook] = {}
        self._notebook_of: dict[str, str] = {}
        """By the address of a cell, that of its notebook."""

    def __iter__(self) -> Iterator[str]:
        """The addresses of all programs."""
        yield from (uri for uri in self._documents if uri not in self._notebook_of)
        yield from self._notebooks

    def program_of(self, uri: str) -> str:
        """The address of the program to which a document belongs."""
        return self._notebook_of.get(uri, uri)

    def is_notebook(self, program: str) -> bool:
        return program in self._notebooks

    def get(self, uri: str) -> Document | None:
        return self._documents.get(uri)

    def at(self, path: str) -> Document | None:
        """The open document of a file."""
        return next((document for document in self._documents.values() if document.path == path), None)

    def program(self, uri: str) -> Program | None:
        """The program with this address as it is now; None if it is not open, or holds no Python."""
        if (notebook := self._notebooks.get(uri)) is not None:
            numbered = ((number, self._documents.get(cell.document)) for number, cell in enumerate(notebook.cells, 1))
            cells = {
                number: document
                for number, document in numbered
                if document is not None and document.language == "python"
            }
            return Program(uri, cells, notebook=True)
        document = self._documents.get(uri)
        if document is None or uri in self._notebook_of or uri.endswith(".pyi"):
            return None
        return Program(uri, {0: document}, notebook=False)

    # -- what the client tells ----------------------------------------------------------------------------------------

    def open(self, item: types.TextDocumentItem) -> None:
        self._documents[item.uri] = Document(item.uri, item.version, Text(item.text, self.encoding), item.language_id)

    def change(
        self,
        identifier: types.VersionedTextDocumentIdentifier,
        changes: Iterable[types.TextDocumentContentChangeEvent],
    ) -> None:
        document = self._documents.get(identifier.uri)
        if document is None:
            return
        text = document.text
        for change in changes:
            text = text.changed(change)
        self._documents[identifier.uri] = replace(document, version=identifier.version, text=text)

    def close(self, uri: str) -> None:
        self._documents.pop(uri, None)
        self._notebook_of.pop(uri, None)

    def open_notebook(self, notebook: types.NotebookDocument, cells: Iterable[types.TextDocumentItem]) -> None:
        self._notebooks[notebook.uri] = Notebook(notebook.uri, notebook.version, list(notebook.cells))
        for item in cells:
            self._open_cell(item, notebook.uri)

    def change_notebook(
        self, identifier: types.VersionedNotebookDocumentIdentifier, change: types.NotebookDocumentChangeEvent
    ) -> list[str]:
        """Take over a change; the addresses of the cells that are no more."""
        notebook = self._notebooks.get(identifier.uri)
        if notebook is None:
            return []
        notebook.version = identifier.version
        gone: list[str] = []
        cells = change.cells
        if cells is None:
            return []
        if cells.structure is not None:
            array = cells.structure.array
            notebook.cells[array.start : array.start + array.delete_count] = array.cells or []
            for item in cells.structure.did_open or []:
                self._open_cell(item, notebook.uri)
            for closed in cells.structure.did_close or []:
                self.close(closed.uri)
                gone.append(closed.uri)
        for text in cells.text_content or []:
            self.change(text.document, text.changes)
        return gone

    def close_notebook(self, uri: str, cells: Iterable[str]) -> None:
        self._notebooks.pop(uri, None)
        for cell in cells:
            self.close(cell)

    def _open_cell(self, item: types.TextDocumentItem, notebook: str) -> None:
        self.open(item)
        self._notebook_of[item.uri] = notebook


def uri_of(path: str) -> str:
    return from_fs_path(path) or path
