"""A real S3 server on loopback, behind a proxy that makes faults."""

import logging
import urllib.request
from contextlib import contextmanager

import pytest
from support.object_storage import SECRET, FaultyProxy

from medvlad._util import object_storage


@contextmanager
def s3_behind_a_proxy():
    """Start a server with the bucket "bucket", and yield the proxy before it. The environment names it."""
    import moto.server
    import s3fs

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    # All servers of a process share their buckets.
    urllib.request.urlopen(
        urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
    ).close()
    proxy = FaultyProxy(f"http://{host}:{port}")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ACCESS_KEY_ID": "AKIATEST",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        patch.setattr(s3fs.S3FileSystem, "retries", 1)
        patch.setattr(s3fs.S3FileSystem, "read_timeout", 1)
        object_storage.forget_connections()
        object_storage._filesystem("s3", 0).mkdir("bucket")
        yield proxy
    object_storage.forget_connections()
    proxy.stop()
    server.stop()
