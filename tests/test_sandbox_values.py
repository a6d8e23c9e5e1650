"""Values on their way out of a hostile process: what travels, what is opaque, what forged bytes cost."""

from __future__ import annotations

import builtins
import itertools
import math
import struct
import time
import tracemalloc
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.sandbox.equality import difference
from rlvr.sandbox.values import (
    Caps,
    Opaque,
    Reply,
    decode,
    decode_reply,
    encode,
    encode_error,
    encode_reply,
    materialise,
)

keys = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
scalars = (
    keys
    | st.complex_numbers()
    | st.decimals(allow_nan=False).filter(lambda number: abs(number.adjusted()) < 1000)
    | st.fractions()
    | st.integers(-(10**300), 10**300)
)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.sets(keys, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
        | st.lists(inner, max_size=4).map(deque)
    ),
    max_leaves=12,
)


def shape(value: Any) -> Any:
    """A value with its types, so that True, 1 and 1.0 differ."""
    kind = type(value)
    if kind in (list, tuple, deque):
        return kind, [shape(item) for item in value]
    if kind in (set, frozenset):
        return kind, sorted(repr(shape(item)) for item in value)
    if kind is dict:
        return kind, sorted((repr(shape(key)), repr(shape(item))) for key, item in value.items())
    return kind, repr(value)


@given(plain)
@settings(deadline=None)
def test_what_is_plain_comes_back_as_it_was(value: Any) -> None:
    back = decode(encode(value))
    assert shape(back) == shape(value)
    assert difference(back, value) == ""


def test_special_numbers_and_texts_keep_their_bits() -> None:
    back = decode(encode([-0.0, math.inf, 1e-320, "\ud800é\0", -(2**63), 2**64, -128, 128, True, 1]))
    assert repr(back) == repr([-0.0, math.inf, 1e-320, "\ud800é\0", -(2**63), 2**64, -128, 128, True, 1])
    assert math.isnan(decode(encode(math.nan)))
    assert str(decode(encode(Decimal("-1.500")))) == "-1.500"


def test_types_that_equal_a_plain_one_in_python_travel_as_it() -> None:
    point = namedtuple("point", "x y")
    lists = defaultdict(list, {1: [2]})
    value = [Counter("aab"), OrderedDict(b=1), lists, point(1, 2), bytearray(b"x"), deque([1])]
    assert decode(encode(value)) == [{"a": 2, "b": 1}, {"b": 1}, {1: [2]}, (1, 2), b"x", deque([1])]
    assert [type(item) for item in decode(encode(value))] == [dict, dict, dict, tuple, bytes, deque]


def test_numpy_scalars_travel_as_pythons_and_arrays_are_opaque() -> None:
    value = [np.int64(-3), np.uint8(200), np.float64(2.5), np.float32(0.5), np.bool_(True), np.str_("a")]
    assert shape(decode(encode(value))) == shape([-3, 200, 2.5, 0.5, True, "a"])
    assert decode(encode(np.array([1]))).type_name == "ndarray"


class Liar(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


def hostile_values() -> dict[str, Any]:
    """Made within a function: a test collector looks at what a module holds."""

    class Impostor:
        __class__ = int  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return True

        def __getattr__(self, name: str) -> Any:
            raise SystemExit(name)

    class Meta(type):
        def __eq__(cls, other: object) -> bool:
            return True

        def __hash__(cls) -> int:
            return hash(int)

        def __getattribute__(cls, name: str) -> Any:
            raise SystemExit(name)

    class Masked(metaclass=Meta):
        pass

    return {
        "Liar": Liar(3),
        "Impostor": Impostor(),
        "Masked": Masked(),
        "L": type("L", (list,), {"__iter__": lambda self: iter([1, 2, 3]), "__len__": lambda self: 3})(),
        "P": type("P", (tuple,), {"__getitem__": lambda self, k: 1})((1, 2)),
        "S": type("S", (str,), {"__eq__": lambda self, other: True, "__hash__": str.__hash__})("x"),
        "int64": type("int64", (), {"__module__": "numpy", "item": lambda self: 3})(),
        "D": type("D", (dict,), {"items": lambda self: [(1, 2)]})(),
        "type": int,
        "builtin_function_or_method": print,
        "object": object(),
        "range": range(3),
        "generator": (letter for letter in "ab"),
    }


@pytest.mark.parametrize("name", hostile_values())
def test_every_other_class_is_opaque_and_none_of_its_code_runs(name: str) -> None:
    (back,) = decode(encode([hostile_values()[name]]))
    assert type(back) is Opaque
    assert back.type_name == name
    assert difference([back], [back])
    assert back != back


def test_replaced_builtins_change_nothing() -> None:
    point = namedtuple("point", "x y")
    value = {
        "a": [1, 2.5, (True, None)],
        2: {3},
        "d": Decimal("1.5"),
        "f": Fraction(1, 3),
        "n": Liar(3),
        1j: point(1, 2),
    }
    right, wanted = encode(value), encode_reply([1, 2])
    numbers = itertools.islice([1, 2], 2)
    names = vars(builtins)
    kept = dict(names)
    hostile = {name: lambda *args, **options: 1 / 0 for name, made in kept.items() if callable(made)}
    try:
        names.update(hostile)
        found, reply = encode(value), encode_reply(numbers)
    finally:
        names.update(kept)
    assert found == right
    assert reply == wanted


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "caps", "why"),
    [
        (nested(8), Caps(depth=7), r"deeper than 7"),
        ([0] * 11, Caps(num_items=11), r"more than 11 items"),
        ("x" * 100, Caps(num_bytes=100), r"than 100"),
        (10**1001, Caps(num_digits=1000), r"too large"),
        (Decimal("1E+2000"), Caps(num_digits=1000), r"exponent"),
        (Decimal("0E-2000"), Caps(num_digits=1000), r"exponent"),
    ],
    ids=["depth", "items", "bytes", "digits", "exponent", "exponent of 0"],
)
def test_what_is_beyond_a_cap_is_refused_on_both_sides(value: Any, caps: Caps, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        encode(value, caps)
    assert decode(encode(value)) == value
    with pytest.raises(ValueError, match=why):
        decode(encode(value), caps)


def test_a_fraction_that_takes_long_to_reduce_is_refused_on_both_sides() -> None:
    with pytest.raises(ValueError, match="too large"):
        encode(Fraction(1, 10**2001))
    huge = struct.pack(">I", 1000) + (1 << 7990).to_bytes(1000, "big", signed=True)
    with pytest.raises(ValueError, match="too large"):
        decode(b"r" + huge + huge)


def test_a_value_as_large_as_the_caps_allow_travels() -> None:
    assert decode(encode(nested(100))) == nested(100)
    assert decode(encode([0] * 10, Caps(num_items=11)), Caps(num_items=11)) == [0] * 10
    assert decode(encode(10**99_999)) == 10**99_999


def test_cyclic_and_exponential_values_are_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(ValueError, match="deeper"):
        encode(cycle)
    with pytest.raises(ValueError, match="deeper"):
        encode(nested(100_000))
    shared: list[Any] = []
    for _ in range(60):
        shared = [shared, shared]
    with pytest.raises(ValueError, match="items"):
        encode(shared)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"i",
        b"i\xff\xff\xff\xff",
        b"l\xff\xff\xff\xff",
        b"d\x80\0\0\0NN",
        b"l\0\0\0\1",
        encode(1) + b"N",
        b"s\0\0\0\1\xff",
        b"e\0\0\0\2NN",
        b"d\0\0\0\2NNNN",
        b"e\0\0\0\1l\0\0\0\0",
        b"e\0\0\0\2T" + encode(1),
        b"d\0\0\0\1" + encode((1, [2])) + b"N",
        b"m\0\0\0\4sNaN",
        b"m\0\0\0\x021_",
        b"m\0\0\0\x0c1E+999999999",
        b"m\0\0\0\x03\xd9\xa1\xd9",
        b"r" + b"\0\0\0\1\1" * 1 + b"\0\0\0\1\0",
        b"o\0\0\0\1\xff",
    ],
)
def test_malformed_bytes_are_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode(data)


PLAIN = {type(None), bool, int, float, complex, str, bytes, list, tuple, set, frozenset, deque, dict, Decimal, Fraction}


def kinds_in(value: Any) -> set[type]:
    found, waiting = set(), [value]
    while waiting:
        item = waiting.pop()
        found.add(type(item))
        if type(item) is dict:
            waiting += [*item.keys(), *item.values()]
        elif type(item) in (list, tuple, set, frozenset, deque):
            waiting += item
    return found


def check_decoded(value: Any) -> None:
    """Of known kinds alone; what is plain equals itself and survives another trip, an opaque one equals nothing."""
    kinds = kinds_in(value)
    assert kinds <= PLAIN | {Opaque}
    assert (difference(value, value) == "") == (Opaque not in kinds)
    if Opaque not in kinds:
        assert difference(decode(encode(value)), value) == ""


@given(st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(list(b"NTFifcsbltezqdmro\0\1\2\3")), max_size=300)))
@settings(deadline=None)
def test_any_bytes_decode_or_are_a_value_error(data: Any) -> None:
    try:
        value = decode(bytes(data))
    except ValueError:
        return
    check_decoded(value)


@given(plain, st.data())
@settings(deadline=None)
def test_changed_bytes_decode_or_are_a_value_error(value: Any, data: st.DataObject) -> None:
    mutated = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    try:
        back = decode(bytes(mutated))
    except ValueError:
        return
    check_decoded(back)
    assert type(difference(back, value)) is str


def forged_set(items: list[Any]) -> bytes:
    return b"e" + encode(items)[1:]


@pytest.mark.parametrize(
    "data",
    [
        b"l\0\0\0\1" * 3_000_000 + b"N",
        b"l" + struct.pack(">I", 200_000) + b"e\0\0\0\0" * 200_000,
        b"i" + struct.pack(">I", 40_000) + b"\x7f" * 40_000,
        forged_set([k * (2**61 - 1) for k in range(20_000)]),  # one hash for all
        forged_set([k << 61 for k in range(100_000)]),
        forged_set([1 << (61 * k) for k in range(2000)]),
        forged_set([(k * (2**61 - 1),) for k in range(20_000)]),
        encode([Decimal("9E+99999")] * 50_000),
    ],
    ids=["deep", "sets", "int", "one hash", "high bits", "powers", "tuples", "decimals"],
)
def test_forged_bytes_cost_little(data: bytes) -> None:
    started = time.thread_time()
    try:
        value = decode(data)
        difference(value, decode(data))
    except ValueError:
        pass
    assert time.thread_time() - started < 5


@pytest.mark.parametrize("one", [b"q\0\0\0\0", b"d\0\0\0\1NN", b"e\0\0\0\1N", b"z\0\0\0\1N"])
def test_bytes_that_take_many_times_their_own_memory_are_refused(one: bytes) -> None:
    data = b"l" + struct.pack(">I", 100_000) + one * 100_000
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="too much memory"):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 2 * (8 << 20) + 20 * len(data)
    finally:
        tracemalloc.stop()


def test_large_honest_values_are_not_too_much() -> None:
    for value in (
        [[k, k + 1] for k in range(150_000)],
        {k: str(k) for k in range(200_000)},
        [{"a": k, "b": [k]} for k in range(50_000)],
        [set() for _ in range(20_000)],
        list(range(499_000)),
        "\U0001f600" + "x" * 4_000_000,
    ):
        assert decode(encode(value)) == value


def test_keys_chosen_to_collide_are_refused_and_honest_ones_are_not() -> None:
    with pytest.raises(ValueError, match="collide"):
        decode(forged_set([k * (2**61 - 1) for k in range(2_000)]))
    honest = [
        set(range(-5000, 5000)),
        {2**k for k in range(3000)},
        {k / 4 for k in range(5000)},
        {k << 40 for k in range(5000)},
        {1 / (k + 1) for k in range(5000)},
        {(i, j) for i in range(70) for j in range(70)},
        {10**k for k in range(300)},
        {str(k) for k in range(5000)},
    ]
    for made in honest:
        assert decode(encode(made)) == made


def test_iterators_of_pythons_own_become_lists_and_no_others_do() -> None:
    yields = (number * number for number in (1, 2, 3))
    cases: list[Any] = [
        yields,
        map(abs, [-1, 4]),
        {1: 2}.items(),
        range(3),
        reversed([1, 2]),
        itertools.chain([1], [2]),
    ]
    assert [materialise(case) for case in cases] == [[1, 4, 9], [1, 4], [(1, 2)], [0, 1, 2], [2, 1], [1, 2]]
    assert materialise("abc") == "abc"
    own = type("Own", (), {"__iter__": lambda self: iter([1])})()
    assert materialise(own) is own
    with pytest.raises(ValueError, match="more than 1000 items"):
        materialise(itertools.count(), 1000)


def test_a_reply_carries_a_value_or_an_error() -> None:
    assert decode_reply(encode_reply([1, (2,)])) == Reply([1, (2,)])
    assert decode_reply(encode_reply(zip([1], [2], strict=True))) == Reply([(1, 2)])
    assert decode_reply(encode_error("ValueError: no")) == Reply(error="ValueError: no")
    assert decode_reply(encode_reply(10**200_000)).error == "ValueError: an int of 664386 bits is too large"
    opaque = decode_reply(encode_reply(Liar(1)))
    assert (type(opaque.value), opaque.error) == (Opaque, "Liar is not plain data")


@pytest.mark.parametrize("forged", [1, (1,), (1, 2), [1, ""], (1, "", 3), (1, None)])
def test_a_malformed_reply_is_a_value_error(forged: Any) -> None:
    with pytest.raises(ValueError, match="a reply is"):
        decode_reply(encode(forged))
