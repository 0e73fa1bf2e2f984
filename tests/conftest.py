import torch
from hypothesis import settings

torch.set_num_threads(1)

settings.register_profile("project", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("project")
