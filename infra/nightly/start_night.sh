#!/bin/sh
# Create tonight's RayJob, unless an earlier one is unfinished; keep the last few finished ones.
#
#     sh start_night.sh rayjob.yaml
#
# Exit code 1 and nothing created: an earlier night is unfinished, or kubectl failed.
set -eu

manifest=$1
prefix=lvspec-nightly-
keep=7 # a RayJob holds its submitter's pod, and with it the driver's log

nights=$(kubectl get rayjobs.ray.io --no-headers --sort-by=.metadata.creationTimestamp \
    -o custom-columns=NAME:.metadata.name,STATE:.status.jobDeploymentStatus)

finished=
num_finished=0
while read -r name state; do
    case $name in "$prefix"*) ;; *) continue ;; esac
    case $state in
    Complete | Failed | ValidationFailed)
        finished="$finished $name"
        num_finished=$((num_finished + 1))
        ;;
    *)
        echo "not started: $name is unfinished ($state)" >&2
        exit 1
        ;;
    esac
done <<EOF
$nights
EOF

kubectl create -f "$manifest"

# Oldest first. Tonight runs already: that an old one stays is no failure.
for name in $finished; do
    [ "$num_finished" -gt "$keep" ] || break
    kubectl delete rayjobs.ray.io "$name" --wait=false || echo "$name stays" >&2
    num_finished=$((num_finished - 1))
done
