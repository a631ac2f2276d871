#!/usr/bin/env bash
# tests/e2e/doctor.sh - what doctor says of a GPU that cannot be used, and how to mend it, on the emulated one.
. "$(dirname "$0")/common.bash"
cd "$work" || exit 1
emulated=$(dirname "$diptych")/emulated

# says NAME PATTERN FIX OPTIONS...: a line that matches, and a fix for it
says() {
  local name=$1 pattern=$2 fix=$3
  shift 3
  checks=$((checks + 1))
  "$diptych" doctor --model "$tiny" "$@" >stdout 2>stderr
  grep -qE -- "$pattern" stdout || complain "$name: nothing like '$pattern' in: $(cat stdout stderr)"
  grep -A 1 -E -- "$pattern" stdout | grep -qE "fix: .*$fix" || complain "$name: no fix like '$fix' in: $(cat stdout)"
}

plugin=(--cuda-plugin "$emulated/libdiptych-cuda.so")
if ! ldconfig -p | grep -q libcuda.so.1; then
  says "no driver" "^note +gpu +this machine has no NVIDIA driver" "install NVIDIA's driver \(580"
fi
says "no plug-in" "^note +gpu +the CUDA plug-in cannot be loaded: .*absent.so" "build where a CUDA 13 toolkit is" \
  --cuda-plugin "$work/absent.so"
DIPTYCH_EMULATED_DRIVER=12040 says "old driver" \
  "^note +gpu +NVIDIA's driver speaks CUDA 12.4, and this plug-in CUDA 13.0" "to 580 or newer" "${plugin[@]}"
DIPTYCH_EMULATED_DEVICES=0 says "no device" "^note +gpu +no GPU can be used: no CUDA-capable device" "a container or pod a GPU" \
  "${plugin[@]}"
says "another device" "^note +gpu +there is no GPU 3: this process sees 1" "give --device one of the GPUs" "${plugin[@]}" --device 3
DIPTYCH_EMULATED_MEMORY=65536 says "little memory" "^FAIL +gpu memory +the model needs .* too few" "smaller model" "${plugin[@]}"
# What is missing is named with its size, whatever is reserved first when it runs out.
for bytes in 6000000 70000000 110000000; do
  checks=$((checks + 1))
  DIPTYCH_EMULATED_MEMORY=$bytes "$diptych" generate "${plugin[@]}" --backend cuda -o x.png x >stdout 2>stderr # the demo model
  grep -qE '^error: .*GPU 0: .* GiB were asked for and .* GiB too few' stderr || complain "of $bytes bytes: $(cat stderr)"
done
says "no cuDNN" "^note +cudnn +convolutions are our own kernels: cuDNN cannot be loaded: .*libcudnn.so.9" \
  "the wheel nvidia-cudnn-cu13" "${plugin[@]}" --cudnn "$work/libcudnn.so.9"

# A library that the plug-in is linked with, and that is not there when it is loaded.
echo 'int ncclPlayed(void) { return 1; }' >nccl.c
echo 'int ncclPlayed(void); int use(void) { return ncclPlayed(); }' >plugin.c
cc -shared -fPIC -Wl,-soname,libnccl.so.2 -o libnccl.so.2 nccl.c && cc -shared -fPIC -o linked.so plugin.c -L. -l:libnccl.so.2 &&
  rm libnccl.so.2 || complain "cc"
says "no NCCL" "^note +gpu +the CUDA plug-in cannot be loaded: libnccl.so.2" "nvidia-nccl-cu13" --cuda-plugin "$work/linked.so"

# Nothing of this stops a machine from working: it takes the CPU.
checks=$((checks + 1))
grep -q '^verdict: this machine is ready' stdout || complain "without a GPU: $(cat stdout)"
finish
