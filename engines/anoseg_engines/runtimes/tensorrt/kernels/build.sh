#!/bin/sh
# Compiles scale.cu to PTX, which the driver of any GPU from Turing on compiles when the runtime loads it. Needs nvcc.
# The PTX version is that of CUDA 11, because nvcc names its own version, which drivers of earlier CUDA versions refuse.
set -eu
here=$(dirname "$0")
out=${1:-$here/scale.ptx}
nvcc -ptx -arch=compute_75 -O3 -o "$out" "$here/scale.cu"
{
    echo "// scale.cu $(sha256sum "$here/scale.cu" | cut -c 1-64)"
    sed 's/^\.version .*/.version 7.0/' "$out"
} > "$out.new"
mv "$out.new" "$out"
