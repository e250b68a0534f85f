"""The command line: `gradtrap check`, `rule`, `prove` and `confirm`."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from flake8_gradtrap import __version__, checking, files, report
from flake8_gradtrap.cache import Cache, clean, default_folder
from flake8_gradtrap.catalogue import rule_defaults
from flake8_gradtrap.config import Choice, ConfigError, Configuration, check_codes, known_rules, nearest, split_per_file
from flake8_gradtrap.report import count
from flake8_gradtrap.terminal import colour, plain

if TYPE_CHECKING:
    from flake8_gradtrap.rule import Rule


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gradtrap")
def main() -> None:
    """Find the bugs that let a PyTorch training run finish and teach the model nothing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def fail(message: str) -> NoReturn:
    """End with exit code 2: something is wrong with the call, or with us; not with the code that was read."""
    click.echo(f"gradtrap: error: {message}", err=True)
    raise click.exceptions.Exit(2)


# -- check ------------------------------------------------------------------------------------------------------------


def _jobs(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    if value is None or value == "auto":
        return None if value is None else 0
    if not value.isdecimal():
        raise click.BadParameter(f"{value!r} is neither a number of processes nor 'auto'")
    return int(value)


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The codes that a shell can offer; of a list with commas, those for its last part."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{code}" for code in rule_defaults() if code.startswith(last.upper())]


def _codes(name: str, help: str) -> Callable[[Any], Any]:
    return click.option(f"--{name}", multiple=True, metavar="CODES", help=help, shell_complete=_complete)


_OUT = click.Path(dir_okay=False, path_type=Path)
_CACHE_FOLDER = click.option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="GRADTRAP_CACHE_DIR",
    help="Where the cache lies; .gradtrap_cache in the root of the project if not given.",
)


@main.command()
@click.argument("paths", nargs=-1, metavar="[PATH|-]...")
@_codes("select", "Only these codes or prefixes, comma-separated; ALL for all.")
@_codes("ignore", "Not these codes or prefixes.")
@_codes("extend-select", "These codes or prefixes as well.")
@click.option("--preview/--no-preview", default=None, help="Preview rules too.")
@click.option("--fix", is_flag=True, help="Apply safe fixes to the files.")
@click.option("--unsafe-fixes", is_flag=True, help="With --fix or --diff: fixes that may change what the program does.")
@click.option("--diff", is_flag=True, help="Show what --fix would change, and write nothing.")
@click.option("--output-format", type=click.Choice(report.FORMATS), default="full", show_default=True)
@click.option("-o", "--output-file", type=_OUT, help="Write the report to a file.")
@click.option("--statistics", is_flag=True, help="Count the findings of each code, and what was run to find them.")
@click.option("--exclude", multiple=True, metavar="PATTERNS", help="Leave out files and folders met on the way.")
@click.option("--force-exclude/--no-force-exclude", default=None, help="Leave out files that are named, too.")
@click.option("--per-file-ignores", multiple=True, metavar="PATTERN:CODE", help="Not these codes in these files.")
@click.option("--stdin-filename", metavar="PATH", help="The name of what is read from standard input.")
@click.option("--config", type=click.Path(path_type=Path), help="Read [tool.gradtrap] of this file.")
@click.option("--isolated", is_flag=True, help="Read no configuration.")
@click.option("--show-settings", is_flag=True, help="Show the settings of these paths, and check nothing.")
@click.option("-j", "--jobs", callback=_jobs, metavar="N", help="Processes; 0 or 'auto': one a core.")
@click.option("--no-cache", is_flag=True, envvar="GRADTRAP_NO_CACHE", help="Neither read nor write the cache.")
@_CACHE_FOLDER
@click.option("--exit-zero", is_flag=True, help="Exit with 0 also if there are findings.")
@click.option("--add-noqa", is_flag=True, help="Hide each finding by a comment on its line.")
@click.option("--baseline", type=_OUT, help="Tell only what this file does not know.")
@click.option("--update-baseline", is_flag=True, help="Write what is found into the baseline.")
@click.option("--watch", is_flag=True, help="Check again whenever a file changes.")
def check(
    paths: tuple[str, ...],
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    extend_select: tuple[str, ...],
    preview: bool | None,
    fix: bool,
    unsafe_fixes: bool,
    diff: bool,
    output_format: str,
    output_file: Path | None,
    statistics: bool,
    exclude: tuple[str, ...],
    force_exclude: bool | None,
    per_file_ignores: tuple[str, ...],
    stdin_filename: str | None,
    config: Path | None,
    isolated: bool,
    show_settings: bool,
    jobs: int | None,
    no_cache: bool,
    cache_dir: Path | None,
    exit_zero: bool,
    add_noqa: bool,
    baseline: Path | None,
    update_baseline: bool,
    watch: bool,
) -> None:
    """Check files and folders ("." where none is given; "-": standard input).

    Exit code 0: nothing found, 1: findings, 2: wrong usage or an error of ours.
    """
    if isolated and config is not None:
        fail("--config and --isolated exclude each other")
    if update_baseline and baseline is None:
        fail("--update-baseline needs --baseline FILE")
    if add_noqa and (fix or diff or update_baseline):
        fail("--add-noqa goes neither with --fix and --diff nor with --update-baseline")
    for path in paths:
        if path != files.STDIN and not os.path.lexists(path):
            fail(f"{path}: no such file or folder")
    if files.STDIN in paths and (watch or add_noqa):
        fail(f"{'--watch' if watch else '--add-noqa'} needs files: standard input is read once")
    cache = None if no_cache else Cache(_cache_folder(cache_dir))
    try:
        choice = _choice(select, ignore, extend_select, preview)
        ignores = split_per_file(_split(per_file_ignores), "--per-file-ignores: ")
    except ConfigError as error:
        fail(str(error))

    def configuration() -> Configuration:
        return Configuration(choice, _split(exclude), config, isolated, ignores, force_exclude)

    options = checking.Options(
        paths=paths or (os.curdir,),
        configuration=configuration,
        stdin_filename=stdin_filename,
        fix=fix,
        unsafe_fixes=unsafe_fixes,
        diff=diff,
        add_noqa=add_noqa,
        baseline=baseline,
        update_baseline=update_baseline,
        output_format=output_format,
        output_file=output_file,
        statistics=statistics,
        jobs=jobs,
        cache=cache,
    )
    try:
        if show_settings:
            from flake8_gradtrap.pyproject import settings_text

            for path in options.paths:
                name = stdin_filename or path if path == files.STDIN else path
                click.echo(settings_text(name, configuration().for_path(name)))
            return
        if watch:
            checking.follow(options)
        found = checking.run(options)
    except ConfigError as error:
        fail(str(error))
    raise click.exceptions.Exit(int(found and not exit_zero))


def _cache_folder(given: Path | None) -> str:
    """A folder that is given may be a link; where we choose, none is followed."""
    return default_folder() if given is None else os.path.realpath(given)


def _split(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(part for value in values for part in re.split(r"[,\s]+", value) if part)


def _choice(
    select: tuple[str, ...], ignore: tuple[str, ...], extend_select: tuple[str, ...], preview: bool | None
) -> Choice:
    return Choice(
        check_codes(_split(select), where="--select: ") if select else None,
        check_codes(_split(ignore), where="--ignore: "),
        check_codes(_split(extend_select), where="--extend-select: "),
        preview,
    )


# -- clean ------------------------------------------------------------------------------------------------------------


@main.command("clean")
@_CACHE_FOLDER
def clean_cache(cache_dir: Path | None) -> None:
    """Remove the cache of the project in which you are (or that in --cache-dir). Nothing else is removed."""
    folder = _cache_folder(cache_dir)
    removed = clean(folder)
    click.echo(f"Removed {count(removed, 'file')} from {folder}." if removed else f"No cache in {folder}.")


# -- rule -------------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("code", required=False, shell_complete=_complete)
@click.option("--all", "every", is_flag=True, help="Every rule.")
def rule(code: str | None, every: bool) -> None:
    """Explain a rule: what it finds, why that is a trap, and how to fix it."""
    if every == (code is not None):
        fail("give a code, or --all")
    from flake8_gradtrap.pages import page

    chosen = _every_rule() if code is None else [_known_rule(code)]
    text = "\n\n".join(page(known) for known in chosen)
    if colour():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        click.echo(plain(text), nl=False)


def _every_rule() -> list[type[Rule]]:
    from flake8_gradtrap.rule import all_rules  # not needed to check files that the cache knows

    try:
        known_rules()  # there are some
    except ConfigError as error:
        fail(str(error))
    return list(all_rules().values())


def _known_rule(code: str) -> type[Rule]:
    """The rule of a code or a name."""
    rules = {known.code: known for known in _every_rule()}
    if code.upper() in rules:
        return rules[code.upper()]
    by_name = {known.name: known for known in rules.values()}
    if code.lower() not in by_name:
        fail(f"unknown rule {code!r}{nearest(code.upper(), rules) or nearest(code.lower(), by_name)}")
    return by_name[code.lower()]


# -- prove ------------------------------------------------------------------------------------------------------------

_FILE = click.Path(dir_okay=False, path_type=Path)


@main.command()
@click.argument("codes", nargs=-1, metavar="[CODE]...", shell_complete=_complete)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures to a file."
)
@click.option(
    "--plot", "plot_file", type=click.Path(dir_okay=False, path_type=Path), help="Draw the figures (.png, .svg)."
)
def prove(codes: tuple[str, ...], device: str, json_file: Path | None, plot_file: Path | None) -> None:
    """Run the demos of rules (all, or those named): real training steps with the trap and without.

    Exit code 0: every trap showed its mechanism, and no fixed step did; 1: a proof failed.
    """
    chosen = [_known_rule(code) for code in _split(codes)] or _every_rule()
    for option, file in (("--json", json_file), ("--plot", plot_file)):
        if file is not None and not file.absolute().parent.is_dir():
            fail(f"{option}: {file.parent}: no such folder")
    for needed in ("torch", "matplotlib") if plot_file is not None else ("torch",):
        if importlib.util.find_spec(needed) is None:
            fail(f"prove needs {needed}: pip install 'flake8-gradtrap[runtime]'")
    from rich.console import Console

    from flake8_gradtrap.runtime import prove as real

    try:
        where = real.describe(real.pick_device(device))
    except ValueError as error:
        fail(f"--device {device}: {error}")
    proofs = []
    with _progress(len(chosen)) as advance:
        for proof in real.prove(chosen, where["device"]):
            proofs.append(proof)
            advance(proof.code)
    if json_file is not None:
        json_file.write_text(json.dumps(real.as_json(proofs, where), indent=2) + "\n", encoding="utf-8")
    if plot_file is not None:
        try:
            real.plot(proofs, where, plot_file)
        except ValueError as error:  # the ending is no format that matplotlib knows
            fail(f"--plot: {error}")
    console = Console(no_color=not colour(), highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(real.table(proofs, where))
    failed = [proof.code for proof in proofs if not proof.ok]
    proved = sum(proof.verdict == "PASS" for proof in proofs)
    said = f"{count(proved, 'trap')} proved" + (f", {len(failed)} not: {', '.join(failed)}" if failed else "")
    click.echo(f"\n{said} (same seed and data with and without the trap, {where['device']}, torch {where['torch']})")
    raise click.exceptions.Exit(int(bool(failed)))


# -- confirm ----------------------------------------------------------------------------------------------------------


@main.command(context_settings={"ignore_unknown_options": False})
@click.argument("script", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENTS]...")
@click.option("-m", "module", metavar="MODULE", help="Run a module, as `python -m` does.")
@click.option(
    "--steps", type=click.IntRange(min=0), default=50, show_default=True, help="Optimizer steps; 0: no limit."
)
@click.option("--timeout", type=click.FloatRange(min=0), default=600, show_default=True, help="Seconds; 0: no limit.")
@click.option("--workdir", default="", metavar="FOLDER", help="Where to run it; 'temporary': a folder that is removed.")
@click.option("--json", "json_file", type=_FILE, help="Write verdicts and numbers to a file.")
@click.option("--sarif", "sarif_file", type=_FILE, help="Write the verdicts to a file, as SARIF.")
@_codes("select", "Only these rules, by code or prefix.")
@_codes("ignore", "Not these rules.")
@_codes("extend-select", "These rules, too.")
@click.option("--preview/--no-preview", default=None, help="Also rules in preview.")
@click.option(
    "--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Take settings from a file."
)
@click.option("--isolated", is_flag=True, help="Read no settings.")
def confirm(
    script: str | None,
    arguments: tuple[str, ...],
    module: str | None,
    steps: int,
    timeout: float,
    workdir: str,
    json_file: Path | None,
    sarif_file: Path | None,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    extend_select: tuple[str, ...],
    preview: bool | None,
    config: Path | None,
    isolated: bool,
) -> None:
    """Run a training SCRIPT for some steps, and say of each finding whether it is a trap there. This runs your code.

    Exit code 1: a trap was confirmed, or seen only at run time; 2: the program failed, or wrong usage; 0: neither.
    """
    if module is not None and script is not None:
        arguments, script = (script, *arguments), None
    if (script is None) == (module is None):
        fail("give a script, or -m MODULE")
    if isolated and config is not None:
        fail("--config and --isolated exclude each other")
    for option, file in (("--json", json_file), ("--sarif", sarif_file)):
        if file is not None and not file.absolute().parent.is_dir():
            fail(f"{option}: {file.parent}: no such folder")
    if workdir not in ("", "temporary") and not Path(workdir).is_dir():
        fail(f"--workdir: {workdir}: no such folder")
    if importlib.util.find_spec("torch") is None:
        fail("confirm needs torch: pip install 'flake8-gradtrap[runtime]'")
    from flake8_gradtrap.runtime.confirm import command, running, targets

    try:
        target = targets.find(script, module)
        configuration = Configuration(_choice(select, ignore, extend_select, preview), (), config, isolated)
        request = running.Request(target, arguments, steps, timeout, workdir)
        files = {"--json": json_file, "--sarif": sarif_file}
        status = command.run(request, configuration, files, colour())
    except (targets.NotFound, ConfigError) as error:
        fail(str(error))
    except Exception as error:  # of ours: exit code 1 would say that a trap was confirmed
        traceback.print_exc()
        fail(f"internal error: {type(error).__name__}: {error}; please report it")
    raise click.exceptions.Exit(status)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on standard error, on a terminal only; called with the name of what is done."""
    if not sys.stderr.isatty() or total < 2:
        yield lambda name: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("proving", total=total)
        yield lambda name: bar.update(task, advance=1, description=name)


# -- server -----------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--stdio", is_flag=True, help="Talk on standard input and output; there is no other way.")
def server(stdio: bool) -> None:
    """Serve an editor: the language server protocol on standard input and output.

    Editors start this by themselves; docs/editors.md says how to set them up.
    """
    for needed in ("pygls", "lsprotocol"):
        if importlib.util.find_spec(needed) is None:
            fail(f"the server needs {needed}: pip install 'flake8-gradtrap[lsp]'")
    from flake8_gradtrap.server.app import main as serve

    serve()
