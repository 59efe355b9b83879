"""Rollouts from a server: a scripted one for every way to go wrong, and a real `transformers serve`."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rmx.config import ASSETS
from rmx.data.problem_sets import load_set
from rmx.engine.token_draws import prompt_key, uniform
from rmx.errors import TrainError
from rmx.models.load import Model
from rmx.models.stand_ins import byte_tokenizer
from rmx.models.style_options import StyleOptions
from rmx.prompt_styles import STYLES
from rmx.records import Problem, Rollout
from rmx.runs.recipe import RolloutConfig
from rmx.train import rollout_server as rollouts_server
from rmx.train.rollout_server import PARALLEL, Address, Report, server_rollouts

pytestmark = pytest.mark.slow

PROBLEMS = [Problem("a", "1 + 1?", "2"), Problem("b", "2 + 2?", "4")]
CONFIG = RolloutConfig(k=3, temperature=0.6, top_p=0.95, max_new_tokens=20)
TEXT = "So \\boxed{2}"
IDS = byte_tokenizer()(TEXT)["input_ids"]

Reply = tuple[int, dict[str, str], Any]  # status, headers, JSON or bytes
Script = Callable[[str, dict[str, Any]], Reply]  # path and body to a reply


class Patient(ThreadingHTTPServer):
    """Does not mind who hangs up before the answer."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        assert isinstance(sys.exception(), BrokenPipeError | ConnectionResetError)


class Scripted:
    """A server on loopback that answers by a function and remembers what it was asked."""

    def __init__(self, script: Script) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer({})

            def do_POST(self) -> None:
                self.answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

            def answer(self, body: dict[str, Any]) -> None:
                outer.asked.append((self.path, body | {"key": self.headers.get("authorization")}))
                status, headers, content = script(self.path, body)
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in ({"content-type": "application/json"} | headers).items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = Patient(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[[Script], Scripted]]:
    monkeypatch.setattr(rollouts_server, "FIRST_PAUSE", 0.01)
    running: list[Scripted] = []

    def begin(script: Script) -> Scripted:
        running.append(Scripted(script))
        return running[-1]

    yield begin
    for server in running:
        server.close()


def ok(content: Any, **headers: str) -> Reply:
    return 200, headers, content


def models(*names: str) -> Reply:
    return ok({"object": "list", "data": [{"id": name} for name in names]})


def completion(text: str = TEXT, end: str = "stop", usage: dict[str, int] | None = None, **more: Any) -> Reply:
    return ok({"choices": [{"index": 0, "text": text, "finish_reason": end, **more}], "usage": usage or {}})


def vllm(path: str, body: dict[str, Any]) -> Reply:
    """As vLLM answers: it takes ids and tells them."""
    if path == "/v1/models":
        return models("tiny")
    told = [*IDS, 256][: body["max_tokens"]]
    return completion(token_ids=told, prompt_token_ids=body["prompt"], end="length" if told[-1] != 256 else "stop")


def every(server: Scripted, model: Model, **options: Any) -> list[Rollout]:
    done = options.pop("done", {})
    return list(server_rollouts(server.url, model, PROBLEMS, options.pop("config", CONFIG), 7, done, **options))


def seed_of(model: Model, problem: str, gen: int) -> int:
    text = next(p.problem for p in PROBLEMS if p.id == problem)
    return int(uniform(7, prompt_key(model.prompt_ids(text)), gen, 0) * 2**31)


def refused(server: Scripted | str, model: Model) -> str:
    url = server if isinstance(server, str) else server.url
    with pytest.raises(TrainError) as caught:
        list(server_rollouts(url, model, PROBLEMS, CONFIG, 7, {}))
    return str(caught.value)


# -- servers that tell ids --------------------------------------------------------------------------------------------


def test_told_ids_are_taken_as_they_are(tiny, serve) -> None:
    server, report = serve(vllm), Report()
    found = every(server, tiny, report=report)
    assert sorted((r.problem_id, r.gen_index) for r in found) == [(p, gen) for p in "ab" for gen in range(3)]
    for r in found:
        problem = next(p for p in PROBLEMS if p.id == r.problem_id)
        assert r.prompt_ids == tiny.prompt_ids(problem.problem)
        assert r.completion_ids == (*IDS, 256)
        assert (r.answer, r.correct, r.stop, r.entropies) == ("2", r.problem_id == "a", "eos", None)
    assert (report.told, report.read_again, report.doubtful) == (6, 0, 0)


def test_what_is_asked(tiny, serve) -> None:
    server = serve(vllm)
    every(server, tiny, done={("a", 0): 5, ("a", 2): 5, ("b", 1): 5})
    asked = [body for path, body in server.asked if path == "/v1/completions"][1:]  # the first found out how to ask
    assert sorted(tiny.detokenizer.text(b["prompt"])[:5] for b in asked) == ["1 + 1", "2 + 2", "2 + 2"]
    assert {b["seed"] for b in asked} == {seed_of(tiny, *key) for key in (("a", 1), ("b", 0), ("b", 2))}
    first = asked[0]
    assert (first["model"], first["max_tokens"], first["temperature"], first["top_p"]) == ("tiny", 20, 0.6, 0.95)
    assert first["return_token_ids"] is True
    assert (first["top_k"], first["min_p"], first["repetition_penalty"]) == (-1, 0.0, 1.0)


def test_nothing_missing_asks_nobody(tiny) -> None:
    done = {(p.id, gen): 1 for p in PROBLEMS for gen in range(3)}
    assert list(server_rollouts("http://127.0.0.1:9", tiny, PROBLEMS, CONFIG, 7, done)) == []


def test_an_end_token_that_is_not_told_is_added_and_a_limit_is_not(tiny, serve) -> None:
    def script(path, body):
        ended = body.get("seed") == seed_of(tiny, "a", 1)
        return models("tiny") if path == "/v1/models" else completion(
            token_ids=[65, 66], end="stop" if ended else "length"
        )  # fmt: skip

    found = {r.gen_index: r for r in every(serve(script), tiny) if r.problem_id == "a"}
    assert (found[1].completion_ids, found[1].stop) == ((65, 66, 256), "eos")
    assert (found[0].completion_ids, found[0].stop) == ((65, 66), "length")


def test_a_full_context_is_told_from_a_limit(tiny, serve) -> None:
    script = lambda path, body: models("x") if path == "/v1/models" else completion(token_ids=[65], end="length")  # noqa: E731
    server = serve(script)
    found = every(server, tiny, config=replace(CONFIG, max_new_tokens=5000))
    assert {r.stop for r in found} == {"context"}
    prompt = len(tiny.prompt_ids(PROBLEMS[0].problem))
    assert server.asked[-1][1]["max_tokens"] == tiny.engine.context - prompt


TALK = "It is 2.\nHuman: and 3?"
TALK_IDS = byte_tokenizer()(TALK)["input_ids"]
CUT_AT = len("It is 2.\nHuman:")
STOPPED = StyleOptions(stops=("Human:", "<|end|>"))


@pytest.mark.parametrize(
    ("told", "reason", "stop", "kept"),
    [
        (TALK_IDS[:CUT_AT], "Human:", "stop_sequence", TALK_IDS[:CUT_AT]),
        (TALK_IDS, None, "stop_sequence", TALK_IDS[:CUT_AT]),  # a server that knows no stop texts
        (TALK_IDS[:5], 256, "eos", [*TALK_IDS[:5], 256]),
        (TALK_IDS[:5], None, "eos", [*TALK_IDS[:5], 256]),
    ],
)
def test_stop_texts_are_asked_for_and_end_a_completion(tiny, serve, told, reason, stop, kept) -> None:
    def script(path, body):
        if path == "/v1/models":
            return models("tiny")
        return completion(token_ids=told, prompt_token_ids=body["prompt"], stop_reason=reason)

    server = serve(script)
    found = every(server, tiny.ask_in(STOPPED), done={("b", gen): 1 for gen in range(3)})
    assert {(r.completion_ids, r.stop) for r in found} == {(tuple(kept), stop)}
    assert all(r.answer == "2" and r.correct for r in found if stop == "stop_sequence")
    body = server.asked[-1][1]
    assert (body["stop"], body["stop_token_ids"]) == (["Human:", "<|end|>"], [256])
    assert body["include_stop_str_in_output"] is True


def test_a_server_of_texts_is_not_asked_for_stop_texts_and_its_texts_are_cut(tiny, serve) -> None:
    def script(path, body):
        if path == "/v1/models":
            return models("tiny")
        if not isinstance(body["prompt"], str):
            return 400, {}, {"detail": "prompt must be a string."}
        return completion(TALK, usage={"completion_tokens": len(TALK) + 1})

    server, report = serve(script), Report()
    found = every(server, tiny.ask_in(STOPPED), report=report)
    assert {(r.completion_ids, r.stop) for r in found} == {(tuple(TALK_IDS[:CUT_AT]), "stop_sequence")}
    assert report.doubtful == 0
    assert "stop" not in server.asked[-1][1]


def test_what_a_server_has_cut_off_is_wrong(tiny, serve) -> None:
    def script(path, body):
        return models("tiny") if path == "/v1/models" else completion(token_ids=[*IDS, 50][:20], end="length")

    found = [r for r in every(serve(script), tiny) if r.problem_id == "a"]
    assert [(r.answer, r.correct, r.stop) for r in found] == [("2", False, "length")] * 3


# -- servers that tell text -------------------------------------------------------------------------------------------


def text_only(path: str, body: dict[str, Any]) -> Reply:
    """As `transformers serve` answers: text in, text out, unknown fields refused."""
    if path == "/v1/models":
        return 500, {}, b"Internal Server Error"
    if unknown := set(body) - {"prompt", "max_tokens", "temperature", "top_p", "seed", "generation_config"}:
        return 422, {}, {"detail": f"Unexpected fields in the request: {sorted(unknown)}"}
    if not isinstance(body["prompt"], str):
        return 400, {}, {"detail": "prompt must be a string."}
    return completion(usage={"prompt_tokens": len(body["prompt"]), "completion_tokens": len(TEXT) + 1})


def test_a_server_of_texts_is_asked_with_text_and_told_how_to_sample(tiny, serve, caplog) -> None:
    server, report = serve(text_only), Report()
    found = every(server, tiny, report=report)
    assert {r.completion_ids for r in found} == {(*IDS, 256)}
    assert (report.told, report.read_again, report.doubtful, report.share) == (0, 6, 0, 0.0)
    body = server.asked[-1][1]
    assert body["prompt"] in {tiny.prompt(p.problem) for p in PROBLEMS}
    told = json.loads(body["generation_config"])
    assert (told["do_sample"], told["top_k"], told["temperature"], told["eos_token_id"]) == (True, 0, 0.6, [256])
    assert "tokenised again" in caplog.text


@pytest.mark.parametrize(
    ("text", "end", "counted", "doubtful"),
    [
        (TEXT, "stop", len(TEXT), 0),  # some servers do not count the end token
        (TEXT, "stop", len(TEXT) - 1, 3),  # it was another tokenisation
        (TEXT, "length", len(TEXT), 0),
        (TEXT, "length", len(TEXT) + 1, 3),
        (TEXT, "length", None, 3),  # nothing shows that they are the same
        (f"{TEXT}<|end|>", "stop", len(TEXT) + 1, 0),
        ("cut \ud83d", "stop", 5, 3),  # the text does not come back from the ids
    ],
)
def test_doubtful_ids_are_counted(tiny, serve, caplog, text, end, counted, doubtful) -> None:
    def script(path, body):
        if path == "/v1/models":
            return models("tiny")
        return completion(text, end, usage={} if counted is None else {"completion_tokens": counted})

    report = Report()
    found = every(serve(script), tiny, report=report, done={("b", gen): 1 for gen in range(3)})
    assert (len(found), report.doubtful) == (3, doubtful)
    assert ("may have been" in caplog.text) == bool(doubtful)
    assert all((r.completion_ids[-1] == 256) == (end == "stop") for r in found)


def chatty(model: Model) -> Model:
    model.style = STYLES["chat"]
    model.tokenizer.chat_template = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"
    return model


def test_a_server_of_chats_is_asked_last(tiny, serve) -> None:
    def script(path, body):
        if path != "/v1/chat/completions":
            return 404, {}, {"detail": "Not Found"}
        message = {"role": "assistant", "content": TEXT}
        return ok({"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": 8}})

    server = serve(script)
    found = every(server, chatty(tiny))
    assert {r.completion_ids for r in found} == {(*IDS, 256)}
    assert {tiny.detokenizer.text(r.prompt_ids) for r in found} == {"<1 + 1?>", "<2 + 2?>"}
    assert server.asked[-1][1]["messages"][0]["content"] in ("1 + 1?", "2 + 2?")


def test_a_server_of_chats_is_told_the_system_line_and_whether_to_think(tiny, serve) -> None:
    def script(path, body):
        if path != "/v1/chat/completions":
            return 404, {}, {"detail": "Not Found"}
        return ok({"choices": [{"message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}]})

    server, model = serve(script), chatty(tiny)
    model.tokenizer.chat_template += "{# enable_thinking #}"
    every(server, model.ask_in(StyleOptions(system="Be brief.", thinking=False)))
    body = server.asked[-1][1]
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert body["messages"][0]["content"] == "Be brief."
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_split_off_reasoning_is_refused(tiny, serve) -> None:
    message = {"content": TEXT, "reasoning_content": "hm"}
    script = lambda path, body: (  # noqa: E731
        ok({"choices": [{"message": message, "finish_reason": "stop"}]}) if "chat" in path else (404, {}, {})
    )
    assert "without a reasoning parser" in refused(serve(script), chatty(tiny))


def test_a_server_that_takes_ids_for_prompts_is_asked_with_text(tiny, serve) -> None:
    def script(path, body):
        if path == "/v1/models":
            return models("tiny")
        prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        return ok({"choices": [{"text": TEXT, "finish_reason": "stop"} for _ in prompts]})

    server = serve(script)
    assert {r.completion_ids for r in every(server, tiny)} == {(*IDS, 256)}
    assert isinstance(server.asked[-1][1]["prompt"], str)


def test_a_server_that_does_not_sample_is_told_of(tiny, serve, caplog) -> None:
    asked = [*PROBLEMS, Problem("c", "3 + 3?", "6")]
    list(server_rollouts(serve(vllm).url, tiny, asked, CONFIG, 7, {}))
    assert "it does not sample" in caplog.text
    caplog.clear()

    def sampling(path, body):
        if path == "/v1/models":
            return models("tiny")
        return completion(token_ids=[65 + body["seed"] % 20], end="length")

    list(server_rollouts(serve(sampling).url, tiny, asked, CONFIG, 7, {}))
    assert "sample" not in caplog.text


# -- which model ------------------------------------------------------------------------------------------------------


def test_the_model_is_found_by_its_name_or_named_behind_the_address(tiny, serve) -> None:
    def script(path, body):
        if path == "/v1/models":
            return models("big", "tiny", "other one")
        if body.get("model") not in ("tiny", "other one"):
            return 404, {}, {"error": {"message": f"The model `{body.get('model')}` does not exist."}}
        return completion(token_ids=[65])

    server = serve(script)
    assert {b["model"] for _, b in server.asked[1:]} == set()
    every(server, tiny)
    assert server.asked[-1][1]["model"] == "tiny"
    server.url += "/v1/#other%20one"
    every(server, tiny)
    assert server.asked[-1][1]["model"] == "other one"
    tiny.spec = "mine"
    said = refused(server.url.partition("/v1")[0], tiny)
    assert "does not have the model (The model `mine` does not exist.). It has big, tiny, other one." in said
    assert f"{server.url.partition('/v1')[0]}/v1#NAME" in said


def test_another_tokenizer_is_noticed(tiny, serve) -> None:
    def script(path, body):
        return models("tiny") if path == "/v1/models" else completion(usage={"prompt_tokens": 3})

    assert "reads the prompt as 3 tokens that are not the" in refused(serve(script), tiny)
    script = lambda path, body: completion(token_ids=[65], prompt_token_ids=[1, 2])  # noqa: E731
    assert "It serves another model" in refused(serve(script), tiny)
    script = lambda path, body: completion(token_ids=[65, 300])  # noqa: E731
    assert "token ids outside 0 to 257" in refused(serve(script), tiny)


# -- what can go wrong ------------------------------------------------------------------------------------------------


def test_a_busy_server_is_asked_again(tiny, serve) -> None:
    lock, seen = threading.Lock(), set[int]()

    def script(path, body):
        if path == "/v1/models":
            return models("tiny")
        with lock:
            fresh = len(seen) < 4 and body["max_tokens"] > 1 and body["seed"] not in seen
            seen.add(body["seed"])
        return (503, {"retry-after": "0"}, {"error": "busy"}) if fresh else vllm(path, body)

    assert len(every(serve(script), tiny)) == 6


def test_a_server_that_stays_busy_is_given_up(tiny, serve) -> None:
    server = serve(lambda path, body: models("t") if path == "/v1/models" else (429, {}, {"error": "slow down"}))
    assert "answered 429 (slow down). Check that it is running and not overloaded" in refused(server, tiny)
    assert len(server.asked) == 1 + rollouts_server.ATTEMPTS


def test_a_refused_connection_is_a_sentence(tiny) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    assert f"http://127.0.0.1:{port}/v1 cannot be reached" in refused(f"http://127.0.0.1:{port}", tiny)
    assert time.monotonic() - began < 5  # no patience with a server that was never there


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((200, {"content-type": "text/html; charset=utf-8"}, b"<html>"), "answered with text/html instead of JSON"),
        ((200, {}, b'{"choices": ['), "sent broken JSON"),
        ((200, {}, b"[" * 100_000), "sent broken JSON"),
        ((200, {}, {"choices": []}), "sent no completion in it"),
        ((200, {}, [1]), "sent no completion in it"),
        ((200, {}, {"choices": [{"text": "a", "finish_reason": "abort"}]}), 'sent a completion that ended by "abort"'),
        ((200, {}, {"choices": [{"text": "", "finish_reason": "length"}]}), "sent an empty completion"),
        ((302, {"location": "http://example.org/"}, b""), "sends us on to http://example.org/, which is not followed"),
        ((401, {}, {"error": "no"}), "asks for a key (401). Put it into the variable RMX_SERVER_KEY"),
        ((404, {}, {"detail": "Not Found"}), "There is no OpenAI-compatible server at"),
        ((400, {}, {"error": {"message": "unknown shape"}}), "takes no request for a completion (400: unknown shape)"),
        ((500, {}, b"Traceback\nmore"), "takes no request for a completion (500: Traceback)"),
    ],
)
def test_answers_that_cannot_be_used(tiny, serve, reply, message) -> None:
    server = serve(lambda path, body: models("tiny") if path == "/v1/models" else reply)
    assert message in refused(server, tiny)


def test_a_long_answer_is_not_read_to_its_end(tiny, serve, monkeypatch) -> None:
    monkeypatch.setattr(rollouts_server, "MAX_BYTES", 1000)
    assert "is longer than" in refused(serve(lambda path, body: ok(b" " * 2000)), tiny)


def test_a_key_is_sent_to_that_server_alone(tiny, serve, monkeypatch) -> None:
    server = serve(vllm)
    every(server, tiny)
    assert {b["key"] for _, b in server.asked} == {None}
    monkeypatch.setenv("RMX_SERVER_KEY", "secret")
    every(server, tiny)
    assert server.asked[-1][1]["key"] == "Bearer secret"


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x/v1", "http://", "http://x:port/"])
def test_addresses_that_are_none(url) -> None:
    with pytest.raises(TrainError, match=r"is no server's address.*http://localhost:8000/v1"):
        Address.of(url)


def test_addresses() -> None:
    assert Address.of(" http://h:1 ") == Address.of("http://h:1/v1/") == Address("http://h:1/v1", None)
    assert Address.of("https://h/api/v1#a/b") == Address("https://h/api/v1", "a/b")
    assert [Address.of(f"http://{h}").local for h in ("localhost", "127.0.0.1:9", "[::1]:80", "h")] == [
        True, True, True, False,
    ]  # fmt: skip
    with pytest.raises(TrainError, match="RMX_SERVER_KEY"):
        Address.of("http://me:pw@h/v1")


def test_requests_are_bounded_and_a_cancel_does_not_wait_for_them(tiny, serve) -> None:
    release, lock, now, most = threading.Event(), threading.Lock(), [0], [0]

    def script(path, body):
        if path == "/v1/models" or body["max_tokens"] == 1:
            return vllm(path, body)
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        release.wait(20)
        return vllm(path, body)

    server, began = serve(script), time.monotonic()
    config = replace(CONFIG, k=PARALLEL)
    assert every(server, tiny, config=config, cancelled=lambda: time.monotonic() - began > 2) == []
    assert time.monotonic() - began < 6
    release.set()
    assert most[0] <= PARALLEL


def test_what_came_before_a_fault_was_handed_over(tiny, serve) -> None:
    def script(path, body):
        fails = path != "/v1/models" and body["seed"] == seed_of(tiny, "b", 2) and body["max_tokens"] > 1
        return (400, {}, {"error": "out of ideas"}) if fails else vllm(path, body)

    found: list[Rollout] = []
    with pytest.raises(TrainError, match="refused a request that it took before"):
        found.extend(server_rollouts(serve(script).url, tiny, PROBLEMS, CONFIG, 7, {("a", 2): 9}))
    assert ("b", 2) not in {(r.problem_id, r.gen_index) for r in found}


# -- a real one -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """`transformers serve` with the miniature."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(ASSETS / "mini"), "--device", "cpu",
               "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}, **quiet)
    try:
        for _ in range(300):
            assert process.poll() is None, "transformers serve ended by itself"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (urllib.error.URLError, TimeoutError):
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_transformers_serve_gives_rollouts(mini, served) -> None:
    report, problems = Report(), load_set("mini:train")[:2]
    config = RolloutConfig(k=3, temperature=1.0, top_p=1.0, max_new_tokens=96)
    done = {(problems[0].id, 1): 40}
    found = list(server_rollouts(served, mini, problems, config, 3, done, report=report))
    assert len(found) == 5
    assert (report.told, report.doubtful) == (0, 0)
    for r in found:
        assert r.prompt_ids == mini.prompt_ids(next(p for p in problems if p.id == r.problem_id).problem)
        assert r.stop == "eos"
        assert r.completion_ids[-1] in mini.stop_ids
        assert r.answer is not None
    assert len({r.completion_ids for r in found if r.problem_id == problems[1].id}) > 1  # it samples
    said = refused(f"{served}#nobody", mini)
    assert "does not have the model" in said
    assert "requested 'nobody'" in said
