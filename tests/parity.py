"""Our losses, dense and fused, against numbers that peers' own code made.

    python tests/parity.py FILE.npz [--json]

FILE.npz holds inputs/*, expected/* and NAME/loss, NAME/grad_logp, NAME/grad_hidden, NAME/grad_weight, NAME/grad_vpred
or NAME/value of each case; FILE.json beside it the cases: name, kind (loss, value or value_loss), source, params, tol,
note. Logits are hidden @ weight.T / temperature, and row t scores ids[t]. Exit status: 0, 1 where a case failed, 2
where the files cannot be read. Why a case failed is said on stderr.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parity_case import Case, Disagreement, Inputs, Params, Term, Unknown, entropy, logprobs
from parity_others import nemo, openinstruct, openrlhf, prime, skyrl
from parity_peers import liger, trl, verl
from parity_values import critic_loss, value
from torch import Tensor

from rlvr.fused import fused_logprobs, fused_policy_loss
from rlvr.loss_settings import Loss
from rlvr.losses import policy_loss
from rlvr.surrogates import kl_estimate

FAMILIES = {
    "trl": trl,
    "liger": liger,
    "verl": verl,
    "nemo": nemo,
    "openrlhf": openrlhf,
    "skyrl": skyrl,
    "prime": prime,
    "open": openinstruct,
}
"""By how the source begins, in lower case."""
KINDS = ("loss", "value", "value_loss")
EXPECTED_TOL = 1e-10


class BadFile(Exception):
    """One line: what is wrong with it, and what would be right."""


@dataclass
class Report:
    n: int
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def public(self) -> dict[str, Any]:
        return {"n": self.n, "passed": self.passed, "failed": self.failed, "skipped": self.skipped}


def read(path: Path) -> tuple[dict[str, np.ndarray], list[Case]]:
    beside = path.with_suffix(".json") if path.name else path
    for file in (path, beside):
        if not file.is_file():
            raise BadFile(f"{file} is not there; wanted FILE.npz and, beside it, FILE.json")
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        real = [name for name, array in arrays.items() if array.dtype.kind not in "biuf"]
    except (
        *(OSError, EOFError, MemoryError, ValueError, AttributeError, TypeError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        raise BadFile(f"{path} is no NPZ of plain numbers: {error}") from None
    if real:
        raise BadFile(f"{path}: {real[0]} must hold real numbers, got {arrays[real[0]].dtype}")
    try:
        said = json.loads(beside.read_text())
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{beside} is no JSON: {error}") from None
    rows = said.get("cases") if isinstance(said, dict) else None
    if not isinstance(rows, list):
        raise BadFile(f"{beside} must be an object with a list `cases`")
    cases = [_case(row, f"{beside}, case {number}") for number, row in enumerate(rows)]
    twice = sorted({case.name for case in cases if sum(other.name == case.name for other in cases) > 1})
    if twice:
        raise BadFile(f"{beside} has two cases of the name {twice[0]!r}")
    return arrays, cases


def _case(row: Any, where: str) -> Case:
    wanted = {"name": str, "kind": str, "source": str, "params": dict, "tol": (int, float)}
    for name, kind in wanted.items():
        if not isinstance(row, dict) or not isinstance(row.get(name), kind):
            raise BadFile(f"{where} must have `{name}`, and name, kind, source (texts), params (object), tol (number)")
    if isinstance(row["tol"], bool) or not (math.isfinite(row["tol"]) and row["tol"] >= 0):
        raise BadFile(f"{where}: tol must be a finite number from 0 on, got {row['tol']}")
    return Case(**{name: row[name] for name in wanted})


def inputs_of(arrays: dict[str, np.ndarray], path: Path) -> Inputs:
    found = {name.removeprefix("inputs/"): a for name, a in arrays.items() if name.startswith("inputs/")}
    for name in ("hidden", "weight", "ids", "mask", "temperature"):
        if name not in found:
            raise BadFile(f"{path} must hold inputs/{name}")
    shape = found["mask"].shape
    if len(shape) != 2 or found["ids"].shape != shape or found["hidden"].shape[:-1] != shape:
        raise BadFile(f"{path}: mask and ids must be [B, T] and hidden [B, T, D], got mask of shape {shape}")
    given = found.pop("temperature")
    if given.shape != () or not (math.isfinite(float(given)) and float(given) > 0):
        raise BadFile(f"{path}: temperature must be a positive number, got {given}")
    for name, array in found.items():
        if not np.isfinite(array).all():
            raise BadFile(f"{path}: inputs/{name} must be finite")
    return Inputs(arrays={n: torch.from_numpy(a).double() for n, a in found.items()}, temperature=float(given))


def run(path: Path) -> Report:
    """Every case of the file."""
    arrays, cases = read(path)
    x = inputs_of(arrays, path)
    report = Report(n=len(cases))
    try:
        unexpected = check_expected(arrays, x)
    except (Unknown, ValueError, TypeError, ArithmeticError, LookupError, RuntimeError) as error:
        raise BadFile(f"{path}: its inputs do not fit each other: {' '.join(str(error).split())}") from None
    for name, problem in unexpected.items():
        report.failed.append(name)
        report.reasons[name] = problem
    for case in cases:
        try:
            problem = check(case, arrays, x)
        except Disagreement as error:
            report.skipped[case.name] = str(error)
            continue
        except (Unknown, ValueError, TypeError, ArithmeticError, LookupError, RuntimeError) as error:
            problem = " ".join(str(error).split())
        if problem is None:
            report.passed += 1
        else:
            report.failed.append(case.name)
            report.reasons[case.name] = problem
    return report


def check(case: Case, arrays: dict[str, np.ndarray], x: Inputs) -> str | None:
    """Why the case failed, or None."""
    if case.kind not in KINDS:
        raise Unknown(f"kind {case.kind!r}, one of {', '.join(KINDS)}")
    p = Params(case.params)
    x = Inputs(arrays=x.arrays, temperature=p("temperature", default=x.temperature))
    if case.kind == "value":
        ours, where = value(case, p, x, stored(arrays, f"{case.name}/value"))
        checks = [("value", ours, where)]
    elif case.kind == "value_loss":
        loss, grad_BT = critic_loss(case, p, x)
        checks = [("loss", loss, None), ("grad_vpred", grad_BT, None)]
    else:
        checks = check_loss(case, p, x)
    if p.unknown():
        raise Unknown(f"unknown params {', '.join(p.unknown())} of {case.source!r}")
    for name, ours, where in checks:
        problem = differs(ours, arrays, f"{case.name}/{name.partition(' ')[0]}", case.tol, where)
        if problem:
            return f"{name} {problem}"
    return None


def check_loss(case: Case, p: Params, x: Inputs) -> list[tuple[str, Tensor, None]]:
    family = next((make for start, make in FAMILIES.items() if case.source.lower().startswith(start)), None)
    if family is None:
        raise Unknown(f"source {case.source!r} begins with none of {', '.join(FAMILIES)}")
    terms = family(case, p, x)
    dense, logp_grad = run_dense(terms, x)
    if "LigerFusedLinearGRPOLoss" not in case.source:  # it has no gradient of the log-probabilities to give
        dense["grad_logp"] = logp_grad
    found = [(f"{name} (dense)", ours, None) for name, ours in dense.items()]
    return found + [(f"{name} (fused)", ours, None) for name, ours in run_fused(terms, x).items()]


def run_dense(terms: list[Term], x: Inputs) -> tuple[dict[str, Tensor], Tensor]:
    hidden = x["hidden"].clone().requires_grad_()
    weight = x["weight"].clone().requires_grad_()
    leaf = Inputs(arrays=x.arrays | {"hidden": hidden, "weight": weight}, temperature=x.temperature)
    logp_BT = logprobs(leaf)
    entropy_BT = entropy(leaf)
    total = torch.zeros((), dtype=torch.float64)
    for term in terms:
        mask_BT = term.batch.mask_BT
        if term.estimate is not None:
            part = kl_estimate(logp_BT[mask_BT], x["ref"][mask_BT], term.estimate).sum()
        else:
            part = policy_loss(logp_BT, term.batch, term.loss, term.kl, entropy_BT=entropy_BT).loss
        total = total + part / term.divisor
    (logp_grad,) = torch.autograd.grad(total, logp_BT, retain_graph=True)
    hidden_grad, weight_grad = torch.autograd.grad(total, (hidden, weight), materialize_grads=True)
    return {"loss": total.detach(), "grad_hidden": hidden_grad, "grad_weight": weight_grad}, logp_grad


def run_fused(terms: list[Term], x: Inputs) -> dict[str, Tensor]:
    hidden = x["hidden"].clone().requires_grad_()
    weight = x["weight"].clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for term in terms:
        mask_BT = term.batch.mask_BT
        if term.estimate is not None:
            logp_N, _ = fused_logprobs(hidden[mask_BT], weight, term.batch.ids_BT[mask_BT], x.temperature)
            part = kl_estimate(logp_N, x["ref"][mask_BT], term.estimate).sum()
        else:
            part = fused_policy_loss(
                hidden[mask_BT],
                weight,
                term.batch,
                term.loss,
                term.kl,
                temperature=x.temperature,
                expected_grad=1 / term.divisor,
            ).loss
        total = total + part / term.divisor
    hidden_grad, weight_grad = torch.autograd.grad(total, (hidden, weight), materialize_grads=True)
    return {"loss": total.detach(), "grad_hidden": hidden_grad, "grad_weight": weight_grad}


def check_expected(arrays: dict[str, np.ndarray], x: Inputs) -> dict[str, str]:
    """Of the log-probabilities and entropies that the file expects, what failed."""
    mask_BT = x.mask_BT
    logp_N, entropy_N = fused_logprobs(x["hidden"][mask_BT], x["weight"], x["ids"].long()[mask_BT], x.temperature)
    plain = {"logp": logprobs(x), "entropy": entropy(x)}
    bonus = Loss(surrogate="reinforce", aggregate="token", entropy_coef=1.0)
    terms = [Term(batch=x.only(), loss=bonus, divisor=-x.tokens)]
    dense, fused = run_dense(terms, x)[0], run_fused(terms, x)
    mean_grads = {f"entropy_mean_{name}": (dense[name], fused[name]) for name in ("grad_hidden", "grad_weight")}
    checks: list[tuple[str, Tensor, Tensor | None]] = [(name, ours, None) for name, ours in plain.items()]
    for name, ours_N in (("logp", logp_N), ("entropy", entropy_N)):
        checks.append((name, plain[name].masked_scatter(mask_BT, ours_N), mask_BT))
    checks += [(name, ours, None) for name, pair in mean_grads.items() for ours in pair]
    failed = {}
    for name, ours, where in checks:
        problem = (
            differs(ours, arrays, f"expected/{name}", EXPECTED_TOL, where) if f"expected/{name}" in arrays else None
        )
        if problem:
            failed[f"expected/{name}"] = problem
    return failed


def stored(arrays: dict[str, np.ndarray], name: str) -> Tensor:
    """float64"""
    if name not in arrays:
        raise Unknown(f"the file has no numbers {name}")
    return torch.from_numpy(np.asarray(arrays[name])).double()


def differs(
    ours: Tensor, arrays: dict[str, np.ndarray], name: str, tol: float, where: Tensor | None = None
) -> str | None:
    """What is wrong, or None. tol: of the largest number that the peer has, and of 1 where all are smaller."""
    theirs = stored(arrays, name)
    if theirs.shape != ours.shape:
        return f"has shape {tuple(ours.shape)}, the peer's {tuple(theirs.shape)}"
    if where is not None:
        ours, theirs = ours[where], theirs[where]
    if not bool(theirs.isfinite().all()):
        return "is to be compared with a number that is not finite"
    worst = float((ours - theirs).abs().max()) if ours.numel() else 0.0
    bound = tol * max(1.0, float(theirs.abs().max()) if theirs.numel() else 0.0)
    return None if worst <= bound else f"differs by {worst:.3g}, more than {bound:.3g}"  # NaN too


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Our losses against numbers that peers' own code made.")
    parser.add_argument("file", type=Path, metavar="FILE.npz", help="the cases stand beside it, in FILE.json")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    args = parser.parse_args(argv)
    try:
        report = run(args.file)
    except BadFile as error:
        print(f"parity: {error}", file=sys.stderr)
        return 2
    for name, why in report.reasons.items():
        print(f"FAILED {name}: {why}", file=sys.stderr)
    if args.json:
        print(json.dumps(report.public()))
    else:
        print(f"{report.n} cases: {report.passed} passed, {len(report.failed)} failed, {len(report.skipped)} skipped")
        for name, why in report.skipped.items():
            print(f"skipped {name}: {why}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
