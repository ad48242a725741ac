"""Every command works on URLs as on files: the same results, the same store, the same model."""

import json
import uuid
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from support.in_this_process import run_command
from support.object_storage import SECRET, busy, faulty, no_waits
from support.striped_images import NETWORK, write_striped_images

from medvlad import InputError, load_model
from medvlad._util.object_path import location
from medvlad.datasets.image_inputs import check_inputs
from medvlad.datasets.manifest import list_manifest
from medvlad.images import load_image
from medvlad.models.cases_file import load_cases

pytest.importorskip("fsspec", reason="needs the extra cloud")


def upload(folder, url):
    for file in sorted(Path(folder).rglob("*")):
        if file.is_file():
            location(f"{url}/{file.relative_to(folder).as_posix()}", "a file").write_bytes(file.read_bytes())


@pytest.fixture(scope="module")
def both(tmp_path_factory, small_weights):
    """A folder of images, the same images in object storage, and the options of a network."""
    folder, url = tmp_path_factory.mktemp("both"), f"memory://{uuid.uuid4().hex}"
    write_striped_images(folder / "images", np.random.default_rng(5))
    upload(folder / "images", f"{url}/images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        yield folder, url, [*NETWORK, "--weights", small_weights]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    no_waits(monkeypatch)


@pytest.fixture(scope="module")
def trained(both):
    """Models of a folder and of a URL, with stores beside them."""
    folder, url, options = both
    printed = [
        run_command(
            *("train", f"{root}/images", *options, "--encode", "avg", "--similar"),
            *("--store", f"{root}/store", "-o", f"{root}/m.model"),
        )
        for root in (folder, url)
    ]
    assert [status for status, *_ in printed] == [0, 0], printed
    return folder, url, printed


@pytest.mark.slow
def test_evaluate_gives_the_same_results(run, both, tmp_path):
    folder, url, options = both
    results = []  # of the folder, and of the URL
    for root in (folder, url):
        status, _, error = run(
            *("evaluate", f"{root}/images", *options, "--encode", "avg,vlad4", "--folds", 2),
            *("--store", f"{root}/store", "--out", tmp_path / str(len(results))),
        )
        assert status == 0, error
        found = json.loads((tmp_path / str(len(results)) / "results.json").read_text())
        results.append((found["results"], found["dataset"]["root"], found["settings"]))
    for one, other in zip(results[0][0], results[1][0], strict=True):
        assert {k: v for k, v in one.items() if "seconds" not in k} == {
            k: v for k, v in other.items() if "seconds" not in k
        }
    assert results[1][1] == f"{url}/images"
    assert results[0][2] == results[1][2]
    assert not any(SECRET in file.read_text("latin-1") for file in tmp_path.rglob("*.*"))


def test_the_models_are_the_same(trained):
    folder, url, printed = trained
    assert f"wrote {url}/m.model, and m.model.cases" in printed[1][1]
    local, remote = load_model(folder / "m.model"), load_model(f"{url}/m.model")
    np.testing.assert_array_equal(local[-1].coef_, remote[-1].coef_)
    one, other = load_cases(folder / "m.model"), load_cases(f"{url}/m.model")
    np.testing.assert_array_equal(one.index.vectors_, other.index.vectors_)


def test_the_stores_hold_the_same_shards(trained):
    folder, url, _ = trained
    local = {file.relative_to(folder).as_posix() for file in (folder / "store").rglob("*.shard")}
    for name in local:
        assert location(f"{url}/{name}", "a shard").read_bytes() == (folder / name).read_bytes()


def test_predict_takes_images_folders_lists_and_tables_by_url(run, trained, tmp_path):
    """One after another, so that the same image must get the same answer each time."""
    folder, url, _ = trained
    local = sorted((folder / "images/test/lying").rglob("*.png"))
    names = [file.relative_to(folder).as_posix() for file in local]
    location(f"{url}/list.txt", "a list").write_bytes("".join(f"{url}/{n}\n" for n in names).encode())
    location(f"{url}/t.csv", "a table").write_bytes(("image\n" + "\n".join(names) + "\n").encode())
    (tmp_path / "t.csv").write_text("image\n" + "\n".join(f"{url}/{n}" for n in names) + "\n")
    urls = [f"{url}/{name}" for name in names]
    given = [
        *local,
        *urls,
        f"@{url}/list.txt",
        f"{url}/t.csv",
        tmp_path / "t.csv",
        f"{url}/images/test/lying",
    ]
    status, printed, error = run("predict", f"{url}/m.model", *given, "--format", "jsonl")
    assert status == 0, error
    found = [json.loads(line) for line in printed.splitlines()]
    assert [one.pop("image") for one in found] == [*map(str, local), *urls * 5]
    assert found == found[: len(local)] * 6


def test_a_table_may_name_urls(both, tmp_path):
    folder, url, _ = both
    names = [file.relative_to(folder).as_posix() for file in sorted((folder / "images").rglob("*.png"))]
    (tmp_path / "t.csv").write_text("image\n" + "\n".join(f"{url}/{n}" for n in names) + "\n")
    location(f"{url}/own.csv", "a table").write_bytes(("image\n" + "\n".join(names) + "\n").encode())
    for table in (tmp_path / "t.csv", f"{url}/own.csv"):
        assert [str(path) for path in list_manifest(table)] == [f"{url}/{name}" for name in names]
    (tmp_path / "up.csv").write_bytes(b"image\n../other/0.png\n./train/lying/0.png\n")
    with pytest.raises(InputError, match="1 image lies outside the folder"):
        list_manifest(tmp_path / "up.csv", image_root=f"{url}/images")
    (tmp_path / "up.csv").write_bytes(b"image\n../images/test/lying/0.png\n./train/lying/0.png\n")
    found = list_manifest(tmp_path / "up.csv", image_root=f"{url}/images")
    assert [str(path) for path in found] == [f"{url}/images/{part}/lying/0.png" for part in ("test", "train")]


def test_missing_images_of_a_table_are_told(run, both, tmp_path):
    _, url, options = both
    (tmp_path / "t.csv").write_text(f"image\n{url}/images/none.png\n")
    status, _, error = run("extract", tmp_path / "t.csv", *options, "--store", f"{url}/never")
    assert status == 2
    assert f"row 2: {url}/images/none.png" in error


def test_the_store_commands_work_on_urls(run, trained):
    _, url, _ = trained
    status, printed, _ = run("store", "ls", f"{url}/store")
    assert status == 0
    assert "images" in printed
    status, printed, _ = run("store", "verify", f"{url}/store")
    assert status == 0
    assert "nothing is damaged" in printed
    (section,) = (one for one in location(f"{url}/store", "s").children() if one.is_folder)
    folder = location(f"{url}/store/{section.name}", "s")
    (shard,) = (folder / one.name for one in folder.children() if one.name.endswith(".shard"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9] + b"\xff" + whole[-8:])
    status, printed, error = run("store", "verify", f"{url}/store")
    assert status == 2
    assert str(shard) in error
    assert "1 damaged" in printed
    status, printed, _ = run("store", "gc", f"{url}/store")
    assert status == 0
    assert "nothing is damaged" in run("store", "verify", f"{url}/store")[1]


def test_show_reads_a_model_by_url(run, trained):
    _, url, _ = trained
    status, printed, _ = run("show", f"{url}/m.model")
    assert status == 0
    assert "classes" in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("evaluate memory://none/x", "does not exist"),
        ("extract memory://none/x --store s", "does not exist"),
        ("predict memory://none/m.model a.png", "there is no model file memory://none/m.model"),
        ("store verify memory://none/store", "is no descriptor store"),
        (f"evaluate https://user:{SECRET}@host/x", "holds a password or key"),
        (f"evaluate s3://key:{SECRET}@bucket/x", "holds a password or key"),
        (f"evaluate images --store s3://bucket/x?token={SECRET}", "holds a '?'"),
        (f"train images -o s3://key:{SECRET}@bucket/m.model", "holds a password or key"),
        (f"predict m.model https://user:{SECRET}@host/x.png", "holds a password or key"),
        (f"predict m.model --watch images https://host/x.png?sig={SECRET}", "x.png?... cannot be used"),
        ("evaluate hdfs://host/x", "of a kind that is not read"),
        ("extract images --store https://host/store", "cannot lie behind https"),
        ("evaluate images --out https://host/out", "can be read only"),
        ("predict m.model a.png --explain s3://bucket/out", "must be a file or folder of this machine"),
    ],
)
def test_mistakes_are_one_line_without_secrets(run, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_striped_images(tmp_path / "images", np.random.default_rng(5))
    status, printed, error = run(*words.split())
    assert (status, printed) == (2, "")
    assert said in error
    assert error.count("\n") == 1
    assert SECRET not in error


def objects_below(path):
    for one in path.children():
        yield from objects_below(path / one.name) if one.is_folder else [(path / one.name).read_bytes()]


def test_a_planted_secret_is_in_no_output(run, trained, tmp_path, caplog):
    """Not in messages, logs, stores, models or predictions, although the storage repeats it in its errors."""
    folder, url, printed = trained
    name = sorted((folder / "images").rglob("*.png"))[0].relative_to(folder).as_posix()
    with faulty() as system:
        system.faults += [("cat_file", busy)] * 2
        ran = run("--verbose", "predict", f"{url}/m.model", f"{url}/{name}", "-o", tmp_path / "p.json")
        system.faults += [("cat_file", busy)] * 100
        failed = run("predict", f"{url}/m.model", f"{url}/{name}", "-o", tmp_path / "q.json")
    assert ran[0] == 0, ran[2]
    assert failed[0] == 2
    assert "rate" in failed[2]
    everything = [*map(str, ran), *map(str, failed), caplog.text, (tmp_path / "p.json").read_text()]
    everything += [str(printed), *(text.decode("latin-1") for text in objects_below(location(url, "all")))]
    assert not any(SECRET in text for text in everything)


def test_an_image_is_read_by_a_signed_url(tmp_path, both):
    """The query is used and not shown."""
    import threading
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    pytest.importorskip("aiohttp", reason="needs the extra cloud")
    folder, _, _ = both
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def send_head(self):
            asked.append(self.path)
            if len(asked) in (1, 2, 5):  # at first the server is busy
                return self.send_error(503)
            return super().send_head()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        name = sorted((folder / "images").rglob("*.png"))[0].relative_to(folder).as_posix()
        url = f"http://127.0.0.1:{server.server_port}/{name}?X-Amz-Signature={SECRET}"
        np.testing.assert_array_equal(load_image(url), load_image(folder / name))
        assert all(SECRET in unquote(path) for path in asked)
        with pytest.raises(InputError, match="does not exist") as raised:
            load_image(url.replace(".png", ".jpg"))
        assert SECRET not in str(raised.value)
        for given in (url.replace(".png", ".jpg"), f"@{url.replace('.png', '.txt')}"):
            with pytest.raises(InputError, match=r"there is no .*\?\.\.\.: check the path$") as raised:
                check_inputs([given])
            assert SECRET not in str(raised.value)
    finally:
        server.shutdown()
        server.server_close()
