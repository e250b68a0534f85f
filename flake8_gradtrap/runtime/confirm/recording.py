"""Everything that watches a program, put together."""

from __future__ import annotations

import gc

import torch

from flake8_gradtrap.events import FileEnded, RunEnded, Site
from flake8_gradtrap.runtime.confirm.backward import Backwards
from flake8_gradtrap.runtime.confirm.evidence import Measure
from flake8_gradtrap.runtime.confirm.gradients import Gradients
from flake8_gradtrap.runtime.confirm.hooks import Hooks
from flake8_gradtrap.runtime.confirm.importing import Compiler
from flake8_gradtrap.runtime.confirm.modules import Modules
from flake8_gradtrap.runtime.confirm.places import Place, Where
from flake8_gradtrap.runtime.confirm.probes import Probes
from flake8_gradtrap.runtime.confirm.tracer import EVENTS, Tracer, by_statement


class Recording:
    def __init__(
        self,
        compiler: Compiler,
        steps: int,
        codes: frozenset[str],
        findings: frozenset[tuple[str, tuple[str, int, int]]],
    ) -> None:
        self.compiler = compiler
        self.tracer = Tracer(Where(compiler.wanted), steps, codes, findings)
        self.gradients = Gradients(self.tracer)
        self.backwards = Backwards(self.tracer, self.gradients)
        self.hooks = Hooks(self.tracer, self.gradients, self.backwards)
        self.modules = Modules(self.tracer, self.gradients)
        self.probes = Probes(self.tracer, compiler.spots, self.backwards, self.modules)

    def install(self) -> None:
        self.hooks.install()
        self.modules.install()
        gc.collect()
        gc.freeze()  # what is there stays: the events that are kept make the collector look for garbage more often

    def remove(self) -> None:
        """Take the hooks out of torch."""
        self.modules.remove()
        self.hooks.remove()

    def finish(self, ended: bool = True) -> None:
        """The program is over: hooks out, and the last events. `ended`: by itself, not because it was stopped."""
        self.modules.finish()
        self.probes.keeping.settle(ended)
        self.tracer.switch_off()
        self.remove()
        end = Site(Place("", 0))
        self.tracer.events += [RunEnded(end), FileEnded(end)]

    def device(self) -> str:
        """Where the trained parameters are."""
        found = set()
        for parameter in self.gradients.parameters.values():
            tensor = parameter.reference()
            if tensor is not None:
                found.add(tensor.device)
        names = {
            f"{one} ({torch.cuda.get_device_name(one)})" if one.type == "cuda" else str(one)
            for one in sorted(found, key=str)
        }
        return ", ".join(sorted(names)) or "cpu"

    def measures(self) -> list[Measure]:
        return by_statement(self.tracer.measures)

    def visits(self) -> list[tuple[str, int, int]]:
        places = ((self.compiler.spots[number].place, count) for number, count in self.probes.visits.items())
        return [(place.file, place.row, count) for place, count in places]

    def notes(self) -> list[str]:
        full = [f"only the first {EVENTS:,} events were heard"] if self.tracer.full else []
        return [*full, *sorted(self.hooks.notes)]
