"""Many processes: process group, sharding, heartbeats, preemption."""
