#!/usr/bin/env bash
# All figures that need a GPU, in ten minutes: benchmarks/gpu.sh OUT [DATA [NAME=VALUE …]]
#
# Writes one file per benchmark into OUT, and its errors next to it; a benchmark that fails or takes longer than its
# seconds does not stop the others. With DATA, also prediction of its images, and the stages of a whole run on 200 of
# them, with settings such as data.masks=FOLDER.
# DEVICE=cpu tries the script without a GPU.
set -u
out=${1:?usage: benchmarks/gpu.sh OUT [DATA [NAME=VALUE …]]}
shift
device=${DEVICE:-cuda}
here=$(dirname "$0")
mkdir -p "$out"
failed=0

measure() { # NAME SECONDS COMMAND…
  local name=$1 seconds=$2 start=$SECONDS
  shift 2
  if timeout "$seconds" python "$@" >"$out/$name.txt" 2>"$out/$name.errors.txt"; then
    echo "$name: $((SECONDS - start)) s"
  else
    echo "$name: failed after $((SECONDS - start)) s; $out/$name.errors.txt says why"
    failed=1
  fi
}

bf16=()
[ "$device" = cuda ] && bf16=(--bf16)
measure block 90 "$here/transport.py" --only block --device "$device"
measure step 90 "$here/transport.py" --only step --device "$device"
measure seeds 60 "$here/clip_seeds.py" --device "$device"
measure crf 60 "$here/crf.py"
measure deeplab-msc 60 "$here/segment_step.py" --config deeplab-msc --side 321 --batch 10 --device "$device" "${bf16[@]}"
measure deeplab-largefov 60 "$here/segment_step.py" --config deeplab-largefov --side 448 --batch 10 --device "$device" "${bf16[@]}"
if [ $# -gt 0 ]; then
  measure predict 60 "$here/predict.py" "$1" --backbone resnet50 --published --device "$device"
  measure run 120 "$here/run.py" "$1" --limit 200 --setting "device=$device" "${@:2}"
fi
exit $failed
