"""Reinforcement learning of policies: rollouts without gradients, returns and advantages that are cut."""

from __future__ import annotations

from idioms.grammar import Family

ENV = """
class Env:
    def reset(self):
        self.t = 0
        return np.random.randn(4).astype(np.float32)

    def step(self, action):
        self.t += 1
        return np.random.randn(4).astype(np.float32), float(np.random.randn()), self.t >= 5, {}
"""

_POLICY = {
    "policy and value": {
        "networks": """
        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Sequential(nn.Linear(4, 16), nn.Tanh())
                self.pi, self.v = nn.Linear(16, 2), nn.Linear(16, 1)

            def forward(self, s):
                h = self.body(s)
                return self.pi(h), self.v(h).squeeze(-1)

            def act(self, s):
                logits, value = self(s)
                dist = Categorical(logits=logits)
                action = dist.sample()
                return action, dist.log_prob(action), dist.entropy(), value

            def evaluate(self, s, a):
                logits, value = self(s)
                dist = Categorical(logits=logits)
                return dist.log_prob(a), dist.entropy(), value
        """,
    },
    "two networks": {
        "networks": """
        def mlp(sizes, activation=nn.Tanh):
            layers = []
            for j in range(len(sizes) - 1):
                layers += [nn.Linear(sizes[j], sizes[j + 1]), activation() if j < len(sizes) - 2 else nn.Identity()]
            return nn.Sequential(*layers)


        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.actor, self.critic = mlp([4, 16, 2]), mlp([4, 16, 1])

            def forward(self, s):
                return self.actor(s), self.critic(s).squeeze(-1)

            def act(self, s):
                probs = F.softmax(self.actor(s), dim=-1)
                m = Categorical(probs)
                action = m.sample()
                return action, m.log_prob(action), m.entropy(), self.critic(s).squeeze(-1)

            def evaluate(self, s, a):
                m = Categorical(F.softmax(self.actor(s), dim=-1))
                return m.log_prob(a), m.entropy(), self.critic(s).squeeze(-1)
        """,
    },
    "log probs by hand": {
        "networks": """
        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.shared = nn.Linear(4, 16)
                self.logits, self.value = nn.Linear(16, 2), nn.Linear(16, 1)

            def forward(self, s):
                h = torch.relu(self.shared(s))
                return self.logits(h), self.value(h).squeeze(-1)

            def act(self, s):
                logits, value = self.forward(s)
                logp = F.log_softmax(logits, dim=-1)
                probs = logp.exp()
                action = torch.multinomial(probs, 1).squeeze(-1)
                entropy = -(logp * probs).sum(-1)
                return action, logp.gather(-1, action.unsqueeze(-1)).squeeze(-1), entropy, value

            def evaluate(self, s, a):
                logits, value = self.forward(s)
                logp = F.log_softmax(logits, dim=-1)
                return logp.gather(-1, a.unsqueeze(-1)).squeeze(-1), -(logp * logp.exp()).sum(-1), value
        """,
    },
}

_ALGORITHM = {
    "reinforce": {
        "kept": """
        log_probs, rewards = [], []
        state, done = env.reset(), False
        while not done:
            action, log_prob, _, _ = policy.act(torch.from_numpy(state).unsqueeze(0))
            state, reward, done, _ = env.step(action.item())
            log_probs.append(log_prob)
            rewards.append(reward)
        """,
        "update": """
        returns = torch.tensor(discounted(rewards))
        returns = (returns - returns.mean()) / (returns.std() + 1e-8)
        loss = torch.stack([-lp * R for lp, R in zip(log_probs, returns)]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        """,
    },
    "reinforce on the model": {
        "kept": """
        policy.saved_log_probs, policy.rewards = [], []
        state, done = env.reset(), False
        while not done:
            action, log_prob, _, _ = policy.act(torch.from_numpy(state).float().unsqueeze(0))
            policy.saved_log_probs.append(log_prob)
            state, reward, done, _ = env.step(action.item())
            policy.rewards.append(reward)
        """,
        "update": """
        policy_loss = []
        returns = torch.tensor(discounted(policy.rewards))
        for log_prob, R in zip(policy.saved_log_probs, returns):
            policy_loss.append(-log_prob * R)
        optimizer.zero_grad()
        policy_loss = torch.cat(policy_loss).sum()
        policy_loss.backward()
        optimizer.step()
        del policy.rewards[:]
        del policy.saved_log_probs[:]
        """,
    },
    "actor critic": {
        "kept": """
        saved, rewards = [], []
        state, done = env.reset(), False
        while not done:
            action, log_prob, entropy, value = policy.act(torch.as_tensor(state).unsqueeze(0))
            saved.append(Saved(log_prob, value))
            state, reward, done, _ = env.step(action.item())
            rewards.append(reward)
        """,
        "update": """
        policy_losses, value_losses = [], []
        for (log_prob, value), R in zip(saved, torch.tensor(discounted(rewards))):
            advantage = R - value.item()
            policy_losses.append(-log_prob * advantage)
            value_losses.append(F.smooth_l1_loss(value, R.view(1)))
        loss = torch.stack(policy_losses).sum() + torch.stack(value_losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        """,
    },
    "advantage": {
        "kept": """
        log_probs, values, entropies, rewards, masks = [], [], [], [], []
        state = env.reset()
        for _ in range(5):
            action, log_prob, entropy, value = policy.act(torch.FloatTensor(state).unsqueeze(0))
            state, reward, done, _ = env.step(action.cpu().numpy()[0])
            log_probs.append(log_prob)
            values.append(value)
            entropies.append(entropy)
            rewards.append(torch.FloatTensor([reward]))
            masks.append(torch.FloatTensor([1 - done]))
            if done:
                state = env.reset()
        _, next_value = policy(torch.FloatTensor(state).unsqueeze(0))
        """,
        "update": """
        returns, R = [], next_value
        for t in reversed(range(len(rewards))):
            R = rewards[t] + 0.99 * R * masks[t]
            returns.insert(0, R)
        log_prob, value = torch.cat(log_probs), torch.cat(values)
        returns = torch.cat(returns).detach()
        advantage = returns - value
        actor_loss = -(log_prob * advantage.detach()).mean()
        critic_loss = advantage.pow(2).mean()
        loss = actor_loss + 0.5 * critic_loss - 0.001 * torch.cat(entropies).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        """,
    },
    "generalised advantage": {
        "kept": """
        values, log_probs, rewards, entropies = [], [], [], []
        state, done = torch.from_numpy(env.reset()), False
        while not done:
            action, log_prob, entropy, value = policy.act(state.unsqueeze(0))
            state, reward, done, _ = env.step(int(action))
            state = torch.from_numpy(state)
            values.append(value)
            log_probs.append(log_prob)
            entropies.append(entropy)
            rewards.append(max(min(reward, 1), -1))
        R = torch.zeros(1)
        if not done:
            R = policy(state.unsqueeze(0))[1].detach()
        """,
        "update": """
        values.append(R)
        policy_loss, value_loss, gae = 0, 0, torch.zeros(1)
        for i in reversed(range(len(rewards))):
            R = 0.99 * R + rewards[i]
            value_loss = value_loss + 0.5 * (R - values[i]).pow(2)
            delta = rewards[i] + 0.99 * values[i + 1] - values[i]
            gae = gae * 0.99 + delta
            policy_loss = policy_loss - log_probs[i] * gae.detach() - 0.01 * entropies[i]
        optimizer.zero_grad()
        (policy_loss + 0.5 * value_loss).sum().backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 40)
        optimizer.step()
        """,
    },
    "clipped": {
        "kept": """
        buffer = defaultdict(list)
        state = env.reset()
        for _ in range(8):
            with torch.no_grad():
                s = torch.from_numpy(state)
                action, log_prob, _, value = policy.act(s.unsqueeze(0))
            state, reward, done, _ = env.step(action.item())
            for name, item in zip(("s", "a", "lp", "v"), (s, action[0], log_prob[0], value[0])):
                buffer[name].append(item)
            buffer["r"].append(reward)
            if done:
                state = env.reset()
        data = {k: torch.stack(v) for k, v in buffer.items() if k != "r"}
        """,
        "update": """
        returns = torch.tensor(discounted(buffer["r"]))
        advantage = returns - data["v"]
        for _ in range(2):
            for index in torch.randperm(8).split(4):
                log_prob, entropy, value = policy.evaluate(data["s"][index], data["a"][index])
                ratio = (log_prob - data["lp"][index]).exp()
                clipped = torch.clamp(ratio, 0.8, 1.2) * advantage[index]
                with torch.no_grad():
                    kl = (data["lp"][index] - log_prob).mean()
                    fraction = ((ratio - 1.0).abs() > 0.2).float().mean().item()
                loss = -torch.min(ratio * advantage[index], clipped).mean()
                loss = loss + 0.5 * F.mse_loss(value, returns[index]) - 0.01 * entropy.mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
                optimizer.step()
            if kl.item() > 0.5:
                break
        """,
    },
    "clipped with a memory": {
        "kept": """
        state, done = env.reset(), False
        while not done:
            action = memory.select(policy, state)
            state, reward, done, _ = env.step(action)
            memory.rewards.append(reward)
        """,
        "update": """
        rewards = torch.tensor(discounted(memory.rewards))
        old_states = torch.squeeze(torch.stack(memory.states, dim=0)).detach()
        old_actions = torch.squeeze(torch.stack(memory.actions, dim=0)).detach()
        old_log_probs = torch.squeeze(torch.stack(memory.log_probs, dim=0)).detach()
        for _ in range(2):
            log_probs, entropy, values = policy.evaluate(old_states, old_actions)
            ratios = torch.exp(log_probs - old_log_probs.detach())
            advantages = rewards - values.detach()
            surr1 = ratios * advantages
            surr2 = torch.clamp(ratios, 0.8, 1.2) * advantages
            loss = -torch.min(surr1, surr2) + 0.5 * F.mse_loss(values, rewards) - 0.01 * entropy
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
        memory.clear()
        """,
    },
    "old policy": {
        "kept": """
        old = copy.deepcopy(policy)
        states, actions, rewards = [], [], []
        state, done = env.reset(), False
        while not done:
            states.append(torch.from_numpy(state))
            with torch.no_grad():
                action = old.act(states[-1].unsqueeze(0))[0]
            actions.append(action.squeeze(0))
            state, reward, done, _ = env.step(action.item())
            rewards.append(reward)
        states, actions = torch.stack(states), torch.stack(actions)
        """,
        "update": """
        fixed = old.evaluate(states, actions)[0].detach()
        returns = torch.tensor(discounted(rewards))
        for _ in range(2):
            log_prob, entropy, value = policy.evaluate(states, actions)
            advantage = returns - value.detach()
            ratio = torch.exp(log_prob - fixed)
            loss = -(ratio * advantage).mean() + (returns - value).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        old.load_state_dict(policy.state_dict())
        """,
    },
    "self critical": {
        "kept": """
        s = torch.randn(6, 4)
        action, log_prob, entropy, value = policy.act(s)
        with torch.no_grad():
            greedy = policy(s)[0].argmax(-1)
        reward = (action == 1).float() - (greedy == 1).float()
        """,
        "update": """
        loss = -(reward * log_prob).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        """,
    },
    "moving baseline": {
        "kept": """
        action, log_prob, entropy, value = policy.act(torch.randn(6, 4))
        reward = (action == 1).float()
        baseline = reward.mean() if baseline is None else 0.9 * baseline + 0.1 * reward.mean()
        """,
        "update": """
        loss = -(log_prob * (reward - baseline).detach()).mean() - 0.01 * entropy.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        """,
    },
    "step by step": {
        "kept": "state, done = env.reset(), False",
        "update": """
        while not done:
            action, log_prob, _, value = policy.act(torch.from_numpy(state)[None])
            state, reward, done, _ = env.step(action.item())
            next_value = policy(torch.from_numpy(state)[None])[1].detach()
            delta = reward + 0.99 * next_value * (1 - int(done)) - value
            actor_loss = -log_prob * delta.detach()
            critic_loss = delta**2
            optimizer.zero_grad()
            (actor_loss + critic_loss).mean().backward()
            optimizer.step()
        """,
    },
}

_TELL = {
    "nothing": {"tell": "", "tell_start": "baseline = None"},
    "item": {
        "tell": "print(episode, sum(scores) / len(scores))\nscores.append(0.0)",
        "tell_start": "baseline, scores = None, [0.0]",
    },
    "deque": {
        "tell": "window.append(float(np.random.rand()))\nprint(np.mean(window))",
        "tell_start": "baseline = None\nwindow = deque(maxlen=100)",
    },
    "evaluation": {
        "tell": """
        policy.eval()
        state, done, total = env.reset(), False, 0.0
        with torch.no_grad():
            while not done:
                logits, _ = policy(torch.from_numpy(state).unsqueeze(0))
                state, reward, done, _ = env.step(logits.argmax(-1).item())
                total += reward
        policy.train()
        """,
        "tell_start": "baseline = None",
    },
    "best": {
        "tell": "score = float(np.random.rand())\nif score > best:\n    best = score\n"
        "    torch.save(policy.state_dict(), 'policy.pt')",
        "tell_start": "baseline, best = None, -1.0",
    },
    "schedule": {
        "tell": "scheduler.step()",
        "tell_start": "baseline = None\nscheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)",
    },
}

_LAYOUT = {
    "function": {
        "program": """
        def main(episodes=2):
            env, policy, memory = Env(), Policy(), Memory()
            optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
            {{tell_start}}
            for episode in range(episodes):
                {{kept}}
                {{update}}
                {{tell}}


        main()
        """
    },
    "script": {
        "program": """
        env, policy, memory = Env(), Policy(), Memory()
        optimizer = torch.optim.Adam([{"params": policy.parameters(), "lr": 1e-3}])
        {{tell_start}}
        for episode in range(2):
            {{kept}}
            {{update}}
            {{tell}}
        """
    },
    "agent": {
        "program": """
        class Agent:
            def __init__(self, env):
                self.env, self.memory = env, Memory()
                self.policy = Policy()
                self.optimizer = torch.optim.RMSprop(self.policy.parameters(), lr=1e-3)

            def learn(self, episodes):
                env, policy, optimizer, memory = self.env, self.policy, self.optimizer, self.memory
                {{tell_start}}
                for episode in range(episodes):
                    {{kept}}
                    {{update}}
                    {{tell}}


        Agent(Env()).learn(2)
        """
    },
}

_POLICIES = Family(
    "policies",
    """
    import copy
    from collections import defaultdict, deque, namedtuple

    import numpy as np
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
    from torch.distributions import Categorical

    Saved = namedtuple("Saved", ["log_prob", "value"])


    """
    + ENV.replace("\n", "\n    ")
    + """

    class Memory:
        def __init__(self):
            self.states, self.actions, self.log_probs, self.rewards = [], [], [], []

        def clear(self):
            del self.states[:], self.actions[:], self.log_probs[:], self.rewards[:]

        def select(self, policy, state):
            with torch.no_grad():
                state = torch.FloatTensor(state)
                action, log_prob, _, _ = policy.act(state)
            self.states.append(state)
            self.actions.append(action)
            self.log_probs.append(log_prob)
            return action.item()


    {{networks}}


    def discounted(rewards, gamma=0.99):
        out, R = [], 0.0
        for r in reversed(rewards):
            R = r + gamma * R
            out.insert(0, R)
        return out


    {{program}}
    """,
    {"algorithm": _ALGORITHM, "networks": _POLICY, "layout": _LAYOUT, "tell": _TELL},
    {
        "loss kept": (
            "GTR402",
            {
                "tell_start": "baseline, losses = None, []",
                "tell": "action, lp, _, v = policy.act(torch.randn(6, 4))\nerror = (v - 1.0).pow(2).mean()\n"
                "optimizer.zero_grad()\nerror.backward()\noptimizer.step()\nlosses.append(error)",
            },
        ),
    },
)

FAMILIES = (_POLICIES,)
