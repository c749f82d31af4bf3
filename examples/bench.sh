#!/usr/bin/env bash
# The standard set of `make bench`: times dense and merged, on a GPU where there is one, else on the CPU. Rows that lie in
# the folder of the results are not measured again, so a run that was interrupted goes on. BENCH_SET=full measures more,
# BENCH_SET=sweep batch sizes, lengths and widths.
#
#   bash examples/bench.sh BIN [FOLDER [more options]]    BIN: the folder of python and optimum-cli
set -euo pipefail

bin=$1
output=$(realpath -m "${2:-outputs/bench}")
shift $(($# > 1 ? 2 : 1))
extra=("$@")
cd "$(dirname "${BASH_SOURCE[0]}")/benchmark_models"
# What every row has.
common=(--flops-ratio 1.8 --device auto --warmup 1 --output-dir "$output")
set_name=${BENCH_SET:-standard}
if [ "$set_name" != standard ]; then common+=(--rounds 7 --max-seconds 60); else common+=(--rounds 10 --max-seconds 12); fi

benchmark() {
    "$bin/optimum-cli" pitome benchmark "${common[@]}" "$@" ${extra[@]+"${extra[@]}"}
}

if [ "$set_name" = sweep ]; then
    benchmark vit-width192 vit-width384 vit-width768 --flops-ratio 1.5 --batch-size 1 8 --image-size 128
    benchmark vit-width192 vit-width384 vit-width768 --flops-ratio 1.5 --batch-size 1 8 --image-size 224
    benchmark vit-width192 vit-width384 vit-width768 --flops-ratio 1.5 --batch-size 1 8 --image-size 384
    exit
fi

if "$bin/python" -c 'import sys, torch; sys.exit(not torch.accelerator.is_available())'; then
    benchmark vit-small vit-base dinov2-small --dtype bfloat16 --batch-size 1 32 128 --mode eager reduce-overhead
    benchmark minilm-l6 --sequence-length 256 --dtype bfloat16 --batch-size 1 32 128 --mode eager reduce-overhead
    benchmark vit-large --dtype bfloat16 --batch-size 1 64
    benchmark vit-base --dtype float32 --batch-size 1 32 --attn-implementation sdpa eager
    benchmark llava-7b --dtype bfloat16 --measure forward first-token --batch-size 1 4
else
    benchmark vit-small dinov2-small --batch-size 1 8
    benchmark minilm-l6 --sequence-length 256 --batch-size 1 8
    benchmark vit-base --batch-size 1 4
    benchmark vit-small --dtype bfloat16 --batch-size 1 8
    benchmark llava-small --measure forward first-token --batch-size 1
    benchmark vit-small --runtime onnx --quantize none int8 --batch-size 1 8
fi
if [ "$set_name" = full ]; then
    benchmark vit-small vit-base vit-large dinov2-small --dtype float32 bfloat16 --batch-size 1 8 32
    benchmark minilm-l6 --sequence-length 256 --dtype float32 bfloat16 --batch-size 1 8 32
    benchmark dinov2-small vit-small vit-base --runtime onnx openvino --quantize none int8 --batch-size 1 8 32
    benchmark minilm-l6 --sequence-length 256 --runtime onnx openvino --quantize none int8 --batch-size 1 8 32
    benchmark vit-small vit-base --quantize int8 --mode eager compile --batch-size 1 8 32
fi
