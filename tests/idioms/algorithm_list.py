"""The algorithms: what is set up, what is done with a batch `x, y`, what is defined before, what an epoch ends with."""

from __future__ import annotations

ALGORITHMS: dict[str, tuple[str, ...]] = {
    "plain": (
        "net = mlp(8, 1)\nopt = torch.optim.Adam(net.parameters(), lr={{lr}})",
        "opt.zero_grad()\nF.mse_loss(net(x), y).backward()\nopt.step()",
    ),
    "sac": (
        """
actor, q1, q2 = mlp(8, 2), mlp(9, 1), mlp(9, 1)
t1, t2 = copy.deepcopy(q1), copy.deepcopy(q2)
log_alpha = torch.zeros(1, requires_grad=True)
actor_opt = torch.optim.Adam(actor.parameters(), lr={{lr}})
q_opt = torch.optim.Adam(itertools.chain(q1.parameters(), q2.parameters()), lr={{lr}})
alpha_opt = torch.optim.Adam([log_alpha], lr={{lr}})
""",
        """
alpha = log_alpha.exp().detach()
with torch.no_grad():
    mean, log_std = actor(x).chunk(2, -1)
    action = mean + log_std.clamp(-5, 2).exp() * torch.randn_like(mean)
    joint = torch.cat([x, action], -1)
    goal = y + 0.99 * torch.min(t1(joint), t2(joint))
taken = torch.cat([x, y], -1)
q_loss = F.mse_loss(q1(taken), goal) + F.mse_loss(q2(taken), goal)
q_opt.zero_grad()
q_loss.backward()
q_opt.step()
mean, log_std = actor(x).chunk(2, -1)
drawn = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
action = drawn.rsample()
log_prob = drawn.log_prob(action).sum(-1, keepdim=True)
joint = torch.cat([x, action], -1)
actor_loss = (alpha * log_prob - torch.min(q1(joint), q2(joint))).mean()
actor_opt.zero_grad()
actor_loss.backward()
actor_opt.step()
alpha_loss = -(log_alpha * (log_prob - 1.0).detach()).mean()
alpha_opt.zero_grad()
alpha_loss.backward()
alpha_opt.step()
for p, q in zip(itertools.chain(q1.parameters(), q2.parameters()), itertools.chain(t1.parameters(), t2.parameters())):
    q.data.mul_(0.995).add_(0.005 * p.data)
""",
    ),
    "td3": (
        """
actor, critic = mlp(8, 1), mlp(9, 1)
actor_target, critic_target = copy.deepcopy(actor), copy.deepcopy(critic)
actor_optimizer = torch.optim.Adam(actor.parameters(), lr={{lr}})
critic_optimizer = torch.optim.Adam(critic.parameters(), lr={{lr}})
total_it = 0
""",
        """
total_it += 1
with torch.no_grad():
    noise = (torch.randn_like(y) * 0.2).clamp(-0.5, 0.5)
    nxt = actor_target(x) + noise
    target_q = y + 0.99 * critic_target(torch.cat([x, nxt], 1))
current = critic(torch.cat([x, y], 1))
critic_loss = F.mse_loss(current, target_q)
critic_optimizer.zero_grad()
critic_loss.backward()
critic_optimizer.step()
if total_it % 2 == 0:
    actor_loss = -critic(torch.cat([x, actor(x)], 1)).mean()
    actor_optimizer.zero_grad()
    actor_loss.backward()
    actor_optimizer.step()
    for param, target_param in zip(critic.parameters(), critic_target.parameters()):
        target_param.data.copy_(0.005 * param.data + 0.995 * target_param.data)
    for param, target_param in zip(actor.parameters(), actor_target.parameters()):
        target_param.data.copy_(0.005 * param.data + 0.995 * target_param.data)
""",
    ),
    "dqn": (
        "policy, target = mlp(8, 3), mlp(8, 3)\ntarget.load_state_dict(policy.state_dict())\n"
        "optimizer = torch.optim.RMSprop(policy.parameters(), lr={{lr}})\nsteps_done = 0",
        """
actions = torch.randint(0, 3, (len(x), 1))
q = policy(x).gather(1, actions)
with torch.no_grad():
    best = target(x).max(1, keepdim=True)[0]
loss = F.smooth_l1_loss(q, y + 0.9 * best)
optimizer.zero_grad()
loss.backward()
for param in policy.parameters():
    param.grad.data.clamp_(-1, 1)
optimizer.step()
steps_done += 1
if steps_done % 2 == 0:
    target.load_state_dict(policy.state_dict())
""",
    ),
    "ppo": (
        "actor, critic = mlp(8, 1), mlp(8, 1)\nlog_std = nn.Parameter(torch.zeros(1))\n"
        "optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters(), log_std], lr={{lr}}, eps=1e-5)",
        """
with torch.no_grad():
    old = torch.distributions.Normal(actor(x), log_std.exp())
    action = old.sample()
    old_log = old.log_prob(action)
    advantage = y - critic(x)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
stop = False
for _ in range(2):
    for index in torch.randperm(len(x)).split(2):
        now = torch.distributions.Normal(actor(x[index]), log_std.exp())
        ratio = (now.log_prob(action[index]) - old_log[index]).exp()
        with torch.no_grad():
            kl = ((ratio - 1) - ratio.log()).mean()
        policy_loss = -torch.min(ratio * advantage[index], ratio.clamp(0.8, 1.2) * advantage[index]).mean()
        value_loss = F.mse_loss(critic(x[index]), y[index])
        loss = policy_loss + 0.5 * value_loss - 0.01 * now.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(list(actor.parameters()) + list(critic.parameters()), 0.5)
        optimizer.step()
    if kl > 10:
        stop = True
        break
""",
    ),
    "a3c": (
        "shared, local = mlp(8, 1), mlp(8, 1)\noptimizer = torch.optim.Adam(shared.parameters(), lr={{lr}})",
        """
local.load_state_dict(shared.state_dict())
loss = F.mse_loss(local(x), y)
local.zero_grad()
loss.backward()
nn.utils.clip_grad_norm_(local.parameters(), 40)
for a, b in zip(local.parameters(), shared.parameters()):
    b._grad = a.grad
optimizer.step()
""",
    ),
    "worker": (
        "shared, local = mlp(8, 1), mlp(8, 1)\noptimizer = torch.optim.Adam(shared.parameters(), lr={{lr}})",
        """
local.load_state_dict(shared.state_dict())
optimizer.zero_grad()
loss = F.mse_loss(local(x), y)
loss.backward()
ensure_shared_grads(local, shared)
optimizer.step()
local.zero_grad()
""",
        """
def ensure_shared_grads(model, shared_model):
    for param, shared_param in zip(model.parameters(), shared_model.parameters()):
        if shared_param.grad is not None:
            return
        shared_param._grad = param.grad
""",
    ),
    "reinforce": (
        "policy = mlp(8, 2)\noptimizer = torch.optim.Adam(policy.parameters(), lr={{lr}})\nsaved, rewards = [], []",
        """
for t in range(len(x)):
    drawn = torch.distributions.Categorical(logits=policy(x[t]))
    action = drawn.sample()
    saved.append(drawn.log_prob(action))
    rewards.append(float(y[t]))
R, losses, returns = 0, [], []
for r in rewards[::-1]:
    R = r + 0.9 * R
    returns.insert(0, R)
for log_prob, R in zip(saved, returns):
    losses.append(-log_prob * R)
optimizer.zero_grad()
loss = torch.stack(losses).sum()
loss.backward()
optimizer.step()
del rewards[:]
del saved[:]
""",
    ),
    "actor and critic apart": (
        "actor, critic = mlp(8, 2), mlp(8, 1)\nopt_a = torch.optim.Adam(actor.parameters(), lr={{lr}})\n"
        "opt_c = torch.optim.Adam(critic.parameters(), lr={{lr}})",
        """
value = critic(x)
advantage = y - value
drawn = torch.distributions.Categorical(logits=actor(x))
log_prob = drawn.log_prob(drawn.sample())
actor_loss = -(log_prob * advantage.detach().squeeze(1)).mean()
critic_loss = advantage.pow(2).mean()
opt_a.zero_grad()
opt_c.zero_grad()
actor_loss.backward()
critic_loss.backward()
opt_a.step()
opt_c.step()
""",
    ),
    "shared encoder": (
        "encoder, actor, critic = mlp(8, 8), mlp(8, 1), mlp(8, 1)\n"
        "critic_opt = torch.optim.Adam(list(encoder.parameters()) + list(critic.parameters()), lr={{lr}})\n"
        "actor_opt = torch.optim.Adam(actor.parameters(), lr={{lr}})",
        """
features = encoder(x)
critic_loss = F.mse_loss(critic(features), y)
critic_opt.zero_grad(set_to_none=True)
critic_loss.backward()
critic_opt.step()
with torch.no_grad():
    features = encoder(x)
actor_loss = actor(features.detach()).pow(2).mean()
actor_opt.zero_grad(set_to_none=True)
actor_loss.backward()
actor_opt.step()
""",
    ),
    "dreamer": (
        """
world, actor, value = mlp(8, 8), mlp(8, 1), mlp(8, 1)
world_opt = Optimizer('world', world.parameters(), {{lr}})
actor_opt = Optimizer('actor', actor.parameters(), {{lr}})
value_opt = Optimizer('value', value.parameters(), {{lr}})
""",
        """
metrics = {}
with RequiresGrad(world):
    post = world(x)
    metrics.update(world_opt((post - x).pow(2).mean(), world.parameters()))
with RequiresGrad(actor):
    imagined = world(post.detach())
    score = value(imagined + actor(imagined))
    metrics.update(actor_opt(-score.mean(), actor.parameters()))
with RequiresGrad(value):
    goal = y + 0.9 * value(imagined.detach()).detach()
    metrics.update(value_opt(F.mse_loss(value(imagined.detach()), goal), value.parameters()))
""",
        """
class RequiresGrad:
    def __init__(self, model):
        self._model = model

    def __enter__(self):
        self._model.requires_grad_(requires_grad=True)

    def __exit__(self, *args):
        self._model.requires_grad_(requires_grad=False)


class Optimizer:
    def __init__(self, name, parameters, lr, clip=1.0, use_amp=False):
        self._name = name
        self._clip = clip
        self._opt = torch.optim.Adam(parameters, lr=lr)
        self._scaler = torch.amp.GradScaler('cpu', enabled=use_amp)

    def __call__(self, loss, params, retain_graph=False):
        assert len(loss.shape) == 0, loss.shape
        metrics = {f'{self._name}_loss': loss.detach().cpu().numpy()}
        self._opt.zero_grad()
        self._scaler.scale(loss).backward(retain_graph=retain_graph)
        self._scaler.unscale_(self._opt)
        norm = torch.nn.utils.clip_grad_norm_(params, self._clip)
        self._scaler.step(self._opt)
        self._scaler.update()
        self._opt.zero_grad()
        metrics[f'{self._name}_grad_norm'] = norm.item()
        return metrics
""",
    ),
    "darts": (
        """
net = mlp(8, 1)
alphas = torch.zeros(2, requires_grad=True)
w_optim = torch.optim.SGD(net.parameters(), lr={{lr}}, momentum=0.9)
alpha_optim = torch.optim.Adam([alphas], lr={{lr}})
""",
        """
half = len(x) // 2
train_x, train_y, val_x, val_y = x[:half], y[:half], x[half:], y[half:]
alpha_optim.zero_grad()
mix = torch.softmax(alphas, 0)
val_loss = F.mse_loss(mix[0] * net(val_x) + mix[1] * val_y.mean(), val_y)
val_loss.backward()
alpha_optim.step()
w_optim.zero_grad()
mix = torch.softmax(alphas, 0)
loss = F.mse_loss(mix[0] * net(train_x) + mix[1] * train_y.mean(), train_y)
loss.backward()
nn.utils.clip_grad_norm_(net.parameters(), 5.0)
w_optim.step()
""",
    ),
    "darts unrolled": (
        """
net, virtual = mlp(8, 1), mlp(8, 1)
alphas = torch.zeros(2, requires_grad=True)
w_optim = torch.optim.SGD(net.parameters(), lr={{lr}}, momentum=0.9)
alpha_optim = torch.optim.Adam([alphas], lr={{lr}})
""",
        """
alpha_optim.zero_grad()
grads = torch.autograd.grad(F.mse_loss(net(x) * torch.softmax(alphas, 0)[0], y), net.parameters())
with torch.no_grad():
    for w, vw, g in zip(net.parameters(), virtual.parameters(), grads):
        vw.copy_(w - 0.1 * g)
held_out = F.mse_loss(virtual(x) * torch.softmax(alphas, 0)[0], y)
d_alpha = torch.autograd.grad(held_out, alphas)[0]
with torch.no_grad():
    alphas.grad = d_alpha
alpha_optim.step()
w_optim.zero_grad()
F.mse_loss(net(x) * torch.softmax(alphas, 0)[0].detach(), y).backward()
w_optim.step()
""",
    ),
    "meta weight": (
        """
net, weigher = mlp(8, 1), mlp(1, 1)
opt = torch.optim.SGD(net.parameters(), lr={{lr}})
weigher_opt = torch.optim.Adam(weigher.parameters(), lr={{lr}})
""",
        """
params = dict(net.named_parameters())
cost = F.mse_loss(torch.func.functional_call(net, params, (x,)), y, reduction='none')
weights = torch.sigmoid(weigher(cost.detach()))
grads = torch.autograd.grad((weights * cost).mean(), tuple(params.values()), create_graph=True)
pseudo = {name: p - 0.1 * g for (name, p), g in zip(params.items(), grads)}
meta_loss = F.mse_loss(torch.func.functional_call(net, pseudo, (x,)), y)
weigher_opt.zero_grad()
meta_loss.backward()
weigher_opt.step()
cost = F.mse_loss(net(x), y, reduction='none')
with torch.no_grad():
    weights = torch.sigmoid(weigher(cost))
loss = (weights * cost).mean()
opt.zero_grad()
loss.backward()
opt.step()
""",
    ),
    "first-order maml": (
        "net = mlp(8, 1)\nmeta_opt = torch.optim.Adam(net.parameters(), lr={{lr}})",
        """
meta_opt.zero_grad()
for task in range(2):
    learner = copy.deepcopy(net)
    inner_opt = torch.optim.SGD(learner.parameters(), lr=0.01)
    for _ in range(2):
        inner_opt.zero_grad()
        F.mse_loss(learner(x), y).backward()
        inner_opt.step()
    learner.zero_grad()
    F.mse_loss(learner(x), y).backward()
    for p, q in zip(net.parameters(), learner.parameters()):
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        p.grad.add_(q.grad / 2)
meta_opt.step()
""",
    ),
    "maml accumulated": (
        "net = mlp(8, 1)\nmeta_opt = torch.optim.Adam(net.parameters(), lr={{lr}})",
        """
meta_opt.zero_grad()
for task in range(2):
    fast = list(net.parameters())
    for k in range(2):
        h = F.relu(F.linear(x, fast[0], fast[1]))
        inner = F.mse_loss(F.linear(h, fast[2], fast[3]), y)
        grad = torch.autograd.grad(inner, fast, create_graph=True)
        fast = [w - 0.01 * g for w, g in zip(fast, grad)]
    h = F.relu(F.linear(x, fast[0], fast[1]))
    outer = F.mse_loss(F.linear(h, fast[2], fast[3]), y) / 2
    outer.backward()
meta_opt.step()
""",
    ),
    "reptile": (
        "net = mlp(8, 1)\nmeta_opt = torch.optim.SGD(net.parameters(), lr={{lr}})",
        """
clone = copy.deepcopy(net)
opt = torch.optim.Adam(clone.parameters(), lr=0.01)
for _ in range(2):
    loss = F.mse_loss(clone(x), y)
    opt.zero_grad()
    loss.backward()
    opt.step()
for p, q in zip(net.parameters(), clone.parameters()):
    if p.grad is None:
        p.grad = torch.zeros_like(p)
    p.grad.zero_()
    p.grad.add_(p.data - q.data)
meta_opt.step()
""",
    ),
    "gem": (
        "net = mlp(8, 1)\nopt = torch.optim.SGD(net.parameters(), lr={{lr}})\nmemory = []",
        """
if memory:
    mx, my = memory[-1]
    net.zero_grad()
    F.mse_loss(net(mx), my).backward()
    reference = torch.cat([p.grad.flatten() for p in net.parameters()]).clone()
net.zero_grad()
loss = F.mse_loss(net(x), y)
loss.backward()
if memory:
    flat = torch.cat([p.grad.flatten() for p in net.parameters()])
    dot = torch.dot(flat, reference)
    if dot < 0:
        flat = flat - dot / reference.dot(reference) * reference
        pointer = 0
        for p in net.parameters():
            p.grad.copy_(flat[pointer:pointer + p.numel()].view_as(p))
            pointer += p.numel()
opt.step()
memory.append((x, y))
""",
    ),
    "ewc": (
        "net = mlp(8, 1)\nopt = torch.optim.SGD(net.parameters(), lr={{lr}})\nfisher, means = {}, {}",
        """
opt.zero_grad()
loss = F.mse_loss(net(x), y)
for n, p in net.named_parameters():
    if n in fisher:
        loss = loss + (fisher[n] * (p - means[n]) ** 2).sum()
loss.backward()
opt.step()
""",
        "",
        """
net.eval()
for n, p in net.named_parameters():
    fisher[n] = torch.zeros_like(p)
for x, y in loader:
    net.zero_grad()
    F.mse_loss(net(x), y).backward()
    for n, p in net.named_parameters():
        fisher[n] += p.grad.detach() ** 2 / 3
means.update({n: p.detach().clone() for n, p in net.named_parameters()})
net.train()
""".replace("loader", "[(torch.randn(4, 8), torch.randn(4, 1))]"),
    ),
    "co-teaching": (
        "one, two = mlp(8, 1), mlp(8, 1)\nopt1 = torch.optim.Adam(one.parameters(), lr={{lr}})\n"
        "opt2 = torch.optim.Adam(two.parameters(), lr={{lr}})",
        """
each1 = F.mse_loss(one(x), y, reduction='none').squeeze(1)
each2 = F.mse_loss(two(x), y, reduction='none').squeeze(1)
keep1, keep2 = each1.argsort()[:2], each2.argsort()[:2]
loss_1, loss_2 = each1[keep2].mean(), each2[keep1].mean()
opt1.zero_grad()
loss_1.backward()
opt1.step()
opt2.zero_grad()
loss_2.backward()
opt2.step()
""",
    ),
    "mutual": (
        "nets = [mlp(8, 1), mlp(8, 1)]\nopts = [torch.optim.SGD(net.parameters(), lr={{lr}}) for net in nets]",
        """
outs = [net(x) for net in nets]
for k, opt in enumerate(opts):
    loss = F.mse_loss(outs[k], y)
    for j in range(len(nets)):
        if j != k:
            loss = loss + F.mse_loss(outs[k], outs[j].detach())
    opt.zero_grad()
    loss.backward()
    opt.step()
""",
    ),
    "ensemble": (
        "nets = nn.ModuleList([mlp(8, 1) for _ in range(3)])\n"
        "opts = [torch.optim.Adam(n.parameters(), lr={{lr}}) for n in nets]",
        """
for net, opt in zip(nets, opts):
    opt.zero_grad()
    loss = F.mse_loss(net(x), y)
    loss.backward()
    opt.step()
""",
    ),
    "teacher": (
        "student, teacher = mlp(8, 1), mlp(8, 1)\nteacher.requires_grad_(False)\n"
        "opt = torch.optim.AdamW(student.parameters(), lr={{lr}})",
        """
with torch.no_grad():
    soft = teacher(x)
out = student(x)
loss = F.mse_loss(out, soft) + F.mse_loss(out, y)
opt.zero_grad()
loss.backward()
opt.step()
with torch.no_grad():
    m = 0.99
    for p, q in zip(student.parameters(), teacher.parameters()):
        q.data.mul_(m).add_((1 - m) * p.detach().data)
""",
    ),
    "byol": (
        "online, predictor = mlp(8, 8), mlp(8, 8)\ntarget = copy.deepcopy(online)\n"
        "opt = torch.optim.Adam(list(online.parameters()) + list(predictor.parameters()), lr={{lr}})",
        """
a, b = x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)
with torch.no_grad():
    ta, tb = target(a), target(b)
loss = 2 - F.cosine_similarity(predictor(online(a)), tb.detach()).mean() - F.cosine_similarity(predictor(online(b)), ta.detach()).mean()
opt.zero_grad()
loss.backward()
opt.step()
for current, old in zip(online.parameters(), target.parameters()):
    old.data = old.data * 0.99 + (1 - 0.99) * current.data
""",
    ),
    "dino": (
        "student, teacher = mlp(8, 4), mlp(8, 4)\nteacher.load_state_dict(student.state_dict())\n"
        "for p in teacher.parameters():\n    p.requires_grad = False\n"
        "opt = torch.optim.AdamW(student.parameters(), lr={{lr}})\nfp16_scaler = torch.amp.GradScaler('cpu') if {{amp}} else None\n"
        "center = torch.zeros(1, 4)",
        """
with torch.autocast('cpu', enabled=fp16_scaler is not None):
    goal = F.softmax((teacher(x) - center) / 0.04, dim=-1).detach()
    loss = -(goal * F.log_softmax(student(x).float() / 0.1, dim=-1)).sum(-1).mean()
opt.zero_grad()
param_norms = None
if fp16_scaler is None:
    loss.backward()
    if {{max_norm}}:
        param_norms = clip_gradients(student, {{max_norm}})
    cancel_last(epoch, student, 1)
    opt.step()
else:
    fp16_scaler.scale(loss).backward()
    if {{max_norm}}:
        fp16_scaler.unscale_(opt)
        param_norms = clip_gradients(student, {{max_norm}})
    cancel_last(epoch, student, 1)
    fp16_scaler.step(opt)
    fp16_scaler.update()
with torch.no_grad():
    for q, k in zip(student.parameters(), teacher.parameters()):
        k.data.mul_(0.99).add_(0.01 * q.detach().data)
center = center * 0.9 + teacher(x).detach().mean(0, keepdim=True) * 0.1
""",
        """
def clip_gradients(model, clip):
    norms = []
    for name, p in model.named_parameters():
        if p.grad is not None:
            param_norm = p.grad.data.norm(2)
            norms.append(param_norm.item())
            clip_coef = clip / (param_norm + 1e-6)
            if clip_coef < 1:
                p.grad.data.mul_(clip_coef)
    return norms


def cancel_last(epoch, model, freeze):
    if epoch >= freeze:
        return
    for n, p in model.named_parameters():
        if '2' in n:
            p.grad = None
""",
    ),
    "moco": (
        "query, key = mlp(8, 4), mlp(8, 4)\nopt = torch.optim.SGD(query.parameters(), lr={{lr}}, momentum=0.9)\n"
        "queue = F.normalize(torch.randn(4, 16), dim=0)\npointer = 0",
        """
q = F.normalize(query(x), dim=1)
with torch.no_grad():
    for a, b in zip(query.parameters(), key.parameters()):
        b.data = b.data * 0.999 + a.data * 0.001
    k = F.normalize(key(x), dim=1)
logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.clone().detach()], 1) / 0.07
loss = F.cross_entropy(logits, torch.zeros(len(x), dtype=torch.long))
opt.zero_grad()
loss.backward()
opt.step()
queue[:, pointer:pointer + 4] = k.T
pointer = (pointer + 4) % 16
""",
    ),
    "cyclegan": (
        """
g_ab, g_ba, d_a, d_b = mlp(8, 8), mlp(8, 8), mlp(8, 1), mlp(8, 1)
opt_g = torch.optim.Adam(itertools.chain(g_ab.parameters(), g_ba.parameters()), lr={{lr}})
opt_d_a = torch.optim.Adam(d_a.parameters(), lr={{lr}})
opt_d_b = torch.optim.Adam(d_b.parameters(), lr={{lr}})
""",
        """
real_a, real_b = x, x.flip(0)
g_ab.train()
g_ba.train()
opt_g.zero_grad()
fake_b, fake_a = g_ab(real_a), g_ba(real_b)
loss_identity = (F.l1_loss(g_ba(real_a), real_a) + F.l1_loss(g_ab(real_b), real_b)) / 2
loss_gan = (F.mse_loss(d_b(fake_b), torch.ones(4, 1)) + F.mse_loss(d_a(fake_a), torch.ones(4, 1))) / 2
loss_cycle = (F.l1_loss(g_ba(fake_b), real_a) + F.l1_loss(g_ab(fake_a), real_b)) / 2
loss_g = loss_gan + 10 * loss_cycle + 5 * loss_identity
loss_g.backward()
opt_g.step()
opt_d_a.zero_grad()
loss_d_a = (F.mse_loss(d_a(real_a), torch.ones(4, 1)) + F.mse_loss(d_a(fake_a.detach()), torch.zeros(4, 1))) / 2
loss_d_a.backward()
opt_d_a.step()
opt_d_b.zero_grad()
loss_d_b = (F.mse_loss(d_b(real_b), torch.ones(4, 1)) + F.mse_loss(d_b(fake_b.detach()), torch.zeros(4, 1))) / 2
loss_d_b.backward()
opt_d_b.step()
""",
    ),
    "stylegan": (
        """
g, d = mlp(8, 8), mlp(8, 1)
g_optim = torch.optim.Adam(g.parameters(), lr={{lr}})
d_optim = torch.optim.Adam(d.parameters(), lr={{lr}})
g_ema = copy.deepcopy(g).eval()
mean_path = 0
""",
        """
requires_grad(g, False)
requires_grad(d, True)
fake = g(torch.randn(4, 8))
d_loss = F.softplus(d(fake)).mean() + F.softplus(-d(x)).mean()
d.zero_grad()
d_loss.backward()
d_optim.step()
if i % 16 == 0:
    real = x.clone()
    real.requires_grad = True
    pred = d(real)
    (grad_real,) = torch.autograd.grad(outputs=pred.sum(), inputs=real, create_graph=True)
    r1 = grad_real.pow(2).reshape(len(x), -1).sum(1).mean()
    d.zero_grad()
    (10 / 2 * r1 * 16 + 0 * pred[0]).backward()
    d_optim.step()
requires_grad(g, True)
requires_grad(d, False)
fake = g(torch.randn(4, 8))
g_loss = F.softplus(-d(fake)).mean()
g.zero_grad()
g_loss.backward()
g_optim.step()
if i % 4 == 0:
    latents = torch.randn(2, 8, requires_grad=True)
    fake = g(latents)
    (grad,) = torch.autograd.grad((fake * torch.randn_like(fake)).sum(), latents, create_graph=True)
    lengths = grad.pow(2).sum(1).sqrt()
    path_mean = mean_path + 0.01 * (lengths.mean() - mean_path)
    penalty = (lengths - path_mean).pow(2).mean()
    mean_path = path_mean.detach()
    g.zero_grad()
    weighted = 2 * 4 * penalty
    weighted += 0 * fake[0, 0]
    weighted.backward()
    g_optim.step()
accumulate(g_ema, g, 0.99)
""",
        """
def requires_grad(model, flag=True):
    for p in model.parameters():
        p.requires_grad = flag


def accumulate(model1, model2, decay=0.999):
    par1, par2 = dict(model1.named_parameters()), dict(model2.named_parameters())
    for k in par1.keys():
        par1[k].data.mul_(decay).add_(par2[k].data, alpha=1 - decay)
""",
    ),
    "wgan": (
        "g, critic = mlp(8, 8), mlp(8, 1)\nopt_g = torch.optim.RMSprop(g.parameters(), lr={{lr}})\n"
        "opt_c = torch.optim.RMSprop(critic.parameters(), lr={{lr}})",
        """
for p in critic.parameters():
    p.requires_grad = True
for _ in range(2):
    critic.zero_grad()
    for p in critic.parameters():
        p.data.clamp_(-0.01, 0.01)
    loss_real = critic(x).mean()
    loss_real.backward(torch.tensor(-1.0))
    fake = g(torch.randn(4, 8)).detach()
    loss_fake = critic(fake).mean()
    loss_fake.backward(torch.tensor(1.0))
    opt_c.step()
for p in critic.parameters():
    p.requires_grad = False
g.zero_grad()
g_loss = critic(g(torch.randn(4, 8))).mean()
g_loss.backward(torch.tensor(-1.0))
opt_g.step()
""",
    ),
    "vae-gan": (
        """
enc, dec, dis = mlp(8, 8), mlp(4, 8), mlp(8, 1)
opt_enc = torch.optim.Adam(enc.parameters(), lr={{lr}})
opt_dec = torch.optim.Adam(dec.parameters(), lr={{lr}})
opt_dis = torch.optim.Adam(dis.parameters(), lr={{lr}})
""",
        """
mu, logvar = enc(x).chunk(2, 1)
z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
rec = dec(z)
gan_loss = F.softplus(-dis(x)).mean() + F.softplus(dis(rec)).mean()
rec_loss = F.mse_loss(rec, x)
kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).mean()
opt_dis.zero_grad()
gan_loss.backward(retain_graph=True, inputs=list(dis.parameters()))
opt_enc.zero_grad()
(kl + rec_loss).backward(retain_graph=True, inputs=list(enc.parameters()))
opt_dec.zero_grad()
(rec_loss - 0.1 * gan_loss).backward(inputs=list(dec.parameters()))
opt_dis.step()
opt_enc.step()
opt_dec.step()
""",
    ),
    "soft intro": (
        """
enc, dec = mlp(8, 4), mlp(4, 8)
optimizer_e = torch.optim.Adam(enc.parameters(), lr={{lr}})
optimizer_d = torch.optim.Adam(dec.parameters(), lr={{lr}})
""",
        """
for param in enc.parameters():
    param.requires_grad = True
for param in dec.parameters():
    param.requires_grad = False
noise = torch.randn(4, 4)
fake = dec(noise)
rec = dec(enc(x))
loss_e = F.mse_loss(rec, x) + torch.exp(-F.mse_loss(dec(enc(fake.detach())), fake.detach()))
optimizer_e.zero_grad()
loss_e.backward()
optimizer_e.step()
for param in enc.parameters():
    param.requires_grad = False
for param in dec.parameters():
    param.requires_grad = True
fake = dec(noise)
rec = dec(enc(x).detach())
loss_d = F.mse_loss(rec, x) + F.mse_loss(dec(enc(fake)), fake.detach())
optimizer_d.zero_grad()
loss_d.backward()
optimizer_d.step()
""",
    ),
    "domain adversarial": (
        """
features, label, domain = mlp(8, 8), mlp(8, 1), mlp(8, 1)
opt_f = torch.optim.SGD(features.parameters(), lr={{lr}})
opt_c = torch.optim.SGD(label.parameters(), lr={{lr}})
opt_d = torch.optim.SGD(domain.parameters(), lr={{lr}})
""",
        """
mixed = torch.cat([x, x + 1])
flags = torch.cat([torch.ones(4, 1), torch.zeros(4, 1)])
feature = features(mixed)
loss = F.binary_cross_entropy_with_logits(domain(feature.detach()), flags)
opt_d.zero_grad()
loss.backward()
opt_d.step()
total = F.mse_loss(label(feature[:4]), y) - 0.1 * F.binary_cross_entropy_with_logits(domain(feature), flags)
opt_f.zero_grad()
opt_c.zero_grad()
opt_d.zero_grad()
total.backward()
opt_c.step()
opt_f.step()
""",
    ),
    "mcd": (
        """
gen, c1, c2 = mlp(8, 8), mlp(8, 1), mlp(8, 1)
opt_gen = torch.optim.SGD(gen.parameters(), lr={{lr}})
opt_c1 = torch.optim.SGD(c1.parameters(), lr={{lr}})
opt_c2 = torch.optim.SGD(c2.parameters(), lr={{lr}})
""",
        """
reset_grad(opt_gen, opt_c1, opt_c2)
feat = gen(x)
(F.mse_loss(c1(feat), y) + F.mse_loss(c2(feat), y)).backward()
opt_gen.step()
opt_c1.step()
opt_c2.step()
reset_grad(opt_gen, opt_c1, opt_c2)
feat = gen(x)
loss_s = F.mse_loss(c1(feat), y) + F.mse_loss(c2(feat), y)
loss_s = loss_s - (c1(feat) - c2(feat)).abs().mean()
loss_s.backward()
opt_c1.step()
opt_c2.step()
reset_grad(opt_gen, opt_c1, opt_c2)
for _ in range(2):
    feat = gen(x)
    (c1(feat) - c2(feat)).abs().mean().backward()
    opt_gen.step()
    reset_grad(opt_gen, opt_c1, opt_c2)
""",
        "def reset_grad(*optimizers):\n    for optimizer in optimizers:\n        optimizer.zero_grad()",
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
        "stages = nn.ModuleList([mlp(8, 8), mlp(8, 8), mlp(8, 1)])\nopt = torch.optim.SGD(stages.parameters(), lr={{lr}})",
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
        "opts = [torch.optim.SGD(list(b.parameters()) + list(h.parameters()), lr={{lr}}) for b, h in zip(blocks, heads)]",
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
        "backbone, head = mlp(8, 8), mlp(8, 1)\nopt = torch.optim.SGD([{'params': backbone.parameters(), 'lr': 0.01}, "
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
        "net, centers = mlp(8, 4), nn.Parameter(torch.randn(2, 4))\nopt = torch.optim.SGD(net.parameters(), lr={{lr}})\n"
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
        "net, multiplier = mlp(8, 1), nn.Parameter(torch.ones(()))\nopt = torch.optim.Adam(net.parameters(), lr={{lr}})\n"
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
        "net = mlp(8, 1)\nopt = torch.optim.SGD(net.parameters(), lr={{lr}})\nreplicas = [copy.deepcopy(net) for _ in range(2)]",
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
        "net = mlp(8, 1)\nopt = torch.optim.SGD(net.parameters(), lr=1e-4)\nkept = copy.deepcopy((net.state_dict(), opt.state_dict()))\nlosses = []",
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
