import numpy as np
from numpy.typing import NDArray
from typing_extensions import CapsuleType

def supported_levels() -> list[str]: ...
def may_use_tiles() -> bool: ...
def needs_sgemm(k: int, d: int, n_threads: int) -> bool: ...
def assign(
    sgemm: CapsuleType,
    x: NDArray[np.float32],
    centers: NDArray[np.float32],
    labels: NDArray[np.int32],
    n_threads: int,
    method: str = "auto",
) -> int: ...
def encode(
    sgemm: CapsuleType,
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    vectors: NDArray[np.float32],
    zeroed: bool,
    labels: NDArray[np.int32] | None,
    counts: NDArray[np.int64] | None,
    power: float,
    intra_norm: bool,
    l2_norm: bool,
    n_threads: int,
    method: str = "auto",
) -> int: ...
def encode_weighted(
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    cells: NDArray[np.int32],
    weights: NDArray[np.float64],
    scales: NDArray[np.float64] | None,
    vectors: NDArray[np.float32],
    masses: NDArray[np.float64] | None,
    power: float,
    mass_norm: bool,
    intra_norm: bool,
    l2_norm: bool,
    n_threads: int,
) -> None: ...
def squared_distances(
    x: NDArray[np.float32],
    centers: NDArray[np.float32],
    labels: NDArray[np.int32],
    distances: NDArray[np.float64],
    n_threads: int,
) -> None: ...
def column_sums(x: NDArray[np.float32], sums: NDArray[np.float64], n_threads: int) -> None: ...

class Seeding:
    def __init__(self, x: NDArray[np.float32], rows: NDArray[np.int64] | None, n_threads: int) -> None: ...
    def distances(
        self,
        candidates: NDArray[np.int64],
        closest: NDArray[np.float64],
        distances: NDArray[np.float64],
        potentials: NDArray[np.float64],
    ) -> None: ...
    def add_best(self, candidates: NDArray[np.int64], closest: NDArray[np.float64]) -> int: ...
    @property
    def n_exact(self) -> int: ...

class ConvNet:
    def __init__(
        self,
        layers: list[tuple[NDArray[np.float32], NDArray[np.float32], bool] | None],
        n_channels: int,
    ) -> None: ...
    def run(self, images: NDArray[np.float32], n_threads: int) -> NDArray[np.float32]: ...

def has_gram() -> bool: ...
def add_gram(
    x: NDArray[np.float32] | NDArray[np.float64],
    shift: NDArray[np.float64],
    along: NDArray[np.float64],
    direction: NDArray[np.float64],
    gram: NDArray[np.float64],
    n_threads: int,
) -> None: ...
