"""Which rules run on which file: prefixes, layers, `[tool.gradtrap]`, and errors that say where."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, RULES, Cli, Stub
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flake8_gradtrap.catalogue import rule_versions
from flake8_gradtrap.config import Choice, Codes, ConfigError, Configuration, Settings, check_codes, decide
from flake8_gradtrap.finding import Finding, Span
from flake8_gradtrap.own import OwnApis
from flake8_gradtrap.pyproject import KEYS, read_table
from flake8_gradtrap.rule import all_rules


@pytest.fixture(autouse=True)
def _rules(rules: None) -> None:
    """Every test of this file has RULES."""


NOTHING = Choice()


def on(config: Choice = NOTHING, command_line: Choice = NOTHING) -> set[str]:
    """The codes that are on, without their GTR."""
    return {code.removeprefix("GTR") for code in decide(config, command_line, RULES).enabled}


def test_defaults_leave_preview_rules_off() -> None:
    assert on() == {"000", "301", "302", "401"}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (Choice(select=("GTR",)), {"000", "301", "302", "401"}),
        (Choice(select=("GTR3",)), {"000", "301", "302", "307"}),
        (Choice(select=("GTR307",)), {"000", "307"}),
        (Choice(select=()), {"000"}),
        (Choice(extend_select=("GTR307",)), {"000", "301", "302", "307", "401"}),
        (Choice(ignore=("GTR3",)), {"000", "401"}),
        (Choice(ignore=("GTR",)), set()),
        (Choice(ignore=("GTR000",)), {"301", "302", "401"}),
        (Choice(preview=True), {"000", "301", "302", "307", "401", "406"}),
        (Choice(select=("GTR",), preview=True), {"000", "301", "302", "307", "401", "406"}),
        (Choice(ignore=("GTR307",), preview=True), {"000", "301", "302", "401", "406"}),
        # The longest prefix wins, on either side; ignore wins a tie.
        (Choice(select=("GTR3",), ignore=("GTR301",)), {"000", "302", "307"}),
        (Choice(select=("GTR301",), ignore=("GTR3",)), {"000", "301"}),
        (Choice(select=("GTR",), ignore=("GTR3",), extend_select=("GTR302",)), {"000", "302", "401"}),
        (Choice(select=("GTR301",), ignore=("GTR301",)), {"000"}),
    ],
)
def test_the_longest_prefix_wins(choice: Choice, expected: set[str]) -> None:
    assert on(choice) == expected
    assert on(command_line=choice) == expected


@pytest.mark.parametrize(
    ("config", "command_line", "expected"),
    [
        # The command line's select starts afresh.
        (Choice(select=("GTR4",)), Choice(select=("GTR301",)), {"000", "301"}),
        # What the file ignores stays ignored, unless it is selected as precisely.
        (Choice(ignore=("GTR301",)), Choice(select=("GTR3",)), {"000", "302", "307"}),
        (Choice(ignore=("GTR301",)), Choice(select=("GTR301",)), {"000", "301"}),
        (Choice(ignore=("GTR3",)), Choice(extend_select=("GTR301",)), {"000", "301", "401"}),
        # Without a select the file's choice stands, but for what the command line adds and takes away.
        (Choice(select=("GTR301",)), Choice(extend_select=("GTR401",)), {"000", "301", "401"}),
        (Choice(select=("GTR301", "GTR4")), Choice(ignore=("GTR3",)), {"000", "401", "406"}),
        (Choice(preview=True), Choice(preview=False), {"000", "301", "302", "401"}),
    ],
)
def test_the_command_line_decides_over_the_file(config: Choice, command_line: Choice, expected: set[str]) -> None:
    assert on(config, command_line) == expected


def test_preview_findings_of_a_rule_that_is_on_need_preview_or_its_code() -> None:
    finding = Finding("GTR301", "n", "m", "a.py", Span(1, 1, 1, 2), preview=True)

    def shown(choice: Choice) -> bool:
        return Settings(decide(choice, rules=RULES)).reports(finding)

    assert not shown(Choice())
    assert not shown(Choice(select=("GTR",)))
    assert shown(Choice(select=("GTR301",)))
    assert shown(Choice(extend_select=("GTR3",)))
    assert shown(Choice(preview=True))
    assert not shown(Choice(preview=True, ignore=("GTR301",)))


def test_codes_are_normalised() -> None:
    assert check_codes(["gtr301", " GTR3 ", "all"], RULES) == ("GTR301", "GTR3", "GTR")


@pytest.mark.parametrize(("given", "meant"), [("GTR3O1", "GTR301"), ("GRT301", "GTR301"), ("AL", "ALL")])
def test_an_unknown_code_names_the_nearest(given: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown rule code '{given}'; did you mean '{meant}'"):
        check_codes([given], RULES)


@pytest.mark.parametrize("given", ["", "G", "E501", "GTR9999"])
def test_other_unknown_codes(given: str) -> None:
    with pytest.raises(ConfigError, match="unknown rule code"):
        check_codes([given], RULES)


def test_settings_travel_to_other_processes() -> None:
    given = Settings.of(select=["GTR301"], noqa=False)
    assert pickle.loads(pickle.dumps(given)) == given
    assert given.codes == Codes(frozenset({"GTR000", "GTR301"}), frozenset({"GTR301"}))
    assert not given.noqa
    own = replace(given, apis=OwnApis(loggers=("a.b",)))
    assert own.apis.kinds == {"a.b": "loggers"}
    assert pickle.loads(pickle.dumps(own)) == own != given


# -- pyproject.toml ---------------------------------------------------------------------------------------------------


def write(folder: Path, table: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pyproject.toml"
    path.write_text(table)
    return path


def test_the_nearest_file_with_a_table_counts(tmp_path: Path) -> None:
    write(tmp_path, '[tool.gradtrap]\nselect = ["GTR301"]\n')
    write(tmp_path / "a", "[project]\nname = 'a'\n")
    write(tmp_path / "a" / "b", '[tool.gradtrap]\nextend-select = ["GTR401"]\nignore = ["GTR302"]\n')
    (tmp_path / "a" / "b" / "c").mkdir()
    configuration = Configuration()
    assert configuration.for_file(str(tmp_path / "a" / "x.py")).codes.enabled == {"GTR000", "GTR301"}
    inner = configuration.for_file(str(tmp_path / "a" / "b" / "c" / "x.py")).codes.enabled
    assert inner == {"GTR000", "GTR301", "GTR401"}
    alone = Configuration(isolated=True).for_file(str(tmp_path / "a" / "x.py"))
    assert alone == Settings()


def test_a_file_can_be_named(tmp_path: Path) -> None:
    write(tmp_path, '[tool.gradtrap]\nselect = ["GTR401"]\n')
    other = write(tmp_path / "other", '[tool.gradtrap]\nselect = ["GTR301"]\n')
    settings = Configuration(config=other).for_file(str(tmp_path / "x.py"))
    assert settings.codes.enabled == {"GTR000", "GTR301"}
    with pytest.raises(ConfigError, match="cannot read"):
        Configuration(config=tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"there is no \[tool.gradtrap\]"):
        Configuration(config=write(tmp_path / "empty", ""))


def test_per_file_ignores(tmp_path: Path) -> None:
    write(tmp_path, '[tool.gradtrap.per-file-ignores]\n"tests/*" = ["GTR3"]\n"__init__.py" = ["ALL"]\n')
    configuration = Configuration()

    def on(name: str) -> bool:
        path = str(tmp_path / name)
        return "GTR301" in configuration.for_file(path).codes_for(path)

    assert [on("train.py"), on("tests/train.py"), on("a/tests/train.py"), on("a/__init__.py")] == [
        True,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("table", "line", "message"),
    [
        ("[tool.gradtrap]\nselect = []\nextend-slect = []\n", 3, "unknown key 'extend-slect'.*mean 'extend-select'"),
        ("[tool.gradtrap]\n\nignore = [\n  'GTR301',\n  'GTR31',\n]\n", 5, "unknown rule code 'GTR31'"),
        ("[tool.gradtrap]\nselect = ['GTR3']\nignore = ['GTR3', 'GTR8888']\n", 3, "unknown rule code 'GTR8888'"),
        ("[tool.gradtrap]\nselect = 'GTR301'\n", 2, "'select' must be a list of strings"),
        ("[tool.gradtrap]\nselect = [1]\n", 2, "'select' must be a list of strings"),
        ("[tool.gradtrap]\npreview = 'yes'\n", 2, "'preview' must be true or false"),
        ("[tool.other]\nselect = 1\n[tool.gradtrap]\nexclude = 1\n", 4, "'exclude' must be a list of strings"),
        ("[tool.gradtrap.per-file-ignores]\n'a' = ['GTR301']\n'b' = ['GTR8888']\n", 3, "unknown rule code"),
        ("[tool.gradtrap]\nper-file-ignores = 1\n", 2, "'per-file-ignores' must be a table"),
        ("[tool.gradtrap.per-file-ignores]\n'a' = []\n'b' = 'GTR301'\n", 3, "'b' must be a list of strings"),
        ("[tool.gradtrap]\nforce-exclude = 1\n", 2, "'force-exclude' must be true or false"),
        ("[tool.gradtrap]\ntarget-torch = 2.4\n", 2, "'target-torch' must be a string, such as '2.4'"),
        ("[tool.gradtrap]\ntarget-torch = 'new'\n", 2, "'new' is no version of torch, such as '2.4'"),
        (
            "[tool.gradtrap]\nloggers = ['a.b']\nclip-functions = [\n  'a.c',\n  'clip',\n]\n",
            5,
            "'clip' is no full name of a function.*; for a method of that name, write '\\*.clip'",
        ),
        ("[tool.gradtrap]\nloggers = ['a.b']\nmaterialisers = ['a.b']\n", 2, "'a.b' is in materialisers and loggers"),
        ("[tool.gradtrap]\nloggers = 'a.b'\n", 2, "'loggers' must be a list of strings"),
        ("[project]\nkeywords = ['gradtrap', 'slect']\n[tool.gradtrap]\nslect = []\n", 4, "unknown key 'slect'"),
        (
            "[tool.other]\nx = 1 # tool.gradtrap slect\n[tool.gradtrap]\n# slect\n'slect' = []\n",
            5,
            "unknown key 'slect'",
        ),
        ("[tool]\ngradtrap = 1\n", 2, "tool.gradtrap must be a table"),
        ("tool.gradtrap.slect = []\n", 1, "unknown key 'slect'"),
        ("[tool]\n\ngradtrap = {slect = []}\n", 3, "unknown key 'slect'"),
    ],
)
def test_errors_name_file_line_and_nearest(cli: Cli, tmp_path: Path, table: str, line: int, message: str) -> None:
    path = write(tmp_path, table)
    assert len(table.splitlines()) >= line
    with pytest.raises(ConfigError, match=message) as caught:
        Configuration().for_folder(str(tmp_path))
    assert str(caught.value).startswith(f"{path}:{line}: ")
    (tmp_path / "train.py").write_text("x = 1\n")
    result = cli("check", "train.py")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == f"gradtrap: error: {caught.value}\n"


def test_invalid_toml(tmp_path: Path) -> None:
    write(tmp_path, "[tool.gradtrap]\nselect = = 1\n")
    with pytest.raises(ConfigError, match=r"invalid TOML: .*line 2"):
        Configuration().for_folder(str(tmp_path))
    # A file that does not mention gradtrap is not ours to judge.
    write(tmp_path, "[tool.other\n")
    assert Configuration().for_folder(str(tmp_path)) == Settings()


VALUES = st.recursive(
    st.sampled_from(["", "GTR", "GTR301", "a.b", "*.c", "2.4", "[", "\x00", "\ud7ff"])
    | st.integers(-9, 9)
    | st.booleans()
    | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "tests/*", "["]), inner, max_size=2)
    ),
    max_leaves=5,
)


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value).replace("Infinity", "inf").replace("NaN", "nan")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*KEYS, "slect"]), VALUES, max_size=4))
def test_whatever_a_table_holds_is_settings_or_an_error(tmp_path: Path, table: dict[str, object]) -> None:
    path = write(tmp_path, "[tool.gradtrap]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in table.items()))
    try:
        found = Configuration().for_folder(str(tmp_path))
    except ConfigError as error:
        assert re.match(rf"{re.escape(str(path))}:\d+: ", str(error))  # noqa: PT017
    else:
        found.codes_for("a.py")
        found.excludes("a.py")


@pytest.mark.parametrize(
    "data",
    [
        b"[tool.gradtrap]\nselect = " + b"[" * 100_000,
        b"[tool.gradtrap]\nx = " + b"9" * 5000,
        b"\xff gradtrap",
        b"[tool.gradtrap",
    ],
)
def test_files_that_are_no_toml(cli: Cli, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "pyproject.toml").write_bytes(data)
    (tmp_path / "a.py").write_text("")
    result = cli("check", "a.py")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"gradtrap: error: {tmp_path / 'pyproject.toml'}: ")


def test_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(b"\xef\xbb\xbf[tool.gradtrap]\nselect = []\n")
    assert Configuration().for_folder(str(tmp_path)).codes.enabled == {"GTR000"}


def test_force_exclude(cli: Cli, stub: Stub, tmp_path: Path) -> None:
    write(tmp_path, "[tool.gradtrap]\nexclude = ['old', 'gen_*.py']\nforce-exclude = true\n")
    for name in ("train.py", "old/deep/a.py", "gen_a.py", "build/b.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("f()  # trap GTR301\n")
    named = ("train.py", "old/deep/a.py", "gen_a.py", "build/b.py")
    assert cli("check", *named).exit_code == 1
    assert stub.checked == ["train.py"]
    stub.checked.clear()
    cli("check", "--no-force-exclude", *named)
    assert sorted(stub.checked) == sorted(named)
    stub.checked.clear()
    cli("check", "--isolated", "--force-exclude", "--exclude=old", *named)
    assert stub.checked == ["gen_a.py", "train.py"]


def test_per_file_ignores_on_the_command_line(cli: Cli, stub: Stub, tmp_path: Path) -> None:
    write(tmp_path, "[tool.gradtrap.per-file-ignores]\n'a.py' = ['GTR4']\n")
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("f()  # trap GTR301\ng()  # trap GTR401\n")

    def found(*options: str) -> list[str]:
        lines = cli("check", ".", "--output-format=concise", *options).stdout.splitlines()
        return [line.split(" ")[0] for line in lines]

    assert found() == ["a.py:1:1:", "b.py:1:1:", "b.py:2:1:"]
    assert found("--per-file-ignores", "b.py:GTR3,GTR4") == ["a.py:1:1:"]
    assert found("--per-file-ignores=*.py:GTR401", "--per-file-ignores=a.py:GTR301") == ["b.py:1:1:"]
    for wrong, why in (("b.py", "'b.py' is no PATTERN:CODE"), ("b.py:GTR8888", "unknown rule code 'GTR8888'")):
        result = cli("check", ".", "--per-file-ignores", wrong)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"gradtrap: error: --per-file-ignores: {why}")


def test_a_trap_that_is_none_in_an_older_torch(tmp_path: Path) -> None:
    assert rule_versions() == {
        code: tuple(map(int, rule.torch.split("."))) for code, rule in all_rules().items() if rule.torch
    }
    assert rule_versions()["GTR504"] == (1, 1)
    for version, on in (("1.0", False), ("1.0.1", False), ("1.1", True), ("2.4", True)):
        write(tmp_path, f"[tool.gradtrap]\ntarget-torch = '{version}'\n")
        read = Configuration().for_folder(str(tmp_path))
        both = replace(read, codes=Codes(frozenset({"GTR504", "GTR301"}))).codes_for("a.py")
        assert both == ({"GTR301", "GTR504"} if on else {"GTR301"})


def test_show_settings_can_be_pasted_back(cli: Cli, stub: Stub, tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "[tool.gradtrap]\nextend-select = ['GTR307']\nexclude = ['o\"ld']\ntarget-torch = '2.4'\n"
        "loggers = ['a.b', '*.c']\nforce-exclude = true\n[tool.gradtrap.per-file-ignores]\n'tests/*' = ['GTR3']\n",
    )
    (tmp_path / "a.py").write_text("f()  # trap GTR301\n")
    result = cli("check", "a.py", "--show-settings", "--exclude=more")
    assert result.exit_code == 0
    assert stub.checked == []
    assert result.stdout.startswith(f"# a.py\n# read from: {path}\n")
    before = Configuration(exclude=("more",)).for_file(str(tmp_path / "a.py"))
    write(tmp_path, result.stdout)
    after = Configuration().for_file(str(tmp_path / "a.py"))
    assert after.codes.enabled == before.codes.enabled
    assert replace(after, codes=before.codes) == before
    both = cli("check", "--show-settings", "--isolated", "a.py", ".").stdout
    assert both.count("[tool.gradtrap]") == 2
    assert "# read from: no file" in both


def test_the_command_line_uses_it(cli: Cli, stub: Stub, tmp_path: Path) -> None:
    write(tmp_path, "[tool.gradtrap]\nignore = ['GTR301']\nexclude = ['old/*', 'gen_*.py']\n")
    (tmp_path / "old").mkdir()
    for name in ("train.py", "old/a.py", "gen_a.py"):
        (tmp_path / name).write_text("f()  # trap GTR301\ng()  # trap GTR401\n")
    assert cli("check", ".", "--output-format=concise").stdout.split(": ")[0] == "train.py:2:1"
    assert stub.checked == ["train.py"]
    assert cli("check", "--isolated", "train.py").stdout.count("is a trap") == 2
    # What is named on the command line is checked.
    assert cli("check", "gen_a.py").exit_code == 1


def test_the_documented_keys_are_those_that_there_are() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z-]+)` \| [`|-]*", text.split("## Your own APIs")[0], re.MULTILINE) == list(KEYS)
    for table in re.findall(r"```toml\n(.*?)```", text, re.DOTALL):
        read = read_table(Path("pyproject.toml"), re.sub('"GTR[^"]*"', '"GTR301"', table).encode())
        assert read is not None
        assert read.apis.kinds
