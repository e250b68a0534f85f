"""Which rules run on which file: prefixes, layers, `[tool.gradtrap]`, and errors that say where."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from conftest import RULES, Cli, Stub

from flake8_gradtrap.config import Choice, Codes, ConfigError, Configuration, Settings, check_codes, decide
from flake8_gradtrap.finding import Finding, Span


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
    settings = Settings.of(select=["GTR301"], noqa=False)
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert settings.codes == Codes(frozenset({"GTR000", "GTR301"}), frozenset({"GTR301"}))
    assert not settings.noqa


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
        ("[tool]\ngradtrap = 1\n", 2, "tool.gradtrap must be a table"),
        ("tool.gradtrap.slect = []\n", 1, "unknown key 'slect'"),
        ("[tool]\n\ngradtrap = {slect = []}\n", 3, "unknown key 'slect'"),
    ],
)
def test_errors_name_file_line_and_nearest(cli: Cli, tmp_path: Path, table: str, line: int, message: str) -> None:
    path = write(tmp_path, table)
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
