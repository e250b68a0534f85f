"""Generative adversarial networks: who is cut from whom, penalties on gradients, which network is trained when."""

from __future__ import annotations

from idioms.grammar import Family

_FAKE = {
    "detach": {"fake": "z = torch.randn(len(real), 4)\nfake = G(z)", "cut": "fake.detach()", "again": ""},
    "no_grad": {
        "fake": "z = torch.randn(len(real), 4)\nwith torch.no_grad():\n    fake = G(z)",
        "cut": "fake",
        "again": "fake = G(z)",
    },
    "data": {"fake": "z = torch.randn(len(real), 4)\nfake = G(z)", "cut": "fake.data", "again": ""},
    "detached copy": {
        "fake": "z = torch.randn(len(real), 4)\nfake = G(z)\nstill = fake.detach()",
        "cut": "still",
        "again": "",
    },
    "detached at once": {
        "fake": "z = torch.randn(len(real), 4)\nfake = G(z).detach()",
        "cut": "fake",
        "again": "fake = G(torch.randn(len(real), 4))",
    },
    "pool": {
        "fake": "z = torch.randn(len(real), 4)\nfake = G(z)",
        "cut": "pool.query(fake.detach())",
        "again": "",
    },
    "pool of data": {"fake": "fake = G(torch.randn(len(real), 4))", "cut": "pool.query(fake)", "again": ""},
    "fed together": {
        "fake": "fake = G(torch.randn(len(real), 4))",
        "cut": "torch.cat([fake.detach()])",
        "again": "",
    },
    "method": {
        "fake": "with torch.no_grad():\n    fake = G.sample(len(real))",
        "cut": "fake",
        "again": "fake = G.sample(len(real))",
    },
}

_LOSS = {
    "binary": {
        "d_loss": "d_real = F.binary_cross_entropy_with_logits(D(real), torch.ones(len(real), 1))\n"
        "d_fake = F.binary_cross_entropy_with_logits(D({{cut}}), torch.zeros(len(real), 1))\n"
        "d_loss = (d_real + d_fake) / 2",
        "g_loss": "g_loss = F.binary_cross_entropy_with_logits(D(fake), torch.ones(len(real), 1))",
    },
    "criterion": {
        "d_loss": "bce = nn.BCELoss()\nvalid = torch.full((len(real), 1), 0.9)\n"
        "d_loss = bce(torch.sigmoid(D(real)), valid) + bce(torch.sigmoid(D({{cut}})), torch.zeros_like(valid))",
        "g_loss": "g_loss = bce(torch.sigmoid(D(fake)), torch.ones(len(real), 1))",
    },
    "hinge": {
        "d_loss": "d_loss = F.relu(1 - D(real)).mean() + F.relu(1 + D({{cut}})).mean()",
        "g_loss": "g_loss = -D(fake).mean()",
    },
    "critic": {
        "d_loss": "d_loss = D({{cut}}).mean() - D(real).mean()",
        "g_loss": "g_loss = -torch.mean(D(fake))",
    },
    "critic with a penalty": {
        "d_loss": "d_loss = D({{cut}}).mean() - D(real).mean() + 10 * penalty(D, real, fake.detach())",
        "g_loss": "g_loss = -D(fake).mean()",
    },
    "critic with a penalty of data": {
        "d_loss": "d_loss = -D(real).mean() + D({{cut}}).mean()\n"
        "d_loss = d_loss + 10 * penalty(D, real.data, fake.data)",
        "g_loss": "g_loss = -D(fake).mean()",
    },
    "least squares": {
        "d_loss": "d_loss = 0.5 * ((D(real) - 1) ** 2).mean() + 0.5 * (D({{cut}}) ** 2).mean()",
        "g_loss": "g_loss = ((D(fake) - 1) ** 2).mean()",
    },
    "softplus": {
        "d_loss": "d_loss = F.softplus(-D(real)).mean() + F.softplus(D({{cut}})).mean()",
        "g_loss": "g_loss = F.softplus(-D(fake)).mean()",
    },
    "softplus with r1": {
        "d_loss": "real.requires_grad_(True)\nscore = D(real)\n"
        "d_loss = F.softplus(-score).mean() + F.softplus(D({{cut}})).mean()\n"
        "(slope,) = torch.autograd.grad(score.sum(), real, create_graph=True)\n"
        "d_loss = d_loss + 5 * slope.pow(2).flatten(1).sum(1).mean()\nreal = real.detach()",
        "g_loss": "g_loss = F.softplus(-D(fake)).mean()",
    },
    "relativistic": {
        "d_loss": "a, b = D(real), D({{cut}})\n"
        "d_loss = F.softplus(-(a - b.mean())).mean() + F.softplus(b - a.mean()).mean()",
        "g_loss": "a, b = D(real).detach(), D(fake)\ng_loss = F.softplus(-(b - a.mean())).mean()",
    },
    "class of losses": {
        "d_loss": "d_loss = gan(D(real), True) + gan(D({{cut}}), False)",
        "g_loss": "g_loss = gan(D(fake), True)",
    },
    "features": {
        "d_loss": "d_loss = gan(D(real), True) + gan(D({{cut}}), False)",
        "g_loss": "with torch.no_grad():\n    goal = D.features(real)\n"
        "g_loss = gan(D(fake), True) + 10 * F.l1_loss(D.features(fake), goal)",
    },
    "features detached": {
        "d_loss": "d_loss = gan(D(real), True) + gan(D({{cut}}), False)",
        "g_loss": "pairs = [(fake, real)]\ng_loss = gan(D(fake), True)\n"
        "g_loss = g_loss + sum(F.l1_loss(D.features(a), D.features(b).detach()) for a, b in pairs)",
    },
    "adaptive weight": {
        "d_loss": "d_loss = gan(D(real), True) + gan(D({{cut}}), False)",
        "g_loss": "rec, adv = F.l1_loss(fake, real.mean(0).expand_as(fake)), -D(fake).mean()\n"
        "last = G.layers[-1].weight\n"
        "rec_grad = torch.autograd.grad(rec, last, retain_graph=True)[0]\n"
        "adv_grad = torch.autograd.grad(adv, last, retain_graph=True)[0]\n"
        "weight = (rec_grad.norm() / (adv_grad.norm() + 1e-4)).clamp(0, 1e4).detach()\ng_loss = rec + weight * adv",
    },
    "mode seeking": {
        "d_loss": "d_loss = gan(D(real), True) + gan(D({{cut}}), False)",
        "g_loss": "z1, z2 = torch.randn(len(real), 4), torch.randn(len(real), 4)\n"
        "ratio = (G(z1) - G(z2)).abs().mean() / (z1 - z2).abs().mean()\n"
        "g_loss = gan(D(fake), True) + 1 / (ratio + 1e-5)",
    },
}

_TRAIN_D = {
    "plain": {"train_d": "opt_d.zero_grad()\n{{d_loss}}\nd_loss.backward()\nopt_d.step()"},
    "module cleared": {"train_d": "D.zero_grad()\n{{d_loss}}\nd_loss.backward()\nopt_d.step()"},
    "frozen generator": {
        "train_d": "for p in G.parameters():\n    p.requires_grad = False\nfor p in D.parameters():\n"
        "    p.requires_grad = True\n"
        "opt_d.zero_grad()\n{{d_loss}}\nd_loss.backward()\nopt_d.step()\n"
        "for p in G.parameters():\n    p.requires_grad = True",
    },
    "helper freezes": {
        "train_d": "requires(G, False)\nrequires(D, True)\nopt_d.zero_grad()\n{{d_loss}}\nd_loss.backward()\n"
        "opt_d.step()\nrequires(G, True)",
    },
    "weights clipped": {
        "train_d": "opt_d.zero_grad()\n{{d_loss}}\nd_loss.backward()\nopt_d.step()\nfor p in D.parameters():\n"
        "    p.data.clamp_(-0.1, 0.1)",
    },
}

_TRAIN_G = {
    "plain": {"train_g": "opt_g.zero_grad()\n{{again}}\n{{g_loss}}\ng_loss.backward()\nopt_g.step()"},
    "every few": {
        "train_g": "if step % 2 == 0:\n    opt_g.zero_grad()\n    {{again}}\n    {{g_loss}}\n"
        "    g_loss.backward()\n    opt_g.step()",
    },
    "frozen critic": {
        "train_g": "for p in D.parameters():\n    p.requires_grad_(False)\nopt_g.zero_grad()\n{{again}}\n{{g_loss}}\n"
        "g_loss.backward()\nopt_g.step()\nfor p in D.parameters():\n    p.requires_grad_(True)",
    },
    "both cleared": {
        "train_g": "opt_d.zero_grad()\nopt_g.zero_grad()\n{{again}}\n{{g_loss}}\ng_loss.backward()\nopt_g.step()",
    },
    "new noise": {
        "train_g": "opt_g.zero_grad()\nfake = G(torch.randn(len(real), 4))\n{{g_loss}}\ng_loss.backward()\n"
        "opt_g.step()",
    },
    "average": {
        "train_g": "opt_g.zero_grad()\n{{again}}\n{{g_loss}}\ng_loss.backward()\nopt_g.step()\n"
        "for a, p in zip(mean_g.parameters(), G.parameters()):\n    a.data.mul_(0.9).add_(p.data, alpha=0.1)",
    },
}

_LOG = {
    "item": {"log": "print(d_loss.item())", "log_start": ""},
    "lists": {"log": "losses['d'].append(d_loss.item())", "log_start": "losses = {'d': [], 'g': []}"},
    "scores": {
        "log": "with torch.no_grad():\n    scores.append(D(real).mean().item())",
        "log_start": "scores = []",
    },
    "sigmoid": {
        "log": "accuracy = (torch.sigmoid(D(real)) > 0.5).float().mean().item()\nprint(accuracy)",
        "log_start": "",
    },
    "samples": {
        "log": "if step % 2 == 0:\n    G.eval()\n    with torch.no_grad():\n"
        "        samples.append(G(fixed).cpu())\n    G.train()",
        "log_start": "samples, fixed = [], torch.randn(2, 4)",
    },
    "detached": {
        "log": "total_d += d_loss.detach() / 2\nif step == 1:\n    print(float(total_d))",
        "log_start": "total_d = 0.0",
    },
    "images": {
        "log": "grid = fake.detach().cpu().numpy().mean()\nprint(grid)",
        "log_start": "",
    },
    "accumulated average": {
        "log": "mean_loss = d_loss.data if mean_loss is None else 0.99 * mean_loss + 0.01 * d_loss.data",
        "log_start": "mean_loss = None",
    },
}

_PENALTY = {
    "autograd": """
    def penalty(D, real, fake):
        alpha = torch.rand(real.size(0), 1)
        mixed = (alpha * real + (1 - alpha) * fake).requires_grad_(True)
        scores = D(mixed)
        grads = torch.autograd.grad(
            outputs=scores, inputs=mixed, grad_outputs=torch.ones_like(scores), create_graph=True, retain_graph=True
        )[0]
        return ((grads.view(len(grads), -1).norm(2, dim=1) - 1) ** 2).mean()
    """,
    "variable": """
    def penalty(D, real, fake):
        alpha = torch.rand(real.size(0), 1).expand_as(real)
        mixed = Variable(alpha * real + (1 - alpha) * fake, requires_grad=True)
        grads = grad(D(mixed).sum(), mixed, create_graph=True)[0]
        slopes = (grads.pow(2).sum(1) + 1e-12).sqrt()
        return torch.mean((slopes - 1.0) ** 2)
    """,
    "only inputs": """
    def penalty(D, real, fake, center=1.0):
        mixed = torch.lerp(real, fake, torch.rand(len(real), 1)).detach()
        mixed.requires_grad = True
        out = D(mixed)
        (grads,) = torch.autograd.grad(out, mixed, torch.ones_like(out), True, True)
        return (grads.flatten(1).norm(dim=1) - center).pow(2).mean()
    """,
    "one sided": """
    def penalty(D, real, fake):
        x = torch.cat([real, fake]).clone().detach().requires_grad_()
        grads = torch.autograd.grad(D(x).sum(), x, create_graph=True)[0]
        return F.relu(grads.norm(2, dim=1) - 1).pow(2).mean()
    """,
}

_ADVERSARIES = Family(
    "adversaries",
    """
    import copy
    import itertools
    import random

    import torch
    import torch.nn as nn
    import torch.nn.functional as F
    from torch.autograd import Variable, grad


    class Generator(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))

        def forward(self, z):
            return self.layers(z)

        def sample(self, count):
            return self(torch.randn(count, 4))


    class Discriminator(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2))
            self.head = nn.Linear(16, 1)

        def features(self, x):
            return self.body(x)

        def forward(self, x):
            return self.head(self.features(x))


    class GANLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("real", torch.tensor(1.0))
            self.register_buffer("fake", torch.tensor(0.0))
            self.loss = nn.BCEWithLogitsLoss()

        def forward(self, scores, is_real):
            target = (self.real if is_real else self.fake).expand_as(scores)
            return self.loss(scores, target)


    class Pool:
        def __init__(self, size=8):
            self.size, self.images = size, []

        def query(self, images):
            out = []
            for image in images.data:
                image = image.unsqueeze(0)
                if len(self.images) < self.size:
                    self.images.append(image)
                    out.append(image)
                elif random.random() > 0.5:
                    at = random.randrange(self.size)
                    out.append(self.images[at].clone())
                    self.images[at] = image
                else:
                    out.append(image)
            return torch.cat(out, 0)


    def requires(net, flag):
        for p in net.parameters():
            p.requires_grad = flag


    {{penalty}}


    def train(epochs=2):
        G, D = Generator(), Discriminator()
        gan, pool, mean_g = GANLoss(), Pool(), copy.deepcopy(G)
        opt_g = torch.optim.Adam(G.parameters(), lr=2e-4, betas=(0.5, 0.999))
        opt_d = torch.optim.Adam(D.parameters(), lr=2e-4, betas=(0.5, 0.999))
        {{log_start}}
        for epoch in range(epochs):
            for step, real in enumerate(torch.randn(2, 6, 8)):
                {{fake}}
                {{train_d}}
                {{train_g}}
                {{log}}


    train()
    """,
    {
        "fake": _FAKE,
        "loss": _LOSS,
        "train d": _TRAIN_D,
        "train g": _TRAIN_G,
        "log": _LOG,
        "penalty": {name: {"penalty": text} for name, text in _PENALTY.items()},
    },
    {
        "penalty without a graph": (
            "GTR901",
            {
                "penalty": "def penalty(D, real, fake):\n    x = torch.cat([real, fake]).detach().requires_grad_()\n"
                "    grads = torch.autograd.grad(D(x).sum(), x)[0]\n"
                "    return (grads.norm(2, dim=1) - 1).pow(2).mean()",
                "d_loss": "d_loss = D({{cut}}).mean() - D(real).mean() + 10 * penalty(D, real, fake.detach())",
            },
        ),
        "loss kept": ("GTR402", {"log_start": "losses = []", "log": "losses.append(d_loss)"}),
        "summed": ("GTR401", {"log_start": "total = 0.0", "log": "total += d_loss"}),
        "twice": ("GTR503", {"fake": "z = torch.randn(len(real), 4)\nfake = G(z)", "cut": "fake", "again": ""}),
    },
)

FAMILIES = (_ADVERSARIES,)
