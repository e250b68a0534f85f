"""The engine: from the text of a file to its findings. Adapters (plugin, command line, server) call `check_source`.

Importing this module imports neither the rules nor libcst nor the abstract run: files that mention no training code
never need them.
"""

from __future__ import annotations

import ast
import gc
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from flake8_gradtrap.config import NOT_ANALYSED, Settings
from flake8_gradtrap.finding import Edit, Finding, Fix, Span, Step
from flake8_gradtrap.gate import is_about_training
from flake8_gradtrap.noqa import Noqa
from flake8_gradtrap.notebook import text_of
from flake8_gradtrap.own import using
from flake8_gradtrap.result import Result, Statistics
from flake8_gradtrap.source import SourceError, SourceFile
from flake8_gradtrap.traits import words_of

if TYPE_CHECKING:
    from flake8_gradtrap.events import Site
    from flake8_gradtrap.interp.machine import Machine
    from flake8_gradtrap.interp.pathwatch import Report
    from flake8_gradtrap.rule import Remedy, Rule


class Surroundings:
    """What an editor adds to a check: texts that are not saved yet, and a way to end it early.

    `unsaved`: texts that count instead of files of the project, by absolute path.
    """

    def __init__(self, unsaved: Mapping[str, str] = MappingProxyType({})) -> None:
        self.unsaved = unsaved
        self.stopped = False
        self._machine: Machine | None = None

    def stop(self) -> None:
        """End the check, from another thread: nobody waits for what it says, and it means nothing."""
        self.stopped = True
        if self._machine is not None:
            self._machine.give_up()

    def watch(self, machine: Machine) -> None:
        self._machine = machine
        if self.stopped:
            machine.give_up()


def check_source(
    data: bytes | str,
    path: str,
    settings: Settings,
    tree: ast.Module | None = None,
    surroundings: Surroundings | None = None,
) -> Result:
    """Check one file.

    `data`: its bytes or its text; of a notebook its bytes, or its cells as one text. `path`: where it lies (imports of
    its project are resolved from there; nothing else is read if there is no such place). `tree`: its syntax tree, if
    the caller has it. `surroundings`: what an editor adds. Bad input never raises: what cannot be analysed is a GTR000
    finding.
    """
    start = time.process_time()
    text = ""
    try:
        text = text_of(data, path) if isinstance(data, bytes) else data.removeprefix("\ufeff")
        with _no_collector(), using(settings.apis):
            result = _analyse(SourceFile(path, text, tree), settings, surroundings or Surroundings())
    except SourceError as error:
        text = data if isinstance(data, str) else data.decode("utf-8", "replace")
        result = Result((_not_analysed(path, error.message, error.row, error.column),))
    except RecursionError:
        result = Result((_not_analysed(path, "the file is nested too deeply to be analysed"),), settled=False)
    except MemoryError:
        result = Result((_not_analysed(path, "there is too little memory to analyse the file"),), settled=False)
    except Exception as error:  # around the abstract run, not in it: there the findings so far stand
        result = Result((_internal(path, error),), settled=False)
    findings = [finding for finding in result.findings if settings.reports(finding)]
    if settings.noqa and findings:
        noqa = Noqa(text)
        findings = [finding for finding in findings if not noqa.hides(finding.code, finding.span.row)]
    findings.sort(key=Finding.sort_key)
    statistics = replace(result.statistics, seconds=time.process_time() - start)
    return replace(result, findings=tuple(findings), statistics=statistics)


@contextmanager
def _no_collector() -> Iterator[None]:
    """Leave the garbage of a file to the end of the file: there is little before, and a third of the time went to
    search for it.

    Afterwards the collector is behind, and so goes over what the file left once, as soon as something new is made.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _not_analysed(path: str, why: str, row: int = 1, column: int = 1, trace: tuple[Step, ...] = ()) -> Finding:
    return Finding(
        NOT_ANALYSED,
        "not-analysed",
        f"not analysed: {why}",
        path,
        Span(row, column, row, column + 1),
        trace,
        severity="error",
    )


@cache
def _trigger(codes: frozenset[str]) -> tuple[tuple[type[Rule], ...], frozenset[str], re.Pattern[str] | None]:
    """The rules with these codes, the words that they wait for, and a pattern that finds any of them in a text."""
    from flake8_gradtrap.rule import all_rules

    rules = tuple(rule for code, rule in all_rules().items() if code in codes and rule.handlers())
    words = frozenset(word for rule in rules for word in rule.words)
    spelt = sorted(frozenset[str]().union(*map(words_of, words)))
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, spelt)) + r")\b") if words else None
    return rules, words, pattern


def _analyse(source: SourceFile, settings: Settings, surroundings: Surroundings) -> Result:
    """The gates, each cheaper than the next: text, table of contents, abstract run."""
    tree = source.tree  # a syntax error is told whatever the file is about
    if not tree.body or not is_about_training(source.text, settings.apis):
        return Result(())
    codes = settings.codes_for(source.path)
    own = settings.apis.mentioned

    def mentions_any(pattern: re.Pattern[str] | None) -> bool:
        if pattern is None:
            return False
        return bool(pattern.search(source.text) or (own and own.search(source.text)))

    rules, words, pattern = _trigger(codes)
    if not mentions_any(pattern):
        return Result(())
    from flake8_gradtrap.interp.machine import Machine
    from flake8_gradtrap.interp.project import Module, Project

    try:
        exists = Path(source.path).is_file()
    except (OSError, ValueError):
        exists = False
    project = Project(exists or source.path in surroundings.unsaved, surroundings.unsaved)
    module = Module(source, project)
    if module.of_test_suite:  # what is found there is a preview: only rules whose previews are shown need to run
        rules, words, pattern = _trigger(codes & settings.codes.preview)
        if not mentions_any(pattern):
            return Result(())
    machine = Machine(module, rules, words)
    surroundings.watch(machine)
    failure: list[Finding] = []
    try:
        machine.run()
    except (SourceError, MemoryError):
        raise
    except Exception as error:
        failure.append(_internal(source.path, error))
    findings: dict[tuple[str, Span], Finding] = {}
    for report in machine.reports.values():
        try:
            finding = _finding(report, source)
        except Exception as error:
            failure.append(_internal(source.path, error))
        else:
            if finding is not None:  # two places in another file may be reached by one call in this one
                findings.setdefault((finding.code, finding.span), finding)
    failure.extend(_failures(machine, source))
    tally = machine.tally
    statistics = Statistics(tally.functions_run, len(tally.over_budget), over_budget=tuple(tally.over_budget))
    machine.let_go()
    project.let_go()
    source.let_go()
    return Result((*findings.values(), *failure), statistics, tuple(project.looks.values()), not failure)


def _internal(path: str, error: Exception) -> Finding:
    """An error of ours: where it happened in gradtrap, for the report to its authors."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place is not None else "?"
    return _not_analysed(path, f"internal error in {where}: {type(error).__name__}: {error}; please report it")


def _failures(machine: Machine, source: SourceFile) -> Iterable[Finding]:
    told: set[str] = set()
    result: list[Finding] = []
    for code, site, error in machine.failures:
        if code not in told:
            told.add(code)
            span = _span(site)
            row = span[1].row if span is not None and span[0] == source.path else 1
            result.append(_not_analysed(source.path, f"internal error in {code}: {error}; please report it", row))
    return result


def _span(site: Site) -> tuple[str, Span] | None:
    """The file and the range of a site."""
    from flake8_gradtrap.interp.ir import Node

    node = site.node
    if not isinstance(node, Node) or node.unit is None:
        return None
    return node.unit.path, node.unit.places.span(node)


def _finding(report: Report, source: SourceFile) -> Finding | None:
    """A finding with positions, in the file that is checked.

    A trap whose place lies in another file is told here only if this file has a part in it: at the call that leads
    there, else at the last step of the trace that lies here. What another file does all by itself is told when that one
    is checked.
    """
    from flake8_gradtrap.rule import all_rules

    rule = all_rules()[report.code]
    trace = [Step(message, *place) for message, site in report.trace if (place := _span(site)) is not None]
    place = _span(report.site)
    if place is not None and place[0] != source.path:
        own = [step for step in trace if step.filename == source.path]
        if rule.at_definition or not own:
            return None
        if not any((step.filename, step.span) == place for step in trace[-1:]):
            trace.append(Step("it happens here", *place))
        site: Site | None = report.site
        while place is not None and site is not None and place[0] != source.path:
            site = site.caller
            place = _span(site) if site is not None else None
        if place is None:
            place = (source.path, own[-1].span)
    if place is None:
        return None
    fix: Fix | None = None
    if report.remedy is not None:
        from flake8_gradtrap.fixes import build_edits

        local = all(
            _is_local(change.site, source) and (change.target is None or _is_local(change.target, source))
            for change in report.remedy.changes
        )
        edits = build_edits(report.remedy.changes) if local else None
        edits = _with_imports(edits, report.remedy, source) if edits else None
        if edits:
            fix = Fix(report.remedy.message, edits, report.remedy.safe)
    return Finding(
        report.code,
        rule.name,
        report.message,
        source.path,
        place[1],
        tuple(trace),
        fix,
        report.severity or rule.severity,
        report.preview,
    )


def _with_imports(edits: tuple[Edit, ...], remedy: Remedy, source: SourceFile) -> tuple[Edit, ...] | None:
    """The edits, behind the imports that they need; None where one cannot be added in front of them."""
    from flake8_gradtrap.imports import needed_import

    added: list[Edit] = []
    for module in sorted({change.imports for change in remedy.changes} - {""}):
        edit = needed_import(source, module)
        if edit is None or (edit.content and edit.span >= min(edits).span):
            return None
        added += [edit] if edit.content else []
    return (*added, *edits)


def _is_local(site: Site, source: SourceFile) -> bool:
    place = _span(site)
    return place is not None and place[0] == source.path
