# Dockerfile - the images: `docker build --target cpu -t diptych .` and `docker build --target cuda -t diptych:cuda .`
#
# Both are bare trees that tools/image/build-root makes: the program, the libraries it loads, certificates, the demo model,
# licences and a bill of materials (usr/share/diptych/sbom.spdx.json). There is no shell in them. docs/images.md tells more.
#
# BASE is only where things are built; nothing of it but the listed files gets into an image. Its tag names a day; whoever
# releases gives it by digest, --build-arg BASE=debian@sha256:..., and says --build-arg LOCK=--locked, which refuses
# packages other than those of tools/image/packages.lock. The C core of gRPC is pinned by its hash in either case.
ARG BASE=debian:bookworm-20250520-slim

FROM ${BASE} AS tools
WORKDIR /src
COPY tools/setup tools/setup
RUN bash -euc '. tools/setup/packages.sh; packages_install $packages_build $packages_image'

FROM tools AS grpc
COPY tools/image tools/image
RUN tools/image/build-grpc

FROM grpc AS cpu-tree
COPY . .
ARG LOCK=""
ARG SOURCE_DATE_EPOCH=0
RUN tools/image/build-root ${LOCK} /tree

FROM cpu-tree AS cuda-tree
RUN tools/setup/cuda.sh && tools/image/build-root --cuda ${LOCK} /tree

FROM scratch AS cuda
COPY --from=cuda-tree /tree/ /
LABEL org.opencontainers.image.title="diptych" org.opencontainers.image.description="image models on a cluster, with CUDA"
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /tmp
USER 65532:65532
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/diptych"]
CMD ["--help"]

FROM scratch AS cpu
COPY --from=cpu-tree /tree/ /
LABEL org.opencontainers.image.title="diptych" org.opencontainers.image.description="image models on a cluster"
WORKDIR /tmp
USER 65532:65532
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/diptych"]
CMD ["--help"]
