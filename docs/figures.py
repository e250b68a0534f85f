#!/usr/bin/env python3
"""Measure the figures of the rules' pages: run `gradtrap prove` on the CPU, and keep what it measured and its plots.

    python docs/figures.py            # all rules
    python docs/figures.py GTR999     # these only: the others keep their figures, if torch is the same

writes flake8_gradtrap/figures.json and docs/rules/plots/. Then docs/generate.py puts them into the pages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "flake8_gradtrap" / "figures.json"
PLOTS = ROOT / "docs" / "rules" / "plots"
PLOTTED = ("GTR101", "GTR301", "GTR303", "GTR304", "GTR501", "GTR803")
"""Rules whose trap takes several quantities in different directions: there a picture says more than the table."""
WHERE = ("device", "device_name", "torch", "python")


def prove(*arguments: str, folder: Path) -> None:
    style = folder / "matplotlibrc"
    style.write_text("svg.fonttype: none\nsvg.hashsalt: gradtrap\n", encoding="utf-8")
    variables = os.environ | {
        "PYTHONPATH": str(ROOT), "MATPLOTLIBRC": str(style), "SOURCE_DATE_EPOCH": "0", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    command = [sys.executable, "-m", "flake8_gradtrap", "prove", "--device", "cpu", *arguments]
    subprocess.run(command, check=True, env=variables, stdout=subprocess.DEVNULL)


def text(where: dict[str, Any], proofs: dict[str, dict[str, Any]]) -> str:
    """JSON with a line for each rule, so that a change shows which rules it concerns."""
    head = "".join(f"  {json.dumps(key)}: {json.dumps(where[key])},\n" for key in WHERE)
    rows = ",\n".join(f"    {json.dumps(proofs[code])}" for code in sorted(proofs))
    return f'{{\n{head}  "proofs": [\n{rows}\n  ]\n}}\n'


def main(codes: list[str]) -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prove(*codes, "--json", str(folder / "proofs.json"), folder=folder)
        measured = json.loads((folder / "proofs.json").read_text(encoding="utf-8"))
        proofs = {}
        if codes:
            stored = json.loads(FIGURES.read_text(encoding="utf-8"))
            if any(stored[key] != measured[key] for key in WHERE):
                print("the other figures were measured elsewhere: run it without codes", file=sys.stderr)
                return 1
            proofs = {proof["code"]: proof for proof in stored["proofs"]}
        for proof in measured["proofs"]:
            if proof["verdict"] == "PASS":
                proofs[proof["code"]] = {key: proof[key] for key in ("code", "trapped", "fixed")}
        FIGURES.write_text(text(measured, proofs), encoding="utf-8")
        PLOTS.mkdir(exist_ok=True)
        for code in PLOTTED:
            if not codes or code in codes:
                prove(code, "--plot", str(PLOTS / f"{code}.svg"), folder=folder)
    print("next: python docs/generate.py")
    return 0


if __name__ == "__main__":
    sys.exit(main([code.upper() for code in sys.argv[1:]]))
