"""A run on a cluster of real processes gives the numbers of one process, even if workers are killed.

The workers preload support/dask_faults.py, which kills them in the middle of a chunk or just after it.
"""

import os
import re
import signal
import subprocess
import sys
import time
import types
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from support.dask_runs import N_IMAGES, check_descriptors, check_store, network, write_pictures

from medvlad import VLAD, GlobalPool, InputError, cli
from medvlad.distributed import calls, encode_distributed, extract_distributed, run, worker
from medvlad.images.read import list_frames

pytest.importorskip("keras", reason="needs the extra tensorflow")
distributed = pytest.importorskip("distributed", reason="needs the extra distributed")

FAULTS = Path(__file__).parents[1] / "support" / "dask_faults.py"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def features(small_weights, tmp_path):
    return network(small_weights, tmp_path / "store")


@pytest.fixture(scope="module")
def alone(small_weights, pictures):
    """Return the pictures' descriptors, extracted by this process."""
    return network(small_weights).transform(pictures)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """Start a scheduler and two workers from the command line. Return the scheduler's address."""
    folder = tmp_path_factory.mktemp("cluster")
    environment = os.environ | {
        "DASK_DISTRIBUTED__WORKER__PRELOAD": str(FAULTS),
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",  # each death costs seconds
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    where = ["--scheduler-file", str(folder / "scheduler.json"), "--no-dashboard"]
    dask = [sys.executable, "-m", "dask"]
    options = {"cwd": folder, "env": environment, "stderr": (folder / "log").open("w")}
    running = [
        subprocess.Popen([*dask, "scheduler", "--port", "0", "--host", "127.0.0.1", *where], **options)
    ]
    worker = [*dask, "worker", *where, "--nthreads", "1", "--memory-limit", "0"]
    running += [subprocess.Popen([*worker, "--local-directory", str(folder / n)], **options) for n in "ab"]
    try:
        with distributed.Client(scheduler_file=where[1], timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
            address = client.scheduler.address
        yield address
    finally:
        for process in reversed(running):
            process.terminate()
        for process in reversed(running):
            process.wait(30)
        options["stderr"].close()


@pytest.fixture
def client(scheduler):
    with distributed.Client(scheduler, set_as_default=False) as client:
        yield client


def networks(client):
    """Return the identity of the network that each worker keeps."""
    return client.run(lambda dask_worker: id(vars(dask_worker)["medvlad"].features.network_))


def test_workers_compute_in_the_dtype_that_the_client_chose(features, pictures, monkeypatch):
    monkeypatch.setattr("medvlad.extraction.cnn_descriptors.settled_dtype", lambda *_: "bfloat16")
    features.set_params(dtype="auto")
    cluster = types.SimpleNamespace(own=False, threads=1)
    parameters = run._Run(features, pictures, "tcp://nowhere", None, None)._parameters(cluster)
    assert parameters["dtype"] == "bfloat16"


@pytest.mark.slow
def test_a_cluster_gives_the_numbers_of_one_process_and_keeps_its_networks(
    features, pictures, alone, scheduler, client, monkeypatch
):
    assert extract_distributed(features, pictures[:16], scheduler=client, chunk=4) == 16
    first = networks(client)
    assert len(first) == 2
    assert extract_distributed(features, [*pictures, pictures[0]], scheduler=scheduler) == N_IMAGES - 16
    assert extract_distributed(features, pictures, scheduler=scheduler) == 0
    assert networks(client) == first
    assert features.skipped_ == []
    check_store(features, N_IMAGES)
    check_descriptors(features, pictures, alone, monkeypatch)


@pytest.mark.parametrize("death", ["in the middle of a chunk", "after its shard is written"])
@pytest.mark.slow
def test_a_killed_worker_loses_nothing(features, pictures, alone, client, monkeypatch, tmp_path, death):
    """Another worker repeats the chunk, and finds what the dead worker wrote."""
    paths = list(pictures)
    if death == "in the middle of a chunk":
        paths[11] = tmp_path / "fatal.png"
        paths[11].write_bytes(pictures[11].read_bytes())
        marker = tmp_path / "fatal.alive"
    else:
        marker = tmp_path / "die_after_writing"
    marker.touch()
    before = set(client.run(os.getpid).values())
    assert extract_distributed(features, paths, scheduler=client, chunk=8) == N_IMAGES
    assert not marker.exists()
    check_store(features, N_IMAGES)
    check_descriptors(features, paths, alone, monkeypatch)
    client.wait_for_workers(2, timeout=30)
    assert len(before & set(client.run(os.getpid).values())) == 1


@pytest.mark.slow
def test_an_image_that_kills_every_worker_is_named(features, pictures, client, tmp_path):
    """The run ends with one sentence, after all other chunks."""
    poison = tmp_path / "poison.png"
    poison.write_bytes(pictures[3].read_bytes())
    paths = [*pictures[:8], *pictures[9:], poison]
    with pytest.raises(
        InputError, match=r"every worker that took these 8 images died: .*poison\.png"
    ) as error:
        extract_distributed(features, [poison, *pictures], scheduler=client, chunk=8)
    assert "\n" not in str(error.value)
    assert len(features.store_section()) >= N_IMAGES + 1 - 8 - 5, paths


@pytest.mark.slow
def test_damaged_entries_are_extracted_again(features, pictures, alone, scheduler, monkeypatch):
    extract_distributed(features, pictures[:8], scheduler=scheduler, chunk=8)
    (shard,) = features.store_section().path.glob("*.shard")
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    assert extract_distributed(features, pictures[:8], scheduler=scheduler, chunk=8) == 1
    features.store_section().gc()
    assert extract_distributed(features, pictures[:8], scheduler=scheduler, chunk=8) == 0
    check_store(features, 8)
    # The damaged image went through the network in a batch of its own.
    check_descriptors(features, pictures[:8], alone[:8], monkeypatch, one_alone=True)


@pytest.mark.slow
def test_workers_need_not_see_the_images_or_the_store(features, pictures, alone, scheduler, monkeypatch):
    """The client sends the files and writes the shards."""
    absolute = run._absolute
    monkeypatch.setattr(
        run, "_absolute", lambda p: f"/nowhere{p}" if str(p).endswith(".png") else absolute(p)
    )
    nowhere = worker.Probe(Path("/nowhere/section"), Path("/nowhere"), "token")
    monkeypatch.setattr(run, "probe_of", lambda section: nullcontext(nowhere))
    assert extract_distributed(features, pictures, scheduler=scheduler, chunk=8) == N_IMAGES
    check_store(features, N_IMAGES)
    check_descriptors(features, pictures, alone, monkeypatch)
    encoder = GlobalPool().fit(alone)
    encoded = encode_distributed(encoder, features, pictures, scheduler=scheduler)
    assert encoded.tobytes() == encoder.transform(alone).tobytes()


@pytest.mark.slow
def test_a_file_of_several_images_is_sent_once(features, scheduler, tmp_path, monkeypatch):
    """Workers that do not see it get it once per chunk, not once per image."""
    pages = [
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8))
        for i in range(6)
    ]
    pages[0].save(tmp_path / "six.tif", save_all=True, append_images=pages[1:])
    frames = list_frames(tmp_path / "six.tif")
    sent, absolute, extraction = [], run._absolute, run.Extraction
    monkeypatch.setattr(
        run, "_absolute", lambda p: f"/nowhere{p}" if str(p).endswith(".tif") else absolute(p)
    )

    def spied(*arguments):
        made = extraction(*arguments)
        sent.append([len(content) for content in made.files.values()])
        return made

    monkeypatch.setattr(run, "Extraction", spied)
    expected = clone(features).set_params(store=tmp_path / "local").transform(frames)
    assert extract_distributed(features, frames, scheduler=scheduler, chunk=2) == 6
    got = clone(features).transform(frames)
    assert got.values.tobytes() == expected.values.tobytes()
    assert all(len(files) <= 1 for files in sent)
    assert [(tmp_path / "six.tif").stat().st_size] in sent


@pytest.mark.slow
def test_arrays_are_extracted_and_named_by_index(features, pictures, alone, scheduler, monkeypatch):
    arrays = [np.asarray(Image.open(path)) for path in pictures[:9]]
    assert extract_distributed(features, arrays, scheduler=scheduler) == 9
    check_descriptors(features, arrays, alone[:9], monkeypatch, one_alone=True)
    arrays[5] = np.zeros((5, 5))
    with pytest.raises(InputError, match=r"^image 5: .*float64"):
        extract_distributed(features, arrays, scheduler=scheduler)


@pytest.mark.slow
def test_skipped_images_are_those_of_one_process(features, pictures, scheduler, tmp_path):
    """Index and reason are the same, for copies and missing files as well."""
    bad, copy = tmp_path / "bad.png", tmp_path / "copy.png"
    bad.write_bytes(b"no image")
    copy.write_bytes(b"no image")
    paths = [pictures[0], bad, tmp_path / "gone.png", *pictures[1:12], copy]
    with pytest.raises(InputError, match=r"gone\.png cannot be read"):
        extract_distributed(features, paths, scheduler=scheduler)
    with pytest.raises(InputError, match=r"^image '\S+/bad\.png' is not an image"):
        extract_distributed(features, [*pictures[:8], bad], scheduler=scheduler)
    features.set_params(on_error="skip")
    local = clone(features).set_params(store=tmp_path / "local")
    expected = local.transform(paths)
    assert extract_distributed(features, paths, scheduler=scheduler) == 12 - len(pictures[:8])
    assert features.skipped_ == local.skipped_
    assert [index for index, _ in features.skipped_] == [1, 2, len(paths) - 1]
    encoder = VLAD(3, random_state=0).fit(expected)
    encoded = encode_distributed(encoder, features, paths, scheduler=scheduler)
    assert encoded.tobytes() == encoder.transform(expected).tobytes()
    assert not encoded[1].any()


@pytest.mark.parametrize(
    "encoder", [VLAD(5, random_state=0, power=0.5), GlobalPool("gem")], ids=lambda e: type(e).__name__
)
def test_encoding_gives_the_numbers_of_one_process(encoder, features, pictures, alone, scheduler):
    encoder.fit(alone)
    encoded = encode_distributed(encoder, features, pictures, scheduler=scheduler, chunk=6)
    assert encoded.tobytes() == encoder.transform(alone).tobytes()


def test_a_worker_with_another_version_is_named(features, pictures, scheduler, monkeypatch):
    here = worker.versions()
    for name in ("medvlad", "pillow"):
        monkeypatch.setattr(worker, "versions", lambda name=name: here | {name: "99.0"})
        with pytest.raises(
            InputError,
            match=rf"worker tcp://\S+ has {name} {here[name]}, but this machine has 99\.0: install",
        ):
            extract_distributed(features, pictures, scheduler=scheduler)


@pytest.mark.slow
def test_a_worker_without_medvlad_is_an_error(features, pictures, scheduler, monkeypatch):
    older = types.ModuleType("medvlad.of_another_version")
    exec("def job(*arguments): pass", vars(older))
    monkeypatch.setitem(sys.modules, older.__name__, older)
    monkeypatch.setattr(calls, "_run_job", older.job)
    with pytest.raises(InputError, match=r"has no medvlad or an old version .*install medvlad \d"):
        extract_distributed(features, pictures, scheduler=scheduler)


@pytest.mark.slow
def test_a_worker_with_other_weights_is_named(features, pictures, scheduler, monkeypatch, tmp_path):
    import keras

    keras.utils.set_random_seed(1)
    other = tmp_path / "other.weights.h5"
    keras.applications.MobileNetV2(weights=None, include_top=False).save_weights(other)
    absolute = run._absolute
    monkeypatch.setattr(run, "_absolute", lambda p: str(other) if str(p).endswith(".h5") else absolute(p))
    with pytest.raises(
        InputError, match=r"worker tcp://\S+ has other weights for MobileNetV2 .*other\.weights"
    ):
        extract_distributed(features, pictures, scheduler=scheduler)
    monkeypatch.setattr(run, "_absolute", lambda p: f"{p}.nowhere")
    with pytest.raises(InputError, match=r"worker tcp://\S+: .*nowhere"):
        extract_distributed(features, pictures, scheduler=scheduler)


def wait_for_the_end_of(group):
    """Wait until no process of a group is left. A process of multiprocessing ends a little later."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail(f"processes of group {group} are left")


def command(*arguments):
    return [sys.executable, "-c", "from medvlad.__main__ import main; main()", *map(str, arguments)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")], ids=str
)
def test_a_run_that_a_signal_stopped_is_finished_by_the_next(
    features, pictures, alone, small_weights, scheduler, monkeypatch, tmp_path, capsys, number, word
):
    """The signal stops workers of this machine. A cluster extracts the remaining images."""
    network = ["--model", "mobilenetv2", "--layer", "out_relu", "--weights", small_weights]
    arguments = ["extract", pictures[0].parent, *network, "--batch-size", "1", "--store", features.store]
    process = subprocess.Popen(
        command(*arguments, "--workers", "1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    while not list(Path(features.store).rglob("*.shard")) and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, number)  # as a terminal or a batch system does, the workers included
    out, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number, error
    assert re.fullmatch(r"dtype float32 on (openvino|native|keras)\n", out)
    note = f"what was extracted is in {features.store}, and the same command continues"
    assert error.strip() == f"medvlad: {word}; {note}"
    wait_for_the_end_of(process.pid)
    done = len(clone(features).fit().store_section())
    assert 0 < done < N_IMAGES
    monkeypatch.setattr(sys, "argv", ["medvlad", *map(str, arguments), "--scheduler", scheduler])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    out, error = capsys.readouterr()
    assert f"\n{N_IMAGES} images, {N_IMAGES - done} of them extracted now" in out
    assert error.startswith(f"medvlad: the scheduler {scheduler} has ")
    assert error.count("\n") == 1
    check_store(features, N_IMAGES)
