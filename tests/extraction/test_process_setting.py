"""Settings of the process are restored by the last thread that needs them; other flags are left alone."""

import os
import subprocess
import sys
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from medvlad.extraction.engines import keras_engine
from medvlad.extraction.process_setting import ProcessSetting

PATIENCE = 60


class Flags:
    """Flags of a module, and a record of each change."""

    def __init__(self, **values):
        self.__dict__.update(values, changes=[])

    def __setattr__(self, name, value):
        self.changes.append(name)
        self.__dict__[name] = value


def overlapping(first, second, inside):
    """Enter `first`, enter `second`, leave `first`, look `inside`, leave `second`: each in its own thread."""
    entered, both, left = (threading.Event() for _ in range(3))
    seen = []

    def hold_first():
        with first:
            entered.set()
            assert both.wait(PATIENCE)
        left.set()

    def hold_second():
        assert entered.wait(PATIENCE)
        with second:
            both.set()
            assert left.wait(PATIENCE)
            seen.append(inside())

    threads = [threading.Thread(target=hold_first), threading.Thread(target=hold_second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return seen


def accessors(flags, name):
    return (lambda: getattr(flags, name)), (lambda value: setattr(flags, name, value))


@pytest.mark.parametrize("before", ["float32", "float16"])
def test_a_setting_has_its_value_while_it_is_held(before):
    flags, setting = Flags(floatx=before), ProcessSetting("float32")
    with setting.held(*accessors(flags, "floatx")):
        assert flags.floatx == "float32"
    assert flags.floatx == before


def test_a_setting_is_restored_after_an_error():
    flags, setting = Flags(floatx="float16"), ProcessSetting("float32")
    with pytest.raises(ValueError, match="inside"), setting.held(*accessors(flags, "floatx")):
        raise ValueError("inside")
    assert flags.floatx == "float16"


def test_threads_that_overlap_restore_a_setting():
    flags, setting = Flags(floatx="float16"), ProcessSetting("float32")
    held = [setting.held(*accessors(flags, "floatx")) for _ in range(2)]
    assert overlapping(*held, lambda: flags.floatx) == ["float32"]
    assert flags.floatx == "float16"


def test_a_user_may_change_a_setting_between_two_holders():
    flags, setting = Flags(floatx="float16"), ProcessSetting("float32")
    for before in ("float16", "float64"):
        flags.floatx = before
        with setting.held(*accessors(flags, "floatx")):
            assert flags.floatx == "float32"
        assert flags.floatx == before


@pytest.fixture
def tensorflow():
    """A module with TensorFlow's flag for TF32, which is on."""
    flags = Flags(tf32=True)
    read, write = accessors(flags, "tf32")
    settings = SimpleNamespace(tensor_float_32_execution_enabled=read, enable_tensor_float_32_execution=write)
    return SimpleNamespace(
        flags=flags,
        config=SimpleNamespace(experimental=settings),
        float32="float32",
        TensorSpec=lambda *_: None,
        function=lambda call, input_signature: call,
        constant=lambda pixels: pixels,
    )


@pytest.fixture
def torch():
    """A module with PyTorch's flags: TF32 is on, and the user has chosen deterministic kernels."""
    return SimpleNamespace(
        backends=SimpleNamespace(
            cudnn=Flags(allow_tf32=True, deterministic=True, benchmark=True, enabled=True),
            cuda=SimpleNamespace(matmul=Flags(allow_tf32=True)),
        ),
        no_grad=nullcontext,
    )


def test_threads_that_overlap_restore_tf32_of_tensorflow(tensorflow):
    held = [keras_engine._without_tensorflow_tf32(tensorflow) for _ in range(2)]
    assert overlapping(*held, lambda: tensorflow.flags.tf32) == [False]
    assert tensorflow.flags.tf32 is True


def test_threads_that_overlap_restore_tf32_of_torch(torch):
    def tf32():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    held = [keras_engine.without_torch_tf32(torch) for _ in range(2)]
    assert overlapping(*held, tf32) == [(False, False)]
    assert tf32() == (True, True)


def test_torch_keeps_all_flags_but_tf32(torch):
    with keras_engine.without_torch_tf32(torch):
        assert torch.backends.cudnn.deterministic
        assert torch.backends.cudnn.benchmark
    assert set(torch.backends.cudnn.changes) == {"allow_tf32"}


def test_a_user_without_tf32_stays_without_it(tensorflow, torch):
    tensorflow.flags.tf32 = torch.backends.cudnn.allow_tf32 = False
    with keras_engine._without_tensorflow_tf32(tensorflow), keras_engine.without_torch_tf32(torch):
        pass
    assert not tensorflow.flags.tf32
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("name", ["tensorflow", "torch"])
def test_the_engine_runs_the_network_without_tf32(name, tensorflow, torch, monkeypatch):
    module = {"tensorflow": tensorflow, "torch": torch}[name]
    monkeypatch.setitem(sys.modules, name, module)
    seen = []

    def network(pixels, training):
        flags = tensorflow.flags.tf32 if name == "tensorflow" else torch.backends.cudnn.allow_tf32
        seen.append((flags, training))
        return pixels

    pixels = SimpleNamespace(shape=(1, 8, 8, 3))
    assert keras_engine._COMPILERS[name](network)(pixels) is pixels
    assert seen == [(False, False)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_the_setting_of_before_and_may_hold_it_again():
    """Another thread holds the setting when the process forks. It does not exist in the child."""
    code = (
        "import os, threading, time\n"
        "from medvlad.extraction.process_setting import ProcessSetting\n"
        "setting, flags = ProcessSetting('held'), {'value': 'before'}\n"
        "read, write = (lambda: flags['value']), (lambda value: flags.update(value=value))\n"
        "inside, forked = threading.Event(), threading.Event()\n"
        "def hold():\n"
        "    with setting.held(read, write):\n"
        "        inside.set(); forked.wait(60)\n"
        "threading.Thread(target=hold).start(); inside.wait(60)\n"
        "if os.fork() == 0:\n"
        "    seen = [flags['value']]\n"
        "    with setting.held(read, write): seen.append(flags['value'])\n"
        "    os._exit(0 if [*seen, flags['value']] == ['before', 'held', 'before'] else 1)\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1])); forked.set()\n"
    )
    command = [sys.executable, "-W", "ignore:.*multi-threaded:DeprecationWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert done.stdout == "0\n"
