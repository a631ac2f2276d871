"""tests/e2e/clients/python/client.py - what a grpcio client, generated from the .proto files alone, gets of a cluster.

usage: client.py OPEN GUARDED EMPTY BROKEN HELD LEAVING STANDBY LEADER SHA256: the addresses of a cluster for everybody,
of one with tokens and room for one request, of a coordinator without workers, of one whose worker is rogue.py, of one
where requests wait for a first worker for two seconds at most, of one that was told to stop and has not finished, of a
coordinator that does not lead and of the one that does ("-": there are none); and the hash of the image of "dog" with seed 5.
"""
import hashlib
import sys

import grpc
from diptych.v1 import cluster_pb2, cluster_pb2_grpc, image_pb2, image_pb2_grpc, model_pb2, model_pb2_grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from health.v1 import health_pb2, health_pb2_grpc
from reflection.v1 import reflection_pb2, reflection_pb2_grpc
from reflection.v1alpha import reflection_pb2 as alpha_pb2, reflection_pb2_grpc as alpha_pb2_grpc

checks = 0
walked = set()  # rows of the error table that have been met, by their reasons
TABLE = set("""BAD_FIELD PROMPT_TOO_LONG MESSAGE_TOO_LARGE NO_CREDENTIAL BAD_CREDENTIAL ROLE_REQUIRED MODEL_UNKNOWN REQUEST_UNKNOWN
  WORKER_UNKNOWN REQUEST_ID_REUSED QUOTA OVERLOADED NO_WORKERS DRAINING QUEUE_TIME DEADLINE CANCELLED""".split())
GUARDED_TOKEN = (("authorization", "Bearer word-of-team-a"),)
TRACE = (("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),)  # clients.sh looks for it in the logs
OTHER_TOKEN = (("authorization", "Bearer word-of-team-b"),)


def check(what, is_right, found=None):
    global checks
    checks += 1
    if not is_right:
        sys.exit(f"FAILED: {what}: {found}")


def details(error):
    """The google.rpc details of a call's end, by type name."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            found = {}
            for any_ in status_pb2.Status.FromString(value).details:
                message = getattr(error_details_pb2, any_.type_url.rsplit(".", 1)[1])()
                any_.Unpack(message)
                found[type(message).__name__] = message
            return found
    return {}


def refused(what, code, reason, call):
    """The call ends so, with one ErrorInfo that says so."""
    try:
        result = call()
        for _ in result if hasattr(result, "__iter__") else ():
            pass
    except grpc.RpcError as error:
        found = details(error)
        info = found.get("ErrorInfo")
        check(what, error.code() == code and info and info.reason == reason and info.domain == "diptych",
              f"{error.code()} {error.details()} {found}")
        walked.add(reason)
        return found, error
    sys.exit(f"FAILED: {what}: was not refused")


def request(**more):
    sampling = image_pb2.Sampling(seed=more.pop("seed", 5), diffusion_steps=more.pop("steps", 4))
    return image_pb2.GenerateRequest(prompt=more.pop("prompt", "dog"), sampling=sampling, **more)


def look_around(channel):
    """Reflection in both versions, health, models."""
    for pb2, stub in ((reflection_pb2, reflection_pb2_grpc), (alpha_pb2, alpha_pb2_grpc)):
        asked = iter([pb2.ServerReflectionRequest(list_services="*"),
                      pb2.ServerReflectionRequest(file_containing_symbol="diptych.v1.ImageService")])
        reflection = stub.ServerReflectionStub(channel)
        answers = list(reflection.ServerReflectionInfo(asked, timeout=20))
        names = {service.name for service in answers[0].list_services_response.service}
        check("reflection lists services", {"diptych.v1.ImageService", "grpc.health.v1.Health"} <= names, names)
        check("reflection has files", answers[1].file_descriptor_response.file_descriptor_proto, answers[1])
        asked = iter([pb2.ServerReflectionRequest(file_containing_symbol=name) for name in sorted(names)])
        for answer in reflection.ServerReflectionInfo(asked, timeout=20):
            check("reflection has every service's file", answer.file_descriptor_response.file_descriptor_proto, answer)
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "ar", "diffusion", "diptych.v1.ImageService", "diptych.v1.ModelService", "diptych.v1.ClusterService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
        check(f"health of '{service}'", answer.status == health_pb2.HealthCheckResponse.SERVING, answer)
    try:
        health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=20)
        check("health of nobody", False)
    except grpc.RpcError as error:
        check("health of nobody", error.code() == grpc.StatusCode.NOT_FOUND, error)
    models = model_pb2_grpc.ModelServiceStub(channel)
    model = models.GetModel(model_pb2.GetModelRequest(), timeout=20).model
    check("the model is ready", model.ready and model.image_tokens > 0 and model.weights_digest, model)
    check("it is the listed one", models.ListModels(model_pb2.ListModelsRequest(), timeout=20).models[0].name == model.name)
    tokens = models.Tokenize(model_pb2.TokenizeRequest(text="a dog"), timeout=20)
    check("tokens are the text", b"".join(tokens.pieces) == b"a dog" and len(tokens.ids) == len(tokens.pieces), tokens)


def stream_images(images, sha256):
    """Two images with previews: the order of events, whole files, the expected bytes, and the same again."""
    asked = request(n=2, request_id="python-two-images", progress=image_pb2.Progress(previews=2))
    events = [response.event for response in images.Generate(asked, timeout=120)]
    kinds = [event.WhichOneof("kind") for event in events]
    check("first and last event", kinds[0] == "admitted" and kinds[-1] == "completed", kinds)
    check("no holes", [event.sequence for event in events] == list(range(1, len(events) + 1)), events)
    check("previews", {event.preview.image_index for event in events if event.WhichOneof("kind") == "preview"} == {0, 1}, kinds)
    finals = {event.final_image.image_index: event.final_image for event in events if event.WhichOneof("kind") == "final_image"}
    check("two images", set(finals) == {0, 1}, kinds)
    for final in finals.values():
        check("a whole file", hashlib.sha256(final.data).digest() == final.sha256 and final.size_bytes == len(final.data))
    check("the embedded program's bytes", finals[0].sha256.hex() == sha256, finals[0].sha256.hex())
    check("the seed", events[0].admitted.seed == 5 and finals[1].seed == 5)
    check("usage", events[-1].completed.usage.images == 2, events[-1])
    again = [response.event for response in images.Watch(image_pb2.WatchRequest(request_id="python-two-images"), timeout=60)]
    kept = [event.final_image.sha256 for event in again if event.WhichOneof("kind") == "final_image"]
    check("Watch repeats them", sorted(kept) == sorted(final.sha256 for final in finals.values()), again)
    traced = request(prompt="cat", seed=6, steps=2)
    list(images.Generate(traced, timeout=60, metadata=TRACE))
    repeated = [response.event for response in images.Generate(asked, timeout=60)]
    check("the same id again", repeated[-1].WhichOneof("kind") == "completed", repeated)
    other = request(n=1, request_id="python-two-images")
    refused("the same id for another request", grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED",
            lambda: images.Generate(other, timeout=20))


def cancel_some(images):
    """By Cancel from elsewhere, and by leaving."""
    long = request(n=8, steps=1000, request_id="python-cancelled", prompt="a long one")
    stream = images.Generate(long, timeout=120)
    check("admitted", next(stream).event.WhichOneof("kind") == "admitted")
    answer = images.Cancel(image_pb2.CancelRequest(request_id="python-cancelled", reason="changed my mind"), timeout=20)
    check("cancelled", answer.state == image_pb2.JOB_STATE_CANCELLED, answer)
    refused("a cancelled stream", grpc.StatusCode.CANCELLED, "CANCELLED", lambda: stream)
    stream = images.Generate(request(n=8, steps=1000, request_id="python-left"), timeout=120)
    next(stream)
    stream.cancel()
    check("left", stream.code() == grpc.StatusCode.CANCELLED, stream.code())
    refused("Cancel of nothing", grpc.StatusCode.NOT_FOUND, "REQUEST_UNKNOWN",
            lambda: images.Cancel(image_pb2.CancelRequest(request_id="never-sent"), timeout=20))


def meet_errors(channel, images):
    bad, found = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    for what, reason, asked in (
            ("no prompt", "BAD_FIELD", request(prompt="")),
            ("too many images", "BAD_FIELD", request(n=1000)),
            ("a size that is no multiple", "BAD_FIELD", request(output=image_pb2.Output(width=63, height=63))),
            ("too many steps", "BAD_FIELD", request(steps=100000)),
            ("not offered", "BAD_FIELD", request(output=image_pb2.Output(format=image_pb2.IMAGE_FORMAT_JPEG))),
            ("a long prompt", "PROMPT_TOO_LONG", request(prompt="word " * 3200))):
        extra, _ = refused(what, bad, reason, lambda asked=asked: images.Generate(asked, timeout=20))
        if reason == "BAD_FIELD":
            check(f"{what}: names the field", extra["BadRequest"].field_violations[0].field, extra)
    refused("an unknown model", found, "MODEL_UNKNOWN", lambda: images.Generate(request(model="nobody's"), timeout=20))
    refused("an unknown request", found, "REQUEST_UNKNOWN",
            lambda: images.Watch(image_pb2.WatchRequest(request_id="never-sent"), timeout=20))
    for size in (100 << 10, 20 << 20):  # the second is beyond what any method of the server takes
        extra, error = refused("a message that is too large", grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE",
                               lambda: images.Generate(request(prompt="x" * size), timeout=20))
        check("how large", int(extra["ErrorInfo"].metadata["length"]) > size, extra)
        check("do not try again", int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) < 0, error.trailing_metadata())
    cluster = cluster_pb2_grpc.ClusterServiceStub(channel)
    check("workers", len(cluster.ListWorkers(cluster_pb2.ListWorkersRequest(), timeout=20).workers) >= 2)
    check("pools", cluster.GetScaleHint(cluster_pb2.GetScaleHintRequest(), timeout=20).pools)
    refused("an unknown worker", found, "WORKER_UNKNOWN",
            lambda: cluster.Drain(cluster_pb2.DrainRequest(worker="nobody"), timeout=20))


def meet_guards(guarded, empty):
    images, cluster = image_pb2_grpc.ImageServiceStub(guarded), cluster_pb2_grpc.ClusterServiceStub(guarded)
    nobody = grpc.StatusCode.UNAUTHENTICATED
    refused("no token", nobody, "NO_CREDENTIAL", lambda: images.Generate(request(), timeout=20))
    refused("a guessed token", nobody, "BAD_CREDENTIAL",
            lambda: images.Generate(request(), timeout=20, metadata=(("authorization", "Bearer guessed-it"),)))
    refused("a client that drains", grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED",
            lambda: cluster.Drain(cluster_pb2.DrainRequest(worker="ar-0"), timeout=20, metadata=GUARDED_TOKEN))
    stream = images.Generate(request(n=8, steps=1000), timeout=120, metadata=GUARDED_TOKEN)
    next(stream)
    extra, _ = refused("a tenant's second request", grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA",
                       lambda: images.Generate(request(), timeout=20, metadata=GUARDED_TOKEN))
    check("QUOTA says how long", "RetryInfo" in extra and "QuotaFailure" in extra, extra)
    extra, error = refused("a full queue", grpc.StatusCode.UNAVAILABLE, "OVERLOADED",
                           lambda: images.Generate(request(), timeout=20, metadata=OTHER_TOKEN))
    check("OVERLOADED says how long", "RetryInfo" in extra and
          "grpc-retry-pushback-ms" in dict(error.trailing_metadata()), extra)
    stream.cancel()
    refused("no workers", grpc.StatusCode.UNAVAILABLE, "NO_WORKERS",
            lambda: image_pb2_grpc.ImageServiceStub(empty).Generate(request(), timeout=20))


def meet_waits(held, leaving):
    """Nobody comes: a wait ends by its own limit or by the server's deadline. Who is told to stop takes nothing new."""
    images = image_pb2_grpc.ImageServiceStub(held)
    late = grpc.StatusCode.DEADLINE_EXCEEDED
    soon = image_pb2.Scheduling(max_queue_time=duration_pb2.Duration(nanos=300000000))
    refused("a wait of its own", late, "QUEUE_TIME", lambda: images.Generate(request(scheduling=soon), timeout=20))
    refused("the server's deadline", late, "DEADLINE", lambda: images.Generate(request(), timeout=20))
    refused("a coordinator that stops", grpc.StatusCode.UNAVAILABLE, "DRAINING",
            lambda: image_pb2_grpc.ImageServiceStub(leaving).Generate(request(), timeout=20))


def meet_failures(broken):
    """A worker that does what none should, rogue.py: by the request's id."""
    images = image_pb2_grpc.ImageServiceStub(broken)
    for name, code, fact in (("BUG", grpc.StatusCode.INTERNAL, "error_id"), ("POISONED", grpc.StatusCode.FAILED_PRECONDITION, "attempts"),
                             ("WORKER_LOST", grpc.StatusCode.UNAVAILABLE, "attempts")):
        kind = {"BUG": "bug", "POISONED": "poison", "WORKER_LOST": "lost"}[name]
        extra, _ = refused(f"a worker's {kind}", code, name, lambda: images.Generate(request(request_id="python-" + kind), timeout=60))
        check(f"{name} tells more", extra["ErrorInfo"].metadata[fact], extra)


def meet_standby(standby, leader):
    """It passes calls on to the leader; one that has been passed on already is told who leads."""
    mark = (("diptych-forwarded", "1"),)
    images, cluster = image_pb2_grpc.ImageServiceStub(standby), cluster_pb2_grpc.ClusterServiceStub(standby)
    for what, call in (("Generate", lambda: images.Generate(request(), timeout=20, metadata=mark)),
                       ("Watch", lambda: images.Watch(image_pb2.WatchRequest(request_id="somebodys"), timeout=20, metadata=mark)),
                       ("ListWorkers", lambda: cluster.ListWorkers(cluster_pb2.ListWorkersRequest(), timeout=20, metadata=mark)),
                       ("GetScaleHint", lambda: cluster.GetScaleHint(cluster_pb2.GetScaleHintRequest(), timeout=20, metadata=mark))):
        extra, _ = refused(f"{what} of a standby", grpc.StatusCode.UNAVAILABLE, "NOT_LEADER", call)
        check(f"{what}: who leads", extra["ErrorInfo"].metadata["leader"] == leader, extra)
    refused("a request that is passed on", grpc.StatusCode.UNAVAILABLE, "NO_WORKERS", lambda: images.Generate(request(), timeout=20))
    check("GetCluster says who leads", cluster.GetCluster(cluster_pb2.GetClusterRequest(), timeout=20).leader == leader)


def main():
    options = [("grpc.enable_retries", 0), ("grpc.max_send_message_length", -1)]
    opened, guarded, empty, broken, held, leaving, standby = (grpc.insecure_channel(address, options=options) for address in sys.argv[1:8])
    images, expected = image_pb2_grpc.ImageServiceStub(opened), set(TABLE)
    look_around(opened)
    stream_images(images, sys.argv[9])
    cancel_some(images)
    meet_errors(opened, images)
    meet_guards(guarded, empty)
    meet_waits(held, leaving)
    if sys.argv[4] != "-":
        meet_failures(broken)
        expected |= {"BUG", "POISONED", "WORKER_LOST"}
    if sys.argv[8] != "-":
        meet_standby(standby, sys.argv[8])
        expected.add("NOT_LEADER")
    check("every row of the error table", walked >= expected, expected - walked)
    print(f"python grpcio {grpc.__version__}: {checks} checks, {len(expected)} rows of the error table")


main()
