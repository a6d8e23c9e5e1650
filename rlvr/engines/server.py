"""vLLM behind HTTP (engine.mode: server): a server that somebody started, as server_command() says.

Weights go by a folder that both see (engine.weights_dir; in memory on one machine) and our worker extension, adapters
by vLLM's own route under a new name per version. Where the server is gone, or was started again, it is waited for, gets
the present weights, and what was not finished is asked for again with the same seeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import shlex
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from rlvr.chat import end_token_ids
from rlvr.engines import pipe
from rlvr.engines.extension import SHAPE
from rlvr.engines.vllm import completion, environment, room_for
from rlvr.engines.weights import Weights
from rlvr.errors import EngineError, RlvrError
from rlvr.failpoints import failpoint
from rlvr.recipe import Model, VllmEngine
from rlvr.types import Completion, Request

if TYPE_CHECKING:
    from torch import Tensor

_MOST_DEATHS = 3
"""One after the other without a completion between."""
_CONNECT_SECONDS = 10.0
_POLL_SECONDS = 0.5


_LOST = (500, 502, 503)
"""What vLLM answers a completion with when its engine has died, and a proxy when vLLM has."""


class _Gone(Exception):
    """The server does not answer, or is not the one that got the weights; says how."""


class _Stale(_Gone):
    """It has other weights than were sent."""


class Server:
    """Engine (types.Engine) over an OpenAI-compatible vLLM server with our extension."""

    def __init__(self, settings: VllmEngine, model: Model, tokenizer: Any, longest: int | None = None) -> None:
        """EngineError where the server is not there, or not as it must be."""
        assert settings.url is not None
        self.settings, self.model, self.tokenizer, self.longest = settings, model, tokenizer, longest
        self.url = settings.url.rstrip("/")
        self.version = 0
        self.restarts = 0
        """Times that the server was lost and found again."""
        self.end_ids = end_token_ids(model.path, tokenizer)
        self._owner = uuid.uuid4().hex
        self._deaths = 0
        self._weights = Weights(settings.weights_dir)
        self._path: Path | None = None
        """Folder of the present version; None: the model as the server started with it."""
        self._http = httpx.Client(
            trust_env=False, timeout=httpx.Timeout(settings.timeout_seconds, connect=_CONNECT_SECONDS)
        )
        try:
            self._name = self._check()
            self._adopt(0)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            self.close()
            if isinstance(error, RlvrError):
                raise
            told = f"{type(error).__name__}: {error}"
            raise EngineError(f"engine.url: {self.url} answers not as vLLM does ({told})") from None
        except _Gone as gone:
            self.close()
            raise EngineError(f"engine.url: {gone}; start it with: {server_command(settings, model)}") from None
        except BaseException:
            self.close()
            raise

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[str, Completion]]:
        missing = pipe.samples(requests)
        while missing:
            try:
                self._check_state()
                for id, found in self._sample(missing):
                    del missing[id]
                    self._deaths = 0
                    yield id, found
                self._check_state()
            except _Gone as gone:
                if missing:
                    self._find_again(gone)
                elif isinstance(gone, _Stale):
                    raise EngineError(
                        f"engine.url: {gone} while it sampled: what it gave is of unknown weights"
                    ) from None

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        path = self._weights.write(weights, version, self.model.lora)
        failpoint("sync")
        while True:
            try:
                self._check_owner(self._state())
                self._send(path, version)
                break
            except _Gone as gone:
                self._find_again(gone)
        old, self._path, self.version = self._path, path, version
        if old is not None and self.model.lora is not None:
            self._unload(old)
        self._weights.keep_only(path)

    def sleep(self) -> None:
        """Nothing: the server's memory is its own."""

    def wake(self) -> None:
        """The counterpart of sleep()."""

    def close(self) -> None:
        if self._path is not None and self.model.lora is not None:
            with contextlib.suppress(_Gone, EngineError):
                self._unload(self._path)
        self._http.close()
        self._weights.close()

    # --- the server and its state ------------------------------------------------------------------------------------

    def _check(self) -> str:
        """The model's name at the server. EngineError where the server is of no use for this recipe."""
        cards = self._get("/v1/models").get("data") or []
        served = next((card for card in cards if not card.get("parent")), None)
        if served is None:
            raise EngineError(f"engine.url: {self.url} is no vLLM server: it serves no model")
        state = self._state()
        own = _shape(self.model.path)
        room = self._room = int(served["max_model_len"])
        wanted = self.settings.max_model_len or self.longest
        problem = None
        if state["shape"] != own:
            problem = f"serves {served.get('root')} ({state['shape']}), not {self.model.path} ({own})"
        elif state["dtype"] != self.model.dtype:
            problem = f"computes in {state['dtype']}, not in model.dtype {self.model.dtype}"
        elif state["logprobs_mode"] != "processed_logprobs":
            problem = f"gives {state['logprobs_mode']}, which leave out the temperature"
        elif self.model.lora is not None and state["max_lora_rank"] < self.model.lora.rank:
            problem = f"takes adapters up to rank {state['max_lora_rank']}, model.lora.rank is {self.model.lora.rank}"
        elif wanted and room < wanted:
            problem = f"has room for {room} tokens, and {wanted} are needed"
        if problem:
            command = server_command(self.settings, self.model)
            raise EngineError(f"engine.url: {self.url} {problem}; start it with: {command}")
        return str(served["id"])

    def _state(self) -> dict[str, Any]:
        return self._rpc("rlvr_state", {})[0]

    def _check_owner(self, state: Mapping[str, Any]) -> None:
        if not state["owner"]:
            raise _Stale(f"{self.url} was started again")
        if state["owner"] != self._owner:
            raise EngineError(f"engine.url: {self.url} has got weights from another trainer; each needs its own server")

    def _check_state(self) -> None:
        """_Gone where the server has not the present weights."""
        state = self._state()
        self._check_owner(state)
        if state["version"] != self.version:
            raise _Stale(f"{self.url} has version {state['version']} of the weights, not {self.version}")

    def _adopt(self, version: int) -> None:
        self._rpc("rlvr_adopt", {"version": version, "owner": self._owner})

    def _send(self, path: Path, version: int) -> None:
        if self.model.lora is not None:
            body = {"lora_name": self._adapter(path), "lora_path": str(path)}
            answer = self._request("POST", "/v1/load_lora_adapter", body)
            # the name is this version's alone: a server that has it got it before it was lost
            if answer.status_code != 200 and "already been loaded" not in answer.text:
                raise _refused(self.url, "/v1/load_lora_adapter", answer)
            self._adopt(version)
            return
        self._rpc("rlvr_load", {"path": str(path), "version": version, "owner": self._owner})
        if not (self._post("/reset_prefix_cache") or {}).get("success"):
            raise EngineError(f"{self.url} kept its prefix cache, which is of the weights before version {version}")

    def _unload(self, path: Path) -> None:
        """Let the server forget an adapter; one that was started again has none to forget."""
        answer = self._request("POST", "/v1/unload_lora_adapter", {"lora_name": self._adapter(path)})
        if answer.status_code not in (200, 404):
            raise _refused(self.url, "/v1/unload_lora_adapter", answer)

    def _adapter(self, path: Path) -> str:
        return f"rlvr-{self._owner}-{path.name}"

    def _find_again(self, gone: _Gone) -> None:
        """Wait until the server is there and has the present weights."""
        self._deaths += 1
        if self._deaths > _MOST_DEATHS:
            raise EngineError(f"engine.url: the server was lost {self._deaths} times in a row: {gone}")
        deadline = time.monotonic() + self.settings.timeout_seconds
        while True:
            try:
                self._get("/health")
                self._check()
                state = self._state()
                if state["owner"]:
                    self._check_owner(state)
                if self._path is None or not state["owner"]:
                    self._adopt(0)
                if self._path is not None and (state["owner"], state["version"]) != (self._owner, self.version):
                    self._send(self._path, self.version)
                break
            except _Gone as still:
                if time.monotonic() > deadline:
                    raise EngineError(
                        f"engine.url: {gone}, and did not come back within {self.settings.timeout_seconds:g} s "
                        f"({still}); start it with: {server_command(self.settings, self.model)}"
                    ) from None
                time.sleep(_POLL_SECONDS)
        self.restarts += 1

    def _get(self, path: str) -> dict[str, Any]:
        return self._json("GET", path, None)

    def _post(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._json("POST", path, body)

    def _rpc(self, method: str, kwargs: Mapping[str, Any]) -> list[Any]:
        try:
            return self._post("/collective_rpc", {"method": method, "kwargs": kwargs})["results"]
        except EngineError as error:
            command = server_command(self.settings, self.model)
            raise EngineError(f"{error}: is it without our extension? Start it with: {command}") from None

    def _json(self, verb: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        answer = self._request(verb, path, body)
        if answer.status_code != 200:
            raise _refused(self.url, path, answer)
        try:
            found = answer.json() if "json" in answer.headers.get("content-type", "") else {}
        except (ValueError, RecursionError):
            raise EngineError(f"engine.url: {self.url}{path} answers with what is no JSON") from None
        if not isinstance(found, dict):
            raise EngineError(f"engine.url: {self.url}{path} answers not as vLLM does")
        return found

    def _request(self, verb: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        try:
            answer = self._http.request(verb, self.url + path, json=body)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise EngineError(f"engine.url: {self.url} is no URL such as http://127.0.0.1:8000: {error}") from None
        except httpx.HTTPError as error:
            raise _Gone(f"{self.url} does not answer: {str(error) or type(error).__name__}") from None
        if answer.status_code in (502, 503):
            raise _Gone(f"{self.url} answers with {answer.status_code}")
        return answer

    # --- sampling ----------------------------------------------------------------------------------------------------

    def _sample(self, missing: Mapping[str, Request]) -> Iterator[tuple[str, Completion]]:
        """Completions of all, as they come. _Gone where the server is lost, or silent for timeout_seconds."""
        found: queue.SimpleQueue[tuple[str, Completion] | Exception] = queue.SimpleQueue()
        asked = _Asked(self, missing, found)
        try:
            for _ in range(len(missing)):
                try:
                    item = found.get(timeout=self.settings.timeout_seconds)
                except queue.Empty:
                    seconds = self.settings.timeout_seconds
                    raise _Gone(f"{self.url} gave nothing for {seconds:g} s (engine.timeout_seconds)") from None
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            asked.stop()

    def body(self, request: Request) -> dict[str, Any]:
        """What is asked of /v1/completions."""
        sampling = request.sampling
        return {
            "model": self._name if self._path is None or self.model.lora is None else self._adapter(self._path),
            "prompt": list(request.prompt_ids),
            "seed": request.seeds[0],
            "temperature": sampling.temperature,
            "max_tokens": min(sampling.max_tokens, self._room - len(request.prompt_ids)),
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "stop": list(sampling.stop),
            "stop_token_ids": sorted(self.end_ids),
            "logprobs": 0,
            "add_special_tokens": False,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }

    def completion(self, id: str, request: Request, answer: Mapping[str, Any]) -> Completion:
        """EngineError where the server saw another prompt than was sent."""
        choice = answer["choices"][0]
        seen = choice.get("prompt_token_ids")
        if seen != list(request.prompt_ids):
            raise EngineError(
                f"engine.url: {self.url} sampled {id} from another prompt: {_short(seen)} instead of "
                f"{_short(list(request.prompt_ids))}; it must take token ids as they are"
            )
        logprobs = choice["logprobs"]["token_logprobs"]
        finish = choice["finish_reason"]
        return completion(self.tokenizer, choice["token_ids"], logprobs, finish, request.sampling, self.version)


class _Asked:
    """All requests of one generate(), under way in a thread of its own.

    consumes:     nothing
    produces:     completions, or the error that ended it, into `found` (bounded by the number of requests)
    waits for:    the server
    ends when:    all are answered, one failed, or stop() is called
    """

    def __init__(
        self,
        server: Server,
        missing: Mapping[str, Request],
        found: queue.SimpleQueue[tuple[str, Completion] | Exception],
    ) -> None:
        self._server, self._missing, self._found = server, dict(missing), found
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._all())
        self._thread = threading.Thread(target=self._run, name="rlvr-http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take back what is not finished: the server drops a request whose connection ends."""
        with contextlib.suppress(RuntimeError):  # it has just ended by itself
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except httpx.HTTPError as error:
            how = str(error) or type(error).__name__
            self._found.put(_Gone(f"{self._server.url} does not answer any more: {how}"))
        except (RlvrError, _Gone) as error:
            self._found.put(error)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            told = f"{type(error).__name__}: {error}"
            self._found.put(EngineError(f"engine.url: {self._server.url} answers not as vLLM does ({told})"))
        finally:
            self._loop.close()

    async def _all(self) -> None:
        most = self._server.settings.max_num_seqs
        limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
        async with httpx.AsyncClient(timeout=None, limits=limits, trust_env=False) as http:
            tasks = [asyncio.ensure_future(self._one(http, id, request)) for id, request in self._missing.items()]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, http: httpx.AsyncClient, id: str, request: Request) -> None:
        server = self._server
        answer = await http.post(f"{server.url}/v1/completions", json=server.body(request))
        if answer.status_code in _LOST:
            raise _Gone(f"{server.url} answers with {answer.status_code}")
        if answer.status_code != 200:
            raise _refused(server.url, "/v1/completions", answer)
        self._found.put((id, server.completion(id, request, answer.json())))


def server_command(settings: VllmEngine, model: Model) -> str:
    """The command line that starts a server as this recipe needs it."""
    url = urlsplit(settings.url or "http://127.0.0.1:8000")
    variables = {k: v for k, v in environment(settings).items() if k != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    variables["VLLM_SERVER_DEV_MODE"] = "1"  # opens /collective_rpc: for a host that nobody else reaches
    is_cpu = "VLLM_CPU_KVCACHE_SPACE" in variables
    options = {
        "--host": url.hostname or "127.0.0.1",
        "--port": str(url.port or 8000),
        "--model": model.path,
        "--dtype": model.dtype,
        "--logprobs-mode": "processed_logprobs",
        "--generation-config": "vllm",
        "--worker-extension-cls": "rlvr.engines.extension.WeightSync",
        "--max-num-seqs": str(settings.max_num_seqs),
    }
    flags = []
    if settings.max_model_len is not None:
        options["--max-model-len"] = str(settings.max_model_len)
    if settings.prefix_cache is False:
        flags.append("--no-enable-prefix-caching")
    if is_cpu if settings.enforce_eager is None else settings.enforce_eager:
        flags.append("--enforce-eager")
    if is_cpu:
        flags.append("--no-enable-chunked-prefill")
    if model.lora is not None:
        variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
        flags.append("--enable-lora")
        options |= {"--max-loras": "1", "--max-cpu-loras": "2", "--max-lora-rank": str(room_for(model.lora.rank))}
    words = [f"{name}={value}" for name, value in variables.items()]
    words += ["python", "-m", "vllm.entrypoints.openai.api_server"]
    words += [word for pair in options.items() for word in pair] + flags
    return shlex.join(words)


def _shape(path: str) -> list[Any]:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path).get_text_config()
    return [getattr(config, name, None) for name in SHAPE]


def _refused(url: str, path: str, answer: httpx.Response) -> EngineError:
    text = " ".join(answer.text.split())[:300]
    return EngineError(f"engine.url: {url}{path} answers with {answer.status_code}: {text}")


def _short(ids: Any) -> str:
    return f"{ids[:8]}... ({len(ids)} tokens)" if isinstance(ids, list) and len(ids) > 8 else str(ids)
