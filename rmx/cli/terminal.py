"""What commands print while they work: lines about a run, progress, and how Ctrl-C asks for a stop."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rmx.progress import Progress
from rmx.stats.text import percent, points

JSON_HELP = "print a JSON document instead of text"


class Teller:
    """A run for the terminal: on stdout what each stage found and each check, on stderr how far it is."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.losses = ""  # of the last update

    def __call__(self, kind: str, figures: dict[str, Any]) -> None:
        if kind == "update":
            self.losses = self._update(figures)
        elif kind == "stage":
            self.progress(figures["stage"], figures["at"], figures["of"], self.losses)
        elif line := self.line(kind, figures):
            self.progress.say(line)

    def line(self, kind: str, figures: dict[str, Any]) -> str | None:
        """What is said of an event; nothing of those that are for the page."""
        say = getattr(self, f"_{kind}", None)
        return say(figures) if say else None

    def _rollouts(self, f: dict[str, Any]) -> str | None:
        if f["at"] < f["of"]:
            return None
        return (
            f"rollouts   {f['at']} of {f['of']} problems, {f['rollouts']} rollouts: {f['right']} right, "
            f"{f['truncated']} truncated, {f['unparsed']} without an answer{_ids_of(f.get('server'))}"
        )

    def _head(self, f: dict[str, Any]) -> str:
        if not f["tf32"]:
            return f"head       --tf32 has no effect. {f['why']}"
        return (
            f"head       products in TF32: on a fixed text a log-probability moves by up to {f['logp_error']:.1e} "
            f"nats, a mean of the head's rows by {100 * f['mean_error']:.1e} %"
        )

    def _selection(self, f: dict[str, Any]) -> str:
        out = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in f["out"].items() if n)
        return (
            f"selection  {f['kept']} problems kept{f' (out: {out})' if out else ''}, {f['rollouts']} rollouts: "
            f"{f['right']} right, {f['wrong']} wrong; {f['trimmed']} of the longest left out"
        )

    def _gate(self, f: dict[str, Any]) -> str:
        tau = "the file's own positions" if f["tau"] is None else f"tau {f['tau']:.3g} nats"
        said = (
            f"gate       {f['gate']}, {tau}: {f['gated']} of {f['tokens']} tokens ({100 * f['share']:.2f} %), "
            f"{f['gated_right']} in right and {f['gated_wrong']} in wrong rollouts"
        )
        left = f.get("estimate")
        return f"{said}\n{self._estimate(left, 'of what is still to come')}" if left else said

    def _estimate(self, f: dict[str, Any], of: str = "before the rollouts, of the whole run") -> str:
        from rmx.train.estimate import lines

        return "\n".join([f"estimate   {of}:", *lines(f)])

    def _update(self, f: dict[str, Any]) -> str:
        losses = f"decision {f['decision_loss']:+.4f}, KL {f['kl_loss']:.5f}"
        return f"{losses}, gradient {f['grad_norm']:.3f}, lr {f['lr']:.2e}"

    def _check(self, f: dict[str, Any]) -> str:
        gap = f"  gap {f['gap']:+.4f}" if f["gap"] is not None else ""
        against = f"  {points(f['vs_base'])} against the base" if f["vs_base"] else ""
        return f"check      at {f['optimizer_step']:4d}: pass@1 {percent(f['pass@1'])}{against}{gap}"

    def _tau(self, f: dict[str, Any]) -> str:
        said = "none"
        if f["best"]:
            said = f"{percent(f['validation'])} on validation ({points(f['vs_base'])}), {f['best']}"
        return f"threshold  tau {f['tau']:g} nats, {f['nth']} of {f['of']}: {100 * f['share']:.2f} % gated; best {said}"

    def _guard(self, f: dict[str, Any]) -> str:
        return str(f["message"])

    _early = _note = _guard

    def _state(self, f: dict[str, Any]) -> str | None:
        return f"{f['state']}: {f['message']}" if f.get("message") else None

    def _ended(self, f: dict[str, Any]) -> str:
        self.progress.close()
        told = f"done       {f['updates']} updates in {f['seconds']:.0f} s"
        if f["after"]:
            told += f"; {f['split']}, n = {f['after']['n']}: {percent(f['before'])} -> {percent(f['after'])}"
            told += f" ({points(f['vs_base'])})"
        return told

    def _done(self, f: dict[str, Any]) -> str:
        told = self._ended(f)
        if sweep := f.get("sweep"):
            return "\n".join([*sweep_lines(sweep), told + ("; its adapter is the run's" if f["adapter"] else "")])
        return told + (f"; adapter of {f['best']}" if f["adapter"] else "; no checkpoint was written")


def sweep_lines(sweep: dict[str, Any]) -> list[str]:
    """The curve of a sweep as a table: one line for the base, one for each threshold, a star at the chosen one."""

    def said(e: dict[str, Any] | None) -> str:
        return percent(e) if e else "–"

    base = sweep["base"]
    lines = [f"  {'tau':>6s}  {'gated':>7s}  {'validation':22s}{'test':22s}against the base, test"]
    lines.append(f"  {'base':>6s}  {'–':>7s}  {said(base['validation']):22s}{said(base['test'])}")
    for one in sweep["taus"]:
        star, against = "*" if one["tau"] == sweep["chosen"] else " ", one["test_vs_base"]
        lines.append(
            f"{star} {one['tau']:6g}  {100 * one['share']:5.2f} %  {said(one['validation']):22s}{said(one['test']):22s}"
            f"{points(against) if against else ''}".rstrip()
        )
    return [*lines, f"* {sweep['rule']}"]


def _ids_of(server: dict[str, Any] | None) -> str:
    """What is to be said of rollouts from a server whose token ids it did not tell."""
    if not server or not server["told"] + server["read_again"] + server["doubtful"]:
        return ""
    return f"; token ids in doubt: {server['doubtful']} ({100 * server['share']:.1f} %)"


class DistillTeller(Teller):
    """A distillation for the terminal."""

    def _update(self, f: dict[str, Any]) -> str:
        same = f"same choice {100 * f['agreement']:.2f} %"
        return f"KL {f['loss']:.5f}, {same}, gradient {f['grad_norm']:.3f}, lr {f['lr']:.2e}"

    def _check(self, f: dict[str, Any]) -> str:
        near, words = f["agreement"], [f"check      at {f['optimizer_step']:4d}:"]
        if near:
            kl = near["kl"]
            words.append(f"same choice as the teacher {percent(near['agreement'])}")
            words.append(f"KL {kl['value']:.5f} [{kl['low']:.5f}, {kl['high']:.5f}]")
        if f["pass@1"]["n"]:
            words.append(f"pass@1 {percent(f['pass@1'])}")
        return "  ".join(words)

    def _done(self, f: dict[str, Any]) -> str:
        told, closed = self._ended(f), f.get("gap_closed")
        if f["after"]:
            told += f"; the teacher {percent(f['teacher'])} ({points(f['vs_teacher'])} against it)"
        if f["after"] and closed and closed["value"] is not None:  # else the teacher's gain cannot be told from 0
            told += f"; closes {percent(closed)} of the gap"
        return told


@contextmanager
def stopped_by_hand() -> Iterator[Callable[[], bool]]:
    """Ctrl-C ends the run at its next step, and what is there is still reported; a second one ends the command."""
    asked = threading.Event()

    def ask(*_: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        print("stopping; once more ends it at once", file=sys.stderr, flush=True)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells under each other."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
