"""What people read: links, commands, the guide, the picture, the figures, and the site that is built of it."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest
from conftest import ROOT
from markdown_it import MarkdownIt
from markdown_it.token import Token

from flake8_gradtrap.cli import main
from flake8_gradtrap.pages import figures, page
from flake8_gradtrap.rule import all_rules

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *(path for path in sorted(DOCS.rglob("*.md")) if "node_modules" not in path.parts)]
DEMOS = {
    code: module
    for code, rule in all_rules().items()
    if hasattr(module := importlib.import_module(rule.__module__), "trapped")
}


def tokens(path: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))


def targets(path: Path) -> Iterator[str]:
    """Where the links and pictures of a page lead."""
    for token in tokens(path):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if target is not None:
                yield str(target)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and GitLab make them."""
    found = set()
    for before, token in zip(tokens(path), tokens(path)[1:], strict=False):
        if before.type == "heading_open":
            words = "".join(child.content for child in token.children or ())
            found.add(re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-"))
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    for target in targets(path):
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            assert parts.scheme in ("https", "http"), target
            assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), target
            assert not re.search(r"example\.(com|org)", parts.netloc), target
            continue
        place = (path.parent / parts.path).resolve() if parts.path else path
        assert place.exists(), f"{target}: no such file"
        assert place.is_relative_to(ROOT), target
        if parts.fragment:
            assert parts.fragment in anchors(place), f"{target}: no such heading"


def code(path: Path) -> Iterator[str]:
    return (token.content for token in tokens(path) if token.type == "fence")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_exist_with_their_options(path: Path) -> None:
    for block in code(path):
        for name, rest in re.findall(r"^[^#|\n]*?\bgradtrap ([a-z]+)\b([^#|\n]*)", block, re.MULTILINE):
            if name == "runs":  # "gradtrap confirm runs your code"
                continue
            command = main.commands.get(name)  # type: ignore[attr-defined]
            assert command is not None, name
            known = {option for each in command.params if isinstance(each, click.Option) for option in each.opts}
            known |= {option for each in command.params for option in each.secondary_opts}
            used = re.findall(r"(?<![\w-])--[a-z][\w-]*", re.split(r" -- ", rest)[0])
            assert set(used) <= known, f"gradtrap {name} {rest}"


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    run = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert not re.search("warning|error", run.stderr, re.IGNORECASE), run.stderr
    for source in PAGES[1:]:
        name = source.relative_to(DOCS).with_suffix("")
        folder = name.parent if name.name in ("index", "README") else name
        built = (tmp_path / folder / "index.html").read_text(encoding="utf-8")
        assert not re.search(r'(src|href)="https?://[^"]*(cdn|fonts|unpkg)', built), f"{source}: fetched from elsewhere"
        text = re.sub(r"<(pre|code|script|style)\b.*?</\1>", "", built, flags=re.DOTALL)
        for paragraph in re.findall(r"<p>(.*?)</p>", text, re.DOTALL):
            # What GitHub takes for a list or a table, the site must take for one, too.
            assert not re.search(r"^(- |\d+\. |\|)|`|\]\(", paragraph, re.MULTILINE), f"{source}: {paragraph}"


def test_every_page_is_in_the_navigation_and_ships_with_the_sources() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md")):
        if "vscode" not in path.parts:
            assert re.search(rf"[ :]{re.escape(path.relative_to(DOCS).as_posix())}$", text, re.MULTILINE), path
    assert '"/mkdocs.yml"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_every_rule_with_a_demo_has_figures() -> None:
    measured = {proof["code"]: proof for proof in figures()["proofs"]}
    assert measured.keys() == DEMOS.keys(), "python docs/figures.py CODE measures them"
    assert figures()["torch"]
    assert figures()["device"] == "cpu"
    for rule in all_rules().values():
        assert ("| What is measured |" in page(rule)) == (rule.code in DEMOS)
        assert ("## Proof\n\nNone: " in page(rule)) == (rule.code not in DEMOS)


@pytest.mark.parametrize("code", DEMOS)
def test_the_figures_show_the_mechanism(code: str) -> None:
    (proof,) = (proof for proof in figures()["proofs"] if proof["code"] == code)
    arms = [{name: float(value) for name, value in proof[arm].items()} for arm in ("trapped", "fixed")]
    DEMOS[code].check(*arms)
    with pytest.raises(AssertionError):
        DEMOS[code].check(arms[1], arms[1])


def test_plots_are_small_and_shown() -> None:
    plots = sorted((DOCS / "rules" / "plots").iterdir())
    assert 4 <= len(plots) <= 8
    for plot in plots:
        assert plot.stat().st_size < 60_000
        assert f"](plots/{plot.name})" in (DOCS / "rules" / f"{plot.stem}.md").read_text(encoding="utf-8")


def test_speeds_are_those_that_were_measured() -> None:
    measured = (DOCS / "measurements.md").read_text(encoding="utf-8").partition("### Beside other tools")[2]
    compared = (DOCS / "compared.md").read_text(encoding="utf-8").partition("## Speed")[2]
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) \|$", compared, re.MULTILINE)
    assert len(rows) == 8
    for name, seconds in rows:
        row = next(line for line in measured.splitlines() if line.startswith(f"| {name} |"))
        assert row.split(" | ")[3] == seconds, name
    readme = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Compared")[2].partition("## Rules")[0]
    assert set(re.findall(r"\d+\.\d+", readme)) <= {seconds for _, seconds in rows}


# -- the guide --------------------------------------------------------------------------------------------------------

GUIDE = DOCS / "guide.md"


def spoken(text: str) -> list[str]:
    """The lines of an output, without what another machine or version of torch says differently."""
    text = re.sub(r"\d\.\d+\.\d+(\+\w+)?", "VERSION", text)
    text = re.sub(r"\d+\.\d+", "NUMBER", text)
    text = re.sub(r"cpu \(\w+\)", "cpu (MACHINE)", text)
    return sorted(line for line in (" ".join(line.split()) for line in text.splitlines()) if line)


def test_the_guide_says_what_is_printed(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = GUIDE.read_text(encoding="utf-8")
    (program,) = (block for block in code(GUIDE) if block.startswith("import torch\n"))
    (tmp_path / "train.py").write_text(program, encoding="utf-8")
    variables = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "CUDA_VISIBLE_DEVICES": ""}
    variables["OMP_NUM_THREADS"] = "1"
    blocks = re.findall(r"^```console\n\$ gradtrap ([^\n]+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 7
    for arguments, shown in blocks:
        command = [sys.executable, "-m", "flake8_gradtrap", *arguments.split()]
        run = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, encoding="utf-8")
        assert run.returncode in (0, 1), run.stderr
        if "\n...\n" in shown:  # it shows parts
            wanted = ".*".join(
                re.escape(part.strip("\n")) for part in re.split(r"^\.\.\.\n", shown, flags=re.MULTILINE)
            )
            assert re.search(wanted, run.stdout, re.DOTALL), arguments
        else:
            assert spoken(shown) == spoken(run.stdout + run.stderr), arguments
