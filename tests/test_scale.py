"""Past one machine: the example of docs/scale.md on an engine in local mode (`-m slow`; needs the extra `scale`)."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from conftest import ROOT
from fuzzing import HEAD, LOOP

TRAP = HEAD + LOOP.format("", "", "")


@pytest.mark.slow
def test_one_bad_file_costs_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    rows: list[tuple[str, bytes | None]] = [(f"repo/m{number}.py", b"x = 1\n") for number in range(50)]
    rows[7] = ("repo/train.py", TRAP.encode())
    bad = {11: b"x = (\n", 12: b"\xff\xfe", 13: b"import torch\n" + b"-" * 100_000 + b"1\n", 14: None}
    for number, content in bad.items():
        rows[number] = (f"repo/bad{number}.py", content)
    (tmp_path / "in").mkdir()
    table = pa.table({"path": [path for path, _ in rows], "content": pa.array([one for _, one in rows], pa.binary())})
    pq.write_table(table, tmp_path / "in" / "part.parquet")
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")
    example = importlib.import_module("scale_ray")
    environment = {"env_vars": {"PYTHONPATH": f"{ROOT}:{ROOT / 'docs' / 'examples'}"}}
    ray.init(num_cpus=2, include_dashboard=False, runtime_env=environment, log_to_driver=False)
    try:
        example.scan(str(tmp_path / "in"), str(tmp_path / "out"), 4)
    finally:
        ray.shutdown()
    found = {row["path"]: row for row in pq.read_table(tmp_path / "out").to_pylist()}
    assert sorted(found) == sorted(path for path, _ in rows)
    codes = {path: row["codes"] for path, row in found.items() if row["codes"]}
    assert codes.pop("repo/train.py").startswith("GTR301")
    assert codes == {f"repo/bad{number}.py": "GTR000" for number in (11, 12, 13)}
    assert {finding["code"] for finding in json.loads(found["repo/train.py"]["findings"])} >= {"GTR301"}
