"""The rules of the house, read from the syntax trees: imports point one way, CuPy in one file."""

import ast
import functools
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "minqwen"
FILES = sorted(p for p in PACKAGE.rglob("*.py"))
FOUNDATION = {"backend", "shapes", "params", "extras", "messages", "__init__"}
ALLOWED = {  # package -> what it may import of minqwen, beside the foundation and itself
    "data": set(),
    "tokenizer": set(),
    "agent": {"data", "tokenizer"},
    "layers": set(),
    "long_context": {"layers"},
    "model": {"layers", "long_context"},
    "training": {"layers", "long_context", "model", "data"},
    "alignment": {"layers", "long_context", "model", "training", "data", "tokenizer"},
    "check": {"layers", "long_context", "model", "training", "data", "tokenizer", "alignment"},
    "course": None,  # these, and the tour, may see everything
    "lab": None,
    "commands": None,
}
TOP_LEVEL = {"cli", "tour", "tour_page", "__main__"}


@functools.cache
def import_nodes(path):
    """Return the imports of a file, those inside functions too."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]


def imports(path):
    """Return the first part, within minqwen, of everything a file of ours imports from minqwen."""
    found = set()
    inside = path.relative_to(PACKAGE).parts
    for node in import_nodes(path):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = inside[: len(inside) - node.level]
            parts = [*base, *(node.module or "").split(".")]
            parts = [p for p in parts if p] or [alias.name for alias in node.names]
            found.add(parts[0])
        else:
            names = (
                [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            )
            found |= {
                n.split(".")[1] if "." in n else "" for n in names if n.split(".")[0] == "minqwen"
            }
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_one_way(path):
    parts = path.relative_to(PACKAGE).parts
    if parts[0].removesuffix(".py") in TOP_LEVEL or ALLOWED.get(parts[0], ()) is None:
        return
    allowed = set(FOUNDATION) if len(parts) == 1 else FOUNDATION | {parts[0]} | ALLOWED[parts[0]]
    assert imports(path) <= allowed


def test_nothing_imports_the_check_but_commands_and_tour():
    users = {p.relative_to(PACKAGE).parts[0] for p in FILES if "check" in imports(p)}
    assert users <= {"check", "course", "commands", "tour.py"}


def test_cupy_stands_in_one_file_only():
    named = {p.name for p in FILES for node in import_nodes(p) if "cupy" in ast.unparse(node)}
    assert named == {"backend.py"}


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "__init__.py"], ids=str)
def test_packages_re_export_nothing(path):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    assert isinstance(body[0], ast.Expr)  # the docstring
    assert all(isinstance(n, ast.Assign) and n.targets[0].id == "__version__" for n in body[1:])


FASTER = ("cross_entropy_in_place", "rmsnorm_fast")  # forms of a layer that stand beside it
LAYERS = sorted((PACKAGE / "layers").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", FASTER)
def test_a_faster_form_names_the_plain_file_and_what_holds_them_equal(name):
    text = (PACKAGE / "layers" / f"{name}.py").read_text(encoding="utf-8")
    plain = name.removesuffix("_in_place").removesuffix("_fast")
    assert f"{plain}.py" in text
    assert f"tests/layers/test_{name}.py" in text
    assert f"from .{plain} import" in text
    assert (PACKAGE.parent / f"tests/layers/test_{name}.py").is_file()


@pytest.mark.parametrize(
    "path",
    [p for p in LAYERS if p.stem not in ("attention_tiles", *FASTER)],
    ids=lambda p: p.stem,
)
def test_a_layer_reads_like_the_others(path):
    """Docstring, imports, cache type, forward, backward; the pair side by side, in this order."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for part in ("The gradient", "Paper:", "Origin:", "Differs:"):
        assert part in ast.get_docstring(tree), f"{path.stem}: {part}"
    names = [n.name for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef))]
    forward = names.index(f"{path.stem}_forward")
    assert names[forward + 1] == f"{path.stem}_backward"
    assert any(name.endswith("Cache") for name in names[:forward])
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 200


def test_public_functions_have_a_docstring():
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                cache = isinstance(node, ast.ClassDef) and node.bases
                overload = any("overload" in ast.unparse(d) for d in node.decorator_list)
                assert ast.get_docstring(node) or cache or overload, f"{path}: {node.name}"


def test_importing_needs_numpy_and_regex_only():
    """No optional package may be imported before it is used."""
    modules = [
        ".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts)
        for p in FILES
        if p.name not in ("__main__.py", "__init__.py", "kernel_shell.py")  # in the kernel only
    ]
    code = (
        "import sys\n"
        "optional = ('cupy safetensors ml_dtypes tqdm matplotlib torch transformers py3langid '\n"
        "            'distributed jsonschema referencing jupyter_client ipykernel mpi4py '\n"
        "            'openai').split()\n"
        "sys.modules.update(dict.fromkeys(optional))\n"
        f"for m in {modules!r}: __import__(m)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


def test_relative_imports_only_inside():
    for path in FILES:
        for node in import_nodes(path):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                assert not node.module.startswith("minqwen"), path


@pytest.mark.parametrize("folder", ["minqwen", "tests", "notebooks", "benchmarks", "docs"])
def test_text_files_are_read_and_written_as_utf8_by_name(folder):
    for path in sorted((PACKAGE.parent / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "read_text" not in text and "write_text" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            needed = {"read_text": 1, "write_text": 2}.get(node.func.attr)
            named = any(k.arg == "encoding" for k in node.keywords)
            assert not needed or named or len(node.args) >= needed, f"{path}:{node.lineno}"
