#!/usr/bin/env bash
# tests/tidy/proto.sh - the .proto files: protoc takes all of them, and buf finds nothing to say and nothing that breaks clients.
#
# buf comes from npm, once, into the build folder. Without npm or a network only protoc has looked, and the last line says so.
set -euo pipefail
build=${1:?usage: proto.sh BUILD_FOLDER}
version=1.75.0
mapfile -t files < <(cd proto && find . -name '*.proto' | sed 's|^\./||' | sort)
[ "${#files[@]}" -gt 0 ] || { echo "proto: no .proto files found"; exit 1; }

protoc -I proto --descriptor_set_out=/dev/null "${files[@]}"
checked="protoc ${#files[@]} files"

# proto3 `optional` is refused by protobuf-c; a oneof of one field is the same bytes.
if grep -nE '^\s*optional ' -r proto --include='*.proto'; then
  echo "proto: use a oneof of one field instead of optional"
  exit 1
fi

find_buf() {
  command -v buf && return
  local own=$build/buf/node_modules/.bin/buf
  if [ ! -x "$own" ]; then
    command -v npm >/dev/null || return 1
    npm install --silent --no-audit --no-fund --prefix "$build/buf" "@bufbuild/buf@$version" >/dev/null 2>&1 || return 1
  fi
  [ -x "$own" ] && echo "$own"
}

# What clients have: the newest release, or before the first one what is committed.
baseline() {
  local tag
  tag=$(git tag --list 'v*' --sort=-v:refname 2>/dev/null | head -n 1)
  if [ -n "$tag" ]; then
    echo "$tag"
  elif git cat-file -e HEAD:buf.yaml 2>/dev/null; then
    echo HEAD
  fi
}

if buf=$(find_buf); then
  "$buf" lint
  checked+=", buf lint"
  against=$(baseline)
  if [ -n "$against" ]; then
    old=$(mktemp -d)
    trap 'rm -rf "$old"' EXIT
    git archive "$against" proto buf.yaml | tar -x -C "$old"
    "$buf" breaking --against "$old"
    checked+=", buf breaking against $against"
  fi
else
  checked+="; NOT checked: buf (no npm, or no network)"
fi
echo "proto: $checked"
