"""Runs a program whose files are compiled with probes: a real `__main__`, and an import hook for the rest."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from flake8_gradtrap.runtime.confirm.rewriting import MODES, Rewriter, Spot, Wanted, relevant_names


class Compiler:
    """Compiles the files of a project with probes; a file that cannot be rewritten is compiled as it is."""

    def __init__(self, wanted: Mapping[str, Wanted]) -> None:
        self.wanted = wanted
        self.spots: list[Spot] = []
        self.notes: list[str] = []
        trees = []
        for file in wanted:
            try:
                trees.append(ast.parse(Path(file).read_bytes()))
            except (OSError, SyntaxError, ValueError, RecursionError):
                continue
        self.relevant = relevant_names(trees)
        found = [codes for one in wanted.values() for rows in (one.reported, one.traced) for codes in rows.values()]
        self.modes = any(not codes.isdisjoint(MODES) for codes in found)

    def compile(self, data: bytes, file: str) -> CodeType:
        tree = ast.parse(data, file)
        kept = len(self.spots)
        try:
            rewritten = Rewriter(file, tree, self.wanted[file], self.relevant, self.spots, self.modes).rewrite()
            code: CodeType = compile(rewritten, file, "exec", dont_inherit=True)
        except Exception as error:  # of ours: the program is not to blame, and runs without probes in this file
            del self.spots[kept:]
            self.notes.append(f"{file}: no probes ({type(error).__name__}: {error}); please report it")
            code = compile(data, file, "exec", dont_inherit=True)
        return code


class ProbingLoader(SourceFileLoader):
    """Compiles what it loads with probes. Byte code is neither read nor written."""

    def __init__(self, name: str, path: str, compiler: Compiler, file: str) -> None:
        super().__init__(name, path)
        self._compiler = compiler
        self._file = file

    def get_code(self, fullname: str) -> CodeType | None:
        return self._compiler.compile(self.get_data(self.path), self._file)


class Finder:
    """Finds the modules of the project, as Python would, and lets them be compiled with probes."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None or type(spec.loader) is not SourceFileLoader:
            return None
        file = os.path.realpath(spec.origin)
        if file not in self._compiler.wanted:
            return None
        spec.loader = ProbingLoader(fullname, spec.origin, self._compiler, file)
        return spec


def run_program(compiler: Compiler, file: str, module: str, arguments: Sequence[str], folder: str) -> None:
    """Run a script (or `module`, as `python -m` does) as `__main__`."""
    sys.meta_path.insert(0, Finder(compiler))
    sys.argv = [file, *arguments]
    spec = None
    if module:
        sys.path.insert(0, folder)
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{module}.__main__")
    else:
        sys.path.insert(0, os.path.dirname(file))
    main = ModuleType("__main__")
    main.__dict__.update(
        __file__=file,
        __cached__=None,
        __spec__=spec,
        __loader__=spec.loader if spec is not None else SourceFileLoader("__main__", file),
        __package__=(spec.parent if spec is not None else None),
    )
    sys.modules["__main__"] = main
    code = compiler.compile(Path(file).read_bytes(), file)
    main.__dict__["__builtins__"] = __builtins__
    exec(code, main.__dict__)
