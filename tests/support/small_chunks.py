"""Cut small matrices into several chunks and jobs of the SVM's passes. Workers of tests preload this file."""

from medvlad.svm import row_pass


def set_small_chunks(patch):
    """Set the sizes. `patch` is setattr, or that of MonkeyPatch."""
    patch(row_pass, "CHUNK_BYTES", 4096)
    patch(row_pass, "_CHUNKS_IN_JOB", 3)


if __name__ != "support.small_chunks":  # Dask executes it
    set_small_chunks(setattr)
