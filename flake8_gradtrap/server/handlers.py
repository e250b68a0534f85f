"""Which message of the protocol does what."""

from __future__ import annotations

import os

from lsprotocol import types

from flake8_gradtrap.server import actions
from flake8_gradtrap.server.app import TYPING, Server
from flake8_gradtrap.server.documents import path_of

_WATCHED = ("**/pyproject.toml", "**/*.py")


def register(server: Server) -> None:
    """Have the server answer."""
    _register_session(server)
    _register_documents(server)
    _register_notebooks(server)
    _register_requests(server)


def _register_session(server: Server) -> None:
    @server.feature(types.INITIALIZE)
    def initialize(params: types.InitializeParams) -> None:
        encoding = server.workspace.position_encoding
        server.documents.encoding = str(getattr(encoding, "value", encoding))
        server.take_first_settings(params.initialization_options)

    @server.feature(types.INITIALIZED)
    async def initialized(params: types.InitializedParams) -> None:
        server.checker.warm_up(_warm_up)
        registrations = []
        if server.can("workspace.did_change_watched_files.dynamic_registration"):
            watchers = [types.FileSystemWatcher(pattern) for pattern in _WATCHED]
            options: object = types.DidChangeWatchedFilesRegistrationOptions(watchers)
            registrations.append(
                types.Registration("watch", types.WORKSPACE_DID_CHANGE_WATCHED_FILES, register_options=options)
            )
        if server.can("workspace.did_change_configuration.dynamic_registration"):
            options = types.DidChangeConfigurationRegistrationOptions(section="gradtrap")
            registrations.append(
                types.Registration("configure", types.WORKSPACE_DID_CHANGE_CONFIGURATION, register_options=options)
            )
        if registrations:
            server.client_register_capability(types.RegistrationParams(registrations))
        await server.take_settings()

    @server.feature(types.SHUTDOWN)
    def shutdown(params: None) -> None:
        server.checker.close()

    @server.feature(types.WORKSPACE_DID_CHANGE_CONFIGURATION)
    async def did_change_configuration(params: types.DidChangeConfigurationParams) -> None:
        await server.take_settings(params.settings)

    @server.feature(types.WORKSPACE_DID_CHANGE_WORKSPACE_FOLDERS)
    async def did_change_folders(params: types.DidChangeWorkspaceFoldersParams) -> None:
        await server.take_settings()

    @server.feature(types.WORKSPACE_DID_CHANGE_WATCHED_FILES)
    def did_change_files(params: types.DidChangeWatchedFilesParams) -> None:
        paths = [path_of(change.uri) for change in params.changes]
        if any(os.path.basename(path) == "pyproject.toml" for path in paths):
            server.check_everything()
        elif server.check_users(paths):
            server.ask_to_pull()


def _register_documents(server: Server) -> None:
    @server.feature(types.TEXT_DOCUMENT_DID_OPEN)
    def did_open(params: types.DidOpenTextDocumentParams) -> None:
        server.documents.open(params.text_document)
        server.changed(params.text_document.uri)

    @server.feature(types.TEXT_DOCUMENT_DID_CHANGE)
    def did_change(params: types.DidChangeTextDocumentParams) -> None:
        server.documents.change(params.text_document, params.content_changes)
        server.changed(params.text_document.uri, TYPING)

    @server.feature(types.TEXT_DOCUMENT_DID_SAVE)
    def did_save(params: types.DidSaveTextDocumentParams) -> None:
        """What is saved is known already."""

    @server.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    def did_close(params: types.DidCloseTextDocumentParams) -> None:
        uri = params.text_document.uri
        server.documents.close(uri)
        server.forget(uri)
        if not server.pulls:
            server.gone([uri])


def _register_notebooks(server: Server) -> None:
    @server.feature(types.NOTEBOOK_DOCUMENT_DID_OPEN)
    def did_open(params: types.DidOpenNotebookDocumentParams) -> None:
        server.documents.open_notebook(params.notebook_document, params.cell_text_documents)
        server.changed(params.notebook_document.uri)

    @server.feature(types.NOTEBOOK_DOCUMENT_DID_CHANGE)
    def did_change(params: types.DidChangeNotebookDocumentParams) -> None:
        server.gone(server.documents.change_notebook(params.notebook_document, params.change))
        server.changed(params.notebook_document.uri, TYPING)

    @server.feature(types.NOTEBOOK_DOCUMENT_DID_CLOSE)
    def did_close(params: types.DidCloseNotebookDocumentParams) -> None:
        cells = [cell.uri for cell in params.cell_text_documents]
        server.documents.close_notebook(params.notebook_document.uri, cells)
        server.forget(params.notebook_document.uri)
        server.gone(cells)


def _register_requests(server: Server) -> None:
    @server.feature(
        types.TEXT_DOCUMENT_DIAGNOSTIC,
        types.DiagnosticOptions(inter_file_dependencies=True, workspace_diagnostics=False, identifier="gradtrap"),
    )
    async def diagnostic(params: types.DocumentDiagnosticParams) -> types.DocumentDiagnosticReport:
        return await server.diagnostics(params)

    kinds = [types.CodeActionKind.QuickFix, actions.FIX_ALL, actions.FIX_ALL_OF_NOTEBOOK]

    @server.feature(types.TEXT_DOCUMENT_CODE_ACTION, types.CodeActionOptions(kinds, resolve_provider=True))
    async def code_action(params: types.CodeActionParams) -> list[types.CodeAction]:
        return await server.actions(params)

    @server.feature(types.CODE_ACTION_RESOLVE)
    async def resolve(action: types.CodeAction) -> types.CodeAction:
        return await server.resolved(action)

    @server.feature(types.TEXT_DOCUMENT_HOVER)
    async def hover(params: types.HoverParams) -> types.Hover | None:
        return await server.hover(params)


def _warm_up() -> None:
    """Import what every check needs, before the first one."""
    import libcst.metadata  # noqa: F401

    from flake8_gradtrap.interp import machine, project  # noqa: F401
    from flake8_gradtrap.rule import all_rules

    all_rules()
