"""The process that runs the user's program: probes and hooks in, the program, evidence out."""

from __future__ import annotations

import builtins
import json
import os
import platform
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from flake8_gradtrap.runtime.confirm.evidence import Evidence
from flake8_gradtrap.runtime.confirm.rewriting import NAME, Wanted


def main(configuration: str) -> None:
    """Run what a configuration (JSON) asks for, and write the evidence where it says."""
    asked = json.loads(Path(configuration).read_text(encoding="utf-8"))
    import torch

    from flake8_gradtrap.rule import all_rules
    from flake8_gradtrap.runtime.confirm import replay
    from flake8_gradtrap.runtime.confirm.importing import Compiler, run_program
    from flake8_gradtrap.runtime.confirm.recording import Recording
    from flake8_gradtrap.runtime.confirm.tracer import RunIsOver

    rules = [rule for code, rule in all_rules().items() if code in asked["rules"]]
    if asked["root"] in sys.path:
        sys.path.remove(asked["root"])  # what gradtrap needs is imported: the program's own path is its business
    wanted = {file: Wanted(_by_row(rows["reported"]), _by_row(rows["traced"])) for file, rows in asked["files"].items()}
    compiler = Compiler(wanted)
    findings = frozenset((code, (file, first, last)) for code, file, first, last in asked["findings"])
    recording = Recording(compiler, asked["steps"], frozenset(asked["rules"]), findings)
    setattr(builtins, NAME, recording.probes)
    recording.install()
    os.register_at_fork(after_in_child=recording.tracer.switch_off)

    def stop(number: int, frame: FrameType | None) -> None:
        recording.tracer.end("timeout")

    signal.signal(signal.SIGTERM, stop)
    evidence = Evidence(asked["rank"], torch=torch.__version__, python=platform.python_version())
    Path(asked["started"]).touch()
    started = time.perf_counter()
    status = 0
    try:
        run_program(compiler, asked["file"], asked["module"], asked["arguments"], asked["folder"])
    except RunIsOver:
        pass
    except SystemExit as ended:
        if ended.code not in (None, 0):
            evidence.failed, evidence.stopped = True, f"the program ended with exit code {ended.code}"
            status = 1
    except KeyboardInterrupt:
        evidence.failed, evidence.stopped = True, "interrupted"
    except BaseException as error:
        evidence.failed, evidence.stopped = (
            True,
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        )
        status = 1
        _show(error, wanted)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    evidence.seconds = time.perf_counter() - started
    evidence.stopped = recording.tracer.over or evidence.stopped
    evidence.failed = evidence.failed and not recording.tracer.over
    recording.finish(not evidence.stopped)
    evidence.device = recording.device()
    evidence.steps = recording.tracer.steps
    evidence.recorded = min(recording.tracer.pace.recorded, evidence.steps)
    evidence.events = len(recording.tracer.events)
    evidence.fired, broken = replay.replay(recording.tracer.events, rules)
    evidence.notes = [*compiler.notes, *broken, *recording.notes()]
    evidence.measures = recording.measures()
    evidence.visits = recording.visits()
    target = Path(asked["evidence"])
    part = target.with_suffix(".part")
    part.write_text(json.dumps(evidence.as_json(), default=str), encoding="utf-8")
    part.replace(target)
    sys.stdout.flush()
    sys.stderr.flush()
    _leave(status)


def _leave(status: int) -> None:
    """End at once: what the program has left running (threads, process groups) is not waited for."""
    try:
        import torch.distributed as distributed

        if distributed.is_available() and distributed.is_initialized():
            os._exit(status)
    except ImportError:
        pass
    sys.exit(status)


def _by_row(rows: dict[str, list[str]]) -> dict[int, frozenset[str]]:
    return {int(row): frozenset(codes) for row, codes in rows.items()}


def _show(error: BaseException, wanted: dict[str, Any]) -> None:
    """The program's own traceback, from its first frame on."""
    place = error.__traceback__
    while place is not None and place.tb_frame.f_code.co_filename not in wanted:
        place = place.tb_next
    traceback.print_exception(type(error), error, place or error.__traceback__)
