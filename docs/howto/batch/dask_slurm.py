"""Extract descriptors with Dask workers that are jobs of Slurm.

Change the constants at the top. Run it on a machine that reaches the nodes, best in a small job of its own:

    pip install '.[tensorflow,offline,distributed]' dask-jobqueue
    python dask_slurm.py
"""

from dask_jobqueue import SLURMCluster
from distributed import Client

import medvlad as mv
from medvlad.datasets.folders import list_images
from medvlad.distributed import extract_distributed

IMAGES = "/data/images"
STORE = "/data/descriptors"
NETWORK = {"model": "vgg16", "weights": "bundled"}
WORKERS = 16
CORES = 8
WAIT = 3600  # seconds in the queue until the first worker runs


def main():
    """Start the workers, extract, and stop them."""
    cluster = SLURMCluster(
        cores=1,  # one task of Dask at a time: the network itself uses all cores of the job
        processes=1,
        job_cpu=CORES,
        memory="8GB",
        walltime="12:00:00",
        # A worker ends before its job does, and hands its images back.
        worker_extra_args=["--lifetime", "11h", "--lifetime-stagger", "30m"],
    )
    with cluster, Client(cluster) as client:
        print("dashboard:", client.dashboard_link, flush=True)
        cluster.adapt(minimum=1, maximum=WORKERS)
        client.wait_for_workers(1, timeout=WAIT)
        network = mv.CNNDescriptors(**NETWORK, store=STORE, n_threads=CORES, on_error="skip")
        n_new = extract_distributed(network, list_images(IMAGES), scheduler=client)
        for index, reason in network.skipped_:
            print(f"skipped: image {index}: {reason}")
        print(f"{n_new} images extracted, {len(network.skipped_)} skipped")


if __name__ == "__main__":
    main()
