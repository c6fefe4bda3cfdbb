"""A server on this machine that speaks Amazon's S3: moto's."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

BUCKET = "bucket-of-the-test"


@contextmanager
def s3_server(environment: dict[str, str] | None = None) -> Iterator[str]:
    """A running server with one empty bucket; the environment of this process, and what it starts, names it.

    Args:
        environment: what is set is put here too, for processes that are started with it.

    Yields:
        The server's address.
    """
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    ours = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    ours |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    if environment is not None:
        environment.update(ours)
    try:
        with mock.patch.dict(os.environ, ours):
            store().mkdir(BUCKET)
            yield url
    finally:
        server.stop()


def store():
    """s3fs on that server, with nothing kept from before."""
    import s3fs

    return s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
