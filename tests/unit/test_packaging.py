"""What is shipped: the wheel's files, its metadata, and what importing and starting it costs."""

import ast
import email
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rmx import __version__

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = sorted((ROOT / "rmx").rglob("*.py"))
# In any file of the package these would be somebody's own machine.
PLACES = re.compile(r"/(?:work|root|home|Users|tmp)/\w+|\bC:\\\\|\.pyenv\b|/opt/wheels")

PINNED = r"^([\w.-]+)==(\S+) \\\n((?: +--hash=sha256:[0-9a-f]{64}.*\n)+)"  # of requirements.lock


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Iterator[zipfile.ZipFile]:
    """The wheel as `pip wheel` builds it from this tree."""
    out = tmp_path_factory.mktemp("dist")
    build = "import os; from hatchling.build import build_wheel; print(build_wheel(os.environ['OUT']))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=ROOT, env={"OUT": str(out), "PATH": ""}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(out / done.stdout.split()[-1]) as file:
        yield file


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    return set(wheel.namelist())


@pytest.mark.parametrize(
    "name",
    [
        "ui/common/app.css",
        "ui/explore/token_view.html",
        "ui/explore/token_view.css",
        "ui/explore/token_view.js",
        "space/start",
        "mini/config.json",
        "mini/model.safetensors",
        "mini/tokenizer.json",
        "mini/examples.json",
        "problems/mini.test.jsonl",
        "problems/arith.test.jsonl",
    ],
)
def test_the_wheel_carries_what_the_app_reads(names, name):
    assert f"rmx/assets/{name}" in names


def test_the_wheel_carries_every_asset_and_module(names):
    tracked = subprocess.run(["git", "ls-files", "assets", "rmx"], cwd=ROOT, capture_output=True, text=True)
    files = [f for f in tracked.stdout.split() if (ROOT / f).is_file()]
    if tracked.returncode or not files:
        pytest.skip("not a git checkout")
    assert {re.sub(r"^assets/", "rmx/assets/", f) for f in files} <= names


def test_the_wheel_carries_the_licence_and_nothing_of_the_workshop(names):
    tops = {n.split("/")[0] for n in names}
    info = f"rmx_explorer-{__version__}.dist-info"
    assert tops == {"rmx", info}
    assert f"{info}/licenses/LICENSE" in names
    assert not [n for n in names if "test_" in n or "conftest" in n or n.endswith((".pyc", ".pyi", ".ckpt"))]


def test_the_wheel_installs_the_command(wheel):
    assert "rmx = rmx.cli.main:main" in wheel.read(f"rmx_explorer-{__version__}.dist-info/entry_points.txt").decode()


def test_the_metadata_has_the_extras_and_no_server(wheel):
    metadata = email.message_from_bytes(wheel.read(f"rmx_explorer-{__version__}.dist-info/METADATA"))
    assert metadata["Version"] == __version__ == PROJECT["version"]
    assert set(metadata.get_all("Provides-Extra") or []) == {"gguf", "mcp", "quantize", "test"}
    assert not [r for r in metadata.get_all("Requires-Dist") or [] if "vllm" in r.lower()]


def test_every_dependency_has_a_lower_bound_that_the_pins_satisfy():
    pins = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] not in "#"]
    pinned = {r.name.replace("_", "-"): next(iter(r.specifier)).version for r in pins if "==" in str(r)}
    for text in [
        *PROJECT["dependencies"],
        *(t for name in ("gguf", "quantize") for t in PROJECT["optional-dependencies"][name]),
    ]:
        need = Requirement(text)
        assert any(s.operator == ">=" for s in need.specifier), text
        assert need.name in pinned or need.name == "torch", f"{need.name} is not in constraints.txt"
        assert need.name == "torch" or need.specifier.contains(pinned[need.name]), text


def test_every_package_that_rmx_imports_is_declared():
    extras = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *extras["gguf"], *extras["mcp"], *extras["quantize"]]
    declared = {canonicalize_name(Requirement(text).name) for text in texts}
    owners = metadata.packages_distributions()
    found = {name for module in MODULES for name in _imports(module)} - {"rmx", *sys.stdlib_module_names}
    benches = {"playwright"}  # drives the page benchmark only, and comes with the extra `test`
    frames = {"pandas"}  # only for whoever asks a result for a data frame, and said in a sentence where it is missing
    assert "yaml" in found
    assert [name for name in found - benches - frames if not declared & {*map(canonicalize_name, owners[name])}] == []


def test_the_image_installs_what_was_tested_with_its_hashes():
    """All that rmx needs, and that needs, stands in the lock; torch has a pin in the Dockerfile."""
    lock = (ROOT / "requirements.lock").read_text()
    locked = {
        canonicalize_name(name): (version, hashes.count("--hash=sha256:"))
        for name, version, hashes in re.findall(PINNED, lock, re.M)
    }
    assert len(locked) == sum(not line.startswith(" ") for line in lock.splitlines())
    pins = (Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] not in "#")
    for pin in pins:
        if (name := canonicalize_name(pin.name)) in locked:
            assert pin.specifier.contains(locked[name][0]), pin
    extras = PROJECT["optional-dependencies"]
    needed, seen = [*PROJECT["dependencies"], *extras["gguf"], *extras["mcp"]], {"torch"}
    while needed:
        need = Requirement(needed.pop())
        name = canonicalize_name(need.name)
        if name not in seen and (need.marker is None or need.marker.evaluate({"extra": ""})):
            seen.add(name)
            assert name in locked, name
            needed += metadata.requires(name) or []
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(r'^ARG TORCH="torch==[\d.]+"$', dockerfile, re.M)
    for line in re.findall(r"pip install .*", dockerfile):
        assert any(word in line for word in ("--require-hashes", '"$TORCH"', "--no-deps --no-build-isolation .")), line


def test_importing_rmx_is_light():
    heavy = ("torch", "transformers", "gradio", "numpy")
    code = f"import sys, rmx, rmx.cli.main; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


SERVE = "import rmx.ui.server.serve; "  # what `rmx serve` and app.py import
TOLD = "from huggingface_hub import constants as c; from datasets import config as d; "
TOLD += "print(c.HF_HUB_DISABLE_TELEMETRY, d.HF_UPDATE_DOWNLOAD_COUNTS)"


@pytest.mark.parametrize(
    ("start", "given", "told"),
    [
        ("import rmx.ui.server.serve; ", {}, "True False"),  # what `rmx serve` and app.py import
        ("import rmx; ", {"HF_HUB_DISABLE_TELEMETRY": "0", "HF_UPDATE_DOWNLOAD_COUNTS": "1"}, "False True"),
        ("from rmx.cli.main import main\nif main(['sets', '--json']): raise SystemExit(1)\n", {}, "True False"),
    ],
)
def test_nobody_is_told_who_uses_rmx(start, given, told):
    """Libraries read these variables once, when they are imported. Whoever sets them has the last word."""
    names = ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_UPDATE_DOWNLOAD_COUNTS")
    plain = {key: value for key, value in os.environ.items() if key not in names}
    done = subprocess.run([sys.executable, "-c", start + TOLD], capture_output=True, text=True, env=plain | given)
    assert done.stdout.splitlines()[-1:] == [told], done.stderr


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["trace", "--help"]])
def test_help_does_not_wait_for_torch(args):
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "rmx", *args], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout
    assert not [m for m in ("torch", "transformers", "gradio", "numpy") if f" {m}\n" in done.stderr]


def test_a_trace_without_an_adapter_does_not_wait_for_peft():
    args = ["trace", "1 + 1?", "--max-new-tokens", "2"]
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "rmx", *args], capture_output=True, text=True)
    assert done.returncode == 0
    assert [m for m in ("transformers", "peft", "datasets", "gradio") if f" {m}\n" in done.stderr] == ["transformers"]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.relative_to(ROOT).as_posix())
def test_only_the_ui_imports_gradio(module):
    inside = module.relative_to(ROOT / "rmx").parts
    benches = {"playwright"} if inside[0].startswith("bench") else set()
    allowed = {"gradio", "gradio_client"} if inside[0] == "ui" else benches
    assert _imports(module) & {"gradio", "gradio_client", "playwright", "pytest"} <= allowed


def _imports(module: Path) -> set[str]:
    """Top-level names that a file imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_nothing_shipped_names_a_machine(wheel):
    texts = [
        n
        for n in wheel.namelist()
        if n.endswith((".py", ".json", ".jsonl", ".js", ".css", ".html", ".md", ".txt", "METADATA"))
    ]
    found = {n: m.group() for n in texts if (m := PLACES.search(wheel.read(n).decode("utf-8")))}
    assert found == {}


def test_the_tests_that_the_threats_name_are_there():
    """A defence whose test was renamed or dropped must not look tested."""
    table = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", table))
    there = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(named) > 10
    assert named - there == set()


def test_every_setting_is_described_where_serve_asks_for_help(capsys):
    from rmx.cli.main import main
    from rmx.ui.settings import Settings

    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    told = capsys.readouterr().out
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
    assert [name for name in Settings.model_fields if f"\n  RMX_{name.upper()} " not in told] == []
    code = "".join(path.read_text() for path in (ROOT / "rmx").rglob("*.py"))
    others = set(re.findall(r'"(RMX_[A-Z_]+)"', code)) - {
        "RMX_RUN_LOCK",
        "RMX_SERVER_KEY",
    }  # of runs alone
    assert len(others) > 8
    assert [name for name in others if f"\n  {name} " not in told] == []


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_bytes()) <= 14_336
