#!/usr/bin/env bash
# tools/setup/cuda.sh - a CUDA 13 toolkit without a driver: an installed one, or the published wheels, linked at build/cuda.
#
# Only what compiles and links the plug-in and what it loads: nvcc and its parts, cudart, cuBLASLt, NCCL, cuDNN. About 1.1 GB to
# fetch, once a machine, kept in the cache folder and shared by all checkouts. Exit 0 with one line of text either way: a build
# without it is complete, it merely has no plug-in.
set -euo pipefail
cd "$(dirname "$0")/../.."

wheels="nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-cccl==13.0.85
  nvidia-cuda-runtime==13.0.96 nvidia-cublas==13.0.2.14 nvidia-nccl-cu13==2.28.9 nvidia-cudnn-cu13==9.19.0.56"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/diptych/cuda-13.0.88-2

nvcc_is_13() { "$1" --version 2>/dev/null | grep -q 'release 13\.'; }

# An installed toolkit is whole only with NCCL, which comes apart from it.
find_installed() {
  local nvcc
  for nvcc in "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc; do
    [ -n "$nvcc" ] && nvcc_is_13 "$nvcc" && [ -f "$(dirname "$nvcc")/../include/cublasLt.h" ] && return 0
  done
  return 1
}

fetch() {
  local folder=$1 wheel
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null && python3 -m pip --version >/dev/null 2>&1 || {
    echo "cuda: no toolkit, and no pip to fetch one with: the plug-in is left out"
    return 1
  }
  # shellcheck disable=SC2086  # a list
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: -d "$folder/wheels" $wheels >&2 || {
    echo "cuda: no toolkit, and the wheels could not be fetched: the plug-in is left out"
    return 1
  }
  for wheel in "$folder"/wheels/*.whl; do
    python3 -m zipfile -e "$wheel" "$folder/parts"
  done
  mv "$folder/parts/nvidia/cu13" "$folder/toolkit"
  local part
  for part in nccl cudnn; do
    cp -r "$folder/parts/nvidia/$part/include" "$folder/parts/nvidia/$part/lib" "$folder/toolkit/"
  done
  mkdir "$folder/toolkit/licences" # for who passes the libraries on: tools/image
  local terms name
  for terms in "$folder"/parts/*.dist-info/licenses/License.txt; do
    name=${terms#"$folder/parts/"}
    name=${name%%-[0-9]*}
    cp "$terms" "$folder/toolkit/licences/${name//_/-}"
  done
  rm -rf "$folder/wheels" "$folder/parts" "$folder"/toolkit/lib/libcublas.so* "$folder"/toolkit/lib/libnvblas.so*
  chmod +x "$folder"/toolkit/bin/* "$folder"/toolkit/nvvm/bin/*
  # The names that a linker looks for, and the folder that nvcc names.
  local library
  for library in "$folder"/toolkit/lib/*.so.*; do
    ln -sf "$(basename "$library")" "${library%%.so.*}.so"
  done
  ln -sfn lib "$folder/toolkit/lib64"
}

mkdir -p build
if find_installed; then
  echo "cuda: the installed toolkit"
  exit 0
fi
if [ ! -x "$cache/bin/nvcc" ]; then
  mkdir -p "$(dirname "$cache")"
  folder=$(mktemp -d "$cache.XXXXXX")
  trap 'rm -rf "$folder"' EXIT
  fetch "$folder" || exit 0
  mv -T "$folder/toolkit" "$cache" 2>/dev/null || [ -x "$cache/bin/nvcc" ] # another checkout was faster
fi
ln -sfn "$cache" build/cuda
echo "cuda: the wheels in $cache"
