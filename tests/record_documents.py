"""Record what `rmx VERB --json` prints on fixed seeds, so that two versions of the code can be compared byte by byte.

    python -m tests.record_documents before/       # in one version
    python -m tests.record_documents after/        # in the other
    diff -r before after

Everything runs on the bundled miniature with one thread, which takes about five minutes on two cores. What belongs to
the moment or the machine (times, costs, ids, paths, versions) is replaced by its type's name.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

COMMANDS = {
    "trace": "trace --problem 241",
    "trace_swap": "trace --problem 241 --swap 28=879",
    "trace_sampled": "trace --problem 3 --temperature 1 --seed 5",
    "shifts": "shifts --pair mini+rl --problem 241",
    "shifts_set": "shifts --pair mini+rl --set mini --limit 12",
    "intervene": "intervene --pair mini+rl --set mini --limit 12",
    "outcomes": "outcomes --problem 241 --forks 2 --samples 16 --seed 1",
    "rescue": "rescue --problem 241 --budget 4000",
    "sofar": "sofar --problem 241",
    "locator": "locator --set mini --limit 3 --samples 8 --budget 20000",
    "eval": "eval --adapter rl --set mini --limit 24 --n 8",
    "claims": "claims --pair mini+rl --set mini --limit 30 --n 8 --budget 400000",
    "train": "train --preset quick --seed 7 --problems 16 --k 4 --validation 12 --test 12 --max-steps 6",
}
# Of the moment or the machine.
PASSING = {
    "seconds", "usd", "created", "started", "time", "at_time", "id", "run", "path", "versions", "device", "minutes",
    "tokens_per_second", "left", "took", "command", "machine", "memory", "peak", "peak_bytes", "bytes", "fingerprint",
    "per_second", "cost", "rate", "usd_per_hour", "cached", "source", "update_seconds", "rollout_seconds", "adapter",
    "file", "processor", "threads", "stages", "peak_rss_mb",
}  # fmt: skip


def plain(value: Any) -> Any:
    """A document without what belongs to the moment or the machine."""
    if isinstance(value, dict):
        return {k: f"<{type(v).__name__}>" if k in PASSING else plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def main() -> int:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, words in COMMANDS.items():
        with tempfile.TemporaryDirectory() as folder:
            place = {"RMX_RUNS": f"{folder}/runs", "RMX_CACHE": f"{folder}/cache", "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                [sys.executable, "-m", "rmx", *words.split(), "--json"],
                env={**os.environ, **place},
                capture_output=True,
                text=True,
            )
        if done.returncode:
            failed.append(f"{name}: {done.stderr.strip()[-300:]}")
            continue
        lines = [json.dumps(plain(json.loads(line)), indent=1, ensure_ascii=False) for line in done.stdout.splitlines()]
        (out / f"{name}.json").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stderr.write("".join(f"{line}\n" for line in failed))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
