"""Steps of other shapes: two-step optimizers, inner loops, gradients taken and put by hand, parts trained in turn."""

from __future__ import annotations

from idioms import procedures_gradients, procedures_steps
from idioms.grammar import Family
from idioms.held import HELD
from idioms.homes import HOMES
from idioms.parts import BATCHES, NETWORKS, SETTINGS

_LOOP = """
{{m}}.train()
for epoch in range({{epochs}}):
    {{batches}}
        {{step}}
    {{end}}
"""

LOGS = {
    "none": {"log": ""},
    "print": {"log": "print(float(loss))"},
    "evaluates": {
        "log": "if epoch == 1:\n    {{m}}.eval()\n    with torch.no_grad():\n"
        "        score = {{m}}(x).mean().item()\n    {{m}}.train()"
    },
    "rate": {"log": "for group in {{o}}.param_groups:\n    group['lr'] = {{lr}} * 0.99"},
}

_HOMES = {
    name: HOMES[name]
    for name in (
        "script",
        "main",
        "function",
        "trainer",
        "base class",
        "inner function",
        "called elsewhere",
        "state object",
    )
}

_PROCEDURES = Family(
    "procedures",
    """
    import torch
    from torch import nn

    {{config}}

    {{network}}

    {{helper}}

    {{define}}

    loader = [(torch.randn(4, 8), torch.randn(4, 1)) for _ in range(3)]
    {{loader}}

    {{program}}
    """,
    {
        "procedure": procedures_gradients.PROCEDURES | procedures_steps.PROCEDURES,
        "held": {
            n: w | {"params": "{{t}}model.parameters()", "loop": _LOOP, "begin": "", "end": "", "prepared": ""}
            for n, w in HELD.items()
        },
        "home": _HOMES,
        "batches": BATCHES,
        "settings": SETTINGS,
        "network": NETWORKS,
        "log": LOGS,
        "prepare": {"plain": {"prepare": "{{before}}"}},
    },
    {},
)

FAMILIES = (_PROCEDURES,)
