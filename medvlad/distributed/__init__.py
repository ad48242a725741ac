"""Extract, encode, find codebooks and fit SVMs on a Dask cluster, or in several processes of this machine.

In: images and a `CNNDescriptors`, or stored descriptors and an encoder. Out: the same store, the same vectors
and the same centres as on one machine.
"""

from medvlad.distributed.passes import cluster_runner, fit_distributed
from medvlad.distributed.run import encode_distributed, extract_distributed

__all__ = ["cluster_runner", "encode_distributed", "extract_distributed", "fit_distributed"]
