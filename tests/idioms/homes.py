"""Where a loop stands: a script, functions, classes, and what calls them elsewhere."""

from __future__ import annotations

HOMES = {
    "script": {"s": "", "t": "", "program": "{{made}}\n{{prepare}}\n{{loop}}"},
    "main": {
        "s": "",
        "t": "",
        "program": """
        def main():
            {{made}}
            {{prepare}}
            {{loop}}


        if __name__ == '__main__':
            main()
        """,
    },
    "function": {
        "s": "",
        "t": "",
        "program": """
        def train({{names}}, loader):
            {{prepare}}
            {{loop}}


        {{made}}
        train({{names}}, loader)
        """,
    },
    "epoch function": {
        "s": "",
        "t": "",
        "program": """
        def train_one_epoch({{names}}, loader, epoch{{prepared}}):
            {{m}}.train()
            {{batches}}
                {{step}}


        {{made}}
        {{prepare}}
        for epoch in range({{epochs}}):
            {{begin}}
            train_one_epoch({{names}}, loader, epoch{{prepared}})
            {{end}}
        """,
    },
    "trainer": {
        "s": "self.",
        "t": "self.",
        "program": """
        class Trainer:
            def __init__(self, loader):
                self.loader = loader
                {{made}}
                {{prepare}}

            def train(self):
                loader = self.loader
                {{loop}}


        Trainer(loader).train()
        """,
    },
    "trainer of epochs": {
        "s": "self.",
        "t": "",
        "program": """
        class Trainer:
            def __init__(self, {{names}}):
                {{store}}
                {{prepare}}

            def fit(self, loader):
                for epoch in range({{epochs}}):
                    {{begin}}
                    self.train_epoch(loader, epoch)
                    {{end}}

            def train_epoch(self, loader, epoch):
                {{m}}.train()
                {{batches}}
                    {{step}}


        {{made}}
        trainer = Trainer({{names}})
        trainer.fit(loader)
        """,
    },
    "set up later": {
        "s": "self.",
        "t": "self.",
        "program": """
        class Experiment:
            def __init__(self):
                {{empty}}

            def setup(self):
                {{made}}
                {{prepare}}

            def run(self, loader):
                self.setup()
                {{loop}}


        Experiment().run(loader)
        """,
    },
    "base class": {
        "s": "self.",
        "t": "self.",
        "program": """
        class Base:
            def __init__(self):
                {{empty}}
                self.build()

            def build(self):
                raise NotImplementedError

            def run_epoch(self, loader, epoch):
                raise NotImplementedError

            def fit(self, loader):
                for epoch in range({{epochs}}):
                    {{begin}}
                    self.run_epoch(loader, epoch)
                    {{end}}


        class Task(Base):
            def build(self):
                {{made}}
                {{prepare}}

            def run_epoch(self, loader, epoch):
                {{m}}.train()
                {{batches}}
                    {{step}}


        Task().fit(loader)
        """,
    },
    "inner function": {
        "s": "",
        "t": "",
        "program": """
        def main():
            {{made}}
            {{prepare}}

            def run(epoch):
                {{begin}}
                {{batches}}
                    {{step}}
                {{end}}

            {{m}}.train()
            for epoch in range({{epochs}}):
                run(epoch)


        main()
        """,
    },
    "handed on": {
        "s": "",
        "t": "",
        "program": """
        def setup():
            {{made}}
            return {{names}}


        def train({{names}}):
            {{prepare}}
            {{loop}}


        def main():
            {{names}} = setup()
            train({{names}})


        main()
        """,
    },
    "generator": {
        "s": "",
        "t": "",
        "program": """
        def train({{names}}, loader):
            {{prepare}}
            {{m}}.train()
            for epoch in range({{epochs}}):
                {{begin}}
                {{batches}}
                    {{step}}
                    yield loss.item()
                {{end}}


        {{made}}
        for value in train({{names}}, loader):
            print(value)
        """,
    },
    "retries": {
        "s": "",
        "t": "",
        "program": """
        {{made}}
        {{prepare}}
        {{m}}.train()
        for epoch in range({{epochs}}):
            {{begin}}
            {{batches}}
                try:
                    {{step}}
                except RuntimeError as error:
                    if 'out of memory' in str(error):
                        torch.cuda.empty_cache()
                        continue
                    raise
            {{end}}
        """,
    },
    "called elsewhere": {
        "s": "",
        "t": "",
        "program": """
        def train({{names}}, loader):
            {{prepare}}
            {{loop}}


        # elsewhere:
        {{made}}
        train({{names}}, loader)
        # here
        """,
    },
    "epochs elsewhere": {
        "s": "",
        "t": "",
        "program": """
        def train_one_epoch({{names}}, loader, epoch{{prepared}}, verbose=True):
            {{m}}.train()
            {{batches}}
                {{step}}
            return 0.0


        # elsewhere:
        {{made}}
        {{prepare}}
        for epoch in range({{epochs}}):
            {{begin}}
            train_one_epoch({{names}}, loader, epoch{{prepared}})
            {{end}}
        # here
        """,
    },
    "trainer called elsewhere": {
        "s": "self.",
        "t": "",
        "program": """
        class Trainer:
            def __init__(self, {{names}}):
                {{store}}
                {{prepare}}

            def fit(self, loader):
                for epoch in range({{epochs}}):
                    {{begin}}
                    self.train_epoch(loader, epoch)
                    {{end}}

            def train_epoch(self, loader, epoch):
                {{m}}.train()
                {{batches}}
                    {{step}}


        # elsewhere:
        {{made}}
        Trainer({{names}}).fit(loader)
        # here
        """,
    },
    "base elsewhere": {
        "s": "self.",
        "t": "self.",
        "program": """
        # elsewhere: BaseTrainer
        class BaseTrainer:
            def __init__(self, loader):
                self.loader = loader
                {{made}}
                {{prepare}}

            def fit(self):
                for epoch in range({{epochs}}):
                    {{begin}}
                    self.run_epoch(self.loader, epoch)
                    {{end}}
        # here


        class Trainer(BaseTrainer):
            def run_epoch(self, loader, epoch):
                {{m}}.train()
                {{batches}}
                    {{step}}


        Trainer(loader).fit()
        """,
    },
    "state object": {
        "s": "state.",
        "t": "state.",
        "program": """
        class State:
            pass


        def train(state, loader):
            {{loop}}


        state = State()
        {{made}}
        {{prepare}}
        train(state, loader)
        """,
    },
    "anomalies": {
        "s": "",
        "t": "",
        "program": """
        def fit({{names}}, loader, epochs={{epochs}}, verbose=True):
            {{prepare}}
            history = []
            try:
                {{loop}}
            except KeyboardInterrupt:
                print('stopped')
            finally:
                torch.save({{m}}.state_dict(), 'last.pt')
            return {{m}}


        {{made}}
        fit({{names}}, loader)
        """,
    },
}
