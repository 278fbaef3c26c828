"""`echo`: gives the payload back. For smoke tests and benchmarks."""

from typing import Final

from ipfs_cluster_node.tasks import TaskContext, TaskResult, task_handler


@task_handler("echo")
def echo(task: TaskContext) -> TaskResult:
    """Give the payload back as it came."""
    return TaskResult(data=task.payload, content_type=task.content_type)


handlers: Final = (echo,)
