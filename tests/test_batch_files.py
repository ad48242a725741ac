"""The files of docs/howto/batch that users copy: for Slurm, Kubernetes and Dask."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import pytest
from support.documents import ROOT
from support.striped_images import SMALL_NETWORK, write_striped_images

from medvlad.cli.extract import extract

FOLDER = ROOT / "docs" / "howto" / "batch"
OPTIONS = {option for parameter in extract.params for option in parameter.opts}
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def options_of(words):
    return {word.partition("=")[0] for word in words if word.startswith("--")}


# --------------------------------------------------------------------------------------------- Slurm


@pytest.fixture
def submit(tmp_path):
    """Run the script as a task of an array, with stand-ins for srun and medvlad; return status and words."""
    script = FOLDER / "extract.sbatch"
    (tmp_path / "srun").write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n')
    said = f'printf "%s\\n" "$@" > {tmp_path}/words'
    (tmp_path / "medvlad").write_text(f"#!/bin/bash\n{said}\nexit ${{STATUS:-0}}\n")
    for name in ("srun", "medvlad"):
        (tmp_path / name).chmod(0o755)

    def call(**variables):
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "3", **variables}
        done = subprocess.run(["bash", script], env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.stderr == ""
        return done.returncode, (tmp_path / "words").read_text().splitlines()

    return call


@needs_bash
def test_the_script_of_slurm_calls_extract_with_options_that_exist(submit):
    status, words = submit(SLURM_CPUS_PER_TASK="8", IMAGES="/a b", STORE="/s", METRICS="/m")
    assert status == 0
    assert words[:6] == ["extract", "/a b", "--store", "/s", "--part", "auto/16"]
    assert options_of(words) <= OPTIONS
    assert words[words.index("--threads") + 1] == "8"
    assert words[words.index("--metrics") + 1] == "/m/extract-3.prom"
    assert words[-4:] == ["--model", "vgg16", "--weights", "bundled"]


@needs_bash
@pytest.mark.parametrize(("status", "expected"), [("0", 0), ("1", 0), ("2", 2), ("143", 143)])
def test_skipped_images_do_not_fail_a_task_of_slurm(submit, status, expected):
    assert submit(STATUS=status)[0] == expected


@needs_bash
def test_the_array_of_slurm_has_as_many_tasks_as_parts(submit):
    text = (FOLDER / "extract.sbatch").read_text()
    assert re.search(r"^#SBATCH --array=1-16$", text, re.MULTILINE)
    assert "auto/16" in submit()[1]
    assert "auto/4" in submit(PARTS="4", OPTIONS="--model vgg19")[1]


# ---------------------------------------------------------------------------------------- Kubernetes


@pytest.fixture(scope="module")
def job():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return yaml.safe_load((FOLDER / "job.yaml").read_text())


def test_the_job_of_kubernetes_is_indexed_and_has_as_many_pods_as_parts(job):
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert spec["completionMode"] == "Indexed"
    assert int(environment["PARTS"]) == spec["completions"] >= spec["parallelism"]
    assert "--part=auto/$(PARTS)" in container["args"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # podFailurePolicy needs it
    assert [one["action"] for one in spec["podFailurePolicy"]["rules"]] == ["FailIndex", "Ignore"]
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == container["name"]


def test_the_job_of_kubernetes_calls_extract_with_options_that_exist(job):
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"][-2:] == ["medvlad", "extract"]
    assert options_of(container["args"]) <= OPTIONS
    mounted = {one["mountPath"] for one in container["volumeMounts"]}
    assert {"/images", "/store", "/tmp"} == mounted
    volumes = {one["name"] for one in job["spec"]["template"]["spec"]["volumes"]}
    assert {one["name"] for one in container["volumeMounts"]} == volumes


def test_the_container_has_extras_that_exist_and_what_the_job_calls(job):
    text = (FOLDER / "Dockerfile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (named,) = re.findall(r"/src\[(.*?)\]", text)
    assert set(named.split(",")) <= set(extras)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert f" {container['command'][0]} " in text


# ---------------------------------------------------------------------------------------------- Dask


def test_the_program_for_dask_extracts(tmp_path, rng, small_weights, monkeypatch, capsys):
    """With workers in this process in place of jobs of Slurm."""
    distributed = pytest.importorskip("distributed", reason="needs the extra distributed")
    started = []

    def cluster(**arguments):
        made = distributed.LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0")
        made.adapt = lambda **limits: started.append(arguments | limits)
        return made

    monkeypatch.setitem(sys.modules, "dask_jobqueue", SimpleNamespace(SLURMCluster=cluster))
    spec = importlib.util.spec_from_file_location("dask_slurm", FOLDER / "dask_slurm.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    program.IMAGES = write_striped_images(tmp_path / "images", rng, train=2, test=1)
    program.STORE = tmp_path / "store"
    program.NETWORK = {**SMALL_NETWORK, "weights": small_weights}
    program.CORES = 2
    program.main()
    assert "6 images extracted, 0 skipped" in capsys.readouterr().out
    ((arguments),) = started
    assert (arguments["job_cpu"], arguments["cores"], arguments["maximum"]) == (2, 1, 16)


def test_the_program_for_dask_gives_dask_jobqueue_arguments_that_exist(monkeypatch):
    jobqueue = pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    text = (FOLDER / "dask_slurm.py").read_text()
    call = re.search(r"SLURMCluster\(\n(.*?)\n    \)", text, re.DOTALL)[1]
    arguments = eval(f"dict({call})", {"CORES": 8})
    with jobqueue.SLURMCluster(**arguments, scheduler_options={"dashboard_address": ":0"}) as cluster:
        script = cluster.job_script()
    assert "#SBATCH --cpus-per-task=8" in script
    assert "#SBATCH -t 12:00:00" in script
    assert "--nthreads 1 " in script
    assert "--lifetime 11h " in script
