import numpy as np
from numpy.typing import NDArray
from typing_extensions import CapsuleType

def assign(
    sgemm: CapsuleType, x: NDArray[np.float32], centers: NDArray[np.float32], n_threads: int
) -> NDArray[np.int32]: ...
def aggregate(
    sgemm: CapsuleType,
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    n_threads: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...
def encode(
    sgemm: CapsuleType,
    x: NDArray[np.float32],
    offsets: NDArray[np.int64],
    centers: NDArray[np.float32],
    power: float,
    intra_norm: bool,
    l2_norm: bool,
    n_threads: int,
) -> NDArray[np.float32]: ...
