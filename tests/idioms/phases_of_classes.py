"""Training and evaluation by one class: steps, callbacks, base classes, tables of models, averages, ensembles."""

from __future__ import annotations

CLASSES = {
    "trainer with steps": """
    class Trainer:
        def __init__(self, model):
            self.model = model
            self.optimizer = torch.optim.Adam(model.parameters())
            self.history = defaultdict(list)

        def step(self, x, y):
            out = self.model(x)
            return out, F.cross_entropy(out, y)

        def train_step(self, x, y):
            self.optimizer.zero_grad()
            out, loss = self.step(x, y)
            loss.backward()
            self.optimizer.step()
            return out, loss

        @torch.no_grad()
        def val_step(self, x, y):
            return self.step(x, y)

        def run_epoch(self, loader, phase):
            self.model.train(phase == "train")
            {{start}}
            for x, y in loader:
                out, loss = getattr(self, f"{phase}_step")(x, y)
                {{record}}
            {{finish}}
            self.history[phase].append(value)

        def fit(self, loaders, epochs=2):
            for epoch in range(epochs):
                for phase, loader in loaders.items():
                    self.run_epoch(loader, phase)


    Trainer(Net()).fit({"train": batches(), "val": batches()})
    """,
    "step in a table": """
    class Trainer:
        def __init__(self, model):
            self.model = model
            self.optimizer = torch.optim.Adam(model.parameters())
            self.steps = {"train": self.train_step, "val": self.val_step}

        def train_step(self, x, y):
            out = self.model(x)
            loss = F.cross_entropy(out, y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            return out.detach(), loss.detach()

        def val_step(self, x, y):
            with torch.no_grad():
                out = self.model(x)
                return out, F.cross_entropy(out, y)

        def fit(self, loaders, epochs=2):
            for epoch in range(epochs):
                for phase in ("train", "val"):
                    (self.model.train if phase == "train" else self.model.eval)()
                    {{start}}
                    for x, y in loaders[phase]:
                        out, loss = self.steps[phase](x, y)
                        {{record}}
                    {{finish}}


    Trainer(Net()).fit({"train": batches(), "val": batches()})
    """,
    "state of the trainer": """
    class Trainer:
        def __init__(self, model, train_loader, val_loader):
            self.model, self.training = model, True
            self.loaders = {True: train_loader, False: val_loader}
            self.optimizer = torch.optim.Adam(model.parameters())

        def train(self, mode=True):
            self.training = mode
            self.model.train(mode)

        def eval(self):
            self.train(False)

        def epoch(self):
            {{start}}
            for x, y in self.loaders[self.training]:
                with torch.set_grad_enabled(self.training):
                    out = self.model(x)
                    loss = F.cross_entropy(out, y)
                if self.training:
                    self.optimizer.zero_grad()
                    loss.backward()
                    self.optimizer.step()
                {{record}}
            {{finish}}
            return value

        def fit(self):
            for epoch in range(2):
                self.train()
                self.epoch()
                self.eval()
                self.epoch()


    Trainer(Net(), batches(), batches()).fit()
    """,
    "base class": """
    class Base:
        def __init__(self, model):
            self.model = model
            self.optimizer = self.make_optimizer()

        def make_optimizer(self):
            return torch.optim.Adam(self.model.parameters())

        def loss(self, x, y):
            raise NotImplementedError

        def loop(self, loader, update):
            {{start}}
            for x, y in loader:
                out, loss = self.loss(x, y)
                if update:
                    self.optimizer.zero_grad()
                    loss.backward()
                    self.optimizer.step()
                {{record}}
            {{finish}}
            return value

        def fit(self, loader, held_out):
            for epoch in range(2):
                self.model.train()
                self.loop(loader, True)
                self.evaluate(held_out)

        @torch.inference_mode()
        def evaluate(self, loader):
            self.model.eval()
            return self.loop(loader, False)


    class Trainer(Base):
        def loss(self, x, y):
            out = self.model(x)
            return out, F.cross_entropy(out, y)


    Trainer(Net()).fit(batches(), batches())
    """,
    "callbacks": """
    class Validate:
        def __init__(self, loader):
            self.loader = loader

        @torch.no_grad()
        def on_epoch_end(self, trainer):
            model = trainer.model
            model.eval()
            {{start}}
            for x, y in self.loader:
                out = model(x)
                loss = F.cross_entropy(out, y)
                {{record}}
            {{finish}}
            model.train()
            trainer.scores.append(value)


    class Trainer:
        def __init__(self, model, callbacks):
            self.model, self.callbacks, self.scores = model, callbacks, []
            self.optimizer = torch.optim.Adam(model.parameters())

        def fit(self, loader, epochs=2):
            self.model.train()
            for epoch in range(epochs):
                {{start}}
                for x, y in loader:
                    out = self.model(x)
                    loss = F.cross_entropy(out, y)
                    self.optimizer.zero_grad()
                    loss.backward()
                    self.optimizer.step()
                    {{record}}
                {{finish}}
                for callback in self.callbacks:
                    callback.on_epoch_end(self)


    Trainer(Net(), [Validate(batches())]).fit(batches())
    """,
    "hook": """
    def fit(model, loader, optimizer, after=None, epochs=2):
        for epoch in range(epochs):
            model.train()
            {{start}}
            for x, y in loader:
                out = model(x)
                loss = F.cross_entropy(out, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                {{record}}
            {{finish}}
            if after is not None:
                after(epoch)


    def main():
        net = Net()

        @torch.no_grad()
        def score(epoch):
            net.eval()
            print(epoch, sum((net(x).argmax(1) == y).sum().item() for x, y in batches()))

        fit(net, batches(), torch.optim.Adam(net.parameters()), after=score)


    main()
    """,
    "average swapped in": """
    class Ema:
        def __init__(self, model):
            self.shadow = {k: v.detach().clone() for k, v in model.state_dict().items()}

        def update(self, model):
            with torch.no_grad():
                for k, v in model.state_dict().items():
                    if v.is_floating_point():
                        self.shadow[k].mul_(0.9).add_(v, alpha=0.1)

        @contextmanager
        def scope(self, model):
            backup = {k: v.detach().clone() for k, v in model.state_dict().items()}
            model.load_state_dict(self.shadow)
            try:
                yield
            finally:
                model.load_state_dict(backup)


    net = Net()
    ema, optimizer = Ema(net), torch.optim.Adam(net.parameters())
    for epoch in range(2):
        net.train()
        {{start}}
        for x, y in batches():
            out = net(x)
            loss = F.cross_entropy(out, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update(net)
            {{record}}
        {{finish}}
        with ema.scope(net), torch.no_grad():
            net.eval()
            print(sum((net(x).argmax(1) == y).sum().item() for x, y in batches()))
    """,
    "averaged weights": """
    def test(model, loader):
        model.eval()
        {{start}}
        with torch.no_grad():
            for x, y in loader:
                out = model(x)
                loss = F.cross_entropy(out, y)
                {{record}}
        {{finish}}
        return value


    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    average = torch.optim.swa_utils.AveragedModel(net)
    for epoch in range(3):
        net.train()
        for x, y in batches():
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
        if epoch > 1:
            average.update_parameters(net)
    torch.optim.swa_utils.update_bn([x for x, _ in batches()], average)
    test(average, batches())
    """,
    "ensemble": """
    nets = [Net() for _ in range(2)]
    optimizers = [torch.optim.Adam(net.parameters()) for net in nets]
    for epoch in range(2):
        for net, optimizer in zip(nets, optimizers):
            net.train()
            for x, y in batches():
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
        for net in nets:
            net.eval()
        {{start}}
        with torch.no_grad():
            for x, y in batches():
                out = torch.stack([net(x) for net in nets]).mean(0)
                loss = F.cross_entropy(out, y)
                {{record}}
        {{finish}}
    """,
    "models in a table": """
    class Trainer:
        def __init__(self):
            self.models = {"encoder": nn.Linear(8, 8), "net": Net()}
            params = []
            for name in self.models:
                params += list(self.models[name].parameters())
            self.optimizer = torch.optim.Adam(params)

        def set_train(self):
            for m in self.models.values():
                m.train()

        def set_eval(self):
            for m in self.models.values():
                m.eval()

        def process(self, x, y):
            out = self.models["net"](self.models["encoder"](x))
            return out, {"loss": F.cross_entropy(out, y)}

        def val(self):
            self.set_eval()
            with torch.no_grad():
                {{start}}
                for x, y in batches():
                    out, losses = self.process(x, y)
                    loss = losses["loss"]
                    {{record}}
                {{finish}}
                del losses
            self.set_train()

        def run_epoch(self):
            self.set_train()
            for step, (x, y) in enumerate(batches()):
                out, losses = self.process(x, y)
                self.optimizer.zero_grad()
                losses["loss"].backward()
                self.optimizer.step()
                if step % 2 == 0:
                    self.val()


    trainer = Trainer()
    for epoch in range(2):
        trainer.run_epoch()
    """,
    "model that trains itself": """
    class Classifier(Net):
        def fit(self, loader, held_out, epochs=2):
            optimizer = torch.optim.Adam(self.parameters())
            for epoch in range(epochs):
                self.train()
                for x, y in loader:
                    loss = F.cross_entropy(self(x), y)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                self.score(held_out)

        @torch.no_grad()
        def score(self, loader):
            self.eval()
            {{start}}
            for x, y in loader:
                out = self(x)
                loss = F.cross_entropy(out, y)
                {{record}}
            {{finish}}
            return value


    Classifier().fit(batches(), batches())
    """,
    "unwrapped": """
    def evaluate(model, loader):
        model = model.module if hasattr(model, "module") else model
        model.eval()
        {{start}}
        with torch.no_grad():
            for x, y in loader:
                out = model(x)
                loss = F.cross_entropy(out, y)
                {{record}}
        {{finish}}
        return value


    net = nn.DataParallel(Net())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for epoch in range(2):
        net.train()
        for x, y in batches():
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
        evaluate(net, batches())
    """,
    "closures": """
    def make_runner(model, optimizer):
        def forward(x, y):
            out = model(x)
            return out, F.cross_entropy(out, y)

        def train(loader):
            model.train()
            {{start}}
            for x, y in loader:
                out, loss = forward(x, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                {{record}}
            {{finish}}

        def test(loader):
            model.eval()
            with torch.no_grad():
                return [forward(x, y)[1].item() for x, y in loader]

        return train, test


    net = Net()
    train, test = make_runner(net, torch.optim.Adam(net.parameters()))
    for epoch in range(2):
        train(batches())
        test(batches())
    """,
}
