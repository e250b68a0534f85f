"""In which order a generator and its critic are trained, and what is frozen, clipped or left out in between."""

from __future__ import annotations

_D_FIRST = "{{d_step}}\n{{g_step}}"


def _order(order: str, d_step: str, g_step: str, define: str = "") -> dict[str, str]:
    return {
        "order": order,
        "d_step": d_step,
        "g_step": g_step,
        "helper": define,
        "zd": "{{od}}.zero_grad()",
        "zg": "{{og}}.zero_grad()",
    }


_D = """
{{zd}}
fake = {{g}}(z)
loss_d = bce({{d}}(real), 1.0) + bce({{d}}(fake.detach()), 0.0)
loss_d.backward()
{{clip_d}}
{{od}}.step()
"""

_G = """
{{zg}}
loss_g = bce({{d}}({{g}}(z)), 1.0)
loss_g.backward()
{{clip_g}}
{{og}}.step()
"""

ORDERS = {
    "critic first": _order(_D_FIRST, _D, _G),
    "generator first": _order("{{g_step}}\n{{d_step}}", _D, _G),
    "dcgan": _order(
        _D_FIRST,
        """
        {{zd}}
        err_real = bce({{d}}(real), 1.0)
        err_real.backward()
        fake = {{g}}(z)
        err_fake = bce({{d}}(fake.detach()), 0.0)
        err_fake.backward()
        err = err_real + err_fake
        {{clip_d}}
        {{od}}.step()
        """,
        """
        {{zg}}
        loss_g = bce({{d}}(fake), 1.0)
        loss_g.backward()
        {{clip_g}}
        {{og}}.step()
        """,
    ),
    "shared fake": _order(
        "fake = {{g}}(z)\n{{d_step}}\n{{g_step}}",
        """
        {{zd}}
        loss_d = (bce({{d}}(real), 1.0) + bce({{d}}(fake.detach()), 0.0)) * 0.5
        loss_d.backward()
        {{clip_d}}
        {{od}}.step()
        """,
        """
        {{zg}}
        loss_g = bce({{d}}(fake), 1.0)
        loss_g.backward()
        {{clip_g}}
        {{og}}.step()
        """,
    ),
    "frozen critic": _order(
        _D_FIRST,
        "set_requires_grad({{d}}, True)\n" + _D,
        "set_requires_grad({{d}}, False)\n" + _G,
        """
        def set_requires_grad(nets, requires_grad=False):
            if not isinstance(nets, list):
                nets = [nets]
            for net in nets:
                for param in net.parameters():
                    param.requires_grad = requires_grad
        """,
    ),
    "several steps of the critic": _order("for _ in range(3):\n    {{d_step}}\n{{g_step}}", _D, _G),
    "now and then": _order("{{d_step}}\nif i % 2 == 0:\n    {{g_step}}", _D, _G),
    "now and then both": _order("if i % 2 == 0:\n    {{d_step}}\nelse:\n    {{g_step}}", _D, _G),
    "warm-up": _order("if i > 1:\n    {{d_step}}\n{{g_step}}", _D, _G),
    "both clear all": _order(_D_FIRST, _D.replace("{{zd}}", "{{zd}}\n{{zg}}"), _G.replace("{{zg}}", "{{zd}}\n{{zg}}")),
    "cleared after": _order(
        "{{d_step}}\n{{g_step}}",
        _D.replace("{{zd}}\n", "") + "{{zd}}\n",
        _G.replace("{{zg}}\n", "") + "{{zg}}\n{{zd}}\n",
    ),
    "losses first": _order(
        """
        fake = {{g}}(z)
        {{zg}}
        loss_g = bce({{d}}(fake), 1.0)
        loss_g.backward()
        {{clip_g}}
        {{zd}}
        loss_d = bce({{d}}(real), 1.0) + bce({{d}}(fake.detach()), 0.0)
        loss_d.backward()
        {{clip_d}}
        {{og}}.step()
        {{od}}.step()
        """,
        "",
        "",
    ),
    "flag": _order(
        "for phase in ('disc', 'gen'):\n    if phase == 'disc':\n        {{d_step}}\n    else:\n        {{g_step}}",
        _D,
        _G,
    ),
    "index": _order(
        """
        for index in range(2):
            opt = [{{od}}, {{og}}][index]
            opt.zero_grad()
            loss = training_loss({{g}}, {{d}}, real, z, index)
            loss.backward()
            opt.step()
        """,
        "",
        "",
        """
        def training_loss(gen, disc, real, z, index):
            if index == 0:
                with torch.no_grad():
                    fake = gen(z)
                return bce(disc(real), 1.0) + bce(disc(fake), 0.0)
            return bce(disc(gen(z)), 1.0)
        """,
    ),
    "helpers": _order(
        """
        update({{od}}, bce({{d}}(real), 1.0) + bce({{d}}({{g}}(z).detach()), 0.0), {{d}}.parameters())
        update({{og}}, bce({{d}}({{g}}(z)), 1.0), {{g}}.parameters())
        """,
        "",
        "",
        """
        def update(optimizer, loss, parameters, max_norm=1.0):
            optimizer.zero_grad()
            loss.backward()
            if max_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, max_norm)
            optimizer.step()
        """,
    ),
    "step functions": _order(
        "d_update({{g}}, {{d}}, {{od}}, real, z)\ng_update({{g}}, {{d}}, {{og}}, z)",
        "",
        "",
        """
        def d_update(gen, disc, opt, real, z):
            opt.zero_grad()
            loss = bce(disc(real), 1.0) + bce(disc(gen(z).detach()), 0.0)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(disc.parameters(), 1.0)
            opt.step()
            return loss.item()


        def g_update(gen, disc, opt, z):
            for p in disc.parameters():
                p.requires_grad_(False)
            opt.zero_grad()
            loss = bce(disc(gen(z)), 1.0)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(gen.parameters(), 1.0)
            opt.step()
            for p in disc.parameters():
                p.requires_grad_(True)
            return loss.item()
        """,
    ),
    "penalty": _order(
        _D_FIRST,
        """
        {{zd}}
        with torch.no_grad():
            fake = {{g}}(z)
        mix = (0.5 * real + 0.5 * fake).requires_grad_(True)
        (grad,) = torch.autograd.grad({{d}}(mix).sum(), mix, create_graph=True)
        penalty = ((grad.norm(2, dim=1) - 1) ** 2).mean()
        loss_d = {{d}}(fake).mean() - {{d}}(real).mean() + 10 * penalty
        loss_d.backward()
        {{clip_d}}
        {{od}}.step()
        """,
        """
        {{zg}}
        loss_g = -{{d}}({{g}}(z)).mean()
        loss_g.backward()
        {{clip_g}}
        {{og}}.step()
        """,
    ),
    "lazy penalty": _order(
        "{{d_step}}\nif i % 2 == 0:\n    {{zd}}\n    real = real.requires_grad_()\n"
        "    (grad,) = torch.autograd.grad({{d}}(real).sum(), real, create_graph=True)\n"
        "    r1 = 5 * grad.pow(2).sum(1).mean()\n    r1.backward()\n    {{od}}.step()\n{{g_step}}",
        _D,
        _G,
    ),
    "weight clip": _order(_D_FIRST, _D + "for p in {{d}}.parameters():\n    p.data.clamp_(-0.01, 0.01)\n", _G),
    "mone": _order(
        _D_FIRST,
        """
        one, mone = torch.tensor(1.0), torch.tensor(-1.0)
        {{zd}}
        d_real = {{d}}(real).mean()
        d_real.backward(mone)
        d_fake = {{d}}({{g}}(z).detach()).mean()
        d_fake.backward(one)
        {{clip_d}}
        {{od}}.step()
        """,
        """
        {{zg}}
        g_fake = {{d}}({{g}}(z)).mean()
        g_fake.backward(torch.tensor(-1.0))
        {{clip_g}}
        {{og}}.step()
        """,
    ),
    "generator twice": _order("{{d_step}}\n{{g_step}}\n{{g_step}}", _D, _G),
    "skipped": _order("{{d_step}}\nif loss_d.item() > 100:\n    continue\n{{g_step}}", _D, _G),
    "cycle": _order(
        "{{g_step}}\n{{d_step}}",
        _D.replace("fake = {{g}}(z)", "fake = {{g}}(z) if i % 2 else pool(z)"),
        """
        {{zg}}
        fake = {{g}}(z)
        back = {{g}}(fake)
        loss_g = bce({{d}}(fake), 1.0) + 10.0 * (back - z).abs().mean()
        loss_g.backward()
        {{clip_g}}
        {{og}}.step()
        """,
        """
        def pool(images):
            return images.flip(0)
        """,
    ),
}
