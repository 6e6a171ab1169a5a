#!/bin/sh
# A SLURM cluster of this one machine in FOLDER, for tests: slurm_node.sh start|stop FOLDER
# Needs Debian's slurm-wlm and munge, and root.
set -eu
folder=$2
name=$(hostname -s)

start() {
    mkdir -p "$folder/state" "$folder/spool" "$folder/munge"
    chmod 700 "$folder/munge"
    head -c 1024 /dev/urandom > "$folder/munge/key"
    chmod 400 "$folder/munge/key"
    cat > "$folder/slurm.conf" <<EOF
ClusterName=test
SlurmctldHost=$name(127.0.0.1)
SlurmUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CryptoType=crypto/munge
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobRequeue=1
ReturnToService=2
KillWait=10
SlurmdParameters=config_overrides
MinJobAge=300
NodeName=$name NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=$name Default=YES MaxTime=INFINITE State=UP
EOF
    munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
        --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
    SLURM_CONF="$folder/slurm.conf" slurmctld -f "$folder/slurm.conf"
    SLURM_CONF="$folder/slurm.conf" slurmd -f "$folder/slurm.conf"
    for _ in $(seq 60); do
        SLURM_CONF="$folder/slurm.conf" sinfo -h -o %t 2>/dev/null | grep -q idle && return 0
        sleep 1
    done
    cat "$folder/slurmctld.log" "$folder/slurmd.log" >&2
    return 1
}

stop() {
    for pid in "$folder/slurmd.pid" "$folder/slurmctld.pid" "$folder/munge/pid"; do
        if [ -f "$pid" ]; then kill "$(cat "$pid")" 2>/dev/null || true; fi
    done
}

"$1"
