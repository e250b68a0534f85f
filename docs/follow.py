"""One finding, followed through gradtrap: what every step makes of it, for docs/how-it-works.md."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from flake8_gradtrap.config import Settings
from flake8_gradtrap.engine import _trigger, check_source
from flake8_gradtrap.events import Event, IterationStarted, Site, Thing
from flake8_gradtrap.gate import _LIBRARIES
from flake8_gradtrap.interp import ir
from flake8_gradtrap.interp.lower import lower
from flake8_gradtrap.interp.machine import Machine
from flake8_gradtrap.interp.project import Module, Project
from flake8_gradtrap.interp.state import State
from flake8_gradtrap.report import Sources, Style, render
from flake8_gradtrap.rule import all_rules
from flake8_gradtrap.source import SourceFile, TopLevel

RULE = "GTR101"
PROGRAM = """\
import torch


def mean(history):
    return sum(history) / len(history)


def limit(parameters):
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)


def train(model, loader, criterion):
    params = filter(lambda p: p.requires_grad, model.parameters())
    optimizer = torch.optim.AdamW(params, lr=1e-4)
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        limit(params)
        optimizer.step()
"""
TEMPLATE = """\

The program:

```python
{program}```

**Text.** `{library}` is mentioned, so it may be about training (`gate.py`); and so are the words {words},
for which rules wait. Had it been otherwise, that would be all.

**Contents.** The top-level parts, from `ast`, and what becomes of them. `{unread}` mentions nothing that a rule waits
for, and is never looked at again:

```text
{parts}
```

**Slices.** `train` is lowered when it is run, and `limit` when it is called. Line 13, as `ast` sees it:

```text
{tree}
```

and as `interp/lower.py` hands it on, for the abstract run, in the terms of `interp/ir.py`:

```text
{lowered}
```

**The abstract run** executes that. `filter(...)` makes an iterator, {it} below; the call of `limit` is entered.
What happens is told to the rules, in this order (line, event, what it is about), until the loop begins again:

```text
{events}
```

**The rule** {rule} hears two of these kinds, and remembers a story for each iterator:

```text
{heard}
```

At the last two lines the iterator is used up already: that is the trap, and the rule reports it. A place is told once.

**The report** names sites, pieces of syntax. Only now their places in the text are worked out, and libcst reads
`train`: the change that the rule asks for (wrap what made the iterator in `list(...)`) becomes edits:

```json
{finding}
```

**The reader** gets:

```text
{shown}
```
"""


class Followed:
    """One run over the program, with what its steps made."""

    def __init__(self) -> None:
        self.rules, self.words, pattern = _trigger(Settings().codes_for("train.py"))
        assert pattern is not None
        self.spelt = sorted(set(pattern.findall(PROGRAM)))
        library = _LIBRARIES.search(PROGRAM)
        assert library is not None
        self.library = library[0]
        self.source = SourceFile("train.py", PROGRAM)
        self.machine = Machine(Module(self.source, Project()), self.rules, self.words)
        self.names: dict[Any, str] = {}
        self.events: list[str] = []
        self.heard: list[str] = []
        self.over = False
        tell = self.machine.emit
        self.machine.emit = lambda event, st: self.emit(event, st, tell)  # type: ignore[method-assign]
        self.machine.run()

    def name(self, thing: Thing) -> str:
        number = self.names.setdefault(thing.key, f"#{len(self.names) + 1}")
        return f"{thing.label or '(new)'} {number}"

    def emit(self, event: Event, state: State, tell: Callable[[Event, State], None]) -> None:
        tell(event, state)
        self.over |= isinstance(event, IterationStarted) and event.index > 0
        row = self.row(event.site)
        if self.over or not row:
            return
        told = [field.name for field in fields(event) if self.tells(event, field.name)]
        shown = [f"{name}={self.value(getattr(event, name))}" for name in told]
        self.events.append(f"{row:>3}  {type(event).__name__:<17}{', '.join(shown)}".rstrip())
        if any(kind is type(event) for kind, _ in all_rules()[RULE].handlers()):
            self.heard.append(f"{row:>3}  {type(event).__name__:<13}{self.memory(state)}")

    @staticmethod
    def row(site: Site) -> int:
        node = site.node
        return node.unit.places.span(node).row if isinstance(node, ir.Node) and node.unit is not None else 0

    @staticmethod
    def tells(event: Event, name: str) -> bool:
        value = getattr(event, name)
        return isinstance(value, Thing) or (name in ("by", "kind", "function") and bool(value)) or name == "index"

    def value(self, value: Any) -> str:
        return self.name(value) if isinstance(value, Thing) else str(value).strip("`")

    def memory(self, state: State) -> str:
        stories = state.mem.get(RULE, {})
        told = (
            f"{self.names[key]} {'used up by ' + story.by.by.strip('`') if story.exhausted else 'new'}"
            for key, story in stories.items()
        )
        return "; ".join(told)

    def parts(self) -> Iterator[str]:
        for part in self.source.toplevel:
            lines = f"{part.first_line}-{part.last_line}" if part.first_line < part.last_line else f"{part.first_line}"
            mentions = sorted(part.mentions & self.words)
            became = "lowered" if self.read(part) else "not lowered"
            yield f"{lines:>5}  {part.kind:<9}{part.name:<7}{became:<16}{', '.join(mentions)}".rstrip()

    @staticmethod
    def read(part: TopLevel) -> bool:
        return "slice" in vars(part) and "statements" in vars(part.slice)


def shown(node: object) -> str:
    """A tree of `ast` without what is empty, and without the contexts of names; alike in every Python."""
    if isinstance(node, list):
        return f"[{', '.join(map(shown, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    filled = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, []) and name != "ctx"]
    return f"{type(node).__name__}({', '.join(f'{name}={shown(value)}' for name, value in filled)})"


def wrapped(text: str, width: int = 110) -> str:
    """One long line as several, broken behind commas."""
    lines = [""]
    for piece in re.split(r"(?<=, )", text):
        if len(lines[-1]) + len(piece) > width:
            lines.append("    ")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def followed() -> str:
    run = Followed()
    (train,) = (part for part in run.source.toplevel if part.name == "train")
    (unread,) = (part.name for part in run.source.toplevel if part.name and not run.read(part))
    (definition,) = train.nodes
    assert isinstance(definition, ast.FunctionDef)
    (function,) = lower(train.slice)
    assert isinstance(function, ir.FunctionDef)
    (finding,) = check_source(PROGRAM, "train.py", Settings()).findings
    style, sources = Style(False), Sources({"train.py": PROGRAM.encode()})
    told = json.loads(render("json", [finding], sources, style))[0]
    places = ",\n".join(f'  "{key}": {json.dumps(told[key])}' for key in ("code", "location", "end_location"))
    edits = ",\n".join(f"    {json.dumps(edit)}" for edit in told["fix"]["edits"])
    iterator = next(name for name in run.names.values() if name in run.events[1])
    return TEMPLATE.format(
        program=PROGRAM,
        library=run.library,
        words=", ".join(f"`{word}`" for word in run.spelt),
        unread=unread,
        parts="\n".join(run.parts()),
        tree=wrapped(shown(definition.body[0])),
        lowered=wrapped(repr(function.body[0])),
        it=iterator,
        events="\n".join(run.events),
        rule=RULE,
        heard="\n".join(run.heard),
        finding=f'{{\n{places},\n  "edits": [\n{edits}\n  ]\n}}',
        shown=render("full", [finding], sources, style).rstrip(),
    )
