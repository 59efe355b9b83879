"""The examples of `--help`, of the README and of the benchmarks: the parser takes each, and some are run."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

import rmx.service.studies  # noqa: F401 - whose annotations name what is replaced below
from rmx.cli.main import VERBS, _parser, main, read_help
from rmx.engine.engine import PrefixCache
from rmx.models.load import load
from rmx.models.workspace import Workspace

ROOT = Path(__file__).parents[3]
FILES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "BENCHMARKS.md")}
TEXTS = {f"rmx {name} --help": text for name, text in read_help().items()} | FILES


def commands_of(text: str) -> list[tuple[str, list[str]]]:
    """Each `$ rmx ...` with the lines that stand below it, up to an empty line or the end of the block."""
    found: list[tuple[str, list[str]]] = []
    for block in re.split(r"\n\s*\n|^```$", text, flags=re.MULTILINE):
        lines = block.splitlines()
        margin = min((len(line) - len(line.lstrip()) for line in lines if line.lstrip().startswith("$ ")), default=0)
        for line in (line[margin:] for line in lines):
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif found and found[-1][0] and any(other[margin:].startswith("$ ") for other in lines):
                found[-1][1].append(line)
    return [(command, output) for command, output in found if command.startswith("rmx ")]


CASES = [(where, command, output) for where, text in TEXTS.items() for command, output in commands_of(text)]


def words_of(command: str) -> list[str]:
    """What the parser gets: of a pipe its first command, without a file that the output goes to."""
    return shlex.split(re.split(r" [|>] ", command)[0])[1:]


def test_there_are_examples_of_every_command():
    [verbs] = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    shown = {words_of(command)[0] for _, command, _ in CASES}
    assert set(verbs.choices) - shown <= {"serve", "api", "doctor"}
    assert set(read_help()) <= set(verbs.choices)


@pytest.mark.parametrize(("where", "command"), [case[:2] for case in CASES])
def test_the_parser_takes_every_example(where, command):
    args = _parser().parse_args(words_of(command))
    assert args.command == words_of(command)[0]


@pytest.fixture(scope="module")
def mini():
    """Mini on weights of its own, since adapters are put on them."""
    return load("mini", device="cpu")


# The others solve 200 problems or train: what stands below them is what a run once printed.
@pytest.mark.parametrize(
    ("command", "output"),
    sorted({(command, "\n".join(output)) for _, command, output in CASES if output and "--problem" in command}),
)
def test_examples_print_what_stands_below_them(command, output, mini, monkeypatch, capsys):
    monkeypatch.setattr("rmx.models.workspace.Workspace", lambda *_, **__: space)
    monkeypatch.setattr(mini.engine, "prefixes", PrefixCache(64 << 20))
    space = Workspace("cpu", loader=lambda spec: mini)
    assert main(words_of(command)) == 0
    said, wanted = (
        re.sub(r"\d+\.\d\d s$", "T s", text.rstrip("\n"), flags=re.M) for text in (capsys.readouterr().out, output)
    )
    if wanted.endswith("\n..."):
        wanted = wanted.removesuffix("...")
        assert said.startswith(wanted)
    else:
        assert said == wanted


@pytest.mark.parametrize("verb", VERBS)
def test_help_says_what_a_command_does_and_prints_its_text(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    said = capsys.readouterr().out
    about = VERBS[verb][0]
    assert " ".join(said.split("\n\n")[1].split()).rstrip(".") == about[0].upper() + about[1:]
    assert said.endswith(read_help().get(verb, "") + "\n")


def test_the_api_is_told(capsys):
    assert main(["api"]) == 0
    assert 'api_name="/trace"' in capsys.readouterr().out
