"""docs/pictures/check.svg: what `gradtrap check` says in a terminal of a program in fixtures/stories.

The program is copied without the comments that mark what is expected of it, and checked in a terminal of its own
(Linux, macOS).
"""

from __future__ import annotations

import html
import io
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
STORY = ROOT / "fixtures" / "stories" / "trap_lora_filter_alias.py"
PICTURE = ROOT / "docs" / "pictures" / "check.svg"
WIDTH = 100
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def say() -> str:
    """What a terminal gets, colours included."""
    with tempfile.TemporaryDirectory() as folder:
        program = re.sub(r" *# expect: .*", "", STORY.read_text(encoding="utf-8"))
        (Path(folder) / "train.py").write_text(program, encoding="utf-8")
        ours, theirs = pty.openpty()
        variables = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        variables |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
        command = [sys.executable, "-m", "flake8_gradtrap", "check", "--isolated", "--no-cache", "train.py"]
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=theirs)
        os.close(theirs)
        said = b""
        while chunk := _read(ours):
            said += chunk
        os.close(ours)
        if process.wait() != 1:
            raise SystemExit("the story holds a trap, and gradtrap does not find it")
    return said.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux: the other side is closed
        return b""


def draw() -> str:
    """The picture; as it lies there, if that shows what is said now."""
    drawn = _draw()
    stored = PICTURE.read_text(encoding="utf-8") if PICTURE.exists() else ""
    return stored if said_in(stored) == said_in(drawn) else drawn


def _draw() -> str:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    console.print(Text("$ gradtrap check train.py", "bold"))
    console.print(Text.from_ansi(say()))
    drawn = console.export_svg(title="gradtrap", unique_id="gradtrap")
    # Fonts of the reader's own machine: nothing is fetched to look at a picture.
    drawn = re.sub(r"@font-face \{.*?\}\n", "", drawn, flags=re.DOTALL)
    return re.sub(r"font-family: ?[^;}]*Fira Code[^;}]*;?", f"font-family: {FONT};", drawn)


def said_in(drawn: str) -> list[str]:
    """The text of a picture: other versions of rich draw it a little differently."""
    return [html.unescape(part).strip() for part in re.findall(r"<text[^>]*>([^<]*)</text>", drawn)]
