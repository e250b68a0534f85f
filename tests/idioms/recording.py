"""How the loss of each batch is written down: read out, detached, averaged, logged, handed to a caller."""

from __future__ import annotations

from idioms.grammar import Family

_NOTHING = {"helpers": "", "start": "", "record": "", "finish": ""}


def _way(record: str, start: str = "", finish: str = "", helpers: str = "") -> dict[str, str]:
    return {"helpers": helpers, "start": start, "record": record, "finish": finish}


_METER = """
class AverageMeter:
    def __init__(self):
        self.reset()

    def reset(self):
        self.val = self.avg = self.sum = self.count = 0

    def update(self, val, n=1):
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = self.sum / self.count
"""

_SMOOTHED = """
class SmoothedValue:
    def __init__(self, window=20):
        self.values = deque(maxlen=window)
        self.total, self.count = 0.0, 0

    def update(self, value, n=1):
        self.values.append(value)
        self.total += value * n
        self.count += n

    @property
    def median(self):
        return torch.tensor(list(self.values)).median().item()


class MetricLogger:
    def __init__(self):
        self.meters = defaultdict(SmoothedValue)

    def update(self, **kwargs):
        for name, value in kwargs.items():
            if isinstance(value, torch.Tensor):
                value = value.item()
            assert isinstance(value, (float, int))
            self.meters[name].update(value)
"""

_REDUCE = """
def reduce_dict(values, average=True):
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if world < 2:
        return values
    with torch.no_grad():
        names = sorted(values)
        stacked = torch.stack([values[name] for name in names], dim=0)
        dist.reduce(stacked, dst=0)
        if dist.get_rank() == 0 and average:
            stacked /= world
        return dict(zip(names, stacked))
"""

_ALL_REDUCE = """
def reduce_tensor(tensor, world):
    rt = tensor.clone()
    if world > 1:
        dist.all_reduce(rt, op=dist.ReduceOp.SUM)
    return rt / world
"""

_WRITER = """
class Writer:
    def __init__(self):
        self.rows = []

    def add_scalar(self, tag, value, step):
        self.rows.append((tag, float(value), step))


writer = Writer()
"""

_BOARD = """
class Board:
    def __init__(self, path):
        self.path, self.lines = path, []

    def log(self, values, step):
        self.lines.append({"step": step, **{k: v.item() if torch.is_tensor(v) else v for k, v in values.items()}})


board = Board("runs")
"""

_RECORD = {
    "item": _way("total += loss.item()", "total = 0.0", "print(total / len(loader))"),
    "float": _way("total += float(loss)", "total = 0.0"),
    "detach": _way("total += loss.detach()", "total = 0.0", "print((total / len(loader)).item())"),
    "data": _way("total += loss.data", "total = 0", "print(total / len(loader))"),
    "data item": _way("total = total + loss.data.item() * x.size(0)", "total = 0", "print(total)"),
    "clone detach": _way("total = total + loss.clone().detach()", "total = torch.zeros(())", "print(float(total))"),
    "numpy": _way("losses.append(loss.detach().cpu().numpy())", "losses = []", "print(np.mean(losses))"),
    "data numpy": _way("losses.append(loss.cpu().data.numpy())", "losses = []", "print(np.mean(losses))"),
    "tolist": _way("losses += [loss.tolist()]", "losses = []", "print(sum(losses) / len(losses))"),
    "detached list": _way("losses.append(loss.detach())", "losses = []", "print(torch.stack(losses).mean().item())"),
    "meter": _way("meter.update(loss.item(), x.size(0))", "meter = AverageMeter()", "print(meter.avg)", _METER),
    "meter detach": _way(
        "meters['loss'].update(loss.detach(), len(x))",
        "meters = {'loss': AverageMeter(), 'acc': AverageMeter()}",
        "print({name: float(meter.avg) for name, meter in meters.items()})",
        _METER,
    ),
    "metric logger": _way(
        "log.update(loss=loss, lr={{opt}}.param_groups[0]['lr'])",
        "log = MetricLogger()",
        "print(log.meters['loss'].median)",
        _SMOOTHED,
    ),
    "metric logger items": _way(
        "log.update(loss=loss.item(), **{k: v.item() for k, v in parts.items()})\nparts = {}",
        "log = MetricLogger()\nparts = {}",
        "",
        _SMOOTHED,
    ),
    "deque": _way("recent.append(loss.item())", "recent = deque(maxlen=50)", "print(sum(recent) / len(recent))"),
    "dict of lists": _way(
        "history['loss'].append(loss.item())\nhistory['lr'].append({{opt}}.param_groups[0]['lr'])",
        "history = {'loss': [], 'lr': []}",
        "print({name: sum(values) / len(values) for name, values in history.items()})",
    ),
    "defaultdict": _way("stats['loss'] += float(loss.detach())", "stats = defaultdict(float)", "print(dict(stats))"),
    "defaultdict of lists": _way(
        "for name, value in {'loss': loss, 'twice': 2 * loss}.items():\n    logs[name].append(value.item())",
        "logs = defaultdict(list)",
        "print({name: np.mean(values) for name, values in logs.items()})",
    ),
    "counter": _way("counts.update(loss=loss.item(), n=len(x))", "counts = Counter()", "print(counts['loss'])"),
    "under no_grad": _way(
        "with torch.no_grad():\n    running += loss * len(x)", "running = torch.zeros(())", "print(running.item())"
    ),
    "in place under no_grad": _way(
        "with torch.no_grad():\n    running.mul_(0.9).add_(loss, alpha=0.1)", "running = torch.zeros(())", ""
    ),
    "average by weight": _way(
        "running = loss.item() if running is None else 0.99 * running + 0.01 * loss.item()", "running = None"
    ),
    "reduced dict": _way(
        """
        reduced = reduce_dict({"loss": loss, "half": loss / 2})
        value = sum(part for part in reduced.values()).item()
        if not math.isfinite(value):
            sys.exit(1)
        total += value
        """,
        "total = 0.0",
        "",
        _REDUCE,
    ),
    "reduced": _way(
        "total += reduce_tensor(loss.data, world).item()", "total, world = 0.0, 1", "print(total)", _ALL_REDUCE
    ),
    "reduced item": _way(
        "value = reduce_tensor(loss, world)\nif step % 10 == 0:\n    print(f'{value.item():.4f}')",
        "world = 1",
        "",
        _ALL_REDUCE,
    ),
    "writer": _way("writer.add_scalar('train/loss', loss, step)", "", "", _WRITER),
    "writer item": _way("writer.add_scalar('train/loss', loss.item(), epoch * len(loader) + step)", "", "", _WRITER),
    "board": _way("board.log({'loss': loss, 'epoch': epoch}, step)", "", "", _BOARD),
    "board detach": _way(
        "board.log({k: v.detach() for k, v in {'loss': loss}.items()}, step=step)", "", "print(board.lines)", _BOARD
    ),
    "printed": _way("if step % 2 == 0:\n    print('epoch {} loss {:.3f}'.format(epoch, loss))"),
    "deleted": _way("total += loss.item()\ndel loss", "total = 0.0", "print(f'{total:.2f}')"),
    "buffer": _way("buffer[step] = loss.item()", "buffer = np.zeros(len(loader))", "print(buffer.mean())"),
    "tensor buffer": _way(
        "buffer[step] = loss.detach()", "buffer = torch.zeros(len(loader))", "print(buffer.mean().item())"
    ),
    "rows": _way(
        "rows.append({'epoch': epoch, 'step': step, 'loss': float(loss)})", "rows = []", "print([r for r in rows])"
    ),
    "namedtuple": _way(
        "results.append(Result(loss.item(), len(x)))",
        "results = []",
        "print(sum(r.loss * r.count for r in results) / sum(r.count for r in results))",
        "Result = namedtuple('Result', 'loss count')",
    ),
    "dataclass": _way(
        "stats.loss += loss.item()\nstats.steps += 1",
        "stats = Stats()",
        "print(stats.loss / stats.steps)",
        "@dataclass\nclass Stats:\n    loss: float = 0.0\n    steps: int = 0",
    ),
    "closure": _way(
        "note(loss)",
        "seen = []\n\ndef note(value):\n    seen.append(value.item())\n",
        "print(max(seen))",
    ),
    "global": _way("LOSSES.append(loss.item())", "global SMOOTH\nSMOOTH = 0.0", "print(len(LOSSES))", "LOSSES = []"),
    "best": _way("lowest = min(lowest, loss.item())", "lowest = float('inf')", "print(lowest)"),
    "stacked pair": _way(
        "pair = torch.stack([loss.detach(), loss.detach() / 2])\nsums = sums + pair",
        "sums = torch.zeros(2)",
        "first, second = (sums / len(loader)).tolist()",
    ),
    "concatenated": _way(
        "losses = np.append(losses, loss.item())", "losses = np.array([])", "print(losses.mean(), losses.std())"
    ),
    "unpacked list": _way("losses = [*losses, loss.item()]", "losses = []", "print(losses[-1])"),
    "every few steps": _way(
        "window += loss.item()\nif (step + 1) % 2 == 0:\n    print(window / 2)\n    window = 0.0", "window = 0.0"
    ),
    "emptied": _way(
        "window.append(loss.detach())\nif len(window) == 2:\n    print(sum(window) / len(window))\n    window.clear()",
        "window = []",
    ),
    "to numpy": _way(
        "losses.append(to_numpy(loss))",
        "losses = []",
        "print(np.stack(losses).mean())",
        "def to_numpy(t):\n    return t.detach().cpu().numpy() if t.requires_grad else t.cpu().numpy()",
    ),
    "all detached": _way(
        "logs.append(detach({'loss': loss, 'out': out}))",
        "logs = []",
        "print(len(logs))",
        "def detach(values):\n    return {k: v.detach().cpu() if torch.is_tensor(v) else v for k, v in values.items()}",
    ),
    "in a try": _way(
        "try:\n    total += loss.item()\nexcept RuntimeError:\n    print('no value')", "total = 0.0", "print(total)"
    ),
    "if rank": _way("if rank == 0:\n    total += loss.detach().item()", "rank, total = 0, 0.0"),
    "overwritten": _way("last = loss", "last = None", "print(last.item())"),
}

_ACCURACY = {
    "none": {"score": ""},
    "argmax": {"score": "correct = (out.argmax(dim=1) == y).sum().item()"},
    "max": {"score": "_, predicted = torch.max(out.data, 1)\ncorrect = predicted.eq(y).sum().item() / len(y)"},
    "max detach": {"score": "correct = out.detach().max(1)[1].eq(y).float().mean()"},
    "topk": {
        "score": "_, pred = out.topk(2, 1, True, True)\nhits = pred.t().eq(y.view(1, -1))\n"
        "correct = hits[:1].sum().item()"
    },
    "softmax": {"score": "correct = (F.softmax(out, dim=1).argmax(1) == y).float().mean().item()"},
    "collected": {"score": "preds = out.argmax(1).cpu().tolist()\ncorrect = sum(p == t for p, t in zip(preds, y))"},
    "no_grad": {"score": "with torch.no_grad():\n    correct = accuracy(out, y)"},
    "helper": {"score": "correct = accuracy(out, y)"},
}

_PLACES = {
    "function": {
        "opt": "optimizer",
        "program": """
        def train(model, loader, optimizer, criterion, epoch):
            model.train()
            {{start}}
            for step, (x, y) in enumerate(loader):
                optimizer.zero_grad()
                out = model(x)
                loss = criterion(out, y)
                {{backward}}
                optimizer.step()
                {{score}}
                {{record}}
            {{finish}}


        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for epoch in range(2):
            train(model, batches(), optimizer, nn.CrossEntropyLoss(), epoch)
        """,
    },
    "script": {
        "opt": "optimizer",
        "program": """
        loader = batches()
        model = Net()
        criterion = nn.CrossEntropyLoss()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)


        def run(epoch):
            {{start}}
            for step, (x, y) in enumerate(loader):
                out = model(x)
                loss = criterion(out, y)
                optimizer.zero_grad()
                {{backward}}
                optimizer.step()
                {{score}}
                {{record}}
            {{finish}}


        for epoch in range(2):
            run(epoch)
        """,
    },
    "one function": {
        "opt": "optimizer",
        "program": """
        def main(epochs=2):
            loader = batches()
            model = Net()
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
            {{start}}
            for epoch in range(epochs):
                for step, (x, y) in enumerate(loader):
                    optimizer.zero_grad()
                    out = model(x)
                    loss = F.cross_entropy(out, y)
                    {{backward}}
                    optimizer.step()
                    {{score}}
                    {{record}}
            {{finish}}


        if __name__ == "__main__":
            main()
        """,
    },
    "trainer": {
        "opt": "self.optimizer",
        "program": """
        class Trainer:
            def __init__(self, model, loader):
                self.model, self.loader = model, loader
                self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
                self.criterion = nn.CrossEntropyLoss()

            def train_epoch(self, epoch):
                self.model.train()
                loader = self.loader
                {{start}}
                for step, (x, y) in enumerate(loader):
                    self.optimizer.zero_grad()
                    out = self.model(x)
                    loss = self.criterion(out, y)
                    {{backward}}
                    self.optimizer.step()
                    {{score}}
                    {{record}}
                {{finish}}

            def fit(self, epochs):
                for epoch in range(epochs):
                    self.train_epoch(epoch)


        Trainer(Net(), batches()).fit(2)
        """,
    },
    "step returns": {
        "opt": "optimizer",
        "program": """
        def train_step(model, optimizer, x, y):
            optimizer.zero_grad()
            out = model(x)
            loss = F.cross_entropy(out, y)
            {{backward}}
            optimizer.step()
            return out, loss


        def train(model, loader, optimizer, epoch):
            {{start}}
            for step, (x, y) in enumerate(loader):
                out, loss = train_step(model, optimizer, x, y)
                {{score}}
                {{record}}
            {{finish}}


        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for epoch in range(2):
            train(model, batches(), optimizer, epoch)
        """,
    },
    "mixed precision": {
        "opt": "optimizer",
        "program": """
        def train(model, loader, optimizer, scaler, epoch):
            model.train()
            {{start}}
            for step, (x, y) in enumerate(loader):
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=True):
                    out = model(x)
                    loss = F.cross_entropy(out.float(), y)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                {{score}}
                {{record}}
            {{finish}}


        model = Net()
        optimizer = torch.optim.AdamW(model.parameters())
        scaler = torch.amp.GradScaler("cpu")
        for epoch in range(2):
            train(model, batches(), optimizer, scaler, epoch)
        """,
    },
    "iterator": {
        "opt": "optimizer",
        "program": """
        def train(model, optimizer, steps):
            loader = batches()
            stream, epoch = iter(loader), 0
            {{start}}
            for step in range(steps):
                try:
                    x, y = next(stream)
                except StopIteration:
                    stream, epoch = iter(loader), epoch + 1
                    x, y = next(stream)
                out = model(x)
                loss = F.cross_entropy(out, y)
                optimizer.zero_grad()
                {{backward}}
                optimizer.step()
                {{score}}
                {{record}}
            {{finish}}


        model = Net()
        train(model, torch.optim.Adam(model.parameters()), 3)
        """,
    },
}

_RECORDING = Family(
    "recording",
    """
    import math
    import sys
    from collections import Counter, defaultdict, deque, namedtuple
    from dataclasses import dataclass

    import numpy as np
    import torch
    import torch.distributed as dist
    import torch.nn as nn
    import torch.nn.functional as F

    {{helpers}}


    class Net(nn.Module):
        def __init__(self, width=8, classes=4):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Dropout(0.1))
            self.head = nn.Linear(16, classes)

        def forward(self, x):
            return self.head(self.body(x))


    def accuracy(out, target):
        return (out.argmax(1) == target).float().mean().item()


    def batches():
        return [(torch.randn(6, 8), torch.randint(0, 4, (6,))) for _ in range(3)]


    {{program}}
    """,
    {
        "record": _RECORD,
        "score": _ACCURACY,
        "place": _PLACES,
        "backward": {
            "plain": {"backward": "loss.backward()"},
            "clipped": {
                "backward": "loss.backward()\nnn.utils.clip_grad_norm_({{opt}}.param_groups[0]['params'], 1.0)",
            },
            "finite": {"backward": "assert not torch.isnan(loss).any()\nloss.backward()"},
            "kept value": {
                "backward": "value = loss.item()\nif value > 1e6:\n    raise ValueError(value)\nloss.backward()"
            },
            "with penalty": {"backward": "loss = loss + 1e-4 * out.pow(2).mean()\nloss.backward()"},
        },
    },
    {
        "summed": (
            "GTR401",
            {"record": "total += loss", "start": "total = 0", "finish": "print(total)", "helpers": ""},
        ),
        "stored": ("GTR402", {"record": "kept.append(loss)", "start": "kept = []", "finish": "", "helpers": ""}),
        "meter keeps it": (
            "GTR401",
            {"record": "m.update(loss)", "start": "m = AverageMeter()", "finish": "print(m.avg)", "helpers": _METER},
        ),
    },
)

FAMILIES = (_RECORDING,)
