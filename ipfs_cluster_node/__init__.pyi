from ipfs_cluster_node.client.client import Client as Client
from ipfs_cluster_node.client.submitted import SubmittedTask as SubmittedTask
from ipfs_cluster_node.client.submitted import TaskFailedError as TaskFailedError
from ipfs_cluster_node.client.sync import SyncClient as SyncClient
from ipfs_cluster_node.client.tasks import task_spec as task_spec
from ipfs_cluster_node.core.errors import ClusterError as ClusterError
from ipfs_cluster_node.core.errors import Reason as Reason

__version__: str
