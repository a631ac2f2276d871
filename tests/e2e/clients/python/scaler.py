"""tests/e2e/clients/python/scaler.py - KEDA's part, played from the public .proto: asks a coordinator what its pools need.

usage: scaler.py SERVER idle|busy|invalid|watch|held
watch says every change of the diffusion pool, until it has been active and is not; held asks for an image where nobody makes any.
"""
import sys
import time

import grpc
from diptych.v1 import image_pb2, image_pb2_grpc
from keda import externalscaler_pb2 as scaler_pb2
from keda import externalscaler_pb2_grpc as scaler_grpc

server, what = sys.argv[1:3]
stub = scaler_grpc.ExternalScalerStub(grpc.insecure_channel(server))


def ref(pool):
    return scaler_pb2.ScaledObjectRef(name="d", namespace="n", scalerMetadata={"pool": pool, "scalerAddress": server})


def look(is_active, least):
    for pool in ("ar", "diffusion"):
        assert stub.IsActive(ref(pool), timeout=20).result == is_active, (pool, is_active)
        spec = stub.GetMetricSpec(ref(pool), timeout=20).metricSpecs[0]
        assert spec.metricName == f"diptych-{pool}-workers" and spec.targetSize == 1 and spec.targetSizeFloat == 1, spec
        request = scaler_pb2.GetMetricsRequest(scaledObjectRef=ref(pool), metricName="s0-" + spec.metricName)
        value = stub.GetMetrics(request, timeout=20).metricValues[0]
        assert value.metricName == request.metricName and value.metricValueFloat == value.metricValue, value
        assert (value.metricValue >= least) if is_active else value.metricValue == 0, (pool, value)
        first = next(stub.StreamMetricSpec(ref(pool), timeout=20))
        assert first.metricSpecs[0].metricName == spec.metricName


def invalid():
    for broken in (ref("vae"), scaler_pb2.ScaledObjectRef()):
        try:
            stub.IsActive(broken, timeout=20)
            raise SystemExit("a pool that is none was taken")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error


def watch():
    seen = []
    for answer in stub.StreamIsActive(ref("diffusion"), timeout=120):
        seen.append(answer.result)
        print(answer.result, flush=True)
        if seen[-2:] == [True, False]:
            break
    assert seen == [False, True, False], seen


def held():
    begin = time.monotonic()
    events = image_pb2_grpc.ImageServiceStub(grpc.insecure_channel(server)).Generate(
        image_pb2.GenerateRequest(prompt="dog"), timeout=60)
    kinds = []
    try:
        for event in events:
            kinds.append(event.event.WhichOneof("kind"))
        raise SystemExit("a request was answered where nobody works")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        assert any(b"NO_WORKERS" in value for _, value in error.trailing_metadata() if isinstance(value, bytes)), error
    assert kinds[0] == "admitted" and time.monotonic() - begin >= 2, (kinds, time.monotonic() - begin)


{"idle": lambda: look(False, 0), "busy": lambda: look(True, 1), "invalid": invalid, "watch": watch, "held": held}[what]()
