"""vLLM in a process of its own: the same bits as in this process, also when it dies on the way."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_engines import LONG, ask, assert_takes_new_weights, changed_weights, sample

from rlvr.engines import base, pipe, weights
from rlvr.engines.remote import Remote
from rlvr.errors import DiskError, EngineError, SettingsError
from rlvr.policy import load_model
from rlvr.recipe import Lora, Model, VllmEngine
from rlvr.types import Completion


def requests(max_tokens: int = 40) -> list[Any]:
    return [ask(k, n=8, max_tokens=max_tokens - k) for k in range(3)] + [ask(3, n=4, prompt=LONG, max_tokens=20)]


@pytest.fixture
def inline(vllm_engine: Any) -> dict[str, Completion]:
    """What the engine in this process gives."""
    return sample(vllm_engine, *requests())


# --- messages and weights --------------------------------------------------------------------------------------------


def test_messages_come_through_exactly_however_they_are_cut() -> None:
    completion = Completion(
        text="é\ud800\x00", token_ids=(1, 2), logprobs=(-0.1, -5e-324), trained=(True, False), finish="abort",
        versions=((0, 3), (1, 4)), support=((1, 2), (3,)),
    )  # fmt: skip
    request = ask(1, stop=("a", "b"), top_p=0.1)
    sent = [{"a": pipe.completion_to(completion)}, {"b": pipe.request_to(request)}]
    received, got = bytearray(), []
    for byte in b"".join(map(pipe.frame, sent)):
        received.append(byte)
        got += pipe.take_frames(received)
    assert pipe.completion_from(got[0]["a"]) == completion
    assert pipe.request_from(got[1]["b"]) == request
    assert not received


def test_requests_are_cut_into_samples_with_their_own_seeds_and_numbers() -> None:
    request = ask(1, n=3)
    cut = pipe.samples([request])
    assert tuple(cut) == request.sample_ids
    assert [part.sample_ids for part in cut.values()] == [(id,) for id in request.sample_ids]
    assert tuple(part.seeds[0] for part in cut.values()) == request.seeds


def test_weights_are_read_as_they_were_written_and_old_versions_go(tmp_path: Path) -> None:
    store = weights.Weights(str(tmp_path / "new"))
    tensors = {"a": torch.randn(3, 4).T, "b": torch.randn(2).bfloat16()}
    first = store.write(tensors.items(), 1)
    second = store.write(tensors.items(), 1)
    assert first != second
    store.keep_only(second)
    assert not first.exists()
    got = dict(weights.read(second))
    assert got.keys() == tensors.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in tensors.items())
    store.close()
    assert list((tmp_path / "new").iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    code = f"import os, time; from rlvr.engines.weights import Weights; w = Weights({str(tmp_path)!r}); "
    code += "print(w.folder, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        other = Path(process.stdout.readline().strip())
        own = weights.Weights(str(tmp_path))
        assert other.is_dir() and own.folder.is_dir()
        process.kill()
        process.wait()
        third = weights.Weights(str(tmp_path))
        assert not other.exists() and own.folder.is_dir()
        own.close()
        third.close()


def test_a_folder_that_cannot_be_written_to_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="weights for the sampler cannot be written to"):
        weights.Weights(str(tmp_path / "file" / "below"))


def test_weights_that_are_no_adapter_are_not_written_as_one(tmp_path: Path) -> None:
    store = weights.Weights(str(tmp_path))
    with pytest.raises(EngineError, match=r"no adapter among the weights \(model.norm.weight\)"):
        store.write([("model.norm.weight", torch.zeros(3))], 1, Lora())
    store.close()


@pytest.mark.parametrize(
    ("mode", "ranks", "used"), [(None, 1, "inline"), (None, 2, "process"), ("inline", 2, "inline")]
)
def test_several_trainers_have_vllm_in_a_process_of_its_own(mode: Any, ranks: int, used: str) -> None:
    assert base.mode_of(VllmEngine(mode=mode), ranks) == used


def test_only_a_server_needs_no_vllm_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    base.check_installed(VllmEngine(mode="server", url="http://127.0.0.1:1"))
    with pytest.raises(SettingsError, match="vllm is not installed"):
        base.check_installed(VllmEngine(mode="process"))


# --- a process of its own --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def remote(folder: Path, **settings: Any) -> Iterator[Remote]:
    model = Model(path=str(folder))
    engine = base.build(VllmEngine(mode="process", max_num_seqs=16, **settings), model, load_model(model)[1], 256)
    assert isinstance(engine, Remote)
    try:
        yield engine
    finally:
        engine.close()


def child(engine: Remote) -> subprocess.Popen[bytes]:
    assert engine._child is not None
    return engine._child.process


def test_the_parent_of_such_a_process_imports_no_vllm() -> None:
    code = "import sys; import rlvr.engines.remote, rlvr.engines.server; print('vllm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.slow
@pytest.mark.vllm
def test_a_process_of_its_own_gives_the_same_bits_also_when_it_dies(
    tiny_model: Path, inline: dict[str, Completion]
) -> None:
    with remote(tiny_model) as engine:
        assert sample(engine, *requests()) == inline
        assert sample(engine) == {}
        assert_takes_new_weights(engine, tiny_model)

        for number, blow in enumerate((signal.SIGKILL, signal.SIGTERM), 1):
            found, process = {}, child(engine)
            for id, completion in engine.generate(requests()):
                if len(found) == 5:
                    os.kill(process.pid, blow)
                assert id not in found
                found[id] = completion
            assert found == inline
            process.wait(60)
            if engine.restarts < number:  # all was done before the blow was felt
                assert sample(engine, *requests()) == inline
            assert engine.restarts == number

        new = changed_weights(load_model(Model(path=str(tiny_model)))[0])
        engine.load(new.items(), version=5)
        wanted = sample(engine, *requests())
        assert wanted != inline
        os.kill(child(engine).pid, signal.SIGKILL)  # while nothing is asked of it
        assert sample(engine, *requests()) == wanted
        assert engine.restarts == 3

        generator = engine.generate(requests())
        next(generator)
        generator.close()  # the caller goes away
        assert sample(engine, *requests()) == wanted
        folder, process = engine._weights.folder, child(engine)
        assert len([path for path in folder.iterdir() if path.is_dir()]) == 1
    assert not folder.exists()
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.vllm
def test_a_process_that_falls_silent_is_replaced(tiny_model: Path, inline: dict[str, Completion]) -> None:
    with remote(tiny_model, timeout_seconds=4.0) as engine:
        found = {}
        for id, completion in engine.generate(requests()):
            if len(found) == 3:
                os.kill(child(engine).pid, signal.SIGSTOP)
            found[id] = completion
        assert found == inline
        assert engine.restarts == 1


@pytest.mark.slow
@pytest.mark.vllm
def test_a_process_that_keeps_dying_ends_the_run_with_its_last_words(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with remote(tiny_model) as engine:
        (tmp_path / "sitecustomize.py").write_text("import sys\nsys.exit('no space in the boat')\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        os.kill(child(engine).pid, signal.SIGKILL)
        with pytest.raises(EngineError) as caught:
            sample(engine, *requests())
        assert "the sampler's process died 4 times in a row" in str(caught.value)
        assert "no space in the boat" in str(caught.value) and "\n" not in str(caught.value)
        assert engine.restarts == 3


@pytest.mark.slow
@pytest.mark.vllm
def test_no_process_is_left_when_the_trainer_is_killed(tiny_model: Path) -> None:
    code = "import conftest, test_engines_remote as t, time; from pathlib import Path\n"
    code += (
        f"with t.remote(Path({str(tiny_model)!r})) as engine: print(t.child(engine).pid, flush=True); time.sleep(100)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    ) as trainer:
        assert trainer.stdout is not None
        pid = int(trainer.stdout.readline())
        os.kill(pid, 0)
        trainer.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.vllm
def test_a_process_that_cannot_start_says_why_and_is_not_started_again(tiny_model: Path) -> None:
    with pytest.raises(EngineError, match=f"^vLLM cannot start with {tiny_model}: ") as caught:
        Remote(VllmEngine(mode="process", max_model_len=100_000), Model(path=str(tiny_model)))
    assert "\n" not in str(caught.value)
