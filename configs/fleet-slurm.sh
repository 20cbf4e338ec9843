#!/usr/bin/env bash
# Trains the products of a file as a Slurm array, one product a task. Slurm gives each task its cores and GPUs.
#
#   sbatch --array=1-"$(anoseg-train fleet products.yaml --names | wc -l)" configs/fleet-slurm.sh products.yaml
#
# A task that was requeued goes on from its checkpoint. Each task writes the report on all products; the last one's is complete.
#SBATCH --job-name=anoseg-fleet
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=02:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
# For products with gpus: 1, add: --gpus-per-task=1
set -euo pipefail

if [ $# != 1 ] || [ -z "${SLURM_ARRAY_TASK_ID:-}" ]; then
    echo "usage: sbatch --array=1-N fleet-slurm.sh products.yaml, where N is the number of its products" >&2
    exit 2
fi
products=$1
name=$(anoseg-train fleet "$products" --names | sed -n "${SLURM_ARRAY_TASK_ID}p")
if [ -z "$name" ]; then
    echo "$products has no product number $SLURM_ARRAY_TASK_ID" >&2
    exit 2
fi
exec anoseg-train fleet "$products" --only "$name"
