"""Ways to turn gradients off around an evaluation, and to switch the mode of a model and back."""

from __future__ import annotations


def _off(
    evaluation: str = "{{loop}}",
    decorate: str = "",
    helpers: str = "",
    call: str = "{{evaluate}}(model, held_out)",
    start: str = "",
) -> dict[str, str]:
    return {"evaluation": evaluation, "decorate": decorate, "off_helpers": helpers, "call": call, "start": start}


_WITH = "with torch.no_grad():\n    {{loop}}"

OFF = {
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
for _way in OFF.values():
    _way.setdefault("predict", "out = {{model}}(x)")


def _mode(
    to_eval: str = "{{model}}.eval()", to_train: str = "", epoch: str = "", batch: str = "", helpers: str = ""
) -> dict[str, str]:
    return {"to_eval": to_eval, "to_train": to_train, "epoch_mode": epoch, "batch_mode": batch, "mode_helpers": helpers}


MODES = {
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
