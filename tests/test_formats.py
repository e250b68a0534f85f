"""Output formats for other programs: SARIF, GitHub, GitLab, JUnit; each valid, whatever stands in a finding."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import jsonschema
import pytest
from conftest import ROOT, Cli

from flake8_gradtrap.catalogue import rule_address
from flake8_gradtrap.finding import Edit, Finding, Fix, Span, Step
from flake8_gradtrap.fingerprint import Fingerprints, relative
from flake8_gradtrap.report import FORMATS, Sources, Style, render
from flake8_gradtrap.rule import all_rules

SOURCE = """\
params = filter(wanted, model.parameters())
optimizer = AdamW(params)
def train():
    for batch in loader:
        clip(params, 1.0)
        clip(params, 1.0)
"""
FIX = Fix("make it a list", (Edit(Span(1, 10, 1, 10), "list("), Edit(Span(1, 44, 1, 44), ")")), safe=True)
TRACE = (
    Step("`filter(...)` is made here", "src/a b.py", Span(1, 10, 1, 44)),
    Step("used up", "src/a b.py", Span(2, 19, 2, 25)),
    Step("and elsewhere", "/elsewhere/é.py", Span(7, 1, 8, 2)),
)
NAME = "one-shot-iterator-reused"
FINDING = Finding("GTR101", NAME, "`params` is, 100%: used up", "src/a b.py", Span(5, 9, 5, 26), TRACE, FIX)
TWIN = Finding("GTR101", NAME, "again", "src/a b.py", Span(6, 9, 6, 26), severity="error")
BROKEN = Finding("GTR000", "not-analysed", "not analysed", "src/none.py", Span(1, 1, 1, 2), severity="error")
SAID = "a\x1b]0;b\nc\u202e]]>&<'\"%{0}\ufffe\ud800"
EVIL = Finding("GTR401", "n", SAID, "\x1b/x<>.py", Span(1, 1, 3, 2), (Step("\x07", "y\x9b", Span(1, 1, 1, 1)),))
ALL = (FINDING, TWIN, BROKEN, EVIL)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CI_PROJECT_DIR", raising=False)


def show(format: str, *findings: Finding, source: str = SOURCE) -> str:
    return render(format, findings, Sources({"src/a b.py": source.encode()}), Style())


def closed(**properties: Any) -> dict[str, Any]:
    """An object with these members, those that end in _ optional, and no others."""
    return {
        "type": "object",
        "properties": {name.rstrip("_").replace("__", "$"): kind for name, kind in properties.items()},
        "required": [name.replace("__", "$") for name in properties if not name.endswith("_")],
        "additionalProperties": False,
    }


TEXT = {"type": "string", "minLength": 1}
URI = {"type": "string", "pattern": r"^[\w.~:/%?#@!$&'()*+,;=-]+$"}
NUMBER = {"type": "integer", "minimum": 1}
MESSAGE = closed(text=TEXT)
REGION = closed(startLine=NUMBER, startColumn_=NUMBER, endLine=NUMBER, endColumn_=NUMBER)
ARTIFACT = closed(uri=URI, uriBaseId_={"const": "%SRCROOT%"})
PLACE = closed(artifactLocation=ARTIFACT, region=REGION)
LEVEL = {"enum": ["none", "note", "warning", "error"]}
RULE = closed(
    id=TEXT,
    name_={"type": "string", "pattern": r"^([A-Z]\w*)+$"},
    shortDescription_=MESSAGE,
    help_=closed(text=TEXT, markdown=TEXT),
    helpUri_=URI,
    defaultConfiguration_=closed(level=LEVEL, enabled={"type": "boolean"}),
    properties_={"type": "object"},
)
IMPORTANCE = {"enum": ["important", "essential", "unimportant"]}
STEP = closed(location=closed(physicalLocation=PLACE, message=MESSAGE), importance=IMPORTANCE)
RESULT = closed(
    ruleId=TEXT,
    ruleIndex={"type": "integer", "minimum": 0},
    level=LEVEL,
    message=MESSAGE,
    locations={"type": "array", "items": closed(physicalLocation=PLACE), "minItems": 1, "maxItems": 1},
    partialFingerprints={"type": "object", "additionalProperties": TEXT},
    codeFlows_={
        "type": "array",
        "items": closed(
            threadFlows={
                "type": "array",
                "items": closed(locations={"type": "array", "items": STEP, "minItems": 1}),
                "minItems": 1,
            }
        ),
    },
    fixes_={
        "type": "array",
        "items": closed(
            description=MESSAGE,
            artifactChanges={
                "type": "array",
                "items": closed(
                    artifactLocation=ARTIFACT,
                    replacements={
                        "type": "array",
                        "items": closed(deletedRegion=REGION, insertedContent=closed(text={"type": "string"})),
                        "minItems": 1,
                    },
                ),
                "minItems": 1,
            },
        ),
    },
    properties_={"type": "object"},
)
DRIVER = closed(name=TEXT, version=TEXT, rules={"type": "array", "items": RULE, "uniqueItems": True})
RUN = closed(
    tool=closed(driver=DRIVER),
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
    results={"type": "array", "items": RESULT},
)
SARIF = closed(__schema=URI, version={"const": "2.1.0"}, runs={"type": "array", "items": RUN, "minItems": 1})
"""As much of SARIF 2.1.0 as gradtrap writes. The official schema is not ours to ship: see below."""


def validate(report: str) -> dict[str, Any]:
    log: dict[str, Any] = json.loads(report)
    jsonschema.Draft202012Validator(SARIF).validate(log)
    official = os.environ.get("SARIF_SCHEMA")
    if official:
        schema = json.loads(Path(official).read_bytes())
        kind = jsonschema.validators.validator_for(schema)
        kind(schema, format_checker=jsonschema.FormatChecker()).validate(log)
    for run in log["runs"]:
        for result in run["results"]:
            assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    return log


# -- SARIF ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("findings", [(), (FINDING,), ALL, (EVIL,)])
def test_sarif_is_valid(findings: tuple[Finding, ...]) -> None:
    log = validate(show("sarif", *findings))
    assert len(log["runs"][0]["results"]) == len(findings)


@pytest.mark.skipif("SARIF_SCHEMA" not in os.environ, reason="SARIF_SCHEMA does not name OASIS's schema")
def test_sarif_is_valid_by_the_official_schema(cli: Cli) -> None:
    validate(cli("check", "--output-format=sarif", "--isolated", str(ROOT / "fixtures" / "stories")).stdout)


def test_a_validator_that_finds_errors() -> None:
    wrong = show("sarif", FINDING).replace('"startLine"', '"startRow"')
    with pytest.raises(jsonschema.ValidationError):
        validate(wrong)


def test_sarif() -> None:
    (run,) = validate(show("sarif", *ALL))["runs"]
    rules = {rule["id"]: rule for rule in run["tool"]["driver"]["rules"]}
    assert rules["GTR101"]["name"] == "OneShotIteratorReused"
    assert "## Why it is a trap" in rules["GTR101"]["help"]["markdown"]
    first, twin, broken, _ = run["results"]
    where = first["locations"][0]["physicalLocation"]
    assert where["artifactLocation"] == {"uri": "src/a%20b.py", "uriBaseId": "%SRCROOT%"}
    assert where["region"] == {"startLine": 5, "startColumn": 9, "endLine": 5, "endColumn": 26}
    steps = first["codeFlows"][0]["threadFlows"][0]["locations"]
    assert [step["location"]["message"]["text"] for step in steps] == [step.message for step in TRACE]
    outside = steps[2]["location"]["physicalLocation"]["artifactLocation"]
    assert outside == {"uri": "file:///elsewhere/%C3%A9.py"}
    replaced = first["fixes"][0]["artifactChanges"][0]["replacements"]
    assert [part["insertedContent"]["text"] for part in replaced] == ["list(", ")"]
    assert [result["level"] for result in (first, twin, broken)] == ["warning", "error", "error"]
    assert "codeFlows" not in twin


def fingerprints(source: str, *findings: Finding) -> list[str]:
    (run,) = validate(show("sarif", *findings, source=source))["runs"]
    return [result["partialFingerprints"]["gradtrap/v1"] for result in run["results"]]


def moved(finding: Finding, rows: int) -> Finding:
    span = finding.span
    return Finding(
        finding.code, finding.name, "said otherwise", finding.filename, Span(span.row + rows, 1, span.end_row + rows, 2)
    )


def test_fingerprints_survive_moved_lines_and_tell_twins_apart() -> None:
    before = fingerprints(SOURCE, FINDING, TWIN)
    assert len(set(before)) == 2
    assert fingerprints("import x\n\n" + SOURCE, moved(FINDING, 2), moved(TWIN, 2)) == before
    assert fingerprints(SOURCE.replace("        clip", "          clip"), FINDING, TWIN) == before
    assert fingerprints(SOURCE.replace("1.0", "2.0"), FINDING) != before[:1]
    assert fingerprints(SOURCE.replace("def train", "def other"), FINDING) != before[:1]
    assert fingerprints("def f(:\n" + SOURCE, moved(FINDING, 1))


def test_fingerprints_know_the_function() -> None:
    source = "class A:\n    @d\n    def f(self):\n        x\n    y\nasync def g():\n    if x:\n        def h(): x\nx\n"
    tell = Fingerprints(Sources({"a.py": source.encode()}))
    names = [tell.key(Finding("GTR101", "n", "m", "a.py", Span(row, 1, row, 2)))[1] for row in range(1, 10)]
    assert names == ["A", "A.f", "A.f", "A.f", "A", "g", "g", "g.h", ""]


# -- the others -------------------------------------------------------------------------------------------------------


def test_github() -> None:
    first, twin, broken, evil = show("github", *ALL).splitlines()
    assert first == (
        "::warning title=gradtrap (GTR101),file=src/a b.py,line=5,endLine=5,col=9,endColumn=26"
        "::src/a b.py:5:9: GTR101 `params` is, 100%25: used up"
    )
    assert twin.startswith("::error ")
    assert broken.startswith("::error ")
    assert "line=1,endLine=3::" in evil  # no columns where it has several lines
    for line in show("github", *ALL).splitlines():
        properties, message = re.fullmatch(r"::\w+ (.*?)::(.*)", line).groups()  # type: ignore[union-attr]
        assert all(part.count("=") == 1 for part in properties.split(","))
        assert "\x1b" not in unquote(message)
    assert show("github") == ""


def test_gitlab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = json.loads(show("gitlab", *ALL))
    assert report[0] == {
        "description": "GTR101: `params` is, 100%: used up",
        "check_name": "GTR101",
        "fingerprint": report[0]["fingerprint"],
        "severity": "major",
        "location": {
            "path": "src/a b.py",
            "positions": {"begin": {"line": 5, "column": 9}, "end": {"line": 5, "column": 26}},
        },
    }
    assert len({issue["fingerprint"] for issue in report}) == len(ALL)
    assert [issue["severity"] for issue in report] == ["major", "critical", "critical", "major"]
    monkeypatch.setenv("CI_PROJECT_DIR", str(tmp_path.parent))
    assert json.loads(show("gitlab", FINDING))[0]["location"]["path"] == f"{tmp_path.name}/src/a b.py"
    assert show("gitlab") == "[]\n"


def test_junit() -> None:
    text = show("junit", *ALL)
    root = ElementTree.fromstring(text)
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("4", "3", "1")
    odd = relative("\x1b/x<>.py").replace("\x1b", "\ufffd")
    assert [suite.get("name") for suite in root] == ["src/a b.py", "src/none.py", odd]
    case = root[0][0]
    assert (case.get("classname"), case.get("line")) == ("src/a b.py", "5")
    assert case.get("name") == "GTR101 one-shot-iterator-reused at 5:9"
    assert case[0].tag == "failure"
    assert case[0].get("message") == FINDING.message
    assert "  ^^^^^^^^^^^^^^^^^" in (case[0].text or "")
    assert root[1][0][0].tag == "error"
    assert text.isascii()
    empty = ElementTree.fromstring(show("junit"))
    assert [case.get("name") for case in empty.iter("testcase")] == ["no traps found"]


def test_every_format_holds_whatever_a_finding_says() -> None:
    for format in FORMATS:
        text = show(format, *ALL)
        assert "\x1b" not in text
        text.encode()


# -- notebooks, and the command line ----------------------------------------------------------------------------------


def test_notebooks_are_shown_by_their_lines_on_disk(cli: Cli) -> None:
    data = (ROOT / "fixtures" / "notebooks" / "finetune.ipynb").read_bytes()
    Path("a.ipynb").write_bytes(data)
    lines = data.decode().splitlines()
    rows = [number for number, line in enumerate(lines, 1) if "# expect: " in line]

    def report(format: str) -> str:
        return cli("check", f"--output-format={format}").stdout

    (run,) = validate(report("sarif"))["runs"]
    regions = [result["locations"][0]["physicalLocation"]["region"] for result in run["results"]]
    assert regions == [{"startLine": row, "endLine": row} for row in rows]
    assert [result["properties"] for result in run["results"]] == [{"cell": 8}, {"cell": 8}, {"cell": 9}]
    assert "(cell 8, line 10)" in run["results"][0]["message"]["text"]
    assert "fixes" not in run["results"][0]
    steps = run["results"][0]["codeFlows"][0]["threadFlows"][0]["locations"]
    assert "filter(" in lines[steps[0]["location"]["physicalLocation"]["region"]["startLine"] - 1]
    assert [issue["location"]["positions"]["begin"]["line"] for issue in json.loads(report("gitlab"))] == rows
    assert re.findall(r"line=(\d+),endLine=\1::a.ipynb:cell \d:", report("github")) == [str(row) for row in rows]
    cases = ElementTree.fromstring(report("junit")).iter("testcase")
    assert "at cell 8:10:9" in (next(cases).get("name") or "")
    Path("a.ipynb").write_text(json.dumps(json.loads(data)))  # all in one line
    assert "line=1,endLine=1::a.ipynb:cell 8:10:9:" in report("github")


def test_reports_go_to_a_file(cli: Cli) -> None:
    Path("a.py").write_text("def f(:\n")
    result = cli("check", "--output-format=junit", "-o", "report.xml", "--statistics")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "1 file" in result.stderr
    assert ElementTree.parse("report.xml").getroot().get("errors") == "1"
    assert cli("check", "--output-file=none/report.xml").exit_code == 2
    shown = cli("check", "--output-format=github", "--statistics").stdout
    assert "1 file, " in shown
    for format in ("json", "sarif", "gitlab", "junit"):
        assert "1 file, " not in cli("check", f"--output-format={format}", "--statistics").stdout


def test_the_address_of_a_rule() -> None:
    address = rule_address("GTR101")
    assert address
    if address.startswith("file:"):
        assert Path(unquote(address.removeprefix("file://"))).read_text(encoding="utf-8").startswith('"""')
    assert rule_address("GTR9999") is None
    assert all(rule_address(code) for code in all_rules())
