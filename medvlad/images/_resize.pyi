import numpy as np
from numpy.typing import NDArray

from medvlad.images.resize import Box

def of_arrow(lent: object, width: int, height: int, box: Box, side: int) -> NDArray[np.uint8] | None: ...
def of_array(pixels: NDArray[np.uint8], box: Box, side: int) -> NDArray[np.uint8] | None: ...
