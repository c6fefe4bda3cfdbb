#!/usr/bin/env bash
# s3fs 2026.9.0: an object that is written in a `with` block which ends in an error.
#
# Version 1 of an object is there. A program opens it for writing, writes a third of version 2 and fails, for its own
# reasons: once in a plain block, once in a transaction. Against moto's server, which speaks S3.
#
# One would guess that the object stays version 1: an S3 object appears only when its upload is completed, and a block
# that failed has nothing to complete.
#
# What happens: the plain block completes the upload on its way out, with what was written so far, small (one PUT) or
# large (a multipart upload of several parts). The good object is gone, and a third of the new one is in its place. In
# `with fs.transaction:` it stays.
#
# And: of two file systems in two processes the one that has listed a folder goes on answering from its own listing;
# `exists` of an object that another has deleted says True, until `invalidate_cache` or `use_listings_cache=False`.
#
# Ends with status 1 where any of this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet s3fs==2026.9.0 'moto[server]==5.2.5'

cat > try.py <<'PYTHON'
import logging
import os

import s3fs
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x", AWS_DEFAULT_REGION="us-east-1")
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
host, port = server.get_host_and_port()
new = lambda: s3fs.S3FileSystem(endpoint_url=f"http://{host}:{port}", skip_instance_cache=True)
fs, other = new(), new()
fs.mkdir("bucket")


def fails(target, size):
    try:
        with fs.open(target, "wb") as file:
            file.write(b"2" * (size // 3))
            raise RuntimeError("of the program")
    except RuntimeError:
        pass


for name, size in (("small", 3_000), ("large", 180_000_000)):
    for how in ("plain", "transaction"):
        target = f"bucket/{how}/{name}"
        fs.pipe_file(target, b"1" * 3_000)
        if how == "plain":
            fails(target, size)
        else:
            try:
                with fs.transaction:
                    with fs.open(target, "wb") as file:
                        file.write(b"2" * (size // 3))
                        raise RuntimeError("of the program")
            except RuntimeError:
                pass
        fs.invalidate_cache()
        content = fs.cat_file(target)
        print(f"{name}, {how}: version {content[:1].decode()}, {len(content):,} bytes")

fs.ls("bucket/plain")
other.rm("bucket/plain/small")
print("deleted by another, exists:", fs.exists("bucket/plain/small"))
fs.invalidate_cache()
print("after invalidate_cache:", fs.exists("bucket/plain/small"))
server.stop()
PYTHON

cat > expected.txt <<'TEXT'
small, plain: version 2, 1,000 bytes
small, transaction: version 1, 3,000 bytes
large, plain: version 2, 60,000,000 bytes
large, transaction: version 1, 3,000 bytes
deleted by another, exists: True
after invalidate_cache: False
TEXT
venv/bin/python try.py | tee found.txt
diff expected.txt found.txt
