"""One model, one optimizer: how they are held, how a step is written, how gradients are cleared."""

from __future__ import annotations

from idioms.grammar import Family

_PLAIN = Family(
    "clearing",
    """
    import torch
    from torch import nn
    {{imports}}

    {{define}}

    {{made}}
    loader = [(torch.randn(4, 8), torch.randn(4, 1)) for _ in range(3)]
    for epoch in range(2):
        for x, y in loader:
            {{clear}}
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            {{step}}
    """,
    {
        "model": {
            "linear": {"define": "", "model": "nn.Linear(8, 1)"},
            "class": {
                "define": """
                class Net(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.layer = nn.Linear(8, 1)

                    def forward(self, x):
                        return self.layer(x)
                """,
                "model": "Net()",
            },
        },
        "optimizer": {
            "direct": {
                "imports": "",
                "made": "model = {{model}}\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)",
                "opt": "optimizer",
            },
            "in a dict": {
                "imports": "",
                "made": "model = {{model}}\nparts = {'opt': torch.optim.SGD(model.parameters(), lr=0.1)}",
                "opt": "parts['opt']",
            },
        },
        "clear": {
            "first": {"clear": "{{opt}}.zero_grad()", "step": "{{opt}}.step()"},
            "last": {"clear": "", "step": "{{opt}}.step()\n{{opt}}.zero_grad()"},
            "by hand": {
                "clear": "for group in {{opt}}.param_groups:\n    for p in group['params']:\n        p.grad = None",
                "step": "{{opt}}.step()",
            },
        },
    },
    {"nothing clears": ("GTR501", {"clear": "", "step": "{{opt}}.step()"})},
)

FAMILIES = (_PLAIN,)
