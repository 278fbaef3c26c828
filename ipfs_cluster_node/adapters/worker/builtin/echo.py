"""`echo`: returns the payload. For smoke tests and benchmarks."""

from typing import Final

from ipfs_cluster_node.tasks import TaskContext, TaskResult, task_handler


@task_handler("echo")
def echo(task: TaskContext) -> TaskResult:
    """Return the payload unchanged."""
    return TaskResult(data=task.payload, content_type=task.content_type)


handlers: Final = (echo,)
