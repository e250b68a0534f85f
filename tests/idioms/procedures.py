"""Steps of other shapes: two-step optimizers, inner loops, gradients taken and put by hand, parts trained in turn."""

from __future__ import annotations

import re

from idioms.grammar import Family
from idioms.parts import BATCHES, NETWORKS, SETTINGS
from idioms.single import HELD, HOMES

_MSE = "nn.functional.mse_loss({{m}}(x), y)"


def _way(step: str, define: str = "", before: str = "") -> dict[str, str]:
    """A procedure; what `before` makes lives where the model does, so that a method finds it."""
    made = {name for names in re.findall(r"^([\w, ]+?) =", before, re.MULTILINE) for name in re.split(r"[ ,=]+", names)}
    for name in made:
        step, before = (re.sub(rf"(?<![\w.]){name}\b(?!=)", "{{s}}" + name, text) for text in (step, before))
    return {"step": "{{take}}\n" + step.strip("\n") + "\n{{log}}\n{{advance}}", "helper": define, "before": before}


PROCEDURES = {
    "plain": _way(f"{{{{o}}}}.zero_grad()\nloss = {_MSE}\nloss.backward()\n{{{{o}}}}.step()"),
    "sharpness": _way(
        f"""
{{{{o}}}}.zero_grad()
loss = {_MSE}
loss.backward()
moves = []
with torch.no_grad():
    for p in {{{{m}}}}.parameters():
        if p.grad is None:
            continue
        e = 0.05 * p.grad / (p.grad.norm() + 1e-12)
        p.add_(e)
        moves.append((p, e))
{{{{o}}}}.zero_grad()
{_MSE}.backward()
with torch.no_grad():
    for p, e in moves:
        p.sub_(e)
{{{{o}}}}.step()
"""
    ),
    "sam": _way(
        f"""
loss = {_MSE}
loss.backward()
sam.first_step(zero_grad=True)
{_MSE}.backward()
sam.second_step(zero_grad=True)
""",
        """
class SAM(torch.optim.Optimizer):
    def __init__(self, params, base, rho=0.05):
        super().__init__(params, dict(rho=rho))
        self.base_optimizer = base
        self.param_groups = base.param_groups

    @torch.no_grad()
    def first_step(self, zero_grad=False):
        for group in self.param_groups:
            for p in group['params']:
                if p.grad is None:
                    continue
                e_w = 0.05 * p.grad
                p.add_(e_w)
                self.state[p]['e_w'] = e_w
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad=False):
        for group in self.param_groups:
            for p in group['params']:
                if p.grad is None:
                    continue
                p.sub_(self.state[p]['e_w'])
        self.base_optimizer.step()
        if zero_grad:
            self.zero_grad()
""",
        "sam = SAM(list({{m}}.parameters()), {{o}}{{wrapped}})",
    ),
    "closure": _way(
        f"""
def closure():
    {{{{o}}}}{{{{wrapped}}}}.zero_grad()
    value = {_MSE}
    value.backward()
    return value

loss = {{{{o}}}}{{{{wrapped}}}}.step(closure)
"""
    ),
    "closure with gradients": _way(
        f"""
def closure():
    if torch.is_grad_enabled():
        {{{{o}}}}{{{{wrapped}}}}.zero_grad()
    value = {_MSE}
    if value.requires_grad:
        value.backward()
    return value

{{{{o}}}}{{{{wrapped}}}}.step(closure)
loss = closure()
"""
    ),
    "lbfgs": _way(
        f"""
def closure():
    lbfgs.zero_grad()
    value = {_MSE}
    value.backward()
    return value

lbfgs.step(closure)
loss = torch.tensor(0.0)
""",
        before="lbfgs = torch.optim.LBFGS([p for p in {{m}}.parameters() if p.requires_grad], max_iter=2)",
    ),
    "maml": _way(
        """
{{o}}.zero_grad()
loss = 0.0
for task in range(2):
    fast = {n: p for n, p in {{m}}.named_parameters() if p.requires_grad}
    for _ in range(2):
        inner = nn.functional.mse_loss(torch.func.functional_call({{m}}, fast, (x,)), y)
        grads = torch.autograd.grad(inner, list(fast.values()), create_graph=True)
        fast = {n: p - 0.01 * g for (n, p), g in zip(fast.items(), grads)}
    loss = loss + nn.functional.mse_loss(torch.func.functional_call({{m}}, fast, (x,)), y)
(loss / 2).backward()
{{o}}.step()
"""
    ),
    "reptile": _way(
        f"""
before = copy.deepcopy({{{{m}}}}.state_dict())
for _ in range(2):
    {{{{o}}}}.zero_grad()
    loss = {_MSE}
    loss.backward()
    {{{{o}}}}.step()
after = {{{{m}}}}.state_dict()
{{{{m}}}}.load_state_dict({{name: before[name] + 0.5 * (after[name] - before[name]) for name in before}})
""",
        "import copy",
    ),
    "inner copy": _way(
        """
learner = copy.deepcopy({{m}})
inner = torch.optim.SGD(learner.parameters(), lr=0.01)
for _ in range(2):
    inner.zero_grad()
    nn.functional.mse_loss(learner(x), y).backward()
    inner.step()
{{o}}.zero_grad()
loss = nn.functional.mse_loss(learner(x), y)
learner.zero_grad()
loss.backward()
for p, q in zip({{m}}.parameters(), learner.parameters()):
    if q.grad is not None:
        p.grad = q.grad.clone()
{{o}}.step()
""",
        "import copy",
    ),
    "gradients by hand": _way(
        f"""
learned = [p for p in {{{{m}}}}.parameters() if p.requires_grad]
loss = {_MSE}
grads = torch.autograd.grad(loss, learned)
for p, g in zip(learned, grads):
    p.grad = g.clamp(-1, 1)
{{{{o}}}}.step()
"""
    ),
    "gradients averaged": _way(
        """
collected = []
for part, target in zip(x.chunk(2), y.chunk(2)):
    {{m}}.zero_grad()
    loss = nn.functional.mse_loss({{m}}(part), target)
    loss.backward()
    collected.append([p.grad.clone() if p.grad is not None else None for p in {{m}}.parameters()])
for p, *grads in zip({{m}}.parameters(), *collected):
    if grads[0] is not None:
        p.grad = sum(grads) / len(grads)
{{o}}.step()
"""
    ),
    "projected": _way(
        f"""
losses = [{_MSE}, nn.functional.l1_loss({{{{m}}}}(x), y)]
flat = []
for value in losses:
    {{{{o}}}}.zero_grad()
    value.backward(retain_graph=True)
    flat.append(torch.cat([p.grad.reshape(-1) for p in {{{{m}}}}.parameters() if p.grad is not None]))
inner = torch.dot(flat[0], flat[1])
total = flat[0] + flat[1]
if inner < 0:
    total = total - inner / flat[1].norm() ** 2 * flat[1]
{{{{o}}}}.zero_grad()
place = 0
for p in {{{{m}}}}.parameters():
    if not p.requires_grad:
        continue
    p.grad = total[place:place + p.numel()].view_as(p).clone()
    place += p.numel()
{{{{o}}}}.step()
loss = losses[0]
"""
    ),
    "grad norm": _way(
        f"""
losses = torch.stack([{_MSE}, nn.functional.l1_loss({{{{m}}}}(x), y)])
{{{{o}}}}.zero_grad()
loss = (weights.detach() * losses).sum()
loss.backward(retain_graph=True)
last = [p for p in {{{{m}}}}.parameters() if p.requires_grad][-1]
norms = torch.stack([(w * torch.autograd.grad(v, last, retain_graph=True, create_graph=True)[0]).norm()
                     for w, v in zip(weights, losses)])
balance.zero_grad()
weights.grad = torch.autograd.grad((norms - norms.mean().detach()).abs().sum(), weights)[0]
balance.step()
{{{{o}}}}.step()
with torch.no_grad():
    weights.mul_(2 / weights.sum())
""",
        before="weights = torch.ones(2, requires_grad=True)\nbalance = torch.optim.Adam([weights], lr=0.01)",
    ),
    "uncertainty": _way(
        f"""
{{{{o}}}}.zero_grad()
scale.zero_grad()
loss = torch.exp(-log_var) * {_MSE} + log_var
loss.backward()
{{{{o}}}}.step()
scale.step()
""",
        before="log_var = nn.Parameter(torch.zeros(()))\nscale = torch.optim.SGD([log_var], lr=0.01)",
    ),
    "virtual adversary": _way(
        """
embedding = x.clone()
{{o}}.zero_grad()
delta = torch.zeros_like(embedding).uniform_(-0.1, 0.1).requires_grad_()
for _ in range(2):
    loss = nn.functional.mse_loss({{m}}(embedding + delta), y) / 2
    loss.backward()
    grad = delta.grad.detach()
    delta = (delta + 0.1 * grad / (grad.norm() + 1e-8)).detach().requires_grad_()
{{o}}.step()
"""
    ),
    "fgm": _way(
        f"""
{{{{o}}}}.zero_grad()
loss = {_MSE}
loss.backward()
fgm.attack()
{_MSE}.backward()
fgm.restore()
{{{{o}}}}.step()
""",
        """
class FGM:
    def __init__(self, model):
        self.model = model
        self.backup = {}

    def attack(self, epsilon=0.1):
        for name, p in self.model.named_parameters():
            if p.requires_grad and p.grad is not None:
                self.backup[name] = p.data.clone()
                norm = p.grad.norm()
                if norm != 0:
                    p.data.add_(epsilon * p.grad / norm)

    def restore(self):
        for name, p in self.model.named_parameters():
            if name in self.backup:
                p.data = self.backup[name]
        self.backup = {}
""",
        "fgm = FGM({{m}})",
    ),
    "pgd": _way(
        f"""
loss = {_MSE}
loss.backward()
kept = [p.grad.clone() if p.grad is not None else None for p in {{{{m}}}}.parameters()]
for t in range(3):
    with torch.no_grad():
        for p in {{{{m}}}}.parameters():
            if p.grad is not None:
                p.add_(1e-3 * p.grad.sign())
    if t != 2:
        {{{{m}}}}.zero_grad()
    else:
        for p, g in zip({{{{m}}}}.parameters(), kept):
            p.grad = g
    {_MSE}.backward()
{{{{o}}}}.step()
{{{{o}}}}.zero_grad()
"""
    ),
    "target network": _way(
        """
with torch.no_grad():
    goal = y + 0.9 * target(x)
loss = nn.functional.smooth_l1_loss({{m}}(x), goal)
{{o}}.zero_grad()
loss.backward()
for p in {{m}}.parameters():
    if p.grad is not None:
        p.grad.data.clamp_(-1, 1)
{{o}}.step()
for p, q in zip({{m}}.parameters(), target.parameters()):
    q.data.copy_(0.99 * q.data + 0.01 * p.data)
""",
        "import copy",
        "target = copy.deepcopy({{m}})",
    ),
    "momentum teacher": _way(
        f"""
with torch.no_grad():
    goal = teacher(x)
loss = nn.functional.mse_loss({{{{m}}}}(x), goal) + {_MSE}
{{{{o}}}}.zero_grad()
loss.backward()
{{{{o}}}}.step()
with torch.no_grad():
    for p, q in zip({{{{m}}}}.parameters(), teacher.parameters()):
        q.mul_(0.99).add_(p.detach(), alpha=0.01)
""",
        "import copy",
        "teacher = copy.deepcopy({{m}})\nfor p in teacher.parameters():\n    p.requires_grad = False",
    ),
    "average": _way(
        f"""
{{{{o}}}}.zero_grad()
loss = {_MSE}
loss.backward()
{{{{o}}}}.step()
ema.update({{{{m}}}})
""",
        """
import copy


class ModelEma:
    def __init__(self, model, decay=0.99):
        self.ema = copy.deepcopy(model).eval()
        self.decay = decay
        for p in self.ema.parameters():
            p.requires_grad_(False)

    def update(self, model):
        with torch.no_grad():
            own = model.state_dict()
            for k, v in self.ema.state_dict().items():
                if v.dtype.is_floating_point:
                    v *= self.decay
                    v += (1 - self.decay) * own[k].detach()
""",
        "ema = ModelEma({{m}})",
    ),
    "swa": _way(
        f"""
{{{{o}}}}.zero_grad()
loss = {_MSE}
loss.backward()
{{{{o}}}}.step()
if epoch > 0:
    averaged.update_parameters({{{{m}}}})
""",
        before="averaged = torch.optim.swa_utils.AveragedModel({{m}})",
    ),
    "rollout": _way(
        """
batch = [(x, y) for _ in range(3)]
for _ in range(2):
    for states, targets in batch:
        values = {{m}}(states)
        loss = (values - targets).pow(2).mean()
        {{o}}.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_({{m}}.parameters(), 0.5)
        {{o}}.step()
"""
    ),
    "policy gradient": _way(
        """
logs, rewards = [], []
position = x
for t in range(3):
    mean = {{m}}(position)
    drawn = torch.distributions.Normal(mean, 1.0)
    action = drawn.sample()
    logs.append(drawn.log_prob(action).sum())
    rewards.append(-float(action.abs().mean()))
returns, total = [], 0.0
for r in reversed(rewards):
    total = r + 0.9 * total
    returns.insert(0, total)
loss = torch.stack([-lp * r for lp, r in zip(logs, returns)]).sum()
{{o}}.zero_grad()
loss.backward()
{{o}}.step()
"""
    ),
    "early stop of epochs": _way(
        """
for inner in range(3):
    loss = nn.functional.mse_loss({{m}}(x), y)
    if loss.item() < 1e-8:
        break
    {{o}}.zero_grad()
    loss.backward()
    {{o}}.step()
"""
    ),
    "truncated": _way(
        """
hidden = torch.zeros(len(x), 1)
for t in range(3):
    hidden = hidden.detach()
    hidden = torch.tanh({{m}}(x) + 0.1 * hidden)
    loss = (hidden - y).pow(2).mean()
    {{o}}.zero_grad()
    loss.backward()
    {{o}}.step()
"""
    ),
    "two views": _way(
        """
one, two = {{m}}(x), {{m}}(x + 0.01 * torch.randn_like(x))
loss = 0.5 * (nn.functional.mse_loss(one, two.detach()) + nn.functional.mse_loss(two, one.detach()))
{{o}}.zero_grad()
loss.backward()
{{o}}.step()
"""
    ),
    "gradient cache": _way(
        """
with torch.no_grad():
    reps = [{{m}}(part) for part in x.chunk(2)]
leaves = [r.detach().requires_grad_() for r in reps]
loss = (torch.cat(leaves) - y).pow(2).mean()
loss.backward()
cache = [leaf.grad for leaf in leaves]
{{o}}.zero_grad()
for part, g in zip(x.chunk(2), cache):
    out = {{m}}(part)
    torch.sum(out * g).backward()
{{o}}.step()
"""
    ),
    "fisher": _way(
        f"""
if fisher is None:
    fisher = []
    {{{{m}}}}.zero_grad()
    {_MSE}.backward()
    for p in {{{{m}}}}.parameters():
        fisher.append(p.grad.detach() ** 2 if p.grad is not None else torch.zeros_like(p))
    old = [p.detach().clone() for p in {{{{m}}}}.parameters()]
{{{{o}}}}.zero_grad()
loss = {_MSE}
for p, q, f in zip({{{{m}}}}.parameters(), old, fisher):
    loss = loss + 0.1 * (f * (p - q) ** 2).sum()
loss.backward()
{{{{o}}}}.step()
""",
        before="fisher = old = None",
    ),
    "line search": _way(
        f"""
{{{{o}}}}.zero_grad()
loss = {_MSE}
loss.backward()
saved = [p.detach().clone() for p in {{{{m}}}}.parameters()]
{{{{o}}}}.step()
with torch.no_grad():
    worse = {_MSE} > loss
    if worse:
        for p, q in zip({{{{m}}}}.parameters(), saved):
            p.copy_(q)
"""
    ),
    "try": _way(
        f"""
try:
    loss = {_MSE}
    {{{{o}}}}.zero_grad()
    loss.backward()
    {{{{o}}}}.step()
except RuntimeError as e:
    if 'CUDA out of memory' not in str(e):
        raise
    for p in {{{{m}}}}.parameters():
        p.grad = None
    torch.cuda.empty_cache()
    {{{{o}}}}.zero_grad()
    loss = {_MSE}
    loss.backward()
    {{{{o}}}}.step()
"""
    ),
    "retry": _way(
        f"""
for attempt in range(3):
    try:
        {{{{o}}}}.zero_grad()
        loss = {_MSE}
        loss.backward()
        {{{{o}}}}.step()
        break
    except RuntimeError:
        if attempt == 2:
            raise
"""
    ),
    "two phases": _way(
        f"""
if epoch < 1:
    loss = {_MSE}
    {{{{o}}}}.zero_grad()
    loss.backward()
    {{{{o}}}}.step()
else:
    for p in {{{{m}}}}.parameters():
        p.grad = None
    loss = nn.functional.l1_loss({{{{m}}}}(x), y)
    loss.backward()
    {{{{o}}}}.step()
"""
    ),
    "warm start": _way(
        f"""
loss = {_MSE}
loss.backward()
if seen % 2 == 1:
    {{{{o}}}}.step()
    {{{{o}}}}.zero_grad()
seen += 1
""".replace("loss.backward()", "(loss / 2).backward()"),
        before="seen = 0\n{{o}}.zero_grad()",
    ),
    "hard examples": _way(
        """
with torch.no_grad():
    each = nn.functional.mse_loss({{m}}(x), y, reduction='none').view(-1)
hard = each.topk(max(1, len(each) // 2)).indices
loss = nn.functional.mse_loss({{m}}(x[hard]), y[hard])
{{o}}.zero_grad()
loss.backward()
{{o}}.step()
"""
    ),
    "hooks": _way(
        f"""
handles = [p.register_hook(lambda g: g.clamp(-1, 1)) for p in {{{{m}}}}.parameters() if p.requires_grad]
{{{{o}}}}.zero_grad()
loss = {_MSE}
loss.backward()
{{{{o}}}}.step()
for handle in handles:
    handle.remove()
"""
    ),
    "synchronised": _way(
        f"""
{{{{o}}}}.zero_grad()
loss = {_MSE}
loss.backward()
average_gradients({{{{m}}}})
{{{{o}}}}.step()
""",
        """
import torch.distributed as dist


def average_gradients(model):
    if not (dist.is_available() and dist.is_initialized()):
        return
    size = float(dist.get_world_size())
    for p in model.parameters():
        if p.grad is not None:
            dist.all_reduce(p.grad.data, op=dist.ReduceOp.SUM)
            p.grad.data /= size
""",
    ),
    "master copy": _way(
        f"""
{{{{m}}}}.zero_grad()
loss = {_MSE}
loss.backward()
for p, q in zip([p for p in {{{{m}}}}.parameters() if p.requires_grad], master):
    q.grad = p.grad.detach().float()
keeper.step()
with torch.no_grad():
    for p, q in zip([p for p in {{{{m}}}}.parameters() if p.requires_grad], master):
        p.copy_(q)
""",
        before="master = [p.detach().clone().float().requires_grad_() for p in {{m}}.parameters() if p.requires_grad]\n"
        "keeper = torch.optim.SGD(master, lr=0.1)",
    ),
    "second optimizer": _way(
        f"""
for opt in ({{{{o}}}}, other):
    opt.zero_grad()
loss = {_MSE} + extra.pow(2).sum()
loss.backward()
for opt in ({{{{o}}}}, other):
    opt.step()
""",
        before="extra = nn.Parameter(torch.ones(3))\nother = torch.optim.SGD([extra], lr=0.01)",
    ),
    "list of optimizers": _way(
        f"""
[opt.zero_grad() for opt in all_optimizers]
loss = {_MSE} + extra.pow(2).sum()
loss.backward()
[opt.step() for opt in all_optimizers]
""",
        before="extra = nn.Parameter(torch.ones(3))\nall_optimizers = [{{o}}, torch.optim.SGD([extra], lr=0.01)]",
    ),
    "latent": _way(
        """
code = torch.zeros(len(x), 8, requires_grad=True)
search = torch.optim.Adam([code], lr=0.1)
for _ in range(3):
    search.zero_grad()
    nn.functional.mse_loss({{m}}(x + code), y).backward()
    search.step()
{{o}}.zero_grad()
loss = nn.functional.mse_loss({{m}}(x + code.detach()), y)
loss.backward()
{{o}}.step()
"""
    ),
    "langevin": _way(
        """
sample = torch.randn(4, 8, requires_grad=True)
for _ in range(3):
    energy = {{m}}(sample).sum()
    (grad,) = torch.autograd.grad(energy, sample)
    sample = (sample - 0.1 * grad + 0.01 * torch.randn_like(sample)).detach().requires_grad_()
{{o}}.zero_grad()
loss = {{m}}(x).mean() - {{m}}(sample.detach()).mean()
loss.backward()
{{o}}.step()
"""
    ),
    "langevin by backward": _way(
        """
for p in {{m}}.parameters():
    p.requires_grad_(False)
sample = torch.randn(4, 8, requires_grad=True)
for _ in range(3):
    {{m}}(sample).sum().backward()
    sample.data.add_(sample.grad.data, alpha=-0.1)
    sample.grad.detach_()
    sample.grad.zero_()
for p in {{m}}.parameters():
    p.requires_grad_(True)
{{o}}.zero_grad()
loss = {{m}}(x).mean() - {{m}}(sample.detach()).mean()
loss.backward()
{{o}}.step()
"""
    ),
    "restarts": _way(
        f"""
{{{{o}}}}.zero_grad()
loss = {_MSE}
if not torch.isfinite(loss):
    {{{{m}}}}.load_state_dict(good)
    continue
loss.backward()
norm = nn.utils.clip_grad_norm_({{{{m}}}}.parameters(), 1.0)
if norm.isnan() or norm.isinf():
    {{{{o}}}}.zero_grad(set_to_none=True)
    continue
{{{{o}}}}.step()
""",
        "import copy",
        "good = copy.deepcopy({{m}}.state_dict())",
    ),
    "skips step": _way(
        f"""
{{{{o}}}}.zero_grad()
loss = {_MSE}
loss.backward()
finite = all(torch.isfinite(p.grad).all() for p in {{{{m}}}}.parameters() if p.grad is not None)
if finite:
    {{{{o}}}}.step()
else:
    print('not finite, no step')
"""
    ),
    "accumulates losses": _way(
        f"""
pending = pending + {_MSE}
count += 1
loss = pending.detach()
if count == 2:
    {{{{o}}}}.zero_grad()
    (pending / count).backward()
    {{{{o}}}}.step()
    pending, count = 0.0, 0
""",
        before="pending, count = 0.0, 0",
    ),
    "losses in a list": _way(
        f"""
pool.append({_MSE})
loss = pool[-1].detach()
if len(pool) == 2:
    {{{{o}}}}.zero_grad()
    torch.stack(pool).mean().backward()
    {{{{o}}}}.step()
    pool.clear()
""",
        before="pool = []",
    ),
    "alternates": _way(
        f"""
halves = {{{{halves}}}}
for turn in range(2):
    for k, p in enumerate(halves):
        p.requires_grad_(k % 2 == turn or len(halves) < 2)
    {{{{o}}}}.zero_grad()
    loss = {_MSE}
    loss.backward()
    {{{{o}}}}.step()
for p in halves:
    p.requires_grad_(True)
""".replace("{{halves}}", "[p for p in {{m}}.parameters() if p.requires_grad]"),
    ),
    "gradient of the norm": _way(
        f"""
learned = [p for p in {{{{m}}}}.parameters() if p.requires_grad]
loss = {_MSE}
grads = torch.autograd.grad(loss, learned, create_graph=True)
penalty = sum(g.pow(2).sum() for g in grads)
{{{{o}}}}.zero_grad()
(loss + 0.1 * penalty).backward()
{{{{o}}}}.step()
"""
    ),
    "with": _way(
        f"""
with training({{{{o}}}}):
    loss = {_MSE}
    loss.backward()
""",
        """
from contextlib import contextmanager


@contextmanager
def training(optimizer):
    optimizer.zero_grad()
    try:
        yield optimizer
    finally:
        optimizer.step()
""",
    ),
    "context object": _way(
        f"""
with Step({{{{o}}}}) as step_:
    loss = {_MSE}
    step_.backward(loss)
""",
        """
class Step:
    def __init__(self, optimizer):
        self.optimizer = optimizer

    def __enter__(self):
        self.optimizer.zero_grad()
        return self

    def backward(self, loss):
        loss.backward()

    def __exit__(self, kind, value, trace):
        if kind is None:
            self.optimizer.step()
        return False
""",
    ),
    "decorator": _way(
        """
loss = compute({{m}}, {{o}}, x, y)
""",
        """
import functools


def optimized(function):
    @functools.wraps(function)
    def wrapper(model, optimizer, *args):
        optimizer.zero_grad()
        loss = function(model, *args)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return wrapper


@optimized
def compute(model, x, y):
    return nn.functional.mse_loss(model(x), y)
""",
    ),
    "partial": _way(
        """
loss = step_fn(x=x, y=y)
""",
        """
from functools import partial


def update(model, optimizer, x, y):
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()
""",
        "step_fn = partial(update, {{m}}, {{o}})",
    ),
    "hooks around": _way(
        f"""
for hook in hooks:
    hook.before({{{{o}}}})
loss = {_MSE}
loss.backward()
for hook in hooks:
    hook.after({{{{o}}}}, {{{{m}}}})
{{{{o}}}}.step()
""",
        """
class Hook:
    def before(self, optimizer):
        pass

    def after(self, optimizer, model):
        pass


class Zero(Hook):
    def before(self, optimizer):
        optimizer.zero_grad()


class Clip(Hook):
    def after(self, optimizer, model):
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
""",
        "hooks = [Zero(), Clip()]",
    ),
    "callbacks by name": _way(
        f"""
run('on_batch_begin', {{{{o}}}})
loss = {_MSE}
run('on_backward', loss)
run('on_step', {{{{o}}}})
""",
        """
def begin(optimizer):
    optimizer.zero_grad()


CALLS = {'on_batch_begin': [begin], 'on_backward': [lambda loss: loss.backward()], 'on_step': [lambda opt: opt.step()]}


def run(name, *args):
    for call in CALLS[name]:
        call(*args)
""",
    ),
}

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
        "log": "if epoch == 1:\n    {{m}}.eval()\n    with torch.no_grad():\n        score = {{m}}(x).mean().item()\n    {{m}}.train()"
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
        "procedure": PROCEDURES,
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
