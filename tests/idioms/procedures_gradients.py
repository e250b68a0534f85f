"""Steps that take gradients apart, put them back, or perturb what they are taken of."""

from __future__ import annotations

import re

MSE = "nn.functional.mse_loss({{m}}(x), y)"


def way(step: str, define: str = "", before: str = "") -> dict[str, str]:
    """A procedure; what `before` makes lives where the model does, so that a method finds it."""
    made = {name for names in re.findall(r"^([\w, ]+?) =", before, re.MULTILINE) for name in re.split(r"[ ,=]+", names)}
    for name in made:
        step, before = (re.sub(rf"(?<![\w.]){name}\b(?!=)", "{{s}}" + name, text) for text in (step, before))
    return {"step": "{{take}}\n" + step.strip("\n") + "\n{{log}}\n{{advance}}", "helper": define, "before": before}


PROCEDURES = {
    "plain": way(f"{{{{o}}}}.zero_grad()\nloss = {MSE}\nloss.backward()\n{{{{o}}}}.step()"),
    "sharpness": way(
        f"""
{{{{o}}}}.zero_grad()
loss = {MSE}
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
{MSE}.backward()
with torch.no_grad():
    for p, e in moves:
        p.sub_(e)
{{{{o}}}}.step()
"""
    ),
    "sam": way(
        f"""
loss = {MSE}
loss.backward()
sam.first_step(zero_grad=True)
{MSE}.backward()
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
    "closure": way(
        f"""
def closure():
    {{{{o}}}}{{{{wrapped}}}}.zero_grad()
    value = {MSE}
    value.backward()
    return value

loss = {{{{o}}}}{{{{wrapped}}}}.step(closure)
"""
    ),
    "closure with gradients": way(
        f"""
def closure():
    if torch.is_grad_enabled():
        {{{{o}}}}{{{{wrapped}}}}.zero_grad()
    value = {MSE}
    if value.requires_grad:
        value.backward()
    return value

{{{{o}}}}{{{{wrapped}}}}.step(closure)
loss = closure()
"""
    ),
    "lbfgs": way(
        f"""
def closure():
    lbfgs.zero_grad()
    value = {MSE}
    value.backward()
    return value

lbfgs.step(closure)
loss = torch.tensor(0.0)
""",
        before="lbfgs = torch.optim.LBFGS([p for p in {{m}}.parameters() if p.requires_grad], max_iter=2)",
    ),
    "maml": way(
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
    "reptile": way(
        f"""
before = copy.deepcopy({{{{m}}}}.state_dict())
for _ in range(2):
    {{{{o}}}}.zero_grad()
    loss = {MSE}
    loss.backward()
    {{{{o}}}}.step()
after = {{{{m}}}}.state_dict()
{{{{m}}}}.load_state_dict({{name: before[name] + 0.5 * (after[name] - before[name]) for name in before}})
""",
        "import copy",
    ),
    "inner copy": way(
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
    "gradients by hand": way(
        f"""
learned = [p for p in {{{{m}}}}.parameters() if p.requires_grad]
loss = {MSE}
grads = torch.autograd.grad(loss, learned)
for p, g in zip(learned, grads):
    p.grad = g.clamp(-1, 1)
{{{{o}}}}.step()
"""
    ),
    "gradients averaged": way(
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
    "projected": way(
        f"""
losses = [{MSE}, nn.functional.l1_loss({{{{m}}}}(x), y)]
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
    "grad norm": way(
        f"""
losses = torch.stack([{MSE}, nn.functional.l1_loss({{{{m}}}}(x), y)])
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
    "uncertainty": way(
        f"""
{{{{o}}}}.zero_grad()
scale.zero_grad()
loss = torch.exp(-log_var) * {MSE} + log_var
loss.backward()
{{{{o}}}}.step()
scale.step()
""",
        before="log_var = nn.Parameter(torch.zeros(()))\nscale = torch.optim.SGD([log_var], lr=0.01)",
    ),
    "virtual adversary": way(
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
    "fgm": way(
        f"""
{{{{o}}}}.zero_grad()
loss = {MSE}
loss.backward()
fgm.attack()
{MSE}.backward()
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
    "pgd": way(
        f"""
loss = {MSE}
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
    {MSE}.backward()
{{{{o}}}}.step()
{{{{o}}}}.zero_grad()
"""
    ),
}
