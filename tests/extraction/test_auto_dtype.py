"""dtype="auto": what is chosen, and that the choice is kept."""

import pickle
from importlib.util import find_spec

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from medvlad import CNNDescriptors, GlobalPool, InputError, WideLinearSVC, load_model, save_model
from medvlad._util.processor_model import ProcessorModel
from medvlad.extraction import auto_dtype, dtype_trial
from medvlad.extraction.many_layers import extract_layers
from medvlad.extraction.plain_network import PlainModel
from medvlad.extraction.weights import find_weights
from medvlad.store.store import DescriptorStore

needs_engines = pytest.mark.skipif(
    find_spec("openvino") is None or "vgg16" not in find_weights()["bundled"],
    reason="needs the extras openvino and offline",
)

#: What an Emerald Rapids reports, and the rates of a trial there.
AMX = ProcessorModel("a processor with AMX", frozenset({"amx_bf16", "amx_int8"}))
RATES = {"float32": 28.0, "bfloat16": 76.0, "int8": 149.0}
KEY = {"engines": {"float32": "native", "bfloat16": "openvino"}, "network": "tiny"}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache folder, and a process that knows no rates."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(dtype_trial, "_known", {})
    return tmp_path / "cache" / "medvlad" / "dtype-trials"


@pytest.fixture
def trials(monkeypatch):
    """Trials do not run. Their engines are listed, and their rates are RATES."""
    done = []

    def measure(network, engines):
        done.append(dict(engines))
        return {dtype: RATES[dtype] for dtype in engines}

    monkeypatch.setattr(dtype_trial, "_measure", measure)
    return done


@pytest.fixture
def with_amx(monkeypatch, trials):
    monkeypatch.setattr(auto_dtype, "processor_model", lambda: AMX)
    monkeypatch.setattr("medvlad.extraction.engines.keras_engine.has_fast_bfloat16", lambda: True)
    monkeypatch.setattr("medvlad.extraction.engines.may_have_gpu", lambda: False)
    monkeypatch.setattr("medvlad.extraction.auto_dtype.may_have_gpu", lambda: False)
    return trials


@pytest.fixture
def pictures():
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (60 + 9 * i, 80, 3), dtype=np.uint8) for i in range(3)]


def vgg16(**settings):
    return CNNDescriptors("vgg16", "block1_pool", weights="bundled", dtype="auto", **settings)


def forget(monkeypatch):
    monkeypatch.setattr(dtype_trial, "_known", {})


@pytest.mark.parametrize(
    ("rates", "n_images", "expected"),
    [
        (RATES, 0, "bfloat16"),
        (RATES, 4095, "bfloat16"),
        (RATES, 4096, "int8"),
        (RATES | {"bfloat16": 33.0}, 0, "float32"),  # less than 1.2 times as fast
        (RATES | {"bfloat16": 34.0}, 0, "bfloat16"),
        (RATES | {"int8": 91.0}, 9999, "bfloat16"),
        ({"float32": 22.0, "int8": 31.0}, 9999, "int8"),
        ({"float32": 22.0, "int8": 31.0}, 0, "float32"),
        ({"float32": 22.0}, 9999, "float32"),
    ],
)
def test_a_less_exact_dtype_must_be_clearly_faster(rates, n_images, expected):
    assert auto_dtype._fastest(rates, n_images) == expected


@needs_engines
@pytest.mark.parametrize(
    ("instructions", "name", "expected"),
    [
        ({"amx_bf16", "amx_int8"}, "vgg16", ["float32", "bfloat16", "int8"]),
        ({"avx512_vnni"}, "vgg19", ["float32", "int8"]),
        ({"amx_bf16", "amx_int8"}, "efficientnet-lite2", ["float32", "bfloat16"]),
        ({"sse2"}, "vgg16", []),
        ({"amx_bf16"}, "resnet50", []),
        ({"amx_bf16"}, None, []),
    ],
)
def test_only_accurate_dtypes_with_instructions_are_tried(
    monkeypatch, with_amx, instructions, name, expected
):
    found = ProcessorModel("x", frozenset(instructions))
    monkeypatch.setattr(auto_dtype, "processor_model", lambda: found)
    chosen = auto_dtype.auto_dtype(PlainModel(name or "?", []), name, "block5_pool", n_images=4096)
    assert [list(engines) for engines in with_amx] == ([expected] if expected else [])
    assert chosen == (expected[-1] if expected else "float32")


@needs_engines
@pytest.mark.parametrize("settings", [{"engine": "keras"}, {"output": "gpu"}, {"engine": "native"}])
def test_an_engine_that_has_float32_only_is_not_tried(with_amx, settings):
    assert auto_dtype.auto_dtype(PlainModel("vgg16", []), "vgg16", "block5_pool", **settings) == "float32"
    assert with_amx == []


def test_a_wrong_engine_is_refused(with_amx):
    with pytest.raises(InputError, match="engine='onnxruntime' runs networks of ONNX files"):
        vgg16(engine="onnxruntime").build()


def test_a_trial_is_kept_in_a_file(trials, cache, monkeypatch):
    first = dtype_trial.measured_rates(None, KEY)
    forget(monkeypatch)  # as in another process
    assert dtype_trial.kept_rates(KEY) == dtype_trial.measured_rates(None, KEY) == first
    assert len(trials) == len(list(cache.iterdir())) == 1
    assert dtype_trial.kept_rates(KEY | {"network": "other"}) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[" * 50_000,
        b"[]",
        b"{}",
        b'{"images_per_second": 5}',
        b'{"images_per_second": {"float32": "x"}}',
        b'{"images_per_second": {"float32": 3, "bfloat16": 9}}',
    ],
)
def test_a_damaged_file_is_replaced(trials, cache, monkeypatch, content):
    expected = dtype_trial.measured_rates(None, KEY)
    (file,) = cache.iterdir()
    good = file.read_bytes()
    file.write_bytes(content)
    forget(monkeypatch)
    assert dtype_trial.kept_rates(KEY) is None
    assert dtype_trial.measured_rates(None, KEY) == expected
    assert file.read_bytes() == good


@pytest.mark.parametrize("rate", ["0", "-1", "NaN", "Infinity", "null"])
def test_a_file_with_a_wrong_rate_is_replaced(trials, cache, monkeypatch, rate):
    dtype_trial.measured_rates(None, KEY)
    (file,) = cache.iterdir()
    good = file.read_text()
    assert "76.0" in good
    file.write_text(good.replace("76.0", rate))
    forget(monkeypatch)
    assert dtype_trial.measured_rates(None, KEY)["bfloat16"] == 76.0
    assert file.read_text() == good


def test_a_folder_that_cannot_be_written_does_not_stop_anything(trials, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = [dtype_trial.measured_rates(None, KEY) for _ in range(2)]
    assert found[0] == found[1]
    assert len(trials) == 1  # the process remembers


def test_without_a_home_nothing_is_kept(trials, monkeypatch):
    def homeless():
        raise RuntimeError("no home")

    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(dtype_trial.Path, "home", homeless)
    assert dtype_trial.measured_rates(None, KEY)["float32"] == 28.0


def test_the_first_of_two_processes_decides(monkeypatch, cache):
    def measure(network, engines):
        dtype_trial._write(dtype_trial._file_name(KEY), KEY, {"float32": 5.0, "bfloat16": 4.0})
        return {"float32": 1.0, "bfloat16": 9.0}

    monkeypatch.setattr(dtype_trial, "_measure", measure)
    assert dtype_trial.measured_rates(None, KEY) == {"float32": 5.0, "bfloat16": 4.0}


@needs_engines
def test_the_store_holds_what_was_chosen(with_amx, pictures, tmp_path, monkeypatch):
    chosen = vgg16(store=tmp_path / "store")
    assert chosen.extract(pictures) == 3
    assert (chosen.dtype_, chosen.engine_) == ("bfloat16", "openvino")
    (section,) = DescriptorStore(tmp_path / "store").sections()
    assert section.settings["dtype"] == "bfloat16"
    given = CNNDescriptors("vgg16", "block1_pool", weights="bundled", dtype="bfloat16")
    np.testing.assert_array_equal(given.transform(pictures).values, chosen.transform(pictures).values)
    given.set_params(store=tmp_path / "store")
    assert given.extract(pictures) == 0
    # A machine that chooses otherwise does not mix its numbers with these.
    monkeypatch.setattr(auto_dtype, "processor_model", lambda: ProcessorModel("y", frozenset()))
    other = vgg16(store=tmp_path / "store")
    assert other.extract(pictures) == 3
    assert other.dtype_ == "float32"
    assert len(DescriptorStore(tmp_path / "store").sections()) == 2


@needs_engines
def test_a_model_keeps_its_dtype_on_another_machine(with_amx, pictures, tmp_path, monkeypatch):
    steps = [("features", vgg16()), ("encode", GlobalPool()), ("classify", WideLinearSVC())]
    pipeline = Pipeline(steps).fit(pictures, ["a", "b", "a"])
    expected = pipeline.decision_function(pictures)
    save_model(pipeline, tmp_path / "model")
    monkeypatch.setattr(auto_dtype, "processor_model", lambda: ProcessorModel("y", frozenset()))
    loaded = load_model(tmp_path / "model")
    assert loaded[0].dtype == "bfloat16"
    np.testing.assert_array_equal(loaded.decision_function(pictures), expected)
    copy = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(copy.decision_function(pictures), expected)
    assert copy[0].dtype_ == "bfloat16"
    assert clone(pipeline[0]).build().dtype_ == "float32"


@needs_engines
def test_int8_is_taken_for_many_training_images(with_amx, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(auto_dtype, "_INT8_IMAGES", 3)
    features = vgg16()
    assert features.fit(pictures[:2]).dtype_ == "bfloat16"
    assert features.fit(pictures).dtype_ == "int8"
    given = CNNDescriptors("vgg16", "block1_pool", weights="bundled", dtype="int8").fit(pictures)
    assert features.ranges_ == given.ranges_
    np.testing.assert_array_equal(features.transform(pictures).values, given.transform(pictures).values)
    assert features.build().dtype_ == "int8"
    assert features.set_params(layer="block2_pool").build().dtype_ == "bfloat16"  # not calibrated


@needs_engines
def test_another_engine_keeps_the_dtype_until_fit(with_amx, pictures, monkeypatch):
    monkeypatch.setattr(auto_dtype, "_INT8_IMAGES", 3)
    features = vgg16().fit(pictures)
    expected = features.transform(pictures).values
    assert features.set_params(engine="openvino").build().dtype_ == "int8"
    np.testing.assert_array_equal(features.transform(pictures).values, expected)
    with pytest.raises(InputError, match="engine='native' does not compute in int8"):
        features.set_params(engine="native").build()
    assert features.fit(pictures).dtype_ == "float32"
    assert features.set_params(engine="auto").build().dtype_ == "float32"
    assert features.fit().dtype_ == "bfloat16"


@needs_engines
def test_several_layers_are_extracted_in_one_dtype(with_amx, pictures, tmp_path):
    pytest.importorskip("keras", reason="needs the extra tensorflow")
    features = vgg16(store=tmp_path / "store").set_params(layer="block2_pool")
    extract_layers(features, pictures, ["block1_pool", "block2_pool"])
    dtypes = {section.settings["dtype"] for section in DescriptorStore(tmp_path / "store").sections()}
    assert dtypes == {"bfloat16"}


@needs_engines
def test_the_line_says_what_others_would_bring(with_amx):
    features = vgg16().build()
    rates = "trial: int8 149 images/s, bfloat16 76 images/s, float32 28 images/s"
    assert auto_dtype.arithmetic_in_words(features) == f"dtype bfloat16 (auto) on openvino; {rates}"
    features.set_params(dtype="float32").build()
    assert auto_dtype.arithmetic_in_words(features) == f"dtype float32 on native; {rates}"
    features.set_params(layer="block2_pool").build()  # there was no trial with it
    line = "dtype float32 on native; --dtype auto would also try bfloat16 and int8"
    assert auto_dtype.arithmetic_in_words(features) == line


@needs_engines
def test_the_line_says_why_auto_keeps_float32(with_amx, monkeypatch):
    monkeypatch.setattr(auto_dtype, "processor_model", lambda: ProcessorModel("y", frozenset({"avx2"})))
    line = auto_dtype.arithmetic_in_words(vgg16().build())
    assert line.startswith("dtype float32 (auto) on ")
    assert "this processor reports none of the instructions amx_bf16, avx512_bf16, amx_int8" in line


@needs_engines
def test_doctor_tries_vgg16(with_amx):
    expected = "bfloat16, with 4096 training images or more int8 (int8 149 images/s, bfloat16 76 images/s"
    assert auto_dtype.try_vgg16().startswith(expected)
    assert len(with_amx) == 1
    assert CNNDescriptors("vgg16", weights="bundled", dtype="auto").build().dtype_ == "bfloat16"
    assert len(with_amx) == 1  # the same trial


@needs_engines
def test_a_real_trial_measures_every_dtype(monkeypatch):
    """Of a network of three layers, with dtypes that OpenVINO emulates if the processor lacks them."""
    monkeypatch.setattr(dtype_trial, "_SECONDS", 0.01)
    network = vgg16().set_params(dtype="float32").build().network_.cut
    engines = {"float32": "native", "bfloat16": "openvino", "int8": "openvino"}
    rates = dtype_trial.measured_rates(network, {"engines": engines})
    assert rates.keys() == engines.keys()
    assert all(0 < rate < 1e6 for rate in rates.values())
