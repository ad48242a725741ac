"""The timed implementations: name -> module of this package and environment of its process.

Every module has the same two functions::

    describe() -> dict
        Versions of the packages it uses. Raises ImportError or OSError with the reason if one is missing.
    prepare(x, offsets, centers, n_threads) -> encode
        Everything that depends on shapes or centres alone is done here and not timed, to the rivals' favour.
        ``encode(out)`` fills `out` (B, K * D), or a new array where `out` is None, and returns it with the
        labels it used, or with None where it does not keep them.
    prepare_assign(x, centers, n_threads) -> assign
        The same for assignment alone: ``assign()`` returns the labels (N,), or None if it does not find them.

One of the two may be missing. "medvlad" is what users call. "kernel alone" is the C++ core without checks.

Each module is imported in a separate process only, because idle threads of one library slow down another.
"""

from __future__ import annotations

from typing import NamedTuple

#: What users of this package call; the C++ core alone; the public call that returns a new array.
OWN, KERNEL, FRESH = "medvlad", "kernel alone", "medvlad, new array"
#: Implementations of this package. The others are rivals.
OURS = (OWN, KERNEL, FRESH, "reference")
#: The public call may take this many times the seconds of its kernel.
MOST_OVER_KERNEL = 1.1


class Rival(NamedTuple):
    """Module and environment of an implementation."""

    module: str
    environment: dict[str, str] = {}  # noqa: RUF012  never written to
    rounds: int | None = None
    """None: as many as the run asks for."""
    encodes: bool = True
    """False where it computes a part only, against which the others are held."""
    tuned: str | None = None
    """Name of the implementation that this one is with another OpenBLAS core type."""


#: If OpenBLAS does not know a processor, it uses the kernels of a much older one.
CORE_TYPE = "SkylakeX"
TUNED = {"OPENBLAS_CORETYPE": CORE_TYPE}

RIVALS = {
    OWN: Rival("medvlad_calls"),
    KERNEL: Rival("kernel_alone"),
    FRESH: Rival("medvlad_fresh"),
    "reference": Rival("reference", rounds=1),
    "numpy add.at": Rival("numpy_add_at"),
    "numpy sorted": Rival("numpy_sorted"),
    "scipy csr": Rival("scipy_csr"),
    "scikit-learn": Rival("scikit_learn"),
    "faiss": Rival("faiss_flat"),
    "torch": Rival("torch_cpu"),
    # Each of its threads calls BLAS, which must then use one thread.
    "numba": Rival("numba_jit", {"OPENBLAS_NUM_THREADS": "1"}),
    "vlfeat": Rival("vlfeat"),
    "sgemm": Rival("sgemm", encodes=False),
}
#: Libraries that cluster, and assign, but do not encode.
CLUSTERERS = {
    "superkmeans": Rival("superkmeans_flat"),
    "superkmeans, own settings": Rival("superkmeans_default"),
    "scikit-learn-intelex": Rival("intelex"),
}
RIVALS |= {
    f"{name}, {CORE_TYPE}": RIVALS[name]._replace(environment=RIVALS[name].environment | TUNED, tuned=name)
    for name in ("numpy sorted", "scipy csr", "scikit-learn", "faiss", "numba", "sgemm")
}

#: Implementations of assignment alone, which takes no array for its labels.
ASSIGNERS = (
    OWN,
    KERNEL,
    "reference",
    "numpy sorted",
    "scikit-learn",
    "faiss",
    f"faiss, {CORE_TYPE}",
    "torch",
    "superkmeans",
    "sgemm",
    f"sgemm, {CORE_TYPE}",
)

#: Measured like the encoders, but without a line in their table.
PARTS = tuple(name for name, rival in RIVALS.items() if not rival.encodes)
