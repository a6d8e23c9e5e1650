"""vLLM behind HTTP: the same bits as in this process; a server that is lost, not ours or not as it must be."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_engines import ask, assert_takes_new_weights, changed_weights, sample
from test_engines_lora import ADAPTER, assert_follows
from test_engines_lora import settings as lora_settings
from test_engines_remote import requests

from rlvr.engines import base
from rlvr.engines.server import Server, server_command
from rlvr.errors import EngineError
from rlvr.policy import load_model
from rlvr.recipe import Lora, Model, VllmEngine


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_server(settings: VllmEngine, model: Model, log: Path) -> subprocess.Popen[bytes]:
    """As server_command() says, with this Python."""
    command = "exec env " + server_command(settings, model).replace(" python -m", f" {sys.executable} -m")
    with log.open("ab") as file:
        return subprocess.Popen(["bash", "-c", command], stdout=file, stderr=file, start_new_session=True)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.5)


def end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def server(folder: Path, log: Path, model: Model | None = None) -> Iterator[tuple[VllmEngine, Model, Any]]:
    """(settings, model, list with the process)"""
    model = model or Model(path=str(folder))
    settings = VllmEngine(
        mode="server", url=f"http://127.0.0.1:{free_port()}", max_num_seqs=16, max_model_len=256, timeout_seconds=240
    )
    running = [start_server(settings, model, log)]
    try:
        wait_for(str(settings.url), running[0], log)
        yield settings, model, running
    finally:
        for process in running:
            end(process)


def connect(settings: VllmEngine, model: Model) -> Server:
    engine = base.build(settings, model, load_model(model)[1], 256)
    assert isinstance(engine, Server)
    return engine


@pytest.mark.slow
@pytest.mark.vllm
def test_a_server_gives_the_same_bits_takes_new_weights_and_may_be_started_again(
    tiny_model: Path, tmp_path: Path, vllm_engine: Any
) -> None:
    inline = sample(vllm_engine, *requests())
    log = tmp_path / "log"
    with server(tiny_model, log) as (settings, model, running):
        engine = connect(settings, model)
        assert sample(engine, *requests()) == inline
        assert sample(engine) == {}
        assert_takes_new_weights(engine, tiny_model)
        generator = engine.generate(requests())
        next(generator)
        generator.close()  # the caller goes away
        new = changed_weights(load_model(Model(path=str(tiny_model)))[0])
        engine.load(new.items(), version=5)
        wanted = sample(engine, *requests())
        assert wanted != inline

        found = {}
        for id, completion in engine.generate(requests()):
            if len(found) == 3:
                end(running[0])
                running[0] = start_server(settings, model, log)
            found[id] = completion
        assert found == wanted
        assert engine.restarts == 1

        other = connect(settings, model)  # another trainer takes the server over
        with pytest.raises(EngineError, match="has got weights from another trainer; each needs its own server"):
            sample(engine, ask(0))
        with pytest.raises(EngineError, match="has got weights from another trainer"):
            engine.load(new.items(), version=6)
        other.close()

        for wrong, told in (
            ({"dtype": "bfloat16"}, "computes in float32, not in model.dtype bfloat16"),
            ({"lora": Lora()}, "takes adapters up to rank 0, model.lora.rank is 16"),
        ):
            with pytest.raises(EngineError, match=told) as caught:
                connect(settings, model.model_copy(update=wrong))
            assert "start it with: " in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("fixture", ["tiny_model", "untied_model"])
def test_a_server_samples_with_the_newest_adapter(fixture: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(fixture)
    with server(folder, tmp_path / "log", lora_settings(folder, ADAPTER)) as (settings, model, _):
        engine = connect(settings, model)
        assert_follows(engine, folder)
        names = {card["id"] for card in httpx.get(f"{settings.url}/v1/models", trust_env=False).json()["data"]}
        assert names == {str(folder), engine._adapter(engine._path)}
        engine.close()


@pytest.mark.slow
@pytest.mark.vllm
def test_a_server_with_an_untied_head_takes_new_weights(untied_model: Path, tmp_path: Path) -> None:
    with server(untied_model, tmp_path / "log") as (settings, model, _):
        engine = connect(settings, model)
        assert_takes_new_weights(engine, untied_model)
        engine.close()


# --- servers that are not as they must be ----------------------------------------------------------------------------

State = dict[str, Any]


class Stub:
    """An HTTP server of this process with the routes of vLLM; what it answers is the test's."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], tuple[int, Any]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
                status, content = answer(self.path, body)
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):
                    self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def connect_to(url: str, folder: Path, **settings: Any) -> Server:
    return connect(VllmEngine(mode="server", url=url, **settings), Model(path=str(folder)))


def test_a_server_that_is_not_there_is_told_with_the_command_that_starts_it(tiny_model: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(EngineError) as caught:
        connect_to(url, tiny_model)
    told = str(caught.value)
    assert told.startswith(f"engine.url: {url} does not answer: ") and "\n" not in told
    assert f"--port {url.rpartition(':')[2]} --model {tiny_model} --dtype float32" in told
    assert "--worker-extension-cls rlvr.engines.extension.WeightSync" in told
    for wrong in ("8000", "127.0.0.1:8000", "http://127.0.0.1:99999", "ftp://127.0.0.1"):
        with pytest.raises(ValueError, match=r"such as http://127\.0\.0\.1:8000|Port out of range"):
            VllmEngine(mode="server", url=wrong)


def vllm_like(prompt: Callable[[list[int]], list[int]] = lambda ids: ids, **state: Any) -> Any:
    """Answers like a vLLM of tiny_model whose every completion is 66, 1."""
    held: State = {"owner": "", "version": 0, "dtype": "float32", "logprobs_mode": "processed_logprobs"}
    held |= {"max_lora_rank": 0, "shape": ["qwen3", 259, 64, 2], **state}

    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/health":
            return 200, {}
        if path == "/v1/models":
            return 200, {"data": [{"id": "m", "root": "m", "max_model_len": 256}]}
        if path == "/collective_rpc" and body["method"] == "rlvr_state":
            return 200, {"results": [held]}
        if path == "/collective_rpc":
            held.update(owner=body["kwargs"]["owner"], version=body["kwargs"]["version"])
            return 200, {"results": [None]}
        if path == "/v1/completions":
            logprobs = {"token_logprobs": [-0.25, -0.5]}
            choice = {"token_ids": [66, 1], "logprobs": logprobs, "finish_reason": "stop"}
            return 200, {"choices": [{**choice, "prompt_token_ids": prompt(body["prompt"])}]}
        return 404, {"detail": "Not Found"}

    return answer


@pytest.fixture
def stub() -> Iterator[Callable[[Any], str]]:
    running: list[Stub] = []
    yield lambda answer: (running.append(Stub(answer)), running[-1].url)[1]
    for one in running:
        one.close()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda path, body: (404, {"detail": "Not Found"}), r"/v1/models answers with 404"),
        (lambda path, body: (200, b"<html>"), "answers with what is no JSON"),
        (lambda path, body: (200, {}), "is no vLLM server: it serves no model"),
        (
            lambda path, body: (500, {}) if path == "/collective_rpc" else vllm_like()(path, body),
            r"/collective_rpc answers with 500: .*is it without our extension\? Start it with: ",
        ),
        (vllm_like(logprobs_mode="raw_logprobs"), "gives raw_logprobs, which leave out the temperature"),
    ],
)
def test_a_server_that_is_not_ours_is_refused(answer: Any, told: str, stub: Any, tiny_model: Path) -> None:
    with pytest.raises(EngineError, match=told) as caught:
        connect_to(stub(answer), tiny_model)
    assert "\n" not in str(caught.value)


def test_a_server_of_another_model_is_refused(stub: Any, tiny_model: Path) -> None:
    with pytest.raises(EngineError, match=rf"serves m \(\['llama', 1, 2, 3\]\), not {tiny_model}"):
        connect_to(stub(vllm_like(shape=["llama", 1, 2, 3])), tiny_model)


def test_a_server_that_changes_the_prompt_is_caught(stub: Any, tiny_model: Path) -> None:
    good = connect_to(stub(vllm_like()), tiny_model)
    completion = sample(good, ask(1, n=1))["1/task:1/0"]
    assert (completion.token_ids, completion.logprobs, completion.finish) == ((66, 1), (-0.25, -0.5), "stop")
    adds_bos = connect_to(stub(vllm_like(lambda ids: [2, *ids])), tiny_model)
    with pytest.raises(EngineError, match=r"from another prompt: \[2, 60\] instead of \[60\]"):
        sample(adds_bos, ask(1))
    good.close()
    adds_bos.close()


@pytest.mark.parametrize(
    ("status", "content", "told"),
    [
        (400, {"error": "too long"}, r"/v1/completions answers with 400: .*too long"),
        (200, {"choices": []}, r"answers not as vLLM does \(IndexError"),
        (503, {}, r"the server was lost 4 times in a row: .* answers with 503"),
    ],
)
def test_a_server_that_refuses_babbles_or_keeps_failing_ends_the_run(
    status: int, content: Any, told: str, stub: Any, tiny_model: Path
) -> None:
    good = vllm_like()
    url = stub(lambda path, body: (status, content) if path == "/v1/completions" else good(path, body))
    engine = connect_to(url, tiny_model, timeout_seconds=5.0)
    with pytest.raises(EngineError, match=told) as caught:
        sample(engine, ask(1))
    assert "\n" not in str(caught.value)
    engine.close()


def test_a_server_that_falls_silent_counts_as_lost_and_only_the_unfinished_are_asked_again(
    stub: Any, tiny_model: Path
) -> None:
    good, asked = vllm_like(), []

    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/v1/completions":
            asked.append(body["seed"])
            if len(asked) == 2:
                time.sleep(4)
        return good(path, body)

    engine = connect_to(stub(answer), tiny_model, timeout_seconds=1.0)
    request = ask(1, n=3)
    assert set(sample(engine, request)) == set(request.sample_ids)
    assert engine.restarts == 1
    assert sorted(asked) == sorted([*request.seeds, asked[1]])
    engine.close()
