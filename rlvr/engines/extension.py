"""What runs inside vLLM's own worker: `--worker-extension-cls rlvr.engines.extension.WeightSync` adds it to a server.

Its methods are called by name over HTTP (/collective_rpc), so they take and give plain data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

SHAPE = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers")
"""Of a model's configuration, by which a server's model is compared with ours."""


class WeightSync:
    """Methods that vLLM's worker class gets in addition to its own."""

    model_runner: Any
    vllm_config: Any
    _rlvr_version = 0
    _rlvr_owner = ""

    def rlvr_load(self, path: str, version: int, owner: str) -> None:
        """Take the weights of a folder that weights.Weights wrote."""
        from vllm.config import set_current_vllm_config

        from rlvr.engines.weights import read

        with set_current_vllm_config(self.vllm_config):
            self.model_runner.reload_weights(weights_iterator=read(Path(path)))
            pack_output_head(self.model_runner.get_model())
        self._rlvr_version, self._rlvr_owner = version, owner

    def rlvr_adopt(self, version: int, owner: str) -> None:
        """Note who samples from this server, and which version it has; no weights."""
        self._rlvr_version, self._rlvr_owner = version, owner

    def rlvr_state(self) -> dict[str, Any]:
        """Version and owner of the last weights (0 and "": those it started with), and settings that must be ours."""
        model = self.vllm_config.model_config
        lora = self.vllm_config.lora_config
        return {
            "version": self._rlvr_version,
            "owner": self._rlvr_owner,
            "dtype": str(model.dtype).removeprefix("torch."),
            "logprobs_mode": str(getattr(model.logprobs_mode, "value", model.logprobs_mode)),
            "max_lora_rank": lora.max_lora_rank if lora else 0,
            "shape": [getattr(model.hf_text_config, name, None) for name in SHAPE],
        }


def pack_output_head(model: Any) -> None:
    """Pack the output head's present weights for the CPU's matrix product (0.7 ms); nothing on a GPU."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead) and hasattr(module, "cpu_linear"):
            module.quant_method.process_weights_after_loading(module)
