"""Would the tests notice a fault? Mutants of the modules that do the arithmetic, and how many of them are killed.

    python -m benchmarks.mutants [module ...] --sample 40 --seed 0

A mutant is a module in which one of cosmic-ray's operators has changed one place: a sign, a comparison, a number, a
decorator, a loop. The module's tests run against each mutant of a seeded sample; one under which they all pass has
survived, and is printed as a diff. The exit code is 1 where a module has fewer than 90 % killed.

Everything happens in a copy of the tree. Each mutant is tried in a fork of one process that has imported the libraries
already, and is left at the first test that fails; a test that never ends has noticed too.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, NoReturn

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("src", "tests", "conf", "pyproject.toml", "train.py", "predict.py")
IMPORTED = ("torch", "torchvision", "torchmetrics", "pytorch_lightning", "timm", "cv2", "hydra", "safetensors.torch")
"""Libraries, nothing of this project: a fork imports that again, with the mutant in it."""
ENOUGH = 0.9
FLOAT32 = "tests/test_precision.py::test_losses_and_scores_are_float32_under_autocast"


class Module(NamedTuple):
    """What is mutated, a pattern of files, and what pytest is given to judge a mutant by, the quickest first.

    These tests are not all that reach the module: what the stages' long ones would find besides is not counted.
    """

    files: str
    tests: tuple[str, ...]


MODULES = {
    "losses": Module("src/losses.py", ("tests/test_losses.py", FLOAT32)),
    "mixing": Module("src/mixing/*.py", ("tests/mixing",)),
    "fourier": Module("src/fourier.py", ("tests/test_fourier.py",)),
    "voting": Module("src/prediction/voting.py", ("tests/prediction/test_voting.py",)),
    "metrics": Module("src/metrics.py", ("tests/test_metrics.py", FLOAT32)),
    "sampler": Module("src/data/sampler.py", ("tests/data/test_sampler.py",)),
    "splits": Module("src/data/splits.py", ("tests/data/test_splits.py",)),
    "c2am": Module(
        "src/lightning_modules/c2am.py",
        ("tests/lightning_modules/test_c2am.py", "tests/test_precision.py::test_c2am_is_float32_behind_its_backbone"),
    ),
    "co_teacher": Module("src/lightning_modules/co_teacher.py", ("tests/lightning_modules/test_co_teacher.py",)),
    "moco": Module(
        "src/lightning_modules/moco.py",
        (FLOAT32, "tests/test_precision.py::test_heads_are_float32_under_autocast",
         "tests/lightning_modules/test_moco.py"),
    ),
}  # fmt: skip


class Mutant(NamedTuple):
    """One changed place: the file, relative to the tree, the operator that changed it, and the file's new text."""

    file: str
    operator: str
    text: str


def skeleton(text: str) -> str:
    """The code that runs: without docstrings, and without annotations, which nothing evaluates here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as of `is` beside a literal, which an operator may have made
        tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
    return ast.dump(tree)


def mutants(tree: Path, pattern: str, rng: random.Random) -> Iterator[Mutant]:
    """Every mutant of the files in an order of `rng`'s, but for those that do not compile or run the same code."""
    texts = {str(path.relative_to(tree)): path.read_text() for path in sorted(tree.glob(pattern))}
    # An operator with arguments, which replaces the variables that it is told, has none to be told here.
    operators = {name: get_operator(name)() for name in operator_names() if not get_operator(name).arguments()}
    places = []
    for file, text in texts.items():
        nodes = list(ast_nodes(get_ast(text)))
        for name, operator in operators.items():
            count = sum(len(list(operator.mutation_positions(node))) for node in nodes)
            places += [(file, name, i) for i in range(count)]
    rng.shuffle(places)
    for file, name, i in places:
        text = mutate_code(texts[file], operators[name], i)
        try:
            if text is not None and skeleton(text) != skeleton(texts[file]):
                yield Mutant(file, name.removeprefix("core/"), text)
        except SyntaxError:
            continue


def run_tests(tree: Path, tests: Sequence[str], log: Path) -> NoReturn:
    """Run tests of the tree in this process, a fork, and end it with pytest's exit code."""
    code = 70
    try:
        os.setsid()  # a group of its own, which ends together
        os.chdir(tree)
        sys.path[0] = str(tree)  # `python -m` has put the working directory there
        sys.modules["__main__"] = ModuleType("__main__")  # a test's own processes would import this script again
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={tree.parent / 'tmp'}", *tests]))
    finally:
        os._exit(code)  # past whatever waits for the children of a test that failed


def passes(tree: Path, tests: Sequence[str], log: Path, limit: float) -> bool:
    """Whether the tests pass within `limit` seconds, in a fork of this process."""
    child = os.fork()
    if not child:
        run_tests(tree, tests, log)
    done, status, deadline = 0, 1, time.monotonic() + limit
    while not done and time.monotonic() < deadline:
        time.sleep(0.01)
        done, status = os.waitpid(child, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # it, or what it has left behind
    if not done:
        os.waitpid(child, 0)
    return bool(done) and status == 0


def judge(name: str, tree: Path, sample: int, seed: int) -> bool:
    """Try a sample of a module's mutants, print what came out, and return whether enough of them are killed."""
    module, log = MODULES[name], tree.parent / "log"
    begin = time.monotonic()
    if not passes(tree, module.tests, log, 600):
        sys.exit(f"the tests of {name} fail without any mutant:\n{log.read_text()}")
    limit = 30 + 10 * (time.monotonic() - begin)
    tried, survivors = 0, []
    for mutant in mutants(tree, module.files, random.Random(seed)):
        path, tried = tree / mutant.file, tried + 1
        text = path.read_text()
        path.write_text(mutant.text)
        if passes(tree, module.tests, log, limit):
            survivors.append((mutant, text))
        path.write_text(text)
        if tried == sample:
            break
    for mutant, text in survivors:
        print(f"survived: {mutant.operator}")
        lines = text.splitlines(), mutant.text.splitlines()
        print("\n".join(difflib.unified_diff(*lines, mutant.file, mutant.file, lineterm="", n=1)))
    killed = tried - len(survivors)
    print(f"{name}: {killed}/{tried} killed in {time.monotonic() - begin:.0f} s", flush=True)
    return killed >= ENOUGH * tried


def main() -> int:
    """Judge the modules that were named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", nargs="*", help=f"of {', '.join(MODULES)}; all where none is named")
    parser.add_argument("--sample", type=int, default=40, help="mutants a module; 0 tries every one")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    args = parser.parse_args()
    if unknown := set(args.module) - set(MODULES):
        parser.error(f"no module {', '.join(sorted(unknown))}: there are {', '.join(MODULES)}")
    # Files of one size, written within a second of each other, would be taken for one another by their bytecode.
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    for library in IMPORTED:
        importlib.import_module(library)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        tree.mkdir()
        for part in COPIED:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / part, tree / part)
        enough = [judge(name, tree, args.sample, args.seed) for name in args.module or MODULES]
    return int(not all(enough))


if __name__ == "__main__":
    sys.exit(main())
