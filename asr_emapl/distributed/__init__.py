"""Several processes: process group, sharding, heartbeat, preemption."""
