"""Check a table of sources with Ray: parquet in, parquet out, a row a file.

    python docs/examples/scale_ray.py SOURCES FINDINGS [--parallelism N]

SOURCES: parquet with the columns `path` (text) and `content` (text or bytes). FINDINGS: a folder for parquet, one row
for each of these: `path`, `findings` (as JSON, in the shape of `--output-format json`), `codes`, `seconds` (CPU),
`over_budget`. Each row is a call of a pure function, so the same program runs on a laptop and on a cluster.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import ray

from flake8_gradtrap.batch import check_data
from flake8_gradtrap.config import Settings
from flake8_gradtrap.report.json import as_dict
from flake8_gradtrap.result import Statistics

SETTINGS = Settings()


def check(row: dict[str, Any]) -> dict[str, Any]:
    """Whatever the row holds, the answer is one row: of what cannot be analysed, a finding says so."""
    content = row["content"]
    result = check_data(b"" if content is None else content, str(row["path"]), SETTINGS)
    statistics = result.statistics or Statistics()
    return {
        "path": str(row["path"]),
        "findings": json.dumps([as_dict(finding) for finding in result.findings]),
        "codes": ",".join(sorted({finding.code for finding in result.findings})),
        "seconds": statistics.seconds,
        "over_budget": statistics.functions_over_budget,
    }


def scan(sources: str, findings: str, parallelism: int | None = None) -> None:
    table = ray.data.read_parquet(sources, columns=["path", "content"])
    if parallelism is not None:
        table = table.repartition(parallelism)
    table.map(check).write_parquet(findings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources")
    parser.add_argument("findings")
    parser.add_argument("--parallelism", type=int, help="cut the table into so many parts; more than cores")
    options = parser.parse_args()
    start = time.perf_counter()
    scan(options.sources, options.findings, options.parallelism)
    print(f"{time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
