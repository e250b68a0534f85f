"""A model that is trained and evaluated in turn: gradients are off there, and the mode is put back."""

from __future__ import annotations

from idioms.grammar import Family


def _off(
    evaluation: str = "{{loop}}",
    decorate: str = "",
    helpers: str = "",
    call: str = "{{evaluate}}(model, held_out)",
    start: str = "",
) -> dict[str, str]:
    return {"evaluation": evaluation, "decorate": decorate, "off_helpers": helpers, "call": call, "start": start}


_WITH = "with torch.no_grad():\n    {{loop}}"

_OFF = {
    "with": _off(_WITH),
    "decorator": _off(decorate="@torch.no_grad()"),
    "decorator without a call": _off(decorate="@torch.no_grad"),
    "inference mode": _off(decorate="@torch.inference_mode()"),
    "with inference mode": _off("with torch.inference_mode():\n    {{loop}}"),
    "inference mode by a setting": _off("with torch.inference_mode(mode=FAST):\n    {{loop}}", helpers="FAST = True"),
    "switched off and on": _off("torch.set_grad_enabled(False)\n{{loop}}\ntorch.set_grad_enabled(True)"),
    "switched off in a block": _off("with torch.set_grad_enabled(False):\n    {{loop}}"),
    "put back in the end": _off(
        """
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        try:
            {{loop}}
        finally:
            torch.set_grad_enabled(before)
        """
    ),
    "caller": _off(
        call="evaluate_quietly(model, held_out)",
        helpers="""
        def evaluate_quietly(model, loader):
            with torch.no_grad():
                return {{evaluate}}(model, loader)
        """,
    ),
    "wrapped": _off(call="quiet(model, held_out)", start="quiet = torch.no_grad()({{evaluate}})"),
    "chosen context": _off(
        "context = torch.enable_grad() if {{model}} is None else torch.no_grad()\nwith context:\n    {{loop}}"
    ),
    "chosen class": _off(
        "context = contextlib.nullcontext if RECORD else torch.no_grad\nwith context():\n    {{loop}}",
        helpers="RECORD = False",
    ),
    "kept context": _off("quiet = torch.no_grad()\nwith quiet:\n    {{loop}}"),
    "two contexts": _off("with torch.no_grad(), torch.autocast('cpu', enabled=False):\n    {{loop}}"),
    "stack": _off("with contextlib.ExitStack() as stack:\n    stack.enter_context(torch.no_grad())\n    {{loop}}"),
    "own context": _off(
        "with quietly({{model}}):\n    {{loop}}",
        helpers="""
        @contextlib.contextmanager
        def quietly(model):
            was = model.training
            model.eval()
            try:
                with torch.no_grad():
                    yield model
            finally:
                model.train(was)
        """,
    ),
    "own context switches": _off(
        "with no_gradients():\n    {{loop}}",
        helpers="""
        @contextlib.contextmanager
        def no_gradients():
            previous = torch.is_grad_enabled()
            torch.set_grad_enabled(False)
            yield
            torch.set_grad_enabled(previous)
        """,
    ),
    "own context class": _off(
        "with Quiet():\n    {{loop}}",
        helpers="""
        class Quiet:
            def __enter__(self):
                self.before = torch.is_grad_enabled()
                torch.set_grad_enabled(False)

            def __exit__(self, *error):
                torch.set_grad_enabled(self.before)
        """,
    ),
    "own class holds one": _off(
        "with Quiet():\n    {{loop}}",
        helpers="""
        class Quiet:
            def __init__(self):
                self.inner = torch.no_grad()

            def __enter__(self):
                self.inner.__enter__()
                return self

            def __exit__(self, kind, error, trace):
                self.inner.__exit__(kind, error, trace)
        """,
    ),
    "own subclass": _off("with Quiet():\n    {{loop}}", helpers="class Quiet(torch.no_grad):\n    pass"),
    "own decorator": _off(
        decorate="@quiet",
        helpers="""
        def quiet(function):
            @functools.wraps(function)
            def inner(*args, **kwargs):
                with torch.no_grad():
                    return function(*args, **kwargs)

            return inner
        """,
    ),
    "own decorator with a setting": _off(
        decorate="@grad_mode(False)",
        helpers="""
        def grad_mode(enabled):
            def decorate(function):
                @functools.wraps(function)
                def inner(*args, **kwargs):
                    with torch.set_grad_enabled(enabled):
                        return function(*args, **kwargs)

                return inner

            return decorate
        """,
    ),
    "smart decorator": _off(
        decorate="@smart_inference_mode()",
        helpers="""
        def smart_inference_mode(new=True):
            def decorate(function):
                return (torch.inference_mode if new else torch.no_grad)()(function)

            return decorate
        """,
    ),
    "by name": _off("with no_grad():\n    {{loop}}", helpers="from torch import no_grad"),
    "of autograd": _off("with torch.autograd.no_grad():\n    {{loop}}"),
    "entered by hand": _off("quiet = torch.no_grad()\nquiet.__enter__()\n{{loop}}\nquiet.__exit__(None, None, None)"),
    "frozen meanwhile": _off(
        """
        for p in {{model}}.parameters():
            p.requires_grad_(False)
        {{loop}}
        for p in {{model}}.parameters():
            p.requires_grad_(True)
        """
    ),
    "frozen by the module": _off("{{model}}.requires_grad_(False)\n{{loop}}\n{{model}}.requires_grad_(True)"),
    "around each call": {**_off(), "predict": "with torch.no_grad():\n    out = {{model}}(x)"},
    "method that is quiet": {**_off(), "predict": "out = {{model}}.predict(x)"},
    "method with a flag": {**_off(), "predict": "out = {{model}}.run(x, grad=False)"},
    "helper that is quiet": {
        **_off(
            helpers="@torch.no_grad()\ndef predict(model, x):\n    model.eval()\n    return model(x)",
        ),
        "predict": "out = predict({{model}}, x)",
    },
    "generator": {
        **_off(
            "with torch.no_grad():\n    outputs = list(predictions({{model}}, loader))\n"
            "for out, y in outputs:\n    {{collect}}",
            helpers="def predictions(model, loader):\n    for x, y in loader:\n        yield model(x), y",
        ),
    },
    "quiet generator": {
        **_off(
            "for out, y in predictions({{model}}, loader):\n    {{collect}}",
            helpers="@torch.no_grad()\ndef predictions(model, loader):\n    model.eval()\n"
            "    for x, y in loader:\n        yield model(x), y",
        ),
    },
    "wrapper module": {
        **_off(
            helpers="""
            class Predictor(nn.Module):
                def __init__(self, net):
                    super().__init__()
                    self.net = net

                @torch.no_grad()
                def forward(self, x):
                    return self.net(x)
            """,
        ),
        "predict": "out = Predictor({{model}})(x)",
    },
}
for _way in _OFF.values():
    _way.setdefault("predict", "out = {{model}}(x)")


def _mode(
    to_eval: str = "{{model}}.eval()", to_train: str = "", epoch: str = "", batch: str = "", helpers: str = ""
) -> dict[str, str]:
    return {"to_eval": to_eval, "to_train": to_train, "epoch_mode": epoch, "batch_mode": batch, "mode_helpers": helpers}


_MODES = {
    "each epoch": _mode(epoch="model.train()"),
    "after the evaluation": _mode(to_train="{{model}}.train()"),
    "each batch": _mode(batch="model.train()"),
    "put back": _mode("was = {{model}}.training\n{{model}}.eval()", "{{model}}.train(was)"),
    "put back if": _mode("was = {{model}}.training\n{{model}}.eval()", "if was:\n    {{model}}.train()"),
    "train(False)": _mode("{{model}}.train(False)", "{{model}}.train(True)"),
    "train(mode=)": _mode("{{model}}.train(mode=False)", "", "model.train(mode=True)"),
    "assigned": _mode("net = {{model}}.eval()", "", "net = model.train()"),
    "helper": _mode(
        "set_mode({{model}}, False)",
        "set_mode({{model}}, True)",
        helpers="def set_mode(model, training):\n    if training:\n        model.train()\n    else:\n"
        "        model.eval()",
    ),
    "helper of many": _mode(
        "to_eval({{model}})",
        "",
        "to_train(model)",
        helpers="def to_eval(*nets):\n    for net in nets:\n        net.eval()\n\n\n"
        "def to_train(*nets):\n    for net in nets:\n        net.train()",
    ),
    "list of models": _mode("for net in [{{model}}]:\n    net.eval()", "for net in [{{model}}]:\n    net.train()"),
    "dict of models": _mode(
        "for net in {'net': {{model}}}.values():\n    net.eval()",
        "",
        "nets = {'net': model}\nfor name in nets:\n    nets[name].train()",
    ),
    "comprehension": _mode("[net.eval() for net in ({{model}},)]", "", "_ = [net.train() for net in (model,)]"),
    "map": _mode("list(map(lambda net: net.eval(), [{{model}}]))", "", "list(map(nn.Module.train, [model]))"),
    "by name": _mode("getattr({{model}}, 'eval')()", "", "getattr(model, 'train')()"),
    "unwrapped": _mode("getattr({{model}}, 'module', {{model}}).eval()", "", "getattr(model, 'module', model).train()"),
    "modules": _mode(
        "for module in {{model}}.modules():\n    module.eval()",
        "",
        "for module in model.modules():\n    module.train()",
    ),
    "children": _mode("{{model}}.eval()", "", "model.training = True\nfor part in model.children():\n    part.train()"),
    "frozen norm": _mode(
        epoch="model.train()\nfreeze_norm(model)",
        helpers="def freeze_norm(model):\n    for m in model.modules():\n"
        "        if isinstance(m, nn.BatchNorm1d):\n            m.eval()",
    ),
    "applied": _mode(
        epoch="model.train()\nmodel.apply(still)",
        helpers="def still(module):\n    if module.__class__.__name__.find('BatchNorm') != -1:\n        module.eval()",
    ),
    "method of the model": _mode("{{model}}.mode('eval')", "", "model.mode('train')"),
    "decided by a flag": _mode(
        "evaluating = True\n{{model}}.train(not evaluating)", "", "evaluating = False\nmodel.train(not evaluating)"
    ),
    "expression": _mode(
        "{{model}}.eval() if EVALUATES else {{model}}.train()", "{{model}}.train()", helpers="EVALUATES = True"
    ),
}

_COLLECT = {
    "loss": {"prepare": "total = 0.0", "collect": "total += F.cross_entropy(out, y).item()", "result": "total"},
    "raw loss": {"prepare": "total = 0", "collect": "total += F.cross_entropy(out, y)", "result": "float(total)"},
    "correct": {
        "prepare": "correct = 0\ncount = 0",
        "collect": "correct += (out.argmax(1) == y).sum().item()\ncount += y.size(0)",
        "result": "correct / count",
    },
    "outputs": {
        "prepare": "outputs, targets = [], []",
        "collect": "outputs.append(out)\ntargets.append(y)",
        "result": "(torch.cat(outputs).argmax(1) == torch.cat(targets)).float().mean().item()",
    },
    "numpy": {
        "prepare": "scores, truth = [], []",
        "collect": "scores.extend(torch.softmax(out, 1)[:, 1].cpu().numpy())\ntruth.extend(y.tolist())",
        "result": "float(np.corrcoef(np.array(scores), np.array(truth))[0, 1])",
    },
    "arrays": {
        "prepare": "scores = np.zeros((0, 4))",
        "collect": "scores = np.concatenate([scores, out.detach().cpu().numpy()])",
        "result": "scores.mean()",
    },
    "dict": {
        "prepare": "sums = defaultdict(float)",
        "collect": "for name, value in {'ce': F.cross_entropy(out, y), 'size': out.abs().mean()}.items():\n"
        "    sums[name] += value",
        "result": "float(sums['ce'])",
    },
    "confusion": {
        "prepare": "matrix = torch.zeros(4, 4)",
        "collect": "for t, p in zip(y.view(-1), out.max(1)[1].view(-1)):\n    matrix[t.long(), p.long()] += 1",
        "result": "(matrix.diag().sum() / matrix.sum()).item()",
    },
    "entropy": {
        "prepare": "values = []",
        "collect": "p = out.softmax(1)\nvalues.append(-(p * torch.log(p + 1e-8)).sum(1).mean())",
        "result": "torch.stack(values).mean().item()",
    },
    "perplexity": {
        "prepare": "total, count = 0.0, 0",
        "collect": "total += F.cross_entropy(out, y, reduction='sum').data\ncount += len(y)",
        "result": "math.exp(float(total) / count)",
    },
}

_STEP = """
for x, y in loader:
    {{batch_mode}}
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
"""

_LAYOUT = {
    "functions": {
        "evaluate": "evaluate",
        "model": "model",
        "program": """
        {{off_helpers}}


        {{decorate}}
        def evaluate(model, loader):
            {{to_eval}}
            {{prepare}}
            {{evaluation}}
            {{to_train}}
            return {{result}}


        def train(model, loader, optimizer):
            {{epoch_mode}}
            {{step}}


        def main():
            model, loader, held_out = Net(), batches(), batches()
            optimizer = torch.optim.Adam(model.parameters())
            {{start}}
            best, kept = -1.0, None
            for epoch in range(2):
                train(model, loader, optimizer)
                score = {{call}}
                {{keep}}
            {{restore}}


        main()
        """,
    },
    "script": {
        "evaluate": "evaluate",
        "model": "model",
        "program": """
        {{off_helpers}}


        {{decorate}}
        def evaluate(model, loader):
            {{to_eval}}
            {{prepare}}
            {{evaluation}}
            {{to_train}}
            return {{result}}


        model, loader, held_out = Net(), batches(), batches()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        {{start}}
        best, kept = -1.0, None
        for epoch in range(2):
            {{epoch_mode}}
            {{step}}
            score = {{call}}
            {{keep}}
        {{restore}}
        """,
    },
    "every few steps": {
        "evaluate": "evaluate",
        "model": "model",
        "program": """
        {{off_helpers}}


        {{decorate}}
        def evaluate(model, loader):
            {{to_eval}}
            {{prepare}}
            {{evaluation}}
            {{to_train}}
            return {{result}}


        def main(every=2):
            model, loader, held_out = Net(), batches(), batches()
            optimizer = torch.optim.Adam(model.parameters())
            {{start}}
            best, kept, step = -1.0, None, 0
            for epoch in range(2):
                for x, y in loader:
                    {{epoch_mode}}
                    {{batch_mode}}
                    optimizer.zero_grad()
                    loss = F.cross_entropy(model(x), y)
                    loss.backward()
                    optimizer.step()
                    step += 1
                    if step % every == 0:
                        score = {{call}}
                        {{keep}}
            {{restore}}


        main()
        """,
    },
    "trainer": {
        "evaluate": "evaluate",
        "model": "self.model",
        "program": """
        class Trainer:
            def __init__(self, model, loader, held_out):
                self.model, self.loader, self.held_out = model, loader, held_out
                self.optimizer = torch.optim.Adam(model.parameters())

            def fit(self, epochs):
                model, loader, held_out, optimizer = self.model, self.loader, self.held_out, self.optimizer
                evaluate = self.evaluate
                {{start}}
                best, kept = -1.0, None
                for epoch in range(epochs):
                    {{epoch_mode}}
                    {{step}}
                    score = {{call}}
                    {{keep}}
                {{restore}}

            {{decorate}}
            def evaluate(self, model, loader):
                {{to_eval}}
                {{prepare}}
                {{evaluation}}
                {{to_train}}
                return {{result}}


        {{off_helpers}}


        def evaluate(model, loader):
            return trainer.evaluate(model, loader)


        trainer = Trainer(Net(), batches(), batches())
        trainer.fit(2)
        """,
    },
    "methods": {
        "evaluate": "evaluate",
        "model": "self.model",
        "call": "self.evaluate(model, held_out)",
        "program": """
        {{off_helpers}}


        class Base:
            def __init__(self, model):
                self.model = model
                self.optimizer = torch.optim.Adam(self.model.parameters())

            def fit(self, loader, held_out, epochs=2):
                model = self.model
                {{start}}
                best, kept = -1.0, None
                for epoch in range(epochs):
                    self.train_epoch(loader)
                    score = {{call}}
                    {{keep}}
                {{restore}}


        def evaluate(model, loader):
            return trainer.evaluate(model, loader)


        class Trainer(Base):
            def train_epoch(self, loader):
                model, optimizer = self.model, self.optimizer
                {{epoch_mode}}
                {{step}}

            {{decorate}}
            def evaluate(self, model, loader):
                {{to_eval}}
                {{prepare}}
                {{evaluation}}
                {{to_train}}
                return {{result}}


        trainer = Trainer(Net())
        trainer.fit(batches(), batches())
        """,
    },
}
for _way in _LAYOUT.values():
    _way.pop("call", None)

_KEEP = {
    "nothing": {"keep": "print(score)", "restore": ""},
    "copy": {
        "keep": "if score > best:\n    best, kept = score, copy.deepcopy(model.state_dict())",
        "restore": "if kept is not None:\n    model.load_state_dict(kept)",
    },
    "clones": {
        "keep": "if score > best:\n    best = score\n"
        "    kept = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}",
        "restore": "model.load_state_dict(kept or model.state_dict())",
    },
    "model": {"keep": "if score >= best:\n    best, kept = score, copy.deepcopy(model)", "restore": "print(kept)"},
    "saved": {
        "keep": "if score > best:\n    best = score\n"
        "    torch.save({'model': model.state_dict(), 'score': score}, 'best.pt')",
        "restore": "model.load_state_dict(torch.load('best.pt')['model'])",
    },
    "saved from a dict": {
        "keep": "state = {'net': model.state_dict(), 'epoch': 1}\nif score > best:\n    best = score\n"
        "    torch.save(state, 'best.pt')",
        "restore": "",
    },
    "buffer": {
        "keep": "kept = io.BytesIO()\ntorch.save(model.state_dict(), kept)",
        "restore": "kept.seek(0)\nmodel.load_state_dict(torch.load(kept))",
    },
    "loaded into another": {
        "keep": "other = Net()\nother.load_state_dict(model.state_dict())\nkept = other",
        "restore": "kept.eval()",
    },
}

_EVALUATING = Family(
    "evaluating",
    """
    import contextlib
    import copy
    import functools
    import io
    import math
    from collections import defaultdict

    import numpy as np
    import torch
    import torch.nn as nn
    import torch.nn.functional as F

    {{mode_helpers}}


    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1))
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            return self.head(self.body(x))

        @torch.no_grad()
        def predict(self, x):
            return self(x)

        def run(self, x, grad=True):
            with torch.set_grad_enabled(grad):
                return self.forward(x)

        def mode(self, name):
            if name == "train":
                self.train()
            else:
                self.eval()


    def batches():
        return [(torch.randn(6, 8), torch.randint(0, 4, (6,))) for _ in range(2)]


    {{program}}
    """,
    {
        "off": _OFF,
        "mode": _MODES,
        "collect": _COLLECT,
        "layout": _LAYOUT,
        "keep": _KEEP,
        "step": {"plain": {"step": _STEP, "loop": "for x, y in loader:\n    {{predict}}\n    {{collect}}"}},
    },
    {
        "gradients on": (
            "GTR601",
            {
                "evaluation": "{{loop}}",
                "decorate": "",
                "predict": "out = {{model}}(x)",
                "call": "{{evaluate}}(model, held_out)",
            },
        ),
        "not put back": ("GTR602", {"to_train": "", "epoch_mode": "", "batch_mode": "", "to_eval": "{{model}}.eval()"}),
        "alias kept": (
            "GTR710",
            {
                "keep": "if score > best:\n    best, kept = score, model.state_dict()",
                "restore": "model.load_state_dict(kept)",
            },
        ),
    },
)

FAMILIES = (_EVALUATING,)
