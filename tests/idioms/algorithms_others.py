"""Algorithms of one network, or of parts that are trained in turn.

What is set up, what is done with a batch `x, y`, what is defined before, what an epoch ends with.
"""

from __future__ import annotations

ALGORITHMS: dict[str, tuple[str, ...]] = {
    "plain": (
        "net = mlp(8, 1)\nopt = torch.optim.Adam(net.parameters(), lr={{lr}})",
        "opt.zero_grad()\nF.mse_loss(net(x), y).backward()\nopt.step()",
    ),
    "free adversarial": (
        "net = mlp(8, 1)\nopt = torch.optim.SGD(net.parameters(), lr={{lr}})\nnoise = torch.zeros(4, 8)",
        """
for j in range(2):
    batch = noise.clone().requires_grad_(True)
    loss = F.mse_loss(net(x + batch), y)
    opt.zero_grad()
    loss.backward()
    noise += 0.1 * torch.sign(batch.grad)
    noise.clamp_(-0.3, 0.3)
    opt.step()
""",
    ),
    "trades": (
        "net = mlp(8, 1)\nopt = torch.optim.SGD(net.parameters(), lr={{lr}})",
        """
net.eval()
x_adv = x.detach() + 0.001 * torch.randn_like(x)
for _ in range(2):
    x_adv.requires_grad_()
    with torch.enable_grad():
        gap = F.mse_loss(net(x_adv), net(x))
    grad = torch.autograd.grad(gap, [x_adv])[0]
    x_adv = x_adv.detach() + 0.1 * torch.sign(grad.detach())
    x_adv = torch.min(torch.max(x_adv, x - 0.3), x + 0.3)
net.train()
x_adv = torch.autograd.Variable(x_adv, requires_grad=False)
opt.zero_grad()
loss = F.mse_loss(net(x), y) + 6.0 * F.mse_loss(net(x_adv), net(x))
loss.backward()
opt.step()
""",
    ),
    "awp": (
        """
net = mlp(8, 1)
proxy = copy.deepcopy(net)
opt = torch.optim.SGD(net.parameters(), lr={{lr}})
proxy_optim = torch.optim.SGD(proxy.parameters(), lr={{lr}})
""",
        """
proxy.load_state_dict(net.state_dict())
proxy.train()
worse = -F.mse_loss(proxy(x), y)
proxy_optim.zero_grad()
worse.backward()
proxy_optim.step()
diff = {n: (q - p).detach() for (n, p), q in zip(net.named_parameters(), proxy.parameters())}
with torch.no_grad():
    for n, p in net.named_parameters():
        p.add_(0.01 * diff[n])
loss = F.mse_loss(net(x), y)
opt.zero_grad()
loss.backward()
opt.step()
with torch.no_grad():
    for n, p in net.named_parameters():
        p.sub_(0.01 * diff[n])
""",
    ),
    "private": (
        "net = mlp(8, 1)\nopt = torch.optim.SGD(net.parameters(), lr={{lr}})",
        """
opt.zero_grad()
clipped = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
for a, b in zip(x, y):
    F.mse_loss(net(a), b).backward()
    nn.utils.clip_grad_norm_(net.parameters(), max_norm=1.0)
    for name, p in net.named_parameters():
        clipped[name] += p.grad
    net.zero_grad()
for name, p in net.named_parameters():
    p.grad = (clipped[name] + 0.1 * torch.randn_like(p)) / len(x)
opt.step()
""",
    ),
    "split": (
        "front, back = mlp(8, 8), mlp(8, 1)\nopt_f = torch.optim.SGD(front.parameters(), lr={{lr}})\n"
        "opt_b = torch.optim.SGD(back.parameters(), lr={{lr}})",
        """
activation = front(x)
received = activation.detach().requires_grad_()
loss = F.mse_loss(back(received), y)
opt_b.zero_grad()
loss.backward()
opt_b.step()
opt_f.zero_grad()
activation.backward(received.grad)
opt_f.step()
""",
    ),
    "pipeline": (
        "stages = nn.ModuleList([mlp(8, 8), mlp(8, 8), mlp(8, 1)])\n"
        "opt = torch.optim.SGD(stages.parameters(), lr={{lr}})",
        """
opt.zero_grad()
inputs, outputs = [], []
h = x
for stage in stages:
    h = h.detach().requires_grad_()
    inputs.append(h)
    h = stage(h)
    outputs.append(h)
loss = F.mse_loss(h, y)
loss.backward()
for k in range(len(stages) - 2, -1, -1):
    outputs[k].backward(inputs[k + 1].grad)
opt.step()
""",
    ),
    "forward-forward": (
        "layers = [Layer(8, 8), Layer(8, 8)]",
        """
positive, negative = x, x.flip(0)
for layer in layers:
    positive, negative = layer.learn(positive, negative)
""",
        """
class Layer(nn.Linear):
    def __init__(self, n, m):
        super().__init__(n, m)
        self.opt = torch.optim.Adam(self.parameters(), lr=0.03)

    def forward(self, x):
        return torch.relu(F.linear(F.normalize(x), self.weight, self.bias))

    def learn(self, pos, neg):
        for _ in range(2):
            g_pos = self.forward(pos).pow(2).mean(1)
            g_neg = self.forward(neg).pow(2).mean(1)
            loss = torch.log(1 + torch.exp(torch.cat([-g_pos + 2.0, g_neg - 2.0]))).mean()
            self.opt.zero_grad()
            loss.backward()
            self.opt.step()
        return self.forward(pos).detach(), self.forward(neg).detach()
""",
    ),
    "greedy layers": (
        "blocks = nn.ModuleList([mlp(8, 8), mlp(8, 8)])\nheads = nn.ModuleList([nn.Linear(8, 1), nn.Linear(8, 1)])\n"
        "opts = [torch.optim.SGD(list(b.parameters()) + list(h.parameters()), lr={{lr}}) for b, h in "
        "zip(blocks, heads)]",
        """
h = x
for block, head, opt in zip(blocks, heads, opts):
    opt.zero_grad()
    h = block(h.detach())
    F.mse_loss(head(h), y).backward()
    opt.step()
""",
    ),
    "evolution": (
        "net = mlp(8, 1)\nopt = torch.optim.Adam(net.parameters(), lr={{lr}})",
        """
noise = [[torch.randn_like(p) for p in net.parameters()] for _ in range(3)]
scores = []
with torch.no_grad():
    for draw in noise:
        for p, e in zip(net.parameters(), draw):
            p.add_(0.1 * e)
        scores.append(-F.mse_loss(net(x), y).item())
        for p, e in zip(net.parameters(), draw):
            p.sub_(0.1 * e)
opt.zero_grad()
for k, p in enumerate(net.parameters()):
    p.grad = -sum(s * draw[k] for s, draw in zip(scores, noise)) / 3
opt.step()
""",
    ),
    "sgld": (
        "net = mlp(8, 1)",
        """
net.zero_grad()
loss = F.mse_loss(net(x), y)
loss.backward()
with torch.no_grad():
    for p in net.parameters():
        p.add_(-0.01 * p.grad + 0.001 * torch.randn_like(p))
""",
    ),
    "by hand": (
        "w, b = torch.randn(8, 1, requires_grad=True), torch.zeros(1, requires_grad=True)",
        """
loss = F.mse_loss(x @ w + b, y)
loss.backward()
with torch.no_grad():
    w -= 0.1 * w.grad
    b -= 0.1 * b.grad
    w.grad.zero_()
    b.grad.zero_()
""",
    ),
    "seq2seq": (
        "encoder, decoder = nn.GRUCell(8, 8), nn.GRUCell(1, 8)\nout = nn.Linear(8, 1)\n"
        "enc_opt = torch.optim.SGD(encoder.parameters(), lr={{lr}})\n"
        "dec_opt = torch.optim.SGD(list(decoder.parameters()) + list(out.parameters()), lr={{lr}})",
        """
hidden = torch.zeros(len(x), 8)
enc_opt.zero_grad()
dec_opt.zero_grad()
loss = 0
for t in range(2):
    hidden = encoder(x, hidden)
token = torch.zeros(len(x), 1)
for t in range(3):
    hidden = decoder(token, hidden)
    guess = out(hidden)
    loss += F.mse_loss(guess, y)
    token = guess.detach() if t % 2 else y
loss.backward()
nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
nn.utils.clip_grad_norm_(list(decoder.parameters()) + list(out.parameters()), 1.0)
enc_opt.step()
dec_opt.step()
""",
    ),
    "recurrent": (
        "cell, head = nn.GRUCell(8, 8), nn.Linear(8, 1)\nhidden = None\n"
        "opt = torch.optim.SGD(list(cell.parameters()) + list(head.parameters()), lr={{lr}})",
        """
if hidden is not None:
    hidden = hidden.detach()
opt.zero_grad()
hidden = cell(x, hidden)
loss = F.mse_loss(head(hidden), y)
loss.backward()
opt.step()
""",
    ),
    "two optimizers by name": (
        """
net = mlp(8, 1)
optimizers = {
    'weights': torch.optim.SGD([p for n, p in net.named_parameters() if 'weight' in n], lr={{lr}}),
    'biases': torch.optim.Adam([p for n, p in net.named_parameters() if 'bias' in n], lr={{lr}}),
}
""",
        """
for optimizer in optimizers.values():
    optimizer.zero_grad()
F.mse_loss(net(x), y).backward()
for optimizer in optimizers.values():
    optimizer.step()
""",
    ),
    "two optimizers of one": (
        "net = mlp(8, 1)\nfast = torch.optim.Adam(net.parameters(), lr={{lr}})\n"
        "slow = torch.optim.SGD(net.parameters(), lr=0.01)",
        """
opt = fast if epoch == 0 else slow
opt.zero_grad()
F.mse_loss(net(x), y).backward()
opt.step()
""",
    ),
    "multi optimizer": (
        "net = mlp(8, 1)\nopt = MultipleOptimizer(torch.optim.SGD(net[0].parameters(), lr={{lr}}), "
        "torch.optim.Adam(net[2].parameters(), lr={{lr}}))",
        "opt.zero_grad()\nF.mse_loss(net(x), y).backward()\nopt.step()",
        """
class MultipleOptimizer(object):
    def __init__(self, *op):
        self.optimizers = op

    def zero_grad(self):
        for op in self.optimizers:
            op.zero_grad()

    def step(self):
        for op in self.optimizers:
            op.step()
""",
    ),
    "turns": (
        "body, head = mlp(8, 8), mlp(8, 1)\nopt_body = torch.optim.SGD(body.parameters(), lr={{lr}})\n"
        "opt_head = torch.optim.SGD(head.parameters(), lr={{lr}})",
        """
active, idle = (opt_body, opt_head) if i % 2 == 0 else (opt_head, opt_body)
active.zero_grad()
idle.zero_grad()
F.mse_loss(head(body(x)), y).backward()
active.step()
""",
    ),
    "em": (
        "posterior, prior = mlp(8, 8), mlp(8, 8)\nopt_e = torch.optim.Adam(posterior.parameters(), lr={{lr}})\n"
        "opt_m = torch.optim.Adam(prior.parameters(), lr={{lr}})",
        """
goal = prior(x).detach()
for _ in range(2):
    opt_e.zero_grad()
    F.mse_loss(posterior(x), goal).backward()
    opt_e.step()
found = posterior(x).detach()
opt_m.zero_grad()
F.mse_loss(prior(x), found).backward()
opt_m.step()
""",
    ),
    "lookahead": (
        "net = mlp(8, 1)\nopt = torch.optim.Adam(net.parameters(), lr={{lr}})\n"
        "slow = [p.detach().clone() for p in net.parameters()]\ncount = 0",
        """
opt.zero_grad()
F.mse_loss(net(x), y).backward()
opt.step()
count += 1
if count % 2 == 0:
    with torch.no_grad():
        for p, q in zip(net.parameters(), slow):
            q.add_(p - q, alpha=0.5)
            p.copy_(q)
""",
    ),
    "pruned": (
        "net = mlp(8, 1)\nopt = torch.optim.SGD(net.parameters(), lr={{lr}})\n"
        "masks = [(p.abs() > 0.05).float() for p in net.parameters()]",
        """
opt.zero_grad()
loss = F.mse_loss(net(x), y)
loss.backward()
for p, mask in zip(net.parameters(), masks):
    if p.grad is not None:
        p.grad.data = p.grad.data * mask
opt.step()
for p, mask in zip(net.parameters(), masks):
    p.data.mul_(mask)
""",
    ),
    "style": (
        "net = mlp(8, 4)\nnet.requires_grad_(False)",
        """
image = x.clone().requires_grad_(True)
goal = net(x).detach()
lbfgs = torch.optim.LBFGS([image], max_iter=2)
run = [0]
while run[0] < 3:
    def closure():
        with torch.no_grad():
            image.clamp_(-3, 3)
        lbfgs.zero_grad()
        loss = F.mse_loss(net(image), goal) + 0.1 * image.abs().mean()
        loss.backward()
        run[0] += 1
        return loss

    lbfgs.step(closure)
""",
    ),
    "dream": (
        "net = mlp(8, 4)",
        """
image = x.clone().requires_grad_()
for _ in range(2):
    net.zero_grad()
    net(image).norm().backward()
    g = image.grad
    image.data += 0.1 * g / (g.abs().mean() + 1e-8)
    image.grad.zero_()
""",
    ),
    "dpo": (
        "policy = mlp(8, 2)\nreference = copy.deepcopy(policy).eval().requires_grad_(False)\n"
        "opt = torch.optim.AdamW(policy.parameters(), lr={{lr}})",
        """
chosen, rejected = F.log_softmax(policy(x), -1).unbind(-1)
with torch.no_grad():
    ref_chosen, ref_rejected = F.log_softmax(reference(x), -1).unbind(-1)
logits = (chosen - rejected) - (ref_chosen - ref_rejected)
loss = -F.logsigmoid(0.1 * logits).mean()
opt.zero_grad(set_to_none=True)
loss.backward()
nn.utils.clip_grad_norm_(policy.parameters(), {{max_norm}})
opt.step()
""",
    ),
    "many clips": (
        "net = mlp(8, 1)\nopt = torch.optim.SGD(net.parameters(), lr={{lr}})\nhistory = []",
        """
opt.zero_grad()
F.mse_loss(net(x), y).backward()
norm = torch.norm(torch.stack([p.grad.detach().norm() for p in net.parameters()]))
history.append(norm.item())
clip_value = sorted(history)[len(history) // 10]
nn.utils.clip_grad_norm_(net.parameters(), clip_value + 1e-6)
opt.step()
""",
    ),
    "agc": (
        "net = mlp(8, 1)\nopt = torch.optim.SGD(net.parameters(), lr={{lr}})",
        "opt.zero_grad()\nF.mse_loss(net(x), y).backward()\nadaptive_clip_grad(net.parameters(), 0.01)\nopt.step()",
        """
def unitwise_norm(x):
    if x.ndim <= 1:
        return x.norm(2)
    return x.norm(2, dim=tuple(range(1, x.ndim)), keepdim=True)


def adaptive_clip_grad(parameters, clip_factor=0.01, eps=1e-3):
    if isinstance(parameters, torch.Tensor):
        parameters = [parameters]
    for p in parameters:
        if p.grad is None:
            continue
        p_data, g_data = p.detach(), p.grad.detach()
        max_norm = unitwise_norm(p_data).clamp_(min=eps).mul_(clip_factor)
        grad_norm = unitwise_norm(g_data)
        clipped = g_data * (max_norm / grad_norm.clamp(min=1e-6))
        p.grad.detach().copy_(torch.where(grad_norm < max_norm, g_data, clipped))
""",
    ),
    "auto clip": (
        "net = mlp(8, 1)\nopt = torch.optim.SGD(net.parameters(), lr={{lr}})\nscaler = torch.amp.GradScaler('cpu')",
        """
opt.zero_grad()
loss = F.mse_loss(net(x), y)
scaler.scale(loss).backward()
scaler.unscale_(opt)
bad = [n for n, p in net.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
if bad:
    print('skipped', bad)
    opt.zero_grad()
    scaler.update()
    continue
nn.utils.clip_grad_norm_(net.parameters(), 1.0)
scaler.step(opt)
scaler.update()
""",
    ),
    "gan with one scaler": (
        "g, d = mlp(8, 8), mlp(8, 1)\nopt_g = torch.optim.Adam(g.parameters(), lr={{lr}})\n"
        "opt_d = torch.optim.Adam(d.parameters(), lr={{lr}})\nscaler = torch.amp.GradScaler('cpu')",
        """
with torch.autocast('cpu', dtype=torch.bfloat16):
    fake = g(x)
    d_loss = F.softplus(-d(x)).mean() + F.softplus(d(fake.detach())).mean()
opt_d.zero_grad()
scaler.scale(d_loss).backward()
scaler.unscale_(opt_d)
nn.utils.clip_grad_norm_(d.parameters(), 1.0)
scaler.step(opt_d)
with torch.autocast('cpu', dtype=torch.bfloat16):
    g_loss = F.softplus(-d(fake)).mean()
opt_g.zero_grad()
scaler.scale(g_loss).backward()
scaler.unscale_(opt_g)
nn.utils.clip_grad_norm_(g.parameters(), 1.0)
scaler.step(opt_g)
scaler.update()
""",
    ),
    "gan with two scalers": (
        "g, d = mlp(8, 8), mlp(8, 1)\nopt_g = torch.optim.Adam(g.parameters(), lr={{lr}})\n"
        "opt_d = torch.optim.Adam(d.parameters(), lr={{lr}})\nscaler_g = torch.amp.GradScaler('cpu')\n"
        "scaler_d = torch.amp.GradScaler('cpu')",
        """
fake = g(x)
opt_d.zero_grad()
scaler_d.scale(F.softplus(-d(x)).mean() + F.softplus(d(fake.detach())).mean()).backward()
scaler_d.step(opt_d)
scaler_d.update()
opt_g.zero_grad()
scaler_g.scale(F.softplus(-d(fake)).mean()).backward()
scaler_g.step(opt_g)
scaler_g.update()
""",
    ),
    "gan accumulated": (
        "g, d = mlp(8, 8), mlp(8, 1)\nopt_g = torch.optim.Adam(g.parameters(), lr={{lr}})\n"
        "opt_d = torch.optim.Adam(d.parameters(), lr={{lr}})",
        """
opt_d.zero_grad()
for part in x.chunk(2):
    with torch.no_grad():
        fake = g(part)
    loss = (F.softplus(-d(part)).mean() + F.softplus(d(fake)).mean()) / 2
    loss.backward()
opt_d.step()
opt_g.zero_grad()
for part in x.chunk(2):
    loss = F.softplus(-d(g(part))).mean() / 2
    loss.backward()
opt_g.step()
""",
    ),
    "vqgan": (
        "ae, disc = mlp(8, 8), mlp(8, 1)\nopt_ae = torch.optim.Adam(ae.parameters(), lr={{lr}})\n"
        "opt_disc = torch.optim.Adam(disc.parameters(), lr={{lr}})",
        """
for optimizer_idx, opt in enumerate((opt_ae, opt_disc)):
    rec = ae(x)
    if optimizer_idx == 0:
        nll = (rec - x).abs().mean()
        g_loss = -disc(rec).mean()
        last = ae[2].weight
        nll_grads = torch.autograd.grad(nll, last, retain_graph=True)[0]
        g_grads = torch.autograd.grad(g_loss, last, retain_graph=True)[0]
        weight = (nll_grads.norm() / (g_grads.norm() + 1e-4)).clamp(0, 1e4).detach()
        loss = nll + weight * g_loss
    else:
        loss = F.relu(1 - disc(x.detach())).mean() + F.relu(1 + disc(rec.detach())).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
""",
    ),
    "freezes for a while": (
        "backbone, head = mlp(8, 8), mlp(8, 1)\n"
        "opt = torch.optim.SGD([{'params': backbone.parameters(), 'lr': 0.01}, "
        "{'params': head.parameters()}], lr={{lr}})",
        """
if epoch == 0:
    backbone.eval()
    with torch.no_grad():
        feature = backbone(x)
else:
    backbone.train()
    feature = backbone(x)
loss = F.mse_loss(head(feature), y)
opt.zero_grad()
loss.backward()
opt.step()
""",
    ),
    "warm-up of a part": (
        "net, mask = mlp(8, 1), nn.Parameter(torch.ones(8))\nopt = torch.optim.SGD(net.parameters(), lr={{lr}})\n"
        "opt_mask = torch.optim.Adam([mask], lr={{lr}})",
        """
opt.zero_grad()
opt_mask.zero_grad()
loss = F.mse_loss(net(x * mask), y)
loss.backward()
opt.step()
if epoch >= 1:
    opt_mask.step()
    with torch.no_grad():
        mask.clamp_(0, 1)
""",
    ),
    "center loss": (
        "net, centers = mlp(8, 4), nn.Parameter(torch.randn(2, 4))\n"
        "opt = torch.optim.SGD(net.parameters(), lr={{lr}})\n"
        "opt_centers = torch.optim.SGD([centers], lr=0.5)",
        """
feature = net(x)
center = (feature - centers[(y.squeeze(1) > 0).long()]).pow(2).mean()
loss = feature.pow(2).mean() + 0.1 * center
opt.zero_grad()
opt_centers.zero_grad()
loss.backward()
for p in [centers]:
    p.grad.data *= 1.0 / 0.1
opt.step()
opt_centers.step()
""",
    ),
    "lagrange": (
        "net, multiplier = mlp(8, 1), nn.Parameter(torch.ones(()))\n"
        "opt = torch.optim.Adam(net.parameters(), lr={{lr}})\n"
        "opt_l = torch.optim.Adam([multiplier], lr={{lr}})",
        """
out = net(x)
excess = out.pow(2).mean() - 0.5
loss = F.mse_loss(out, y) + multiplier.detach() * excess
opt.zero_grad()
loss.backward()
opt.step()
opt_l.zero_grad()
(-multiplier * excess.detach()).backward()
opt_l.step()
""",
    ),
    "replicas": (
        "net = mlp(8, 1)\nopt = torch.optim.SGD(net.parameters(), lr={{lr}})\n"
        "replicas = [copy.deepcopy(net) for _ in range(2)]",
        """
for replica in replicas:
    replica.load_state_dict(net.state_dict())
    replica.zero_grad()
for replica, part, target in zip(replicas, x.chunk(2), y.chunk(2)):
    F.mse_loss(replica(part), target).backward()
opt.zero_grad()
for k, p in enumerate(net.parameters()):
    p.grad = torch.stack([list(r.parameters())[k].grad for r in replicas]).mean(0)
opt.step()
""",
    ),
    "federated": (
        "net = mlp(8, 1)\nclients = [copy.deepcopy(net) for _ in range(2)]",
        """
states = []
for client in clients:
    client.load_state_dict(net.state_dict())
    opt = torch.optim.SGD(client.parameters(), lr={{lr}})
    for _ in range(2):
        opt.zero_grad()
        F.mse_loss(client(x), y).backward()
        opt.step()
    states.append({k: v.clone() for k, v in client.state_dict().items()})
net.load_state_dict({k: torch.stack([s[k] for s in states]).mean(0) for k in states[0]})
""",
    ),
    "search of rates": (
        "net = mlp(8, 1)",
        """
best = None
for lr in (0.1, 0.01):
    trial = copy.deepcopy(net)
    opt = torch.optim.SGD(trial.parameters(), lr=lr)
    for _ in range(2):
        opt.zero_grad()
        loss = F.mse_loss(trial(x), y)
        loss.backward()
        opt.step()
    if best is None or loss.item() < best:
        best = loss.item()
""",
    ),
    "rate finder": (
        "net = mlp(8, 1)\nopt = torch.optim.SGD(net.parameters(), lr=1e-4)\n"
        "kept = copy.deepcopy((net.state_dict(), opt.state_dict()))\nlosses = []",
        """
opt.zero_grad()
loss = F.mse_loss(net(x), y)
losses.append(loss.item())
loss.backward()
opt.step()
for group in opt.param_groups:
    group['lr'] *= 1.3
""",
        "",
        "net.load_state_dict(kept[0])\nopt.load_state_dict(kept[1])",
    ),
}
