"""Both engines against the same promises: seeds, ids, limits, the logprobs of what was sampled, new weights."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from rlvr import chat
from rlvr.engines import base, vllm
from rlvr.engines.hf import HuggingFace, inverse_cdf, truncate
from rlvr.errors import EngineError, NonFiniteError
from rlvr.policy import load_model
from rlvr.recipe import HfEngine, Model, VllmEngine
from rlvr.seeds import seed_for
from rlvr.types import Completion, Request, Sampling

EOS = 1
PROMPTS = [(50, 51, 52), (60,), tuple(range(70, 90)), (50, 51, 53)]


def hugging_face(folder: Path, max_num_seqs: int = 512) -> HuggingFace:
    settings = Model(path=str(folder))
    return HuggingFace(HfEngine(kind="hf", max_num_seqs=max_num_seqs), settings, load_model(settings)[1])


@pytest.fixture(params=["hf", pytest.param("vllm", marks=pytest.mark.vllm)])
def engine(request: pytest.FixtureRequest, tiny_model: Path) -> Any:
    return request.getfixturevalue("vllm_engine") if request.param == "vllm" else hugging_face(tiny_model)


@pytest.fixture(scope="module")
def reference(tiny_model: Path) -> Any:
    return load_model(Model(path=str(tiny_model)))[0]


def ask(number: int, *, n: int = 4, prompt: tuple[int, ...] | None = None, salt: int = 0, **sampling: Any) -> Request:
    return Request(
        id=f"1/task:{number}",
        prompt_ids=prompt or PROMPTS[number % len(PROMPTS)],
        seeds=tuple(seed_for(salt, number, k) for k in range(n)),
        sampling=Sampling(**{"max_tokens": 24, **sampling}),
    )


def sample(engine: Any, *requests: Request) -> dict[str, Completion]:
    pairs = list(engine.generate(requests))
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def processed(model: Any, prompt: tuple[int, ...], ids: tuple[int, ...], sampling: Sampling) -> Tensor:
    """Log-probabilities [L, V] after temperature, top-k and top-p, as transformers has them."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    with torch.no_grad():
        logits_LV = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].float()
    warpers: list[Any] = [TemperatureLogitsWarper(sampling.temperature)]
    warpers += [TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    warpers += [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    for warper in warpers:
        logits_LV = warper(torch.zeros(1, 1), logits_LV)
    return torch.log_softmax(logits_LV, dim=-1)


def gap(model: Any, request: Request, completion: Completion) -> Tensor:
    """|difference| [L] of the engine's and the model's log-probabilities of what was sampled."""
    logp_LV = processed(model, request.prompt_ids, completion.token_ids, request.sampling)
    own_L = torch.tensor(completion.logprobs)
    return (logp_LV.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0] - own_L).abs()


def assert_same(ours: dict[str, Completion], theirs: dict[str, Completion]) -> None:
    """The same tokens and bits."""
    assert ours == theirs


# --- seeds -----------------------------------------------------------------------------------------------------------


def test_the_same_seeds_give_the_same_completions(engine: Any) -> None:
    requests = [ask(k) for k in range(4)]
    first = sample(engine, *requests)
    assert sample(engine, *requests) == first
    assert len({completion.token_ids for completion in first.values()}) == 16


def test_neighbours_and_order_change_nothing(engine: Any) -> None:
    requests = [ask(k, max_tokens=10 + 5 * k) for k in range(4)]
    together = sample(engine, *requests)
    assert_same(sample(engine, *reversed(requests)), together)
    alone: dict[str, Completion] = {}
    for request in requests:
        for k, seed in enumerate(request.seeds):
            alone |= sample(engine, dataclasses.replace(request, seeds=(seed,), first=k))
    assert_same(alone, together)


def test_another_seed_gives_another_completion(engine: Any) -> None:
    assert not set(sample(engine, ask(0)).values()) & set(sample(engine, ask(0, salt=1)).values())


def test_samples_are_numbered_from_the_first(engine: Any) -> None:
    request = ask(3, n=3, max_tokens=2)
    assert set(sample(engine, request)) == {"1/task:3/0", "1/task:3/1", "1/task:3/2"}
    assert set(sample(engine, dataclasses.replace(request, first=8))) == {f"1/task:3/{k}" for k in (8, 9, 10)}


def test_nothing_asked_gives_nothing(engine: Any) -> None:
    assert sample(engine) == {}


def test_greedy_takes_the_likeliest_token_whatever_the_seed(engine: Any, reference: Any) -> None:
    first, other = sample(engine, ask(0, n=2, temperature=0.0, max_tokens=12)).values()
    assert first == other
    prompt = PROMPTS[0]
    logp_LV = processed(reference, prompt, first.token_ids, Sampling())
    assert logp_LV.argmax(dim=-1).tolist() == list(first.token_ids)
    assert first.logprobs == pytest.approx(logp_LV.max(dim=-1).values.tolist(), abs=1e-5)


# --- where a completion ends -----------------------------------------------------------------------------------------


def test_completions_end_with_the_end_token_or_at_the_limit(engine: Any) -> None:
    completions = sample(engine, *(ask(k, n=16, max_tokens=40) for k in range(4))).values()
    finishes = Counter(completion.finish for completion in completions)
    assert finishes["stop"] >= 2 and finishes["length"] >= 2 and finishes.total() == 64
    for completion in completions:
        assert len(completion.token_ids) == len(completion.logprobs) == len(completion.trained)
        assert all(completion.trained)
        assert EOS not in completion.token_ids[:-1]
        assert (completion.token_ids[-1] == EOS) == (completion.finish == "stop")
        assert completion.finish == "stop" or len(completion.token_ids) == 40
        assert "<eos>" not in completion.text


def test_a_stop_string_leaves_the_text_and_stays_in_the_ids(engine: Any) -> None:
    def printable(token: int) -> bool:
        return engine.tokenizer.decode([token]).isalnum() and engine.tokenizer.decode([token]).isascii()

    request = ask(0, n=16, max_tokens=60)
    free = sample(engine, request)
    # two neighbouring letters of some completion, but its first ones
    id, place = next(
        (id, k)
        for id, completion in free.items()
        for k in range(3, len(completion.token_ids) - 1)
        if all(map(printable, completion.token_ids[k : k + 2]))
    )
    ids = free[id].token_ids
    stop = engine.tokenizer.decode(list(ids[place : place + 2]))
    stopped = sample(engine, ask(0, n=16, max_tokens=60, stop=("never there", stop)))[id]
    assert stopped.finish == "stop"
    assert stopped.token_ids == ids[: place + 2]
    assert stopped.text == free[id].text[: free[id].text.index(stop)]
    assert stop not in stopped.text
    assert stopped.logprobs == pytest.approx(free[id].logprobs[: place + 2], abs=1e-5)


def test_a_completion_ends_where_the_context_does(engine: Any) -> None:
    request = ask(0, n=8, prompt=tuple(50 + k % 90 for k in range(250)), max_tokens=20)
    for completion in sample(engine, request).values():
        assert completion.finish == ("stop" if EOS in completion.token_ids else "length")
        assert len(completion.token_ids) == 6 or completion.finish == "stop"


def test_rows_that_end_with_the_context_leave_room_for_those_that_go_on(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = load_model(Model(path=str(tiny_model)))[1]
    torch.manual_seed(5)
    config = GPT2Config(
        vocab_size=259, n_positions=16, n_embd=16, n_layer=1, n_head=2, initializer_range=0.5,
        bos_token_id=2, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path)  # learned positions: there is no 17th
    tokenizer.save_pretrained(tmp_path)
    engine = hugging_face(tmp_path)
    engine.end_ids = set()
    # one of ten at the context's end is not taken out of the batch, and its position would grow
    full, free = ask(1, n=1, prompt=tuple(range(50, 65))), ask(2, n=9, prompt=(60,), max_tokens=14)
    together = sample(engine, full, free)
    assert [len(together[id].token_ids) for id in full.sample_ids] == [1]
    assert [len(together[id].token_ids) for id in free.sample_ids] == [14] * 9
    assert {completion.finish for completion in together.values()} == {"length"}
    assert_same(together, sample(engine, full) | sample(engine, free))
    model = load_model(Model(path=str(tmp_path)))[0]
    for request in (full, free):
        for id in request.sample_ids:
            assert float(gap(model, request, together[id]).max()) < 2e-5


# --- what was sampled, with which probability ------------------------------------------------------------------------

TRUNCATIONS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.3, "top_k": 5},
    {"temperature": 0.7, "top_p": 0.6},
    {"temperature": 0.9, "top_p": 0.8, "top_k": 40},
]


@pytest.mark.parametrize("settings", TRUNCATIONS, ids=str)
def test_logprobs_are_those_after_temperature_and_truncation(
    engine: Any, reference: Any, settings: dict[str, Any]
) -> None:
    request = ask(2, n=4, **settings)
    for completion in sample(engine, request).values():
        assert float(gap(reference, request, completion).max()) < 2e-5


def test_requests_with_different_settings_can_be_mixed(engine: Any, reference: Any) -> None:
    requests = [ask(k, n=2, **settings) for k, settings in enumerate(TRUNCATIONS)]
    together = sample(engine, *requests)
    for request in requests:
        assert_same(sample(engine, request), {id: together[id] for id in request.sample_ids})
        for id in request.sample_ids:
            assert float(gap(reference, request, together[id]).max()) < 2e-5


def test_first_tokens_are_drawn_with_their_probabilities(engine: Any, reference: Any) -> None:
    request = ask(0, n=1500, max_tokens=1, temperature=0.8, top_k=10)
    drawn = Counter(completion.token_ids[0] for completion in sample(engine, request).values())
    p_V = processed(reference, request.prompt_ids, (0,), request.sampling)[0].double().exp()
    likely = p_V.nonzero()[:, 0].tolist()
    assert set(drawn) <= set(likely)
    expected = [1500 * float(p_V[token]) for token in likely]
    p_value = stats.chisquare([drawn[token] for token in likely], expected, sum_check=False).pvalue
    assert p_value > 1e-3  # seeded: this is one draw, made once and for all


# --- new weights -----------------------------------------------------------------------------------------------------

LONG = tuple(40 + k % 77 for k in range(140))
"""Longer than vLLM's block of 128 tokens, so that its keys and values are kept for the next request."""


def changed_weights(model: Any) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(9)
    names = {name for name, _ in model.named_parameters()}  # a tied head once
    return {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=rng)
        for name, tensor in model.state_dict().items()
        if name in names
    }


def assert_takes_new_weights(engine: Any, folder: Path) -> None:
    model, _ = load_model(Model(path=str(folder)))
    request = ask(0, n=8, prompt=LONG, max_tokens=12)
    old = sample(engine, request)  # warms the prefix cache
    assert old == sample(engine, request)
    assert max(float(gap(model, request, completion).mean()) for completion in old.values()) < 1e-4
    assert {completion.versions for completion in old.values()} == {((0, 0),)}

    new = changed_weights(model)
    engine.load(iter(new.items()), version=17)
    model.load_state_dict(new, strict=False)
    fresh = sample(engine, request)
    assert max(float(gap(model, request, completion).mean()) for completion in fresh.values()) < 1e-4
    assert {completion.versions for completion in fresh.values()} == {((0, 17),)}
    assert fresh.keys() == old.keys()
    assert all(fresh[id].token_ids != old[id].token_ids for id in old)

    engine.load([(name, p) for name, p in load_model(Model(path=str(folder)))[0].named_parameters()], version=0)
    assert_same(sample(engine, request), old)  # the old weights give the old completions


def test_new_weights_of_a_tied_model_are_what_comes_next(engine: Any, tiny_model: Path) -> None:
    assert_takes_new_weights(engine, tiny_model)


def test_new_weights_of_an_untied_model_are_what_comes_next(untied_model: Path) -> None:
    assert_takes_new_weights(hugging_face(untied_model), untied_model)


def check_untied_vllm(folder: str) -> None:
    """In a process of its own: a second vLLM that ends takes the first one's process groups with it."""
    settings = Model(path=folder)
    engine = base.build(VllmEngine(max_num_seqs=8), settings, load_model(settings)[1])
    assert_takes_new_weights(engine, Path(folder))
    engine.close()


@pytest.mark.slow
@pytest.mark.vllm
def test_new_weights_of_an_untied_model_are_what_comes_next_through_vllm(untied_model: Path) -> None:
    pytest.importorskip("vllm")
    code = f"import test_engines; test_engines.check_untied_vllm({str(untied_model)!r}); print('all well')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.stdout.splitlines()[-1:] == ["all well"], done.stderr[-3000:]


def test_weights_that_do_not_fit_are_refused(tiny_model: Path) -> None:
    engine = hugging_face(tiny_model)
    with pytest.raises(EngineError, match=r"weight model\.norm\.weight \(3,\) does not fit"):
        engine.load([("model.norm.weight", torch.zeros(3))], version=1)
    with pytest.raises(EngineError, match=r"weight transformer\.wte"):
        engine.load([("transformer.wte", torch.zeros(3))], version=1)


class FakeLLM:
    """Takes weights like vLLM, and does as it is told."""

    def __init__(self, *, is_reset: bool = True, error: Exception | None = None) -> None:
        self.is_reset, self.error = is_reset, error
        self.given: list[Any] = []

    def collective_rpc(self, name: str, kwargs: dict[str, Any]) -> None:
        assert name == "reload_weights"
        if self.error:
            raise RuntimeError("outer") from self.error
        self.given += kwargs["weights_iterator"]

    def reset_prefix_cache(self) -> bool:
        return self.is_reset


def fake_vllm(llm: FakeLLM) -> Any:
    engine = object.__new__(vllm.Vllm)
    engine.version, engine.is_cpu, engine.llm, engine.model = 3, False, llm, Model(path="model")
    return engine


def test_vllm_must_take_the_weights_and_forget_what_was_of_the_old_ones() -> None:
    pair = ("w", torch.zeros(1))
    good = fake_vllm(FakeLLM())
    good.load(iter([pair]), version=4)
    assert (good.version, good.llm.given) == (4, [pair])
    for llm, told in (
        (FakeLLM(error=KeyError("no such weight")), r"vLLM cannot take the weights of version 4: 'no such weight'"),
        (FakeLLM(is_reset=False), r"vLLM kept its prefix cache, which is of the weights before version 4"),
    ):
        engine = fake_vllm(llm)
        with pytest.raises(EngineError, match=f"^{told}$"):
            engine.load([pair], version=4)
        assert engine.version == 3


@pytest.mark.parametrize(("set_to", "longest", "used"), [(None, 77, 77), (50, 77, 50), (None, None, None)])
def test_vllm_keeps_room_for_the_setting_or_else_for_the_longest_to_come(
    set_to: int | None, longest: int | None, used: int | None, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int | None] = []
    monkeypatch.setattr(vllm, "_start", lambda s, m, max_model_len, *, is_cpu: lengths.append(max_model_len))
    base.build(VllmEngine(max_model_len=set_to), Model(path=str(tiny_model)), chat.byte_tokenizer(), longest)
    assert lengths == [used]


def test_a_model_that_gives_nan_is_not_sampled_from(tiny_model: Path) -> None:
    settings = Model(path=str(tiny_model))
    engine = HuggingFace(HfEngine(kind="hf"), settings, chat.byte_tokenizer())
    broken = {name: torch.full_like(tensor, math.nan) for name, tensor in engine.model.state_dict().items()}
    engine.load(broken.items(), version=3)
    with pytest.raises(NonFiniteError, match="the model of version 3 gives nan as a log-probability"):
        list(engine.generate([ask(1)]))


def test_all_end_tokens_of_the_generation_config_end_a_completion(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = chat.byte_tokenizer()
    assert chat.end_token_ids(str(tiny_model), tokenizer) == {1}
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": [1, 40]}))
    assert chat.end_token_ids(str(folder), tokenizer) == {1, 40}
    assert vllm._params(Sampling(), 0, {40, 1}).stop_token_ids == [1, 40]
    (folder / "generation_config.json").unlink()
    assert chat.end_token_ids(str(folder), tokenizer) == {1}


# --- going away early ------------------------------------------------------------------------------------------------


def test_a_caller_that_goes_away_leaves_no_request_behind(engine: Any) -> None:
    wanted = sample(engine, ask(1))
    generator = engine.generate([ask(k, n=8) for k in range(4)])
    next(generator)
    generator.close()
    assert sample(engine, ask(1)) == wanted
    request = ask(0, n=8)  # the same ids once more
    assert set(sample(engine, request)) == set(request.sample_ids)


@pytest.mark.vllm
def test_a_request_that_vllm_refuses_is_an_engine_error_and_the_engine_goes_on(vllm_engine: Any) -> None:
    wanted = sample(vllm_engine, ask(1))
    with pytest.raises(EngineError, match="vLLM failed while sampling"):
        sample(vllm_engine, ask(0), ask(1, prompt=tuple(50 for _ in range(300))))
    assert sample(vllm_engine, ask(1)) == wanted


def test_batches_of_the_embedded_engine_are_cut_at_max_num_seqs(tiny_model: Path) -> None:
    requests = [ask(k) for k in range(4)]
    engine = hugging_face(tiny_model, max_num_seqs=8)
    sizes = []
    whole = engine._generate_batch
    engine._generate_batch = lambda batch: (sizes.append(sum(len(r.seeds) for r in batch)), whole(batch))[1]
    assert_same(sample(engine, *requests), sample(hugging_face(tiny_model), *requests))
    assert sizes == [8, 8]


# --- starting --------------------------------------------------------------------------------------------------------


def test_the_environment_can_be_set_before_torch_is_there() -> None:
    code = "import sys; from rlvr.engines import base, vllm; print([m for m in ('torch', 'vllm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.vllm
def test_vllm_that_cannot_start_says_why_and_what_to_do(shared_vllm: Any, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        base.build(VllmEngine(), Model(path=str(tmp_path)), shared_vllm.tokenizer)
    assert str(caught.value).startswith(f"vLLM cannot start with {tmp_path}: ")
    assert "engine.kind=hf" in str(caught.value) and "\n" not in str(caught.value)


# --- pure parts of the embedded engine -------------------------------------------------------------------------------


@st.composite
def distributions(draw: st.DrawFn) -> Tensor:
    """logp [V] with tokens of probability 0 anywhere."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    V = draw(st.integers(1, 40))
    logits_V = torch.tensor(rng.normal(size=V) * draw(st.sampled_from([0.1, 3.0, 40.0])), dtype=torch.float32)
    dropped_V = torch.tensor(rng.random(V) < draw(st.sampled_from([0.0, 0.5, 0.95])))
    dropped_V[rng.integers(V)] = False
    return torch.log_softmax(logits_V.masked_fill(dropped_V, -torch.inf), dim=0)


@given(distributions(), st.one_of(st.sampled_from([0.0, math.nextafter(1, 0)]), st.floats(0, 1, exclude_max=True)))
def test_a_token_of_probability_zero_is_never_drawn(logp_V: Tensor, uniform: float) -> None:
    token = int(inverse_cdf(logp_V[None], torch.tensor([uniform], dtype=torch.float64))[0])
    assert logp_V[token] > -torch.inf


@given(distributions(), st.floats(0, 1, exclude_max=True))
def test_the_drawn_token_is_the_one_whose_share_holds_the_number(logp_V: Tensor, uniform: float) -> None:
    p = logp_V.double().exp().tolist()
    total = math.fsum(p)
    token = int(inverse_cdf(logp_V[None], torch.tensor([uniform], dtype=torch.float64))[0])
    assert math.fsum(p[:token]) - 1e-12 <= uniform * total <= math.fsum(p[: token + 1]) + 1e-12


def test_many_draws_have_the_given_distribution() -> None:
    logp_V = torch.log_softmax(torch.tensor([0.0, 1.0, -1.0, -torch.inf, 2.0, 0.5]), dim=0)
    uniform_B = torch.tensor(np.random.default_rng(0).random(100_000))
    counts = torch.bincount(inverse_cdf(logp_V.expand(100_000, -1), uniform_B), minlength=6).numpy()
    kept = [0, 1, 2, 4, 5]
    assert counts[3] == 0
    assert stats.chisquare(counts[kept], 100_000 * logp_V.double().exp().numpy()[kept], sum_check=False).pvalue > 1e-3


def kept_by_hand(logits: list[float], top_k: int, top_p: float) -> tuple[set[int], float]:
    """(tokens that stay, how near a sum came to top_p), in float64."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])[: top_k or len(logits)]
    weights = [math.exp(logits[token] - max(logits)) for token in order]
    kept, total, nearest = set(), 0.0, math.inf
    for token, weight in zip(order, weights, strict=True):
        if kept and top_p < 1:
            nearest = min(nearest, abs(total - top_p))
            if total >= top_p:
                break
        kept.add(token)
        total += weight / math.fsum(weights)
    return kept, nearest


def rows_with(settings: list[tuple[int, float]]) -> list[Any]:
    return [type("Row", (), {"request": ask(0, top_k=top_k, top_p=top_p)})() for top_k, top_p in settings]


@given(st.data())
def test_truncation_keeps_what_the_plain_loop_keeps(data: st.DataObject) -> None:
    B, V = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12))
    logits = st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=V, max_size=V)
    logits_BV = [data.draw(logits) for _ in range(B)]
    one = st.tuples(st.integers(0, 14), st.sampled_from([1.0, 0.9, 0.5, 0.13, 1e-6]))
    settings = [data.draw(one) for _ in range(B)]
    by_hand = [kept_by_hand(row, *setting) for row, setting in zip(logits_BV, settings, strict=True)]
    assume(all(nearest > 1e-5 for _, nearest in by_hand))  # float32 may round the other way
    given_BV = torch.tensor(logits_BV)
    got_BV = truncate(given_BV, rows_with(settings))
    for b, (kept, _) in enumerate(by_hand):
        assert set(torch.isfinite(got_BV[b]).nonzero()[:, 0].tolist()) == kept
        assert torch.equal(got_BV[b][sorted(kept)], given_BV[b][sorted(kept)])


def test_a_row_that_keeps_all_is_not_cut_because_its_neighbour_is() -> None:
    # tokens so unlikely that a float32 sum reaches 1 before them
    logits_BV = torch.cat([torch.zeros(2, 3), torch.full((2, 50), -30.0)], dim=1)
    got_BV = truncate(logits_BV, rows_with([(0, 1.0), (0, 0.5)]))
    assert torch.equal(got_BV[0], logits_BV[0])
    assert torch.isfinite(got_BV[1]).sum() == 2


@pytest.mark.parametrize(
    ("text", "stop", "cut"),
    [
        ("a;b", (";",), "a"),
        ("a;b", ("b", ";"), "a"),
        (";", (";",), ""),
        ("ab", (";",), None),
        ("ab", (), None),
    ],
)
def test_text_is_cut_at_the_first_stop_string(text: str, stop: tuple[str, ...], cut: str | None) -> None:
    assert chat.cut_at_stop(text, stop) == cut
