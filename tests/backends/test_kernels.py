"""The CUDA kernels on a machine without a GPU: they compile, fit the architectures, and have no races."""

import json
import subprocess

import pytest
from conftest import REQUIRED
from support.cuda_on_host import cupy_on_host
from support.nvrtc import (
    ARCHITECTURES,
    FILES,
    RECORD,
    Nvrtc,
    Resources,
    compile_all,
    digest,
    find_library,
)

from medvlad.backends import cuda_kernels

# A multiprocessor's registers, and the shared memory that every architecture gives a block.
REGISTERS, SHARED = 65536, 48 << 10


@pytest.fixture(scope="module")
def compiled():
    """NVRTC's version, and the resources of every kernel for each architecture.

    If nothing has changed since all architectures were recorded, two are compiled, and the others are those
    of the record. Each takes half a minute.
    """
    library = find_library()
    if library is None:
        if "nvrtc" in REQUIRED:
            pytest.fail("NVRTC is required: pip install nvidia-cuda-nvrtc-cu12")
        pytest.skip("needs NVRTC: pip install nvidia-cuda-nvrtc-cu12")
    nvrtc = Nvrtc(library)
    record = json.loads(RECORD.read_text())
    unchanged = record["digest"] == digest(nvrtc.version)
    compiled = compile_all(nvrtc, ("sm_75", "sm_90") if unchanged else ARCHITECTURES)
    used = {a: {k: Resources(*r) for k, r in kernels.items()} for a, kernels in record["kernels"].items()}
    return nvrtc.version, used | compiled if unchanged else compiled


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.slow
def test_every_kernel_compiles_and_can_be_launched(compiled, architecture):
    """NVRTC gives no warning, and registers and shared memory are within their limits."""
    kernels = compiled[1][architecture]
    first_words = {name.partition("_")[0] for name in kernels}
    assert first_words >= {"assign", "encode", "write", "cell", "run", "weighted", "normalise", "center"}
    tensor_cores = any("tensor_cores" in name for name in kernels)
    assert tensor_cores == (architecture != "sm_75")
    for name, used in kernels.items():
        threads = 128 if name.startswith(("assign", "decide", "encode_images")) else 256
        assert used.registers * threads <= REGISTERS, name
        assert used.shared <= SHARED, name


@pytest.mark.slow
def test_resources_are_as_recorded(compiled):
    """A change of registers or spills must be recorded on purpose, by support/nvrtc.py."""
    version, used = compiled
    record = json.loads(RECORD.read_text())
    if record["nvrtc"] != version:
        pytest.skip(f"recorded with NVRTC {record['nvrtc']}, this is {version}")
    assert record["columns"] == list(Resources._fields)
    assert set(record["kernels"]) == set(ARCHITECTURES)
    assert record["kernels"] == {a: {k: list(r) for k, r in kernels.items()} for a, kernels in used.items()}


@pytest.mark.slow
def test_a_broken_kernel_is_noticed(compiled):
    broken = cuda_kernels.source("decide").replace("max_norm", "other_name", 1)
    with pytest.raises(RuntimeError, match='"max_norm" is undefined'):
        Nvrtc(find_library()).compile(broken, "decide.cu", "sm_80", cuda_kernels.options("float32"))


@pytest.fixture(scope="module")
def races(tmp_path_factory):
    """Function that builds races.cpp with changed kernels. It returns a function that runs the program."""
    if cupy_on_host.COMPILER is None:
        pytest.skip("needs a C++20 compiler")
    probe = [cupy_on_host.COMPILER, "-fsanitize=thread", "-x", "c++", "-", "-o", "/dev/null"]
    if subprocess.run(probe, input="int main() {}", text=True, capture_output=True, check=False).returncode:
        pytest.skip("needs ThreadSanitizer")
    folder = tmp_path_factory.mktemp("races")
    command = [cupy_on_host.COMPILER, "-O1", "-g", "-std=c++20", "-Wno-unknown-pragmas", "-fsanitize=thread"]
    command += ["-DCUDA_ON_HOST_THREADS", f"-I{cupy_on_host.HERE}"]
    objects = {}

    def build(file, code):
        unit, made = folder / f"{file}.cpp", folder / f"{file}.o"
        unit.write_text(cupy_on_host.translation(code))
        subprocess.run([*command, "-c", str(unit), "-o", str(made)], check=True)
        objects[file] = str(made)

    def program(changed):
        for file in FILES:
            if file in changed or file not in objects:
                build(file, changed.get(file, cuda_kernels.source(file)))
        made = str(folder / "races")
        source = str(cupy_on_host.HERE / "races.cpp")
        subprocess.run([*command, source, *objects.values(), "-o", made], check=True)

        def run(*arguments):
            return subprocess.run(
                [made, *arguments], capture_output=True, text=True, timeout=300, check=False
            )

        return run

    return program


@pytest.mark.sanitize
def test_the_kernels_have_no_races(races):
    """The threads of a block are std::threads under ThreadSanitizer."""
    done = races({})()
    assert done.stderr == ""
    assert (done.returncode, done.stdout) == (0, "right\n")


@pytest.mark.sanitize
def test_a_missing_barrier_is_noticed(races):
    code = cuda_kernels.source("assign")
    assert code.count("__syncthreads();") == 4
    broken = code.replace("__syncthreads();", "", 1)
    # ThreadSanitizer sees a race only if the threads run at the same time: a busy machine needs more tries.
    run = races({"assign": broken})
    assert any("data race" in run("first part").stderr for _ in range(5))


@pytest.mark.sanitize
def test_a_missing_barrier_of_the_weighted_sums_is_noticed(races):
    """Without it, a thread moves rows to the front of the queue while others still read them there."""
    code = cuda_kernels.source("weighted")
    assert code.count("__syncwarp();") == 3
    run = races({"weighted": "".join(code.rsplit("__syncwarp();", 1))})
    assert any("data race" in run().stderr for _ in range(5))
