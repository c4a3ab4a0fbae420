"""Guards every moment of a commit at which the committer may be killed: each clip once, none lost.

A proxy stops the request that matters, the test kills the whole job (SIGKILL), and the request is
then carried out before the next run, or long after it (a packet that was under way), or had been
carried out already and only its answer was on the way.
"""

from __future__ import annotations

import os
import signal

import pytest
from fault_proxy import Hold, Request, fault_proxy

from tests.integration.conftest import run_job, start_job
from tests.integration.test_s3_faults import assert_whole, job_arguments, upload_interleaved

EARLY, LATE, DONE = "arrives before the next run", "arrives after it", "was carried out"
PATHS = {
    "proof": "/writer-",  # the committer's first put
    "fence": "/captions/part-00000002",
    "failures": "/failures/part-",  # after its fence
}


@pytest.mark.parametrize(
    ("name", "moment"),
    [("proof", DONE), *((name, moment) for name in ("fence", "failures")
                        for moment in (EARLY, LATE, DONE))],
)  # fmt: skip
def test_committer_killed_at_a_put(name, moment, s3_bucket, corpus, write_config):
    good, damaged = upload_interleaved(s3_bucket, corpus)
    config = write_config(output={"uri": "overridden", "rows_per_part": 3})

    def is_meant(request: Request) -> bool:
        return request.method == "PUT" and PATHS[name] in request.path

    with fault_proxy(s3_bucket.server.endpoint_url) as proxy:
        hold: Hold = proxy.hold(is_meant, is_carried_out=moment == DONE)
        job = start_job(*job_arguments(s3_bucket, config, proxy.endpoint_url))
        hold.wait()
        os.killpg(job.pid, signal.SIGKILL)
        job.communicate()
        if moment != LATE:
            hold.release()
        result = run_job(*job_arguments(s3_bucket, config, proxy.endpoint_url))
        if moment == LATE:
            hold.release()
    assert result.returncode == 0, result.stderr[-3000:]
    assert_whole(s3_bucket, good, damaged)
