"""Settings of the whole suite."""

import torch

# The models are tiny: a second thread costs more than it does.
torch.set_num_threads(1)
