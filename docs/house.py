"""docs/pictures/house.svg: the rooms of the package, and which of them imports from which, read from the imports."""

from __future__ import annotations

import ast
import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "pictures" / "house.svg"
FOLDERS = ("interp", "report", "server", "runtime", "rules")
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"


@dataclass(frozen=True)
class Room:
    """A box of the picture: where it stands, and what is said in it."""

    title: str
    said: str
    x: int
    y: int
    width: int
    height: int
    fill: str


ROOMS = {
    "around": Room("command line, flake8, cache, pool", "where people meet it", 20, 20, 430, 130, "#e8f1fb"),
    "server": Room("server/", "editors", 470, 20, 150, 130, "#e8f1fb"),
    "report": Room("report/", "output formats", 640, 20, 150, 130, "#e8f1fb"),
    "engine": Room("engine", "from a text to its findings", 20, 200, 430, 115, "#eaf6ec"),
    "runtime": Room("runtime/", "real steps: prove, confirm, watch. Imports torch", 640, 200, 300, 330, "#fdeeee"),
    "interp": Room("interp/", "the abstract run", 20, 365, 430, 165, "#eaf6ec"),
    "rules": Room("rules/", "one file a rule: page, monitor, fix, demo", 470, 365, 150, 165, "#fff6dd"),
    "helpers": Room("what a rule is, and what rules share", "", 20, 580, 600, 75, "#fff6dd"),
    "events": Room("events/", "what can happen in a training run", 640, 580, 300, 75, "#f3ecfa"),
}
ARROWS = (
    ("around", "engine"), ("server", "engine"), ("report", "engine"), ("engine", "interp"), ("engine", "rules"),
    ("interp", "helpers"), ("rules", "helpers"), ("helpers", "events"), ("runtime", "events"),
)  # fmt: skip
"""The imports that are drawn; a room says all of its own in words."""


@cache
def graph() -> dict[str, frozenset[str]]:
    """Each module ("interp.machine") with the modules of ours that it imports when it is used."""
    files: dict[str, Path] = {}
    for folder, prefix in ((ROOT / "flake8_gradtrap", ""), (ROOT / "rules", "rules.")):
        for path in folder.rglob("*.py"):
            name = ".".join(path.relative_to(folder).with_suffix("").parts)
            files[prefix + name.removesuffix(".__init__")] = path
    return {name: frozenset(_imports(path, frozenset(files)) - {name}) for name, path in sorted(files.items())}


def _imports(path: Path, known: frozenset[str]) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        ours = [name.removeprefix("flake8_gradtrap.") for name in names if name.startswith("flake8_gradtrap.")]
        found |= set(ours) & known
    return found


def needs(modules: Iterable[str]) -> set[str]:
    """These modules and all that they import, directly or not, outside of the folders."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in graph() and name not in found:
            found.add(name)
            waiting.extend(graph()[name])
    return {name for name in found if name.partition(".")[0] not in FOLDERS}


@cache
def rooms() -> dict[str, str]:
    """The room of each module."""
    shared = needs(name for name in graph() if name.startswith("rules."))
    engine = needs(["engine"]) - shared
    found = {}
    for name in graph():
        folder = name.partition(".")[0]
        if folder in FOLDERS:
            found[name] = folder
        elif folder == "events":
            found[name] = "events"
        else:
            found[name] = "helpers" if name in shared else "engine" if name in engine else "around"
    return found


def uses() -> Counter[tuple[str, str]]:
    """How many modules of a room import from another room."""
    pairs = {(name, rooms()[name], rooms()[target]) for name, targets in graph().items() for target in targets}
    return Counter((room, other) for _, room, other in pairs if room != other)


def members(room: str) -> str:
    names = [
        name.partition(".")[2] or name for name in graph() if rooms()[name] == room and name not in (*FOLDERS, "events")
    ]
    if room == "rules":
        return f"{sum(name.startswith('gtr') for name in names)} modules"
    if room == "runtime":
        names = sorted({name.partition(".")[0] for name in names})
    return ", ".join(name for name in names if not name.startswith("__"))


def box(key: str) -> str:
    room = ROOMS[key]
    lines = [
        f'<rect x="{room.x}" y="{room.y}" width="{room.width}" height="{room.height}" rx="8" fill="{room.fill}" '
        'stroke="#7a8794"/>',
        f'<text x="{room.x + 12}" y="{room.y + 21}" font-weight="bold" font-size="14">{escape(room.title)}</text>',
    ]
    y = room.y + 38
    texts = [(room.said, "#44505c", 12)] if room.said else []
    texts.append((members(key), "#1d252c", 11))
    for text, colour, size in texts:
        for line in textwrap.wrap(text, int((room.width - 20) / (size * 0.54))):
            lines.append(f'<text x="{room.x + 12}" y="{y}" font-size="{size}" fill="{colour}">{escape(line)}</text>')
            y += size + 3
        y += 2
    return "\n".join(lines)


def arrow(source: str, target: str) -> str:
    one, other = ROOMS[source], ROOMS[target]
    left, right = max(one.x, other.x), min(one.x + one.width, other.x + other.width)
    if left < right and one.y + one.height < other.y:  # one stands above the other
        x = (left + right) // 2
        line = (x, one.y + one.height, x, other.y)
    elif one.y + one.height < other.y:
        line = (one.x + 40, one.y + one.height, other.x + other.width - 20, other.y)
        if one.x < other.x:
            line = (one.x + one.width - 20, one.y + one.height, other.x + 40, other.y)
    else:
        line = (one.x + one.width, one.y + one.height // 2, other.x, one.y + one.height // 2)
    x1, y1, x2, y2 = line
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#44505c" stroke-width="1.6" marker-end="url(#tip)"/>'


def draw() -> str:
    used = uses()
    missing = [pair for pair in ARROWS if not used[pair]]
    assert not missing, f"nothing imports so any more: {missing}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 675" font-family="{FONT}" role="img">',
        "<title>The rooms of gradtrap, and which imports from which</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#44505c"/></marker></defs>',
        '<rect width="960" height="675" rx="10" fill="#ffffff"/>',
        *(arrow(*pair) for pair in ARROWS),
        *(box(key) for key in ROOMS),
    ]
    return "\n".join([*parts, "</svg>"]) + "\n"
