"""The house holds: imports point down, files stay readable, floors keep what they must not know."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ["kernels", "blip_model", "engine", "launch"]
MODULES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))
EVERY_FILE = MODULES + sorted(
    path for top in ("bench", "tests") for path in (ROOT / top).rglob("*.py")
)
LONGEST = 300


def imported(path: Path) -> set[str]:
    """Top-level names of the packages a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(str(node.module).partition(".")[0])
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    floor = FLOORS.index(path.relative_to(ROOT).parts[0])
    forbidden = {*FLOORS[floor + 1 :], "bench", "tests"}
    assert not imported(path) & forbidden


@pytest.mark.parametrize("path", EVERY_FILE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_every_module_says_what_it_is() -> None:
    silent = [
        path
        for path in MODULES
        if (text := path.read_text(encoding="utf-8")).strip()
        and ast.get_docstring(ast.parse(text)) is None
    ]
    assert not silent


def test_public_functions_are_typed_and_documented() -> None:
    wanting = []
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            typed = isinstance(node, ast.ClassDef) or node.returns is not None
            decorated = isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel")
            if not decorated and not (typed and ast.get_docstring(node)):
                wanting.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not wanting


@pytest.mark.parametrize(
    ("floor", "stranger"),
    [
        ("kernels", "transformers"),
        ("kernels", "deepspeed"),
        ("blip_model", "deepspeed"),
        ("blip_model", "transformers"),
        ("blip_model", "tokenizers"),
        ("engine", "argparse"),
        ("engine", "jsonargparse"),
    ],
)
def test_a_floor_does_not_know(floor: str, stranger: str) -> None:
    knows = [path for path in (ROOT / floor).rglob("*.py") if stranger in imported(path)]
    assert not knows


def test_no_room_without_a_subject() -> None:
    names = {path.stem for path in EVERY_FILE} | {path.parent.name for path in EVERY_FILE}
    assert not names & {"utils", "util", "helpers", "misc", "common", "registry"}


def test_state_is_never_loaded_loosely_or_from_pickles() -> None:
    loose = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path in MODULES
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and "load" in ast.unparse(call.func)
        for keyword in call.keywords
        if keyword.arg in ("strict", "weights_only") and ast.unparse(keyword.value) == "False"
    ]
    assert not loose
