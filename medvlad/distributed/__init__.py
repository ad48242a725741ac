"""Extract and encode on a Dask cluster, or in several processes of this machine.

In: images and a `CNNDescriptors`, or stored descriptors and an encoder. Out: the same store and the same
vectors as on one machine.
"""

from medvlad.distributed.run import encode_distributed, extract_distributed

__all__ = ["encode_distributed", "extract_distributed"]
