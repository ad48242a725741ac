"""Extraction and encoding on a cluster of real processes, some of them killed: the numbers of one process.

The workers preload dask_faults.py, which kills them in the middle of a chunk or just after it is written.
"""

import logging
import os
import signal
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from conftest import BATCH_TOLERANCE
from PIL import Image
from sklearn.base import clone

from medvlad import VLAD, CNNDescriptors, GlobalPool, InputError, cli
from medvlad import distributed as ours
from medvlad._util.validate import MissingExtraError
from medvlad.distributed import cluster, encode_distributed, extract_distributed, worker
from medvlad.images.read import list_frames
from medvlad.store.shard import Shard
from medvlad.store.store import DescriptorStore

pytest.importorskip("keras", reason="needs the extra tensorflow")
distributed = pytest.importorskip("distributed", reason="needs the extra distributed")

FAULTS = Path(__file__).parents[1] / "support" / "dask_faults.py"
N_IMAGES = 20


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """Address of a scheduler with two workers, all three of them started from the command line."""
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


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Image files, none like another."""
    rng = np.random.default_rng(8)
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{i:02}.png" for i in range(N_IMAGES)]
    for i, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 256, (50 + i, 60, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture(scope="module")
def alone(small_weights, pictures):
    """The descriptors of the pictures, made by this process."""
    return CNNDescriptors("MobileNetV2", "out_relu", weights=small_weights).transform(pictures)


@pytest.fixture
def features(small_weights, tmp_path):
    return CNNDescriptors("MobileNetV2", "out_relu", weights=small_weights, store=tmp_path / "store")


def check_store(features, n_images):
    """So many images are in the store, each once, undamaged, and nothing is left over."""
    (section,) = DescriptorStore(features.store).sections()
    keys = [key for file in section.path.glob("*.shard") for key in Shard(file).keys]
    assert len(keys) == len(set(keys)) == n_images
    assert section.verify() == []
    assert list(section.path.glob("*.part")) == []
    section.gc()
    assert len(section) == n_images


def check_descriptors(features, paths, expected, monkeypatch, *, one_alone=False):
    """What the store holds of the pictures is `expected` to the bit, and nothing of it is made now.

    Where one of them was alone in its batch, Keras may have rounded it otherwise.
    """
    found = clone(features)
    found.fit()
    monkeypatch.setattr("medvlad.extraction.cnn_descriptors.make_engine", None)
    got = found.transform(paths)
    np.testing.assert_array_equal(got.offsets, expected.offsets)
    if one_alone:
        limit = BATCH_TOLERANCE * np.abs(expected.values).max()
        np.testing.assert_allclose(got.values, expected.values, rtol=0, atol=limit)
    else:
        assert got.values.tobytes() == expected.values.tobytes()


def networks(client):
    """Identity of the network that each worker process keeps."""
    return client.run(lambda dask_worker: id(vars(dask_worker)["medvlad"].features.network_))


@pytest.mark.slow
def test_equal_to_one_process(features, pictures, alone, scheduler, client, monkeypatch):
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
def test_a_killed_worker(features, pictures, alone, client, monkeypatch, tmp_path, death):
    """The redone chunk finds what the dead worker has written."""
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
def test_a_poison_image(features, pictures, client, tmp_path):
    """The run ends in a sentence, with all other chunks done."""
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
def test_damage_is_mended(features, pictures, alone, scheduler, monkeypatch):
    extract_distributed(features, pictures[:8], scheduler=scheduler, chunk=8)
    (shard,) = features.store_section().path.glob("*.shard")
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    assert extract_distributed(features, pictures[:8], scheduler=scheduler, chunk=8) == 1
    features.store_section().gc()
    assert extract_distributed(features, pictures[:8], scheduler=scheduler, chunk=8) == 0
    check_store(features, 8)
    # The damaged one went through the network in a batch of its own.
    check_descriptors(features, pictures[:8], alone[:8], monkeypatch, one_alone=True)


def test_nothing_is_shared(features, pictures, alone, scheduler, monkeypatch):
    """Workers that see neither the images nor the store: files go there, shards come back."""
    absolute = ours._absolute
    monkeypatch.setattr(
        ours, "_absolute", lambda p: f"/nowhere{p}" if str(p).endswith(".png") else absolute(p)
    )
    nowhere = worker.Probe(Path("/nowhere/section"), Path("/nowhere"), "token")
    monkeypatch.setattr(ours, "probe_of", lambda section: nullcontext(nowhere))
    assert extract_distributed(features, pictures, scheduler=scheduler, chunk=8) == N_IMAGES
    check_store(features, N_IMAGES)
    check_descriptors(features, pictures, alone, monkeypatch)
    encoder = GlobalPool().fit(alone)
    encoded = encode_distributed(encoder, features, pictures, scheduler=scheduler)
    assert encoded.tobytes() == encoder.transform(alone).tobytes()


def test_a_file_of_several_images_is_sent_once(features, scheduler, tmp_path, monkeypatch):
    """To workers that do not see it, with each chunk; not with each of its images."""
    pages = [
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8))
        for i in range(6)
    ]
    pages[0].save(tmp_path / "six.tif", save_all=True, append_images=pages[1:])
    frames = list_frames(tmp_path / "six.tif")
    sent, absolute, extraction = [], ours._absolute, ours.Extraction
    monkeypatch.setattr(
        ours, "_absolute", lambda p: f"/nowhere{p}" if str(p).endswith(".tif") else absolute(p)
    )

    def spied(*arguments):
        made = extraction(*arguments)
        sent.append([len(content) for content in made.files.values()])
        return made

    monkeypatch.setattr(ours, "Extraction", spied)
    expected = clone(features).set_params(store=tmp_path / "local").transform(frames)
    assert extract_distributed(features, frames, scheduler=scheduler, chunk=2) == 6
    got = clone(features).transform(frames)
    assert got.values.tobytes() == expected.values.tobytes()
    assert all(len(files) <= 1 for files in sent)
    assert [(tmp_path / "six.tif").stat().st_size] in sent


def test_arrays(features, pictures, alone, scheduler, monkeypatch):
    arrays = [np.asarray(Image.open(path)) for path in pictures[:9]]
    assert extract_distributed(features, arrays, scheduler=scheduler) == 9
    check_descriptors(features, arrays, alone[:9], monkeypatch, one_alone=True)
    arrays[5] = np.zeros((5, 5))
    with pytest.raises(InputError, match=r"^image 5: .*float64"):
        extract_distributed(features, arrays, scheduler=scheduler)


def test_skipped_images(features, pictures, scheduler, tmp_path):
    """Listed with index and reason as by one process, copies and missing files as well."""
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
def test_encoding(encoder, features, pictures, alone, scheduler):
    encoder.fit(alone)
    encoded = encode_distributed(encoder, features, pictures, scheduler=scheduler, chunk=6)
    assert encoded.tobytes() == encoder.transform(alone).tobytes()


def test_other_versions(features, pictures, scheduler, monkeypatch):
    here = worker.versions()
    for name in ("medvlad", "pillow"):
        monkeypatch.setattr(worker, "versions", lambda name=name: here | {name: "99.0"})
        with pytest.raises(
            InputError, match=rf"worker tcp://\S+ has {name} {here[name]}, here is 99\.0: install"
        ):
            extract_distributed(features, pictures, scheduler=scheduler)


def test_a_worker_without_medvlad(features, pictures, scheduler, monkeypatch):
    older = types.ModuleType("medvlad.of_another_version")
    exec("def job(*arguments): pass", vars(older))
    monkeypatch.setitem(sys.modules, older.__name__, older)
    monkeypatch.setattr(worker, "_run_job", older.job)
    with pytest.raises(InputError, match=r"has no medvlad, or an old one .*install medvlad \d"):
        extract_distributed(features, pictures, scheduler=scheduler)


@pytest.mark.slow
def test_other_weights(features, pictures, scheduler, monkeypatch, tmp_path):
    import keras

    keras.utils.set_random_seed(1)
    other = tmp_path / "other.weights.h5"
    keras.applications.MobileNetV2(weights=None, include_top=False).save_weights(other)
    absolute = ours._absolute
    monkeypatch.setattr(ours, "_absolute", lambda p: str(other) if str(p).endswith(".h5") else absolute(p))
    with pytest.raises(
        InputError, match=r"worker tcp://\S+ has other weights for MobileNetV2 .*other\.weights"
    ):
        extract_distributed(features, pictures, scheduler=scheduler)
    monkeypatch.setattr(ours, "_absolute", lambda p: f"{p}.nowhere")
    with pytest.raises(InputError, match=r"worker tcp://\S+: .*nowhere"):
        extract_distributed(features, pictures, scheduler=scheduler)


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:9", "nonsense://x:1", "127.0.0.1", "tcp://no.such.host.invalid:1"]
)
def test_no_scheduler_there(features, pictures, monkeypatch, address):
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 1)
    start = time.monotonic()
    with pytest.raises(InputError, match=f"there is no Dask scheduler at '{address}'") as error:
        extract_distributed(features, pictures, scheduler=address)
    assert "\n" not in str(error.value)
    assert time.monotonic() - start < 20


@pytest.fixture
def empty_cluster():
    """A scheduler without workers."""
    with distributed.LocalCluster(
        n_workers=0, processes=False, dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL
    ) as cluster:
        yield cluster


def test_no_workers(features, pictures, monkeypatch, empty_cluster):
    monkeypatch.setattr(ours, "_NO_WORKER_SECONDS", 1)
    with pytest.raises(InputError, match="has had no worker for 1 s: start some"):
        extract_distributed(features, pictures, scheduler=empty_cluster.scheduler_address)


def test_the_scheduler_goes_away(features, pictures, tmp_path):
    file = tmp_path / "scheduler.json"
    options = ["--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", "scheduler", *options], stderr=subprocess.DEVNULL
    )
    features.fit()
    try:
        with (
            distributed.Client(scheduler_file=str(file), timeout=30, set_as_default=False) as client,
            ThreadPoolExecutor(1) as pool,
        ):
            pool.submit(lambda: (time.sleep(1), process.kill()))
            with pytest.raises(InputError, match=r"is gone or has cancelled the run: .*goes on"):
                extract_distributed(features, pictures, scheduler=client)
    finally:
        process.kill()
        process.wait()


def test_bad_arguments(features, pictures):
    with pytest.raises(InputError, match="needs a store"):
        extract_distributed(clone(features).set_params(store=None), pictures)
    with pytest.raises(InputError, match="not both"):
        extract_distributed(features, pictures, scheduler="tcp://127.0.0.1:1", n_workers=2)
    with pytest.raises(InputError, match="n_workers must be an integer of at least 1, got 0"):
        extract_distributed(features, pictures, n_workers=0)
    with pytest.raises(InputError, match="chunk must be an integer of at least 1, got 0"):
        extract_distributed(features, pictures, chunk=0)


def test_without_dask(features, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'medvlad\[distributed\]'"):
        extract_distributed(features, pictures)


@pytest.mark.parametrize(
    ("n", "size", "sizes"), [(0, 8, []), (5, 8, [5]), (16, 8, [8, 8]), (20, 8, [8, 12]), (33, 16, [16, 17])]
)
def test_chunks_are_whole_batches(n, size, sizes):
    """A rest joins the last chunk, or its batch would be a smaller one."""
    chunks = ours._cut(list(range(n)), size, 8)
    assert [len(c) for c in chunks] == sizes
    assert [i for c in chunks for i in c] == list(range(n))


def wait_for_the_end_of(group):
    """Of all its processes; one of multiprocessing's own ends a little later than the rest."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail(f"processes of group {group} are left")


def command(*arguments):
    return [sys.executable, "-c", "from medvlad.cli import main; main()", *map(str, arguments)]


@pytest.mark.slow
def test_command_line(features, pictures, alone, small_weights, scheduler, monkeypatch, tmp_path, capsys):
    """Workers of this machine, ended by Ctrl-C; a cluster goes on from there."""
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
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, the workers included
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), error
    assert error.splitlines()[-1].startswith("medvlad: interrupted; what was extracted is in ")
    assert "Traceback" not in error
    wait_for_the_end_of(process.pid)
    done = len(clone(features).fit().store_section())
    assert 0 < done < N_IMAGES
    monkeypatch.setattr(sys, "argv", ["medvlad", *map(str, arguments), "--scheduler", scheduler])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    out, error = capsys.readouterr()
    assert out.startswith(f"{N_IMAGES} images, {N_IMAGES - done} of them extracted now")
    assert error == ""
    check_store(features, N_IMAGES)


def kill_a_worker(store, n_shards):
    """Kill one of the workers that this process has started, when the store has so many shards."""
    while len(list(store.rglob("*.shard"))) < n_shards:
        time.sleep(0.01)
    (cluster,) = (c for c in distributed.LocalCluster._instances if c.status == distributed.Status.running)
    pid = next(iter(cluster.workers.values())).pid
    os.kill(pid, signal.SIGKILL)
    return pid


@pytest.mark.slow
def test_own_workers_and_a_kill_from_outside(features, pictures, alone, monkeypatch):
    """Without a scheduler: two processes of this machine, one killed while it works."""
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_a_worker, Path(features.store), 1)
        assert extract_distributed(features, pictures, n_workers=2, chunk=4) == N_IMAGES
        assert killed.result()
    check_store(features, N_IMAGES)
    check_descriptors(features, pictures, alone, monkeypatch)


@pytest.mark.slow
@pytest.mark.data
def test_real_images_and_a_killed_worker(data_dir, vgg16_weights, tmp_path, monkeypatch):
    """Every fifth image of hyperkvasir_dev through VGG16, by one process and by two, one of which dies."""
    paths = sorted((data_dir / "hyperkvasir_dev").rglob("*.jpg"))[::5]
    assert len(paths) > 100
    local = CNNDescriptors("vgg16", weights=vgg16_weights, store=tmp_path / "local")
    expected = local.transform(paths)
    features = clone(local).set_params(store=tmp_path / "store")
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_a_worker, tmp_path / "store", 5)
        assert extract_distributed(features, paths, n_workers=2) == len(local.store_section())
        assert killed.result()
    check_store(features, len(local.store_section()))
    check_descriptors(features, paths, expected, monkeypatch)
    encoder = VLAD(16, random_state=0).fit(expected)
    encoded = encode_distributed(encoder, features, paths, n_workers=2)
    assert encoded.tobytes() == encoder.transform(expected).tobytes()
