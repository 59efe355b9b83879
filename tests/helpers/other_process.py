"""A stand-in for `spaces.GPU` that really runs a generator function in a process of its own.

As there: the process is a copy of this one, made at the first call and kept while its calls end well; arguments and
what is yielded are pickled; closing the generator sets a flag that the other side looks at after its next step; an
error on the other side comes out as one of gradio's, with the class's name as its text.
"""

import functools
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
import torch

FORK = multiprocessing.get_context("fork")
END = b""


class OtherProcess:
    """The decorator. What crossed, and for how long it asked, stays to be looked at."""

    def __init__(self) -> None:
        self.sent: list[int] = []  # bytes of each call's arguments
        self.got: list[int] = []  # bytes of each value
        self.durations: list[float] = []
        self.refusal: Exception | None = None  # raised instead of a call, as where a quota is used up
        self.started = 0  # processes
        self.stopped_after: int | None = None  # values that the other side made of the last call that was closed
        self._worker: _Worker | None = None

    def __call__(self, task: Any = None, *, duration: Any = None) -> Any:
        if task is None:
            return functools.partial(self, duration=duration)

        def call(*args: Any) -> Iterator[Any]:
            self.durations.append(duration(*args) if callable(duration) else duration)
            if self.refusal is not None:
                raise self.refusal
            if self._worker is None:
                self._worker = _Worker(task)
                self.started += 1
            worker = self._worker
            self.sent.append(worker.put(args))
            ended = False
            try:
                while (message := worker.results.recv_bytes()) != END:
                    ok, value = pickle.loads(message)
                    if not ok:
                        self._worker = None
                        ended = True
                        worker.end()
                        raise gr.Error(value, title="ZeroGPU worker error", print_exception=False)
                    self.got.append(len(message))
                    yield value
                ended = True
            except EOFError:
                self._worker, ended = None, True
                raise gr.Error("GPU task aborted", title="ZeroGPU worker error", print_exception=False) from None
            finally:
                if not ended:
                    worker.stop.set()
                    while worker.results.recv_bytes() != END:
                        pass
                    self.stopped_after = worker.made.value

        return call

    def close(self) -> None:
        if self._worker is not None:
            self._worker.end()

    @property
    def pid(self) -> int | None:
        return self._worker.process.pid if self._worker else None


class _Worker:
    def __init__(self, task: Callable[..., Iterator[Any]]) -> None:
        self.calls, theirs = FORK.Pipe()
        self.results, results = FORK.Pipe()
        self.stop, self.made = FORK.Event(), FORK.Value("i", 0)
        self.process = FORK.Process(target=self._serve, args=(task, theirs, results), daemon=True)
        self.process.start()
        theirs.close()
        results.close()

    def put(self, args: Any) -> int:
        message = pickle.dumps(args)
        self.calls.send_bytes(message)
        return len(message)

    def end(self) -> None:
        self.process.kill()
        self.process.join(10)

    def _serve(self, task: Callable[..., Iterator[Any]], calls: Any, results: Any) -> None:
        self.calls.close()
        self.results.close()
        torch.set_num_threads(1)  # the threads of the other process are not here
        while True:
            try:
                args = pickle.loads(calls.recv_bytes())
            except EOFError:
                os._exit(0)
            self.stop.clear()
            self.made.value = 0
            thread = threading.Thread(target=self._work, args=(task, args, results))  # as spaces does
            thread.start()
            thread.join()
            results.send_bytes(END)

    def _work(self, task: Callable[..., Iterator[Any]], args: Any, results: Any) -> None:
        values = task(*args)
        try:
            for value in values:
                self.made.value += 1
                if self.stop.is_set():
                    values.close()  # type: ignore[attr-defined]
                    return
                results.send_bytes(pickle.dumps((True, value)))
        except Exception as error:  # noqa: BLE001 - whatever it is, it crosses by its name
            results.send_bytes(pickle.dumps((False, type(error).__name__)))
