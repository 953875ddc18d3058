#!/usr/bin/env bash
# What ten minutes on a machine with a GPU give, the most valuable first: the speed table, the conformance kit in every dtype, the main
# job, the paper's table, and the kit on JAX. Needs Python with a torch that finds the GPU, NumPy, SciPy and pytest; what else is missing
# is named and left out. Every part keeps what it has in OUT when its time is over, and the same command goes on from there.
#
#   tests/gpu.sh [--device cuda] [--preset ddpm-cifar10] [--minutes 10] [--out build/gpu]
#
# Exit code: 0, or 1 where a part failed; a part whose time was over did not fail.
set -uo pipefail
cd "$(dirname "$0")/.."
device=cuda preset=ddpm-cifar10 minutes=10 out=build/gpu
while (($#)); do
    case $1 in
        --device | --preset | --minutes | --out) declare "${1#--}=${2:?"$1 needs a value"}"; shift 2 ;;
        *) echo "error: $1: must be --device, --preset, --minutes or --out" >&2; exit 2 ;;
    esac
done
[[ $minutes =~ ^[0-9]{1,4}$ && $minutes -gt 0 ]] || { echo "error: --minutes=$minutes: must be a whole number from 1" >&2; exit 2; }
mkdir -p "$out" || exit 2
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
end=$((SECONDS + 60 * minutes)) failed=0

has() { python -c "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, sys.argv[1:])))" "$@"; }
part() {  # NAME SHARE COMMAND..: for at most SHARE percent of all minutes
    local name=$1 most=$((60 * minutes * $2 / 100)) left=$((end - SECONDS)) began=$SECONDS code=0
    shift 2
    ((left > 5)) || { echo "$name: no time left"; return; }
    timeout --signal=INT --kill-after=20 $((most < left ? most : left)) "$@" > "$out/$name.log" 2>&1 || code=$?
    case $code in
        0) echo "$name: done in $((SECONDS - began)) s" ;;
        124 | 130 | 137) echo "$name: its time was over after $((SECONDS - began)) s" ;;
        *) echo "$name: FAILED with exit code $code: $(tail -n 1 "$out/$name.log")"; failed=1 ;;
    esac
}
kit() {  # BACKEND: one process for each dtype, since --record keeps errors in memory
    local dtype code=0 processes=()
    for dtype in float64 float32 bfloat16 float16; do
        python -m pytest tests/conformance --backend="$1" --device="$device" --record -n 0 -k "$dtype" > "$out/kit-$1-$dtype.log" 2>&1 &
        processes+=($!)
    done
    trap 'kill -INT "${processes[@]}"' INT
    for process in "${processes[@]}"; do wait "$process" || code=$?; done
    tail -qn 1 "$out"/kit-"$1"-*.log
    return $code
}
export -f kit
export device out

python -m tests.require_device "$device" --backend=torch || exit 1
peers=(--peers)
has diffusers denoising_diffusion_pytorch || { peers=(); echo "speed: without peers: pip install diffusers denoising-diffusion-pytorch"; }
part speed 45 python bench/run.py --speed "${peers[@]}" --backends torch --preset "$preset" --device "$device" --out "$out"
part kit-torch 30 bash -c "kit torch"
part job 30 python bench/run.py --backends torch --preset smoke --steps 10,50 --device "$device" --out "$out"
part table 60 python bench/run.py --table ddim --backends torch --device "$device" --out "$out"
if has jax; then part kit-jax 30 bash -c "kit jax"; else echo "kit-jax: JAX is not installed"; fi
exit $failed
