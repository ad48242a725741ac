"""The settings of a Triton server fit the exported graph."""

import re

import numpy as np
import pytest
from sklearn.pipeline import Pipeline
from support.in_this_process import run_command

from medvlad import Descriptors, GlobalPool, InputError, WideLinearSVC, save_model
from medvlad.models import export_onnx
from medvlad.models.triton_config import triton_config

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")


@pytest.fixture
def pipeline(rng):
    x = Descriptors.from_array(rng.normal(size=(9, 4, 8)).astype(np.float32))
    return Pipeline([("encode", GlobalPool()), ("c", WideLinearSVC())]).fit(x, [0, 1, 2] * 3)


@pytest.fixture
def model(pipeline, tmp_path):
    export_onnx(pipeline, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


EXPECTED = """\
name: "chest"
backend: "onnxruntime"
max_batch_size: 8
input [ { name: "descriptors" data_type: TYPE_FP32 dims: [ -1, 8 ] } ]
output [ { name: "scores" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "label" data_type: TYPE_INT64 dims: [ 1 ] reshape { shape: [ ] } } ]
dynamic_batching { }
"""


def test_inputs_and_outputs_are_those_of_the_graph_without_the_batch(model):
    assert triton_config(model, "chest", max_batch_size=8) == EXPECTED


def test_the_server_s_own_schema_accepts_it(model):
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient is not installed")
    text_format = pytest.importorskip("google.protobuf.text_format")
    config = text_format.Parse(triton_config(model, "chest"), schema.ModelConfig())
    assert (config.name, config.max_batch_size, list(config.input[0].dims)) == ("chest", 32, [-1, 8])
    assert [one.name for one in config.output] == ["scores", "label"]
    assert config.output[1].HasField("reshape")
    assert config.HasField("dynamic_batching")


def test_the_command_writes_a_model_repository(pipeline, tmp_path):
    save_model(pipeline, tmp_path / "model")
    words = ["export", tmp_path / "model", tmp_path / "models" / "chest", "--triton"]
    assert run_command(*words)[0] == 0
    written = sorted(
        path.relative_to(tmp_path / "models").as_posix() for path in tmp_path.rglob("models/**/*.*")
    )
    assert written == ["chest/1/model.onnx", "chest/config.pbtxt"]
    settings = (tmp_path / "models" / "chest" / "config.pbtxt").read_text()
    assert settings == EXPECTED.replace("8\ninput", "32\ninput")
    assert "--overwrite" in run_command(*words)[2]
    (tmp_path / "models/chest/1/model.onnx").unlink()
    (tmp_path / "models/chest/config.pbtxt").write_text("changed by hand")
    assert "OUT/config.pbtxt" in run_command(*words)[2]
    assert (tmp_path / "models/chest/config.pbtxt").read_text() == "changed by hand"


def test_a_graph_without_a_batch_is_refused(model):
    graph = onnx.load(model)
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(graph, model)
    with pytest.raises(InputError, match="the first axis of descriptors has the size 1"):
        triton_config(model, "chest")
    with pytest.raises(InputError, match=re.escape("max_batch_size must be")):
        triton_config(model, "chest", max_batch_size=0)
