"""The protocol: what the editor tells and asks, and what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import sys
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lsprotocol import types
from pygls.capabilities import get_capability
from pygls.lsp.server import LanguageServer

from flake8_gradtrap import __version__, batch
from flake8_gradtrap.config import ConfigError, Settings
from flake8_gradtrap.engine import Surroundings, check_source
from flake8_gradtrap.finding import Finding
from flake8_gradtrap.pages import page
from flake8_gradtrap.rule import all_rules
from flake8_gradtrap.server import actions
from flake8_gradtrap.server.checking import Checker
from flake8_gradtrap.server.diagnostics import SOURCE, Findings, by_document
from flake8_gradtrap.server.documents import Documents, Program, path_of, uri_of
from flake8_gradtrap.server.settings import SECTION, EditorSettings, settings_of
from flake8_gradtrap.server.text import Text
from flake8_gradtrap.source import SourceError, decode

TYPING = 0.15
"""Seconds after an edit before a check begins, while somebody types."""
PAUSE = 0.5
"""Seconds without an edit after which the next one is checked at once."""
BEHIND = 0.5
"""Seconds after an edit before programs are checked that use the edited file."""

_CODE = re.compile(r"\bGTR\d{3}\b")
_PLACE = re.compile(r"(?P<path>.+?):(?P<line>\d+): (?P<message>.+)", re.DOTALL)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A program to check."""

    program: Program
    settings: Settings | None
    """None: it is excluded."""
    open: Mapping[str, tuple[str, Text]]
    """Address and text of what is open, by path."""


class Server(LanguageServer):
    """The state of one session with an editor."""

    def __init__(self) -> None:
        super().__init__(
            SOURCE,
            __version__,
            notebook_document_sync=types.NotebookDocumentSyncOptions(
                [types.NotebookDocumentFilterWithNotebook("*", cells=[types.NotebookCellLanguage("python")])]
            ),
        )
        self.documents = Documents()
        self.checker: Checker[Job, Findings] = Checker(self._job, self._check)
        self._given: Any = None
        """The settings that came with the first message."""
        self._editor: dict[str, EditorSettings] = {"": EditorSettings()}
        """The editor's settings by workspace folder; "" where none fits."""
        self._last: dict[str, Settings] = {}
        """By folder, the settings that could be used last."""
        self._wrong: dict[str, str] = {}
        """What is wrong with the configuration of a file, by its path."""
        self._told: set[str] = set()
        """What of this was said."""
        self._readable: dict[str, str] = {}
        """By path, the last text that could be parsed."""
        self._broken: set[str] = set()
        """The paths of documents in the middle of an edit: their newest text cannot be parsed."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._publishing: dict[str, asyncio.Task[None]] = {}

    # -- what the editor can ------------------------------------------------------------------------------------------

    def can(self, capability: str) -> bool:
        """Whether the editor says that it can do something."""
        return bool(get_capability(self.client_capabilities, capability, False))

    @property
    def pulls(self) -> bool:
        """Whether the editor asks for diagnostics, so that they are not sent as well."""
        return get_capability(self.client_capabilities, "text_document.diagnostic", None) is not None

    @property
    def versioned(self) -> bool:
        return self.can("workspace.workspace_edit.document_changes")

    # -- settings -----------------------------------------------------------------------------------------------------

    def folders(self) -> list[str]:
        """The workspace folders, the innermost first."""
        paths = [path_of(folder.uri) for folder in self.workspace.folders.values()]
        if not paths and self.workspace.root_path:
            paths = [os.path.normpath(self.workspace.root_path)]
        return sorted(paths, key=len, reverse=True)

    def folder_of(self, path: str) -> str:
        folders = self.folders()
        if not os.path.isabs(path):
            return folders[-1] if folders else ""
        return next((folder for folder in folders if path.startswith(folder.rstrip(os.sep) + os.sep)), "")

    def editor_settings(self, folder: str) -> EditorSettings:
        return self._editor.get(folder, self._editor[""])

    def take_first_settings(self, options: Any) -> None:
        """Take over the settings that came with the first message; they hold where the editor tells no others."""
        self._given = options.get("settings", options) if isinstance(options, Mapping) else options
        self._take_settings({"": self._given})

    async def take_settings(self, given: Any = None) -> None:
        """Take over the editor's settings: as given, or as it answers for each folder, if it can be asked."""
        folders = [*self.folders(), ""]
        answers = [given] * len(folders)
        if self.can("workspace.configuration"):
            items = [types.ConfigurationItem(uri_of(folder) if folder else None, SECTION) for folder in folders]
            try:
                answers = list(await self.workspace_configuration_async(types.ConfigurationParams(items)))
            except Exception as error:  # whatever it is, it is the editor's
                log.warning("the editor does not tell its settings: %s", error)
        self._take_settings(dict(zip(folders, answers, strict=False)))
        self.check_everything()

    def _take_settings(self, given: Mapping[str, Any]) -> None:
        """`given`: by folder."""
        said: dict[str, None] = {}
        for folder, value in given.items():
            value = value or self._given
            if isinstance(value, Mapping) and isinstance(value.get(SECTION), Mapping):
                value = value[SECTION]
            self._editor[folder], wrong = EditorSettings.read(value)
            said.update(dict.fromkeys(wrong))
        for message in said:
            self._show_error(f"settings of the editor: {message}")

    def _settings(self, path: str) -> Settings | None:
        """The settings of a file; None if it is excluded. Where they cannot be used, the last ones that could."""
        folder = self.folder_of(path)
        place = path if os.path.isabs(path) else os.path.join(folder, "untitled.py")
        try:
            settings = settings_of(place, folder, self.editor_settings(folder))
        except ConfigError as error:
            self._note_wrong(path, str(error))
            with contextlib.suppress(ConfigError):  # an installation without rules has no defaults either
                return self._last.get(folder) or Settings()
            return None
        self._note_wrong(path, None)
        if settings is not None:
            self._last[folder] = settings
        return settings

    def _note_wrong(self, path: str, message: str | None) -> None:
        """Show what is wrong with a configuration, once and at its place, as long as it is."""
        self._wrong.pop(path, None)
        if message is not None:
            self._wrong[path] = message
            if message not in self._told:
                self._told.add(message)
                self._show_error(message)
                self._mark_configuration(message, wrong=True)
        for old in self._told - set(self._wrong.values()):
            self._told.discard(old)
            self._mark_configuration(old, wrong=False)

    def _mark_configuration(self, message: str, wrong: bool) -> None:
        match = _PLACE.fullmatch(message)
        if match is None or not os.path.isfile(match["path"]):
            return
        uri, text = self._file(match["path"], {})
        row = int(match["line"])
        place = types.Range(text.position(row, 1), text.position(row, len(text.line(row)) + 1))
        severity = types.DiagnosticSeverity.Error
        shown = [types.Diagnostic(place, match["message"], severity=severity, source=SOURCE)] if wrong else []
        self.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, shown))

    def _show_error(self, message: str) -> None:
        self.window_show_message(types.ShowMessageParams(types.MessageType.Error, f"gradtrap: {message}"))

    # -- checking -----------------------------------------------------------------------------------------------------

    def _job(self, uri: str) -> tuple[Job, Surroundings] | None:
        program = self.documents.program(uri)
        if program is None:
            return None
        opened: dict[str, tuple[str, Text]] = {}
        for other in self.documents:
            document = self.documents.get(other)
            if document is not None and os.path.isabs(document.path):
                opened[document.path] = other, document.text
        unsaved = {path: text.source for path, (_, text) in opened.items()}
        unsaved |= {path: self._readable[path] for path in self._broken if path in self._readable and path in unsaved}
        return Job(program, self._settings(program.path), opened), Surroundings(unsaved)

    def _check(self, job: Job, surroundings: Surroundings) -> Findings:
        """In the thread: what is found, whatever happens."""
        program = job.program
        findings: tuple[Finding, ...] = ()
        consulted: frozenset[str] = frozenset()
        if job.settings is not None:
            findings, consulted = _engine(program.text, program.path, job.settings, surroundings)
        related = self.can("text_document.publish_diagnostics.related_information")
        related |= self.can("text_document.diagnostic.related_information")
        return Findings(program, findings, consulted, lambda path: self._file(path, job.open), related)

    def _file(self, path: str, opened: Mapping[str, tuple[str, Text]]) -> tuple[str, Text]:
        """The address and the text of a file, as it is open or as it lies on disk."""
        if path in opened:
            return opened[path]
        try:
            with open(path, "rb") as stream:
                content = decode(stream.read())[0]
        except (OSError, ValueError, SourceError):
            content = ""
        return uri_of(path), Text(content, self.documents.encoding)

    async def newest(self, uri: str) -> Findings | None:
        """What is found in the program of a document, as it is now."""
        found = await self.checker.newest(self.documents.program_of(uri))
        if found is not None and found.parsed:
            self._readable[found.program.path] = found.program.text
            self._broken.discard(found.program.path)
        elif found is not None:
            self._broken.add(found.program.path)
        return found

    def changed(self, uri: str, delay: float = 0.0) -> None:
        """A document is another one than before: its program is checked, then those that use it."""
        program = self.documents.program_of(uri)
        self.checker.touch(program, delay, PAUSE)
        self._publish_soon(program)
        self.check_users([path_of(uri)], BEHIND if delay else 0.0)

    def check_users(self, paths: Iterable[str], delay: float = 0.0) -> bool:
        """Check what is open and was checked with one of these files. Whether there is such a program."""
        changed = {path for path in paths if os.path.isabs(path)}
        some = False
        for program in self.documents:
            found = self.checker.last(program)
            if found is not None and not found.consulted.isdisjoint(changed) and path_of(program) not in changed:
                self.checker.touch(program, delay)
                self._publish_soon(program)
                some = True
        return some

    def check_everything(self) -> None:
        for program in self.documents:
            self.checker.touch(program)
            self._publish_soon(program)
        self.ask_to_pull()

    def ask_to_pull(self) -> None:
        """Tell an editor that asks by itself that it should."""
        if self.pulls and self.can("workspace.diagnostics.refresh_support"):
            self.spawn(_quietly(self.workspace_diagnostic_refresh_async(None)))

    # -- telling ------------------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _publish_soon(self, program: str) -> None:
        """Send diagnostics as soon as they are there, unless the editor asks for them: not for those of cells."""
        running = self._publishing.get(program)
        asked = self.pulls and not self.documents.is_notebook(program)
        if asked or (running is not None and not running.done()):
            return
        self._publishing[program] = self.spawn(self._publish(program))

    async def _publish(self, program: str) -> None:
        found = await self.newest(program)
        if found is None:
            return
        for document, diagnostics in by_document(found):
            params = types.PublishDiagnosticsParams(document.uri, diagnostics, document.version)
            self.text_document_publish_diagnostics(params)

    def gone(self, uris: Iterable[str]) -> None:
        """Documents are closed: what was sent about them does not hold any more."""
        for uri in uris:
            self.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, []))

    def forget(self, program: str) -> None:
        """A program is closed: what others use of it is what lies on disk."""
        self.checker.forget(program)
        self._readable.pop(path_of(program), None)
        self._broken.discard(path_of(program))
        self._note_wrong(path_of(program), None)
        self.check_users([path_of(program)])

    # -- answers ------------------------------------------------------------------------------------------------------

    async def diagnostics(self, params: types.DocumentDiagnosticParams) -> types.DocumentDiagnosticReport:
        uri = params.text_document.uri
        sent = self.documents.program_of(uri) != uri  # a cell
        found = None if sent else await self.newest(uri)
        items = [shown.diagnostic for shown in found.of(uri)] if found is not None else []
        identity = str(hash(repr(items)))
        if identity == params.previous_result_id:
            return types.RelatedUnchangedDocumentDiagnosticReport(identity)
        return types.RelatedFullDocumentDiagnosticReport(items, result_id=identity)

    async def actions(self, params: types.CodeActionParams) -> list[types.CodeAction]:
        uri, only = params.text_document.uri, params.context.only
        found = await self.newest(uri)
        if found is None:
            return []
        unsafe = self.editor_settings(self.folder_of(found.program.path)).unsafe_fixes
        result: list[types.CodeAction] = []
        if actions.wanted(types.CodeActionKind.QuickFix.value, only):
            chosen = [shown for shown in found.of(uri) if shown.touches(params.range)]
            result += actions.quick_fixes(found, chosen, unsafe, params.context.diagnostics, self.versioned)
        kind = actions.FIX_ALL_OF_NOTEBOOK if found.program.is_notebook else actions.FIX_ALL
        if actions.wanted(kind, only) and any(batch.applicable(finding, unsafe) for finding in found.findings):
            action = types.CodeAction("Fix all gradtrap findings", kind, data={"uri": uri})
            if not self.can("text_document.code_action.resolve_support"):
                if only is None:
                    return result  # nobody asked for it, and it takes a while
                action = await self.resolved(action)
            result.append(action)
        return result

    async def resolved(self, action: types.CodeAction) -> types.CodeAction:
        """An action with the edit that takes a while to find."""
        uri = action.data.get("uri") if isinstance(action.data, Mapping) else None
        found = await self.newest(uri) if isinstance(uri, str) else None
        if found is None:
            return action
        unsafe = self.editor_settings(self.folder_of(found.program.path)).unsafe_fixes
        job = self._job(found.program.uri)
        settings, surroundings = (job[0].settings, job[1]) if job is not None else (None, Surroundings())
        if settings is None:
            return action
        program = found.program

        def check(text: str) -> tuple[Finding, ...]:
            return _engine(text, program.path, settings, surroundings)[0]

        try:
            changes = await self.checker.between(lambda: actions.fix_all(found, unsafe, check))
        except asyncio.CancelledError:
            surroundings.stop()
            raise
        action.edit = actions.workspace_edit(changes, self.versioned)
        return action

    async def hover(self, params: types.HoverParams) -> types.Hover | None:
        uri, position = params.text_document.uri, params.position
        document = self.documents.get(uri)
        found = await self.newest(uri)
        if document is None or found is None:
            return None
        here = types.Range(position, position)
        codes = {shown.finding.code: shown.diagnostic.range for shown in found.of(uri) if shown.touches(here)}
        codes |= _named(document.text, position)
        rules = [rule for code, rule in all_rules().items() if code in codes]
        if not rules:
            return None
        formats = get_capability(self.client_capabilities, "text_document.hover.content_format", None) or []
        markdown = types.MarkupKind.Markdown in formats or not formats
        kind = types.MarkupKind.Markdown if markdown else types.MarkupKind.PlainText
        text = "\n---\n\n".join(page(rule) for rule in rules)
        return types.Hover(types.MarkupContent(kind, text), codes[rules[0].code])


def _engine(
    text: str, path: str, settings: Settings, surroundings: Surroundings
) -> tuple[tuple[Finding, ...], frozenset[str]]:
    """What the engine says of a text; a finding, not an exception, if it fails."""
    try:
        result = check_source(text, path, settings, surroundings=surroundings)
    except BaseException as error:  # a panic of libcst is no Exception; the thread must live on
        return batch.internal_error(error, path, settings), frozenset()
    return batch.unique(result.findings), result.consulted


def _named(text: Text, position: types.Position) -> dict[str, types.Range]:
    """The code in a comment at a place, as in `# noqa: GTR301`."""
    row = position.line + 1
    line = text.line(row)
    for match in _CODE.finditer(line):
        where = types.Range(text.position(row, match.start() + 1), text.position(row, match.end() + 1))
        inside = where.start.character <= position.character <= where.end.character
        if inside and "#" in line[: match.start()]:
            return {match.group(): where}
    return {}


async def _quietly(work: Any) -> None:
    try:
        await work
    except Exception as error:
        log.debug("the editor answers: %s", error)


def main() -> None:
    """Serve an editor on standard input and output, until it says that it is enough."""
    from flake8_gradtrap.server.handlers import register

    server = Server()
    register(server)
    output = sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing but the protocol may come out there
    sys.setswitchinterval(0.001)  # a check must not keep the editor's messages waiting
    try:
        server.start_io(stdout=output)
    finally:
        server.checker.close()
