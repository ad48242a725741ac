"""Malformed input for readers of files and arguments. FUZZ_EXAMPLES sets a number of random examples."""

import copy
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.fuzz_targets import (
    check_encode,
    check_image,
    check_model,
    check_store,
    check_weighted,
    image_samples,
    model_samples,
    outcomes,
    store_sample,
)

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
MEGABYTES = 400

fuzz = settings(
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def peak():
    status = Path("/proc/self/status")
    return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) // 1024 if status.exists() else 0


@pytest.fixture(scope="module", autouse=True)
def memory_is_bounded():
    image_samples(), model_samples(), store_sample()
    before = peak()
    yield
    print("".join(f"\n{name:<28} {n}" for name, n in sorted(outcomes.items())), file=sys.stderr)  # noqa: T201
    assert peak() - before < MEGABYTES


@st.composite
def damaged(draw, samples):
    """Draw one of `samples` with flipped bits, replaced bytes, a cut end, or a part of another in it."""
    content = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(0, 5))):
        if not content:
            break
        # Most changes go to the beginning, because headers are short.
        end = draw(st.sampled_from([min(64, len(content)), min(600, len(content)), len(content)]))
        at = draw(st.integers(0, end - 1))
        kind = draw(st.sampled_from(["bit", "byte", "number", "splice", "cut"]))
        if kind == "bit":
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte":
            content[at] = draw(st.integers(0, 255))
        elif kind == "number":
            number = draw(st.sampled_from([0, 1, -1, 2**15, 2**16 - 1, 2**31 - 1, -(2**31), 2**32 - 1]))
            size, order = draw(st.sampled_from([2, 4])), draw(st.sampled_from(["little", "big"]))
            content[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, order)
        elif kind == "splice":
            other = draw(st.sampled_from(samples))
            begin = draw(st.integers(0, len(other) - 1))
            content[at : at + draw(st.integers(0, 40))] = other[begin : begin + draw(st.integers(0, 200))]
        else:
            del content[max(at, len(content) // 4) :]
    return bytes(content)


def by_ending(*endings):
    return [content for name, content in image_samples().items() if name.endswith(endings)]


@pytest.mark.parametrize("ending", [".jpg", ".png", ".tif", ".bmp", ".gif", ".webp", ".pgm"])
@fuzz
@given(data=st.data())
def test_damaged_images_are_read_or_an_error(data, ending, tmp_path_factory):
    check_image(tmp_path_factory.getbasetemp(), ending, data.draw(damaged(by_ending(ending))))


@pytest.mark.parametrize("ending", [".dcm", ".nii", ".nii.gz"])
@fuzz
@given(data=st.data())
def test_damaged_medical_images_are_read_or_an_error(data, ending, tmp_path_factory):
    samples = by_ending(ending)
    if not samples:
        pytest.skip("needs the extra medical")
    check_image(tmp_path_factory.getbasetemp(), ending, data.draw(damaged(samples)))


json_values = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2, 5, 2**31, 2**63, 10**400, 1e308, 5e-324, float("inf"), float("nan")]),
    st.sampled_from(["", "a", "vlad", "soft", "VLAD", "encode", "encode.x", "classify", "\n", "a" * 5000]),
    st.just([]),
    st.just({}),
    st.just([[1, 2], [3]]),
)


@st.composite
def with_another_value(draw, text):
    """Draw a change of the JSON `text`: a value changed, removed or doubled."""
    tree = json.loads(text)
    for _ in range(draw(st.integers(1, 3))):
        place = tree
        while True:
            places = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not places:
                break
            key = draw(st.sampled_from(places))
            if isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 3)):
                place = place[key]
                continue
            change = draw(st.sampled_from(["change", "change", "leave out", "double"]))
            if change == "change":
                place[key] = copy.deepcopy(draw(json_values))
            elif change == "leave out":
                del place[key]
            elif isinstance(place, list):
                place.append(copy.deepcopy(place[key]))
            break
    return json.dumps(tree)


@st.composite
def damaged_safetensors(draw, samples, entry):
    """Draw a file of `samples` and change its bytes, its JSON header, or the JSON inside the header."""
    kind = draw(st.sampled_from(["bytes", "header", "own", "own", "own"]))
    if kind == "bytes":
        return draw(damaged(samples))
    content = draw(st.sampled_from(samples))
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size].decode()
    if kind == "header":
        header = draw(with_another_value(header))
    else:
        tree = json.loads(header)
        tree["__metadata__"][entry] = draw(with_another_value(tree["__metadata__"][entry]))
        header = json.dumps(tree)
    changed = header.encode()
    changed += b" " * (-len(changed) % 8)
    return len(changed).to_bytes(8, "little") + changed + content[8 + size :]


@fuzz
@given(data=st.data())
def test_damaged_models_decide_with_numbers_or_are_an_error(data, tmp_path_factory):
    samples = list(model_samples().values())
    check_model(tmp_path_factory.getbasetemp(), data.draw(damaged_safetensors(samples, "medvlad")))


@fuzz
@given(data=st.data())
def test_damaged_stores_give_the_written_numbers_or_none(data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "store"
    check_store(folder, data.draw(damaged_safetensors([store_sample()[1]], "shard")))


numbers = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-40, 1e-20, 3.4e38, -3.4e38, 1e300, np.nan, np.inf]),
    st.floats(-10, 10, width=32),
)
#: Deliberate mistakes. All other arguments are valid.
faults = st.sampled_from(["nothing"] * 7 + ["values", "offsets", "weights", "centers", "power"])
odd_dtypes = st.sampled_from([">f4", "f8", "f2", "i8", "u1", "?", "c8", "O", "U3", "M8[s]"])
extremes = st.sampled_from([0.0, -0.0, 1.0, 1e-45, -1e-40, 1e-20, -1e-6, 1e19, 3.4e38, -3.4e38])


@st.composite
def matrices(draw, rows, columns, is_odd):
    dtype = np.dtype(draw(odd_dtypes) if is_odd else "f4")
    if dtype.kind != "f":
        return draw(hnp.arrays(dtype, (rows, columns)))
    kinds = [st.floats(-10, 10, width=16), st.integers(0, 2), extremes, extremes]
    kind = draw(st.sampled_from([*kinds, numbers] if is_odd else kinds))
    with np.errstate(over="ignore"):
        made = draw(hnp.arrays(np.float64, (rows, columns), elements=kind, fill=kind)).astype(dtype)
    shapes = [made, np.asfortranarray(made), made[::-1], made.tolist()]
    return draw(st.sampled_from([*shapes, made[:0], made[0:1], made.ravel()] if is_odd else shapes))


offset_lists = st.one_of(
    st.lists(st.integers(0, 12), max_size=4).map(sorted),
    st.sampled_from([None, "ab", [[0], [1, 2]], [0, 10**30], [0.0, 6.0], [0, 2**63 - 1, -(2**63), 6], 0]),
    hnp.arrays(st.sampled_from(["i1", "u8", "i8"]), st.integers(0, 4)),
)


@st.composite
def batches(draw, fault):
    rows, columns = draw(st.integers(0, 12)), draw(st.sampled_from([1, 2, 3, 5, 8, 17]))
    offsets = [0, *sorted(draw(st.lists(st.integers(0, rows), max_size=4))), rows]
    if fault == "offsets":
        offsets = draw(offset_lists)
    weights = draw(st.one_of(st.none(), st.lists(st.floats(0, 3), min_size=rows, max_size=rows)))
    if fault == "weights":
        odd = st.sampled_from([1e308, 5e-324, 1e38, 1j, None, "a", 10**400]).map(lambda one: [one] * rows)
        weights = draw(st.one_of(odd, st.lists(numbers, min_size=rows, max_size=rows)))
    return draw(matrices(rows, columns, fault == "values")), offsets, weights, columns


@fuzz
@given(data=st.data(), fault=faults)
def test_wrong_arguments_of_vlad_encode_are_an_error(data, fault):
    values, offsets, weights, columns = data.draw(batches(fault))
    least = 0 if fault == "centers" else 1
    centers = data.draw(matrices(data.draw(st.integers(least, 9)), columns, fault == "centers"))
    flags = {"intra_norm": data.draw(st.booleans()), "l2_norm": data.draw(st.booleans())}
    powers = numbers if fault == "power" else st.sampled_from([1.0, 0.5, 0.3])
    n_threads = data.draw(st.integers(1, 4))
    check_encode(values, offsets, weights, centers, power=data.draw(powers), n_threads=n_threads, **flags)


@fuzz
@given(data=st.data(), fault=faults)
def test_wrong_weights_never_give_nan(data, fault):
    values, offsets, weights, _ = data.draw(batches(fault))
    check_weighted(values, offsets, weights)
