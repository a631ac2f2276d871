"""tests/e2e/clients/python/rogue.py - a worker that fails as the request's id says; it makes clients meet what sound workers never show.

usage: rogue.py SERVER. It plays both panels from the internal .proto and computes nothing. A request whose id ends in
"bug" it calls impossible, which no worker may say of what the coordinator has checked; of "poison" it dies whenever it
is given it; of "lost" it dies in one panel and then in the other, so that nobody can tell whether it is the request.
"""
import queue
import sys
import threading

import grpc
from diptych.internal.v1 import worker_pb2 as pb, worker_pb2_grpc
from diptych.v1 import cluster_pb2

server = sys.argv[1]
has_drawn = False  # the last "lost" job: its next death is in the other panel


def hello(incarnation):
    return pb.ConnectRequest(hello=pb.Hello(member_id="rogue", role=cluster_pb2.ROLE_BOTH, incarnation=incarnation,
                                            address="127.0.0.1:1", version="rogue", protocol_min=1, protocol_max=2))


def say(words, job_id, **kind):
    words.put(pb.ConnectRequest(event=pb.JobEvent(job_id=job_id, **kind)))


def draw(words, job):
    """All image tokens, and a hinge that nobody will ask for."""
    total = job.params.token_count
    say(words, job.job_id, prefilled=pb.Prefilled())
    for first in range(0, total, 32):
        say(words, job.job_id, tokens=pb.Tokens(first=first, ids=[0] * min(32, total - first)))
    say(words, job.job_id, hinge_ready=pb.HingeReady(token_count=total))


def work(words, job, is_ar):
    """False: it dies of this job."""
    global has_drawn
    name = job.origin.request_id
    if name.endswith("bug"):
        say(words, job.job_id, failed=pb.Failed(reason=pb.FAILED_REASON_INVALID, text="the worker does not like it"))
        return True
    if name.endswith("lost") and is_ar and not has_drawn:
        draw(words, job)
        has_drawn = True
        return True
    has_drawn = has_drawn and not is_ar
    return False


def beat(words, is_over):
    steps = 0
    while not is_over.wait(0.2):
        steps += 1
        words.put(pb.ConnectRequest(heartbeat=pb.Heartbeat(steps_total=steps)))


def live(incarnation):
    words, is_over = queue.Queue(), threading.Event()
    words.put(hello(incarnation))
    stream = worker_pb2_grpc.WorkerServiceStub(channel).Connect(iter(words.get, None))
    threading.Thread(target=beat, args=(words, is_over), daemon=True).start()
    for said in stream:
        command = said.WhichOneof("command")
        if command == "welcome":
            words.put(pb.ConnectRequest(ready=pb.Ready(role=cluster_pb2.ROLE_BOTH, ar_slots=4, hinge_slots=8,
                                                       diffusion_slots=4, fingerprint="0" * 64)))
            print("rogue: here", flush=True)
        elif command in ("ar", "diffusion") and not work(words, getattr(said, command), command == "ar"):
            break
    is_over.set()
    words.put(None)
    stream.cancel()


channel = grpc.insecure_channel(server)
for life in range(1, 1000):
    live(life)
