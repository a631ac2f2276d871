"""docs/clients/python/generate.py - stream an image from a diptych cluster, previews included.

Stubs come from the .proto files alone, by the packages of Debian (python3-grpcio, python3-protobuf,
protobuf-compiler-grpc) or by pip (grpcio, grpcio-tools):

    protoc -I proto --python_out=stubs --grpc_out=stubs --plugin=protoc-gen-grpc=$(which grpc_python_plugin) \
        proto/diptych/v1/*.proto
    PYTHONPATH=stubs python3 generate.py 127.0.0.1:50051 "a red circle" out.png
"""
import sys
import uuid

import grpc
from diptych.v1 import image_pb2, image_pb2_grpc


def generate(stub, prompt, request_id):
    """Yields the events of one request; takes up a stream that breaks where it broke."""
    request = image_pb2.GenerateRequest(request_id=request_id, prompt=prompt, progress=image_pb2.Progress(previews=3))
    stream, seen = stub.Generate(request, timeout=600), 0
    while True:
        try:
            for response in stream:
                seen = max(seen, response.event.sequence)
                yield response.event
            return
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE or seen == 0:
                raise
            stream = stub.Watch(image_pb2.WatchRequest(request_id=request_id, after_sequence=seen), timeout=600)


def main():
    address, prompt, path = sys.argv[1:4]
    with grpc.insecure_channel(address) as channel:
        stub, data = image_pb2_grpc.ImageServiceStub(channel), b""
        for event in generate(stub, prompt, str(uuid.uuid4())):
            kind = event.WhichOneof("kind")
            if kind == "admitted":
                print(f"seed {event.admitted.seed}, {event.admitted.queue_position} ahead")
            elif kind == "tokens":
                print(f"tokens {event.tokens.tokens_done}/{event.tokens.tokens_total}")
            elif kind == "steps":
                print(f"steps {event.steps.steps_done}/{event.steps.steps_total}")
            elif kind == "preview":
                with open(f"{path}.preview-{event.preview.preview_index}.png", "wb") as file:
                    file.write(event.preview.data)
            elif kind == "chunk":  # files above 1 MiB come in parts
                data += event.chunk.data
            elif kind == "final_image":
                with open(path, "wb") as file:
                    file.write(event.final_image.data or data)
                print(f"{path}: sha256 {event.final_image.sha256.hex()}")


main()
