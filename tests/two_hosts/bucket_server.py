"""Serve the files of a folder as a bucket: `python bucket_server.py ADDRESS PORT BUCKET FOLDER`.

An S3 server (moto) that other hosts reach; credentials and region are those of the environment.
Prints one line when it serves, and then serves until it is killed.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import boto3
from moto.moto_server.threaded_moto_server import ThreadedMotoServer


def main(address: str, port: str, bucket: str, folder: str) -> None:
    ThreadedMotoServer(address, int(port), verbose=False).start()
    client = boto3.client("s3", endpoint_url=f"http://{address}:{port}")
    client.create_bucket(Bucket=bucket)
    for path in sorted(Path(folder).iterdir()):
        client.upload_file(str(path), bucket, path.name)
    print("serving", flush=True)
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
