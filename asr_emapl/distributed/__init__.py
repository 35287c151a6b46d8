"""Distributed training: process group, sharding, heartbeat, preemption."""
