"""Run the targets of fuzz_targets.py with atheris, whose input is guided by code coverage.

python tests/support/fuzz/guided.py SECONDS [FOLDER]

The time is divided among images, DICOM, NIfTI, models and the store. Inputs that reach new code, and inputs
that fail, are written to FOLDER (default build/fuzz). Without atheris, the program prints a note and ends.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

TARGETS = (".png", ".tif", ".gif", ".dcm", ".nii", "model", "store")


def run_target(target: str, corpus: Path, seconds: int) -> None:
    """Fuzz one target. Never returns."""
    import atheris

    with atheris.instrument_imports(include=["medvlad", "pydicom", "nibabel", "PIL", "tifffile"]):
        import fuzz_targets

        if fuzz_targets.HAS_MEDICAL:
            import nibabel  # noqa: F401
            import pydicom.pixels  # noqa: F401
            import tifffile  # noqa: F401

    folder = tempfile.mkdtemp()
    if target == "model":
        seeds = list(fuzz_targets.model_samples().values())
    elif target == "store":
        seeds = [fuzz_targets.store_sample()[1]]
    else:
        seeds = [content for name, content in fuzz_targets.image_samples().items() if name.endswith(target)]
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(content)

    def try_one(content: bytes) -> None:
        if target == "model":
            fuzz_targets.check_model(folder, content)
        elif target == "store":
            fuzz_targets.check_store(folder, content)
        else:
            fuzz_targets.check_image(folder, target, content)

    limits = [f"-max_total_time={seconds}", "-rss_limit_mb=2048", "-timeout=60", "-max_len=4096"]
    where = [f"-artifact_prefix={corpus.parent}/failed-", "-print_final_stats=1", str(corpus)]
    atheris.Setup([sys.argv[0], *limits, *where], try_one)
    atheris.Fuzz()


def main() -> None:
    """Run each target in a separate process."""
    seconds = int(sys.argv[1])
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else "build/fuzz").resolve()
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: nothing is fuzzed by coverage")
        return
    for target in TARGETS:
        share = str(max(1, seconds // len(TARGETS)))
        command = [sys.executable, __file__, share, str(folder / target.strip(".")), target]
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment, check=False)
        if done.returncode != 0:
            sys.exit(f"{target}: failed\n{done.stdout or ''}{done.stderr[-20_000:]}")
        found = re.findall(r"number_of_executed_units: *(\d+)", done.stderr)
        print(f"atheris {target:<6} {found[-1]} inputs passed", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        run_target(sys.argv[3], Path(sys.argv[2]), int(sys.argv[1]))
    main()
