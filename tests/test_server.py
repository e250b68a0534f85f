"""The language server, asked by a real client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from editor import CLIP, FIXED, HELPER, TRAP, TWO, USER, Editor, at, insertion, plain, pulling, session, texts, uri
from lsprotocol import types
from pygls.exceptions import JsonRpcException

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("error::pytest_lsp.LspSpecificationWarning"),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared() -> AsyncIterator[Editor]:
    """One session for all tests that only open a file of their own."""
    async with session() as editor:
        yield editor


# -- diagnostics ------------------------------------------------------------------------------------------------------


async def test_a_diagnostic_has_everything(shared: Editor, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    shared.open(path, TRAP)
    (found,) = await shared.diagnostics(path)
    assert found.range == CLIP
    assert (found.code, found.source) == ("GTR101", "gradtrap")
    assert found.severity is types.DiagnosticSeverity.Warning
    assert found.message.startswith("clips nothing")
    assert found.tags is None
    assert found.code_description is not None
    assert found.code_description.href.startswith("file:///")
    assert found.code_description.href.endswith("gtr101_one_shot_iterator_reused.py")
    steps = [(step.location.uri, step.location.range.start.line) for step in found.related_information or []]
    assert steps == [(uri(path), 4), (uri(path), 5), (uri(path), 9)]
    assert (found.related_information or [])[1].message == "used up here"


async def test_what_has_no_effect_is_faded(shared: Editor, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    loop = "    for images, labels in loader:\n        images.to('cuda')\n        images = images.float()\n"
    shared.open(path, FIXED.replace("    for batch in loader:\n", loop).replace("(batch)", "(images)"))
    (found,) = await shared.diagnostics(path)
    assert found.code == "GTR708"
    assert found.tags == (types.DiagnosticTag.Unnecessary,)


async def test_a_file_that_cannot_be_parsed_is_told_at_its_place(shared: Editor, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    shared.open(path, "import torch\n\ndef f(:\n    pass\n")
    (found,) = await shared.diagnostics(path)
    assert found.code == "GTR000"
    assert found.severity is types.DiagnosticSeverity.Error
    assert found.range.start == types.Position(2, 6)
    shared.edit(path, types.TextDocumentContentChangePartial(at(2, 6, 6), ")"))
    assert await shared.diagnostics(path) == ()


@pytest.mark.parametrize(
    "text",
    ["", "\n", "\ufeff", "x = '\ud800'\n", "x = 1\0\n", "(" * 5000, "import torch\nx.backward()" + "+1" * 30000 + "\n"],
    ids=["empty", "line", "mark", "surrogate", "NUL", "deep", "long"],
)
async def test_whatever_is_open_the_server_goes_on(shared: Editor, tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.py"
    shared.open(path, text, save=False)
    assert {found.code for found in await shared.diagnostics(path)} <= {"GTR000"}
    shared.edit(path, types.TextDocumentContentChangeWholeDocument(TRAP))
    assert await shared.lines(path) == [("GTR101", 9)]


async def test_a_text_that_has_no_file(shared: Editor) -> None:
    shared.open("untitled:Untitled-1", TRAP)
    assert await shared.lines("untitled:Untitled-1") == [("GTR101", 9)]


async def test_stubs_have_none(shared: Editor, tmp_path: Path) -> None:
    shared.open(tmp_path / "train.pyi", TRAP)
    shared.open(tmp_path / "train.py", TRAP)
    await shared.diagnostics(tmp_path / "train.py")
    assert shared.latest(tmp_path / "train.pyi") is None


async def test_a_closed_document_has_none(shared: Editor, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    shared.open(path, TRAP)
    await shared.diagnostics(path)
    shared.close(path)
    await shared.until(lambda: shared.published[-1].uri == uri(path) and not shared.published[-1].diagnostics)


# -- edits ------------------------------------------------------------------------------------------------------------


async def test_edits_move_and_mend_findings(shared: Editor, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    shared.open(path, TRAP)
    assert await shared.lines(path) == [("GTR101", 9)]
    shared.edit(path, insertion(0, 0, "# one\n# two\n"), insertion(2, 0, "# three\n"))
    assert await shared.lines(path) == [("GTR101", 12)]
    shared.edit(path, insertion(7, 13, "list("), insertion(7, 71, ")"))
    assert await shared.lines(path) == []
    shared.edit(path, types.TextDocumentContentChangeWholeDocument(TRAP))
    assert await shared.lines(path) == [("GTR101", 9)]


async def test_of_many_edits_only_the_last_counts(shared: Editor, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    shared.open(path, TRAP)
    await shared.diagnostics(path)
    before = len(shared.published)
    for _ in range(50):
        shared.edit(path, insertion(0, 0, "#\n"))
    assert await shared.lines(path) == [("GTR101", 59)]
    mine = [params for params in shared.published[before:] if params.uri == uri(path)]
    assert len(mine) < 10


@pytest.mark.parametrize("end", ["\r\n", "\r"])
async def test_other_line_ends(shared: Editor, tmp_path: Path, end: str) -> None:
    path = tmp_path / "train.py"
    shared.open(path, TRAP.replace("\n", end))
    assert [found.range for found in await shared.diagnostics(path)] == [CLIP]
    shared.edit(path, insertion(1, 0, f"x = 1{end}"))
    assert await shared.lines(path) == [("GTR101", 10)]


async def test_a_form_feed_and_a_line_separator_end_no_line(shared: Editor, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    shared.open(path, TRAP.replace("\n\n\n", "\n\x0c\ns = '\u2028\x0b'\n", 1))
    assert [found.range for found in await shared.diagnostics(path)] == [CLIP]
    shared.edit(path, insertion(3, 0, "#\x0c\n"))
    assert await shared.lines(path) == [("GTR101", 10)]


@pytest.mark.parametrize(("encoding", "wide"), [("utf-8", 10), ("utf-16", 5), ("utf-32", 3)])
async def test_positions_in_the_encoding_that_the_editor_wants(tmp_path: Path, encoding: str, wide: int) -> None:
    """`wide`: how many units the string with three characters takes."""
    capabilities = plain()
    capabilities.general = types.GeneralClientCapabilities(position_encodings=[encoding, "utf-16"])
    path = tmp_path / "train.py"
    start = len("        s = ''; ") + wide
    async with session(capabilities) as editor:
        assert editor.encoding == encoding
        editor.open(path, TRAP.replace("        torch.nn.utils.clip", "        s = '𝛁ä𝛁'; torch.nn.utils.clip"))
        (found,) = await editor.diagnostics(path)
        assert found.range == at(9, start, start + 43)
        # An edit behind these characters ends the string there, and the rest is a comment.
        editor.edit(path, insertion(9, start - 3, "'#"))
        assert await editor.lines(path) == []
        editor.edit(path, types.TextDocumentContentChangePartial(at(9, start - 3, start - 1), ""))
        assert await editor.lines(path) == [("GTR101", 9)]


# -- what else is open ------------------------------------------------------------------------------------------------

RETURN = types.Range(types.Position(4, 11), types.Position(4, 61))


async def test_what_is_not_saved_in_another_file_counts(shared: Editor, tmp_path: Path) -> None:
    user, helper = tmp_path / "user.py", tmp_path / "helper.py"
    helper.write_text(HELPER.replace("(p for", "[p for").replace("grad)", "grad]"))
    shared.open(user, USER)
    assert await shared.lines(user) == []
    shared.open(helper, HELPER, save=False)
    await shared.until(lambda: bool(shared.latest(user) and shared.latest(user).diagnostics))  # type: ignore[union-attr]
    (found,) = shared.latest(user).diagnostics  # type: ignore[union-attr]
    places = [(step.location.uri, step.location.range) for step in found.related_information or []]
    assert (uri(helper), RETURN) in places
    # In the middle of an edit the helper counts as it was.
    shared.edit(helper, insertion(3, 0, "def ("))
    assert await shared.lines(helper) == [("GTR000", 3)]
    before = len(shared.published)
    shared.edit(user, insertion(0, 0, "#\n"))
    assert await shared.lines(user) == [("GTR101", 10)]
    # Closed without being saved, it counts as it lies on disk.
    shared.close(helper)
    await shared.until(lambda: any(p.uri == uri(user) and not p.diagnostics for p in shared.published[before:]))


async def test_a_finding_in_a_file_that_is_not_open(shared: Editor, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text(HELPER.replace("import torch\n", "import torch  # 𝛁\n"))
    shared.open(tmp_path / "user.py", USER)
    (found,) = await shared.diagnostics(tmp_path / "user.py")
    places = [(step.location.uri, step.location.range) for step in found.related_information or []]
    assert (uri(tmp_path / "helper.py"), RETURN) in places


# -- questions --------------------------------------------------------------------------------------------------------


async def test_quick_fixes(shared: Editor, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    shared.open(path, TWO)
    clip, total = await shared.diagnostics(path)
    fix, everything, ignore = await shared.actions(path, clip.range, ["quickfix"], [clip])
    assert fix.title == "GTR101: Make it a list where it is created"
    assert fix.kind == types.CodeActionKind.QuickFix
    assert fix.is_preferred
    assert fix.diagnostics == (clip,)
    assert texts(fix, path) == [(at(4, 13), "list("), (at(4, 66), ")")]
    assert everything.title == "Fix all gradtrap findings in this file"
    assert ignore.title == "Ignore GTR101 on this line (# noqa)"
    assert texts(ignore, path) == [(at(9, 51), "  # noqa: GTR101")]
    assert not ignore.is_preferred
    assert await shared.actions(path, at(0, 0), ["quickfix"]) == []
    assert await shared.actions(path, clip.range, ["refactor"]) == []
    assert (await shared.actions(path, total.range, ["quickfix"]))[0].title.startswith("GTR401: ")


async def test_all_of_a_rule(shared: Editor, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    shared.open(path, TRAP + TRAP.replace("import torch", "").replace("train", "other"))
    first, second = await shared.diagnostics(path)
    titles = [action.title for action in await shared.actions(path, first.range, ["quickfix"])]
    assert "Fix all GTR101 in this file" in titles
    assert "Fix all gradtrap findings in this file" not in titles
    action = next(one for one in await shared.actions(path, second.range) if one.title.startswith("Fix all GTR101"))
    assert [where.start.line for where, _ in texts(action, path)] == [4, 15]


async def test_a_comment_hides(shared: Editor, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    shared.open(path, TRAP)
    await shared.diagnostics(path)
    ignore = next(one for one in await shared.actions(path, CLIP) if "noqa" in one.title)
    shared.edit(path, *[types.TextDocumentContentChangePartial(*edit) for edit in texts(ignore, path)])
    assert await shared.lines(path) == []


async def test_no_comment_hides_a_syntax_error(shared: Editor, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    shared.open(path, "def (\n")
    assert await shared.lines(path) == [("GTR000", 0)]
    assert await shared.actions(path, at(0, 0, 4)) == []


async def test_everything_on_save(shared: Editor, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    shared.open(path, TWO)
    await shared.diagnostics(path)
    for kind in ("source.fixAll", "source.fixAll.gradtrap", "source"):
        (action,) = await shared.actions(path, at(0, 0), [kind])
        assert action.kind == "source.fixAll.gradtrap"
    edits = texts(action, path)
    shared.edit(path, *[types.TextDocumentContentChangePartial(*edit) for edit in reversed(edits)])
    assert await shared.lines(path) == []
    assert await shared.actions(path, at(0, 0), ["source.fixAll"]) == []


async def test_an_action_is_resolved_when_it_is_chosen(tmp_path: Path) -> None:
    support = types.ClientCodeActionResolveOptions(properties=["edit"])
    path = tmp_path / "train.py"
    capabilities = plain(code_action=types.CodeActionClientCapabilities(resolve_support=support, data_support=True))
    async with session(capabilities) as editor:
        editor.open(path, TWO)
        (action,) = await editor.actions(path, at(0, 0))
        assert (action.kind, action.edit) == ("source.fixAll.gradtrap", None)
        resolved = await editor.client.code_action_resolve_async(action)
        assert len(texts(resolved, path)) > 1


async def test_hover_shows_the_page_of_the_rule(shared: Editor, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    shared.open(path, TRAP.replace("import torch\n", "import torch  # noqa: GTR301, E501\n"))
    hover = await shared.hover(path, 9, 20)
    assert hover is not None
    assert isinstance(hover.contents, types.MarkupContent)
    assert hover.contents.kind is types.MarkupKind.Markdown
    assert hover.contents.value.startswith("# GTR101 one-shot-iterator-reused\n")
    assert "## Why it is a trap" in hover.contents.value
    assert hover.range == CLIP
    comment = await shared.hover(path, 0, 23)
    assert comment is not None
    assert comment.range == at(0, 22, 28)
    assert isinstance(comment.contents, types.MarkupContent)
    assert "GTR301" in comment.contents.value
    for line, character in ((0, 0), (0, 31), (3, 2)):
        assert await shared.hover(path, line, character) is None


async def test_a_request_can_be_cancelled_and_the_server_goes_on(shared: Editor, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    body = TRAP.partition("\n\n\n")[2]
    many = "import torch\n" + "".join(f"\n\n{body.replace('train', f'train_{number}')}" for number in range(200))
    shared.open(path, TRAP)
    await shared.diagnostics(path)
    shared.edit(path, types.TextDocumentContentChangeWholeDocument(many))
    params = types.HoverParams(types.TextDocumentIdentifier(uri(path)), types.Position(9, 20))
    request = shared.client.protocol.send_request(types.TEXT_DOCUMENT_HOVER, params, msg_id="slow")
    shared.client.cancel_request(types.CancelParams(id="slow"))
    with pytest.raises(JsonRpcException) as error:
        await asyncio.wait_for(asyncio.wrap_future(request), 20)
    assert error.value.code == types.LSPErrorCodes.RequestCancelled
    shared.edit(path, types.TextDocumentContentChangeWholeDocument(TRAP))
    assert await shared.lines(path) == [("GTR101", 9)]


# -- an editor that asks ----------------------------------------------------------------------------------------------


async def test_diagnostics_are_given_when_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    async with session(pulling()) as editor:
        provider = editor.capabilities.diagnostic_provider
        assert provider is not None
        assert provider.inter_file_dependencies
        editor.open(path, TRAP)
        report = await editor.pull(path)
        assert isinstance(report, types.RelatedFullDocumentDiagnosticReport)
        assert [(found.code, found.range) for found in report.items] == [("GTR101", CLIP)]
        assert report.items[0].related_information
        again = await editor.pull(path, report.result_id)
        assert isinstance(again, types.RelatedUnchangedDocumentDiagnosticReport)
        assert again.result_id == report.result_id
        # Who asks while somebody types gets what is found in the newest version.
        editor.edit(path, insertion(0, 0, "#\n"))
        asked = [asyncio.ensure_future(editor.pull(path, report.result_id)) for _ in range(3)]
        await asyncio.sleep(0.05)
        editor.edit(path, insertion(0, 0, "#\n"))
        for answer in await asyncio.gather(*asked):
            assert isinstance(answer, types.RelatedFullDocumentDiagnosticReport)
            assert [found.range.start.line for found in answer.items] in ([10], [11])  # 10: on a slow machine
        last = await editor.pull(path)
        assert isinstance(last, types.RelatedFullDocumentDiagnosticReport)
        assert [found.range.start.line for found in last.items] == [11]
        unknown = await editor.pull(tmp_path / "other.py")
        assert isinstance(unknown, types.RelatedFullDocumentDiagnosticReport)
        assert unknown.items == ()
        assert editor.published == []
