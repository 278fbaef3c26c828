"""What a member of the cluster does, by subject."""
