#!/usr/bin/env bash
# All that is measured on a GPU, in one run that ends within nine minutes.
#
#     benchmarks/gpu.sh OUT                          on a machine with a CUDA GPU (H100 or H200)
#     DEVICE=cpu TINY=1 benchmarks/gpu.sh OUT        rehearses it on a CPU, with tiny sizes
#
# Each part has its own time limit, writes OUT/NAME.json as it goes and OUT/NAME.log, and cannot stop the next one.
# OUT/parts.jsonl has a line for each part as it ends: name, exit code (124: its time was over), seconds. PYTHON names
# the interpreter; lightly, timm and onnxruntime-gpu are used where it has them. DATA is a folder of images for the
# training steps; without it they are made. ONLY="forward streams" runs these parts alone, SLOWER=5 gives all five
# times as long.
set -u
OUT=${1:?usage: benchmarks/gpu.sh OUT}
PYTHON=${PYTHON:-python3}
DEVICE=${DEVICE:-cuda}
TINY=${TINY:-}
cd "$(dirname "$0")/.." || exit 2
mkdir -p "$OUT" || exit 2
OUT=$(cd "$OUT" && pwd)
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
SLOWER=${SLOWER:-1}
LEFT=$((${SECONDS_IN_ALL:-530} * SLOWER))
STARTED=$SECONDS
: >"$OUT/parts.jsonl"

# part NAME SECONDS COMMAND...: run a command within its time and what is left of all
part() {
    local name=$1 limit=$(($2 * SLOWER)) begun=$SECONDS rest=$((LEFT - (SECONDS - STARTED))) code
    shift 2
    [ -n "${ONLY:-}" ] && [[ " $ONLY " != *" $name "* ]] && return
    [ "$limit" -gt "$rest" ] && limit=$rest
    if [ "$limit" -lt 5 ]; then
        code=125
    else
        timeout --kill-after=5 "$limit" "$@" >"$OUT/$name.log" 2>&1
        code=$?
    fi
    echo "{\"part\": \"$name\", \"exit_code\": $code, \"seconds\": $((SECONDS - begun)), \"limit\": $limit}" |
        tee -a "$OUT/parts.jsonl"
}

parts="$PYTHON benchmarks/gpu_parts.py"
flags=(--device "$DEVICE" ${TINY:+--tiny})

# 1. tests marked gpu
part tests 60 "$PYTHON" -m pytest -n 0 -q -m gpu tests/zoo/inference/test_streams.py
# 2. extraction
for name in forward streams decode files; do
    part "$name" 75 $parts "$name" "${flags[@]}" --json "$OUT/$name.json"
done
# 3. ONNX Runtime
part providers 60 $parts providers "${flags[@]}" --json "$OUT/providers.json"
# 4. a training step: BYOL and SimSiam, against lightly in the same run
DATA=${DATA:-$WORK/data}
[ -d "$DATA" ] || part data 20 $parts images "${flags[@]}" --data "$DATA" --json "$OUT/data.json"
lightly=$("$PYTHON" -c 'import lightly' 2>/dev/null || echo --no-lightly)
if [ -n "$TINY" ]; then
    part training 200 "$PYTHON" benchmarks/training.py --data "$DATA" --device "$DEVICE" --architecture r18 --size 32 \
        --batch 4 --rounds 1 --steps 1 --warm-up 1 --workers 0 $lightly --json "$OUT/training.json"
else
    for batch in 256 512 1024; do
        part "training_$batch" 60 "$PYTHON" benchmarks/training.py --data "$DATA" --in-memory --device "$DEVICE" \
            --architecture r50 --size 224 --batch "$batch" --precision bf16 --compile --rounds 1 --steps 4 --warm-up 2 \
            --workers 14 $lightly --json "$OUT/training_$batch.json"
    done
fi
# 5. with the rest of the time: R18 on CIFAR-10 (CIFAR names its folder), or on the images of the training step
small=(--data "${CIFAR:-$DATA}" --device "$DEVICE")
[ -n "$TINY" ] && small+=(--epochs 1 --set optim.batch_size=8)
for method in ${METHODS:-byol}; do
    part "cifar_$method" 300 "$PYTHON" -m training run "${method}_r18_tin32" "${small[@]}" --out "$WORK/$method"
    [ -f "$WORK/$method/log.jsonl" ] && cp "$WORK/$method/log.jsonl" "$OUT/cifar_$method.jsonl"
done
exit 0
