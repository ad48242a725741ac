"""The store: keep descriptors on disk, so that no image goes through the same network twice.

In: descriptors, by image key and network settings. Out: the same numbers, image by image or block by block.
"""

from medvlad.store.store import DescriptorStore, Section
from medvlad.store.stored_descriptors import StoredDescriptors

__all__ = ["DescriptorStore", "Section", "StoredDescriptors"]
