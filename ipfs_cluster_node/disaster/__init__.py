"""What is done by hand where no cluster answers: go on alone, or restore a backup."""
