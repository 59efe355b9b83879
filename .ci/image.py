#!/usr/bin/env python3
"""Build the image from the Dockerfile and try it where there is no Docker engine: on Linux, as root, with apt.

    .ci/image.py                   the CPU image
    BUILD_ARGS="--build-arg ..."   more words for the build (--build-arg TORCH_INDEX= where pip's own configuration
                                   knows a CPU torch)
    IMAGE_WORK=FOLDER              kept, with base and image in it; else all of it is removed again (some 10 GB)

Fails where the image holds CUDA, is not served as uid 1000, does not answer, streams no trace, keeps nothing on /data
or does not end when it is asked to. Nothing but the standard library: it runs on a bare machine.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ask import health, page, streamed_trace

ROOT = Path(__file__).resolve().parents[1]
IMAGE = "localhost/rmx-check"
CUDA_PACKAGES = ("nvidia", "cuda", "triton")
CUDA_FILES = ("libtorch_cuda*", "libcudart*", "libcublas*", "libcudnn*", "libnccl*")
RUN = ["rmx", "train", "--problems", "4", "--k", "4", "--max-steps", "1", "--validation", "2", "--validation-k", "2"]
RUN += ["--test", "2", "--no-guards"]
# Its weights are dequantised once and kept.
REAL = ["rmx", "trace", "One and one is", "--raw", "--model", "smollm2-135m-instruct-q4_1", "--max-new-tokens", "3"]


class Failed(Exception):
    """What is wrong with the image, in a sentence."""


def main() -> None:
    if not sys.platform.startswith("linux") or os.geteuid():
        raise Failed("This needs Linux and root. With a Docker engine: make image.")
    install("buildah", "debootstrap")
    with work_folder() as work:
        buildah = Buildah(work)
        base(buildah, work)
        build(buildah, work)
        with buildah.container(IMAGE) as (container, root):
            sizes(root)
            without_cuda(root)
            running(buildah, container, work)
    say("the image is good")


def say(what: str) -> None:
    print(f"\n== {what}", flush=True)


def install(*tools: str) -> None:
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        say(f"installing {' '.join(missing)}")
        apt = ["apt-get", "-qq"]
        subprocess.run([*apt, "update"], check=True)
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        words = [*apt, "install", "-y", "--no-install-recommends", *missing]
        subprocess.run(words, check=True, env=quiet, stdout=subprocess.DEVNULL)


@contextmanager
def work_folder() -> Iterator[Path]:
    """The folder with everything that is made; it goes away unless IMAGE_WORK names it."""
    named = os.environ.get("IMAGE_WORK")
    folder = Path(named) if named else Path(tempfile.mkdtemp(prefix="rmx-image.", dir="/var/tmp"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        if not named:
            shutil.rmtree(folder, ignore_errors=True)


class Buildah:
    """buildah with a store of its own, which needs neither a running service nor special mounts."""

    def __init__(self, work: Path) -> None:
        store = ["buildah", "--root", str(work / "storage"), "--runroot", str(work / "run"), "--storage-driver"]
        self.env = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
        # vfs works everywhere and copies all files for each layer.
        overlay = subprocess.run([*store, "overlay", "info"], env=self.env, capture_output=True)
        self.layers = overlay.returncode == 0
        self.words = [*store, "overlay" if self.layers else "vfs"]

    def __call__(self, *words: str) -> str:
        done = subprocess.run([*self.words, *words], env=self.env, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"buildah {words[0]} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout.strip()

    def start(self, *words: str, **more: object) -> subprocess.Popen[str]:
        return subprocess.Popen([*self.words, *words], env=self.env, text=True, **more)  # type: ignore[call-overload]

    def has(self, image: str) -> bool:
        words = [*self.words, "inspect", "--type", "image", image]
        return not subprocess.run(words, env=self.env, capture_output=True).returncode

    @contextmanager
    def container(self, image: str) -> Iterator[tuple[str, Path]]:
        """A container of an image: its name, and where its files lie."""
        name = self("from", "--pull-never", image)
        try:
            yield name, Path(self("mount", name))
        finally:
            self("rm", name)


# -- the base and the build -------------------------------------------------------------------------------------------


def base(buildah: Buildah, work: Path) -> None:
    """The image behind FROM: pulled, or, where that cannot be had, Debian's own of that release under its name."""
    match = re.search(r"^ARG BASE=(\S+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.M)
    name = match[1] if match else ""
    if buildah.has(name):
        return
    say(f"base {name}")
    try:
        buildah("pull", "--quiet", "--retry", "0", name)
        return
    except Failed as failed:
        print(str(failed).splitlines()[-1][:300])
    release = name.rpartition("-")[2]
    print(f"It cannot be pulled from here. Debian {release} with Debian's Python stands in for it.", flush=True)
    rootfs = work / "rootfs"
    shutil.rmtree(rootfs, ignore_errors=True)
    packages = "--include=python3,python3-pip,python3-venv,ca-certificates"
    with (work / "debootstrap.log").open("w") as log:
        subprocess.run(["debootstrap", "--variant=minbase", packages, release, str(rootfs)], check=True, stdout=log)
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(rootfs), "/")
    buildah("config", "--env", "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", container)
    buildah("commit", "--quiet", container, name)
    buildah("rm", container)
    shutil.rmtree(rootfs)


def build(buildah: Buildah, work: Path) -> None:
    """The image, by the Dockerfile as it stands."""
    say("building")
    began = time.monotonic()
    words = ["bud", "--pull-never", f"--layers={str(buildah.layers).lower()}", "--format", "docker", "-t", IMAGE]
    words += [*pip_of_this_machine(work / "pip.conf"), *shlex.split(os.environ.get("BUILD_ARGS", "")), str(ROOT)]
    with (work / "build.log").open("w") as log:
        process = buildah.start(*words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for line in process.stdout or ():
            log.write(line)
            if line.startswith("STEP"):
                print(line.rstrip()[:150], flush=True)
    if process.wait():
        raise Failed("The build failed:\n" + (work / "build.log").read_text()[-3000:])
    print(f"built in {time.monotonic() - began:.0f} s")


def pip_of_this_machine(path: Path) -> list[str]:
    """Mounts that let pip in the build look where pip here looks: its configuration, and the files that names."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    settings = dict(re.findall(r"^(?:global|:env:)\.(\S+?)='(.*)'$", listed.stdout.replace(":env:..", ":env:."), re.M))
    path.write_text("[global]\n" + "".join(f"{k.lstrip('.')} = {v}\n" for k, v in settings.items()))
    mounts = {str(path): "/etc/pip.conf"}
    for word in " ".join(settings.values()).split():
        # The pages of a folder index name their files relative to it, so its parent is needed.
        place = Path(word.removeprefix("file://")).parent if word.startswith("file://") else Path(word)
        if place.is_absolute() and place.exists():
            mounts[str(place)] = str(place)
    return [part for here, there in mounts.items() for part in ("-v", f"{here}:{there}:ro")]


# -- what is in it ----------------------------------------------------------------------------------------------------


def sizes(root: Path) -> None:
    say("size")
    packages = next(root.glob("opt/rmx/lib/python3*/site-packages"))
    print(f"{_megabytes(root):6d} MB  the whole image, on disk")
    print(f"{_megabytes(root / 'opt/rmx'):6d} MB  of it Python packages; the largest:")
    each = sorted(((_megabytes(p), p.name) for p in packages.iterdir() if p.is_dir()), reverse=True)
    for size, name in each[:8]:
        print(f"{size:6d} MB    {name}")


def _megabytes(place: Path) -> int:
    return int(subprocess.run(["du", "-sxm", str(place)], capture_output=True, text=True, check=True).stdout.split()[0])


def without_cuda(root: Path) -> None:
    say("CUDA")
    packages = next(root.glob("opt/rmx/lib/python3*/site-packages"))
    names = [p.name for p in packages.glob("*.dist-info")]
    found = [name for name in names if name.lower().startswith(CUDA_PACKAGES)]
    found += [str(p.relative_to(root)) for pattern in CUDA_FILES for p in packages.rglob(pattern)]
    if found:
        raise Failed(f"CUDA is in the image: {', '.join(found[:20])}")
    print(f"none in {len(names)} packages; {next(n for n in names if n.startswith('torch-'))}")


# -- running ----------------------------------------------------------------------------------------------------------


def running(buildah: Buildah, container: str, work: Path) -> None:
    """Serve it as an engine would, with a volume on /data, and ask it as a visitor would."""
    say("running")
    data, port = work / "data", _free_port()
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    os.chown(data, 1000, 1000)
    config = json.loads(buildah("inspect", "--type", "container", container))["Docker"]["config"]
    if config["User"] != "1000":
        raise Failed(f"The image is run as '{config['User']}', not as 1000.")
    inside = ["run", "--env", f"RMX_PORT={port}", "-v", f"{data}:/data:rw", container, "--"]
    entry, command, check = config["Entrypoint"], config["Cmd"], config["Healthcheck"]["Test"]
    print(f"the container's words: {' '.join([*entry, *command])}", flush=True)
    with (work / "server.log").open("w") as log:
        engine = buildah.start(*inside, *entry, *command, stdout=log, stderr=log)
    try:
        seconds, found = health(f"http://127.0.0.1:{port}", 180, lambda: engine.poll() is None)
        print(f"/health after {seconds:.0f} s: {found}")
        asked(buildah, inside, check, port)
        buildah(*inside, *entry, *RUN)
        print("SmolLM2:", buildah(*inside, *entry, *REAL).replace("\n", " "))
        kept(data, _listener(port))
        ends(engine, _listener(port))
    except Exception:
        print((work / "server.log").read_text()[-3000:], file=sys.stderr)
        raise
    finally:
        if engine.poll() is None:
            if server := _listener(port):
                os.kill(server, signal.SIGKILL)
            engine.kill()
            engine.wait()


def asked(buildah: Buildah, inside: list[str], check: list[str], port: int) -> None:
    address = f"http://127.0.0.1:{port}"
    server = _listener(port)
    uids = _proc(server, "status").split("Uid:")[1].split()[:4]
    if set(uids) != {"1000"}:
        raise Failed(f"The server runs as {uids}, not as 1000.")
    print(f"process {server} runs as uid 1000")
    if check[0] != "CMD":
        raise Failed(f"The health check is of a kind that is not tried here: {check}")
    buildah(*inside, *check[1:])
    print("the image's own health check says yes")
    print(f"page: {page(address)} bytes of HTML")
    name, parts, words = streamed_trace(address)
    print(f"trace by {name}: {parts} parts; {words}")


def kept(data: Path, server: int) -> None:
    """What the app and a short training run wrote to /data, as the image's user."""
    runs = [p.parent for p in data.glob("runs/*/config.json")]
    weights = [p for p in data.glob("cache/**/*.safetensors") if p.stat().st_size > 1e8]
    print(f"on /data: {', '.join(sorted(p.name for p in data.iterdir()))}; runs: {', '.join(p.name for p in runs)}")
    if not runs or not weights:
        raise Failed("The run or the dequantised weights are not on /data.")
    strangers = [p for p in data.rglob("*") if p.lstat().st_uid != 1000]
    if strangers:
        raise Failed(f"Not written by uid 1000: {strangers[:5]}")
    environment = dict(e.partition("=")[::2] for e in _proc(server, "environ").split("\0") if e)
    for name in ("HF_HOME", "RMX_CACHE", "RMX_RUNS"):
        if not environment.get(name, "").startswith("/data/"):
            raise Failed(f"{name} of the server is {environment.get(name)!r}, not on /data.")
        print(f"{name}={environment[name]}")


def ends(engine: "subprocess.Popen[str]", server: int) -> None:
    """A stop as an engine sends it ends the app within an engine's patience of 10 seconds."""
    os.kill(server, signal.SIGTERM)
    began = time.monotonic()
    try:
        engine.wait(timeout=10)
    except subprocess.TimeoutExpired:
        raise Failed("It does not end within 10 s of SIGTERM.") from None
    print(f"ended {time.monotonic() - began:.1f} s after SIGTERM")


def _free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def _listener(port: int) -> int:
    """The process that listens on a port; 0 where none does."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    doors = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port}
    for place in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(place) in doors:
                return int(place.parts[2])
        except OSError:  # it ended while we looked
            continue
    return 0


def _proc(process: int, name: str) -> str:
    return (Path("/proc") / str(process) / name).read_text(errors="replace")


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(f"\n{failed}")
