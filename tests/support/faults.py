"""Work that faults may interrupt, and the faults that need a separate process.

python tests/support/faults.py kill FOLDER N SEED        N times: start, kill (SIGKILL), check the files
python tests/support/faults.py interrupt FOLDER N SEED   N times: start a command, stop it by a signal
python tests/support/faults.py memory FOLDER             each work under several limits of memory

PYTHONPATH must name the folder tests.

Heavy modules are imported once, and each trial is a fork. A light network replaces the real one: it computes
means of blocks. The program prints one line of JSON. The first broken promise ends it with an AssertionError.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image
from sklearn.pipeline import Pipeline
from support.small_sets import without_size_warning

import medvlad.__main__
import medvlad.cli
import medvlad.extraction.cnn_descriptors
import medvlad.extraction.keras_startup
import medvlad.models.model_file
from medvlad import VLAD, Descriptors, KMeansCodebook, StoredDescriptors, WideLinearSVC, save_model
from medvlad.extraction.networks import FrozenNetwork
from medvlad.extraction.weights import weights_source
from medvlad.images.read import load_image
from medvlad.models.model_file import load_model
from medvlad.store import shard
from medvlad.store.store import DescriptorStore

SETTINGS = {"model": "vgg16", "scales": [0]}


def key_of(i):
    return f"{i:064x}"


def descriptors(i):
    return np.maximum(np.random.default_rng(i).normal(-0.5, 1, (9, 16)), 0).astype(np.float32)


def section_of(store):
    return DescriptorStore(store).section(SETTINGS)


def fill(store, n, first=0):
    section = section_of(store)
    with section.writer() as writer:
        for i in range(first, n):
            writer.add(key_of(i), descriptors(i))
    return section


def fitted():
    x = Descriptors.from_array(np.stack([descriptors(i) for i in range(12)]))
    return Pipeline([("encode", VLAD(3, random_state=0)), ("classify", WideLinearSVC())]).fit(
        x, ["a", "b"] * 6
    )


def light_network(patch, fingerprint="0" * 64):
    """Replace the network by block means. `patch` is setattr, or that of MonkeyPatch."""
    network = SimpleNamespace(
        output_shape=(None, None, None, 12),
        input_shape=(None, None, None, 3),
        compute_output_shape=lambda shape: (shape[0], shape[1] // 32, shape[2] // 32, 12),
    )

    def compute(images):
        b, h, w, _ = images.shape
        means = images.reshape(b, h // 32, 32, w // 32, 32, 3).mean(axis=(2, 4)) / 255
        return np.concatenate([means, means**2, np.abs(means - 0.5), means > 0.4], axis=3).astype(np.float32)

    def build(model, layer, weights, **_):
        source = weights_source(weights)
        return FrozenNetwork(model, layer, source, network, lambda pixels: pixels, fingerprint)

    patch(medvlad.extraction.cnn_descriptors, "plain_network", lambda features: None)
    patch(medvlad.extraction.cnn_descriptors, "build_network", build)
    patch(medvlad.extraction.cnn_descriptors, "choose_engine", lambda *_, **__: "light")
    patch(medvlad.extraction.cnn_descriptors, "make_engine", lambda *_, **__: compute)
    patch(medvlad.extraction.keras_startup, "start_keras", lambda *_: None)


def write_images(root, n=6):
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 90)):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            pixels = rng.integers(low, low + 160, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def files(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def whole_store(store, n):
    """Assert that a store holds these images and no damaged entry."""
    section = section_of(store)
    assert section.verify() == []
    for i in range(n):
        found = section.get(key_of(i))
        assert found is not None, f"image {i} is lost"
        assert np.array_equal(found, descriptors(i)), f"image {i} is another"


# ---------------------------------------------------------------------------------------------------- kill


def kept(folder, pipeline, report):
    """Write images, join shards, save models and vectors, for ever. Report the number of images to a pipe."""
    section, i = section_of(folder / "store"), 0
    while True:
        if section.get(key_of(i)) is None:
            with section.writer() as writer:
                for j in range(i, i + 2):
                    writer.add(key_of(j), descriptors(j))
        i += 2
        os.write(report, bytes([i]))
        if i % 10 == 0:
            section.gc()
        save_model(pipeline, folder / "model", card={"n": i})
        stored = StoredDescriptors(section, [key_of(j) for j in range(i)])
        pipeline.named_steps["encode"].transform_to_file(stored, folder / "vectors.npy")
        if i >= 60:
            i = 0


def kill(folder, n, seed):
    rng, most, whole = np.random.default_rng(seed), 0, 0
    pipeline = fitted()
    shard.SHARD_IMAGES = 8
    for _ in range(n):
        reader, writer = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reader)
            kept(folder, pipeline, writer)
        os.close(writer)
        time.sleep(rng.uniform(0.002, 0.4))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        reported = b"".join(iter(lambda: os.read(reader, 4096), b""))  # noqa: B023, called at once
        os.close(reader)
        most = max([most, *reported])
        whole_store(folder / "store", most)
        if (folder / "model").exists():
            load_model(folder / "model")
        if (folder / "vectors.npy").exists():
            vectors = np.load(folder / "vectors.npy")
            x = Descriptors.from_array(np.stack([descriptors(i) for i in range(len(vectors))]))
            assert np.array_equal(vectors, pipeline.named_steps["encode"].transform(x))
            whole += 1
    fill(folder / "store", 60)
    section_of(folder / "store").gc()
    whole_store(folder / "store", 60)
    return {"killed": n, "images reported": most, "vectors looked at": whole}


# ----------------------------------------------------------------------------------------------- interrupt


def interrupt(folder, n, seed):
    light_network(setattr)
    images, store = write_images(folder / "images"), folder / "store"
    network = ["--model", "light", "--layer", "x", "--weights", "imagenet", "--store", store]
    commands = [
        ["extract", images, *network],
        [
            "evaluate",
            images,
            *network,
            "--encode",
            "vlad3",
            "--folds",
            "2",
            "--out",
            folder / "out",
            "--overwrite",
        ],
        ["train", images, *network, "--encode", "avg", "-o", folder / "model", "--overwrite"],
        ["store", "gc", store],
        ["audit", images, "--out", folder / "audit", "--overwrite"],
    ]
    words = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "stopped by"}
    for number in words:
        signal.signal(number, signal.SIG_DFL)  # the new process has no work yet
    rng, statuses = np.random.default_rng(seed), dict[str, int]()
    for trial in range(n):
        if trial % 7 == 0:
            for file in store.glob("*/*.shard"):
                file.unlink()
        arguments = [str(one) for one in commands[trial % len(commands)]]
        if "gc" in arguments and not (store / "format.json").exists():
            continue
        process = os.fork()
        if process == 0:
            for number, name in ((1, "printed"), (2, "error")):
                os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.argv = ["medvlad", *arguments]
            medvlad.__main__.main()
        time.sleep(rng.uniform(0.01, 0.5 if arguments[0] in ("evaluate", "audit") else 0.12))
        number = list(words)[trial % len(words)]
        with suppress(ProcessLookupError):
            os.kill(process, number)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        error = (folder / "error").read_text()
        case = f"{arguments}: {status}, {error}"
        assert "Traceback" not in error, case
        assert "Exception ignored" not in error, case
        # The signal itself ends the process before the handler is set and after the work is done.
        assert status in (0, 128 + number, -number), case
        # Python also ends itself by the signal if it arrives during an exec(). Shells report 130 for both.
        if status == 128 + number or (status != 0 and error.strip()):
            lines = without_size_warning(error).strip().splitlines()
            assert [line.startswith(f"medvlad: {words[number]}") for line in lines] == [True], case
        statuses[str(status)] = statuses.get(str(status), 0) + 1
        assert not list(folder.rglob(".*.part")), case
        for section in DescriptorStore(store).sections() if store.exists() else []:
            assert section.verify() == [], case
        for file in folder.glob("*/*.json"):
            if file.parent != store:
                json.loads(file.read_text())
        if (folder / "model").exists():
            medvlad.models.model_file.model_card(folder / "model")
    return {"interrupted": n, "statuses": statuses}


# -------------------------------------------------------------------------------------------------- memory


@contextmanager
def limit_of_memory(room):
    """Limit this process to so many bytes more than it has now. If negative, it gets no new memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def memory(folder):
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: return memory of freed arrays to the system
    libc.mallopt(-8, 1)  # M_ARENA_MAX: no memory reserves of threads
    rng = np.random.default_rng(0)
    x = Descriptors.from_array(np.maximum(rng.normal(size=(600, 49, 64)), 0).astype(np.float32))
    vlad = VLAD(64, random_state=0, max_iter=2).fit(x[:40])
    vectors, labels = vlad.transform(x), np.arange(600) % 2
    weights = np.ones(len(x.values))
    Image.fromarray(rng.integers(0, 256, (2000, 2000, 3), dtype=np.uint8)).save(folder / "large.png")
    section = section_of(folder / "store")
    with section.writer() as writer:
        for i in range(len(x)):
            writer.add(key_of(i), x[i])
    stored = StoredDescriptors(section, [key_of(i) for i in range(len(x))])
    works = {
        "encode": lambda: vlad.transform(x),
        # With weights, because k-means without them needs little new memory.
        "k-means": lambda: (
            KMeansCodebook(64, random_state=0, max_iter=1, tol=1.0)
            .fit(x, sample_weight=weights)
            .cluster_centers_
        ),
        "SVM": lambda: WideLinearSVC().fit(vectors, labels).coef_,
        "image": lambda: load_image(folder / "large.png"),
        "load": lambda: stored.load().values,
    }
    found = {}
    for name, work in works.items():
        expected, outcomes = work(), {"right": 0, "told": 0}
        for room in (-64, 0, 1, 4, 8, 128):
            reader, writer = os.pipe()
            process = os.fork()
            if process == 0:
                try:
                    with limit_of_memory(room << 20):
                        result = work()
                    outcome = "right" if np.array_equal(result, expected) else "wrong"
                except (MemoryError, ValueError) as error:
                    told = "memory" in str(error) and ": " in str(error) and "\n" not in str(error)
                    outcome = "told" if told else f"{type(error).__name__} {error}"
                os.write(writer, outcome.encode())
                os._exit(0)
            os.close(writer)
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            outcome = os.read(reader, 4096).decode()
            os.close(reader)
            assert (status, outcome in outcomes) == (0, True), f"{name}, {room} MiB more: {status} {outcome}"
            outcomes[outcome] += 1
        assert min(outcomes.values()) > 0, f"{name}: the limits met nothing, {outcomes}"
        found[name] = outcomes
    return found


# -------------------------------------------------------------------------------------- what is written


def zipped_chest(path):
    """Write an archive with the layout of chest-xray."""
    with zipfile.ZipFile(path, "w") as archive:
        for part in ("train", "test"):
            for name in ("NORMAL", "PNEUMONIA"):
                for i in range(2):
                    archive.writestr(f"chest_xray/{part}/{name}/{part}{name}-{i:07d}-0001.jpeg", b"x" * 300)
    return path


if __name__ == "__main__":
    what, place, *numbers = sys.argv[1:]
    trials = {"kill": kill, "interrupt": interrupt, "memory": memory}[what]
    sys.stdout.write(json.dumps({what: trials(Path(place), *map(int, numbers))}) + "\n")
