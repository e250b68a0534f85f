"""Algorithms of agents, of learning to learn, and of learning one thing after the other.

What is set up, what is done with a batch `x, y`, what is defined before, what an epoch ends with.
"""

from __future__ import annotations

ALGORITHMS: dict[str, tuple[str, ...]] = {
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
}
