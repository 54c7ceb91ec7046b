"""What holds the files at the top level together."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import noa_lab

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ROOT / "configs" / "locks"


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!~ \[;]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_environment_yml_names_the_same_packages_as_pyproject():
    conda = {name_of(entry) for entry in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]}
    wanted = {name_of(entry) for entry in PYPROJECT["project"]["dependencies"]}
    assert conda - {"python", "pip", "llama.cpp", "nbmake"} == wanted
    assert "llama.cpp" in conda, "conda users get the prebuilt programs"
    assert "nbmake" in conda


def locked(name: str) -> dict[str, str]:
    return dict(re.findall(r"(?m)^([a-z0-9_.-]+)==([^ ;\\]+)", (LOCKS / name).read_text()))


@pytest.mark.parametrize("name", ["core.txt", "test.txt", "bindings.txt"])
def test_locks_hold_hashes_and_no_addresses(name):
    text = (LOCKS / name).read_text()
    assert "://" not in text
    for block in re.split(r"(?m)^(?=\S)", text):
        if block.strip():
            assert "--hash=sha256:" in block, block


def test_locks_cover_pyproject():
    core, test, bindings = locked("core.txt"), locked("test.txt"), locked("bindings.txt")
    assert list(bindings) == ["llama-cpp-python"]
    for requirement in PYPROJECT["project"]["dependencies"]:
        assert name_of(requirement) in {**core, **bindings}, requirement
    for requirement in PYPROJECT["project"]["optional-dependencies"]["test"]:
        assert name_of(requirement) in test, requirement
    assert core.items() <= test.items()


def test_versions_agree():
    assert PYPROJECT["project"]["version"] == noa_lab.__version__
    assert f"## {noa_lab.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_lab_py_parses_on_old_pythons_and_needs_only_the_standard_library():
    source = (ROOT / "lab.py").read_text()
    tree = ast.parse(source, feature_version=(3, 6))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom | ast.JoinedStr)]
    assert imported <= set(sys.stdlib_module_names)


def test_import_is_quick_and_light():
    """Design, section 3: no pandas, huggingface_hub or ipywidgets; the time has its own benchmark."""
    code = "import sys, noa_lab; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    for heavy in ("pandas", "huggingface_hub", "ipywidgets", "anywidget", "httpx", "sqlalchemy", "pydantic", "scipy"):
        assert f"'{heavy}'" not in loaded


def test_public_names_exist():
    for name in noa_lab.__all__:
        assert getattr(noa_lab, name) is not None
    assert set(noa_lab.__all__) <= set(dir(noa_lab))


def test_every_room_says_what_lives_there_and_exports_what_exists():
    for init in sorted((ROOT / "noa_lab").glob("*/__init__.py")):
        tree = ast.parse(init.read_text())
        assert ast.get_docstring(tree), init
        room = __import__(f"noa_lab.{init.parent.name}", fromlist=["__all__"])
        for name in room.__all__:
            assert getattr(room, name) is not None, f"{room.__name__}.{name}"


def test_notebooks_are_committed_without_outputs():
    import json

    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text())
        assert "widgets" not in notebook["metadata"], path.name
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                assert cell["outputs"] == [], path.name
                assert cell["execution_count"] is None, path.name
                assert "execution" not in cell["metadata"], path.name
