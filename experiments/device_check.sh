#!/usr/bin/env bash
# Measures this project on this machine's GPU or TPU, in 8 minutes at most.
#
#   bash experiments/device_check.sh [--data=people.npz] [--rehearsal]
#
# Most important first: right results (against the CPU's), training steps of the
# library's own formulation, PyTorch and plain vmap on the same work, the paper's
# study and from its rate the time of Table I, SG against a plain product, then
# other formulations. Each result is added at once to device_check-<card>.json in
# experiments/results/, or in $OUT if that is set: what was measured before the
# check is cut off stays. People come from the npz file (images, labels,
# individuals; see GUIDE.md) or are made up; the network isn't needed, and what
# isn't installed (PyTorch, faiss) is left out with a sentence.
#
# --rehearsal tries everything on a CPU with tiny sizes (two idle cores take two
# minutes), and writes to a temporary folder if $OUT isn't set. PYTHON names
# another Python.

set -u
data=() limit=475 rehearsal=
for flag in "$@"; do
  case $flag in
    --data=*) data=("--data=$(realpath "${flag#*=}")") || exit ;;
    --rehearsal) rehearsal=1 ;;
    *) echo "unknown flag $flag; there are --data=FILE and --rehearsal" >&2
       exit 1 ;;
  esac
done
root=$(realpath "$(dirname "$0")/..")
out=$root/experiments/results
if [ $rehearsal ]; then
  out=$(mktemp -d)
  export JAX_PLATFORMS=cpu
fi
out=$(realpath -m "${OUT:-$out}")
mkdir -p "$out"
cd "$root" || exit
# Parts are processes of their own: what one compiled, the next one has.
cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$cache}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.3 PYTHONUNBUFFERED=1
add=--noappend  # the first part begins the file anew

# part SECONDS FLAGS: a part that has so many seconds, and not more than are left.
part() {
  local seconds=$1 left=$((limit - SECONDS))
  shift
  [ "$left" -lt "$seconds" ] && seconds=$left
  if [ "$seconds" -lt 10 ]; then
    echo "Left out, no time: $*"
    return
  fi
  echo "== $* (at most $seconds s)"
  timeout --kill-after=5 "$seconds" "${PYTHON:-python3}" -m \
    experiments.benchmark "--output=$out" $add "${data[@]}" "$@" ||
    echo "Ended early ($?): $*"
  add=--append
}

if [ $rehearsal ]; then
  part 235 --suite=correctness --quick --cpu_devices=1
  part 240 --suite=steps --suite=paper --suite=training --suite=grouping \
    --quick --repeats=1 --steps=4 --individuals=2 --models=2 --widths=0.03125 \
    --precisions=float32 --side_by_side=1 --seconds=1 --cpu_devices=1
else
  all=1000  # side by side: all models of a device
  part 80 --suite=correctness
  part 75 --suite=steps --repeats=2 --side_by_side=$all --widths=1 \
    --precisions=bfloat16
  part 110 --suite=training --repeats=2 --side_by_side=8,32 --individuals=32 \
    --only=bfloat16
  part 75 --suite=paper --precisions=bfloat16 --individuals_per_device=50 \
    --seconds=30
  part 50 --suite=grouping --repeats=2
  part 60 --suite=steps --repeats=2 --side_by_side=1,$all --widths=1,0.25 \
    --precisions=bfloat16 --models=8 --formulations=rule,xla,patches,cpu
  part 475 --suite=steps --repeats=2 --side_by_side=$all --widths=0.25,1 \
    --precisions=float32,bfloat16 --models=8,32,64,1
fi
echo "Results: $(ls "$out"/device_check-*.json)"
if grep --quiet '"within": false' "$out"/device_check-*.json; then
  echo "WRONG RESULTS: see \"within\": false there." >&2
  exit 1
fi
