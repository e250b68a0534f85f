"""Reinforcement learning of values: memories of transitions, target networks, goals that are cut."""

from __future__ import annotations

from idioms.grammar import Family
from idioms.policies import ENV

_TARGET = {
    "copied now and then": {
        "make_target": "target = copy.deepcopy(q)",
        "sync": "if step % 2 == 0:\n    target.load_state_dict(q.state_dict())",
    },
    "new and loaded": {
        "make_target": "target = Q()\ntarget.load_state_dict(q.state_dict())\ntarget.eval()",
        "sync": "if step % 2 == 0:\n    target.load_state_dict(q.state_dict())",
    },
    "polyak through data": {
        "make_target": "target = copy.deepcopy(q)",
        "sync": "for t, p in zip(target.parameters(), q.parameters()):\n"
        "    t.data.copy_(0.99 * t.data + 0.01 * p.data)",
    },
    "polyak under no_grad": {
        "make_target": "target = copy.deepcopy(q)\nfor p in target.parameters():\n    p.requires_grad = False",
        "sync": "with torch.no_grad():\n    for t, p in zip(target.parameters(), q.parameters()):\n"
        "        t.mul_(0.99)\n        t.add_(0.01 * p)",
    },
    "polyak through data in place": {
        "make_target": "target = copy.deepcopy(q).requires_grad_(False)",
        "sync": "for p, t in zip(q.parameters(), target.parameters()):\n    t.data.mul_(0.99)\n"
        "    t.data.add_(0.01 * p.data)",
    },
    "helper": {"make_target": "target = Q()\nsoft_update(target, q, 1.0)", "sync": "soft_update(target, q, 0.01)"},
    "by names": {
        "make_target": "target = copy.deepcopy(q)",
        "sync": "new, old = q.state_dict(), target.state_dict()\nfor key in new:\n"
        "    old[key] = new[key] * 0.1 + old[key] * 0.9\n"
        "target.load_state_dict(old)",
    },
    "lerp": {
        "make_target": "target = copy.deepcopy(q)",
        "sync": "with torch.no_grad():\n    for t, p in zip(target.parameters(), q.parameters()):\n"
        "        t.lerp_(p, 0.01)",
    },
    "averaged model": {
        "make_target": "target = torch.optim.swa_utils.AveragedModel(q, avg_fn=lambda a, p, n: 0.9 * a + 0.1 * p)",
        "sync": "target.update_parameters(q)",
    },
    "data assigned": {
        "make_target": "target = Q()\nfor t, p in zip(target.parameters(), q.parameters()):\n"
        "    t.data = p.data.clone()",
        "sync": "for t, p in zip(target.parameters(), q.parameters()):\n    t.data = 0.99 * t.data + 0.01 * p.data",
    },
}

_TD = {
    "no_grad": {
        "goal": "with torch.no_grad():\n    y = r + 0.99 * (1 - d) * target(s2).max(1)[0]",
    },
    "detach": {"goal": "y = r + 0.99 * (1 - d) * target(s2).max(1)[0].detach()"},
    "detach the sum": {"goal": "y = (r + 0.99 * (1 - d) * target(s2).max(1).values).detach()"},
    "detach later": {"goal": "goal = r + 0.99 * (1 - d) * target(s2).amax(dim=1)\ny = goal.detach()"},
    "double": {
        "goal": "best = q(s2).argmax(1, keepdim=True)\n"
        "y = r + 0.99 * (1 - d) * target(s2).gather(1, best).squeeze(1).detach()",
    },
    "double no_grad": {
        "goal": "with torch.no_grad():\n    best = q(s2).argmax(dim=1)\n"
        "    y = r + 0.99 * (1 - d) * target(s2)[torch.arange(len(best)), best]",
    },
    "masked": {
        "goal": "keep = d == 0\nnext_values = torch.zeros(len(s))\n"
        "with torch.no_grad():\n    next_values[keep] = target(s2[keep]).max(1)[0]\ny = next_values * 0.99 + r",
    },
    "masked detach": {
        "goal": "keep = d == 0\nnext_values = torch.zeros(len(s))\n"
        "next_values[keep] = target(s2[keep]).max(1)[0].detach()\ny = next_values * 0.99 + r",
    },
    "data": {"goal": "y = r + 0.99 * (1 - d) * target(s2).data.max(1)[0]"},
    "numpy": {
        "goal": "with torch.no_grad():\n    best = target(s2).max(1)[0].cpu().numpy()\n"
        "y = torch.from_numpy(r.numpy() + 0.99 * (1 - d.numpy()) * best).float()",
    },
    "method": {"goal": "y = goal_of(target, r, s2, d)"},
    "soft": {
        "goal": "with torch.no_grad():\n    v = 0.1 * torch.logsumexp(target(s2) / 0.1, dim=1)\n"
        "    y = r + 0.99 * (1 - d) * v",
    },
}

_ERROR = {
    "mse": {"error": "loss = F.mse_loss(q(s).gather(1, a).squeeze(1), y)"},
    "huber": {"error": "values = q(s).gather(1, a)\nloss = F.smooth_l1_loss(values, y.unsqueeze(1))"},
    "criterion": {"error": "criterion = nn.SmoothL1Loss()\nloss = criterion(q(s).gather(1, a), y.view(-1, 1))"},
    "priorities": {
        "error": "values = q(s).gather(1, a).squeeze(1)\ndelta = y - values\nweights = torch.ones(len(s))\n"
        "loss = (weights * delta.pow(2)).mean()\npriorities = delta.detach().abs().cpu().numpy() + 1e-6",
    },
    "priorities data": {
        "error": "values = q(s).gather(1, a).squeeze(1)\nloss = (values - y).pow(2)\nprios = loss + 1e-5\n"
        "loss = loss.mean()\npriorities = prios.data.cpu().numpy()",
    },
    "conservative": {
        "error": "values = q(s)\nchosen = values.gather(1, a).squeeze(1)\n"
        "loss = F.mse_loss(chosen, y) + 0.1 * (torch.logsumexp(values, dim=1) - chosen).mean()",
    },
    "one hot": {
        "error": "mask = F.one_hot(a.squeeze(1), 2).float()\nloss = ((q(s) * mask).sum(1) - y).pow(2).mean()",
    },
}

_SELECT = {
    "no_grad": {"select": "with torch.no_grad():\n    action = q(torch.from_numpy(state)[None]).argmax(1).item()"},
    "greedy": {
        "select": "if random.random() < 0.1:\n    action = random.randrange(2)\nelse:\n    with torch.no_grad():\n"
        "        action = q(torch.FloatTensor(state).unsqueeze(0)).max(1)[1].view(1, 1).item()",
    },
    "plain": {"select": "values = q(torch.from_numpy(state)[None])\naction = int(values.argmax())"},
    "numpy": {"select": "action = np.argmax(q(torch.from_numpy(state)[None]).detach().cpu().numpy())"},
    "mode": {
        "select": "q.eval()\nwith torch.no_grad():\n    action = int(q(torch.from_numpy(state)[None]).argmax())\n"
        "q.train()",
    },
    "method": {"select": "action = q.act(torch.from_numpy(state))"},
    "max": {"select": "_, best = torch.max(q(torch.tensor(state)[None]), dim=1)\naction = int(best.item())"},
}

_STORE = {
    "arrays": {
        "store": "memory.append((state, action, reward, after, float(done)))",
        "sample": "batch = random.sample(memory, 4)\ns, a, r, s2, d = map(np.array, zip(*batch))\n"
        "s, s2 = torch.from_numpy(s), torch.from_numpy(s2)\na = torch.from_numpy(a).long().view(-1, 1)\n"
        "r, d = torch.from_numpy(r).float(), torch.from_numpy(d).float()",
    },
    "tensors": {
        "store": "memory.append(tuple(torch.tensor(v) for v in (state, [action], reward, after, float(done))))",
        "sample": "s, a, r, s2, d = [torch.stack(v) for v in zip(*random.sample(memory, 4))]\na = a.long()",
    },
    "named": {
        "store": "memory.append(Transition(torch.from_numpy(state), action, reward, torch.from_numpy(after), done))",
        "sample": "batch = Transition(*zip(*random.sample(memory, 4)))\n"
        "s, s2 = torch.stack(batch.s), torch.stack(batch.s2)\n"
        "a = torch.tensor(batch.a).view(-1, 1)\nr = torch.tensor(batch.r)\n"
        "d = torch.tensor(batch.d, dtype=torch.float)",
    },
    "class": {
        "store": "replay.push(state, action, reward, after, done)",
        "sample": "s, a, r, s2, d = replay.sample(4)",
    },
}

_VALUES = Family(
    "values",
    """
    import copy
    import random
    from collections import deque, namedtuple

    import numpy as np
    import torch
    import torch.nn as nn
    import torch.nn.functional as F

    Transition = namedtuple("Transition", "s a r s2 d")


    """
    + ENV.replace("\n", "\n    ")
    + """

    class Q(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))

        def forward(self, s):
            return self.layers(s)

        def act(self, state):
            with torch.no_grad():
                return self.forward(state).argmax().item()


    class Replay:
        def __init__(self, capacity=100):
            self.items, self.capacity, self.at = [], capacity, 0

        def push(self, *item):
            if len(self.items) < self.capacity:
                self.items.append(None)
            self.items[self.at] = item
            self.at = (self.at + 1) % self.capacity

        def sample(self, count):
            s, a, r, s2, d = zip(*random.sample(self.items, count))
            kinds = (torch.float, torch.long, torch.float, torch.float, torch.float)
            s, a, r, s2, d = [torch.tensor(np.array(v), dtype=kind) for v, kind in zip((s, a, r, s2, d), kinds)]
            return s, a.unsqueeze(1), r, s2, d


    def soft_update(target, source, tau):
        for t, p in zip(target.parameters(), source.parameters()):
            t.data.copy_(t.data * (1.0 - tau) + p.data * tau)


    @torch.no_grad()
    def goal_of(target, r, s2, d, gamma=0.99):
        return r + gamma * (1 - d) * target(s2).max(1)[0]


    def train(steps=8):
        env, q = Env(), Q()
        {{make_target}}
        optimizer = torch.optim.Adam(q.parameters(), lr=1e-3)
        memory, replay = deque(maxlen=100), Replay()
        state = env.reset()
        for step in range(steps):
            {{select}}
            after, reward, done, _ = env.step(action)
            {{store}}
            state = env.reset() if done else after
            if max(len(memory), len(replay.items)) < 4:
                continue
            {{sample}}
            {{goal}}
            {{error}}
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            {{sync}}


    train()
    """,
    {"target": _TARGET, "goal": _TD, "error": _ERROR, "select": _SELECT, "store": _STORE},
    {
        "read out": (
            "GTR209",
            {
                "error": "loss = F.mse_loss(q(s).gather(1, a).squeeze(1), y)\n"
                "loss = torch.tensor(loss.item(), requires_grad=True)"
            },
        ),
        "loss kept": ("GTR402", {"make_target": "target = copy.deepcopy(q)\nkept = []", "sync": "kept.append(loss)"}),
    },
)

FAMILIES = (_VALUES,)
