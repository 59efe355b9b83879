"""Gradio's queue and sessions, shared and made light.

Gradio has one queue for everybody, first come, first served. Here a visitor and an address have a share of its places,
an address half of what runs at the same time, and of those who may run the one that was served least lately goes first.

For each new session, a call of the API too, gradio describes all components of the page and keeps the last value of
each for its deep links, which are closed here: 70 ms of the event loop, half a megabyte and a whole solution or two,
for ten thousand sessions. It copies its tables of components and events, 28 kB, for each; here they are shared.
"""

import asyncio
import importlib.util
import inspect
import random
import sys
import time
from collections import ChainMap, Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import fastapi
import gradio as gr
import gradio.routes
import orjson
from fastapi.responses import StreamingResponse
from gradio.block_function import BlockFunction
from gradio.data_classes import PredictBodyInternal
from gradio.queueing import Event, Queue
from gradio.server_messages import EventMessage, ProcessCompletedMessage
from gradio.state_holder import SessionState, StateHolder
from gradio.utils import run_coro_in_background
from starlette.types import Receive, Scope, Send

from rmx.engine.fair_queue import RequestOwner, Usage, current_owner
from rmx.storage.safe_files import sendable
from rmx.ui.views import find_late

PLAN = "plan"  # of these events of a page only the newest waits
MOST_THREADS = 72  # streams of the page, each holds one, and what else runs beside them
MOST_RECORDS = 200  # of past events, for gradio's monitoring, which is closed here; it would keep 10,000
LOOK = 5.0  # seconds between two looks for events without a listener
UNHEARD = 30.0  # seconds after which they are ended
SKIP = {"__type__": "update"}  # an output that stays as it is
Leave = Callable[[str], object]  # called with the session of a page that is gone


@dataclass(frozen=True, slots=True)
class Shares:
    """How many events one visitor, and one address, may have waiting and running; 0: any number."""

    visitor: int = 0
    address: int = 0


def share_queue(
    page: gr.Blocks, name: Callable[[Any], RequestOwner], shares: Shares, leave: Sequence[Leave] = ()
) -> None:
    """Make the queue of a page a shared one; to be called when its events are built, before it is served.

    Args:
        name: who is behind a request. leave: called where the streams of a page have ended before its events.
    """
    queue: Any = page._queue
    queue.__class__ = SharedQueue
    queue.name, queue.shares, queue.leave = name, shares, leave
    queue.served, queue.unheard, queue.tasks, queue.beside = Usage(), {}, {}, []
    queue.ANALYTICS_MAX_EVENTS = MOST_RECORDS


class SharedQueue(Queue):
    """As gradio's, shared."""

    name: Callable[[Any], RequestOwner]
    shares: Shares
    leave: Sequence[Leave]
    served: Usage  # events of each address and visitor, lately
    unheard: dict[str, tuple[Any, float]]  # session -> its first unread message, since when
    tasks: dict[str, "asyncio.Task[Any] | None"]  # event's id -> what processes it
    beside: list[RequestOwner]  # who reads a stream that is no event

    def start(self) -> None:
        """As gradio's; on a public site it also ends events without a listener."""
        super().start()
        if self.shares.address:
            run_coro_in_background(self._end_unheard)

    # -- joining ------------------------------------------------------------------------------------------------------

    async def push(self, body: PredictBodyInternal, request: fastapi.Request, username: str | None) -> Any:
        """As gradio's.

        Raises:
            HTTPException: 429 with a sentence, where who asks has a full share.
        """
        self._replace_plan(body)
        self._admit(self.name(request))
        return await super().push(body, request, username)

    @contextmanager
    def share(self, who: RequestOwner) -> Iterator[None]:
        """Count what the `with` block does as an event of who asks; raises as `push` does."""
        self._admit(who)
        self.beside.append(who)
        try:
            yield
        finally:
            self.beside.remove(who)

    def _admit(self, who: RequestOwner) -> None:
        others = [*map(self._who, self.event_ids_to_events.values()), *self.beside]
        mine = sum(other.owner == who.owner for other in others)
        if self.shares.visitor and mine >= self.shares.visitor:
            raise _later(f"{mine} requests of yours are under way already. Wait for one of them, or stop it.")
        near = sum(other.address == who.address for other in others) if who.address is not None else 0
        if self.shares.address and near >= self.shares.address:
            raise _later(f"{near} requests from your network are under way already. Try again in a moment.")

    def _replace_plan(self, body: PredictBodyInternal) -> None:
        """A newer plan of a page takes the place of the one that waits: only the last one is looked at."""
        function = self.blocks.fns.get(body.fn_index) if body.fn_index is not None else None
        if function is None or function.concurrency_id != PLAN or PLAN not in self.event_queue_per_concurrency_id:
            return
        line = self.event_queue_per_concurrency_id[PLAN].queue
        for event in [event for event in line if event.session_hash == body.session_hash]:
            line.remove(event)
            nothing = {"data": [SKIP] * len(event.fn.outputs), "is_generating": False, "duration": 0.0}
            self.send_message(event, ProcessCompletedMessage(output=nothing, success=True))
            self.event_ids_to_events.pop(event._id, None)

    def send_message(self, event: Event, event_message: EventMessage) -> None:
        """As gradio's; a page whose messages were dropped gets none."""
        if event.session_hash in self.pending_messages_per_session:
            super().send_message(event, event_message)

    # -- running ------------------------------------------------------------------------------------------------------

    def get_events(self) -> tuple[list[Event], bool, str] | None:
        """The next event of some concurrency group that has room, see the module."""
        groups = [group for group in self.event_queue_per_concurrency_id.values() if group.queue]
        random.shuffle(groups)
        for group in groups:
            limit = group.concurrency_limit
            if limit is not None and group.current_concurrency >= limit:
                continue
            most = max(1, limit // 2) if limit is not None else len(self.active_jobs)
            running = self._running(group.concurrency_id)
            able = [event for event in group.queue if running[self._who(event).address] < most]
            if is_plan(group.queue[0]):  # one after the other for a page: an older one must not be its last word
                planning = {event.session_hash for job in self.active_jobs for event in job or () if is_plan(event)}
                able = [event for event in able if event.session_hash not in planning]
            if able:
                now = time.monotonic()
                first = min(able, key=lambda event: [self.served.of(key, now) for key in self._keys(event)])
                group.queue.remove(first)
                for key in self._keys(first):
                    self.served.add(key, 1.0, now)
                return [first], False, group.concurrency_id
        return None

    def _running(self, concurrency_id: str) -> Counter[str | None]:
        """How many events of a group each address has running; None, where addresses are not known, has none."""
        running = (event for job in self.active_jobs for event in job or () if event.concurrency_id == concurrency_id)
        return Counter(address for event in running if (address := self._who(event).address) is not None)

    def _keys(self, event: Event) -> tuple[str, str]:
        """Whom an event is counted for: its address, and its visitor."""
        who = self._who(event)
        return f"address {who.address}", f"owner {who.owner}"

    def _who(self, event: Event) -> RequestOwner:
        """Who set an event off; found once for each event."""
        known: RequestOwner | None = getattr(event, "who", None)
        if known is None:
            known = vars(event)["who"] = self.name(event.request)
        return known

    async def process_events(self, events: list[Event], batch: bool, begin_time: float, fn: BlockFunction) -> None:
        """As gradio's, in the name of who set the event off."""
        current_owner.set(self._who(events[0]))  # of this task: every event has one of its own
        self.tasks[events[0]._id] = asyncio.current_task()
        try:
            await super().process_events(events, batch, begin_time, fn)
        finally:
            self.tasks.pop(events[0]._id, None)

    # -- leaving ------------------------------------------------------------------------------------------------------

    async def clean_events(self, *, session_hash: str | None = None, event_id: str | None = None) -> None:
        """As gradio's: a page's stream was closed before its events were over. What they do is ended too.

        Gradio looks again when such an event says its next word, which may take as long as it waits for a model.
        """
        await super().clean_events(session_hash=session_hash, event_id=event_id)
        if session_hash is None:
            return
        for leave in self.leave:
            leave(session_hash)
        for event in [event for job in self.active_jobs for event in job or ()]:
            task = self.tasks.get(event._id)
            # A thread cannot be interrupted; those of the page's streams end because of `leave`.
            if event.session_hash == session_hash and task is not None and inspect.isasyncgenfunction(event.fn.fn):
                task.cancel()

    async def _end_unheard(self) -> None:
        """End events whose messages are not read: their page has gone, or never meant to listen."""
        while not self.stopped:
            await asyncio.sleep(LOOK)
            for session in self._unread(time.monotonic()):
                await self._forget(session)

    async def _forget(self, session: str) -> None:
        """End a page's events and drop its messages, which gradio keeps for 2,000 pages."""
        await self.clean_events(session_hash=session)
        self.pending_messages_per_session.pop(session, None)

    def _unread(self, now: float) -> list[str]:
        """Sessions whose first message has been the same for too long, whether their events are over or not."""
        before, self.unheard = self.unheard, {}
        for session, messages in self.pending_messages_per_session.items():
            waiting: Any = messages._queue  # type: ignore[attr-defined]
            if waiting:
                first, since = before.get(session, (None, now))
                self.unheard[session] = (waiting[0], since if waiting[0] is first else now)
        return [session for session, (_, since) in self.unheard.items() if now - since >= UNHEARD]


class SharedStream(StreamingResponse):
    """Messages as events of a stream beside the queue, counted among the events of the visitor who reads it."""

    def __init__(self, page: gr.Blocks, request: fastapi.Request, messages: Iterator[Any]) -> None:
        sent = (b"data: " + dump_json(message) + b"\n\n" for message in messages)
        super().__init__(sent, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        queue: Any = page._queue
        self.queue, self.who = queue, queue.name(request)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As any response's; refused with 429 where the visitor has a full share."""
        with self.queue.share(self.who):
            await super().__call__(scope, receive, send)


def is_plan(event: Event) -> bool:
    """Whether an event asks for a plan."""
    return event.concurrency_id == PLAN


def _later(sentence: str) -> fastapi.HTTPException:
    return fastapi.HTTPException(429, sentence, {"Retry-After": "2"})


# -- What gradio sends of a page and remembers of every open one, made light ------------------------------------------


MOST = 1000  # sessions; of one that is forgotten the page starts its small states anew
UNREAD = frozenset({  # of a component, its properties or an event: only gradio's closed page about its API reads them
    "api_info", "api_info_as_input", "api_info_as_output", "example_inputs", "skip_api", "component_class_id",
    "_api_info", "preserved_by_key", "api_description", "collects_event_data", "max_batch_size",
})  # fmt: skip


class LightState(SessionState):
    """A session's own states and changed components; of what the page shows, nothing."""

    def __init__(self, blocks: Any) -> None:
        # The original describes every block that `blocks.blocks` holds.
        super().__init__(SimpleNamespace(default_config=blocks.default_config, blocks={}))  # type: ignore[arg-type]
        whole = blocks.default_config  # what a page gets later is the same for all, so its events are everybody's
        self.blocks_config.blocks = ChainMap({}, whole.blocks)  # type: ignore[assignment]
        self.blocks_config.fns = whole.fns
        vars(self.blocks_config)["get_config"] = lambda late: dict(late.parts)

    def __setitem__(self, key: int, value: Any) -> None:
        """As gradio's, without the description of a component that an event has changed."""
        super().__setitem__(key, value)
        self.config_values.pop(key, None)

    def _update_config(self, key: int) -> None:
        """Nothing is described."""

    def _update_value_in_config(self, key: int, value: Any) -> None:
        """No value is kept: the page has it."""


class LightSessions(StateHolder):
    """As gradio's, with light states."""

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = LightState(self.blocks)
        return super().__getitem__(session_id)


def lighten(page: gr.Blocks) -> None:
    """Make the sessions of a page light; to be called once it is mounted or launched."""
    holder = page.state_holder
    holder.__class__ = LightSessions  # the app and the page share this very object
    holder.capacity = MOST


def without_matplotlib() -> None:
    """Around every event gradio imports matplotlib. Where it is not installed, each try searches the whole path again:
    a fourth of the event loop's time with many visitors. Python is made to remember that it is not there."""
    if importlib.util.find_spec("matplotlib") is None:
        sys.modules["matplotlib"] = None  # type: ignore[assignment]


def send_light_page() -> None:
    """Have gradio leave out of the page what its script does not read, and what only calls of the API use.

    More than half of the components are arguments and answers of endpoints, others stand on tabs that open later. The
    whole configuration stays at its own address.
    """
    written: Callable[[Any], Any] = gradio.routes.toorjson
    gradio.routes.templates.env.filters["toorjson"] = lambda value: written(lighten_config(value))


def lighten_config(value: Any) -> Any:
    """What a page's script reads of gradio's configuration at first, or of its description of endpoints: nothing."""
    if not isinstance(value, dict):  # the app's address
        return value
    if "components" not in value:
        return {"named_endpoints": {}, "unnamed_endpoints": {}}
    late = list(find_late(value))
    unseen = {one["id"] for one in value["components"] if one["type"] == "api"}
    gone, later = unseen.union(*(tab.gone for tab in late)), frozenset[int]().union(*(tab.events for tab in late))
    shown = [one for one in value["components"] if one["id"] not in gone]
    components = [_without_unread(one) | {"props": _without_unread(one["props"])} for one in shown]
    asked = [one for one in value["dependencies"] if unseen.isdisjoint(one["outputs"]) and one["id"] not in later]
    layout = _without(value["layout"], gone)
    same = {"layout": layout, "dependencies": [one["id"] for one in asked]}
    pages = {
        name: same | {"components": [one for one in page["components"] if one not in gone]}
        for name, page in value["page"].items()
    }
    light = {"components": components, "dependencies": list(map(_without_unread, asked)), "layout": layout}
    return value | light | {"page": pages}


def _without(layout: dict[str, Any], gone: frozenset[int] | set[int]) -> dict[str, Any]:
    """A part of a layout without these components and all that stands in them."""
    children = [_without(one, gone) for one in layout.get("children") or () if one["id"] not in gone]
    return layout | ({"children": children} if "children" in layout else {})


def _without_unread(given: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key not in UNREAD}


def send_everything() -> None:
    """Have gradio encode every value it sends; nothing changes for those that it could encode before."""
    names = {name: value for name, value in vars(orjson).items() if not name.startswith("_")}
    vars(gradio.routes)["orjson"] = SimpleNamespace(**names | {"dumps": dump_json})


def dump_json(value: Any, default: Any = None, option: int | None = None) -> bytes:
    """As orjson's, for text that UTF-8 cannot hold too."""
    try:
        return orjson.dumps(value, default, option)
    except TypeError:
        return orjson.dumps(sendable(value), default, option)
