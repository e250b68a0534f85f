"""Steps among other things: averages, rollouts, retries, hooks, and whatever stands around a step."""

from __future__ import annotations

from idioms.procedures_gradients import MSE, way

PROCEDURES = {
    "target network": way(
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
    "momentum teacher": way(
        f"""
with torch.no_grad():
    goal = teacher(x)
loss = nn.functional.mse_loss({{{{m}}}}(x), goal) + {MSE}
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
    "average": way(
        f"""
{{{{o}}}}.zero_grad()
loss = {MSE}
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
    "swa": way(
        f"""
{{{{o}}}}.zero_grad()
loss = {MSE}
loss.backward()
{{{{o}}}}.step()
if epoch > 0:
    averaged.update_parameters({{{{m}}}})
""",
        before="averaged = torch.optim.swa_utils.AveragedModel({{m}})",
    ),
    "rollout": way(
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
    "policy gradient": way(
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
    "early stop of epochs": way(
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
    "truncated": way(
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
    "two views": way(
        """
one, two = {{m}}(x), {{m}}(x + 0.01 * torch.randn_like(x))
loss = 0.5 * (nn.functional.mse_loss(one, two.detach()) + nn.functional.mse_loss(two, one.detach()))
{{o}}.zero_grad()
loss.backward()
{{o}}.step()
"""
    ),
    "gradient cache": way(
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
    "fisher": way(
        f"""
if fisher is None:
    fisher = []
    {{{{m}}}}.zero_grad()
    {MSE}.backward()
    for p in {{{{m}}}}.parameters():
        fisher.append(p.grad.detach() ** 2 if p.grad is not None else torch.zeros_like(p))
    old = [p.detach().clone() for p in {{{{m}}}}.parameters()]
{{{{o}}}}.zero_grad()
loss = {MSE}
for p, q, f in zip({{{{m}}}}.parameters(), old, fisher):
    loss = loss + 0.1 * (f * (p - q) ** 2).sum()
loss.backward()
{{{{o}}}}.step()
""",
        before="fisher = old = None",
    ),
    "line search": way(
        f"""
{{{{o}}}}.zero_grad()
loss = {MSE}
loss.backward()
saved = [p.detach().clone() for p in {{{{m}}}}.parameters()]
{{{{o}}}}.step()
with torch.no_grad():
    worse = {MSE} > loss
    if worse:
        for p, q in zip({{{{m}}}}.parameters(), saved):
            p.copy_(q)
"""
    ),
    "try": way(
        f"""
try:
    loss = {MSE}
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
    loss = {MSE}
    loss.backward()
    {{{{o}}}}.step()
"""
    ),
    "retry": way(
        f"""
for attempt in range(3):
    try:
        {{{{o}}}}.zero_grad()
        loss = {MSE}
        loss.backward()
        {{{{o}}}}.step()
        break
    except RuntimeError:
        if attempt == 2:
            raise
"""
    ),
    "two phases": way(
        f"""
if epoch < 1:
    loss = {MSE}
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
    "warm start": way(
        f"""
loss = {MSE}
loss.backward()
if seen % 2 == 1:
    {{{{o}}}}.step()
    {{{{o}}}}.zero_grad()
seen += 1
""".replace("loss.backward()", "(loss / 2).backward()"),
        before="seen = 0\n{{o}}.zero_grad()",
    ),
    "hard examples": way(
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
    "hooks": way(
        f"""
handles = [p.register_hook(lambda g: g.clamp(-1, 1)) for p in {{{{m}}}}.parameters() if p.requires_grad]
{{{{o}}}}.zero_grad()
loss = {MSE}
loss.backward()
{{{{o}}}}.step()
for handle in handles:
    handle.remove()
"""
    ),
    "synchronised": way(
        f"""
{{{{o}}}}.zero_grad()
loss = {MSE}
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
    "master copy": way(
        f"""
{{{{m}}}}.zero_grad()
loss = {MSE}
loss.backward()
for p, q in zip([p for p in {{{{m}}}}.parameters() if p.requires_grad], master):
    q.grad = p.grad.detach().float()
keeper.step()
with torch.no_grad():
    for p, q in zip([p for p in {{{{m}}}}.parameters() if p.requires_grad], master):
        p.copy_(q)
""",
        before="master = [p.detach().clone().float().requires_grad_() for p in {{m}}.parameters() if "
        "p.requires_grad]\n"
        "keeper = torch.optim.SGD(master, lr=0.1)",
    ),
    "second optimizer": way(
        f"""
for opt in ({{{{o}}}}, other):
    opt.zero_grad()
loss = {MSE} + extra.pow(2).sum()
loss.backward()
for opt in ({{{{o}}}}, other):
    opt.step()
""",
        before="extra = nn.Parameter(torch.ones(3))\nother = torch.optim.SGD([extra], lr=0.01)",
    ),
    "list of optimizers": way(
        f"""
[opt.zero_grad() for opt in all_optimizers]
loss = {MSE} + extra.pow(2).sum()
loss.backward()
[opt.step() for opt in all_optimizers]
""",
        before="extra = nn.Parameter(torch.ones(3))\nall_optimizers = [{{o}}, torch.optim.SGD([extra], lr=0.01)]",
    ),
    "latent": way(
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
    "langevin": way(
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
    "langevin by backward": way(
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
    "restarts": way(
        f"""
{{{{o}}}}.zero_grad()
loss = {MSE}
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
    "skips step": way(
        f"""
{{{{o}}}}.zero_grad()
loss = {MSE}
loss.backward()
finite = all(torch.isfinite(p.grad).all() for p in {{{{m}}}}.parameters() if p.grad is not None)
if finite:
    {{{{o}}}}.step()
else:
    print('not finite, no step')
"""
    ),
    "accumulates losses": way(
        f"""
pending = pending + {MSE}
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
    "losses in a list": way(
        f"""
pool.append({MSE})
loss = pool[-1].detach()
if len(pool) == 2:
    {{{{o}}}}.zero_grad()
    torch.stack(pool).mean().backward()
    {{{{o}}}}.step()
    pool.clear()
""",
        before="pool = []",
    ),
    "alternates": way(
        f"""
halves = {{{{halves}}}}
for turn in range(2):
    for k, p in enumerate(halves):
        p.requires_grad_(k % 2 == turn or len(halves) < 2)
    {{{{o}}}}.zero_grad()
    loss = {MSE}
    loss.backward()
    {{{{o}}}}.step()
for p in halves:
    p.requires_grad_(True)
""".replace("{{halves}}", "[p for p in {{m}}.parameters() if p.requires_grad]"),
    ),
    "gradient of the norm": way(
        f"""
learned = [p for p in {{{{m}}}}.parameters() if p.requires_grad]
loss = {MSE}
grads = torch.autograd.grad(loss, learned, create_graph=True)
penalty = sum(g.pow(2).sum() for g in grads)
{{{{o}}}}.zero_grad()
(loss + 0.1 * penalty).backward()
{{{{o}}}}.step()
"""
    ),
    "with": way(
        f"""
with training({{{{o}}}}):
    loss = {MSE}
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
    "context object": way(
        f"""
with Step({{{{o}}}}) as step_:
    loss = {MSE}
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
    "decorator": way(
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
    "partial": way(
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
    "hooks around": way(
        f"""
for hook in hooks:
    hook.before({{{{o}}}})
loss = {MSE}
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
    "callbacks by name": way(
        f"""
run('on_batch_begin', {{{{o}}}})
loss = {MSE}
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
