"""What a step asks of the cluster, and how often it is tried. kfp's local runner ignores the first and keeps to the second, without the waits."""

from kfp.dsl import PipelineTask


def once(task: PipelineTask) -> PipelineTask:
    """Judges what it is given: what is refused once is refused again, and who waits for the reasons should not wait for that."""
    return task.set_cpu_request("250m").set_memory_request("1G").set_memory_limit("2G")


def small(task: PipelineTask) -> PipelineTask:
    """Reads, writes, asks the registry: safe to try again."""
    return once(task).set_retry(2, backoff_duration="30s", backoff_factor=2)


def heavy(task: PipelineTask) -> PipelineTask:
    """Runs a model. Tried again once: a killed fit resumes only within its own pod, so more would hide what is wrong."""
    return task.set_cpu_request("4").set_cpu_limit("8").set_memory_request("8G").set_memory_limit("16G").set_retry(1, backoff_duration="60s")


def acting(task: PipelineTask) -> PipelineTask:
    """Changes the registry or a store: idempotent, and never taken from the cache, which cannot know what changed there meanwhile."""
    return task.set_caching_options(False)
