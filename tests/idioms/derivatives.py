"""Gradients of other things than parameters, and of gradients: attacks, explanations, inner loops, physics, inputs."""

from __future__ import annotations

from idioms.grammar import Family

_WHAT = {
    "sign attack": """
    def attack(model, x, y, eps=0.1):
        x = x.clone().detach().requires_grad_(True)
        loss = F.cross_entropy(model(x), y)
        model.zero_grad()
        loss.backward()
        return (x + eps * x.grad.sign()).detach()
    """,
    "sign attack by autograd": """
    def attack(model, x, y, eps=0.1):
        x_adv = x.detach().clone()
        x_adv.requires_grad = True
        cost = nn.CrossEntropyLoss()(model(x_adv), y)
        grad = torch.autograd.grad(cost, x_adv, retain_graph=False, create_graph=False)[0]
        return torch.clamp(x_adv + eps * grad.sign(), -3, 3).detach()
    """,
    "projected attack": """
    def attack(model, x, y, eps=0.1, steps=3):
        x_adv = x + torch.zeros_like(x).uniform_(-eps, eps)
        for _ in range(steps):
            x_adv.requires_grad_()
            with torch.enable_grad():
                loss = F.cross_entropy(model(x_adv), y)
            grad = torch.autograd.grad(loss, [x_adv])[0]
            x_adv = x_adv.detach() + 0.02 * torch.sign(grad.detach())
            x_adv = torch.min(torch.max(x_adv, x - eps), x + eps)
        return x_adv.detach()
    """,
    "attack on a delta": """
    def attack(model, x, y, eps=0.1, steps=3):
        delta = torch.zeros_like(x, requires_grad=True)
        for _ in range(steps):
            loss = F.cross_entropy(model(x + delta), y)
            loss.backward()
            delta.data = (delta + 0.02 * delta.grad.detach().sign()).clamp(-eps, eps)
            delta.grad.zero_()
        return (x + delta).detach()
    """,
    "attack with an optimizer": """
    def attack(model, x, y, steps=3):
        delta = nn.Parameter(torch.zeros_like(x))
        optimizer = torch.optim.SGD([delta], lr=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = -F.cross_entropy(model(x + delta), y) + delta.norm()
            loss.backward()
            optimizer.step()
            delta.data.clamp_(-0.1, 0.1)
        return (x + delta).detach()
    """,
    "attack class": """
    class Attack:
        def __init__(self, model, eps, steps):
            self.model, self.eps, self.steps = model, eps, steps

        def __call__(self, x, y):
            was = self.model.training
            self.model.eval()
            adv = x.clone().detach()
            for _ in range(self.steps):
                adv.requires_grad = True
                out = self.model(adv)
                cost = F.cross_entropy(out, y).to(x.device)
                grad = torch.autograd.grad(cost, adv)[0]
                adv = adv.detach() + 0.05 * grad.sign()
                adv = x + torch.clamp(adv - x, min=-self.eps, max=self.eps).detach()
            self.model.train(was)
            return adv.detach()


    def attack(model, x, y):
        return Attack(model, 0.1, 2)(x, y)
    """,
    "virtual attack": """
    def attack(model, x, y, xi=1e-2):
        with torch.no_grad():
            p = F.softmax(model(x), dim=1)
        d = F.normalize(torch.randn_like(x), dim=1)
        for _ in range(2):
            d.requires_grad_()
            q = F.log_softmax(model(x + xi * d), dim=1)
            F.kl_div(q, p, reduction="batchmean").backward()
            d = F.normalize(d.grad, dim=1)
            model.zero_grad()
        return (x + 0.1 * d).detach()
    """,
    "saliency": """
    def attack(model, x, y):
        x = x.detach().requires_grad_()
        score = model(x).gather(1, y.view(-1, 1)).squeeze()
        score.backward(torch.ones_like(score))
        saliency, _ = torch.max(x.grad.data.abs(), dim=1)
        return x.detach() * saliency[:, None]
    """,
    "integrated gradients": """
    def attack(model, x, y, steps=3):
        total = torch.zeros_like(x)
        for alpha in torch.linspace(0, 1, steps):
            point = (alpha * x).detach().requires_grad_(True)
            out = model(point)
            total += torch.autograd.grad(out[torch.arange(len(x)), y].sum(), point)[0]
        return total / steps * x
    """,
    "activations by hooks": """
    class GradCAM:
        def __init__(self, model, layer):
            self.model, self.gradients, self.activations = model, None, None
            layer.register_forward_hook(self.save_activation)
            layer.register_full_backward_hook(self.save_gradient)

        def save_activation(self, module, inputs, output):
            self.activations = output.detach()

        def save_gradient(self, module, grad_in, grad_out):
            self.gradients = grad_out[0].detach()

        def __call__(self, x, y):
            out = self.model(x)
            self.model.zero_grad()
            out[0, y[0]].backward()
            weights = self.gradients.mean(dim=0, keepdim=True)
            return F.relu((weights * self.activations).sum(1))


    def attack(model, x, y):
        cam = GradCAM(model, model.body[0])(x, y)
        return x + 0 * cam.mean()
    """,
    "optimised input": """
    def attack(model, x, y, steps=3):
        image = torch.randn_like(x).requires_grad_(True)
        optimizer = torch.optim.Adam([image], lr=0.1)
        model.eval()
        for _ in range(steps):
            optimizer.zero_grad()
            loss = -model(image)[:, 0].mean() + 1e-3 * image.norm()
            loss.backward()
            optimizer.step()
        model.train()
        return image.detach()
    """,
    "optimised latent": """
    def attack(model, x, y, steps=3):
        z = torch.zeros(len(x), 8, requires_grad=True)
        optimizer = torch.optim.LBFGS([z], max_iter=2)
        with torch.no_grad():
            goal = model.body(x)

        def closure():
            optimizer.zero_grad()
            loss = F.mse_loss(model.body(z), goal)
            loss.backward()
            return loss

        for _ in range(steps):
            optimizer.step(closure)
        return z.detach()
    """,
    "style transfer": """
    def attack(model, x, y, steps=3):
        for p in model.parameters():
            p.requires_grad_(False)
        content = model.body(x).detach()
        image = x.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([image], lr=0.01)
        for _ in range(steps):
            features = model.body(image)
            loss = F.mse_loss(features, content) + 1e-2 * (features.t() @ features).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                image.clamp_(-3, 3)
        for p in model.parameters():
            p.requires_grad_(True)
        return image.detach()
    """,
    "langevin": """
    def attack(model, x, y, steps=3):
        sample = torch.randn_like(x)
        model.eval()
        for _ in range(steps):
            sample = sample.detach().requires_grad_(True)
            energy = model(sample).logsumexp(1).sum()
            grad = torch.autograd.grad(energy, [sample], retain_graph=True)[0]
            sample.data += 0.1 * grad + 0.01 * torch.randn_like(sample)
        model.train()
        return sample.detach()
    """,
    "guided": """
    def attack(model, x, y):
        with torch.enable_grad():
            x_in = x.detach().requires_grad_(True)
            log_probs = F.log_softmax(model(x_in), dim=-1)
            selected = log_probs[range(len(log_probs)), y.view(-1)]
            return x + 0.1 * torch.autograd.grad(selected.sum(), x_in)[0]
    """,
    "influence": """
    def attack(model, x, y):
        loss = F.cross_entropy(model(x), y)
        params = [p for p in model.parameters() if p.requires_grad]
        grads = torch.autograd.grad(loss, params, create_graph=True)
        v = [torch.randn_like(p) for p in params]
        product = torch.autograd.grad(grads, params, grad_outputs=v, retain_graph=True)
        trace = sum((h * u).sum() for h, u in zip(product, v))
        return x + 0 * trace.item()
    """,
    "jacobian": """
    def attack(model, x, y):
        x = x.detach().requires_grad_()
        out = model(x)
        rows = []
        for i in range(out.shape[1]):
            rows.append(torch.autograd.grad(out[:, i].sum(), x, retain_graph=True)[0].detach())
        return x.detach() + 0 * torch.stack(rows).mean(0)
    """,
    "gradient norms": """
    def attack(model, x, y):
        norms = []
        for i in range(len(x)):
            model.zero_grad()
            F.cross_entropy(model(x[i : i + 1].repeat(2, 1)), y[i].repeat(2)).backward()
            norms.append(sum(p.grad.pow(2).sum() for p in model.parameters()).sqrt().item())
        model.zero_grad()
        return x * (1 + 0 * max(norms))
    """,
    "fisher": """
    def attack(model, x, y):
        fisher = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
        model.eval()
        for i in range(2):
            model.zero_grad()
            F.nll_loss(F.log_softmax(model(x), dim=1), y).backward()
            for n, p in model.named_parameters():
                if p.grad is not None:
                    fisher[n] += p.grad.data.pow(2) / len(x)
        model.train()
        model.zero_grad()
        return x + 0 * fisher["head.bias"].sum()
    """,
    "temperature": """
    def attack(model, x, y):
        model.eval()
        with torch.no_grad():
            logits = model(x)
        temperature = nn.Parameter(torch.ones(1) * 1.5)
        optimizer = torch.optim.LBFGS([temperature], lr=0.01, max_iter=3)

        def evaluate():
            optimizer.zero_grad()
            loss = F.cross_entropy(logits / temperature, y)
            loss.backward()
            return loss

        optimizer.step(evaluate)
        model.train()
        return x / temperature.item()
    """,
    "adapted at test time": """
    def attack(model, x, y):
        params = [p for n, p in model.named_parameters() if "body" in n]
        optimizer = torch.optim.SGD(params, lr=1e-3)
        model.train()
        for _ in range(2):
            out = model(x)
            entropy = -(out.softmax(1) * out.log_softmax(1)).sum(1).mean()
            entropy.backward()
            optimizer.step()
            optimizer.zero_grad()
        return x
    """,
    "inner loop functional": """
    def attack(model, x, y):
        names, params = zip(*model.named_parameters())
        fast = dict(zip(names, params))
        for _ in range(2):
            loss = F.cross_entropy(functional_call(model, fast, (x,)), y)
            grads = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
            fast = {n: p - 0.01 * g for (n, p), g in zip(fast.items(), grads)}
        outer = F.cross_entropy(functional_call(model, fast, (x,)), y)
        outer.backward()
        model.zero_grad()
        return x
    """,
    "inner loop first order": """
    def attack(model, x, y):
        learner = copy.deepcopy(model)
        inner = torch.optim.SGD(learner.parameters(), lr=0.01)
        for _ in range(2):
            inner.zero_grad()
            F.cross_entropy(learner(x), y).backward()
            inner.step()
        with torch.no_grad():
            for p, q in zip(model.parameters(), learner.parameters()):
                p.add_(0.1 * (q - p))
        return x
    """,
    "inner loop by hand": """
    def attack(model, x, y):
        w, b = model.head.weight, model.head.bias
        with torch.no_grad():
            features = model.body(x)
        for _ in range(2):
            loss = F.cross_entropy(F.linear(features, w, b), y)
            gw, gb = torch.autograd.grad(loss, (w, b), create_graph=True)
            w, b = w - 0.1 * gw, b - 0.1 * gb
        F.cross_entropy(F.linear(features, w, b), y).backward()
        model.zero_grad()
        return x
    """,
    "tasks": """
    def attack(model, x, y):
        losses = []
        for task in range(2):
            names = [n for n, _ in model.named_parameters()]
            weights = list(model.parameters())
            loss = F.cross_entropy(model(x), y)
            grads = torch.autograd.grad(loss, weights, create_graph=True)
            weights = [w - 0.01 * g for w, g in zip(weights, grads)]
            losses.append(F.cross_entropy(functional_call(model, dict(zip(names, weights)), (x,)), y))
        total = torch.stack(losses).mean()
        total.backward()
        model.zero_grad()
        return x
    """,
    "physics": """
    def attack(model, x, y):
        points = torch.rand(6, 8, requires_grad=True)
        u = model(points)[:, :1]
        du = torch.autograd.grad(u, points, torch.ones_like(u), create_graph=True)[0]
        ddu = torch.autograd.grad(du[:, 0].sum(), points, create_graph=True)[0][:, :1]
        residual = (ddu + u).pow(2).mean()
        residual.backward()
        model.zero_grad()
        return x
    """,
    "distance field": """
    def attack(model, x, y):
        points = torch.rand(6, 8).requires_grad_(True)
        value = model(points)[:, 0]
        normal = torch.autograd.grad(value.sum(), points, create_graph=True, retain_graph=True, only_inputs=True)[0]
        eikonal = ((normal.norm(dim=-1) - 1) ** 2).mean()
        (value.abs().mean() + 0.1 * eikonal).backward()
        model.zero_grad()
        return x
    """,
    "condensed data": """
    def attack(model, x, y):
        synthetic = torch.randn(6, 8, requires_grad=True)
        optimizer = torch.optim.SGD([synthetic], lr=0.1)
        params = list(model.parameters())
        real = torch.autograd.grad(F.cross_entropy(model(x), y), params)
        real = [g.detach().clone() for g in real]
        made = torch.autograd.grad(F.cross_entropy(model(synthetic), y), params, create_graph=True)
        loss = sum(((a - b) ** 2).sum() for a, b in zip(real, made))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return synthetic.detach()
    """,
    "gradients compared": """
    def attack(model, x, y):
        loss = F.cross_entropy(model(x), y)
        first = torch.autograd.grad(loss, model.parameters(), retain_graph=True)
        second = torch.autograd.grad(2 * loss, model.parameters())
        dots = [(a * b).sum() for a, b in zip(first, second)]
        return x * (1 + 0 * torch.stack(dots).sum().item())
    """,
    "gradients assigned": """
    def attack(model, x, y):
        params = [p for p in model.parameters()]
        grads = []
        for sign in (1.0, -0.1):
            grads.append(torch.autograd.grad(sign * F.cross_entropy(model(x), y), params))
        for p, *parts in zip(params, *grads):
            p.grad = torch.stack(parts).mean(0)
        model.zero_grad()
        return x
    """,
    "sharpness": """
    def attack(model, x, y, rho=0.05):
        F.cross_entropy(model(x), y).backward()
        scale = rho / (torch.stack([p.grad.norm() for p in model.parameters()]).norm() + 1e-12)
        moved = []
        with torch.no_grad():
            for p in model.parameters():
                e = p.grad * scale
                p.add_(e)
                moved.append(e)
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for p, e in zip(model.parameters(), moved):
                p.sub_(e)
        model.zero_grad()
        return x
    """,
    "dropout samples": """
    def attack(model, x, y):
        model.eval()
        for module in model.modules():
            if module.__class__.__name__.startswith("Dropout"):
                module.train()
        with torch.no_grad():
            samples = torch.stack([model(x).softmax(1) for _ in range(3)])
        model.train()
        return x * (1 + 0 * samples.var(0).mean())
    """,
}

_USE = {
    "trained on": {
        "use": "x_adv = attack(model, x, y)\noptimizer.zero_grad()\nloss = F.cross_entropy(model(x_adv), y)\n"
        "loss.backward()\noptimizer.step()",
        "evaluation": "model.eval()\nwith torch.no_grad():\n    out = model(x)",
    },
    "trained on both": {
        "use": "model.eval()\nx_adv = attack(model, x, y)\nmodel.train()\noptimizer.zero_grad()\n"
        "loss = 0.5 * F.cross_entropy(model(x), y) + 0.5 * F.cross_entropy(model(x_adv), y)\nloss.backward()\n"
        "optimizer.step()",
        "evaluation": "model.eval()\nwith torch.no_grad():\n    out = model(x)",
    },
    "evaluated": {
        "use": "optimizer.zero_grad()\nloss = F.cross_entropy(model(x), y)\nloss.backward()\noptimizer.step()",
        "evaluation": "model.eval()\nx_adv = attack(model, x, y)\nmodel.eval()\nwith torch.no_grad():\n"
        "    out = model(x_adv)",
    },
    "evaluated under no_grad": {
        "use": "optimizer.zero_grad()\nloss = F.cross_entropy(model(x), y)\nloss.backward()\noptimizer.step()",
        "evaluation": "model.eval()\nwith torch.no_grad():\n    with torch.enable_grad():\n"
        "        x_adv = attack(model, x, y)\n"
        "    model.eval()\n    out = model(x_adv)",
    },
}

_DERIVATIVES = Family(
    "derivatives",
    """
    import copy

    import torch
    import torch.nn as nn
    import torch.nn.functional as F
    from torch.func import functional_call


    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.1))
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            return self.head(self.body(x))


    {{what}}


    def batches():
        return [(torch.randn(6, 8), torch.randint(0, 4, (6,))) for _ in range(2)]


    {{program}}
    """,
    {
        "what": {name: {"what": text} for name, text in _WHAT.items()},
        "use": _USE,
        "layout": {
            "functions": {
                "program": """
                def train(model, loader, optimizer):
                    model.train()
                    for x, y in loader:
                        {{use}}


                def evaluate(model, loader):
                    {{before}}
                    right = 0
                    for x, y in loader:
                        {{evaluation}}
                        right += (out.argmax(1) == y).sum().item()
                    return right


                model = Net()
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
                for epoch in range(2):
                    train(model, batches(), optimizer)
                    print(evaluate(model, batches()))
                """
            },
            "one function": {
                "program": """
                def main(epochs=2):
                    model = Net()
                    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
                    for epoch in range(epochs):
                        model.train()
                        for x, y in batches():
                            {{use}}
                        {{before}}
                        right = 0
                        for x, y in batches():
                            {{evaluation}}
                            right += (out.argmax(1) == y).sum().item()
                        model.train()
                        print(right)


                main()
                """
            },
            "trainer": {
                "program": """
                class Trainer:
                    def __init__(self, model):
                        self.model = model
                        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

                    def train(self, loader):
                        model, optimizer = self.model, self.optimizer
                        self.model.train()
                        for x, y in loader:
                            {{use}}

                    def test(self, loader):
                        model, right = self.model, 0
                        {{before}}
                        for x, y in loader:
                            {{evaluation}}
                            right += (out.argmax(1) == y).sum().item()
                        return right

                    def fit(self):
                        for epoch in range(2):
                            self.train(batches())
                            print(self.test(batches()))


                Trainer(Net()).fit()
                """
            },
            "only evaluated": {
                "program": """
                def evaluate(model, loader):
                    {{before}}
                    right = 0
                    for x, y in loader:
                        {{evaluation}}
                        right += (out.argmax(1) == y).sum().item()
                    return right


                if __name__ == "__main__":
                    net = Net()
                    net.load_state_dict(net.state_dict())
                    print(evaluate(net, batches()))
                """
            },
        },
        "before": {"eval": {"before": "model.eval()"}, "nothing": {"before": ""}},
    },
    {
        "gradients on": ("GTR601", {"evaluation": "model.eval()\nout = model(x)"}),
    },
)

FAMILIES = (_DERIVATIVES,)
