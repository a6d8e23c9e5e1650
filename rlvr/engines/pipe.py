"""Messages between the trainer and a sampler in a process of its own: length, JSON. Floats come through exactly."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rlvr.types import Completion, Request, Sampling

_LENGTH = struct.Struct("<Q")


def frame(message: Mapping[str, Any]) -> bytes:
    """One message as it goes through the pipe."""
    raw = json.dumps(message).encode()
    return _LENGTH.pack(len(raw)) + raw


def take_frames(received: bytearray) -> list[dict[str, Any]]:
    """Take the complete messages off the front."""
    messages, at = [], 0
    while len(received) - at >= _LENGTH.size:
        (size,) = _LENGTH.unpack_from(received, at)
        if len(received) - at - _LENGTH.size < size:
            break
        at += _LENGTH.size
        messages.append(json.loads(received[at : at + size]))
        at += size
    del received[:at]
    return messages


def request_to(request: Request) -> dict[str, Any]:
    """As plain data."""
    return asdict(request)


def request_from(fields: Mapping[str, Any]) -> Request:
    """The inverse of request_to(), after a trip through JSON."""
    sampling = fields["sampling"]
    return Request(
        id=fields["id"],
        prompt_ids=tuple(fields["prompt_ids"]),
        seeds=tuple(fields["seeds"]),
        sampling=Sampling(**{**sampling, "stop": tuple(sampling["stop"])}),
        first=fields["first"],
    )


def completion_to(completion: Completion) -> dict[str, Any]:
    """As plain data."""
    return asdict(completion)


def completion_from(fields: Mapping[str, Any]) -> Completion:
    """The inverse of completion_to(), after a trip through JSON."""
    support: Sequence[Sequence[int]] | None = fields["support"]
    return Completion(
        text=fields["text"],
        token_ids=tuple(fields["token_ids"]),
        logprobs=tuple(fields["logprobs"]),
        trained=tuple(fields["trained"]),
        finish=fields["finish"],
        versions=tuple((start, version) for start, version in fields["versions"]),
        support=None if support is None else tuple(map(tuple, support)),
    )


def samples(requests: Sequence[Request]) -> dict[str, Request]:
    """One request per sample, by its id: the unit in which work that got lost is asked for again."""
    return {
        id: Request(id=request.id, prompt_ids=request.prompt_ids, seeds=(seed,), sampling=request.sampling, first=first)
        for request in requests
        for first, (id, seed) in enumerate(zip(request.sample_ids, request.seeds, strict=True), request.first)
    }
