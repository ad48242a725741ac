"""The report of the benchmarks, for a result file that can be checked by hand."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import report

    return report


def bench(median, rounds=7, **info):
    stats = {
        "min": median / 2,
        "q1": median,
        "median": median,
        "q3": median,
        "max": 2 * median,
        "data": [median],
    }
    return {"fullname": "/home/somebody/x", "extra_info": info, "stats": stats | {"rounds": rounds}}


def encode(name, median, **info):
    case = {"data": "synthetic", "n": 49, "k": 64, "images": 2, "flop": 8e9, "threads": 2}
    return bench(median, kind="encode", implementation=name, **case, core_types=["SkylakeX"], **info)


@pytest.fixture
def results():
    return {
        "machine_info": {"node": "secret-host"},
        "commit_info": {"project": "secret-folder"},
        "machine": {
            "processor": "Some CPU",
            "processors": 2,
            "system": "Linux x86_64",
            "python": "3.12.1",
            "versions": {"numpy": "2.4"},
            "date": "2026-01-01",
            "load_average": [0.5, 0.4, 0.3],
            "limits": {
                "2": {
                    "instructions": "AVX2",
                    "fma_float32_gflops": 160.0,
                    "read_gb_s": 9.5,
                    "write_gb_s": 7.5,
                }
            },
        },
        "benchmarks": [
            encode(
                "medvlad", 0.1, disturbed_rounds=3, over_kernel=1.25, read_bytes=1.9e8, written_bytes=1.5e8
            ),
            encode("kernel alone", 0.08),
            encode("numba", 0.2),
            encode("torch", 0.4),
            encode("sgemm", 0.05),
            bench(
                2e-4,
                kind="latency",
                implementation="medvlad",
                n=49,
                k=64,
                threads=2,
                flop=1,
                data="synthetic",
            ),
            *(
                bench(
                    9.0,
                    3,
                    kind="kmeans",
                    implementation=name,
                    phase="total",
                    k=64,
                    rows=5,
                    iterations=10,
                    threads=2,
                    inertia=inertia,
                )
                for name, inertia in (("medvlad", [2.0, 4.0]), ("scikit-learn", [1.5, 6.0]))
            ),
            bench(
                2.0, kind="svm", implementation="medvlad", n=1000, d=2000, classes=3, gap=1e-9, told_gap=None
            ),
            bench(0.15, 1, kind="extraction", implementation="VGG16", images=16),
            bench(1.0),
        ],
    }


def test_the_report_has_tables_of_all_benchmarks(report, results):
    text = report.report(report.trim(results))
    own, kernel = "80.0 (40.0 to 160.0)", "100.0 (50.0 to 200.0)"
    assert f"| 49 | 64 | {own} | {kernel} | 20.0 (10.0 to 40.0) | 40.0 (20.0 to 80.0) | 160.0" in text
    assert "| 49 | 64 | 2.00 (numba) | 0.50 | 0.50 | 0.50 | 1.25 | 0.40 |" in text
    assert "3 of 35 measurements" in text
    assert "| 1,000 x 2,000 | 3 | medvlad | 2.00 (1.00 to 4.00) | 1.0e-09 | - |" in text
    assert "| 49 | 64 | 2 | 200.0 (100.0 to 400.0) |" in text
    assert "| scikit-learn | 10 | 9.00 (4.50 to 18.00) | - | - | 0.5000, 2.0000 |" in text
    assert "| 2 | AVX2 | 160.0 | - | - | 9.5 | 7.5 | - |" in text
    assert "150.0 ms an image" in text
    assert "| synthetic | 64 | 2 | 50.0000 | 25.000 % |" in text


def test_trimmed_results_name_no_machine_and_give_the_same_report(report, results, tmp_path):
    whole, trimmed, text = tmp_path / "whole.json", tmp_path / "trimmed.json", tmp_path / "report.md"
    whole.write_text(json.dumps(results))
    report.main([str(whole), "-o", str(text), "--trim", str(trimmed)])
    for word in ("secret", "somebody", '"data": ['):
        assert word not in trimmed.read_text()
    assert report.report(report.trim(json.loads(trimmed.read_text()))) == text.read_text()


def test_a_run_of_few_benchmarks_gives_a_report(report):
    """The run has neither limits of the machine nor rivals."""
    assert report.report(report.trim({"benchmarks": [encode("medvlad", 0.1)]})).count("|") > 10


def test_the_gpu_table_compares_with_the_bound_and_the_fastest_rival(report, tmp_path):
    """The copy of the data is the bound here."""
    limits = {"name": "Some GPU, 80GB", "copy_gb_s": 1000.0, "tf32_gflops": 100_000.0}
    case = {"kind": "gpu", "n": 49, "k": 64, "images": 1000, "flop": 1e9, "bytes": 1e9, "limits": limits}
    results = tmp_path / "out.json"
    benches = [
        bench(0.002, implementation="medvlad", **case),
        bench(0.02, implementation="jax", **case),
        bench(0.01, implementation="torch", **case),
    ]
    results.write_text(json.dumps({"machine": {}, "benchmarks": benches}))
    report.main([str(results), "--gpu", str(tmp_path)])
    text = (tmp_path / "some-gpu-80gb.md").read_text()
    assert "| 49 | 64 | 500.0 (250.0 to 1,000.0) |" in text
    assert "| 0.50 | 5.00 (torch) |" in text
    assert json.loads((tmp_path / "some-gpu-80gb.json").read_text())["results"][0]["limits"] == limits
    results.write_text(json.dumps({"machine": {}, "benchmarks": []}))
    with pytest.raises(SystemExit):
        report.main([str(results), "--gpu", str(tmp_path)])
