"""Files of ``torch.save`` are read without PyTorch, and nothing in them is run."""

import contextlib
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from support.torch_files import (
    STORAGES,
    Call,
    Name,
    Storage,
    encode,
    legacy_file,
    storage,
    tensor,
    view,
    zip_file,
)

from medvlad._util.torch_file import read_tensors
from medvlad._util.validate import InputError

LAYOUTS = [legacy_file, zip_file]
TYPES = [name for name in STORAGES if name != "bfloat16"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("torch") / "tensors.pt"


def read(path, data):
    path.write_bytes(data)
    return read_tensors(path)


def refusal(path, data):
    with pytest.raises(InputError) as caught:
        read(path, data)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


def same(found, wanted):
    """Return whether two nested values are equal, with equal types of numbers."""
    if isinstance(wanted, np.ndarray):
        return (
            found.dtype == wanted.dtype
            and found.shape == wanted.shape
            and found.tobytes() == wanted.tobytes()
        )
    if isinstance(wanted, dict):
        return type(found) is dict and same([*found.items()], [*wanted.items()])
    if isinstance(wanted, list | tuple):
        return type(found) is type(wanted) and len(found) == len(wanted) and all(map(same, found, wanted))
    return type(found) is type(wanted) and (found == wanted or (found != found and wanted != wanted))


# ---------------------------------------------------------------------------------------- sound files

numbers = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=9)
dtypes = st.sampled_from([np.dtype(name) for name in TYPES])
tensors = arrays.arrays(dtypes, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
values = st.recursive(
    numbers | tensors,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


def described(value, keys):
    """Return `value` with a call in the pickle for each array."""
    if isinstance(value, np.ndarray):
        return tensor(value, str(next(keys)))
    if isinstance(value, dict):
        return OrderedDict((key, described(item, keys)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value)(described(item, keys) for item in value)
    return value


@given(value=values, layout=st.sampled_from(LAYOUTS))
def test_what_was_saved_is_read(path, value, layout):
    assert same(read(path, layout(described(value, iter(range(99))))), value)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(numbers=arrays.arrays(np.float32, 7))
def test_bfloat16_becomes_the_same_number_in_float32(path, layout, numbers):
    upper = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    of = Storage("torch.BFloat16Storage", "0", 7, upper.tobytes())
    found = read(path, layout(view(of, 0, (7,), (1,))))
    assert found.dtype == np.float32
    assert np.array_equal(found.view(np.uint32), upper.astype(np.uint32) << 16)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", TYPES)
def test_files_of_a_machine_with_the_other_byte_order(path, layout, name):
    values = np.arange(6).astype(name).reshape(2, 3)
    described = tensor(values)
    described.arguments[0].data = values.astype(values.dtype.newbyteorder(">")).tobytes()
    assert same(read(path, layout(described, order=">")), values)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_views_of_one_storage_share_its_memory(path, layout):
    of = storage(np.arange(12, dtype=np.int64))
    first, second = read(path, layout([view(of, 0, (3, 4), (4, 1)), view(of, 1, (4, 2), (1, 4))]))
    assert np.array_equal(first, np.arange(12).reshape(3, 4))
    assert np.array_equal(second, first.ravel()[1:][np.arange(4)[:, None] + 4 * np.arange(2)])
    assert np.shares_memory(first, second)
    assert not first.flags.writeable


def test_parameters_and_shapes_are_read(path):
    value = [
        Call("torch._utils._rebuild_parameter", (tensor(np.ones(2)), True, {})),
        Call("torch.Size", ((2, 3),)),
    ]
    assert same(read(path, zip_file(value)), [np.ones(2), (2, 3)])


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True], "b": ("x", {}, [], (), 2**80)}, -1, "text"])
def test_plain_values_of_every_protocol_are_read(path, protocol, value):
    assert same(read(path, zip_file(value, body=pickle.dumps(value, protocol))), value)


@pytest.mark.parametrize("legacy", [False, True])
def test_files_of_pytorch_itself_are_read(path, legacy):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    base = torch.arange(24).reshape(4, 6)
    value = {
        "state": module.state_dict(),
        "parameter": module[0].weight,
        "views": [base.T, base[1:, ::2], base[2, 3]],
        "half": torch.randn(5).half(),
        "brain": torch.randn(5).bfloat16(),
        "bool": torch.tensor([True, False]),
        "complex": torch.randn(3, dtype=torch.complex64),
        "shape": base.shape,
        "n": (3, "x", None),
    }
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)

    def as_arrays(value):
        if isinstance(value, torch.Tensor):
            value = value.detach()
            return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
        if isinstance(value, dict):
            return {key: as_arrays(item) for key, item in value.items()}
        return type(value)(map(as_arrays, value)) if type(value) in (list, tuple) else value

    assert same(read_tensors(path), as_arrays({**value, "shape": (4, 6)}))


# ------------------------------------------------------------------------------------- hostile files


class Attack:
    """An object whose pickle runs a command when Python's unpickler loads it."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_pickle_that_runs_code_is_refused_by_name(path, tmp_path, layout, protocol):
    body = pickle.dumps({"weights": Attack(tmp_path / "made")}, protocol)
    text = refusal(path, layout(None, body=body))
    assert f"{os.mkdir.__module__}.mkdir" in text
    assert "Nothing in it was run" in text
    assert not (tmp_path / "made").exists()
    pickle.loads(body)
    assert (tmp_path / "made").exists()  # the pickle works: Python's unpickler runs it


@pytest.mark.parametrize("position", ["magic", "machine", "keys"])
def test_code_in_every_other_pickle_of_the_old_layout_is_refused(path, tmp_path, position):
    attack = pickle.dumps(Attack(tmp_path / "made"), 2)
    data = legacy_file([1])
    data = {
        "magic": attack + data,
        "machine": encode(0x1950A86A20F9469CFC6C) + encode(1001) + attack + data,
        "keys": legacy_file([1])[: -len(encode([]))] + attack,
    }[position]
    assert "mkdir" in refusal(path, data)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Call("builtins.eval", ("1",)), "builtins.eval"),
        (Name("torch.nn.modules.linear.Linear"), "torch.nn.modules.linear.Linear"),
        (Call("numpy.core.multiarray._reconstruct", ()), "numpy.core.multiarray._reconstruct"),
        (Name("torch.FloatStorage"), "belongs to no tensor|itself|torch.FloatStorage"),
        (Call("torch.FloatStorage", (3,)), "belongs to no tensor"),
        (Name("collections.OrderedDict"), "OrderedDict"),
        (b"bytes of Python 2 or 3", "_codecs.encode"),
    ],
)
def test_other_objects_are_refused_by_name(path, value, named):
    text = refusal(path, zip_file(value))
    assert any(name in text for name in named.split("|"))


@pytest.mark.parametrize(
    "body",
    [
        b"\x80\x02(ios\nsystem\n.",  # INST
        b"\x80\x02ccollections\nOrderedDict\n)\x81.",  # NEWOBJ
        b"\x80\x02ccollections\nOrderedDict\n}b.",  # state for a class
        b"\x80\x02]}b.",  # state for a list
        b"\x80\x02K\x01)R.",  # a number is called
        b"\x80\x02(.",  # a mark alone
        b"\x80\x02](a.",  # a mark in a list
        b"\x80\x02K\x01.",  # sound, for the next case
        b"\x80\x02a.",
        b"\x80\x02h\x07.",
        b"\x80\x02.",
        b"",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02}](K\x01K\x02es.",
        b"\x80\x02X\xff\xff\xff\x7fabc.",  # a string longer than the file
        b"\x80\x04\x8d" + b"\xff" * 7 + b"\x3fabc.",
    ],
)
def test_damaged_pickles_are_refused(path, body):
    if body == b"\x80\x02K\x01.":
        assert read(path, zip_file(None, body=body)) == 1
    else:
        refusal(path, zip_file(None, body=body))


def test_a_list_inside_itself_is_refused(path):
    loop = []
    loop.append(loop)
    assert "nested" in refusal(path, zip_file(None, body=pickle.dumps(loop, 2)))


def test_a_short_file_that_unfolds_to_many_values_is_refused(path):
    value = [1, 2]
    for _ in range(40):
        value = [value, value]
    assert "repeat" in refusal(path, zip_file(None, body=pickle.dumps(value, 2)))


@pytest.mark.parametrize(("depth", "sound"), [(64, True), (65, False)])
def test_the_limit_of_nesting(path, depth, sound):
    body = b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."
    if sound:
        read(path, zip_file(None, body=body))
    else:
        refusal(path, zip_file(None, body=body))


ONE = storage(np.arange(6, dtype=np.float32))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (1, (6,), (1,)),  # one number past the end
        (0, (2, 3), (4, 1)),
        (6, (1,), (1,)),
        (6, (), ()),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (10**9,), (0,)),  # more numbers than the storage has
        (0, (2**40, 2**40), (0, 0)),
        (0, (1,), (1, 1)),
        (2**63, (1,), (1,)),
        (0, (True,), (1,)),
        (0, (1.0,), (1,)),
        (0, (1,) * 33, (1,) * 33),
        (0, (0, 2**50), (1, 1)),
        (0, None, (1,)),
    ],
)
def test_tensors_outside_their_storage_are_refused(path, layout, offset, shape, strides):
    arguments = (ONE, offset, shape, strides, False, {})
    refusal(path, layout(Call("torch._utils._rebuild_tensor_v2", arguments)))


def long_storage(length, data=b"", key="0", kind="torch.FloatStorage"):
    return view(Storage(kind, key, length, data), 0, (1,), (1,))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("length", [2**30, 2**61, 2**70, -1, 1.5, True])
def test_storages_longer_than_the_file_are_refused_before_memory_is_taken(path, layout, length):
    refusal(path, layout(None, body=encode(long_storage(length))))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_storages_that_are_longer_than_the_file_together_are_refused(path, layout):
    data = np.ones(100, np.float32).tobytes()
    value = [long_storage(100, data, str(key)) for key in range(50)]
    body = encode(value)
    assert "longer than the file" in refusal(path, layout(value[:1], body=body))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("other", [("torch.FloatStorage", 5), ("torch.IntStorage", 6)])
def test_one_storage_with_two_descriptions_is_refused(path, layout, other):
    kind, length = other
    text = refusal(path, layout([view(ONE, 0, (1,), (1,)), long_storage(length, ONE.data, "0", kind)]))
    assert "two types or lengths" in text


@pytest.mark.parametrize(
    "description",
    [
        ("storage",),
        ("module", Name("torch.FloatStorage"), "0", "cpu", 1),
        ("storage", "torch.FloatStorage", "0", "cpu", 1),
        ("storage", Name("torch.Size"), "0", "cpu", 1),
        ("storage", Name("torch.FloatStorage"), 0, "cpu", 1),
        ("storage", Name("torch.FloatStorage"), "0", "cpu", 1, ("1", 0, 1)),
        "0",
    ],
)
def test_other_descriptions_of_storages_are_refused(path, description):
    refusal(path, zip_file(None, body=encode(description)[:-1] + b"Q."))


@given(cut=st.integers(0, 10**4), layout=st.sampled_from(LAYOUTS))
def test_a_file_cut_anywhere_is_refused(path, cut, layout):
    data = layout({"a": tensor(np.arange(30.0)), "b": tensor(np.arange(3), "1")})
    refusal(path, data[: cut % len(data)])


@given(place=st.integers(0, 10**6), flip=st.integers(1, 255), layout=st.sampled_from(LAYOUTS))
def test_a_changed_byte_is_refused_or_changes_values_only(path, place, flip, layout):
    data = bytearray(layout({"a": tensor(np.arange(30.0)), "b": [tensor(np.arange(3), "1"), "text"]}))
    data[place % len(data)] ^= flip
    try:
        read(path, bytes(data))
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017


@given(data=st.binary(max_size=200), start=st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04"]))
def test_any_bytes_are_refused_or_read(path, data, start):
    refusal(path, start + data)
    with contextlib.suppress(InputError):
        read(path, zip_file(None, body=b"\x80\x02" + data + b"."))


@pytest.mark.parametrize("keys", [["0", "0"], [], ["0", "1", "2"], [0, 1], "01", [["0"], "1"]])
def test_a_wrong_list_of_storages_is_refused(path, keys):
    value = [tensor(np.ones(2)), tensor(np.ones(2), "1")]
    head = legacy_file(value, keys=[])[: -len(encode([]))]
    record = struct.pack("<q", 2) + np.ones(2).tobytes()
    refusal(path, head + encode(keys) + 3 * record)
    assert read(path, head + encode(["1", "0"]) + 2 * record)


def test_a_storage_of_another_length_is_refused(path):
    value = tensor(np.ones(2))
    longer = legacy_file(value)[:-24] + struct.pack("<q", 3) + np.ones(3).tobytes()
    assert "another length" in refusal(path, longer)
    for data in (None, b"", b"1" * 15, b"1" * 17):
        assert "missing or has another length" in refusal(path, zip_file(value, change={"a/data/0": data}))


def test_compressed_archives_are_refused(path):
    text = refusal(path, zip_file(tensor(np.zeros(1000)), compression=zipfile.ZIP_DEFLATED))
    assert "compressed" in text


def test_archives_of_something_else_are_refused(path):
    assert "data.pkl" in refusal(path, zip_file(None, change={"a/data.pkl": None, "b/c.txt": b"x"}))
    assert "data.pkl" in refusal(path, zip_file(None, change={"b/data.pkl": b"x"}))


def test_a_missing_file_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "absent.pt")
