"""The project as others get it: a wheel tried from another folder, and dependencies that are declared and pinned."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from source_tree import PACKAGE, PYPROJECT, ROOT, imports, modules

PYTHONS = ("3.11", "3.12", "3.13")
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
RUNTIME = [Requirement(line) for line in PYPROJECT["project"]["dependencies"]]
OPTIONAL = [Requirement(line) for lines in EXTRAS.values() for line in lines if not line.startswith("ppl-vae")]
CONSTRAINTS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line.strip() and not line.startswith("#")
]


def names(requirements):
    return {canonicalize_name(requirement.name) for requirement in requirements}


# --- sdist and wheel --------------------------------------------------------------------------------------------------

#: What is not the project's own, in a folder where somebody works.
STRAYS = shutil.ignore_patterns(
    "__pycache__", "*.egg-info", "*.log", ".git", ".venv", ".*_cache", "build", "dist", "runs"
)


def run(*command, cwd, **environment):
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a copy of the sources, by nothing but their names."""
    folder = tmp_path_factory.mktemp("project") / "source"
    folder.mkdir()
    for name in (PACKAGE, "models", "guides", "tests", "examples", "docs", ".ci"):
        shutil.copytree(ROOT / name, folder / name, ignore=STRAYS)
    for path in ROOT.iterdir():
        if path.is_file() and not path.is_symlink() and path.name not in {".git", "PKG-INFO", "setup.cfg"}:
            shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def unpacked(source, tmp_path_factory):
    """Return the folder that the sdist unpacks to."""
    folder = tmp_path_factory.mktemp("sdist")
    run("-c", "from setuptools import build_meta; build_meta.build_sdist('../built')", cwd=source)
    (sdist,) = (source.parent / "built").glob("ppl_vae-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (found,) = folder.iterdir()
    return found


@pytest.fixture(scope="module")
def installed(unpacked, tmp_path_factory):
    """Return a folder that the wheel, built from the sdist, is installed in."""
    folder = tmp_path_factory.mktemp("wheel")
    # --no-index: nothing may come from elsewhere, whatever pip takes an argument for
    pip = ("-m", "pip", "--disable-pip-version-check", "--quiet", "--no-input")
    offline = ("--no-index", "--no-deps")
    run(*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", "built", str(unpacked), cwd=folder)
    (wheel,) = (folder / "built").glob("ppl_vae-*.whl")
    run(*pip, "install", *offline, "--target", "target", str(wheel), cwd=folder)
    return folder / "target"


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_sdist_holds_all_that_the_project_does(source, unpacked):
    made = {name for name in files(source) if ".egg-info/" in name}
    wanted = files(source) - made
    assert {
        "constraints.txt",
        "tests/conftest.py",
        "tests/pairs.py",
        "examples/demo.png",
        "docs/train.md",
        ".ci/run",
    } <= wanted
    assert wanted - files(unpacked) == set(), "name them in MANIFEST.in"


@pytest.mark.slow
def test_tests_run_from_the_sdist(unpacked, installed):
    # -P: the package is the installed one, not the folder beside the tests
    tests = ("tests/nn/distributions/test_gumbel_softmax.py", "tests/test_layers.py")
    words = ("-P", "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *tests)
    assert "passed" in run(*words, cwd=unpacked, PYTHONPATH=str(installed))


WHERE = """
import importlib, json, sys
from importlib.metadata import version
files = {name: importlib.import_module(name).__file__ for name in sys.argv[1].split(",")}
print(json.dumps([files, version("ppl-vae"), importlib.import_module("ppl_vae").__version__]))
"""


@pytest.mark.slow
def test_every_module_imports_from_the_wheel(installed, tmp_path):
    wanted = [name for name in modules() if not name.endswith("__main__")]
    out = run("-c", WHERE, ",".join(wanted), cwd=tmp_path, PYTHONPATH=str(installed))
    files, *versions = json.loads(out.splitlines()[-1])
    strays = {name: file for name, file in files.items() if not Path(file).is_relative_to(installed)}
    assert not strays, "list their packages in pyproject.toml, tool.setuptools.packages"
    assert versions == [PYPROJECT["project"]["version"]] * 2


@pytest.mark.slow
def test_the_wheel_holds_all_that_is_not_code(installed):
    assert (installed / PACKAGE / "py.typed").is_file()
    for path in (ROOT / PACKAGE).rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert (installed / PACKAGE / path.relative_to(ROOT / PACKAGE)).is_file(), path.name


@pytest.mark.slow
def test_the_wheel_puts_nothing_at_the_top_but_the_package(installed):
    found = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} - {"bin"}
    assert found == {PACKAGE}


@pytest.mark.slow
def test_the_wheel_carries_licence_and_command(installed):
    (info,) = installed.glob("*.dist-info")
    assert list(info.rglob("LICENSE"))
    assert f"ppl-vae = {PACKAGE}.cli:main" in (info / "entry_points.txt").read_text(encoding="utf-8")


# --- dependencies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_has_one_tested_version_in_its_range(python):
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    pinned = {}
    for constraint in CONSTRAINTS:
        if constraint.marker is None or constraint.marker.evaluate(environment):
            (pin,) = constraint.specifier
            assert pin.operator == "=="
            assert pinned.setdefault(canonicalize_name(constraint.name), Version(pin.version)) == Version(pin.version)
    assert pinned.keys() == names(RUNTIME + OPTIONAL)
    for requirement in RUNTIME + OPTIONAL:
        version = pinned[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, f"{requirement} does not allow the tested {version}"


def test_every_range_has_a_lowest_version_which_its_command_tries():
    for requirement in RUNTIME + OPTIONAL:
        assert [bound.operator for bound in requirement.specifier] == [">="], requirement


def undeclared(sources, declared, own):
    """Other people's packages that `sources`, a mapping of name to text, import and `declared` does not name."""
    providers = packages_distributions() | {"arviz_stats": ["arviz"]}  # ArviZ 1.x is a package of packages
    for place, source in sources.items():
        for line, name in sorted(imports(source)):
            top = name.partition(".")[0]
            if top in sys.stdlib_module_names or top in own:
                continue
            if not names(map(Requirement, providers.get(top, [top]))) & declared:
                yield f"{place}:{line} imports {top}"


def texts(paths):
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


@pytest.mark.slow
def test_the_library_declares_all_that_it_imports():
    assert list(undeclared(texts(modules().values()), names(RUNTIME), {PACKAGE})) == []


@pytest.mark.slow
def test_tests_and_examples_declare_all_that_they_import():
    # Benchmarks are run by hand, beside whatever they compare with.
    paths = [*(ROOT / "tests").glob("*.py"), *(ROOT / "examples").rglob("*.py")]
    own = {PACKAGE} | {path.stem for path in paths}
    test = names(RUNTIME) | names(map(Requirement, EXTRAS["test"]))
    assert list(undeclared(texts(paths), test, own)) == []


def test_the_check_finds_an_undeclared_import():
    source = {"here.py": "import os\nimport sklearn.datasets\nimport pytest\ndef f():\n    from tensorflow import nn\n"}
    assert list(undeclared(source, {"scikit-learn"}, set())) == [
        "here.py:3 imports pytest",
        "here.py:5 imports tensorflow",
    ]
