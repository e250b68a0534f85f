"""How a loss is made: of terms, by classes and models, with targets, teachers, weights and values without gradient."""

from __future__ import annotations

from idioms.grammar import Family


def _way(loss: str, helpers: str = "", setup: str = "", forward: str = "out = model(x)") -> dict[str, str]:
    return {"helpers": helpers, "setup": setup, "forward": forward, "loss": loss}


_FOCAL = """
class FocalLoss(nn.Module):
    def __init__(self, gamma=2.0, alpha=None, reduction="mean"):
        super().__init__()
        self.gamma, self.reduction = gamma, reduction
        self.register_buffer("alpha", torch.tensor(alpha) if alpha is not None else None)

    def forward(self, logits, target):
        logp = F.log_softmax(logits, dim=1).gather(1, target[:, None]).squeeze(1)
        p = logp.detach().exp() if self.gamma < 1 else logp.exp()
        loss = -((1 - p) ** self.gamma) * logp
        if self.alpha is not None:
            loss = self.alpha[target] * loss
        return loss.mean() if self.reduction == "mean" else loss.sum()
"""

_SMOOTH = """
class LabelSmoothing(nn.Module):
    def __init__(self, classes, smoothing=0.1):
        super().__init__()
        self.classes, self.smoothing = classes, smoothing

    def forward(self, out, target):
        with torch.no_grad():
            true = torch.full_like(out, self.smoothing / (self.classes - 1))
            true.scatter_(1, target.data.unsqueeze(1), 1.0 - self.smoothing)
        return torch.mean(torch.sum(-true * out.log_softmax(dim=-1), dim=-1))
"""

_UNCERTAIN = """
class Uncertainty(nn.Module):
    def __init__(self, tasks):
        super().__init__()
        self.log_vars = nn.Parameter(torch.zeros(tasks))

    def forward(self, losses):
        total = 0
        for i, loss in enumerate(losses):
            total = total + torch.exp(-self.log_vars[i]) * loss + self.log_vars[i]
        return total
"""

_TEACHER = "teacher = copy.deepcopy(model).eval()\nfor p in teacher.parameters():\n    p.requires_grad_(False)"

_DICE = """
def dice_loss(logits, target, eps=1e-6):
    probs = logits.softmax(dim=1)
    onehot = F.one_hot(target, logits.shape[1]).to(probs.dtype)
    inter = (probs * onehot).sum(0)
    return 1 - ((2 * inter + eps) / (probs.sum(0) + onehot.sum(0) + eps)).mean()
"""

_CENTER = """
class CenterLoss(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.centers = nn.Parameter(torch.randn(classes, width))

    def forward(self, x, labels):
        return (x - self.centers[labels]).pow(2).sum(1).clamp(min=1e-12, max=1e12).mean()
"""

_EMA_CENTERS = """
class RunningCenters(nn.Module):
    def __init__(self, classes, width, momentum=0.9):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centers", torch.zeros(classes, width))

    @torch.no_grad()
    def update(self, x, labels):
        for c in labels.unique():
            self.centers[c] = self.momentum * self.centers[c] + (1 - self.momentum) * x[labels == c].mean(0)

    def forward(self, x, labels):
        self.update(x, labels)
        return F.mse_loss(x, self.centers[labels])
"""

_CONTRAST = """
def info_nce(a, b, temperature=0.1):
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    logits = a @ b.t() / temperature
    target = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2
"""

_BANK = """
class Bank:
    def __init__(self, size, width):
        self.queue = F.normalize(torch.randn(size, width), dim=1)
        self.at = 0

    def push(self, keys):
        keys = keys.detach()
        self.queue[self.at : self.at + len(keys)] = keys
        self.at = (self.at + len(keys)) % len(self.queue)


def with_bank(q, k, bank):
    k = k.detach()
    positive = (q * k).sum(1, keepdim=True)
    negative = q @ bank.queue.clone().detach().t()
    logits = torch.cat([positive, negative], dim=1) / 0.07
    bank.push(k)
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))
"""

_MINE = """
def hardest(out, y, share=0.5):
    each = F.cross_entropy(out, y, reduction="none")
    keep = max(1, int(share * each.numel()))
    worst, _ = torch.topk(each, keep)
    return worst.mean()
"""

_AVERAGED = """
class Balancer:
    def __init__(self, names, decay=0.9):
        self.decay, self.means = decay, {name: None for name in names}

    def __call__(self, losses):
        total = 0.0
        for name, loss in losses.items():
            value = loss.detach().item()
            old = self.means[name]
            self.means[name] = value if old is None else self.decay * old + (1 - self.decay) * value
            total = total + loss / (self.means[name] + 1e-8)
        return total
"""

_VQ = """
class Quantizer(nn.Module):
    def __init__(self, codes, width, beta=0.25):
        super().__init__()
        self.beta = beta
        self.embedding = nn.Embedding(codes, width)

    def forward(self, z):
        distance = torch.cdist(z, self.embedding.weight)
        index = distance.argmin(dim=1)
        q = self.embedding(index)
        loss = F.mse_loss(q, z.detach()) + self.beta * F.mse_loss(q.detach(), z)
        return z + (q - z).detach(), loss, index
"""

_LOSS = {
    "criterion": _way("loss = criterion(out, y)"),
    "functional": _way("loss = F.cross_entropy(out, y, label_smoothing=0.1)"),
    "criterion dict": _way(
        "loss = sum(w * losses[name](out, y) for name, w in weights.items())",
        "",
        "losses = {'ce': nn.CrossEntropyLoss(), 'margin': nn.MultiMarginLoss()}\nweights = {'ce': 1.0, 'margin': 0.5}",
    ),
    "weighted settings": _way("loss = args.alpha * criterion(out, y) + args.beta * out.abs().mean()"),
    "sum of list": _way("parts = [criterion(out, y), out.pow(2).mean()]\nloss = sum(parts)"),
    "stack of list": _way(
        "parts = []\nfor o in (out, out / 2):\n    parts.append(criterion(o, y))\nloss = torch.stack(parts).mean()"
    ),
    "sum of dict": _way("parts = {'ce': criterion(out, y), 'l2': out.pow(2).mean()}\nloss = sum(parts.values())"),
    "weights of dict": _way(
        """
        parts = losses_of(out, y)
        parts = {name: value * weight[name] for name, value in parts.items() if name in weight}
        loss = sum(parts.values())
        logged = {name: value.item() for name, value in parts.items()}
        """,
        "def losses_of(out, y):\n"
        "    return {'loss_ce': F.cross_entropy(out, y), 'loss_l1': out.abs().mean(), 'err': 0.0}",
        "weight = {'loss_ce': 1.0, 'loss_l1': 0.1}",
    ),
    "grows from zero": _way("loss = 0.0\nfor o in (out, out * 2):\n    loss += criterion(o, y)\nloss = loss / 2"),
    "grows from a tensor": _way(
        "loss = torch.tensor(0.0, device=x.device)\nfor o in (out, out * 2):\n    loss = loss + criterion(o, y)"
    ),
    "grows from new_zeros": _way("loss = x.new_zeros(())\nfor i in range(2):\n    loss += criterion(out * (i + 1), y)"),
    "grows from zeros in place": _way(
        "loss = torch.zeros(1)\nloss += criterion(out, y)\nloss += 0.1 * out.pow(2).mean()"
    ),
    "uncertainty": _way(
        "loss = balance([criterion(out, y), out.pow(2).mean()])",
        _UNCERTAIN,
        "balance = Uncertainty(2)\noptimizer.add_param_group({'params': balance.parameters()})",
    ),
    "focal": _way("loss = focal(out, y)", _FOCAL, "focal = FocalLoss(alpha=[0.25, 0.25, 0.25, 0.25])"),
    "label smoothing": _way("loss = smooth(out, y)", _SMOOTH, "smooth = LabelSmoothing(4)"),
    "nll": _way("loss = F.nll_loss(F.log_softmax(out, dim=1), y)"),
    "log probs by hand": _way(
        "logp = out - out.logsumexp(dim=1, keepdim=True)\nloss = -logp[torch.arange(len(y)), y].mean()"
    ),
    "clamped log": _way("p = out.softmax(1).gather(1, y[:, None])\nloss = -p.clamp(min=1e-7).log().mean()"),
    "binary": _way(
        "target = F.one_hot(y, 4).float()\n"
        "loss = F.binary_cross_entropy_with_logits(out, target, pos_weight=torch.ones(4))"
    ),
    "sigmoid then binary": _way(
        "target = torch.zeros_like(out)\ntarget[torch.arange(len(y)), y] = 1\n"
        "loss = nn.BCELoss()(torch.sigmoid(out), target)"
    ),
    "masked mean": _way(
        "mask = (y != 0).float()\neach = F.cross_entropy(out, y, reduction='none')\n"
        "loss = (each * mask).sum() / mask.sum().clamp(min=1).item()"
    ),
    "class weights": _way(
        "counts = torch.bincount(y, minlength=4).float()\n"
        "weights = 1.0 / counts.clamp(min=1)\nloss = F.cross_entropy(out, y, weight=weights)"
    ),
    "hardest": _way("loss = hardest(out, y)", _MINE),
    "dice": _way("loss = criterion(out, y) + dice_loss(out, y)", _DICE),
    "centers": _way(
        "loss = criterion(out, y) + 0.01 * centers(out, y)",
        _CENTER,
        "centers = CenterLoss(4, 4)\noptimizer.add_param_group({'params': list(centers.parameters()), 'lr': 0.5})",
    ),
    "running centers": _way(
        "loss = criterion(out, y) + centers(out, y)", _EMA_CENTERS, "centers = RunningCenters(4, 4)"
    ),
    "two views": _way(
        "loss = info_nce(out, other)", _CONTRAST, "", "out, other = model(x), model(x + 0.1 * torch.randn_like(x))"
    ),
    "memory bank": _way(
        "loss = with_bank(F.normalize(out, dim=1), F.normalize(k, dim=1), bank)",
        _BANK,
        "bank = Bank(12, 4)\n" + _TEACHER,
        "out = model(x)\nwith torch.no_grad():\n    k = teacher(x)",
    ),
    "triplet": _way(
        "loss = nn.TripletMarginLoss(margin=0.5)(out, out.roll(1, 0), out.roll(2, 0)) + criterion(out, y)",
    ),
    "teacher under no_grad": _way(
        "soft = F.kl_div(F.log_softmax(out / T, dim=1), F.softmax(target / T, dim=1), reduction='batchmean') * T * T\n"
        "loss = 0.5 * soft + 0.5 * criterion(out, y)",
        "",
        "T = 2.0\n" + _TEACHER,
        "with torch.no_grad():\n    target = teacher(x)\nout = model(x)",
    ),
    "teacher detached": _way(
        "loss = F.mse_loss(out, target.detach()) + criterion(out, y)",
        "",
        _TEACHER,
        "out, target = model(x), teacher(x)",
    ),
    "teacher in a method": _way(
        "loss = distill(x, out, y)",
        """
        class Distill(nn.Module):
            def __init__(self, teacher, alpha=0.5):
                super().__init__()
                self.teacher, self.alpha = teacher, alpha

            @torch.no_grad()
            def targets(self, x):
                return self.teacher(x).softmax(-1)

            def forward(self, x, out, y):
                soft = -(self.targets(x) * out.log_softmax(-1)).sum(-1).mean()
                return self.alpha * soft + (1 - self.alpha) * F.cross_entropy(out, y)
        """,
        _TEACHER + "\ndistill = Distill(teacher)",
    ),
    "pseudo labels": _way(
        """
        with torch.no_grad():
            probs = model(x).softmax(1)
            top, label = probs.max(1)
            mask = top.ge(0.3).float()
        loss = criterion(out, y) + (F.cross_entropy(model(x + 0.1), label, reduction="none") * mask).mean()
        """
    ),
    "pseudo labels detached": _way(
        """
        probs = torch.softmax(out.detach(), dim=-1)
        top, label = torch.max(probs, dim=-1)
        mask = (top > 0.3).to(out.dtype)
        loss = criterion(out, y) + (F.cross_entropy(model(x.flip(1)), label, reduction="none") * mask).mean()
        """
    ),
    "consistency": _way(
        "a = F.log_softmax(out, 1)\nb = F.log_softmax(model(x), 1)\n"
        "loss = criterion(out, y) + 0.5 * (F.kl_div(a, b.exp(), reduction='batchmean')\n"
        "    + F.kl_div(b, a.exp(), reduction='batchmean'))"
    ),
    "stop gradient": _way(
        "other = model(x + 0.1)\nloss = criterion(out, y) - F.cosine_similarity(out, other.detach(), dim=-1).mean()"
    ),
    "mixup": _way(
        "loss = lam * criterion(out, y) + (1 - lam) * criterion(out, y[order])",
        "",
        "",
        "lam = np.random.beta(0.4, 0.4)\norder = torch.randperm(len(x))\nout = model(lam * x + (1 - lam) * x[order])",
    ),
    "penalty on parameters": _way(
        "loss = criterion(out, y)\nl2 = sum(p.pow(2).sum() for p in model.parameters())\nloss = loss + 1e-4 * l2"
    ),
    "penalty in a loop": _way(
        "loss, reg = criterion(out, y), 0\nfor name, p in model.named_parameters():\n"
        "    if 'weight' in name:\n        reg = reg + torch.norm(p, 1)\nloss += 1e-4 * reg"
    ),
    "distance to the start": _way(
        "loss = criterion(out, y)\nfor p, q in zip(model.parameters(), start):\n"
        "    loss += 0.01 * (p - q).pow(2).sum()",
        "",
        "start = [p.detach().clone() for p in model.parameters()]",
    ),
    "importance of parameters": _way(
        "loss = criterion(out, y) + sum((fisher[n] * (p - old[n]) ** 2).sum() for n, p in model.named_parameters())",
        "",
        "old = {n: p.clone().detach() for n, p in model.named_parameters()}\n"
        "fisher = {n: torch.ones_like(p) for n, p in old.items()}",
    ),
    "scaled to another": _way(
        "ce, aux = criterion(out, y), out.pow(2).mean()\nloss = ce + aux * (ce.detach() / (aux.detach() + 1e-8))"
    ),
    "scaled by a number": _way(
        "ce, aux = criterion(out, y), out.pow(2).mean()\nratio = ce.item() / max(aux.item(), 1e-8)\n"
        "loss = ce + 0.1 * ratio * aux"
    ),
    "running scale": _way(
        "loss = balancer({'ce': criterion(out, y), 'l2': out.pow(2).mean()})",
        _AVERAGED,
        "balancer = Balancer(['ce', 'l2'])",
    ),
    "weighed by confidence": _way(
        "weight = out.softmax(1).max(1).values.detach()\n"
        "loss = (weight * F.cross_entropy(out, y, reduction='none')).mean()"
    ),
    "warmed up": _way(
        "beta = min(1.0, step / 10)\nloss = criterion(out, y) + beta * out.pow(2).mean()\nkept = beta * loss.item()"
    ),
    "optional term": _way(
        "loss = criterion(out, y)\nif args.beta > 0:\n    extra = out.pow(2).mean()\n"
        "    loss = loss + args.beta * extra\n"
        "else:\n    extra = torch.tensor(0.0)\nprint(extra.item())"
    ),
    "where": _way(
        "each = F.cross_entropy(out, y, reduction='none')\nloss = torch.where(each > 1, each, 0.5 * each ** 2).mean()"
    ),
    "codes": _way(
        "loss = criterion(quantized, y) + commit",
        _VQ,
        "quantizer = Quantizer(5, 4)\noptimizer.add_param_group({'params': quantizer.parameters()})",
        "out = model(x)\nquantized, commit, _ = quantizer(out)",
    ),
    "straight through": _way(
        "soft = out.softmax(1)\nhard = F.one_hot(soft.argmax(1), 4).float()\n"
        "code = hard - soft.detach() + soft\nloss = F.mse_loss(code, F.one_hot(y, 4).float())"
    ),
    "gumbel": _way(
        "code = F.gumbel_softmax(out, tau=0.5, hard=True)\nloss = F.mse_loss(code, F.one_hot(y, 4).float())"
    ),
    "variational": _way(
        "mu, logvar = out.chunk(2, dim=1)\nz = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)\n"
        "kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1).mean()\n"
        "loss = F.mse_loss(z, x[:, :2]) + 0.1 * kl"
    ),
    "normal": _way(
        "mu, log_std = out.chunk(2, dim=1)\nd = torch.distributions.Normal(mu, log_std.exp())\n"
        "prior = torch.distributions.Normal(0.0, 1.0)\n"
        "loss = -d.log_prob(x[:, :2]).mean() + torch.distributions.kl_divergence(d, prior).mean()"
    ),
    "ranked": _way(
        "order = torch.argsort(out.detach()[:, 0], descending=True)\nloss = F.mse_loss(out[order], x[order][:, :4])"
    ),
    "matched": _way(
        "cost = torch.cdist(out, x[:, :4]).detach().cpu().numpy()\npick = torch.as_tensor(cost.argmin(1))\n"
        "loss = F.l1_loss(out, x[pick][:, :4])"
    ),
    "cosine targets": _way("loss = nn.CosineEmbeddingLoss()(out, x[:, :4], torch.ones(len(x)))"),
    "sequence": _way(
        "loss = 0\nfor t in range(out.size(1)):\n    loss += F.mse_loss(out[:, t], x[:, t])\nloss /= out.size(1)"
    ),
    "lambda": _way("loss = measure(out, y)", "", "measure = lambda a, b: F.cross_entropy(a, b).mul(2.0)"),
    "partial": _way("loss = measure(out, y)", "", "measure = functools.partial(F.cross_entropy, reduction='sum')"),
    "tuple of helper": _way(
        "loss, parts = compute(out, y)\nprint(parts['ce'])",
        """
        def compute(out, y):
            ce = F.cross_entropy(out, y)
            l2 = out.pow(2).mean()
            return ce + l2, {"ce": ce.item(), "l2": l2.detach()}
        """,
    ),
    "detached log beside": _way(
        "loss, log = compute(out, y)\nprint(log)",
        """
        def compute(out, y):
            loss = F.cross_entropy(out, y)
            log_vars = OrderedDict(loss=loss.detach().mean())
            for name, value in list(log_vars.items()):
                log_vars[name] = value.clone().item()
            return loss, log_vars
        """,
    ),
    "last value kept": _way(
        "loss = keeper(out, y)\nprint(keeper.last)",
        """
        class Keeper(nn.Module):
            def __init__(self):
                super().__init__()
                self.last = None

            def forward(self, out, y):
                loss = F.cross_entropy(out, y)
                self.last = loss.detach()
                return loss
        """,
        "keeper = Keeper()",
    ),
}

_LAYOUT = {
    "script": {
        "program": """
        args = argparse.Namespace(alpha=1.0, beta=0.1)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        criterion = nn.CrossEntropyLoss()
        {{setup}}
        for step in range(3):
            x, y = torch.randn(6, 8), torch.randint(0, 4, (6,))
            {{forward}}
            {{loss}}
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            {{log}}
        """
    },
    "function": {
        "program": """
        def main(args):
            model = Net()
            optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
            criterion = nn.CrossEntropyLoss().to(args.device)
            {{setup}}
            model.train()
            for epoch in range(2):
                for step, (x, y) in enumerate(batches()):
                    x, y = x.to(args.device), y.to(args.device)
                    optimizer.zero_grad()
                    {{forward}}
                    {{loss}}
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    {{log}}


        if __name__ == "__main__":
            parser = argparse.ArgumentParser()
            parser.add_argument("--alpha", type=float, default=1.0)
            parser.add_argument("--beta", type=float, default=0.1)
            parser.add_argument("--lr", type=float, default=0.1)
            parser.add_argument("--device", default="cpu")
            main(parser.parse_args([]))
        """
    },
    "mixed precision": {
        "program": """
        def train(args, use_amp=False):
            model = Net()
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
            scaler = torch.amp.GradScaler("cpu", enabled=use_amp)
            criterion = nn.CrossEntropyLoss()
            {{setup}}
            for step, (x, y) in enumerate(batches()):
                with torch.autocast("cpu", enabled=use_amp):
                    {{forward}}
                    {{loss}}
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                {{log}}


        train(argparse.Namespace(alpha=1.0, beta=0.0))
        """
    },
    "accumulating": {
        "program": """
        def train(args, every=2):
            model = Net()
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
            criterion = nn.CrossEntropyLoss()
            {{setup}}
            for step, (x, y) in enumerate(batches()):
                {{forward}}
                {{loss}}
                (loss / every).backward()
                if (step + 1) % every == 0:
                    optimizer.step()
                    optimizer.zero_grad()
                {{log}}


        train(argparse.Namespace(alpha=1.0, beta=0.0))
        """
    },
}

_LOSSES = Family(
    "losses",
    """
    import argparse
    import copy
    import functools
    from collections import OrderedDict, namedtuple
    from dataclasses import dataclass
    from typing import Optional

    import numpy as np
    import torch
    import torch.nn.functional as F
    from torch import nn

    {{helpers}}


    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

        def forward(self, x):
            return self.layers(x)


    def batches():
        return [(torch.randn(6, 8), torch.randint(0, 4, (6,))) for _ in range(2)]


    {{program}}
    """,
    {
        "loss": _LOSS,
        "layout": _LAYOUT,
        "log": {
            "item": {"log": "print(loss.item())"},
            "nothing": {"log": ""},
            "detached": {"log": "value = loss.detach().cpu().numpy()\nprint(float(value))"},
        },
    },
    {
        "term read out": ("GTR201", {"loss": "loss = criterion(out, y) + out.pow(2).mean().item()"}),
        "detached": ("GTR203", {"loss": "loss = criterion(out, y).detach()"}),
        "list rewrapped": (
            "GTR202",
            {
                "loss": "parts = [criterion(out, y), out.pow(2).mean()]\n"
                "loss = criterion(out, y) + torch.tensor(parts).sum()"
            },
        ),
        "argmax": ("GTR204", {"loss": "loss = F.mse_loss(out.round(), x[:, :4])"}),
        "softmax twice": ("GTR803", {"loss": "loss = F.cross_entropy(out.softmax(dim=1), y)"}),
        "log of softmax": ("GTR801", {"loss": "loss = F.nll_loss(torch.log(F.softmax(out, dim=1)), y)"}),
        "forced": ("GTR209", {"loss": "loss = torch.tensor(criterion(out, y).item(), requires_grad=True)"}),
    },
)

FAMILIES = (_LOSSES,)
