"""What a checkpoint can do, before its weights are read: `examine` finds it, `report` is its form."""
