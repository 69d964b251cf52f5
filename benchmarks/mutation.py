"""Mutation testing: changes one thing in a module and expects its tests to fail.

The changes are cosmic-ray's operators (``pip install cosmic-ray``): a number plus or minus one, ``<`` for ``<=``, a
condition negated, a loop without iterations, an exception that nobody raises, a decorator removed. A change that no
test notices is a survivor: either it changes nothing that matters, or a test is missing.

cosmic-ray's own runner starts Python for each mutant, which takes longer than most tests here: importing torch and timm
takes seconds. This script imports them once and forks a process per mutant. The mutated file lies in a copy of the
repository, so commands that a test starts run it too.

    python benchmarks/mutation.py --sample 20 --json benchmarks/results/mutation.json
    python benchmarks/mutation.py --again benchmarks/results/mutation.json   # the survivors, after new tests
    python benchmarks/mutation.py --only zoo/evaluate/metrics.py             # one module, all of its mutants
    python benchmarks/mutation.py --table benchmarks/results/mutation.json   # what README.md here shows

A sample is drawn for each module by its name and --seed, so it stays the same while the module does.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import importlib.metadata
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PRELOADED = (
    "numpy",
    "PIL.Image",
    "pyarrow.parquet",
    "torch",
    "torchvision",
    "timm",
    "scipy.stats",
    "sklearn.metrics",
    "hypothesis",
    "pytest",
)

METHODS = "tests/training/methods/"
EACH_METHOD = [METHODS + name for name in ("test_published_sizes.py", "test_methods.py", "test_official_codes.py")]
VIEWS = "tests/training/data/"
ENGINE = "tests/training/engine/"
TRANSFORMS = "tests/zoo/transforms/"
CONVERT = "tests/zoo/convert/"
EVALUATE = "tests/zoo/evaluate/"
EMBEDDINGS = "tests/zoo/embeddings/"
ANY_SHAPE = EMBEDDINGS + "test_written_outputs.py::test_any_shape_survives_parquet"
TESTS = {  # the few files that test a module; more would only cost time
    "training/methods/base.py": [ENGINE + "test_validate.py", METHODS + "test_published_sizes.py"],
    "training/methods/byol.py": [*EACH_METHOD, METHODS + "test_initialise.py"],
    "training/methods/initialise.py": [METHODS + "test_initialise.py"],
    "training/methods/mocov2.py": EACH_METHOD,
    "training/methods/simclr.py": EACH_METHOD,
    "training/methods/similarity.py": EACH_METHOD,
    "training/methods/simsiam.py": EACH_METHOD,
    "training/methods/split_batch_norm.py": EACH_METHOD,
    "training/methods/supervised.py": EACH_METHOD,
    "training/methods/swav.py": EACH_METHOD,
    "training/engine/optim.py": [ENGINE + "test_optim.py", METHODS + "test_official_codes.py"],
    "training/engine/schedules.py": [ENGINE + "test_optim.py", METHODS + "test_official_codes.py"],
    "zoo/numerics/lars.py": [ENGINE + "test_optim.py", METHODS + "test_official_codes.py"],
    "training/data/augment.py": [VIEWS + "test_views_by_hand.py", VIEWS + "test_augment.py"],
    "training/data/augment_ops.py": [VIEWS + "test_augment.py", METHODS + "test_official_codes.py"],
    "zoo/convert/readers/safe_pickle.py": [CONVERT + "test_torch_checkpoint.py", CONVERT + "test_readers.py"],
    "zoo/convert/readers/tf_checkpoint.py": [CONVERT + "test_tf_checkpoint.py"],
    "zoo/convert/readers/torch_checkpoint.py": [CONVERT + "test_torch_checkpoint.py"],
    "zoo/transforms/decode.py": [TRANSFORMS + "test_decode_values.py", TRANSFORMS + "test_decode.py"],
    "zoo/transforms/preprocess.py": [
        TRANSFORMS + "test_preprocess.py",
        "tests/zoo/inference/test_named_outputs.py",
    ],
    "zoo/transforms/random_crop.py": [TRANSFORMS + "test_random_crop.py"],
    "zoo/transforms/tf_bicubic.py": [TRANSFORMS + "test_tf_bicubic.py"],
    "zoo/evaluate/metrics.py": [EVALUATE + "test_metrics.py", EVALUATE + "test_metrics_properties.py"],
    "zoo/evaluate/frozen/knn.py": [
        EVALUATE + "frozen/test_knn.py",
        EVALUATE + "test_protocols.py",
        "-k",
        "knn or makes_no_sense",
    ],
    "zoo/embeddings/columns.py": [EMBEDDINGS + "test_shards.py", ANY_SHAPE],
    "zoo/embeddings/plan.py": [EMBEDDINGS + "test_plan.py"],
    "zoo/embeddings/shards.py": [EMBEDDINGS + "test_shards.py", EMBEDDINGS + "test_shard_integrity.py"],
}

SLOW = [  # training runs and exports: seconds each, and another test says the same of these modules
    METHODS + "test_methods.py::test_simsiam_collapses_without_the_stop_gradient_and_the_run_says_so",
    TRANSFORMS + "test_tf_bicubic.py::test_an_exported_network_agrees_with_torch",
]

# One replacement for each operator of Python: all pairs would be eleven times as many mutants that the same test kills.
# `|` is left alone, as it stands in annotations.
OPERATORS = [
    *(
        f"core/ReplaceBinaryOperator_{pair}"
        for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Mul", "Pow_Mul", "BitAnd_BitXor")
    ),
    *(
        f"core/ReplaceComparisonOperator_{pair}"
        for pair in ("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Is_IsNot", "IsNot_Is")
    ),
    *(f"core/ReplaceUnaryOperator_{pair}" for pair in ("USub_UAdd", "Delete_Not")),
    "core/AddNot", "core/ReplaceTrueWithFalse", "core/ReplaceFalseWithTrue", "core/ReplaceAndWithOr",
    "core/ReplaceOrWithAnd", "core/ReplaceBreakWithContinue", "core/ReplaceContinueWithBreak", "core/NumberReplacer",
    "core/ExceptionReplacer", "core/ZeroIterationForLoop", "core/RemoveDecorator",
]  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change of one module: an operator's n-th place."""

    operator: str
    occurrence: int

    @property
    def name(self) -> str:
        return f"{self.operator.removeprefix('core/')}:{self.occurrence}"


def mutants(source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of ``OPERATORS`` and then of the text."""
    from cosmic_ray.ast import get_ast
    from cosmic_ray.commands.init import ast_nodes
    from cosmic_ray.plugins import get_operator, operator_names

    unknown = set(OPERATORS) - set(operator_names())
    if unknown:
        raise SystemExit(f"this version of cosmic-ray has no operators {sorted(unknown)}")
    nodes = list(ast_nodes(get_ast(source)))
    counts = {name: sum(len(list(get_operator(name)().mutation_positions(n))) for n in nodes) for name in OPERATORS}
    return [Mutant(name, occurrence) for name, count in counts.items() for occurrence in range(count)]


def mutated(source: str, mutant: Mutant) -> str | None:
    """The changed module, or None where the operator cannot change that place."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    try:
        text: str | None = mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)
    except AttributeError:
        return None
    # A star in a signature is no multiplication.
    if text == source or ("BinaryOperator" in mutant.operator and binary_operators(text) == binary_operators(source)):
        return None
    return text


def binary_operators(source: str | None) -> Counter[type]:
    nodes = ast.walk(ast.parse(source or ""))
    return Counter(type(node.op) for node in nodes if isinstance(node, ast.BinOp | ast.AugAssign))


def run_tests(checkout: Path, tests: list[str], timeout: float, log: Path) -> str:
    """``passed``, ``failed`` or ``timeout`` of the tests, in a forked process with torch already imported."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setsid()  # a timeout then ends the processes that the tests started too
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(checkout)
            import pytest

            options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
            options += [f"--deselect={test}" for test in SLOW]
            code = int(pytest.main([*options, *tests]))
        finally:
            os._exit(code)
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "passed" if os.waitstatus_to_exitcode(status) == 0 else "failed"
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def write_module(path: Path, source: str) -> None:
    """Replaces a module; its compiled file goes too, as it could have the same size and second."""
    path.write_text(source)
    for compiled in (path.parent / "__pycache__").glob(path.stem + ".*.pyc"):
        compiled.unlink()


def changed_lines(before: str, after: str) -> list[str]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in lines if not line.startswith(("---", "+++"))]


def score(checkout: Path, module: str, chosen: list[Mutant]) -> dict[str, Any]:
    """Runs a module's tests on mutants of it; a timeout counts as noticed."""
    path, log = checkout / module, checkout.parent / "log.txt"
    before = path.read_text()
    start = time.monotonic()
    if run_tests(checkout, TESTS[module], 600, log) != "passed":
        raise SystemExit(f"{module}: its tests fail without a change\n{log.read_text()[-3000:]}")
    seconds = time.monotonic() - start
    outcomes = {"failed": 0, "timeout": 0, "passed": 0}
    survivors = []
    for mutant in chosen:
        text = mutated(before, mutant)
        if text is None:
            continue
        write_module(path, text)
        outcome = run_tests(checkout, TESTS[module], max(30, 6 * seconds), log)
        outcomes[outcome] += 1
        if outcome == "passed":
            survivors.append({"mutant": mutant.name, "change": changed_lines(before, text)})
            print(module, mutant.name, *survivors[-1]["change"], sep="\n  ", flush=True)
    write_module(path, before)
    tested = sum(outcomes.values())
    print(module, f"{tested - outcomes['passed']} of {tested} killed; the tests take {seconds:.1f} s", flush=True)
    return {"tested": tested, "killed": tested - outcomes["passed"], "survivors": survivors}


def select(module: str, options: argparse.Namespace) -> tuple[int, list[Mutant]]:
    """How many mutants a module has, and those to test: all, a seeded sample, or an earlier run's survivors."""
    found = mutants((ROOT / module).read_text())
    if options.again:
        names = {survivor["mutant"] for survivor in earlier(options.again, module)["survivors"]}
        return len(found), [mutant for mutant in found if mutant.name in names]
    if options.sample is None:
        return len(found), found
    return len(found), random.Random(f"{options.seed} {module}").sample(found, min(options.sample, len(found)))


def table(content: dict[str, Any]) -> str:
    """The scores of a --json as CONTRIBUTING.md shows them: killed of tested mutants, by folder."""
    rows = ["| folder | killed of tested mutants | % |", "|---|---|---:|"]
    folders: dict[str, dict[str, Any]] = {}
    for module, result in content["modules"].items():
        folder, _, name = module.rpartition("/")
        folders.setdefault(folder, {})[name.removesuffix(".py")] = result
    for folder, files in [*folders.items(), ("all", content["modules"])]:
        killed, tested = (sum(result[key] for result in files.values()) for key in ("killed", "tested"))
        each = ", ".join(f"{name} {result['killed']}/{result['tested']}" for name, result in files.items())
        shown = f"`{folder}/`" if folder != "all" else "all"
        rows.append(f"| {shown} | {each if folder != 'all' else f'{killed}/{tested}'} | {100 * killed / tested:.0f} |")
    return "\n".join(rows)


def write_json(path: Path, seed: int, results: dict[str, Any]) -> None:
    """Write scores; modules that the file has and this run has not stay in it."""
    known = (json.loads(path.read_text())["modules"] if path.exists() else {}) | results
    version = importlib.metadata.version("cosmic-ray")
    modules = {module: known[module] for module in TESTS if module in known}
    path.write_text(json.dumps({"cosmic_ray": version, "seed": seed, "modules": modules}, indent=1) + "\n")


def earlier(path: Path, module: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())["modules"].get(module, {"tested": 0, "survivors": []})
    return content


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="modules whose path contains one of these")
    parser.add_argument(
        "--sample", type=int, metavar="N", help="N mutants of each module, drawn by --seed (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", type=Path, metavar="FILE", help="only the survivors of an earlier run's --json")
    parser.add_argument("--count", action="store_true", help="print how many mutants there are, and stop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write scores and survivors; other modules stay")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the scores of a --json as Markdown, and stop")
    options = parser.parse_args(arguments)
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return
    modules = [module for module in TESTS if not options.only or any(text in module for text in options.only)]
    chosen = {module: select(module, options) for module in modules}
    if options.count:
        for module, (total, some) in chosen.items():
            print(f"{len(some)} of {total}", module)
        return
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    with tempfile.TemporaryDirectory() as temporary:
        checkout = Path(temporary) / "checkout"
        for name in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(checkout), str(checkout / "tests")])
        sys.path[:] = [
            str(checkout),
            str(checkout / "tests"),
            *(p for p in sys.path if Path(p or ".").resolve() != ROOT),
        ]
        for name in PRELOADED:
            importlib.import_module(name)
        results = {}
        for module in modules:
            total, some = chosen[module]
            if not some:
                continue
            result = {"mutants": total, **score(checkout, module, some)}
            if options.again:  # the others were killed then
                result["tested"] += earlier(options.again, module)["tested"] - len(some)
                result["killed"] = result["tested"] - len(result["survivors"])
            results[module] = result
            if options.json:
                write_json(options.json, options.seed, results)


if __name__ == "__main__":
    main()
