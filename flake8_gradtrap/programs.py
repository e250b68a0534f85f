"""Files as programs: the text that is analysed, and which row of it is which of the file."""

from __future__ import annotations

from flake8_gradtrap.kinds import is_notebook
from flake8_gradtrap.notebook import Notebook
from flake8_gradtrap.report import Sources
from flake8_gradtrap.source import SourceError, decode


class Programs:
    """Programs that are read when they are asked for."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._notebooks: dict[str, Notebook | None] = {}

    def text(self, path: str) -> str:
        """The program in a file: of a notebook its cells as one text; "" if it cannot be read."""
        if is_notebook(path):
            notebook = self.notebook(path)
            return notebook.cells.text if notebook is not None else ""
        try:
            return decode(self._sources.data(path) or b"")[0]
        except SourceError:
            return ""

    def row(self, path: str, row: int, cell: int | None = None) -> int:
        """The row in the program of a row in a file or a cell."""
        notebook = self.notebook(path) if cell is not None else None
        found = notebook.cells.row(cell, row) if notebook is not None and cell is not None else None
        return found or row

    def file_row(self, path: str, row: int, cell: int | None = None) -> int | None:
        """The row in the file of a row in a cell; None if the file is no notebook."""
        notebook = self.notebook(path) if cell is not None else None
        return notebook.file_row(cell, row) if notebook is not None and cell is not None else None

    def notebook(self, path: str) -> Notebook | None:
        """A file as a notebook; None if it is none, or cannot be read."""
        if path not in self._notebooks:
            data = self._sources.data(path) if is_notebook(path) else None
            try:
                self._notebooks[path] = None if data is None else Notebook(data)
            except SourceError:
                self._notebooks[path] = None
        return self._notebooks[path]
