"""Results, reports and answers that are written to object storage and read from there."""

import json
import shutil
import tempfile
import uuid

import numpy as np
import pytest
from support.faults import light_network, write_images
from support.feature_files import write_features
from support.in_this_process import run_command
from support.object_storage import SECRET, busy, faulty, no_waits

from medvlad._util.object_path import location
from medvlad.cli.output import output_folder

pytest.importorskip("fsspec", reason="needs the extra cloud")

NETWORK = ["--model", "light", "--layer", "x", "--weights", "imagenet"]


def upload(folder, url):
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            location(f"{url}/{file.relative_to(folder).as_posix()}", "a file").write_bytes(file.read_bytes())


def names_below(url, inside=""):
    found = set()
    for one in location(url, "a folder").children():
        name = f"{inside}{one.name}"
        found |= names_below(f"{url}/{one.name}", f"{name}/") if one.is_folder else {name}
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Images, a model and results in a folder, and images and the model in object storage."""
    folder, url = tmp_path_factory.mktemp("both"), f"memory://{uuid.uuid4().hex}"
    with pytest.MonkeyPatch.context() as patch:
        light_network(patch.setattr)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        write_images(folder / "images", 6)
        upload(folder / "images", f"{url}/images")
        ran = run_command("train", folder / "images", *NETWORK, "--encode", "avg", "-o", folder / "m.model")
        assert ran[0] == 0, ran
        location(f"{url}/m.model", "a model").write_bytes((folder / "m.model").read_bytes())
        yield folder, url


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    no_waits(monkeypatch)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield
    assert not any((tmp_path / "temporary").iterdir())


def evaluate(images, out, *more):
    return ["evaluate", images, *NETWORK, "--encode", "avg,max", "--folds", 2, "--out", out, *more]


def test_a_report_by_url_is_that_of_a_folder(run, both, tmp_path):
    folder, url = both
    out = f"{url}/{uuid.uuid4().hex}"
    local, remote = run(*evaluate(folder / "images", tmp_path / "r")), run(*evaluate(f"{url}/images", out))
    assert (local[0], remote[0]) == (0, 0), remote
    assert f"Results, settings, versions and times: {out}/results.json" in remote[1]
    assert f"Report: {out}/report.html" in remote[1]
    written = {f.relative_to(tmp_path / "r").as_posix() for f in (tmp_path / "r").rglob("*") if f.is_file()}
    assert names_below(out) == written
    files = tmp_path / "r/results.json", location(f"{out}/results.json", "r")
    one, other = (json.loads(file.read_bytes())["results"] for file in files)
    assert [r["accuracy"] for r in one] == [r["accuracy"] for r in other]
    again = run(*evaluate(f"{url}/images", out))
    assert again[0] == 2
    assert "holds results.json of an earlier run" in again[2]
    location(f"{out}/figures/vlad9-roc.png", "a figure").write_bytes(b"of an earlier report")
    location(f"{out}/figures/own.txt", "a file").write_bytes(b"of the user")
    assert run(*evaluate(f"{url}/images", out, "--overwrite"))[0] == 0
    assert names_below(out) == written | {"figures/own.txt"}
    compared = run("compare", out, tmp_path / "r", "--encode", "avg,max", "--json")
    assert compared[0] == 2, "the runs name other images"
    compared = run("compare", out, out, "--encode", "avg,max", "--json")
    assert compared[0] == 0, compared
    shown = run("show", f"{url}/m.model", "--card", tmp_path / "card", "--results", out)
    assert shown[0] == 0, shown


@pytest.mark.parametrize("n_written", [1, 5])
def test_a_partial_report_is_not_taken_for_a_whole_one(run, both, n_written, tmp_path):
    """results.json is there only after everything else, also in place of an earlier report."""
    folder, url = both
    out = f"{url}/{uuid.uuid4().hex}"
    for name in ("results.json", "predictions.csv", "report.html"):
        location(f"{out}/{name}", "a file").write_bytes(b"old")
    written = []

    def full(real, path, *args, **kwargs):
        written.append(path)
        if len(written) > n_written + 1:  # and the trial before the work
            raise PermissionError("no more")
        return real(path, *args, **kwargs)

    with faulty() as system:
        system.faults += [("pipe_file", full)] * 1000
        status, _, error = run(*evaluate(folder / "images", out, "--overwrite"))
    assert status == 2
    assert f"cannot be put into {out}" in error
    assert "results.json" not in names_below(out)
    assert len(written) == n_written + 2
    assert str(removed(tmp_path / "temporary")) in error


def removed(folder):
    """Remove the folder of complete results in a folder, and return it."""
    (kept,) = folder.iterdir()
    assert (kept / "results.json").is_file()
    shutil.rmtree(kept)
    return kept


def test_results_are_not_lost_if_old_figures_cannot_be_listed(run, both, tmp_path):
    folder, url = both
    out = f"{url}/{uuid.uuid4().hex}"

    def away(real, path, *args, **kwargs):
        return busy(real, path) if path.endswith("/figures") else real(path, *args, **kwargs)

    with faulty() as system:
        system.faults += [("ls", away)] * 20
        status, _, error = run(*evaluate(folder / "images", out))
    assert status == 2
    assert f"cannot be put into {out}" in error
    assert str(removed(tmp_path / "temporary")) in error


def test_results_are_not_lost_if_the_upload_is_interrupted(tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    out = location(f"memory://{uuid.uuid4().hex}/out", "--out")

    def interrupted(system):
        with output_folder(out, results=["results.json"], overwrite=False) as output:
            (output.folder / "results.json").write_text("{}")
            system.faults += [("pipe_file", interrupt)]

    with faulty() as system, pytest.raises(KeyboardInterrupt) as raised:
        interrupted(system)
    assert str(removed(tmp_path / "temporary")) in raised.value.__notes__[0]


def test_nothing_is_written_if_the_command_fails(run, both):
    _, url = both
    out = f"{url}/{uuid.uuid4().hex}"
    status, _, error = run(*evaluate(f"{url}/images", out, "--group-by", "site"))
    assert status == 2, error
    assert not location(out, "a folder").exists()


def test_places_that_cannot_be_written_are_found_before_the_work(run, both):
    _, url = both
    for out, said in (
        ("https://host/r", "can be read only"),
        (f"{url}/images/r", "lies in the image folder"),
    ):
        status, printed, error = run(*evaluate(f"{url}/images", out))
        assert (status, printed) == (2, "")
        assert said in error
    location(f"{url}/used/notes.txt", "a file").write_bytes(b"Smith")
    status, _, error = run(*evaluate(f"{url}/images", f"{url}/used", "--anonymise"))
    assert status == 2
    assert "give a new or an empty folder" in error


def test_anonymised_reports_name_nobody(run, both, tmp_path):
    _, url = both
    out = f"{url}/{uuid.uuid4().hex}"
    status, _, error = run(*evaluate(f"{url}/images", out, "--anonymise-key", tmp_path / "key"))
    assert status == 0, error
    assert (tmp_path / "key").is_file()
    table = location(f"{out}/predictions.csv", "a table").read_text()
    assert "image-" in table
    assert url not in table


def test_audit_and_external_take_urls(run, both, tmp_path):
    folder, url = both
    found = []
    for root, out in ((folder, tmp_path / "a"), (url, f"{url}/{uuid.uuid4().hex}")):
        status, printed, error = run("audit", f"{root}/images", "--out", out)
        assert status == 0, error
        assert f"All findings: {out}/audit.json; report: {out}/audit.html" in printed
        found.append(location(out, "o").joinpath("audit.json").read_text().replace(str(root), "ROOT"))
    assert found[0] == found[1]
    found = []
    for root, out in ((folder, tmp_path / "e"), (url, f"{url}/{uuid.uuid4().hex}")):
        status, printed, error = run("external", f"{root}/m.model", f"{root}/images", "--out", out)
        assert status == 0, error
        found.append(json.loads(location(out, "o").joinpath("results.json").read_bytes()))
    assert found[0]["results"][0]["accuracy"] == found[1]["results"][0]["accuracy"]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json"])
def test_answers_by_url_are_those_of_a_file(run, both, tmp_path, ending):
    folder, url = both
    images = [str(one) for one in sorted((folder / "images").rglob("*.png"))[:3]]
    assert run("predict", folder / "m.model", *images, "--out", tmp_path / f"p.{ending}")[0] == 0
    out = f"{url}/{uuid.uuid4().hex}.{ending}"
    assert run("predict", f"{url}/m.model", *images, "--out", out)[0] == 0
    assert location(out, "o").read_bytes() == (tmp_path / f"p.{ending}").read_bytes()
    status, _, error = run("predict", f"{url}/m.model", *images, "--out", out)
    assert status == 2
    assert "exists: name another file, or give --overwrite" in error
    status, _, error = run("predict", f"{url}/m.model", images[0], "none.png", "--out", f"{out}2")
    assert status == 2
    assert not location(f"{out}2", "o").exists()


def test_an_outage_ends_a_run_and_skips_nothing(run, both, tmp_path):
    """A damaged image is skipped. A storage that does not answer is no damaged image."""
    folder, url = both
    images = f"{url}/{uuid.uuid4().hex}"
    upload(folder / "images", images)
    name = next(iter(sorted(n for n in names_below(images) if n.endswith(".png"))))
    location(f"{images}/{name}", "an image").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    words = ["extract", images, *NETWORK, "--store", tmp_path / "store", "--on-error", "skip"]

    def away(real, path, *args, **kwargs):
        if path.endswith(".png"):
            return busy(real, path)
        return real(path, *args, **kwargs)

    for method in ("cat_file", "info"):
        with faulty() as system:
            system.faults += [(method, away)] * 1000
            status, printed, error = run(*words)
        assert status == 2, printed
        assert "because its storage fails" in error
        assert "run the same command again" in error
        assert SECRET not in error
    status, _, error = run(*words)
    assert status == 1
    assert name in error
    assert "is corrupt or truncated" in error


@pytest.mark.parametrize("ending", ["npy", "npz", "h5", "pt", "safetensors"])
def test_feature_files_by_url_are_those_of_a_folder(run, tmp_path, ending):
    url, rng = f"memory://{uuid.uuid4().hex}", np.random.default_rng(0)
    for i in range(12):
        kind = "ab"[i % 2]
        file = tmp_path / "features" / kind / f"{i}.{ending}"
        write_features(file, (rng.normal(size=(5, 4)) + i % 2).astype(np.float32))
    upload(tmp_path / "features", f"{url}/features")
    printed = []
    for root in (tmp_path, url):
        trained = run("train", f"{root}/features", "--encode", "avg", "-o", f"{root}/f.model")
        assert trained[0] == 0, trained
        said = run("predict", f"{root}/f.model", f"{root}/features", "--format", "jsonl")
        assert said[0] == 0, said
        printed.append([json.loads(line) | {"image": ""} for line in said[1].splitlines()])
    assert printed[0] == printed[1]
    assert len(printed[0]) == 12
