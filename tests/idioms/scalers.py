"""How a gradient scaler is made, held and switched off, and what it does with a loss."""

from __future__ import annotations


def _scaled(**texts: str) -> dict[str, str]:
    """A way to hold a scaler: `scaler` is its name, `made_scaler` makes it."""
    return {
        "define": "",
        "made_scaler": "{{s}}scaler = torch.amp.GradScaler('cpu')",
        "cast": "torch.autocast('cpu', dtype=torch.bfloat16)",
        "update": """
        {{scaler}}.scale(loss).backward()
        {{unscale}}
        {{clip}}
        {{scaler}}.step({{o}})
        {{scaler}}.update()
        """,
        "unscale": "{{scaler}}.unscale_({{o}})",
        "scaler": "{{s}}scaler",
        "take": "",
    } | texts


_EITHER = """
if {{switch}}:
    {{scaler}}.scale(loss).backward()
    {{unscale}}
    {{clip}}
    {{scaler}}.step({{o}})
    {{scaler}}.update()
else:
    loss.backward()
    {{clip}}
    {{o}}.step()
"""

_CLIP_ONCE = """
if {{switch}}:
    {{scaler}}.scale(loss).backward()
    {{unscale}}
else:
    loss.backward()
{{clip}}
if {{switch}}:
    {{scaler}}.step({{o}})
    {{scaler}}.update()
else:
    {{o}}.step()
"""

_HELPER = """
class NativeScaler:
    state_dict_key = 'amp_scaler'

    def __init__(self):
        self._scaler = torch.amp.GradScaler('cpu')

    def __call__(self, loss, optimizer, clip_grad=None, parameters=None, create_graph=False, update_grad=True):
        self._scaler.scale(loss).backward(create_graph=create_graph)
        if update_grad:
            if clip_grad is not None:
                assert parameters is not None
                self._scaler.unscale_(optimizer)
                norm = torch.nn.utils.clip_grad_norm_(parameters, clip_grad)
            else:
                self._scaler.unscale_(optimizer)
                norm = sum(p.grad.norm() for p in parameters)
            self._scaler.step(optimizer)
            self._scaler.update()
        else:
            norm = None
        return norm

    def state_dict(self):
        return self._scaler.state_dict()

    def load_state_dict(self, state_dict):
        self._scaler.load_state_dict(state_dict)
"""

SCALERS = {
    "always": _scaled(),
    "enabled": _scaled(made_scaler="{{s}}scaler = torch.amp.GradScaler('cpu', enabled={{amp}})"),
    "of cuda": _scaled(made_scaler="{{s}}scaler = torch.cuda.amp.GradScaler(enabled={{amp}})"),
    "or none": _scaled(
        made_scaler="{{s}}scaler = torch.amp.GradScaler('cpu') if {{amp}} else None",
        switch="{{scaler}} is not None",
        update=_EITHER,
    ),
    "none and clip once": _scaled(
        made_scaler="{{s}}scaler = torch.amp.GradScaler('cpu') if {{amp}} else None",
        switch="{{scaler}}",
        update=_CLIP_ONCE,
    ),
    "setting": _scaled(
        made_scaler="if {{amp}}:\n    {{s}}scaler = torch.amp.GradScaler('cpu')", switch="{{amp}}", update=_EITHER
    ),
    "setting and clip once": _scaled(switch="{{amp}}", update=_CLIP_ONCE),
    "flag": _scaled(
        made_scaler="{{s}}use_amp = bool({{amp}}) and hasattr(torch, 'amp')\n"
        "{{s}}scaler = torch.amp.GradScaler('cpu', enabled={{s}}use_amp)",
        switch="{{s}}use_amp",
        update=_CLIP_ONCE,
        cast="torch.autocast('cpu', enabled={{s}}use_amp)",
    ),
    "types": _scaled(
        made_scaler="{{s}}dtype = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}['fp16']\n"
        "{{s}}scaler = torch.amp.GradScaler('cpu', enabled=({{s}}dtype == torch.float16))",
        cast="torch.autocast('cpu', dtype=torch.bfloat16)",
    ),
    "three branches": _scaled(
        made_scaler="{{s}}precision = 'fp16' if {{amp}} else 'bf16'\n"
        "{{s}}scaler = torch.amp.GradScaler('cpu') if {{s}}precision == 'fp16' else None",
        update="""
        if {{s}}precision == 'fp16':
            {{scaler}}.scale(loss).backward()
            {{unscale}}
            {{clip}}
            {{scaler}}.step({{o}})
            {{scaler}}.update()
        elif {{s}}precision == 'bf16':
            loss.backward()
            {{clip}}
            {{o}}.step()
        else:
            loss.backward()
            {{o}}.step()
        """,
    ),
    "null context": _scaled(
        define="from contextlib import nullcontext",
        made_scaler="{{s}}ctx = nullcontext() if not {{amp}} else torch.autocast('cpu', dtype=torch.bfloat16)\n"
        "{{s}}scaler = torch.amp.GradScaler('cpu', enabled={{amp}})",
        cast="{{s}}ctx",
    ),
    "dict": _scaled(
        made_scaler="{{s}}tools = {'scaler': torch.amp.GradScaler('cpu'), 'step': 0}", scaler="{{s}}tools['scaler']"
    ),
    "several lines": _scaled(
        update="""
        scaled = {{scaler}}.scale(loss)
        scaled.backward()
        {{unscale}}
        {{clip}}
        {{scaler}}.step({{o}})
        {{scaler}}.update()
        """
    ),
    "loss rebound": _scaled(
        update="""
        if {{scaler}} is not None:
            loss = {{scaler}}.scale(loss)
        loss.backward()
        if {{scaler}} is not None:
            {{unscale}}
        {{clip}}
        if {{scaler}} is not None:
            {{scaler}}.step({{o}})
            {{scaler}}.update()
        else:
            {{o}}.step()
        """
    ),
    "helper functions": _scaled(
        define="""
        def backward(loss, scaler):
            if scaler is not None:
                scaler.scale(loss).backward()
            else:
                loss.backward()


        def optimizer_step(optimizer, scaler, parameters=None, max_norm=None):
            if scaler is not None:
                scaler.unscale_(optimizer)
            if max_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, max_norm)
            if scaler is not None:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
        """,
        update="""
        backward(loss, {{scaler}})
        optimizer_step({{o}}, {{scaler}}, {{m}}.parameters(), {{max_norm}})
        """,
    ),
    "native": _scaled(
        define=_HELPER,
        made_scaler="{{s}}scaler = NativeScaler()",
        update="{{scaler}}(loss, {{o}}, clip_grad={{max_norm}}, parameters={{m}}.parameters(), create_graph=False)",
    ),
    "native or none": _scaled(
        define=_HELPER,
        made_scaler="{{s}}scaler = None\nif {{amp}}:\n    {{s}}scaler = NativeScaler()",
        update="""
        if {{scaler}} is not None:
            {{scaler}}(loss, {{o}}, clip_grad=None, parameters={{m}}.parameters())
        else:
            loss.backward()
            {{clip}}
            {{o}}.step()
        """,
    ),
    "wrapper": _scaled(
        define="""
        class Amp:
            def __init__(self, enabled):
                self.enabled = enabled
                self.scaler = torch.amp.GradScaler('cpu', enabled=enabled)

            def backward(self, loss):
                self.scaler.scale(loss).backward()

            def unscale(self, optimizer):
                if self.enabled:
                    self.scaler.unscale_(optimizer)

            def step(self, optimizer):
                self.scaler.step(optimizer)
                self.scaler.update()
        """,
        made_scaler="{{s}}scaler = Amp({{amp}})",
        update="""
        {{scaler}}.backward(loss)
        {{unscale}}
        {{clip}}
        {{scaler}}.step({{o}})
        """,
        unscale="{{scaler}}.unscale({{o}})",
    ),
    "subclass": _scaled(
        define="""
        class Scaler(torch.amp.GradScaler):
            def __init__(self, enabled=True):
                super().__init__('cpu', enabled=enabled)

            def clip_and_step(self, optimizer, parameters, max_norm):
                self.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(parameters, max_norm)
                self.step(optimizer)
                self.update()
        """,
        made_scaler="{{s}}scaler = Scaler({{amp}})",
        update="""
        {{scaler}}.scale(loss).backward()
        {{scaler}}.clip_and_step({{o}}, {{m}}.parameters(), {{max_norm}})
        """,
    ),
    "by hand": _scaled(
        made_scaler="{{s}}loss_scale = 128.0",
        update="""
        (loss * {{s}}loss_scale).backward()
        for p in {{m}}.parameters():
            if p.grad is not None:
                p.grad.div_({{s}}loss_scale)
        {{clip}}
        {{o}}.step()
        """,
    ),
    "skips inf": _scaled(
        update="""
        {{scaler}}.scale(loss).backward()
        {{unscale}}
        norm = nn.utils.clip_grad_norm_({{m}}.parameters(), {{max_norm}} if {{max_norm}} else float('inf'))
        if torch.isfinite(norm):
            {{scaler}}.step({{o}})
        {{scaler}}.update()
        """
    ),
    "scale before and after": _scaled(
        update="""
        {{scaler}}.scale(loss).backward()
        {{unscale}}
        {{clip}}
        before = {{scaler}}.get_scale()
        {{scaler}}.step({{o}})
        {{scaler}}.update()
        skipped = {{scaler}}.get_scale() < before
        """
    ),
    "native elsewhere": _scaled(
        define="# elsewhere: NativeScaler" + _HELPER + "# here",
        made_scaler="{{s}}scaler = NativeScaler()",
        update="{{scaler}}(loss, {{o}}, clip_grad={{max_norm}}, parameters={{m}}.parameters(), create_graph=False)",
    ),
    "made elsewhere": _scaled(
        define="# elsewhere: make_scaler\ndef make_scaler(amp):\n"
        "    return torch.amp.GradScaler('cpu', enabled=amp)\n# here",
        made_scaler="{{s}}scaler = make_scaler({{amp}})",
    ),
    "given": _scaled(
        define="""
        def apply(loss, optimizer, model, scaler=None, max_norm=0.0):
            if scaler is None:
                loss.backward()
                if max_norm > 0.0:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
                optimizer.step()
                return
            scaler.scale(loss).backward()
            if max_norm > 0.0:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            scaler.step(optimizer)
            scaler.update()
        """,
        update="apply(loss, {{o}}, {{m}}, scaler={{scaler}}, max_norm={{max_norm}})",
    ),
    "two losses": _scaled(
        update="""
        aux = sum(p.pow(2).sum() for p in {{m}}.parameters()) * 1e-4
        {{scaler}}.scale(loss).backward()
        {{scaler}}.scale(aux).backward()
        {{unscale}}
        {{clip}}
        {{scaler}}.step({{o}})
        {{scaler}}.update()
        """
    ),
    "lambda": _scaled(
        made_scaler="{{s}}scaler = torch.amp.GradScaler('cpu', enabled={{amp}})\n"
        "{{s}}scale = (lambda value: {{s}}scaler.scale(value)) if {{amp}} else (lambda value: value)",
        update="""
        {{s}}scale(loss).backward()
        {{unscale}}
        {{clip}}
        {{scaler}}.step({{o}})
        {{scaler}}.update()
        """,
    ),
    "with": _scaled(
        define="""
        from contextlib import contextmanager


        @contextmanager
        def amp_step(scaler, optimizer):
            optimizer.zero_grad()
            yield
            scaler.step(optimizer)
            scaler.update()
        """,
        update="""
        with amp_step({{scaler}}, {{o}}):
            {{scaler}}.scale(loss).backward()
            {{unscale}}
            {{clip}}
        """,
    ),
}
